//! The table of flows, `inet dwell_flows`: which of the two sandboxes of an instance a packet to it is for.
//!
//! While an instance has two sandboxes, its address leads to one of them, but both speak to others under it. So what each of
//! them sends is noted by both ends of its flow (`flows_a` and `flows_b`), and what comes in of a flow that is noted gets the
//! mark of that sandbox, which a [routing rule](super::super::rule) leads there. A first packet of TCP belongs to no
//! flow yet, whatever had its ports before: it goes where the address leads, or to the one that the socket's own mark is of.
//! A later one of no flow that is known is of a connection from before there were two, and is for the older one.
//!
//! Nothing of this depends on connection tracking, which most of what instances say goes without. The table is there only
//! as long as an instance has two sandboxes, and nobody else's packets are looked at.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dwell_core::sandbox::Slot;

use super::{Firewall, message};
use crate::NetworkError;
use crate::linux::family::Family;

/// The table of flows.
pub(in crate::linux) const TABLE: &str = "dwell_flows";
/// What comes into the host, or out of a sandbox, comes by.
const COMING: &str = "coming";
/// What the host itself sends comes by.
const OWN: &str = "own";
/// The addresses of instances that have two sandboxes; and those of which the one in a slot is the older one.
const FOLLOWED: &str = "followed";
const OLDER: &str = "older";
/// After destinations are what they really are (`dstnat`), and before anything is routed.
const PRIORITY: i32 = -90;
/// How many flows are followed of one slot. Of one more, packets go where the address leads.
const FLOWS_MAX: u32 = 262_144;
/// How long a flow is known after its last packet.
const FORGOTTEN_AFTER: &str = "1h";

/// The bits of a packet's mark that say for which of two sandboxes it is.
pub(in crate::linux) const MASK: u32 = 0x0600_0000;

/// See [`crate::mark_of`].
pub(in crate::linux) const fn mark_of(slot: Slot) -> u32 {
    match slot {
        Slot::A => 0x0200_0000,
        Slot::B => 0x0400_0000,
    }
}

/// An instance with two sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::linux) struct Pair {
    pub(in crate::linux) address: Ipv4Addr,
    /// The host's ends of their veths, in the order of the slots.
    pub(in crate::linux) veths: [String; 2],
    /// Which of them was there before the other.
    pub(in crate::linux) older: Slot,
}

/// Removes the table.
pub(super) const DELETE: &str = "add table inet dwell_flows\ndelete table inet dwell_flows\n";

impl Firewall {
    /// Makes `pairs` all that is followed, in all families.
    pub(in crate::linux) fn follow(&mut self, pairs: BTreeSet<Pair>) -> Result<(), NetworkError> {
        let families = Family::all(self.range).count();
        let wanted = if pairs.is_empty() { 0 } else { (Slot::ALL.len() + 1) * families };
        let there = message::rules(&mut self.netfilter, TABLE, COMING)?;
        let is_known = self.followed.as_ref() == Some(&(pairs.clone(), self.range));
        if there == wanted && (is_known || pairs.is_empty()) {
            self.followed = Some((pairs, self.range));
            return Ok(());
        }
        self.write_flows(pairs)
    }

    /// Writes what was said last again: somebody else has changed something, or instances have IPv6 addresses now and did not.
    pub(super) fn follow_on(&mut self) -> Result<(), NetworkError> {
        match self.followed.clone() {
            Some((pairs, _)) if !pairs.is_empty() => self.write_flows(pairs),
            _ => Ok(()),
        }
    }

    fn write_flows(&mut self, pairs: BTreeSet<Pair>) -> Result<(), NetworkError> {
        self.followed = None;
        let families: Vec<Family> = Family::all(self.range).collect();
        match pairs.is_empty() {
            true => self.feed_beside(DELETE)?,
            false => self.feed_beside(&table(&pairs, &families))?,
        }
        self.followed = Some((pairs, self.range));
        Ok(())
    }

    /// Whether anything is followed.
    pub(in crate::linux) fn follows(&self) -> bool {
        self.followed.as_ref().is_some_and(|(pairs, _)| !pairs.is_empty())
    }
}

