//! Notices that something of ours, or something ours depends on, has been changed by others.
//!
//! A thread listens to the kernel's notifications and counts, per kind of work, how often something may have
//! been [disturbed](super::disturb). It repairs nothing and remembers only how links
//! were: whoever reads [`Disturbances`] looks at the kernel again. A false alarm costs one look; silence is never proof, because the kernel removes
//! some routes without a word, which is why links and addresses that go, and links whose carrier comes and goes,
//! count as well.
//!
//! What our own sockets and programs have caused is left out, by their port numbers; but the kernel does not
//! give one with every message about a link, so that a veth of ours counts only when it goes or is set down.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;

use netlink_packet_core::NetlinkBuffer;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::disturb::{self, EVERYTHING, Kind, KnownLinks};
use super::listener::Listener;
use super::names::Names;
use super::netlink::Netlink;
use super::observe::Link;
use super::{nftables, program, request};
use crate::Disturbances;

/// How many are read before what they disturb is told.
const DATAGRAMS_AT_ONCE: usize = 64;

/// The thread lives as long as this does.
#[derive(Debug)]
pub(super) struct Watcher {
    _end: OwnedFd,
}

impl Watcher {
    /// For the namespace of the calling thread, and the names in the directory `names`. `own` are the
    /// ports of the sockets with which we make changes; `buffer_bytes` of notifications can wait. What is
    /// noticed goes to `counts`.
    pub(super) fn start(
        own: Vec<u32>,
        names: &Path,
        buffer_bytes: usize,
        counts: watch::Sender<Disturbances>,
    ) -> io::Result<Self> {
        let groups = [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_NEIGH,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV6_RULE,
            libc::RTNLGRP_NEXTHOP,
        ];
        let mut sources = Sources {
            routing: Listener::route(&groups, buffer_bytes)?,
            firewall: Listener::netfilter(&[nftables::NOTIFICATIONS], buffer_bytes)?,
            names: unless_exhausted(Names::watch(names))?,
            links: KnownLinks::default(),
        };
        // After the listeners are there: a change in between is reported, and one before is seen here.
        sources.links.start_with(&Netlink::route()?.dump(request::links, Link::parse)?);
        let (ended, end) = pipe2(OFlag::O_CLOEXEC)?;
        let thread = thread::Builder::new().name("dwell-watcher".to_owned());
        thread.spawn(move || {
            if let Err(error) = sources.run(&ended, &own, &counts) {
                warn!(%error, "no longer notified of changes to the network; only the periodic check is left");
            }
        })?;
        Ok(Self { _end: end })
    }
}

/// Everything that is listened to.
struct Sources {
    routing: Listener,
    firewall: Listener,
    /// Absent on a host that has no inotify instance left.
    names: Option<Names>,
    links: KnownLinks,
}

/// Does without a watch of names if the host is out of inotify instances or watches: a host on which other programs have taken
/// them all still gets its network.
fn unless_exhausted<T>(watching: io::Result<T>) -> io::Result<Option<T>> {
    let is_exhausted = |error: &io::Error| {
        let code = error.raw_os_error();
        [libc::EMFILE, libc::ENFILE, libc::ENOSPC].map(Some).contains(&code)
    };
    match watching {
        Err(error) if is_exhausted(&error) => {
            warn!(
                %error,
                "cannot watch the names of sandboxes: when somebody removes one, only the periodic check notices it; raise \
                 fs.inotify.max_user_instances and max_user_watches, and restart the agent"
            );
            Ok(None)
        }
        watching => watching.map(Some),
    }
}

impl Sources {
    fn run(
        mut self,
        ended: &OwnedFd,
        own: &[u32],
        counts: &watch::Sender<Disturbances>,
    ) -> io::Result<()> {
        let ready = |descriptor: &PollFd<'_>| descriptor.any().unwrap_or_default();
        loop {
            // What is not watched is as silent as the end.
            let names = self.names.as_ref().map_or(ended.as_fd(), AsFd::as_fd);
            let watched = [self.routing.as_fd(), self.firewall.as_fd(), names, ended.as_fd()];
            let mut watched = watched.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
            match poll(&mut watched, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                result => result?,
            };
            let [on_routing, on_firewall, on_names, on_end] = watched.each_ref().map(ready);
            if on_end {
                return Ok(());
            }
            let mut kinds = Vec::new();
            if on_routing {
                let links = &mut self.links;
                let heard = heard(&mut self.routing, |message, is_elsewhere| match is_elsewhere {
                    true => disturb::by_inside(message),
                    false if own.contains(&message.port_number()) => &[],
                    false => disturb::by_routing(message, links),
                })?;
                if heard.is_incomplete {
                    self.links.forget();
                }
                kinds.extend(heard.kinds);
            }
            if on_firewall {
                let heard = heard(&mut self.firewall, |message, _| {
                    let port = message.port_number();
                    let is_own = own.contains(&port) || program::was_started(port);
                    if is_own { &[] } else { disturb::by_firewall(message) }
                })?;
                kinds.extend(heard.kinds);
            }
            if on_names
                && let Some(names) = &mut self.names
                && names.is_one_lost()?
            {
                kinds.push(Kind::Sandboxes);
            }
            count(&kinds, counts);
        }
    }
}

/// What was heard of a listener.
#[derive(Default)]
struct Heard {
    kinds: Vec<Kind>,
    /// Whether notifications were lost.
    is_incomplete: bool,
}

/// Reads what there is, up to a limit, and says what it disturbs.
fn heard(
    listener: &mut Listener,
    mut disturbs: impl FnMut(&NetlinkBuffer<&[u8]>, bool) -> &'static [Kind],
) -> io::Result<Heard> {
    let mut heard = Heard::default();
    for _ in 0..DATAGRAMS_AT_ONCE {
        match listener.receive() {
            Ok(notifications) => {
                for message in notifications.messages() {
                    heard.kinds.extend(disturbs(&message, notifications.is_elsewhere));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Some notifications were lost: look at everything.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                heard.kinds.extend(EVERYTHING);
                heard.is_incomplete = true;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(heard)
}

fn count(kinds: &[Kind], counts: &watch::Sender<Disturbances>) {
    if kinds.is_empty() {
        return;
    }
    debug!(?kinds, "the network was disturbed");
    counts.send_modify(|counts| {
        counts.host += u64::from(kinds.contains(&Kind::Host));
        counts.sandboxes += u64::from(kinds.contains(&Kind::Sandboxes));
        counts.routes += u64::from(kinds.contains(&Kind::Routes));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_inotify_instances_has_a_network_all_the_same() {
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOSPC] {
            let failed: io::Result<()> = Err(io::Error::from_raw_os_error(code));
            assert_eq!(unless_exhausted(failed).unwrap(), None, "{code}");
        }
        let denied: io::Result<()> = Err(io::Error::from_raw_os_error(libc::EACCES));
        unless_exhausted(denied).unwrap_err();
        assert_eq!(unless_exhausted(Ok(7)).unwrap(), Some(7));
    }
}
