//! Removing every trace of a lab, in whatever state a crash left it; or all that runs on one host.
//!
//! Works from names and marks alone: processes by the mark in their environment, their descendants,
//! and whatever is in the lab's cgroups; network namespaces and interface by name; mounts by path.
//! Idempotent; a second run after a failed one goes on where that stopped.
//!
//! Invariant: nothing is killed, unmounted or deleted that does not carry the lab's mark or name.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::ErrorKind,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    slice,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sha2::{Digest, Sha256};

use super::{
    layout::{Layout, ROOT},
    network,
    process::{MARK, Stat},
    wait::wait_until,
};

/// How long killed processes may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// Where the containerd of every engine puts the sockets of its shims, whatever its own directory.
const SHIM_SOCKETS: &str = "/run/containerd/s";

/// Directories that every engine makes, whatever its own directory, with all that it makes there.
const SHARED_DIRECTORIES: [(&str, &str); 2] =
    [("/run/containerd", SHIM_SOCKETS), ("/run/docker", "/run/docker/plugins")];

/// Removes everything of the lab but what other labs share.
pub(crate) async fn sweep(layout: &Layout) -> Result<()> {
    let dir = layout.dir();
    let mark = format!("{MARK}={}", layout.name());
    let is_marked = |process: &Path| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
    };
    let engines = subdirectories(&dir);
    halt(&engines, Path::new(&layout.cgroup()), is_marked).await?;
    network::remove(layout).await?;
    unmount(&dir)?;
    remove_if_there(fs::remove_dir_all(&dir), &dir)?;
    tidy_shared_directories();
    // What machines with systemd have left.
    dwell_oci::cgroups::sweep();
    Ok(())
}

/// Ends everything that runs on one host and unmounts what it has mounted, as a loss of power does.
pub(crate) async fn halt_host(layout: &Layout, host: usize) -> Result<()> {
    let dir = layout.host_dir(host);
    let inode = |path: &Path| fs::metadata(path).map(|namespace| namespace.ino());
    let netns = inode(&Path::new("/run/netns").join(layout.host_netns(host)))
        .with_context(|| format!("{} has no network", dir.display()))?;
    // A container is in a sandbox, but its shim is where the engine is.
    let is_here = |process: &Path| inode(&process.join("ns/net")).is_ok_and(|its| its == netns);
    let cgroup = Path::new(&layout.cgroup()).join(format!("h{host}"));
    halt(slice::from_ref(&dir), &cgroup, is_here).await?;
    unmount(&dir)
}

/// Kills the processes that `is_one` knows by their directories in `/proc`, their descendants, and all that are in
/// `cgroup`; removes what is left of the containers of `engines`, which are directories of hosts.
async fn halt(engines: &[PathBuf], cgroup: &Path, is_one: impl Fn(&Path) -> bool) -> Result<()> {
    let sockets: Vec<_> = engines.iter().flat_map(|engine| shim_sockets(engine)).collect();
    wait_until("the processes to be gone", KILL_LIMIT, async || {
        let left = processes(&is_one, cgroup);
        for pid in &left {
            // One that ends by itself meanwhile is as good as killed.
            let _gone = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        ensure!(left.is_empty(), "processes {left:?} are left");
        Ok(())
    })
    .await?;
    // A killed process leaves its cgroup a moment after it is gone from sight.
    wait_until("the cgroups to be gone", KILL_LIMIT, async || {
        hierarchies_of(cgroup).iter().try_for_each(|cgroup| remove_cgroup(cgroup))
    })
    .await?;
    sockets.iter().try_for_each(|socket| remove_if_there(fs::remove_file(socket), socket))
}

/// See [`halt`]; this process excepted.
fn processes(is_one: impl Fn(&Path) -> bool, cgroup: &Path) -> BTreeSet<i32> {
    let mut alive = Vec::new();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Some(stat) = Stat::read(pid) else { continue };
        alive.push((pid, stat.parent));
        if is_one(&entry.path()) {
            found.insert(pid);
        }
    }
    for cgroup in hierarchies_of(cgroup) {
        collect_members(&cgroup, &mut found);
    }
    found.retain(|pid| alive.iter().any(|(alive, _)| alive == pid));
    // The first process of a container has an environment of its own, but is a shim's child.
    loop {
        let children = alive.iter().filter(|(_, parent)| found.contains(parent));
        let more: Vec<i32> =
            children.map(|(pid, _)| *pid).filter(|pid| !found.contains(pid)).collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    found.remove(&std::process::id().cast_signed());
    found
}

/// A cgroup in each hierarchy that has it (one with version 2 only).
fn hierarchies_of(cgroup: &Path) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    hierarchies
        .chain([root.to_owned()])
        .map(|hierarchy| hierarchy.join(cgroup))
        .filter(|cgroup| cgroup.is_dir())
        .collect()
}

