//! Where a container keeps its files: volumes, paths of the node, and its own file system.

use std::collections::BTreeMap;

use bollard::models::{ContainerInspectResponse, FilesystemChange, MountPoint};
use dwell_core::foreign::{ForeignVolume, VOLUMES_MAX};
use dwell_core::id::VolumeName;
use dwell_core::quantity::Bytes;
use dwell_core::workload::{Mount, MountSource, Template};

use super::{Findings, Said};

/// How much of a volume's name is kept, in bytes.
const NAME_MAX: usize = 48;

/// The mounts of the template, and the volumes that are to be copied for them.
pub(super) fn mounts(
    said: &Said<'_>,
    template: &mut Template,
    findings: &mut Findings,
) -> Vec<ForeignVolume> {
    let mut all: Vec<&MountPoint> = said.facts.seen.mounts.iter().flatten().collect();
    all.sort_by_key(|mount| mount.destination.clone());
    let mut volumes: BTreeMap<String, VolumeName> = BTreeMap::new();
    for mount in all {
        let target = mount.destination.clone().unwrap_or_default();
        let read_only = mount.rw == Some(false);
        let source = match mount.typ.as_deref() {
            Some("volume") => {
                let source = mount.name.clone().unwrap_or_default();
                let name = match volumes.get(&source) {
                    Some(name) => name.clone(),
                    None => {
                        let Some(name) = name(&source, &target, &volumes) else {
                            findings.forbid(format!("its volume {source} cannot be given a name"));
                            continue;
                        };
                        judge(said, &source, findings);
                        volumes.insert(source, name.clone());
                        name
                    }
                };
                MountSource::Volume(name)
            }
            Some("bind") => {
                let path = mount.source.clone().unwrap_or_default();
                if let Some(reason) = said.facts.refused.get(&path) {
                    findings.forbid(format!("it mounts {path} of the node: {reason}"));
                }
                let propagation = mount.propagation.as_deref().unwrap_or_default();
                if !["", "rprivate", "private"].contains(&propagation) {
                    findings.forbid(format!(
                        "it mounts {path} of the node with propagation {propagation}, and instances see no mounts that are made later"
                    ));
                }
                MountSource::Bind(path)
            }
            // It is said of the process (`held.rs`).
            Some("tmpfs") => continue,
            _ => {
                findings.forbid(format!(
                    "what is mounted at {target} is neither a volume nor a path of the node"
                ));
                continue;
            }
        };
        template.mounts.push(Mount { source, target, read_only });
    }
    for mount in said.host.mounts.iter().flatten() {
        let subpath = mount.volume_options.as_ref().and_then(|options| options.subpath.as_ref());
        if let Some(subpath) = subpath.filter(|path| !path.is_empty()) {
            findings.forbid(format!(
                "it mounts {subpath} of a volume alone, and instances mount whole volumes"
            ));
        }
    }
    if volumes.len() > VOLUMES_MAX {
        findings.forbid(format!(
            "it has {} volumes, and at most {VOLUMES_MAX} are copied",
            volumes.len()
        ));
    }
    let volume = |(source, name)| ForeignVolume { name, source, size: None };
    volumes.into_iter().map(volume).collect()
}

/// Refuses what cannot be copied while nothing of it is in use, or would not be one volume any more.
fn judge(said: &Said<'_>, source: &str, findings: &mut Findings) {
    let Some(volume) = said.facts.volumes.iter().find(|one| one.name == source) else {
        return findings.forbid(format!("its volume {source} is not there any more"));
    };
    if volume.driver != "local" {
        findings.forbid(format!(
            "its volume {source} is of the driver {}, whose data the agent cannot read; mount it on the node, and from there",
            volume.driver
        ));
    } else if !volume.options.is_empty() {
        findings.forbid(format!(
            "its volume {source} is mounted with options of its own, so that there is nothing to copy while it is stopped"
        ));
    }
    if let Some(others) = said.facts.sharers.get(source).filter(|others| !others.is_empty()) {
        findings.forbid(format!(
            "its volume {source} is mounted by {} as well, and a volume of dwell's is one instance's alone; remove what does not need it",
            others.join(", ")
        ));
    }
}

/// The name of a volume as an instance's: the words of its own or, if it is anonymous, of the path it is mounted at.
fn name(source: &str, target: &str, taken: &BTreeMap<String, VolumeName>) -> Option<VolumeName> {
    let is_anonymous = source.len() == 64 && source.bytes().all(|byte| byte.is_ascii_hexdigit());
    let text = if is_anonymous { target } else { source };
    let plain = |letter: char| match letter.to_ascii_lowercase() {
        letter @ ('a'..='z' | '0'..='9' | '_') => letter,
        _ => '-',
    };
    let mut plain: String = text.chars().map(plain).collect();
    plain = plain.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-");
    plain.truncate(NAME_MAX);
    let plain = plain.trim_matches(['-', '_']);
    let plain = if plain.is_empty() { "data" } else { plain };
    let numbered = (2..=VOLUMES_MAX).map(|number| format!("{plain}-{number}"));
    let names = std::iter::once(plain.to_owned()).chain(numbered);
    let is_free = |name: &VolumeName| !taken.values().any(|one| one == name);
    names.filter_map(|name| VolumeName::new(name).ok()).find(is_free)
}

/// How much of its own file system its image does not have; `None` if that is nothing.
pub(super) fn own_files(said: &Said<'_>) -> Option<Bytes> {
    let size = said.facts.seen.size_rw.and_then(|size| u64::try_from(size).ok());
    has_own_files(&said.facts.seen, &said.facts.changed).then(|| Bytes(size.unwrap_or_default()))
}

/// Whether anything in its own file system is not its image's: but for what lies above or beneath what is mounted.
pub(in crate::foreign) fn has_own_files(
    seen: &ContainerInspectResponse,
    changed: &[FilesystemChange],
) -> bool {
    let mounts = seen.mounts.iter().flatten().filter_map(|mount| mount.destination.as_deref());
    let in_memory = seen.host_config.as_ref().and_then(|host| host.tmpfs.as_ref());
    let in_memory = in_memory.into_iter().flatten().map(|(target, _)| target.as_str());
    let targets: Vec<&str> =
        mounts.chain(in_memory).map(|target| target.trim_end_matches('/')).collect();
    let is_within = |path: &str, outer: &str| {
        path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let is_of_a_mount = |path: &str| {
        targets.iter().any(|target| is_within(path, target) || is_within(target, path))
    };
    changed.iter().any(|change| !is_of_a_mount(&change.path))
}
