//! Under which address this host is reached by others, as its routing table has it.

use std::io;
use std::net::Ipv4Addr;
use std::thread;

use nix::libc;
use tokio::sync::oneshot;

use super::netlink::Netlink;
use super::nexthop::{Group, Nexthop, links_of, nexthops};
use super::observe::{Address, Route};
use super::{LOOPBACK, request};

/// The source address of packets that take the best default route: the one that the route names, or else the
/// first of its interface, or else one on `lo`, where hosts have theirs whose links have none.
///
/// The best one is of the main table; only where that has none, those count to which routing rules may lead. This asks at
/// the start and seldom after that, on a thread of its own.
///
/// # Errors
/// If there is no default route, no IPv4 address for it, or the kernel does not answer.
pub async fn underlay_address() -> io::Result<Ipv4Addr> {
    let (answer, answered) = oneshot::channel();
    // Here, since the socket is of the namespace of this thread.
    let mut netlink = Netlink::reader()?;
    thread::Builder::new().name("dwell-underlay".to_owned()).spawn(move || {
        // Whoever has stopped waiting does not want it.
        let _unwanted = answer.send(find(&mut netlink));
    })?;
    answered.await.map_err(io::Error::other)?
}

fn find(netlink: &mut Netlink) -> io::Result<Ipv4Addr> {
    let default = |payload: &[u8]| Route::of_any_table(payload).filter(Route::is_default);
    let defaults = netlink.dump(request::routes, default)?;
    let best =
        defaults.iter().min_by_key(|route| (route.table != libc::RT_TABLE_MAIN, route.metric));
    let best = best.ok_or_else(|| io::Error::other("there is no default route"))?;
    if let Some(source) = best.source {
        return Ok(source);
    }
    let objects = match best.nexthop {
        Some(_) => netlink.dump(nexthops, Nexthop::parse)?,
        None => Vec::new(),
    };
    let groups = match best.nexthop {
        Some(_) => netlink.dump(nexthops, Group::parse)?,
        None => Vec::new(),
    };
    let addresses = netlink.dump(request::addresses, Address::parse)?;
    let first_of = |link: u32| {
        let is_its_own = |it: &&Address| {
            it.link == link && (link != LOOPBACK || it.scope == libc::RT_SCOPE_UNIVERSE)
        };
        addresses.iter().find(is_its_own).map(|address| address.net.addr())
    };
    links_of(best, &objects, &groups)
        .into_iter()
        .chain([LOOPBACK])
        .find_map(first_of)
        .ok_or_else(|| io::Error::other("the default route's interface has no IPv4 address"))
}
