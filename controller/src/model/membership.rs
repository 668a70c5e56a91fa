//! Who is a node and who is not: identities that two hosts have, addresses that no node can have, hosts that were
//! removed and come back.
//!
//! An identity belongs to a machine, not to a directory. The record of a node has the mark of the machine that it is on
//! ([`HostMark`](dwell_core::host_mark::HostMark)); a stream from another machine is not served, whether the node is
//! heard of or not, until an operator admits the node again. Whichever of the two machines attaches next is the node then,
//! and no third one.
//!
//! Some machines cannot be told from others. For them, a run of an agent names itself by a random number: a run that
//! comes back after another one has attached shows that both live. Neither is served then until an operator has stopped
//! one of them and admits the node again.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::NodeName;
use dwell_core::instance::Counted;
use dwell_core::session::{Assignment, Hello, NodeNetwork};

use super::history::Superseded;
use super::object::{Elsewhere, Instance, Leaving, Link, Node, SessionId, Severity, Subject};
use super::record::Record;
use super::{Model, Refusal};

/// How many earlier runs of an agent are remembered. A copy that waits longer is found at its second turn.
const RUNS_MAX: usize = 16;
/// The longest pause between two events about the same returning host, in milliseconds.
const DISMISSED_EVERY_MS: u64 = 3_600_000;
/// How many returning hosts are remembered.
const DISMISSED_MAX: usize = 1_000;

/// A host that came back and whose name is another's by now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dismissed {
    /// When an event last told of it.
    pub(super) told: Timestamp,
    /// Where it is.
    pub(super) address: Ipv4Addr,
    /// How many instances it says that it was told to run.
    pub(super) instances: usize,
}

/// The runs of a node's agent.
#[derive(Debug, Default)]
pub(super) struct Runs {
    current: u64,
    earlier: VecDeque<u64>,
}

impl Runs {
    /// A run attaches; whether it is one that another has taken the place of.
    fn attach(&mut self, run: u64) -> bool {
        if run == 0 || run == self.current {
            return false;
        }
        if self.earlier.contains(&run) {
            return true;
        }
        if self.current != 0 {
            self.earlier.push_back(self.current);
            if self.earlier.len() > RUNS_MAX {
                self.earlier.pop_front();
            }
        }
        self.current = run;
        false
    }
}

impl Model {
    /// Whether a stream is the one that speaks for a node.
    ///
    /// # Errors
    /// [`Refusal`] says why it is not.
    pub fn check_session(&self, node: &NodeName, session: SessionId) -> Result<(), Refusal> {
        let link = self.tables.links().get(node);
        if link.is_some_and(|link| link.session == Some(session)) {
            return Ok(());
        }
        let known = self.tables.nodes().get(node);
        if known.is_some_and(|known| known.contested) {
            return Err(Refusal::NodeContested(node.clone()));
        }
        Err(Refusal::SessionSuperseded(node.clone()))
    }

    /// Whether a stream comes from the machine that a node is on. One that comes from another is noted once and refused
    /// without a word from then on.
    pub(super) fn check_host(
        &mut self,
        node: &Node,
        hello: &Hello,
        now: Timestamp,
    ) -> Result<Option<Refusal>, Refusal> {
        let (Some(known), Some(shown)) = (&node.host_mark, &hello.host_mark) else {
            return Ok(None);
        };
        let is_admitted = |other: &Elsewhere| other.admitted && other.host_mark == *shown;
        if known == shown || node.elsewhere.as_ref().is_some_and(is_admitted) {
            return Ok(None);
        }
        let address = hello.address;
        let refusal = Refusal::NodeElsewhere { node: node.name.clone(), address };
        let host_mark = shown.clone();
        let elsewhere = Some(Elsewhere { host_mark, address, admitted: false });
        if node.elsewhere == elsewhere || self.volatile_only {
            return Err(refusal);
        }
        self.put_node(Node { elsewhere, ..node.clone() });
        let subject = Subject::Node(node.name.clone());
        self.event(now, Severity::Warning, subject, "node-elsewhere", refusal.to_string());
        Ok(Some(refusal))
    }

