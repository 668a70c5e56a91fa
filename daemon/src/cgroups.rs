//! Where in the host's cgroups a container is: version 1, version 2 and both at once.
//!
//! Pure but for [`of_process`]: files are given as text. A container's cgroup that no mount of the host shows is an error, since a process
//! outside it would have none of its limits.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A cgroup that a process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The tree it is in.
    pub hierarchy: Hierarchy,
    /// Its directory on the host.
    pub directory: PathBuf,
}

/// One tree of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// Version 2: the one tree with all controllers.
    Unified,
    /// Version 1, with its controllers and its name (`name=…`), sorted.
    Legacy(Vec<String>),
}

impl Place {
    /// The file that one writes a process id to.
    #[must_use]
    pub fn processes(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// The file that tells whether the cgroup is frozen, if it is of a hierarchy that can do that.
    #[must_use]
    pub fn freezer(&self) -> Option<PathBuf> {
        match &self.hierarchy {
            Hierarchy::Unified => Some(self.directory.join("cgroup.events")),
            Hierarchy::Legacy(controllers) => controllers
                .iter()
                .any(|one| one == "freezer")
                .then(|| self.directory.join("freezer.state")),
        }
    }
}

/// Whether a file as told by [`Place::freezer`] says so.
#[must_use]
pub fn is_frozen(state: &str) -> bool {
    state.lines().any(|line| ["FROZEN", "FREEZING", "frozen 1"].contains(&line.trim()))
}

/// The cgroups of a process.
///
/// # Errors
/// If the process is not there any more, or the host does not show its cgroups.
pub fn of_process(pid: u32) -> io::Result<Vec<Place>> {
    let theirs = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let ours = fs::read_to_string("/proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    places(&theirs, &ours, &mounts).map_err(io::Error::other)
}

/// Why the cgroups cannot be told.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// No mount of the host has it.
    #[error("the host does not show the container's cgroup {path:?} of {hierarchy:?}")]
    NotMounted {
        /// Of which tree.
        hierarchy: Hierarchy,
        /// The cgroup, as the kernel names it.
        path: String,
    },
}

/// The cgroups of a process that are not this one's: by `/proc/PID/cgroup` of both, and by `/proc/self/mountinfo`.
///
/// # Errors
/// [`PlaceError`] if one of them is not to be seen.
pub fn places(theirs: &str, ours: &str, mountinfo: &str) -> Result<Vec<Place>, PlaceError> {
    let ours: Vec<_> = ours.lines().filter_map(membership).collect();
    let mounts: Vec<_> = mountinfo.lines().filter_map(Mount::parse).collect();
    let mut places = Vec::new();
    for (hierarchy, path) in theirs.lines().filter_map(membership) {
        if ours.iter().any(|(one, at)| *one == hierarchy && *at == path) {
            continue;
        }
        let directory = mounts
            .iter()
            .filter(|mount| mount.hierarchy == hierarchy)
            .find_map(|mount| mount.directory_of(path))
            .ok_or_else(|| PlaceError::NotMounted {
                hierarchy: hierarchy.clone(),
                path: path.to_owned(),
            })?;
        places.push(Place { hierarchy, directory });
    }
    Ok(places)
}

/// `ID:CONTROLLERS:PATH`
fn membership(line: &str) -> Option<(Hierarchy, &str)> {
    let mut fields = line.splitn(3, ':');
    let controllers = fields.nth(1)?;
    let path = fields.next()?;
    let hierarchy =
        if controllers.is_empty() { Hierarchy::Unified } else { legacy(controllers.split(',')) };
    Some((hierarchy, path))
}

fn legacy<'a>(controllers: impl Iterator<Item = &'a str>) -> Hierarchy {
    let mut controllers: Vec<_> = controllers.map(str::to_owned).collect();
    controllers.sort_unstable();
    Hierarchy::Legacy(controllers)
}

