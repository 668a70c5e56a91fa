//! Nodes: joining, being heard of, draining, leaving; and what time does by itself.
//!
//! ```text
//!                 heard of
//!         ┌──────────────────────────┐
//!         ▼                          │
//!   joined ──attach──▶ Ready ──▶ Unreachable ──▶ Down ──remove by force──▶ tombstone
//!   (Down)             └── not heard of for a while, for long ──┘
//! ```
//!
//! A node that is not heard of keeps its instances. It may well be running them, so nothing is placed elsewhere until an
//! operator vouches for its death by removing it by force, but for what is lent to it ([`super::lost`]). Their status is
//! unknown meanwhile.
//!
//! A removed node stays as a tombstone: should the host return, it is told to run nothing.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, Revision};
use dwell_core::instance::Counted;
use dwell_core::node::NodeState;
use dwell_core::quantity::Millis;
use dwell_core::session::Hello;
use ipnet::Ipv4Net;

use super::adoption::NewNode;
use super::command::{Join, NodeChange};
use super::object::{
    Instance, JoinToken, Link, Node, Observed, SessionId, Severity, Subject, TokenId, UpdateState,
};
use super::record::{Key, Record};
use super::{Model, Refusal};

/// The most tokens that may be valid at once.
const TOKENS_MAX: usize = 10_000;
/// The most labels a node may have.
const LABELS_MAX: usize = 200;
/// The longest key of a label, in bytes.
const LABEL_KEY_MAX: usize = 253;
/// The longest value of a label, in bytes.
const LABEL_VALUE_MAX: usize = 1024;

impl Model {
    pub(super) fn mint_token(
        &mut self,
        id: TokenId,
        digest: [u8; 32],
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let tokens = self.tables.tokens();
        if tokens.contains_key(&id) {
            return Err(Refusal::TokenExists);
        }
        if tokens.len() >= TOKENS_MAX {
            return Err(Refusal::TooManyTokens(tokens.len()));
        }
        self.put_with(|revision| {
            Record::Token(Arc::new(JoinToken { id, digest, expires_at, used_by: None, revision }))
        });
        let valid = Millis(expires_at.0.saturating_sub(now.0));
        let message = format!("a token was made with which one host can join, for {valid}");
        self.event(now, Severity::Info, Subject::Cluster, "token-made", message);
        Ok(())
    }

    /// Whether a token is known and unused. Cheap, for before anything is done for whoever shows it; whether it has
    /// expired is for [`Self::redeem_token`] to say.
    ///
    /// # Errors
    /// [`Refusal::TokenInvalid`].
    pub fn check_token(&self, id: &TokenId, digest: &[u8; 32]) -> Result<(), Refusal> {
        let token = self.tables.tokens().get(id);
        let is_good = token.is_some_and(|token| token.digest == *digest && token.used_by.is_none());
        if is_good { Ok(()) } else { Err(Refusal::TokenInvalid) }
    }

    /// A host becomes a node; one that was removed, again.
    pub(super) fn redeem_token(
        &mut self,
        join: Join,
        now: Timestamp,
    ) -> Result<Option<Ipv4Net>, Refusal> {
        let token = self.tables.tokens().get(&join.token).cloned();
        let valid = token.filter(|token| {
            token.digest == join.digest && token.used_by.is_none() && token.expires_at > now
        });
        let token = valid.ok_or(Refusal::TokenInvalid)?;
        if self.is_member(&join.name) {
            return Err(Refusal::NodeExists(join.name));
        }
        if self.left_on_removed(&join.name) > 0 {
            return Err(Refusal::NameInUse(join.name));
        }
        self.check_node_address(&join.name, join.address)?;
        let block = if join.routes_only { None } else { Some(self.free_block()?) };
        let name = join.name;
        self.put_with(|revision| {
            let used_by = Some(name.clone());
            Record::Token(Arc::new(JoinToken { used_by, revision, ..JoinToken::clone(&token) }))
        });
        let (enrolment, host_mark) = (join.enrolment, join.host_mark);
        let address = join.address;
        self.make_node(NewNode { name: name.clone(), address, block, enrolment, host_mark }, now);
        let message = match block {
            Some(block) => format!("joined from {address} with block {block}"),
            None => format!("joined from {address} for the routes"),
        };
        self.event(now, Severity::Info, Subject::Node(name), "node-joined", message);
        Ok(block)
    }