    /// The machine that attaches is the node, and with that it is decided which of two is.
    pub(super) fn settle_host(
        &mut self,
        node: &Arc<Node>,
        hello: &Hello,
        now: Timestamp,
    ) -> Arc<Node> {
        let elsewhere = node.undecided().cloned();
        let host_mark = hello.host_mark.clone().or_else(|| node.host_mark.clone());
        // Whoever admitted a machine knew where it is.
        let is_admitted = |other: &&Elsewhere| {
            other.admitted
                && hello.host_mark.as_ref() == Some(&other.host_mark)
                && self.check_node_address(&node.name, other.address).is_ok()
        };
        let address =
            node.elsewhere.as_ref().filter(is_admitted).map_or(node.address, |other| other.address);
        let settled = Node { host_mark, elsewhere, address, ..Node::clone(node) };
        if settled == **node || self.volatile_only {
            return Arc::clone(node);
        }
        self.note_address(node, address, now);
        self.put_node(settled);
        self.tables.nodes().get(&node.name).map_or_else(|| Arc::clone(node), Arc::clone)
    }

    /// An operator has decided between two hosts: the one that attaches next is the node. One that is attached attaches
    /// again.
    pub(super) fn admit(&mut self, node: &mut Node) {
        node.contested = false;
        if let Some(elsewhere) = &mut node.elsewhere {
            elsewhere.admitted = true;
        }
        self.runs.remove(&node.name);
        // What the other machine has said of a restore does not count.
        self.claims.remove(&node.name);
        self.remains.remove(&node.name);
        if let Some(link) = self.tables.links().get(&node.name).cloned() {
            self.put_link(Link { session: None, reported: None, ..Link::clone(&link) });
        }
    }

    /// Whether a run of an agent shows that two hosts have the node's identity. Both are cut off then.
    pub(super) fn is_contested(
        &mut self,
        node: &Node,
        run: u64,
        address: Ipv4Addr,
        now: Timestamp,
    ) -> bool {
        if !self.runs.entry(node.name.clone()).or_default().attach(run) {
            return false;
        }
        let message = format!(
            "two hosts use this node's identity, one of them at {address}; neither is served. Stop the agent of one and \
             remove its data directory, then run `dwell node admit {}`",
            node.name
        );
        self.put_node(Node { contested: true, ..node.clone() });
        if let Some(link) = self.tables.links().get(&node.name).cloned() {
            self.put_link(Link { session: None, ..Link::clone(&link) });
        }
        let subject = Subject::Node(node.name.clone());
        self.event(now, Severity::Warning, subject, "node-contested", message);
        true
    }

    /// Refuses an address that no node can have, or that is another's.
    pub(super) fn check_node_address(
        &self,
        name: &NodeName,
        address: Ipv4Addr,
    ) -> Result<(), Refusal> {
        let is_special = address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || address.is_broadcast()
            || address.is_link_local()
            || address.octets()[0] == 0
            || address.octets()[0] >= 240;
        if is_special || self.settings.range.ranges().contains(address) {
            return Err(Refusal::NodeAddress { node: name.clone(), address });
        }
        let mut others = self.tables.nodes().values();
        let holder =
            others.find(|node| !node.removed && node.address == address && node.name != *name);
        match holder.map(|holder| holder.name.clone()) {
            Some(holder) => Err(Refusal::NodeAddressTaken { address, holder }),
            None => Ok(()),
        }
    }

    /// All others are to reach a node at this address; writes down that it is another one.
    pub(super) fn note_address(&mut self, node: &Node, address: Ipv4Addr, now: Timestamp) {
        if node.address != address {
            let message = format!("its address is {address} now, it was {}", node.address);
            let subject = Subject::Node(node.name.clone());
            self.event(now, Severity::Info, subject, "node-readdressed", message);
        }
    }

    /// An operator has said where a node is.
    pub(super) fn settle_claim(&mut self, name: &NodeName, address: Ipv4Addr) {
        if let Some(link) = self.tables.links().get(name).cloned()
            && link.claimed == Some(address)
        {
            self.put_link(Link { claimed: None, claim_told: false, ..Link::clone(&link) });
        }
    }

