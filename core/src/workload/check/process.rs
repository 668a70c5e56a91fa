//! The rules for how processes are held.

use super::{SpecError, Template, check_text, refuse};
use crate::workload::{Device, Process, Tmpfs, USUAL_CAPABILITIES};

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
/// All that there are, as in capabilities(7), but those that the engine gives.
const CAPABILITIES: [&str; 27] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "IPC_OWNER",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "NET_ADMIN",
    "NET_BROADCAST",
    "PERFMON",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "SYSLOG",
    "WAKE_ALARM",
];
/// The settings of the kernel that are of a namespace which each instance has for itself, beside those of the network and of
/// message queues.
const SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];
/// And those, by what they begin with.
const SYSCTLS_BENEATH: [&str; 2] = ["fs.mqueue.", "net."];
/// The most domains to search, beside the zone, and the most options that C libraries take.
const SEARCH_MAX: usize = 5;
const OPTIONS_MAX: usize = 8;
/// What is mounted into every container.
const MOUNTED: [&str; 4] = ["/dev", "/dev/shm", "/proc", "/sys"];

pub(super) fn check(template: &Template) -> Result<(), SpecError> {
    let Process { tmpfs, ulimits, cap_drop, group_add, extra_hosts, .. } = &template.process;
    let Process { sysctls, cap_add, devices, .. } = &template.process;
    let lengths = [
        ("tmpfs", tmpfs.len()),
        ("ulimits", ulimits.len()),
        ("cap_drop", cap_drop.len()),
        ("group_add", group_add.len()),
        ("extra_hosts", extra_hosts.len()),
        ("sysctls", sysctls.len()),
        ("cap_add", cap_add.len()),
        ("devices", devices.len()),
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
        if name != "ALL" && !USUAL_CAPABILITIES.contains(&name.as_str()) {
            return refuse(
                "cap_drop",
                format!(
                    "{name:?} is none that an instance has; it has {}; ALL takes all of them",
                    USUAL_CAPABILITIES.join(", ")
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
    sysctls.iter().try_for_each(|(name, value)| check_sysctl(name, value))?;
    for name in cap_add {
        if name == "ALL" {
            return refuse("cap_add", "ALL is refused; name each that it needs");
        }
        let known = |all: &[&str]| all.contains(&name.as_str());
        if !known(&CAPABILITIES) && !known(&USUAL_CAPABILITIES) {
            return refuse("cap_add", format!("{name:?} is none, as capabilities(7) has them"));
        }
        if cap_drop.contains(name) {
            return refuse("cap_add", format!("{name} is in \"cap_drop\", too; keep one of them"));
        }
    }
    devices.iter().enumerate().try_for_each(|(index, device)| {
        let is_before = |other: &Device| other.target == device.target;
        check_device(device, devices.iter().take(index).any(is_before))
    })?;
    check_resolver(&template.process)
}

fn check_sysctl(name: &str, value: &str) -> Result<(), SpecError> {
    check_text("sysctls", value)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_one = SYSCTLS.contains(&name) || SYSCTLS_BENEATH.iter().any(|it| name.starts_with(it));
    if !is_one || name.len() > 128 || name.contains("..") || !name.chars().all(fits) {
        let shown: String = name.chars().take(128).collect();
        return refuse(
            "sysctls",
            format!(
                "{shown:?} is not a setting that an instance has for itself; there are net.…, fs.mqueue.…, {}; all others are \
                 its node's, for its operator to set",
                SYSCTLS.join(", ")
            ),
        );
    }
    if value.is_empty() || value.contains('\n') {
        return refuse("sysctls", format!("{name} has to have a value of one line"));
    }
    Ok(())
}

fn check_device(device: &Device, is_twice: bool) -> Result<(), SpecError> {
    let Device { source, target, permissions } = device;
    for path in [source, target] {
        check_text("devices", path)?;
        let is_odd = |part: &str| part.is_empty() || part == "." || part == "..";
        let rest = path.strip_prefix('/');
        if rest.is_none_or(|rest| rest.split('/').any(is_odd)) {
            return refuse(
                "devices",
                format!(
                    "{path:?} is not an absolute path in its shortest spelling, such as /dev/fuse"
                ),
            );
        }
    }
    if !source.starts_with("/dev/") {
        return refuse("devices", format!("{source:?} is not beneath /dev"));
    }
    if is_twice {
        return refuse("devices", format!("{target} is given twice"));
    }
    let is_once = |c: char| permissions.matches(c).count() == 1;
    if permissions.is_empty() || !permissions.chars().all(|c| "rwm".contains(c) && is_once(c)) {
        return refuse(
            "devices",
            format!(
                "{source}: {permissions:?} is no permission; use some of r, w and m, such as rw"
            ),
        );
    }
    Ok(())
}

fn check_resolver(process: &Process) -> Result<(), SpecError> {
    let lists = [
        ("dns_search", &process.dns_search, SEARCH_MAX),
        ("dns_opt", &process.dns_options, OPTIONS_MAX),
    ];
    for (field, words, most) in lists {
        if words.len() > most {
            return refuse(field, format!("{} entries; at most {most} are allowed", words.len()));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
        let is_odd =
            |word: &&String| word.is_empty() || word.len() > 100 || !word.chars().all(fits);
        if let Some(word) = words.iter().find(is_odd) {
            let shown: String = word.chars().take(100).collect();
            return refuse(field, format!("{shown:?} is none, as resolv.conf(5) has them"));
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
    fn capabilities_and_devices_are_ones_that_there_are() {
        let add = |name: &str| refused(|it| it.cap_add.extend([name.to_owned()]));
        assert_eq!((add("SYS_PTRACE"), add("CHOWN")), (String::new(), String::new()));
        assert!(add("ALL").contains("name each") && add("SYS_FOO").contains("is none"));
        let both = refused(|it| {
            it.cap_add.extend(["KILL".to_owned()]);
            it.cap_drop.extend(["KILL".to_owned()]);
        });
        assert!(both.contains("keep one of them"), "{both}");
        let mut process = Process::default();
        process.cap_add.extend(["CHOWN".to_owned(), "SYS_PTRACE".to_owned()]);
        assert_eq!(process.granted_capabilities().collect::<Vec<_>>(), ["SYS_PTRACE"]);

        let device = |source: &str, target: &str, permissions: &str| Device {
            source: source.to_owned(),
            target: target.to_owned(),
            permissions: permissions.to_owned(),
        };
        let of = |device: Device| refused(|it| it.devices = vec![device]);
        assert_eq!(of(device("/dev/fuse", "/dev/fuse", "rwm")), "");
        assert!(of(device("/etc/x", "/dev/x", "r")).contains("not beneath /dev"));
        assert!(of(device("/dev/../etc", "/dev/x", "r")).contains("shortest spelling"));
        assert!(of(device("/dev/x", "x", "r")).contains("shortest spelling"));
        for odd in ["", "x", "rr"] {
            assert!(of(device("/dev/x", "/dev/x", odd)).contains("is no permission"), "{odd}");
        }
        let one = device("/dev/x", "/dev/x", "r");
        assert!(refused(|it| it.devices = vec![one.clone(), one]).contains("given twice"));
        let search = |words: Vec<String>| refused(|it| it.dns_search = words);
        assert_eq!(search(vec!["corp.example".into()]), "");
        assert!(search(vec!["a b".into()]).contains("resolv.conf(5)"));
        assert!(search(vec!["a".into(); 6]).contains("at most 5"));
        assert_eq!(refused(|it| it.dns_options = vec!["ndots:2".into(), "rotate".into()]), "");
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
        for good in ["net.core.somaxconn", "fs.mqueue.msg_max", "kernel.shmmax", "kernel.sem"] {
            assert_eq!(
                refused(|it| it.sysctls.extend([(good.into(), "1 2".into())])),
                "",
                "{good}"
            );
        }
        for odd in ["kernel.pid_max", "vm.overcommit_memory", "net/core/a", "net..a", "fs.mqueue"] {
            let said = refused(|it| it.sysctls.extend([(odd.into(), "1".into())]));
            assert!(
                said.contains("not a setting that an instance has for itself"),
                "{odd}: {said}"
            );
        }
        let empty = refused(|it| it.sysctls.extend([("net.a".into(), String::new())]));
        assert!(empty.contains("a value of one line"), "{empty}");
        let many = (0..=ENTRIES_MAX).map(|number| number.to_string()).collect();
        assert!(refused(|it| it.group_add = many).contains("at most 64"));
    }
}