    /// Only the present holder of a name speaks for it, also if its stream was begun before another host got the name.
    pub(super) fn check_enrolment(&self, name: &NodeName, enrolment: &str) -> Result<(), Refusal> {
        let node = self.tables.nodes().get(name);
        if node.is_some_and(|node| node.enrolment != enrolment) {
            return Err(Refusal::SessionSuperseded(name.clone()));
        }
        Ok(())
    }

    /// A stream begins. Also for a removed node, so that it can be told to run nothing. A refusal within says why nothing
    /// is to be taken from it, when that was noted: another host has the same identity.
    pub(super) fn attach(
        &mut self,
        name: &NodeName,
        session: SessionId,
        hello: &Hello,
        now: Timestamp,
    ) -> Result<Option<Refusal>, Refusal> {
        let address = hello.address;
        let node = self.tables.nodes().get(name).cloned();
        let node = node.ok_or_else(|| Refusal::NoNode(name.clone()))?;
        // Whoever was removed and has nothing left is told to run nothing, one host like the other.
        let is_out = node.removed && self.instances_on(name).is_empty();
        if node.contested && !is_out {
            return Err(Refusal::NodeContested(name.clone()));
        }
        if !is_out {
            if let Some(refusal) = self.check_host(&node, hello, now)? {
                return Ok(Some(refusal));
            }
            if self.is_contested(&node, hello.run, address, now) {
                return Ok(Some(Refusal::NodeContested(name.clone())));
            }
        }
        let node = self.settle_host(&node, hello, now);
        let before = self.tables.links().get(name).cloned();
        let claimed = Some(address).filter(|address| node.address != *address && !node.removed);
        let is_told =
            before.as_ref().is_some_and(|link| link.claimed == claimed && link.claim_told);
        if let Some(address) = claimed {
            self.check_node_address(name, address)?;
            if !is_told {
                let (subject, message) =
                    (Subject::Node(name.clone()), claim_message(&node, address));
                self.event(now, Severity::Warning, subject, "node-claims-address", message);
            }
        }
        let known = before.as_ref().and_then(|link| link.capacity.clone());
        self.note_pressure(name, known.as_deref(), &hello.capacity, now);
        let first = known.is_none();
        self.put_link(Link {
            node: name.clone(),
            session: Some(session),
            keeps_leases: hello.keeps_leases,
            fetches_ahead: hello.fetches_ahead,
            carries: hello.carries,
            knows_blocks: hello.knows_blocks,
            knows_ranges: hello.knows_ranges,
            skills: hello.skills,
            lets_go: hello.lets_go,
            takes_over: hello.takes_over,
            moves_volumes: hello.moves_volumes,
            boot: hello.boot.clone(),
            state: before.map_or(NodeState::Down, |link| link.state),
            capacity: Some(Arc::new(hello.capacity.clone())),
            claimed,
            claim_told: claimed.is_some() && (is_told || !self.volatile_only),
            acknowledged: Revision(0),
            unserved: String::new(),
            reported: None,
            revision: Revision(0),
        });
        if !hello.keeps_leases {
            self.forget_fences(name);
        }
        if self.volatile_only {
            self.half_heard.insert(name.clone(), session);
        } else if first {
            // Only now its architecture is known, and with it what its instances wait for.
            self.reconsider(name);
        }
        Ok(None)
    }

    /// A stream ended. How sure we are of the node is a matter of time: most come back at once.
    pub(super) fn detach(&mut self, node: &NodeName, session: SessionId) {
        if let Some(link) = self.tables.links().get(node).cloned()
            && link.session == Some(session)
        {
            self.put_link(Link { session: None, ..Link::clone(&link) });
        }
    }

