//! Docker, and whether it knows the runtime `dwell`.

use std::fs;

use dwell_core::registry::RegistryHost;
use serde_json::Value;

use super::{Finding, Host, reading};
use dwell_daemon::Causes;
use dwell_docker::daemon_json::DAEMON_JSON;
use dwell_engine::EngineReport;

const CHECK: &str = "docker";
const RUNTIME: &str = "docker-runtime";
const REGISTRY: &str = "registry-certificate";
/// The oldest version that dwell is tested with.
const OLDEST: (u32, u32) = (20, 10);

pub(super) async fn findings(host: &Host) -> Vec<Finding> {
    let Some(engine) = &host.engine else {
        return vec![Finding::ok(CHECK, "this node runs no instances and needs no Docker")];
    };
    let report = engine.info().await.map_err(|error| Causes(&error).to_string());
    let configured = reading::blocking(|| {
        let text = fs::read(DAEMON_JSON).ok()?;
        let settings: Value = serde_json::from_slice(&text).ok()?;
        settings["runtimes"]["dwell"]["path"].as_str().map(str::to_owned)
    });
    judge(&report, configured.await.flatten().as_deref())
}

/// `configured` is the runtime's program in Docker's configuration.
fn judge(report: &Result<EngineReport, String>, configured: Option<&str>) -> Vec<Finding> {
    let info = match report {
        Ok(EngineReport { unfit: Some(why), .. }) => {
            let message = format!("Docker cannot run instances: {why}");
            return vec![Finding::problem(CHECK, message, "systemctl restart docker")];
        }
        Ok(report) => &report.info,
        Err(why) => {
            let message = format!("Docker does not answer: {why}");
            return vec![Finding::problem(CHECK, message, "systemctl restart docker")];
        }
    };
    let version = &info.version;
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    let is_old = match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) < OLDEST,
        _ => false,
    };
    let docker = if is_old {
        let (major, minor) = OLDEST;
        let message = format!(
            "Docker {version} is older than {major}.{minor}, the oldest that dwell is tested with"
        );
        Finding::warning(CHECK, message, "apt-get install docker.io")
    } else {
        Finding::ok(CHECK, format!("Docker {version} answers"))
    };
    let runtime = match (info.ready, configured) {
        (true, _) => Finding::ok(RUNTIME, "Docker knows the runtime dwell"),
        (false, Some(program)) => Finding::problem(
            RUNTIME,
            format!(
                "{DAEMON_JSON} has the runtime dwell ({program}), but the running dockerd does not know it yet"
            ),
            "systemctl reload docker",
        ),
        (false, None) => Finding::problem(
            RUNTIME,
            format!(
                "Docker does not know the runtime dwell, and {DAEMON_JSON} does not have it: nothing can start"
            ),
            "dwell-agent install-runtime",
        ),
    };
    let distrusted = report.iter().flat_map(|report| &report.distrusted).map(|registry| {
        let message = format!(
            "Docker did not trust the certificate of registry {registry} when it last pulled from there; put the \
             certificate of the registry's CA where Docker looks for it"
        );
        let fix = match registry.parse::<RegistryHost>() {
            // Docker asks its own registry under other names than this one.
            Ok(host) if host.is_docker_hub() => "install -D -m 644 CA.crt /usr/local/share/ca-certificates/registry-ca.crt \
                 && update-ca-certificates, then restart Docker"
                .to_owned(),
            _ => format!("install -D -m 644 CA.crt /etc/docker/certs.d/{registry}/ca.crt"),
        };
        Finding::problem(REGISTRY, message, fix)
    });
    [docker, runtime].into_iter().chain(distrusted).collect()
}

#[cfg(test)]
mod tests {
    use dwell_core::node::EngineInfo;

    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn what_docker_lacks_is_told_with_the_command() {
        let report = |version: &str, ready| {
            let info = EngineInfo { version: version.to_owned(), ready, ..EngineInfo::default() };
            Ok(EngineReport { info, ..EngineReport::default() })
        };
        for (report, configured, bad) in [
            (report("28.2.2", true), None, vec![]),
            (report("20.10.24+dfsg1", true), None, vec![]),
            (report("", true), None, vec![]),
            (report("19.03.15", true), None, vec![(Outcome::Warning, "apt-get install docker.io")]),
            (
                report("28.2.2", false),
                None,
                vec![(Outcome::Problem, "dwell-agent install-runtime")],
            ),
            (
                report("28.2.2", false),
                Some("/x"),
                vec![(Outcome::Problem, "systemctl reload docker")],
            ),
            (
                report("28.2.2", true)
                    .map(|report| EngineReport { unfit: Some("it remaps users"), ..report }),
                None,
                vec![(Outcome::Problem, "systemctl restart docker")],
            ),
            (
                report("28.2.2", true).map(|report| EngineReport {
                    distrusted: ["r.lan:5000".to_owned()].into(),
                    ..report
                }),
                None,
                vec![(
                    Outcome::Problem,
                    "install -D -m 644 CA.crt /etc/docker/certs.d/r.lan:5000/ca.crt",
                )],
            ),
            (
                report("28.2.2", true).map(|report| EngineReport {
                    distrusted: ["docker.io".to_owned()].into(),
                    ..report
                }),
                None,
                vec![(
                    Outcome::Problem,
                    "install -D -m 644 CA.crt /usr/local/share/ca-certificates/registry-ca.crt && update-ca-certificates, \
                     then restart Docker",
                )],
            ),
            (
                Err("no socket".to_owned()),
                None,
                vec![(Outcome::Problem, "systemctl restart docker")],
            ),
        ] {
            let found = judge(&report, configured);
            let found = found.iter().filter(|one| one.outcome != Outcome::Ok);
            let found: Vec<_> = found.map(|one| (one.outcome, one.fix.as_str())).collect();
            assert_eq!(found, bad, "{report:?}");
        }
    }
}
