//! What changed in the agent's directory, from inotify.
#![expect(unsafe_code, reason = "registering a descriptor asks for a promise about its lifetime")]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Change {
    /// Unknown what: everything has to be read.
    Everything,
    /// `trust.json`.
    Trust,
    /// The file of this name among the instances'.
    Instance(OsString),
}

/// The two watched directories.
pub(super) struct Watch {
    inotify: AsyncFd<Descriptor>,
    top: WatchDescriptor,
    instances: WatchDescriptor,
}

/// As tokio wants it.
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Begins to watch `dir` and `instances` in it. What they hold by now is to be read after that.
    ///
    /// # Errors
    /// If one of them is not there, or inotify's limits are reached.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // Files are put into place by renaming; a file written there by hand counts when it is closed.
        let flags = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let top = inotify.add_watch(dir, flags)?;
        let instances = inotify.add_watch(&dir.join("instances"), flags)?;
        // SAFETY: the inotify instance owns its descriptor, always the same, and closes it when it is dropped,
        // which is after it was deregistered: the registration owns it and does that first.
        let inotify =
            unsafe { AsyncFd::register_with_interest(Descriptor(inotify), Interest::READABLE) }
                .map_err(|error| error.into_parts().1)?;
        Ok(Self { inotify, top, instances })
    }

    /// Waits for changes; nothing when a directory was replaced, and everything has to begin anew.
    pub(super) async fn changes(&mut self) -> Option<Vec<Change>> {
        loop {
            let mut ready = self.inotify.readable().await.ok()?;
            match ready.get_inner().0.read_events() {
                Ok(events) => return self.read(events),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    fn read(&self, events: Vec<InotifyEvent>) -> Option<Vec<Change>> {
        let ended = AddWatchFlags::IN_IGNORED
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT;
        let mut changes = Vec::new();
        for event in events {
            let change = match event.name {
                _ if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) => Change::Everything,
                _ if event.mask.intersects(ended) => return None,
                Some(name) if event.wd == self.instances => Change::Instance(name),
                Some(name) if event.wd == self.top && name == "trust.json" => Change::Trust,
                _ => continue,
            };
            if !changes.contains(&change) {
                changes.push(change);
            }
        }
        Some(changes)
    }
}
