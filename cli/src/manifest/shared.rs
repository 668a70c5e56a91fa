//! Volumes that several workloads of a file name: what other tools share, and dwell does not.

use std::collections::BTreeMap;

use dwell_core::id::{VolumeName, WorkloadName};

use super::Declared;

/// A sentence for each volume that several workloads name.
pub(super) fn warnings(declared: &[Declared]) -> Vec<String> {
    let mut users: BTreeMap<&VolumeName, Vec<&WorkloadName>> = BTreeMap::new();
    for Declared { spec, .. } in declared {
        let root = spec.template.machine.as_ref().map(|machine| &machine.volume);
        for volume in spec.template.volumes().filter(|volume| Some(*volume) != root) {
            let names = users.entry(volume).or_default();
            if names.last() != Some(&&spec.name) {
                names.push(&spec.name);
            }
        }
    }
    let shared = users.into_iter().filter(|(_, names)| names.len() > 1);
    shared
        .map(|(volume, names)| {
            let names: Vec<&str> = names.into_iter().map(WorkloadName::as_str).collect();
            format!(
                "volume {volume} is named by {}, but nothing is shared: each instance has a volume of its own. Programs that \
                 share files belong into one workload, or mount a directory of the node (/PATH:/PATH) and run there",
                names.join(" and ")
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::manifest::Surroundings;

    #[test]
    fn a_volume_that_two_workloads_name_is_warned_of() {
        let file = "
workloads:
  app: {image: app, volumes: ['site:/site', 'data:/data', 'data:/again']}
  web: {image: web, volumes: ['site:/srv:ro']}
volumes: {site: {}}
";
        let warnings =
            super::super::read("file", file.as_bytes(), &Surroundings::of(&HashMap::new()))
                .unwrap()
                .warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].starts_with("volume site is named by app and web, but nothing is shared")
        );
    }
}
