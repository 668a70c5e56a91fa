//! Our nftables table, `inet dwell`: who may send from which address, who may reach whom, and what is
//! masqueraded.
//!
//! The table is written by the `nft` program in one transaction, so that there is no moment without
//! rules, and always as a whole: what others changed in it is undone without having to be understood.
//! Its sets change with every sandbox, peer and policy; those changes go to the kernel directly, because
//! starting `nft` takes longer than making a whole sandbox.
//!
//! [`Firewall`] remembers what it has asked for, and the number of nftables' generation that this made. As
//! long as the kernel is still at that generation, nobody else has changed anything, and there is nothing
//! to write.
//!
//! `sources` holds pairs of veth and address; a packet of a sandbox that is not in it is dropped.
//! `nodes` holds the addresses of the peers, to which instances talk under their own address, and `tunnelled` those of
//! them that are reached through the [overlay](super::overlay). The other sets are those of [`super::isolation`].
//!
//! Instances that are lent to the node are told of in a [table of their own](leases), and so are those that have
//! [two sandboxes](flows).
//!
//! Where instances have IPv6 addresses, `sources` and the sets of isolation have twins of IPv6, which are never changed without
//! them.

mod connections;
mod flows;
mod leases;
mod message;
mod script;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::time::Duration;

use dwell_core::net::Ipv6Range;
use dwell_core::net::ipv6::extract;
use nix::errno::Errno;
use nix::libc;

use self::message::Change;
use super::family::{Family, ipv6};
use super::isolation::{self, Element, Set};
use super::netlink::{Netlink, Outcome, Refusal, Request};
use super::observe::ipv4;
use super::program::{self, Program};
use crate::{HostNetwork, IsolationDifference, NetworkError, Overlay, Reach};

pub(super) use self::flows::{MASK, Pair, TABLE as FLOWS, mark_of};
pub(super) use self::leases::TABLE as LEASES;
pub(super) use self::message::{NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NOTIFICATIONS, place};

pub(super) const TABLE: &str = "dwell";
const SOURCES: &str = "sources";
const NODES: &str = "nodes";
/// Those that are reached through the overlay.
const TUNNELLED: &str = "tunnelled";
/// What comes out of sandboxes comes by.
const SENT: &str = "sent";
/// What packets to the host itself come by.
const HOST: &str = "host";
/// What packets to instances come by, and from there those to isolated ones.
const INBOUND: &str = "inbound";
const ISOLATION: &str = "isolation";
/// What confined instances begin comes by.
const CONFINEMENT: &str = "confinement";

/// A veth in the host namespace and the address that may come out of it.
pub(super) type Source = (String, Ipv4Addr);

/// What the table says of other nodes. The addresses are in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Peers {
    /// The addresses of all, which instances reach under their own.
    pub(super) nodes: Vec<Ipv4Addr>,
    /// Of those that are reached through the overlay, which receives from them and from nobody else.
    pub(super) tunnelled: Vec<Ipv4Addr>,
    /// If it is needed.
    pub(super) overlay: Option<Overlay>,
}

/// The table, and what is known of it.
pub(super) struct Firewall {
    netfilter: Netlink,
    /// How long `nft` may take.
    limit: Duration,
    /// As last told; `None` as long as nobody has.
    peers: Option<Peers>,
    /// As last asked for, in order; `None` as long as nobody has, and what an earlier agent left must stay.
    isolation: Option<Vec<Element>>,
    /// What is in the table, unless somebody else has changed it.
    written: Option<Written>,
    /// What the table that was written last says of the overlay; `None` before the first.
    overlay: Option<Option<Overlay>>,
    /// Where the table that was written last has IPv6.
    range: Option<Ipv6Range>,
    /// How many connections it lets an instance have; `None` before the first.
    connections_max: Option<Option<NonZeroU32>>,
    /// Whether it was said that this kernel cannot count them.
    warned_of_counting: bool,
    /// See [`Self::ipv6`].
    ipv6: Option<Option<Ipv6Range>>,
    /// Until when instances are reached, as last said, and where they had IPv6 addresses then.
    leases: Option<(Vec<Reach>, Option<Ipv6Range>)>,
    /// The instances with two sandboxes, as last said, and where they had IPv6 addresses then.
    followed: Option<(BTreeSet<Pair>, Option<Ipv6Range>)>,
}

