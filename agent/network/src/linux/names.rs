//! Notices that somebody has removed the name of a sandbox's namespace.
//!
//! The directory says so (inotify), whoever did it. Whether it was us, the kernel says: what we remove has no
//! living veth any more.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use dwell_core::sandbox::SandboxId;
use rustix::fs::inotify;

use super::netlink::Netlink;
use super::observe::Link;
use super::{request, veth};

/// Room for some events at a time; one has a name of at most 255 bytes.
const EVENTS_BYTES: usize = 4096;

/// The directory of names, watched.
pub(super) struct Names {
    events: OwnedFd,
    route: Netlink,
}

impl Names {
    /// Makes the directory if it is missing. For the network namespace of the calling thread.
    pub(super) fn watch(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let events = inotify::init(flags)?;
        let removals = inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_FROM;
        inotify::add_watch(&events, directory, removals)?;
        Ok(Self { events, route: Netlink::route()? })
    }

    /// Whether a name was removed whose sandbox is there.
    pub(super) fn is_one_lost(&mut self) -> io::Result<bool> {
        let mut removed: Vec<SandboxId> = Vec::new();
        let mut is_everything = false;
        let mut space = [MaybeUninit::uninit(); EVENTS_BYTES];
        let mut events = inotify::Reader::new(&self.events, &mut space);
        loop {
            match events.next() {
                Ok(event) => {
                    is_everything |= event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
                    let name = event.file_name().and_then(|name| name.to_str().ok());
                    removed.extend(name.and_then(|name| name.parse().ok()));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if is_everything || removed.is_empty() {
            return Ok(is_everything);
        }
        let links = self.route.dump(request::links, Link::parse)?;
        let is_alive = |it: &SandboxId| links.iter().any(|link| veth::belongs_to(link, it));
        Ok(removed.iter().any(is_alive))
    }
}

impl AsFd for Names {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
