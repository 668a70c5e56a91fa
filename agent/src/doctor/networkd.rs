//! systemd-networkd removes routes, routing rules and nexthops that it did not make, unless it is told not to.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Finding, reading};

const CHECK: &str = "networkd";
/// Where drop-ins are, those that count more last.
const DIRECTORIES: [&str; 3] = [
    "/usr/lib/systemd/networkd.conf.d",
    "/run/systemd/networkd.conf.d",
    "/etc/systemd/networkd.conf.d",
];
/// What it must leave alone, and since which version it can be told so.
const SETTINGS: [&str; 3] =
    ["ManageForeignRoutes", "ManageForeignRoutingPolicyRules", "ManageForeignNextHops"];
const FIX: &str = "mkdir -p /etc/systemd/networkd.conf.d && printf \
    '[Network]\\nManageForeignRoutes=no\\nManageForeignRoutingPolicyRules=no\\nManageForeignNextHops=no\\n' \
    > /etc/systemd/networkd.conf.d/50-dwell.conf && systemctl restart systemd-networkd";

pub(super) async fn findings() -> Vec<Finding> {
    let seen = reading::blocking(|| {
        // The kernel keeps 15 characters of a name.
        let runs = reading::processes().values().any(|name| name == "systemd-network");
        (runs, files())
    });
    seen.await.map(|(runs, files)| judge(runs, &files)).into_iter().collect()
}

/// The texts of the configuration in the order in which they count.
fn files() -> Vec<String> {
    let mut drop_ins = BTreeMap::new();
    for directory in DIRECTORIES {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        for path in paths.filter(|path| path.extension().is_some_and(|end| end == "conf")) {
            // One of the same name in a directory that counts more replaces it.
            drop_ins.insert(path.file_name().map(ToOwned::to_owned), path);
        }
    }
    let main = Path::new("/etc/systemd/networkd.conf").to_owned();
    let all = std::iter::once(main).chain(drop_ins.into_values());
    all.filter_map(|path| fs::read_to_string(path).ok()).collect()
}

fn judge(runs: bool, files: &[String]) -> Finding {
    if !runs {
        return Finding::ok(CHECK, "systemd-networkd does not run");
    }
    let mut managed: BTreeMap<&str, bool> = SETTINGS.into_iter().map(|name| (name, true)).collect();
    for text in files {
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            if let (true, Some(managed)) = (section == "Network", managed.get_mut(key.trim())) {
                let value = value.trim().to_lowercase();
                *managed = !matches!(value.as_str(), "no" | "false" | "off" | "0" | "n" | "f");
            }
        }
    }
    let removed: Vec<&str> =
        managed.into_iter().filter_map(|(name, managed)| managed.then_some(name)).collect();
    if removed.is_empty() {
        return Finding::ok(
            CHECK,
            "systemd-networkd leaves the routes and routing rules of others alone",
        );
    }
    Finding::warning(
        CHECK,
        format!(
            "systemd-networkd runs and removes dwell's routes or routing rules when it starts or reloads ({} is not \
             `no`); the agent puts them back",
            removed.join(" and ")
        ),
        FIX,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn only_a_clear_no_keeps_it_from_removing_routes() {
        let all = "[Network]\nManageForeignRoutes=no\n ManageForeignNextHops = false\n\
                   ManageForeignRoutingPolicyRules=no\n";
        let without_rules = "[Network]\nManageForeignRoutes=no\nManageForeignNextHops=no\n";
        for (runs, files, outcome) in [
            (false, vec![], Outcome::Ok),
            (true, vec![], Outcome::Warning),
            (true, vec![all], Outcome::Ok),
            (true, vec![without_rules], Outcome::Warning),
            (true, vec!["#[Network]\n#ManageForeignRoutes=no"], Outcome::Warning),
            (true, vec!["[Network]\nManageForeignRoutes=no"], Outcome::Warning),
            (
                true,
                vec![
                    "[DHCPv4]\nManageForeignRoutes=no\nManageForeignNextHops=no\n\
                      ManageForeignRoutingPolicyRules=no",
                ],
                Outcome::Warning,
            ),
            (true, vec![all, "[Network]\nManageForeignRoutes=yes"], Outcome::Warning),
            (true, vec!["[Network]\nManageForeignRoutes=yes", all], Outcome::Ok),
        ] {
            let files: Vec<String> = files.into_iter().map(str::to_owned).collect();
            assert_eq!(judge(runs, &files).outcome, outcome, "{files:?}");
        }
    }
}
