//! The two sandboxes that an instance has while a new container is tried beside the one that serves.
//!
//! ```text
//!  main table   10.80.1.5 dev dw-…00 ───────▶ the one that is reached
//!  table of a   10.80.1.5 dev dw-…00 ───────▶ sandbox a     by rule, for what has its mark
//!  table of b   10.80.1.5 dev dw-…01 ───────▶ sandbox b     by rule, for what has its mark
//! ```
//!
//! The route of the main table is replaced in one message, so that there is no packet which finds none. Which packets have
//! the mark of a sandbox is up to the [firewall](super::nftables): those of connections that it has begun or taken.
//!
//! Which instances have two is read off the veths. The rules and the firewall's part are there only as long as one has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use dwell_core::sandbox::Slot;
use nix::errno::Errno;

use super::family::Family;
use super::nftables::Pair;
use super::observe::Link;
use super::overlay::ADDRESS;
use super::owner::Owner;
use super::{METRIC_INSTANCE, request, send, sysctl, veth};
use crate::{NetworkError, ROUTE_PROTOCOL};

/// The table of routes to the sandboxes in a slot.
pub(super) const fn table_of(slot: Slot) -> u8 {
    match slot {
        Slot::A => ROUTE_PROTOCOL + 1,
        Slot::B => ROUTE_PROTOCOL + 2,
    }
}

impl Owner {
    /// Has the connections of each sandbox find it, where an instance has two.
    pub(super) fn follow_pairs(&mut self) -> Result<(), NetworkError> {
        let links = self.links()?;
        let pairs = pairs(&links);
        let followed = pairs.iter().map(|(address, links)| Pair {
            address: *address,
            veths: links.map(|link| link.name.clone()),
            // The kernel counts.
            older: if links[0].index < links[1].index { Slot::A } else { Slot::B },
        });
        let followed: BTreeSet<Pair> = followed.collect();
        self.ensure_slot_rules(!pairs.is_empty())?;
        let families: Vec<Family> = Family::all(self.firewall.ipv6().flatten()).collect();
        let mut routes = Vec::new();
        for (address, links) in &pairs {
            for (slot, link) in Slot::ALL.into_iter().zip(links) {
                routes.extend(families.iter().map(|family| {
                    let address = family.address(*address);
                    request::replace_link_route(
                        address,
                        link.index,
                        METRIC_INSTANCE,
                        table_of(slot),
                    )
                }));
            }
        }
        send(&mut self.route, routes, |_| false, || "lead to the second of two sandboxes".into())?;
        for link in pairs.values().flatten() {
            self.loosen(link)?;
        }
        self.firewall.follow(followed)
    }

    /// Has the reverse-path filter let the sandbox send to which the address does not lead: who may send from which address is
    /// decided by our own table. The stricter of "all" and the interface's own counts, but 2 (loose) counts as the highest;
    /// and where there is a filter at all, it drops what comes from a link without an address.
    fn loosen(&mut self, veth: &Link) -> Result<(), NetworkError> {
        let own = format!("net/ipv4/conf/{}/rp_filter", veth.name);
        let values = [sysctl::read(&own)?, sysctl::read("net/ipv4/conf/all/rp_filter")?];
        let is = |level: &str| values.iter().flatten().any(|value| value == level);
        if is("1") && !is("2") {
            self.sysctls.set_own(&own, "2")?;
        }
        if is("1") || is("2") {
            let add = request::add_host_address(veth.index, ADDRESS);
            let action = || format!("give interface {} an address", veth.name);
            send(&mut self.route, vec![add], |errno| errno == Errno::EEXIST, action)?;
        }
        Ok(())
    }
}

/// The veths of the instances that have two sandboxes, by their addresses.
fn pairs(links: &[Link]) -> BTreeMap<Ipv4Addr, [&Link; 2]> {
    let mut found: BTreeMap<Ipv4Addr, [Option<&Link>; 2]> = BTreeMap::new();
    let living =
        links.iter().filter(|link| veth::is_ours(link) && link.group != veth::DOOMED_GROUP);
    for link in living {
        if let Some(owner) = veth::owner(link) {
            let [a, b] = found.entry(owner.address).or_default();
            match owner.sandbox.slot {
                Slot::A => *a = Some(link),
                Slot::B => *b = Some(link),
            }
        }
    }
    let both = |(address, [a, b]): (Ipv4Addr, [Option<_>; 2])| Some((address, [a?, b?]));
    found.into_iter().filter_map(both).collect()
}