/// A place where the host shows a hierarchy, or a part of one.
struct Mount {
    hierarchy: Hierarchy,
    /// The cgroup that is seen at `point`.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// `ID PARENT DEVICE ROOT POINT OPTIONS… - TYPE SOURCE SUPER-OPTIONS`
    fn parse(line: &str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (unescaped(mount.next()?), unescaped(mount.next()?));
        let mut filesystem = filesystem.split(' ');
        let kind = filesystem.next()?;
        let options = filesystem.nth(1).unwrap_or_default();
        let hierarchy = match kind {
            "cgroup2" => Hierarchy::Unified,
            "cgroup" => legacy(options.split(',').filter(|option| is_controller(option))),
            _ => return None,
        };
        Some(Self { hierarchy, root: root.into(), point: point.into() })
    }

    /// Where a cgroup is seen, if it is within what is mounted here.
    fn directory_of(&self, path: &str) -> Option<PathBuf> {
        let path = Path::new(path);
        // A path that leads out (`/../x`) is one outside of our own cgroup namespace.
        let inside = path.is_absolute() && !path.components().any(|part| part.as_os_str() == "..");
        let rest = path.strip_prefix(&self.root).ok().filter(|_| inside)?;
        Some(self.point.join(rest))
    }
}

/// Whether a mount option of version 1 names a controller or the hierarchy.
fn is_controller(option: &str) -> bool {
    const OTHERS: [&str; 7] =
        ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"];
    !OTHERS.contains(&option) && !option.starts_with("release_agent=")
}

/// Undoes the kernel's escapes for white space and backslash (`\040`).
fn unescaped(field: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(field.to_owned(), |text, (escape, character)| text.replace(escape, character))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 /docker/outer /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/a\\040b rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    fn directories(theirs: &str, ours: &str) -> Vec<String> {
        let places = places(theirs, ours, HYBRID).unwrap();
        places.iter().map(|place| place.directory.display().to_string()).collect()
    }

    #[test]
    fn both_versions_at_once() {
        let theirs = "7:cpuacct,cpu:/docker/c1\n6:memory:/docker/c1\n5:freezer:/docker/outer/docker/c1\n\
                      1:name=systemd:/docker/c1\n0::/docker/c1\n";
        let ours = "7:cpuacct,cpu:/\n6:memory:/\n5:freezer:/docker/outer\n1:name=systemd:/docker/c1\n0::/\n";
        assert_eq!(
            directories(theirs, ours),
            [
                "/sys/fs/cgroup/cpu,cpuacct/docker/c1",
                "/sys/fs/cgroup/memory/docker/c1",
                "/sys/fs/cgroup/freezer/docker/c1",
                "/sys/fs/cgroup/a b/docker/c1",
            ]
        );
    }

    #[test]
    fn version_2_alone() {
        let mounts = "29 22 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let theirs = "0::/system.slice/docker-c1.scope\n";
        let places = places(theirs, "0::/system.slice/dwell-ssh.service\n", mounts).unwrap();
        let place = Place {
            hierarchy: Hierarchy::Unified,
            directory: "/sys/fs/cgroup/system.slice/docker-c1.scope".into(),
        };
        assert_eq!(place.freezer(), Some(place.directory.join("cgroup.events")));
        assert_eq!(places, [place]);
    }

    #[test]
    fn a_cgroup_that_is_not_to_be_seen_is_an_error() {
        for theirs in ["3:pids:/docker/c1", "5:freezer:/docker/c1", "0::/../c1", "6:memory:c1"] {
            assert!(places(theirs, "", HYBRID).is_err(), "{theirs}");
        }
    }

    #[test]
    fn frozen_is_told_by_either_version() {
        for (state, frozen) in [
            ("FROZEN\n", true),
            ("FREEZING\n", true),
            ("THAWED\n", false),
            ("populated 1\nfrozen 1\n", true),
            ("populated 1\nfrozen 0\n", false),
            ("", false),
        ] {
            assert_eq!(is_frozen(state), frozen, "{state:?}");
        }
    }

    proptest! {
        #[test]
        fn no_place_is_outside_of_the_mounts(theirs in "[0-9]:(memory|freezer|):[/a-z.]{0,12}") {
            for place in places(&theirs, "", HYBRID).into_iter().flatten() {
                prop_assert!(place.directory.starts_with("/sys/fs/cgroup"));
                prop_assert!(!place.directory.components().any(|part| part.as_os_str() == ".."));
            }
        }
    }
}