    pub(super) fn update_node(
        &mut self,
        name: &NodeName,
        change: NodeChange,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let old = match change.admit {
            // What was removed while it was heard of may have to say that its instances have ended.
            true => self.tables.nodes().get(name).cloned(),
            false => self.member(name).ok(),
        };
        let old = old.ok_or_else(|| Refusal::NoNode(name.clone()))?;
        let mut node = Node::clone(&old);
        if change.admit {
            self.admit(&mut node);
        }
        self.ask_to_drain(&mut node, &change);
        for key in &change.remove_labels {
            node.labels.remove(key);
        }
        node.labels.extend(change.set_labels);
        check_labels(&node)?;
        if let Some(pool) = change.pool {
            node.pool = pool;
        }
        if let Some(address) = change.address {
            self.check_node_address(name, address)?;
            node.address = address;
            self.settle_claim(name, address);
        }
        if node == *old {
            return Ok(());
        }
        if node.address != old.address {
            self.note_address(&old, node.address, now);
            if node == (Node { address: node.address, ..Node::clone(&old) }) {
                self.put_node(node);
                return Ok(());
            }
        }
        let told = match (old.draining, node.draining, old.cordoned, node.cordoned) {
            (true, true, ..) if old.until != node.until || old.drain != node.drain => {
                ("node-draining", "is drained for another time than was said before")
            }
            (false, true, ..) => ("node-draining", "is drained: its instances move elsewhere"),
            (.., true, false) => ("node-uncordoned", "takes new instances again"),
            (.., false, true) => ("node-cordoned", "takes no new instances"),
            _ if change.admit => {
                ("node-admitted", "is served again; whichever machine attaches next is the node")
            }
            _ => ("node-changed", "its labels or its pool were changed"),
        };
        self.event(now, Severity::Info, Subject::Node(name.clone()), told.0, told.1.to_owned());
        let has_ended = old.draining && !node.draining;
        self.put_node(node);
        if has_ended {
            self.release_from_drain(name);
        }
        self.reconsider(name);
        Ok(())
    }

    pub(super) fn remove_node(
        &mut self,
        name: &NodeName,
        force: bool,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let node = self.tables.nodes().get(name).cloned();
        let instances = self.instances_on(name);
        // One that was removed while it was heard of may have left something behind.
        let node = node.filter(|node| !node.removed || (force && !instances.is_empty()));
        let node = node.ok_or_else(|| Refusal::NoNode(name.clone()))?;
        if !force {
            // What belongs to a node goes with it, if the node hears that it is to end.
            let guests = self.guests_on(name).next().cloned();
            let unheard = instances.first().filter(|_| !self.is_ready(name)).cloned();
            if let Some(example) = guests.or(unheard) {
                let count = self.left_on(name).max(1);
                return Err(Refusal::NodeInUse { node: name.clone(), count, example });
            }
            if let Some((example, count)) = self.example_volume(name) {
                return Err(Refusal::NodeHasVolumes { node: name.clone(), count, example });
            }
        }
        let state = self.tables.links().get(name).map_or(NodeState::Down, |link| link.state);
        if !node.removed && state != NodeState::Down && !instances.is_empty() {
            // What it says of itself proves nothing, and it may be running all of it.
            self.expel(&node, now);
            return Ok(());
        }
        for instance in &instances {
            self.take_from_the_dead(instance, now);
        }
        self.lose_volumes(name, now);
        self.put_node(Node {
            block: None,
            more_blocks: Vec::new(),
            retired_blocks: Vec::new(),
            cordoned: true,
            draining: false,
            until: None,
            drain: None,
            reboot: None,
            removed: true,
            contested: false,
            elsewhere: None,
            ..Node::clone(&node)
        });
        if let Some(link) = self.tables.links().get(name).cloned() {
            // Its stream ends; should the host begin another one, it is told to run nothing.
            self.put_link(Link { session: None, ..Link::clone(&link) });
        }
        let message = match instances.len() {
            0 => "removed".to_owned(),
            count => format!(
                "removed by force with {}: what has no volumes there is placed elsewhere, the rest waits for them",
                Counted(count)
            ),
        };
        self.event(now, Severity::Warning, Subject::Node(name.clone()), "node-removed", message);
        Ok(())
    }