fn collect_members(cgroup: &Path, found: &mut BTreeSet<i32>) {
    let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    found.extend(members.lines().filter_map(|line| line.parse::<i32>().ok()));
    for child in subdirectories(cgroup) {
        collect_members(&child, found);
    }
}

fn remove_cgroup(cgroup: &Path) -> Result<()> {
    for child in subdirectories(cgroup) {
        remove_cgroup(&child)?;
    }
    remove_if_there(fs::remove_dir(cgroup), cgroup)
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

/// Unmounts whatever is mounted in `dir`, the newest mount first.
fn unmount(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot list mounts")?;
    let inside = mounts.lines().filter_map(|line| line.split(' ').nth(4).map(unescape));
    let mut inside: Vec<PathBuf> = inside.filter(|path| path.starts_with(dir)).collect();
    inside.reverse();
    for path in inside {
        match umount2(&path, MntFlags::MNT_DETACH) {
            // A shared mount takes its copies along.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot unmount {}", path.display()));
            }
        }
    }
    Ok(())
}

/// Undoes the octal escapes of `/proc/self/mountinfo`.
fn unescape(path: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(path.to_owned(), |path, (from, to)| path.replace(from, to)).into()
}

/// The sockets of the shims of all containers that the engine of `host`, a directory, knows.
///
/// They lie outside the lab's directory, and stay when a shim is killed; containerd names each after
/// a digest of its own socket, Docker's namespace and the container's id.
fn shim_sockets(host: &Path) -> Vec<PathBuf> {
    let containerd = host.join("exec/containerd/containerd.sock");
    let containers = subdirectories(&host.join("data/containers"));
    let ids = containers.iter().filter_map(|container| container.file_name());
    ids.map(|id| shim_socket(&containerd.join("moby").join(id))).collect()
}

fn shim_socket(container: &Path) -> PathBuf {
    let digest = Sha256::digest(container.as_os_str().as_bytes());
    Path::new(SHIM_SOCKETS).join(format!("{digest:x}"))
}

/// Removes the directories that all engines share, if no other engine seems to use them.
fn tidy_shared_directories() {
    if let Ok(root) = File::open(ROOT) {
        // Whoever holds it is about to make a lab in it, see `claim`.
        let Ok(_lock) = Flock::lock(root, FlockArg::LockExclusiveNonblock) else { return };
        if fs::remove_dir(ROOT).is_err() {
            // Other labs are up.
            return;
        }
    }
    for (parent, child) in SHARED_DIRECTORIES {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let used = entries.into_iter().any(|entry| entry.path() != Path::new(child));
        for dir in [child, parent].into_iter().filter(|_| !used) {
            // One that is not there, or in use after all, is left as it is.
            let _left = fs::remove_dir(dir);
        }
    }
}

/// An error of removing `path`, unless it was not there.
pub(crate) fn remove_if_there(removed: std::io::Result<()>, path: &Path) -> Result<()> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shim_sockets_are_named_as_containerd_names_them() {
        let container = "/var/lib/dwell-lab/fake/h1/exec/containerd/containerd.sock/moby/\
            201a68f18199809e934e050c603e9a27a4a31ee0c1c022f10e518c19b41a8583";
        let socket = "/run/containerd/s/\
            6d148cf68213423369badfcfb64db92cf691171e2a8c75f41926d1cac987250b";
        assert_eq!(shim_socket(Path::new(container)), Path::new(socket));
    }

    #[test]
    fn mount_paths_are_unescaped() {
        assert_eq!(unescape("/a\\040b\\134c"), Path::new("/a b\\c"));
    }
}
