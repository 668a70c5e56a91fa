//! Programs that are started, and services of dwell that are to run.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Finding, Host, reading};

const CHECK: &str = "programs";
const AGENT: &str = "dwell-agent";
const SSH: &str = "dwell-ssh";
/// Where programs are, beside what `PATH` says.
const DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Programs, their packages, what does not work without them, and whether a routes-only node needs them.
const NEEDED: [(&str, &str, &str, bool); 4] = [
    ("nft", "nftables", "there is no anti-spoofing, no isolation and no masquerading", true),
    ("iptables", "iptables", "packets may not get past Docker's FORWARD policy", true),
    ("ip", "iproute2", "the doctor sees less", true),
    ("runc", "runc", "no instance can start", false),
];

pub(super) async fn findings(host: &Host) -> Vec<Finding> {
    let seen = reading::blocking(|| {
        let path = std::env::var("PATH").unwrap_or_default();
        let is_installed = |name: &&str| {
            let mut directories = path.split(':').chain(DIRECTORIES);
            directories.any(|directory| Path::new(directory).join(name).is_file())
        };
        let installed: Vec<&str> =
            NEEDED.map(|(name, ..)| name).into_iter().filter(is_installed).collect();
        (installed, reading::processes())
    });
    let Some((installed, mut processes)) = seen.await else { return Vec::new() };
    if !host.is_agent {
        // A command that looks has the agent's name and is not the agent.
        processes.remove(&std::process::id());
    }
    let mut findings = judge_installed(&installed, host.config.routes_only);
    findings.extend(judge_running(&processes, host.config.routes_only));
    findings
}

fn judge_installed(installed: &[&str], routes_only: bool) -> Vec<Finding> {
    let is_missing = |(name, _, _, always): &&(&str, &str, &str, bool)| {
        (*always || !routes_only) && !installed.contains(name)
    };
    let missing = NEEDED.iter().filter(is_missing).map(|(name, package, lost, _)| {
        Finding::problem(
            CHECK,
            format!("{name} is not installed: {lost}"),
            format!("apt-get install {package}"),
        )
    });
    let mut findings: Vec<_> = missing.collect();
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "all programs are there"));
    }
    findings
}

fn judge_running(processes: &BTreeMap<u32, String>, routes_only: bool) -> Vec<Finding> {
    let runs = |wanted: &str| processes.values().any(|name| name == wanted);
    let service = |name: &'static str, lost: &str| match runs(name) {
        true => Finding::ok(name, format!("{name} runs")),
        false => Finding::problem(
            name,
            format!("{name} does not run: {lost}"),
            format!("systemctl enable --now {name}"),
        ),
    };
    let agent = service(AGENT, "instances run on, but nothing is repaired, restarted or changed");
    let ssh = (!routes_only).then(|| service(SSH, "nobody can log in to this node's instances"));
    std::iter::once(agent).chain(ssh).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn what_is_missing_is_told_with_its_package() {
        for (installed, routes_only, fixes) in [
            (vec!["nft", "iptables", "ip", "runc"], false, vec![]),
            (vec!["nft", "iptables", "ip"], true, vec![]),
            (vec!["nft", "iptables", "ip"], false, vec!["apt-get install runc"]),
            (vec!["iptables", "ip", "runc"], false, vec!["apt-get install nftables"]),
        ] {
            let found = judge_installed(&installed, routes_only);
            let fixes_found: Vec<_> =
                found.iter().map(|one| one.fix.as_str()).filter(|fix| !fix.is_empty()).collect();
            assert_eq!(fixes_found, fixes, "{installed:?}");
        }
    }

    #[test]
    fn services_that_do_not_run_are_told() {
        let process = |name: &str| (1, name.to_owned());
        let problems = |processes: BTreeMap<u32, String>, routes_only| {
            let found = judge_running(&processes, routes_only);
            let found = found.into_iter().filter(|one| one.outcome == Outcome::Problem);
            found.map(|one| one.check).collect::<Vec<_>>()
        };
        assert_eq!(problems([].into(), false), [AGENT, SSH]);
        assert_eq!(problems([process(AGENT)].into(), false), [SSH]);
        assert!(problems([process(AGENT)].into(), true).is_empty());
    }
}