struct Written {
    host: HostNetwork,
    /// Who may send.
    sources: BTreeSet<Source>,
    /// The sets of isolation that have a rule.
    sets: BTreeSet<Set>,
    generation: u32,
}

impl Firewall {
    /// For the namespace of the calling thread.
    pub(super) fn open(limit: Duration) -> io::Result<Self> {
        let netfilter = Netlink::netfilter()?;
        Ok(Self {
            netfilter,
            limit,
            peers: None,
            isolation: None,
            written: None,
            overlay: None,
            range: None,
            connections_max: None,
            warned_of_counting: false,
            ipv6: None,
            leases: None,
            followed: None,
        })
    }

    /// Where sandboxes may have IPv6 addresses: the table knows of them, and who may reach them. `None` as long as that is
    /// not known: what they have is then as an earlier agent has left it, and so is the table.
    pub(super) fn ipv6(&self) -> Option<Option<Ipv6Range>> {
        self.ipv6
    }

    /// See [`Netlink::port`].
    pub(super) fn port(&self) -> io::Result<u32> {
        self.netfilter.port()
    }

    /// Whether the table is there, for `host`, and nobody has touched it since it was written.
    pub(super) fn is_intact(&mut self, host: &HostNetwork) -> Result<bool, NetworkError> {
        self.doubt()?;
        Ok(self.written.as_ref().is_some_and(|written| written.host == *host))
    }

    /// Forgets what was written if somebody else has changed anything since.
    fn doubt(&mut self) -> Result<(), NetworkError> {
        let generation = message::generation(&mut self.netfilter)?;
        self.written.take_if(|written| Some(written.generation) != generation);
        Ok(())
    }

    /// Writes the whole table.
    ///
    /// The elements of isolation go first, and are all in one transaction, so that who may reach an instance is
    /// never kept out meanwhile, nor somebody else let in.
    pub(super) fn write(
        &mut self,
        host: &HostNetwork,
        sources: &[Source],
        peers: Peers,
    ) -> Result<(), NetworkError> {
        self.written = None;
        let limit = self.limit_connections(host)?;
        let elements = self.isolation.take();
        let filled = elements.as_deref().map(|elements| self.fill(elements, host.ipv6)).transpose();
        self.isolation = elements;
        let (sets, before) = match filled? {
            Some((sets, generation)) => (Some(sets), generation),
            None => (None, message::generation(&mut self.netfilter)?),
        };
        let is_other = self.connections_max != Some(limit);
        let limiting = connections::rules(&host.cluster, host.ipv6, limit, is_other);
        let table = script::table(host, sources, &peers, sets.as_ref());
        self.feed(&(table + &limiting))?;
        self.connections_max = Some(limit);
        self.overlay = Some(peers.overlay);
        self.peers = Some(peers);
        self.range = host.ipv6;
        if sets.is_some() {
            self.ipv6 = Some(host.ipv6);
        }
        self.written = before.map(|before| Written {
            host: host.clone(),
            sources: sources.iter().cloned().collect(),
            sets: sets.unwrap_or_default(),
            generation: before.wrapping_add(1),
        });
        self.follow_leases()?;
        self.follow_on()
    }

