//! The table of leases, `inet dwell_leases`: instances that are reached only for as long as they are lent to the node.
//!
//! `leased` holds their addresses, and `lent` those among them that are reached now, each with a time after which the
//! kernel takes it out: it needs nobody for that. A packet from or to an instance that is in the first and not in the second
//! is dropped before anything else is done with it, whoever sent it, the host itself included.
//!
//! It is a table of its own, so that nothing else that is written of the firewall touches it. An instance leaves `leased`
//! when it is said to be reached for ever, or with its sandbox; never because it is no longer spoken of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::message::{self, Change};
use super::{Firewall, Request};
use crate::linux::family::{Family, Octets};
use crate::linux::observe::{ip, ipv4};
use crate::{NetworkError, Reach, Until};

/// The table of leases.
pub(in crate::linux) const TABLE: &str = "dwell_leases";
const LEASED: &str = "leased";
const LENT: &str = "lent";
/// What comes into the host, or out of a sandbox, comes by.
const PASSING: &str = "passing";
/// What the host itself sends comes by.
const OWN: &str = "own";
/// Before everything else that there is.
const PRIORITY: i32 = -400;
/// How often a change is tried: an element may go by itself between the look and the change.
const TRIES: usize = 4;

/// The whole table, in place of what there is of it but the elements.
pub(super) fn table(families: &[Family]) -> String {
    let sets = families.iter().map(|family| {
        let (leased, lent, of) = (family.set(LEASED), family.set(LENT), family.address_type());
        format!(
            "add set inet {TABLE} {leased} {{ type {of}; }}\n\
             add set inet {TABLE} {lent} {{ type {of}; flags timeout; }}\n"
        )
    });
    let rules = |sides: &'static [&'static str]| -> String {
        let of = move |family: &Family| {
            let (ip, leased, lent) = (family.word(), family.set(LEASED), family.set(LENT));
            let rule = move |side| {
                format!("    {ip} {side} @{leased} {ip} {side} != @{lent} counter drop\n")
            };
            sides.iter().map(rule)
        };
        families.iter().flat_map(of).collect()
    };
    let (sets, passing, own) =
        (sets.collect::<String>(), rules(&["saddr", "daddr"]), rules(&["daddr"]));
    format!(
        "add table inet {TABLE}\n{sets}\
         add chain inet {TABLE} {PASSING} {{ type filter hook prerouting priority {PRIORITY}; policy accept; }}\n\
         add chain inet {TABLE} {OWN} {{ type filter hook output priority {PRIORITY}; policy accept; }}\n\
         flush chain inet {TABLE} {PASSING}\n\
         flush chain inet {TABLE} {OWN}\n\
         table inet {TABLE} {{\n  chain {PASSING} {{\n{passing}  }}\n  chain {OWN} {{\n{own}  }}\n}}\n"
    )
}

/// Removes the table.
pub(super) const DELETE: &str = "add table inet dwell_leases\ndelete table inet dwell_leases\n";

/// What the kernel has of leases in one family: when each instance ceases to be reached, from now.
type Held = BTreeMap<Ipv4Addr, Duration>;

impl Firewall {
    /// Makes it so that instances are reached until when it is said, in all families.
    pub(in crate::linux) fn set_leases(&mut self, all: Vec<Reach>) -> Result<(), NetworkError> {
        let result = self.try_to_set_leases(&all);
        self.leases = Some((all, self.range));
        result
    }

    /// The same as was said last, where instances have IPv6 addresses now and did not, or the reverse.
    pub(super) fn follow_leases(&mut self) -> Result<(), NetworkError> {
        match &self.leases {
            Some((all, range)) if *range != self.range => self.set_leases(all.clone()),
            _ => Ok(()),
        }
    }

