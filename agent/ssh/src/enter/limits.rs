//! Resource limits, as `/proc/PID/limits` and the container's configuration tell them.

use super::bundle::Rlimit;

/// The names that the configuration has for resources, by their numbers, on all architectures that dwell runs on.
const NAMES: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];
/// The width of the first column of `/proc/PID/limits`, in bytes.
const NAME_WIDTH: usize = 26;

/// A limit of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// The kernel's number for it.
    pub(super) resource: u32,
    /// The greatest number is "no limit".
    pub(super) soft: u64,
    pub(super) hard: u64,
}

impl Limit {
    /// What the configuration says; `None` if it speaks of an unknown resource.
    pub(super) fn of_container(limit: &Rlimit) -> Option<Self> {
        let number = NAMES.iter().position(|name| *name == limit.kind)?;
        Some(Self { resource: u32::try_from(number).ok()?, soft: limit.soft, hard: limit.hard })
    }
}

/// The limits in a file `/proc/PID/limits`: a line of headings, then one for each resource in the order of their
/// numbers.
pub(super) fn of_process(file: &str) -> impl Iterator<Item = Limit> {
    let lines = file.lines().skip(1).take(NAMES.len());
    (0..).zip(lines).filter_map(|(resource, line)| {
        let mut columns = line.get(NAME_WIDTH..)?.split_whitespace().map(value);
        Some(Limit { resource, soft: columns.next()??, hard: columns.next()?? })
    })
}

fn value(text: &str) -> Option<u64> {
    if text == "unlimited" { Some(u64::MAX) } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_limits_are_read_as_the_kernel_has_them() {
        let limits: Vec<_> =
            of_process(&std::fs::read_to_string("/proc/self/limits").unwrap()).collect();
        assert_eq!(limits.len(), NAMES.len());
        let limit = limits.iter().find(|limit| limit.resource == libc::RLIMIT_NOFILE).unwrap();
        let known = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!((limit.soft, limit.hard), (known.current.unwrap(), known.maximum.unwrap()));
    }

    #[test]
    fn the_configurations_names_are_the_kernels_numbers() {
        let limit =
            |kind: &str| Limit::of_container(&Rlimit { kind: kind.to_owned(), soft: 1, hard: 2 });
        assert_eq!(limit("RLIMIT_NOFILE"), Some(Limit { resource: 7, soft: 1, hard: 2 }));
        assert_eq!(limit("RLIMIT_RTTIME").map(|limit| limit.resource), Some(15));
        assert_eq!(limit("NOFILE"), None);
    }
}