    /// Makes `elements` all that is in their sets; returns these, and the generation that this makes.
    fn fill(
        &mut self,
        elements: &[Element],
        range: Option<Ipv6Range>,
    ) -> Result<(BTreeSet<Set>, Option<u32>), NetworkError> {
        let sets = isolation::sets(elements);
        let changes = || {
            let of = |family: Family| sets.iter().map(move |set| family.set(&set.name()));
            let flushes = Family::all(range).flat_map(of).map(|set| message::flush(TABLE, &set));
            flushes.chain(by_set(Change::Add, elements, range)).collect()
        };
        let mut before = message::generation(&mut self.netfilter)?;
        let mut outcome = self.commit(changes())?;
        if outcome.as_ref().is_err_and(|refusal| refusal.errno == Errno::ENOENT) {
            self.feed(&script::sets(&sets, range))?;
            before = message::generation(&mut self.netfilter)?;
            outcome = self.commit(changes())?;
        }
        outcome.map_err(isolating)?;
        let commits = u32::from(!elements.is_empty());
        Ok((sets, before.map(|before| before.wrapping_add(commits))))
    }

    /// Removes the table, if there is one, and forgets everything.
    pub(super) fn delete(&mut self) -> Result<(), NetworkError> {
        self.peers = None;
        self.isolation = None;
        self.written = None;
        self.connections_max = None;
        self.ipv6 = None;
        self.leases = None;
        self.followed = None;
        match self.feed(&[script::DELETE, leases::DELETE, flows::DELETE].concat()) {
            // Without the program there cannot be a table of ours.
            Err(NetworkError::ProgramMissing { .. }) => Ok(()),
            result => result,
        }
    }

    /// Lets `source` through; no change if it is let through already.
    ///
    /// `Ok(false)` if the table is not there, because the host was not prepared or somebody flushed it.
    pub(super) fn allow(&mut self, source: &Source) -> Result<bool, NetworkError> {
        self.doubt()?;
        if self.written.as_ref().is_some_and(|written| written.sources.contains(source)) {
            return Ok(true);
        }
        match self.commit(self.of_source(Change::Add, source))? {
            Err(refusal) if refusal.errno == Errno::ENOENT => Ok(false),
            Err(refusal) => {
                let action = format!("allow {} to send from {}", source.0, source.1);
                Err(NetworkError::Kernel { action, source: refusal.into() })
            }
            Ok(()) => {
                if let Some(written) = &mut self.written {
                    written.sources.insert(source.clone());
                }
                Ok(true)
            }
        }
    }

