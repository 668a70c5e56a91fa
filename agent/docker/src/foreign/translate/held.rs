//! How the processes of a container are held, and what they find beside their image.

use bollard::models::{HostConfig, MountType};
use dwell_core::quantity::Bytes;
use dwell_core::workload::{Init, Most, Template, Tmpfs, USUAL_CAPABILITIES, Ulimit};

use super::{Findings, Said};

pub(super) fn translate(said: &Said<'_>, template: &mut Template, findings: &mut Findings) {
    let host = said.host;
    template.process.init = (host.init == Some(true)).then_some(Init::Engine);
    template.process.read_only = host.readonly_rootfs == Some(true);
    template.process.group_add = host.group_add.clone().unwrap_or_default();
    in_memory(host, template, findings);
    for one in host.ulimits.iter().flatten() {
        let most = |number: Option<i64>| Most::try_from(number.unwrap_or_default());
        match (one.name.clone(), most(one.soft), most(one.hard)) {
            (Some(name), Ok(soft), Ok(hard)) => {
                template.process.ulimits.insert(name, Ulimit { soft, hard });
            }
            (name, ..) => findings.forbid(format!(
                "it was made with --ulimit {}, whose numbers make no sense",
                name.unwrap_or_default()
            )),
        }
    }
    // Those that no instance has need not be taken away.
    let names = host.cap_drop.iter().flatten().map(|name| {
        let name = name.to_ascii_uppercase();
        name.strip_prefix("CAP_").map_or(name.clone(), ToOwned::to_owned)
    });
    let held = names.filter(|name| name == "ALL" || USUAL_CAPABILITIES.contains(&name.as_str()));
    template.process.cap_drop = held.collect();
    for entry in host.extra_hosts.iter().flatten() {
        let (name, address) = entry.split_once([':', '=']).unwrap_or((entry, ""));
        let is_new = !template.process.extra_hosts.contains_key(name);
        match address.trim_matches(['[', ']']).parse() {
            Ok(address) if is_new => {
                template.process.extra_hosts.insert(name.to_owned(), address);
            }
            _ => findings.change(format!(
                "--add-host {entry} is not kept: an instance has one fixed address for each name"
            )),
        }
    }
}

/// Directories in memory, whichever of Docker's two ways they were asked for.
fn in_memory(host: &HostConfig, template: &mut Template, findings: &mut Findings) {
    let mut all: Vec<(&String, &String)> = host.tmpfs.iter().flatten().collect();
    all.sort();
    for (target, options) in all {
        let mut one = Tmpfs { target: target.clone(), size: None, mode: None };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let is_kept = match option.split_once('=') {
                Some(("size", size)) => {
                    one.size = size.parse().ok();
                    one.size.is_some()
                }
                Some(("mode", mode)) => {
                    one.mode = u32::from_str_radix(mode, 8).ok();
                    one.mode.is_some()
                }
                // What holds of every one that Docker mounts.
                _ => ["rw", "noexec", "nosuid", "nodev"].contains(&option),
            };
            if !is_kept {
                findings.change(format!("{target} is in memory as before, but without {option}"));
            }
        }
        template.process.tmpfs.push(one);
    }
    let mounts = host.mounts.iter().flatten();
    for mount in mounts.filter(|mount| mount.typ == Some(MountType::TMPFS)) {
        let Some(target) = mount.target.clone() else { continue };
        let options = mount.tmpfs_options.clone().unwrap_or_default();
        for option in options.options.iter().flatten() {
            let option = option.join("=");
            findings.change(format!("{target} is in memory as before, but without {option}"));
        }
        let size = options.size_bytes.and_then(|size| u64::try_from(size).ok());
        let mode = options.mode.and_then(|mode| u32::try_from(mode).ok());
        template.process.tmpfs.push(Tmpfs {
            target,
            size: size.filter(|size| *size > 0).map(Bytes),
            mode: mode.filter(|mode| *mode > 0),
        });
    }
}