/// The whole table, in place of what there is of it but the flows that are known.
fn table(pairs: &BTreeSet<Pair>, families: &[Family]) -> String {
    let mut script = format!("add table inet {TABLE}\n");
    for slot in Slot::ALL {
        script += &format!("add set inet {TABLE} of_{slot} {{ type ifname; }}\n");
    }
    for family in families {
        let (followed, of) = (family.set(FOLLOWED), family.address_type());
        script += &format!("add set inet {TABLE} {followed} {{ type {of}; }}\n");
        for slot in Slot::ALL {
            let (flows, older) = (flows(*family, slot), older(*family, slot));
            script += &format!(
                "add set inet {TABLE} {older} {{ type {of}; }}\n\
                 flush set inet {TABLE} {older}\n\
                 add set inet {TABLE} {flows} {{ type {of} . {of} . inet_proto . inet_service . inet_service; \
                 flags dynamic,timeout; timeout {FORGOTTEN_AFTER}; size {FLOWS_MAX}; }}\n"
            );
        }
        script += &format!("add chain inet {TABLE} {}\n", pick(*family));
        script += &format!("flush chain inet {TABLE} {}\n", pick(*family));
        script += &format!("flush set inet {TABLE} {followed}\n");
    }
    script += &format!(
        "add chain inet {TABLE} {COMING} {{ type filter hook prerouting priority {PRIORITY}; policy accept; }}\n\
         add chain inet {TABLE} {OWN} {{ type route hook output priority mangle; policy accept; }}\n\
         flush chain inet {TABLE} {COMING}\n\
         flush chain inet {TABLE} {OWN}\n"
    );
    for slot in Slot::ALL {
        script += &format!("flush set inet {TABLE} of_{slot}\n");
    }
    script += &format!("table inet {TABLE} {{\n");
    for family in families {
        script += &format!("  chain {} {{\n{}  }}\n", pick(*family), picked(*family));
    }
    let notes = families.iter().flat_map(|family| Slot::ALL.map(|slot| note(*family, slot)));
    let picks: Vec<_> = families.iter().map(|family| to_pick(*family)).collect();
    script +=
        &format!("  chain {COMING} {{\n{}{}  }}\n", notes.collect::<String>(), picks.concat());
    script += &format!("  chain {OWN} {{\n{}  }}\n}}\n", picks.concat());
    for (at, slot) in Slot::ALL.into_iter().enumerate() {
        let veths: Vec<_> = pairs.iter().map(|pair| format!("\"{}\"", pair.veths[at])).collect();
        script += &format!("add element inet {TABLE} of_{slot} {{ {} }}\n", veths.join(", "));
    }
    for family in families {
        for pair in pairs {
            let address = family.address(pair.address);
            for set in [family.set(FOLLOWED), older(*family, pair.older)] {
                script += &format!("add element inet {TABLE} {set} {{ {address} }}\n");
            }
        }
    }
    script
}

fn older(family: Family, slot: Slot) -> String {
    family.set(&format!("{OLDER}_{slot}"))
}

fn flows(family: Family, slot: Slot) -> String {
    family.set(&format!("flows_{slot}"))
}

fn pick(family: Family) -> String {
    family.set("pick")
}

/// Notes the flow of what a sandbox sends.
fn note(family: Family, slot: Slot) -> String {
    let (ip, followed, flows) = (family.word(), family.set(FOLLOWED), flows(family, slot));
    format!(
        "    meta l4proto {{ tcp, udp }} {ip} saddr @{followed} iifname @of_{slot} \
         update @{flows} {{ {ip} saddr . {ip} daddr . meta l4proto . th sport . th dport }}\n"
    )
}

fn to_pick(family: Family) -> String {
    let (ip, followed) = (family.word(), family.set(FOLLOWED));
    format!("    meta l4proto {{ tcp, udp }} {ip} daddr @{followed} goto {}\n", pick(family))
}

/// Marks what belongs to a flow of either.
fn picked(family: Family) -> String {
    let ip = family.word();
    let flow = format!("{ip} daddr . {ip} saddr . meta l4proto . th dport . th sport");
    let forget = Slot::ALL.map(|slot| format!("delete @{} {{ {flow} }}", flows(family, slot)));
    let first = format!("    tcp flags & (syn | ack) == syn {} return\n", forget.join(" "));
    let rest = Slot::ALL.map(|slot| {
        let (flows, mark) = (flows(family, slot), mark_of(slot));
        format!("    {flow} @{flows} meta mark set meta mark & {:#x} | {mark:#x} return\n", !MASK)
    });
    let older = Slot::ALL.map(|slot| {
        let (older, mark) = (older(family, slot), mark_of(slot));
        format!(
            "    meta l4proto tcp {ip} daddr @{older} meta mark set meta mark & {:#x} | {mark:#x}\n",
            !MASK
        )
    });
    first + &rest.concat() + &older.concat()
}