    /// No longer lets `source` through.
    pub(super) fn forbid(&mut self, source: &Source) -> Result<(), NetworkError> {
        if let Some(written) = &mut self.written {
            written.sources.remove(source);
        }
        // One after the other, as what is gone from one set is no reason to leave it in the other.
        for request in self.of_source(Change::Delete, source) {
            match self.commit(vec![request])? {
                Err(refusal) if refusal.errno != Errno::ENOENT => {
                    let action = format!("forbid {} to send from {}", source.0, source.1);
                    return Err(NetworkError::Kernel { action, source: refusal.into() });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn of_source(&self, change: Change, source: &Source) -> Vec<Request> {
        let of = |family: Family| {
            message::change(TABLE, change, &family.set(SOURCES), &[&source_key(source, family)])
        };
        Family::all(self.range).flat_map(of).collect()
    }

    /// Who may send, by the kernel; nobody if the table is not there.
    pub(super) fn sources(&mut self, family: Family) -> Result<BTreeSet<Source>, NetworkError> {
        let keys = message::keys(&mut self.netfilter, TABLE, &family.set(SOURCES))?;
        Ok(keys.iter().filter_map(|key| source_of(key, family)).collect())
    }

    /// Where the kernel does not hold what isolation was last set to. Nothing if nobody has set it.
    pub(super) fn isolation_differences(
        &mut self,
    ) -> Result<Vec<IsolationDifference>, NetworkError> {
        let Some(wanted) = &self.isolation else { return Ok(Vec::new()) };
        let mut sets = isolation::sets(wanted);
        // Sets that have nothing in them any more, and a rule.
        sets.extend(self.written.iter().flat_map(|written| &written.sets));
        let mut counts: BTreeMap<Ipv4Addr, [usize; 2]> = BTreeMap::new();
        for family in Family::all(self.range) {
            let mut held = Vec::new();
            for set in &sets {
                let keys = message::keys(&mut self.netfilter, TABLE, &family.set(&set.name()))?;
                held.extend(keys.iter().filter_map(|key| Element::of_key(*set, family, key)));
            }
            held.sort_unstable();
            let (missing, foreign) = isolation::difference(wanted, &held);
            for (which, elements) in [missing, foreign].iter().enumerate() {
                for element in elements {
                    counts.entry(element.instance()).or_default()[which] += 1;
                }
            }
        }
        let of_instance =
            |(address, [missing, foreign]): (Ipv4Addr, [usize; 2])| IsolationDifference {
                address: Some(address),
                declared:
                    "who may reach it, and whom it may reach, is in sets of the table `inet dwell`"
                        .to_owned(),
                found: format!(
                    "{missing} of their elements are missing, {foreign} do not belong there"
                ),
            };
        let mut found: Vec<_> = counts.into_iter().map(of_instance).collect();
        let protocols = Family::all(self.range).count();
        let chains = [INBOUND, ISOLATION, CONFINEMENT];
        for (chain, rules) in chains.into_iter().zip(isolation::rules(&sets, protocols)) {
            let there = message::rules(&mut self.netfilter, TABLE, chain)?;
            if there != rules && !wanted.is_empty() {
                found.push(IsolationDifference {
                    address: None,
                    declared: format!("chain {chain} of the table `inet dwell` has {rules} rules"),
                    found: format!("it has {there}"),
                });
            }
        }
        Ok(found)
    }

    /// What was last told of other nodes; `None` as long as nobody has.
    pub(super) fn peers(&self) -> Option<&Peers> {
        self.peers.as_ref()
    }

    /// Makes `peers` what the table says of other nodes. `Ok(false)` if it takes writing the table, which has them then.
    pub(super) fn set_peers(&mut self, peers: Peers) -> Result<bool, NetworkError> {
        // What could not be written is not there, however often it was told.
        if self.overlay != Some(peers.overlay) {
            self.peers = Some(peers);
            return Ok(false);
        }
        if self.peers.as_ref() == Some(&peers) {
            return Ok(true);
        }
        let sets = [(NODES, &peers.nodes), (TUNNELLED, &peers.tunnelled)];
        let changes = sets.into_iter().flat_map(|(set, addresses)| {
            let keys: Vec<_> = addresses.iter().map(Ipv4Addr::octets).collect();
            let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            [message::flush(TABLE, set)].into_iter().chain(message::change(
                TABLE,
                Change::Add,
                set,
                &keys,
            ))
        });
        let outcome = self.commit(changes.collect())?;
        let is_there = match outcome {
            Ok(()) => true,
            Err(refusal) if refusal.errno == Errno::ENOENT => false,
            Err(refusal) => {
                let action = format!("tell the firewall of {} nodes", peers.nodes.len());
                return Err(NetworkError::Kernel { action, source: refusal.into() });
            }
        };
        self.peers = Some(peers);
        Ok(is_there)
    }

    /// Makes `wanted`, which is in order, what isolation lets through, if that takes no more than some elements.
    /// `Ok(false)` if it takes writing the table, which has it all then.
    pub(super) fn set_isolation(&mut self, wanted: Vec<Element>) -> Result<bool, NetworkError> {
        self.doubt()?;
        let changes: Option<Vec<_>> = match (&self.isolation, &self.written) {
            (Some(before), Some(written)) if isolation::sets(&wanted).is_subset(&written.sets) => {
                let (delete, add) = isolation::difference(before, &wanted);
                let range = self.range;
                let mut changes = by_set(Change::Delete, &delete, range);
                changes.extend(by_set(Change::Add, &add, range));
                Some(changes)
            }
            _ => None,
        };
        let outcome = changes.map(|changes| self.commit(changes)).transpose()?;
        if let Some(Err(refusal)) = &outcome
            && refusal.errno != Errno::ENOENT
        {
            return Err(isolating(refusal.clone()));
        }
        self.isolation = Some(wanted);
        Ok(matches!(outcome, Some(Ok(()))))
    }

    /// Carries out `changes`, all or none.
    fn commit(&mut self, changes: Vec<Request>) -> Result<Outcome, NetworkError> {
        if changes.is_empty() {
            return Ok(Ok(()));
        }
        self.doubt()?;
        let outcome = message::transaction(&mut self.netfilter, changes);
        match (&outcome, &mut self.written) {
            (Ok(Ok(())), Some(written)) => {
                written.generation = written.generation.wrapping_add(1);
            }
            // It has changed nothing.
            (Ok(Err(_)), _) => {}
            _ => self.written = None,
        }
        outcome
    }

    /// As [`Firewall::feed`], of a script about other tables of ours: it makes the main one no less what it was.
    fn feed_beside(&mut self, script: &str) -> Result<(), NetworkError> {
        self.doubt()?;
        self.feed(script)?;
        if let Some(written) = &mut self.written {
            written.generation = written.generation.wrapping_add(1);
        }
        Ok(())
    }

    /// Has the `nft` program carry out `script`, all or nothing.
    fn feed(&self, script: &str) -> Result<(), NetworkError> {
        program::feed(self.program(), &["-f", "-"], script).map(drop)
    }

    fn program(&self) -> Program {
        Program { name: "nft", package: "nftables", limit: self.limit }
    }
}

/// Adds or deletes `elements`, which are in order, in all protocols.
fn by_set(change: Change, elements: &[Element], range: Option<Ipv6Range>) -> Vec<Request> {
    let mut requests = Vec::new();
    for elements in elements.chunk_by(|one, next| one.set == next.set) {
        let name = elements.first().map(|element| element.set.name()).unwrap_or_default();
        for family in Family::all(range) {
            let keys: Vec<_> = elements.iter().map(|element| element.key(family)).collect();
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            requests.extend(message::change(TABLE, change, &family.set(&name), &keys));
        }
    }
    requests
}

/// The key of an element of `sources`: an interface name padded to `IFNAMSIZ`, and an address.
fn source_key((veth, address): &Source, family: Family) -> Vec<u8> {
    let mut key = veth.as_bytes().to_vec();
    key.resize(libc::IFNAMSIZ, 0);
    key.extend(family.octets(*address).as_ref());
    key
}

/// Reads [`source_key`] back.
fn source_of(key: &[u8], family: Family) -> Option<Source> {
    let (name, address) = key.split_at_checked(libc::IFNAMSIZ)?;
    let name = name.split(|byte| *byte == 0).next()?;
    let address = match family {
        Family::V4 => ipv4(address)?,
        Family::V6(_) => extract(ipv6(address)?).1,
    };
    let source = (String::from_utf8(name.to_vec()).ok()?, address);
    (source_key(&source, family) == key).then_some(source)
}

fn isolating(refusal: Refusal) -> NetworkError {
    let action = "set who may reach isolated instances, and whom confined ones reach".to_owned();
    NetworkError::Kernel { action, source: refusal.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_key_is_a_padded_name_and_an_address() {
        let source = ("dw-0".to_owned(), Ipv4Addr::new(10, 80, 1, 5));
        let key = source_key(&source, Family::V4);
        assert_eq!(key, b"dw-0\0\0\0\0\0\0\0\0\0\0\0\0\x0a\x50\x01\x05");
        assert_eq!(source_of(&key, Family::V4), Some(source.clone()));
        assert_eq!(source_of(b"dw-0", Family::V4), None);
        let ipv6 = Family::of("fd00:5::/64".parse().unwrap());
        let key = source_key(&source, ipv6);
        assert_eq!(key.len(), 32);
        assert_eq!(source_of(&key, ipv6), Some(source));
        assert_eq!(source_of(&key, Family::of("fd00:6::/64".parse().unwrap())), None);
    }
}
