//! The rules for how processes are held.

use super::{SpecError, Template, check_text, refuse};
use crate::workload::{CAPABILITIES, Process, Tmpfs};

/// The most entries of each kind.
const ENTRIES_MAX: usize = 64;
/// The names of limits, as in setrlimit(2).
const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];
/// What is mounted into every container.
const MOUNTED: [&str; 4] = ["/dev", "/dev/shm", "/proc", "/sys"];

pub(super) fn check(template: &Template) -> Result<(), SpecError> {
    let Process { tmpfs, ulimits, cap_drop, group_add, extra_hosts, .. } = &template.process;
    let lengths = [
        ("tmpfs", tmpfs.len()),
        ("ulimits", ulimits.len()),
        ("cap_drop", cap_drop.len()),
        ("group_add", group_add.len()),
        ("extra_hosts", extra_hosts.len()),
    ];
    for (field, length) in lengths {
        if length > ENTRIES_MAX {
            return refuse(field, format!("{length} entries; at most {ENTRIES_MAX} are allowed"));
        }
    }
    tmpfs.iter().enumerate().try_for_each(|(index, one)| {
        let before = tmpfs.iter().take(index);
        let others = before.map(|other| (&other.target, "tmpfs"));
        let mounts = template.mounts.iter().map(|mount| (&mount.target, "volumes"));
        check_tmpfs(one, others.chain(mounts))
    })?;
    for (name, limit) in ulimits {
        if !ULIMITS.contains(&name.as_str()) {
            return refuse(
                "ulimits",
                format!("{name:?} is none; there are {}", ULIMITS.join(", ")),
            );
        }
        if limit.soft > limit.hard {
            let (soft, hard) = (limit.soft, limit.hard);
            return refuse(
                "ulimits",
                format!("{name}: the soft limit {soft} is above the hard one, {hard}"),
            );
        }
    }
    for name in cap_drop {
        if name != "ALL" && !CAPABILITIES.contains(&name.as_str()) {
            return refuse(
                "cap_drop",
                format!(
                    "{name:?} is none that an instance has; it has {}; ALL takes all of them",
                    CAPABILITIES.join(", ")
                ),
            );
        }
    }
    for group in group_add {
        check_text("group_add", group)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if group.is_empty() || group.len() > 32 || !group.chars().all(is_name) {
            return refuse("group_add", format!("{group:?} is no name or number of a group"));
        }
    }
    for name in extra_hosts.keys() {
        let is_label = |label: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            (1..64).contains(&label.len()) && label.chars().all(fits)
        };
        if name.len() > 253 || !name.split('.').all(is_label) {
            return refuse("extra_hosts", format!("{name:?} is no name of a host"));
        }
    }
    Ok(())
}

fn check_tmpfs<'a>(
    one: &Tmpfs,
    mut others: impl Iterator<Item = (&'a String, &'static str)>,
) -> Result<(), SpecError> {
    let target = &one.target;
    check_text("tmpfs", target)?;
    let is_odd = |part: &str| part.is_empty() || part == "." || part == "..";
    let rest = target.strip_prefix('/');
    // The engine writes it before its options.
    if rest.is_none_or(|rest| rest.split('/').any(is_odd)) || target.contains([':', ',']) {
        return refuse(
            "tmpfs",
            format!(
                "{target:?} is not an absolute path in its shortest spelling, without '.', '..', '//', ':', ',' and a '/' at its end"
            ),
        );
    }
    if MOUNTED.contains(&target.as_str()) {
        return refuse(
            "tmpfs",
            format!("the engine mounts {target} itself; for /dev/shm there is \"shm_size\""),
        );
    }
    if let Some((_, field)) = others.find(|(other, _)| other.trim_end_matches('/') == target) {
        return refuse("tmpfs", format!("{target} is given twice, also in \"{field}\""));
    }
    if one.mode.is_some_and(|mode| mode > 0o7777) {
        return refuse("tmpfs", format!("{target}: the mode has more than four octal digits"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Most, Mount, MountSource, Ulimit};

    fn refused(change: impl FnOnce(&mut Process)) -> String {
        let mut template = Template::of_image("a");
        let source = MountSource::Volume("data".parse().unwrap());
        template.mounts = vec![Mount { source, target: "/data/".to_owned(), read_only: false }];
        change(&mut template.process);
        check(&template).err().map(|error| error.to_string()).unwrap_or_default()
    }

    fn at(target: &str) -> Tmpfs {
        Tmpfs { target: target.to_owned(), size: None, mode: None }
    }

    #[test]
    fn a_directory_in_memory_has_a_place_of_its_own() {
        assert_eq!(refused(|it| it.tmpfs = vec![at("/run"), at("/tmp/x")]), "");
        for odd in ["", "run", "/", "/run/", "/a//b", "/a/../b", "/a:b", "/a,b"] {
            assert!(
                refused(|it| it.tmpfs = vec![at(odd)]).contains("not an absolute path"),
                "{odd}"
            );
        }
        assert!(refused(|it| it.tmpfs = vec![at("/dev/shm")]).contains("shm_size"));
        assert!(refused(|it| it.tmpfs = vec![at("/data")]).contains("also in \"volumes\""));
        assert!(refused(|it| it.tmpfs = vec![at("/a"), at("/a")]).contains("also in \"tmpfs\""));
        let mode = Tmpfs { mode: Some(0o10000), ..at("/a") };
        assert!(refused(|it| it.tmpfs = vec![mode]).contains("octal"));
    }

    #[test]
    fn names_are_those_that_there_are() {
        let limit = |name: &str, soft, hard| {
            let limit = Ulimit { soft: Most::Number(soft), hard };
            refused(|it| it.ulimits.extend([(name.to_owned(), limit)]))
        };
        assert_eq!(limit("nofile", 1, Most::Unlimited), "");
        assert!(limit("files", 1, Most::Unlimited).contains("there are as, core"));
        assert!(limit("nofile", 2, Most::Number(1)).contains("the soft limit 2 is above"));
        let drop_of = |name: &str| refused(|it| it.cap_drop.extend([name.to_owned()]));
        assert_eq!((drop_of("ALL"), drop_of("NET_RAW")), (String::new(), String::new()));
        assert!(drop_of("SYS_ADMIN").contains("none that an instance has"));
        assert!(refused(|it| it.group_add = vec!["a b".into()]).contains("no name or number"));
        let host = |name: &str| {
            refused(|it| it.extra_hosts.extend([(name.into(), "192.0.2.1".parse().unwrap())]))
        };
        assert_eq!(host("db.example"), "");
        assert!(host("a b").contains("no name of a host") && host("").contains("no name"));
        let many = (0..=ENTRIES_MAX).map(|number| number.to_string()).collect();
        assert!(refused(|it| it.group_add = many).contains("at most 64"));
    }
}