    /// An operator vouches that nothing runs on a node, or its leases are over: its instances are free to go elsewhere, or
    /// to wait for their volumes.
    pub(super) fn take_from_the_dead(&mut self, name: &InstanceName, now: Timestamp) {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        let mut instance = Instance::clone(&instance);
        if instance.leaving.is_none() {
            // A claim of the dead node, should it return, is older than this.
            instance.generation = self.next_generation(&instance);
        }
        if instance.update == UpdateState::Updating {
            // It starts anew as what it is to be; there is nothing to wait for.
            instance.update = UpdateState::Current;
        }
        self.delete(Key::Observed(name.clone()));
        self.delete(Key::Waiting(name.clone()));
        self.vacate(&instance, now);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Timestamp) {
        let (unreachable, down) = (self.settings.unreachable_after, self.settings.down_after);
        let silent: Vec<(NodeName, NodeState)> = self
            .last_heard
            .iter()
            .filter(|(node, _)| self.is_member(node))
            .filter_map(|(node, &heard)| {
                let age = self.clock.steady.since(heard);
                if age >= down.as_duration() {
                    Some((node.clone(), NodeState::Down))
                } else if age >= unreachable.as_duration() {
                    Some((node.clone(), NodeState::Unreachable))
                } else {
                    None
                }
            })
            .collect();
        for (node, state) in silent {
            // Only being heard of makes a node better.
            if self.tables.links().get(&node).is_some_and(|link| link.state < state) {
                self.set_node_state(&node, state, now);
            }
        }
        if self.volatile_only {
            return;
        }
        self.hear_again();
        self.end_drains(now);
        self.tend_volume_moves(now);
        self.tend_reboots(now);
        self.replace_lost(now);
        self.tend_jobs(now);
        self.end_headings(now);
        self.end_stuck_waits(now);
        self.expire_quarantine(now);
        self.free_retired_blocks(now);
        self.renew_ssh_budgets(now);
        let tokens = self.tables.tokens().values();
        let expired: Vec<TokenId> =
            tokens.filter(|token| token.expires_at <= now).map(|token| token.id.clone()).collect();
        for token in expired {
            self.delete(Key::Token(token));
        }
        self.expire_contexts(now);
    }

    /// How sure we are of a node has changed, and with it what is known of its instances.
    pub(super) fn set_node_state(&mut self, name: &NodeName, state: NodeState, now: Timestamp) {
        let Some(link) = self.tables.links().get(name).cloned() else { return };
        if link.state == state {
            return;
        }
        self.put_link(Link { state, ..Link::clone(&link) });
        let (severity, reason, message) = match state {
            NodeState::Ready if !self.is_member(name) => (
                Severity::Warning,
                "node-returned",
                "was removed, but its agent is back; it is told to run nothing",
            ),
            NodeState::Ready => (Severity::Info, "node-ready", "is heard of"),
            NodeState::Unreachable => (
                Severity::Warning,
                "node-unreachable",
                "has not been heard of for a while; what runs there is left alone",
            ),
            NodeState::Down => (
                Severity::Warning,
                "node-down",
                "has not been heard of for long; its instances stay its own until it returns or is \
                 removed by force",
            ),
        };
        self.event(now, severity, Subject::Node(name.clone()), reason, message.to_owned());
        self.touch_instances(name);
    }

    /// Watchers of instances see a change when their node is lost or found.
    fn touch_instances(&mut self, node: &NodeName) {
        let Some(occupancy) = self.tables.index().occupancy.get(node) else { return };
        let names: Vec<InstanceName> = occupancy.instances.iter().cloned().collect();
        for name in names {
            if let Some(observed) = self.tables.observed().get(&name).cloned() {
                self.put_with(|revision| {
                    Record::Observed(Arc::new(Observed { revision, ..Observed::clone(&observed) }))
                });
            }
        }
    }

    /// Whether a node has joined and not been removed.
    #[must_use]
    pub fn is_member(&self, name: &NodeName) -> bool {
        self.tables.nodes().get(name).is_some_and(|node| !node.removed)
    }

    /// A node that has not been removed.
    pub(super) fn member(&self, name: &NodeName) -> Result<Arc<Node>, Refusal> {
        let node = self.tables.nodes().get(name).filter(|node| !node.removed);
        node.cloned().ok_or_else(|| Refusal::NoNode(name.clone()))
    }
}

/// A node's own word on where it is moves no route and opens nothing: with another host's address it could have that host's
/// traffic sent to it, or cut instances off from it.
pub(super) fn claim_message(node: &Node, claimed: Ipv4Addr) -> String {
    format!(
        "says that its address is {claimed}; all others go on using {}. If {claimed} is right: `dwell node address {} \
         {claimed}`",
        node.address, node.name
    )
}

fn check_labels(node: &Node) -> Result<(), Refusal> {
    let plain = |text: &str| !text.chars().any(char::is_control);
    let wrong = node.labels.iter().enumerate().find(|(index, (key, value))| {
        *index >= LABELS_MAX
            || key.is_empty()
            || key.len() > LABEL_KEY_MAX
            || value.len() > LABEL_VALUE_MAX
            || key.starts_with("node.")
            || !plain(key)
            || key.contains(char::is_whitespace)
            || !plain(value)
    });
    match wrong {
        Some((_, (key, _))) => Err(Refusal::Label(key.chars().take(80).collect())),
        None => Ok(()),
    }
}
