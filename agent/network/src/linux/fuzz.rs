//! What must hold of what the kernel and `iptables` say, for any bytes: see `fuzz/`.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::str::from_utf8;

use super::nexthop::Nexthop;
use super::observe::{Address, Address6, Link, Neighbour, Route, namespace_number};
use super::{iptables, overlay, way};

/// Panics if what is given breaks the parser.
pub type Holds = fn(&[u8]);

/// By their names.
pub const TARGETS: &[(&str, Holds)] =
    &[("iptables_listing", iptables_listing), ("netlink", netlink)];

/// An answer of the kernel, read as each that we ask for.
fn netlink(payload: &[u8]) {
    drop(Link::parse(payload));
    let _ = namespace_number(payload);
    let _ = (Address::parse(payload), Address6::parse(payload));
    for route in [Route::parse(payload), Route::parse_ipv6(payload)].into_iter().flatten() {
        let _ = route.describe(|_| None);
    }
    let _ = Neighbour::parse(payload);
    black_box(Nexthop::parse(payload));
    drop(overlay::Device::parse(payload));
    let _ = way::Hop::parse(payload).and(way::Entry::parse(payload));
}

/// What `iptables -S` lists: what we would feed to `iptables-restore` names our own chains, whatever others' are called.
fn iptables_listing(bytes: &[u8]) {
    let Ok(listing) = from_utf8(bytes) else { return };
    let Ok(cluster) = "10.80.0.0/16".parse() else { return };
    iptables::fuzz(listing, cluster, &BTreeSet::from(["eth0".to_owned()]));
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_holds() {
        dwell_daemon::corpus::replay(super::TARGETS);
    }
}
