//! The container that a helper is for: verified, read, and entered as far as a process itself can.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use dwell_daemon::cgroups::{self, Hierarchy, Place};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use rustix::time::Timespec;

use super::bundle::Config;
use super::failure::{Failure, Step as _};
use super::limits::{self, Limit};
use super::message::Open;
use super::seccomp::Filter;
use super::sys;

/// A container, entered but for its process namespace, which only children of this process are in, and for its
/// cgroup namespace.
#[derive(Debug)]
pub(super) struct Container {
    /// The instance, for messages.
    pub(super) instance: String,
    /// The main process.
    pub(super) pidfd: OwnedFd,
    pub(super) config: Config,
    pub(super) filter: Filter,
    /// Its cgroup of version 2, for children to be made in.
    pub(super) cgroup: Option<OwnedFd>,
    /// Tells whether it is frozen.
    pub(super) freezer: Option<File>,
    /// The host's `/proc`: that of the container may be anything.
    pub(super) host_proc: OwnedFd,
    /// Whether there is a cgroup namespace to enter.
    pub(super) cgroup_namespace: bool,
    /// Whether root is another user inside than outside.
    pub(super) user_namespace: bool,
}

impl Container {
    /// Enters the container's namespaces, cgroups of version 1 and limits.
    ///
    /// Everything that is read of its main process was read of the right one if that lives still afterwards.
    pub(super) fn enter(open: &Open) -> Result<Self, Failure> {
        let number = i32::try_from(open.pid).ok().filter(|pid| *pid > 0).ok_or(Failure::Gone)?;
        let pid = Pid::from_raw(number).ok_or(Failure::Gone)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| Failure::Gone)?;
        if dwell_daemon::process::start_ticks(open.pid) != Some(open.start_ticks) {
            return Err(Failure::Gone);
        }
        let gone_or = |failure| if has_ended(&pidfd) { Failure::Gone } else { failure };
        let namespaces = namespaces(open.pid).step("read its namespaces").map_err(gone_or)?;
        let places = places(open.pid).map_err(gone_or)?;
        let config = Config::read(&open.bundle)?;
        let filter =
            config.linux.seccomp.as_ref().map(Filter::compile).transpose()?.unwrap_or_default();

        let directory = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/proc");
        let host_proc = directory.step("open /proc")?.into();
        limit(open.pid, &config).map_err(gone_or)?;
        if has_ended(&pidfd) {
            return Err(Failure::Gone);
        }
        let freezer = freezer(&places)?;
        let cgroup = join(&places)?;
        let cgroup_namespace = namespaces.contains(ThreadNameSpaceType::CONTROL_GROUP);
        let user_namespace = namespaces.contains(ThreadNameSpaceType::USER);
        let namespaces = namespaces - ThreadNameSpaceType::CONTROL_GROUP;
        if !namespaces.is_empty() {
            move_into_thread_name_spaces(pidfd.as_fd(), namespaces)
                .step("enter its namespaces")
                .map_err(|failure| if has_ended(&pidfd) { Failure::Gone } else { failure })?;
        }
        let instance = open.instance.clone();
        Ok(Self {
            instance,
            pidfd,
            config,
            filter,
            cgroup,
            freezer,
            host_proc,
            cgroup_namespace,
            user_namespace,
        })
    }
}

/// Whether the process has ended.
pub(super) fn has_ended(pidfd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)), Ok(0))
}

/// The namespaces that are other ones than ours.
fn namespaces(pid: u32) -> io::Result<ThreadNameSpaceType> {
    const NAMESPACES: [(&str, ThreadNameSpaceType); 8] = [
        ("user", ThreadNameSpaceType::USER),
        ("mnt", ThreadNameSpaceType::MOUNT),
        ("pid", ThreadNameSpaceType::PROCESS_ID),
        ("net", ThreadNameSpaceType::NETWORK),
        ("ipc", ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
        ("uts", ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
        ("cgroup", ThreadNameSpaceType::CONTROL_GROUP),
        ("time", ThreadNameSpaceType::TIME),
    ];
    let mut others = ThreadNameSpaceType::empty();
    for (name, kind) in NAMESPACES {
        let ours = match fs::metadata(format!("/proc/self/ns/{name}")) {
            // This kernel has no such namespaces.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            ours => ours?,
        };
        let theirs = fs::metadata(format!("/proc/{pid}/ns/{name}"))?;
        others.set(kind, (ours.dev(), ours.ino()) != (theirs.dev(), theirs.ino()));
    }
    Ok(others)
}

fn places(pid: u32) -> Result<Vec<Place>, Failure> {
    let what = "find its cgroups";
    let read = |path: &str| fs::read_to_string(path).step(what);
    let theirs = read(&format!("/proc/{pid}/cgroup"))?;
    cgroups::places(&theirs, &read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?).step(what)
}

/// Takes the limits of the main process, and over them what the configuration says: a program may have
/// changed its own since. While this is the host's root, since only that may raise some.
fn limit(pid: u32, config: &Config) -> Result<(), Failure> {
    let what = "resource limits";
    let theirs = fs::read_to_string(format!("/proc/{pid}/limits")).restriction(what)?;
    for limit in limits::of_process(&theirs) {
        sys::limit(limit).restriction(what)?;
    }
    for limit in &config.process.rlimits {
        let known = Limit::of_container(limit).ok_or("unknown to this dwell");
        known.restriction(&limit.kind).and_then(|limit| sys::limit(limit).restriction(what))?;
    }
    fs::write("/proc/self/oom_score_adj", config.process.oom_score_adj.to_string())
        .restriction("oom_score_adj")
}

/// The file that tells whether the container is frozen, unless it says so now.
fn freezer(places: &[Place]) -> Result<Option<File>, Failure> {
    let Some(path) = places.iter().find_map(Place::freezer) else { return Ok(None) };
    let what = "read the state of its cgroup";
    if cgroups::is_frozen(&fs::read_to_string(&path).step(what)?) {
        return Err(Failure::Paused);
    }
    File::open(path).step(what).map(Some)
}

/// Joins the cgroups of version 1, and opens that of version 2.
///
/// Children are made directly in the latter, which is much faster than moving there: a move waits for an RCU grace
/// period of several milliseconds. Version 1 knows only moves, so this process makes it once, for all its children.
fn join(places: &[Place]) -> Result<Option<OwnedFd>, Failure> {
    let what = "control groups";
    let mut unified = None;
    for place in places {
        match place.hierarchy {
            Hierarchy::Unified => {
                let options = OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
                    .open(&place.directory);
                unified = Some(options.restriction(what)?.into());
            }
            Hierarchy::Legacy(_) => fs::write(place.processes(), "0").restriction(what)?,
        }
    }
    Ok(unified)
}