    /// A node that is heard of is removed by force: it is out at once, but what it runs is its own until it says that
    /// this has ended, or until somebody vouches for it.
    pub(super) fn expel(&mut self, node: &Node, now: Timestamp) {
        let names = self.instances_on(&node.name);
        for name in &names {
            let Some(instance) = self.tables.instances().get(name).cloned() else { continue };
            if instance.leaving.is_some() {
                continue;
            }
            let generation = self.next_generation(&instance);
            self.put_with(|revision| {
                Record::Instance(Arc::new(Instance {
                    generation,
                    leaving: Some(Leaving { since: revision, to: None }),
                    revision,
                    ..Instance::clone(&instance)
                }))
            });
        }
        let kept = if names.is_empty() { without_blocks(node) } else { node.clone() };
        self.put_node(Node {
            cordoned: true,
            draining: false,
            until: None,
            drain: None,
            reboot: None,
            removed: true,
            contested: false,
            elsewhere: None,
            ..kept
        });
        if let Some(link) = self.tables.links().get(&node.name).cloned() {
            self.put_link(Link { session: None, ..Link::clone(&link) });
        }
        let is_all_its_own = self.guests_on(&node.name).next().is_none();
        let message = match names.len() {
            0 => "removed".to_owned(),
            _ if is_all_its_own => "removed; what belongs to it ends".to_owned(),
            count => format!(
                "removed by force with {} while it was heard of; it is out. What it has is placed elsewhere once the host has \
                 said that it has ended, or when `dwell node rm --force {}` is run again to vouch for that",
                Counted(count),
                node.name
            ),
        };
        let subject = Subject::Node(node.name.clone());
        self.event(now, Severity::Warning, subject, "node-removed", message);
    }

    /// The instances that are, or may be, on a node.
    pub(super) fn instances_on(&self, node: &NodeName) -> Vec<dwell_core::id::InstanceName> {
        let there = self.tables.index().occupancy.get(node);
        there.map(|there| there.instances.iter().cloned().collect()).unwrap_or_default()
    }

    /// The last instance of a removed node has left it.
    pub(super) fn release_removed(&mut self, name: &NodeName, now: Timestamp) {
        let Some(node) = self.tables.nodes().get(name).cloned() else { return };
        if node.removed && node.block.is_some() && self.instances_on(name).is_empty() {
            self.lose_volumes(name, now);
            self.put_node(without_blocks(&node));
        }
    }

    /// How many instances are, or may be, on a node that was removed.
    #[must_use]
    pub fn left_on_removed(&self, name: &NodeName) -> usize {
        if self.is_member(name) { 0 } else { self.instances_on(name).len() }
    }

    /// What a host is told that is no node any more: nothing to do.
    #[must_use]
    pub fn dismissal(&self) -> Assignment {
        let network = NodeNetwork {
            closed: self.settings.closed,
            zone: self.settings.zone.clone(),
            ipv6: self.settings.ipv6,
            ..NodeNetwork::of_cluster(self.settings.range.ranges().clone())
        };
        Assignment {
            incarnation: self.incarnation(),
            term: self.term(),
            revision: self.revision,
            durable: self.tables.stored(),
            // A restored controller may have forgotten that the host has joined again.
            unconfirmed: self.is_unconfirmed(),
            ..Assignment::empty(network)
        }
    }

    /// A host is back whose name is another host's by now.
    pub(super) fn note_dismissed(&mut self, node: NodeName, enrolment: String, found: Dismissed) {
        let key = (node.clone(), enrolment);
        let Dismissed { told: now, address, .. } = found;
        if let Some(known) = self.dismissed.get_mut(&key)
            && now.0.saturating_sub(known.told.0) < DISMISSED_EVERY_MS
        {
            *known = Dismissed { told: known.told, ..found };
            return;
        }
        if self.dismissed.len() >= DISMISSED_MAX {
            self.dismissed.clear();
        }
        self.dismissed.insert(key, found);
        let message = format!(
            "a host that had this name before is back at {address}; it is told to run nothing. To use it again, join it \
             under another name"
        );
        self.event(now, Severity::Warning, Subject::Node(node), "old-host-returned", message);
    }
    /// The hosts that came back and whose name is still another's.
    pub(super) fn superseded(&self) -> Vec<Superseded> {
        let all = self.dismissed.iter().filter(|((name, enrolment), _)| {
            let node = self.tables.nodes().get(name);
            node.is_some_and(|node| node.enrolment != *enrolment)
        });
        let all = all.map(|((name, _), found)| Superseded {
            node: name.clone(),
            address: found.address,
            instances: found.instances,
        });
        all.collect()
    }
}

/// A node that gives out no addresses.
fn without_blocks(node: &Node) -> Node {
    Node { block: None, more_blocks: Vec::new(), retired_blocks: Vec::new(), ..node.clone() }
}
