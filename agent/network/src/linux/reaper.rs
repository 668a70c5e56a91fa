//! Deletes doomed veths, on a thread and a socket of its own.
//!
//! Deleting a veth takes the kernel 15 ms, most of it waiting, and as long for a thousand in one request:
//! those that are doomed while one deletion runs go together in the next.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use nix::errno::Errno;
use tracing::warn;

use super::netlink::Netlink;
use super::{request, veth::DOOMED_GROUP};

/// A handle to the thread, which ends with it.
pub(super) struct Reaper {
    work: SyncSender<()>,
    /// See [`Netlink::port`].
    pub(super) port: u32,
}

impl Reaper {
    /// For the namespace of the calling thread.
    pub(super) fn start() -> io::Result<Self> {
        let netlink = Netlink::route()?;
        let port = netlink.port()?;
        // One wake-up that waits is as good as many.
        let (work, waiting) = sync_channel(1);
        let thread = thread::Builder::new().name("dwell-reaper".to_owned());
        thread.spawn(move || run(netlink, &waiting))?;
        Ok(Self { work, port })
    }

    /// There is something in the group. Returns at once.
    pub(super) fn wake(&self) {
        // Full means that it is woken already; disconnected, that its failure has been logged.
        let _woken = self.work.try_send(());
    }
}

fn run(mut netlink: Netlink, waiting: &Receiver<()>) {
    while let Ok(()) = waiting.recv() {
        match netlink.request(request::delete_link_group(DOOMED_GROUP)) {
            Ok(Ok(())) => {}
            // They went together with their namespace.
            Ok(Err(refusal)) if refusal.errno == Errno::ENODEV => {}
            Ok(Err(refusal)) => warn!(%refusal, "cannot delete the veths of removed sandboxes"),
            Err(error) => warn!(%error, "cannot delete the veths of removed sandboxes"),
        }
    }
}