    fn try_to_set_leases(&mut self, all: &[Reach]) -> Result<(), NetworkError> {
        let is_leased = |reach: &Reach| reach.until != Until::Ever;
        if !all.iter().any(is_leased) && self.leased(Family::V4)?.is_empty() {
            return Ok(());
        }
        let families: Vec<Family> = Family::all(self.range).collect();
        let is_there = |rules: usize, sides: usize| rules == sides * families.len();
        let passing = message::rules(&mut self.netfilter, TABLE, PASSING)?;
        let own = message::rules(&mut self.netfilter, TABLE, OWN)?;
        if !is_there(passing, 2) || !is_there(own, 1) {
            self.feed_beside(&table(&families))?;
        }
        for tried in 1..=TRIES {
            let mut changes = Vec::new();
            for &family in &families {
                let (leased, lent) = (self.leased(family)?, self.lent(family)?);
                changes.extend(changes_of(all, family, &leased, &lent, Instant::now()));
            }
            match self.commit(changes)? {
                Ok(()) => return Ok(()),
                // Its time was up before it could be taken out.
                Err(refusal) if refusal.errno == Errno::ENOENT && tried < TRIES => {}
                Err(refusal) => return Err(lending(refusal.into())),
            }
        }
        Ok(())
    }

    /// The sandbox of an instance is gone, and with it what could be reached.
    pub(in crate::linux) fn end_lease(&mut self, address: Ipv4Addr) -> Result<(), NetworkError> {
        for family in Family::all(self.range) {
            for set in [LEASED, LENT] {
                let key = family.octets(address);
                let changes =
                    message::change(TABLE, Change::Delete, &family.set(set), &[key.as_ref()]);
                match self.commit(changes)? {
                    Err(refusal) if refusal.errno != Errno::ENOENT => {
                        return Err(lending(refusal.into()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn leased(&mut self, family: Family) -> Result<BTreeSet<Ipv4Addr>, NetworkError> {
        let keys = message::keys(&mut self.netfilter, TABLE, &family.set(LEASED))?;
        Ok(keys.iter().filter_map(|key| instance(family, key)).collect())
    }

    fn lent(&mut self, family: Family) -> Result<Held, NetworkError> {
        let elements = message::expirations(&mut self.netfilter, TABLE, &family.set(LENT))?;
        let of = |(key, left): (Vec<u8>, Duration)| Some((instance(family, &key)?, left));
        Ok(elements.into_iter().filter_map(of).collect())
    }
}

/// What makes the sets of a family as it is said.
fn changes_of(
    all: &[Reach],
    family: Family,
    leased: &BTreeSet<Ipv4Addr>,
    lent: &Held,
    now: Instant,
) -> Vec<Request> {
    let (mut unleased, mut new, mut over, mut renewed) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for reach in all {
        let key = family.octets(reach.address);
        let (is_leased, left) = (leased.contains(&reach.address), lent.get(&reach.address));
        if reach.until == Until::Ever {
            unleased.extend(is_leased.then_some(key));
            over.extend(left.map(|_| key));
            continue;
        }
        new.extend((!is_leased).then_some(key));
        let wanted = match reach.until {
            Until::At(at) => Some(at.saturating_duration_since(now)),
            Until::AsSaid { most } => left.map(|left| (*left).min(most)),
            Until::Ever => None,
        };
        let wanted = wanted.filter(|wanted| *wanted >= Duration::from_millis(1));
        if matches!(reach.until, Until::AsSaid { .. }) && wanted == left.copied() {
            continue;
        }
        over.extend(left.map(|_| key));
        renewed.extend(wanted.map(|wanted| (key, wanted)));
    }
    let (leased, lent) = (family.set(LEASED), family.set(LENT));
    let change = |change, set: &str, keys: &[Octets]| {
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        message::change(TABLE, change, set, &keys)
    };
    // An element that is there keeps its time, however often it is added.
    let mut changes = change(Change::Delete, &lent, &over);
    changes.extend(change(Change::Delete, &leased, &unleased));
    changes.extend(change(Change::Add, &leased, &new));
    let renewed: Vec<(&[u8], Duration)> =
        renewed.iter().map(|(key, left)| (key.as_ref(), *left)).collect();
    changes.extend(message::add_for(TABLE, &lent, &renewed));
    changes
}

/// Whose address a key is.
fn instance(family: Family, key: &[u8]) -> Option<Ipv4Addr> {
    match family {
        Family::V4 => ipv4(key),
        Family::V6(_) => match ip(key)? {
            std::net::IpAddr::V6(address) => Some(dwell_core::net::ipv6::extract(address).1),
            std::net::IpAddr::V4(_) => None,
        },
    }
}

fn lending(source: std::io::Error) -> NetworkError {
    NetworkError::Kernel { action: "set until when instances are reached".to_owned(), source }
}
