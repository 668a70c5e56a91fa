//! The rules for what is carried over from a container to its successor.
//!
//! A path has one spelling and means something of the container's own root, so that no copy touches what is mounted there.

use super::{SpecError, Template, UpdateOrder, WorkloadSpec, check_text, refuse};
use crate::workload::CARRY_MAX;

const FIELD: &str = "carry";
/// The longest path that a kernel takes, in bytes.
const PATH_MAX: usize = 4_096;
/// What is mounted into every container, and by whom.
const MOUNTED: [(&str, &str); 6] = [
    ("/dev", "the engine"),
    ("/etc/hostname", "the engine"),
    ("/etc/hosts", "dwell"),
    ("/etc/resolv.conf", "dwell"),
    ("/proc", "the engine"),
    ("/sys", "the engine"),
];

/// What goes with it and what does not.
pub(super) fn check_rules(spec: &WorkloadSpec) -> Result<(), SpecError> {
    if spec.template.carry.is_empty() {
        return Ok(());
    }
    if spec.update.order == UpdateOrder::StartFirst {
        return refuse(
            FIELD,
            "start-first starts the new container while the old one still writes to its files, so no whole copy can be had; \
             use \"update: {order: stop-first}\", or leave it out",
        );
    }
    if spec.job.is_some() {
        return refuse(
            FIELD,
            "what a job does anew begins with the files of its image; keep what is to stay in a volume",
        );
    }
    Ok(())
}

pub(super) fn check(template: &Template) -> Result<(), SpecError> {
    let all = &template.carry;
    if all.len() > CARRY_MAX {
        return refuse(
            FIELD,
            format!(
                "{} paths; at most {CARRY_MAX} are allowed, and one may be a directory",
                all.len()
            ),
        );
    }
    let mounts = template.mounts.iter().map(|mount| {
        let target = mount.target.trim_end_matches('/');
        (target, "\"volumes\"")
    });
    let mounts: Vec<(&str, &str)> = mounts.chain(MOUNTED).collect();
    for (index, path) in all.iter().enumerate() {
        check_path(path)?;
        for (mounted, by) in &mounts {
            check_apart(path, mounted, by)?;
        }
        let is_doubled = |other: &&String| is_within(path, other) || is_within(other, path);
        match all.iter().take(index).find(is_doubled) {
            Some(other) if other == path => {
                return refuse(FIELD, format!("{path} is given twice"));
            }
            Some(other) => {
                let (outer, inner) =
                    if is_within(path, other) { (other, path) } else { (path, other) };
                return refuse(
                    FIELD,
                    format!("{inner} goes with {outer} already; leave one of the two out"),
                );
            }
            None => {}
        }
    }
    Ok(())
}

/// Absolute and without a second spelling, and not everything.
fn check_path(path: &str) -> Result<(), SpecError> {
    check_text(FIELD, path)?;
    let shown: String = path.chars().take(80).collect();
    if path == "/" {
        return refuse(FIELD, "/ is the whole container; name what is to be kept, or use a volume");
    }
    let is_odd = |part: &str| part.is_empty() || part == "." || part == "..";
    let rest = path.strip_prefix('/');
    if path.len() > PATH_MAX || rest.is_none_or(|rest| rest.split('/').any(is_odd)) {
        return refuse(
            FIELD,
            format!(
                "{shown:?} is not an absolute path in its shortest spelling, without '.', '..', '//' and a '/' at its end"
            ),
        );
    }
    if path.chars().any(char::is_control) {
        return refuse(FIELD, format!("{shown:?} has a control character; use a path without"));
    }
    Ok(())
}

/// What is mounted is kept as it is, and belongs to no container.
fn check_apart(path: &str, mounted: &str, by: &str) -> Result<(), SpecError> {
    if is_within(path, mounted) {
        return refuse(
            FIELD,
            format!(
                "{path} is in what {by} mounts at {mounted}, which no container takes along; leave it out"
            ),
        );
    }
    if is_within(mounted, path) {
        return refuse(
            FIELD,
            format!(
                "{path} contains {mounted}, which {by} mounts; name what is to be kept beside that"
            ),
        );
    }
    Ok(())
}

/// Whether a path is another one, or something in it.
fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Mount, MountSource};

    fn refused(paths: &[&str]) -> String {
        let mut template = Template::of_image("a");
        let source = MountSource::Volume("data".parse().unwrap());
        template.mounts =
            vec![Mount { source, target: "/var/lib/db/".to_owned(), read_only: false }];
        template.carry = paths.iter().map(|&path| path.to_owned()).collect();
        check(&template).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_path_has_one_spelling_and_is_of_the_root() {
        assert_eq!(refused(&["/etc/app/id", "/var/lib/app", "/var/lib/db2", "/etc/hosts.d"]), "");
        for path in ["", "etc/id", "/etc/", "/etc//id", "/etc/./id", "/etc/../id", "//etc"] {
            assert!(refused(&[path]).contains("not an absolute path in its shortest"), "{path}");
        }
        assert!(refused(&["/etc/a\nb"]).contains("control character"));
        assert!(refused(&["/"]).contains("whole container"));
        assert!(refused(&[&format!("/{}", "x".repeat(PATH_MAX))]).contains("not an absolute path"));
    }

    #[test]
    fn nothing_that_is_mounted_is_carried() {
        for path in ["/var/lib/db", "/var/lib/db/x", "/proc/1", "/etc/hosts", "/dev/shm/x"] {
            assert!(refused(&[path]).contains("mounts at"), "{path}");
        }
        for path in ["/var/lib", "/var", "/etc"] {
            assert!(refused(&[path]).contains("contains"), "{path}");
        }
    }

    #[test]
    fn nothing_is_carried_twice_and_there_is_a_bound() {
        assert!(refused(&["/a", "/b", "/a"]).contains("/a is given twice"));
        assert!(refused(&["/a/b", "/a"]).contains("/a/b goes with /a already"));
        assert!(refused(&["/a", "/a/b"]).contains("/a/b goes with /a already"));
        let many: Vec<String> = (0..=CARRY_MAX).map(|number| format!("/{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(refused(&many).contains("at most 32"));
        assert_eq!(refused(&many[1..]), "");
    }
}
