//! The rules of machines.

use super::{MountSource, SpecError, Template, WorkloadSpec, refuse};

const FIELD: &str = "machine";

/// What goes with it and what does not.
pub(super) fn check_rules(spec: &WorkloadSpec) -> Result<(), SpecError> {
    if spec.template.machine.is_some() && spec.job.is_some() {
        return refuse(
            FIELD,
            "what a job does anew begins with the files of its image; leave it out, and keep what is to stay in a volume",
        );
    }
    Ok(())
}

pub(super) fn check(template: &Template) -> Result<(), SpecError> {
    let Some(machine) = &template.machine else { return Ok(()) };
    let is_its_root = |source: &MountSource| matches!(source, MountSource::Volume(name) if *name == machine.volume);
    if let Some(mount) = template.mounts.iter().find(|mount| is_its_root(&mount.source)) {
        return refuse(
            FIELD,
            format!(
                "the volume {:?} has the machine's root, and cannot be mounted at {} as well; give that another name",
                machine.volume.as_str(),
                mount.target
            ),
        );
    }
    if template.process.read_only {
        return refuse(FIELD, "nothing would be written to its root with read_only; leave one out");
    }
    if !template.carry.is_empty() {
        return refuse(FIELD, "all of its files stay anyway; leave carry out");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Job;
    use crate::workload::{Machine, Mount, OnImageChange, OnLost, UpdateOrder};

    fn machine() -> WorkloadSpec {
        let mut spec = crate::workload::tests::spec();
        spec.template.machine =
            Some(Machine { volume: "root".parse().unwrap(), on_image_change: OnImageChange::Keep });
        spec
    }

    #[test]
    fn a_root_is_of_one_container_on_one_node() {
        assert_eq!(machine().check(), Ok(()));
        let refused = |change: fn(&mut WorkloadSpec)| {
            let mut spec = machine();
            change(&mut spec);
            spec.check().unwrap_err().to_string()
        };
        let said = refused(|spec| spec.update.order = UpdateOrder::StartFirst);
        assert!(said.contains("mounted at /;"), "{said}");
        let said = refused(|spec| spec.on_lost = OnLost::ReplaceAfter(OnLost::AFTER_MIN));
        assert!(said.contains("mounted at / is on one node"), "{said}");
        let said = refused(|spec| spec.template.process.read_only = true);
        assert!(said.contains("read_only"), "{said}");
        let said = refused(|spec| spec.template.carry = vec!["/etc/app".to_owned()]);
        assert!(said.contains("leave carry out"), "{said}");
        let said = refused(|spec| {
            let source = MountSource::Volume("root".parse().unwrap());
            let target = "/data".to_owned();
            spec.template.mounts = vec![Mount { source, target, read_only: false }];
        });
        assert!(said.contains("cannot be mounted at /data as well"), "{said}");
        let said = refused(|spec| {
            spec.job = Some(Job::default());
            spec.template.restart = crate::workload::RestartPolicy::Never;
        });
        assert!(said.contains("what a job does anew"), "{said}");
    }
}
