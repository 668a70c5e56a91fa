//! Control groups for a container whose main process is systemd.
//!
//! systemd makes a control group for each of its services. On a host with control groups of version 2 alone, the container gets its
//! own group, writable, in a namespace in which it is the topmost; the kernel keeps it from changing its own limits there only if the
//! host mounts them with `nsdelegate`, as systemd does. On a host that has version 2 beside version 1, all controllers, and so all
//! limits, are in version 1, which the container does not see; it gets a group of version 2 without any:
//!
//! ```text
//!   <version 2>/dwell/<container id>   made here, and this process put into it; the runtime and the container inherit it
//! ```
//!
//! A group that a container has left is removed when the next one is made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

use crate::bundle::Cgroups;

/// The groups of containers, in the hierarchy of version 2.
const OURS: &str = "dwell";
/// How often a group is made anew that somebody else has removed.
const TRIES: u32 = 10;

/// Gives the container its control groups, and says where they are.
///
/// # Errors
///
/// If the host has no control groups that could be given to a container without giving it its limits as well.
pub fn prepare(container_id: &str) -> Result<Cgroups, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
    match hierarchy(&mounts) {
        Some(Hierarchy::Alone { is_delegated: true }) => Ok(Cgroups::Mounted),
        Some(Hierarchy::Alone { is_delegated: false }) => Err(CgroupError::NotDelegated),
        Some(Hierarchy::Beside(at)) => {
            remove(&at.join(OURS));
            let group = at.join(OURS).join(container_id);
            enter(&group).map_err(|source| CgroupError::Group { path: group, source })?;
            Ok(Cgroups::Beside)
        }
        None => Err(CgroupError::Missing),
    }
}

/// Where a host has control groups of version 2.
#[derive(Debug, PartialEq, Eq)]
enum Hierarchy {
    /// There are no others.
    Alone {
        /// Whether the topmost group of a namespace cannot change its own limits.
        is_delegated: bool,
    },
    /// The controllers are in version 1.
    Beside(PathBuf),
}

fn hierarchy(mountinfo: &str) -> Option<Hierarchy> {
    let (mut newer, mut is_beside) = (None, false);
    for line in mountinfo.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let mut words = file_system.split(' ');
        match words.next() {
            Some("cgroup") => is_beside = true,
            Some("cgroup2") if newer.is_none() => {
                let at = mount.split(' ').nth(4)?;
                let is_delegated =
                    words.any(|options| options.split(',').any(|option| option == "nsdelegate"));
                newer = Some((PathBuf::from(at), is_delegated));
            }
            _ => {}
        }
    }
    let (at, is_delegated) = newer?;
    Some(if is_beside { Hierarchy::Beside(at) } else { Hierarchy::Alone { is_delegated } })
}

fn enter(group: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        fs::create_dir_all(group)?;
        match fs::write(group.join("cgroup.procs"), process::id().to_string()) {
            // Somebody has taken it for one that was left.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
            entered => return entered,
        }
    }
}

/// Removes the groups that containers have left. One that still has a process stays.
pub fn sweep() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(Hierarchy::Beside(at)) = hierarchy(&mounts) {
        remove(&at.join(OURS));
    }
}

/// Removes a group and those in it, the innermost first; those that are in use stay.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    drop(fs::remove_dir(group));
}

/// Why a container gets no control groups.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// It is not known what there is.
    #[error("cannot read where the host's control groups are")]
    Mounts(#[source] io::Error),

    /// There are none.
    #[error(
        "`init: systemd` needs control groups of version 2, and this host has none mounted; boot it with \
         `systemd.unified_cgroup_hierarchy=1`, or mount them: `mount -t cgroup2 none /sys/fs/cgroup/unified`"
    )]
    Missing,

    /// They would be more than its own.
    #[error(
        "`init: systemd` is refused: the host's control groups are mounted without `nsdelegate`, so the instance could lift its own \
         limits; mount them so: `mount -o remount,nsdelegate /sys/fs/cgroup`"
    )]
    NotDelegated,

    /// The kernel does not make one.
    #[error("cannot make the control group {path:?} for the instance's systemd")]
    Group {
        /// Which one.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies() {
        let newer = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(hierarchy(newer), Some(Hierarchy::Alone { is_delegated: true }));
        let plain = newer.replace(",nsdelegate", "");
        assert_eq!(hierarchy(&plain), Some(Hierarchy::Alone { is_delegated: false }));
        let beside = "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      32 23 0:28 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw";
        let at = PathBuf::from("/sys/fs/cgroup/unified");
        assert_eq!(hierarchy(beside), Some(Hierarchy::Beside(at)));
        assert_eq!(hierarchy("31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"), None);
        assert_eq!(hierarchy(""), None);
    }
}
