//! Reboots of nodes: one after the other, or a few at once.
//!
//! ```text
//!             its turn           nothing is left there        another boot, heard of, its instances well
//!   Waiting ──────────▶ Draining ────────────────────▶ Rebooting ─────────────────────────────────▶ Done
//!      │                   │ not drained in time          │ refused, or not back in time
//!      │ another failed,   ▼                              ▼
//!      └──────────────▶ Failed, and what waits is Cancelled
//!        or taken back
//! ```
//!
//! All of it is durable, with the nodes: a controller that starts goes on where the last one was. A node is told to reboot by an
//! [order](RebootOrder) that names the boot that is to end, so one that was told twice, or long ago, does nothing in the next
//! boot. An order is of one history: after a restore from a backup what was under way is given up, and nothing is ordered.
//!
//! Whoever uncordons a node that is being drained for its reboot takes it out of that, and so ends the reboot.

use std::collections::{BTreeMap, BTreeSet};

use dwell_core::clock::Timestamp;
use dwell_core::id::{Incarnation, InstanceName, NodeName, Revision};
use dwell_core::instance::{Phase, RunState};
use dwell_core::quantity::Millis;
use dwell_core::session::{RebootFailed, RebootOrder};
use serde::{Deserialize, Serialize};

use super::command::{NodeChange, RebootPlan};
use super::object::{Instance, Node, SessionId, Severity, Subject};
use super::refusal::NotRebooted;
use super::{Model, Refusal};

/// The most nodes that one reboot may name.
pub const REBOOT_MAX: usize = 1_000;

/// A node's part in a reboot. Durable, with its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reboot {
    /// Which reboot: the revision before the one at which it was asked for.
    pub run: Revision,
    /// The history in which it was asked for.
    pub incarnation: Incarnation,
    /// Its place in the order.
    pub place: usize,
    /// What was asked for, but for the nodes.
    pub how: RebootHow,
    /// The node was cordoned before, and is left so.
    pub was_cordoned: bool,
    /// How far it is.
    pub state: RebootState,
    /// Since when.
    pub since: Timestamp,
}

/// How nodes are rebooted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebootHow {
    /// How many at once.
    pub parallelism: usize,
    /// How long each may take to be drained; `None` to leave its instances on it.
    pub drained_within: Option<Millis>,
    /// How long each may take to come back.
    pub back_within: Millis,
}

/// How far a node's reboot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RebootState {
    /// Its turn will come.
    Waiting,
    /// Its instances leave.
    Draining,
    /// It was told to reboot.
    Rebooting {
        /// Which order.
        number: u64,
        /// The boot that is to end.
        boot_id: String,
        /// When it has to be back.
        until: Timestamp,
        /// Instances on it that were not well before: they are not waited for.
        unwell: BTreeSet<InstanceName>,
    },
    /// It is back.
    Done,
    /// It failed; why.
    Failed(String),
    /// It will not be rebooted; why.
    Cancelled(String),
}

impl Reboot {
    /// Whether there is something left to do.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(
            self.state,
            RebootState::Waiting | RebootState::Draining | RebootState::Rebooting { .. }
        )
    }

    /// What is to be said of its node; empty if nothing.
    #[must_use]
    pub fn message(&self, node: &NodeName) -> String {
        match &self.state {
            RebootState::Waiting => "waits for its turn to reboot".to_owned(),
            RebootState::Draining => "is drained for its reboot".to_owned(),
            RebootState::Rebooting { .. } => "reboots".to_owned(),
            RebootState::Done => String::new(),
            RebootState::Failed(why) => {
                format!("its reboot failed: {why}; `dwell node uncordon {node}` gives it back")
            }
            RebootState::Cancelled(why) => format!("was not rebooted: {why}"),
        }
    }
}

impl Model {
    /// Begins to reboot nodes, all or none.
    pub(super) fn reboot_nodes(
        &mut self,
        plan: &RebootPlan,
        now: Timestamp,
    ) -> Result<u64, Refusal> {
        let count = plan.nodes.len();
        if count == 0 || count > REBOOT_MAX {
            return Err(NotRebooted::Number(count).into());
        }
        if let Some(name) = self.tables.index().rebooting.first() {
            return Err(NotRebooted::UnderWay(name.clone()).into());
        }
        let named: BTreeSet<&NodeName> = plan.nodes.iter().collect();
        if named.len() < count {
            return Err(NotRebooted::Twice.into());
        }
        for name in &plan.nodes {
            self.check_reboot(name)?;
        }
        let (run, incarnation) = (self.revision, self.incarnation());
        for (place, name) in plan.nodes.iter().enumerate() {
            let Some(node) = self.tables.nodes().get(name).cloned() else { continue };
            let reboot = Some(Reboot {
                run,
                incarnation,
                place,
                how: plan.how,
                was_cordoned: node.cordoned,
                state: RebootState::Waiting,
                since: now,
            });
            self.put_node(Node { reboot, ..Node::clone(&node) });
            let message = format!("is to be rebooted, number {} of {count}", place + 1);
            self.event(now, Severity::Info, Subject::Node(name.clone()), "reboot-asked", message);
        }
        self.tend_reboots(now);
        Ok(run.0)
    }

    /// Refuses a node that could not be rebooted now.
    fn check_reboot(&self, name: &NodeName) -> Result<(), Refusal> {
        let node = self.tables.nodes().get(name).filter(|node| !node.removed);
        let node = node.ok_or_else(|| Refusal::NoNode(name.clone()))?;
        if node.contested || node.undecided().is_some() {
            return Err(Refusal::NodeContested(name.clone()));
        }
        let link = self.tables.links().get(name);
        let link = link.filter(|link| link.session.is_some() && self.is_ready(name));
        let link = link.ok_or_else(|| NotRebooted::NotHeard(name.clone()))?;
        match &link.boot {
            None => Err(NotRebooted::OldAgent(name.clone()).into()),
            Some(boot) if !boot.may_reboot => Err(NotRebooted::NotAllowed(name.clone()).into()),
            Some(_) => Ok(()),
        }
    }

    /// Ends the reboot that is under way; returns which nodes were told to reboot and are still waited for.
    pub(super) fn cancel_reboot(&mut self, now: Timestamp) -> Result<Vec<NodeName>, Refusal> {
        if self.tables.index().rebooting.is_empty() {
            return Err(NotRebooted::NoneUnderWay.into());
        }
        self.stop_reboots("it was taken back", now);
        Ok(self.tables.index().rebooting.iter().cloned().collect())
    }

    /// Nothing more begins. What is drained is taken back; what was told to reboot is waited for.
    fn stop_reboots(&mut self, why: &str, now: Timestamp) {
        for name in self.tables.index().rebooting.clone() {
            let Some(reboot) = self.reboot_of(&name) else { continue };
            match reboot.state {
                RebootState::Waiting => {}
                RebootState::Draining => self.reopen_after_reboot(&name, &reboot, now),
                _ => continue,
            }
            self.set_reboot(&name, RebootState::Cancelled(why.to_owned()), now);
            let message = format!("is not rebooted: {why}");
            self.event(now, Severity::Info, Subject::Node(name), "reboot-cancelled", message);
        }
    }

    fn reboot_of(&self, name: &NodeName) -> Option<Reboot> {
        self.tables.nodes().get(name)?.reboot.clone()
    }

    fn set_reboot(&mut self, name: &NodeName, state: RebootState, now: Timestamp) {
        let Some(node) = self.tables.nodes().get(name).cloned() else { return };
        let reboot = node.reboot.clone().map(|reboot| Reboot { state, since: now, ..reboot });
        self.put_node(Node { reboot, ..Node::clone(&node) });
    }

    /// The node takes instances again, if it did before.
    fn reopen_after_reboot(&mut self, name: &NodeName, reboot: &Reboot, now: Timestamp) {
        let change = match reboot.was_cordoned {
            true => NodeChange { draining: Some(false), ..NodeChange::default() },
            false => NodeChange { cordoned: Some(false), ..NodeChange::default() },
        };
        // It is a member: it would have no part in a reboot otherwise.
        drop(self.update_node(name, change, now));
    }

    /// Goes on with the reboot that is under way.
    pub(super) fn tend_reboots(&mut self, now: Timestamp) {
        if self.tables.index().rebooting.is_empty() || self.is_unconfirmed() {
            return;
        }
        for name in self.tables.index().rebooting.clone() {
            let Some(reboot) = self.reboot_of(&name) else { continue };
            let failed = match &reboot.state {
                _ if reboot.incarnation != self.incarnation() => {
                    Some("the controller was restored from a backup meanwhile".to_owned())
                }
                RebootState::Draining => self.tend_drained(&name, &reboot, now),
                RebootState::Rebooting { .. } => self.tend_rebooting(&name, &reboot, now),
                _ => None,
            };
            if let Some(why) = failed {
                self.fail_reboot(&name, why, now);
            }
        }
        self.begin_reboots(now);
    }

    /// Once nothing is left on a node, it is told to reboot. Returns why that will not be.
    fn tend_drained(&mut self, name: &NodeName, reboot: &Reboot, now: Timestamp) -> Option<String> {
        let node = self.tables.nodes().get(name).cloned()?;
        if let Some(given_up) = node.given_up() {
            return Some(format!("it was not drained in time: {}", given_up.why));
        }
        if !node.draining {
            return Some("somebody ended its drain".to_owned());
        }
        if self.left_on(name) == 0 { self.order_reboot(name, reboot, now) } else { None }
    }

    /// Orders a node to reboot. One that is not heard of is waited for, no longer than it may take to come back.
    fn order_reboot(&mut self, name: &NodeName, reboot: &Reboot, now: Timestamp) -> Option<String> {
        let late = reboot.since.after(reboot.how.back_within.as_duration());
        let late = late.after(reboot.how.drained_within.unwrap_or_default().as_duration());
        match self.check_reboot(name) {
            Err(_) if !self.is_ready(name) && now < late => return None,
            Err(refusal) => return Some(refusal.to_string()),
            Ok(()) => {}
        }
        let boot_id = self.boot_of(name)?;
        let until = now.after(reboot.how.back_within.as_duration());
        let (number, unwell) = (self.revision.0, self.unwell_on(name));
        self.set_reboot(name, RebootState::Rebooting { number, boot_id, until, unwell }, now);
        let message = format!("is told to reboot; it has {} to come back", reboot.how.back_within);
        self.event(now, Severity::Info, Subject::Node(name.clone()), "node-rebooting", message);
        None
    }

    fn boot_of(&self, name: &NodeName) -> Option<String> {
        Some(self.tables.links().get(name)?.boot.as_ref()?.id.clone())
    }

    /// A node that is in another boot is back once its instances do as well as before. Returns why it will not be.
    fn tend_rebooting(
        &mut self,
        name: &NodeName,
        reboot: &Reboot,
        now: Timestamp,
    ) -> Option<String> {
        let RebootState::Rebooting { boot_id, until, unwell, .. } = &reboot.state else {
            return None;
        };
        let booted = self.boot_of(name).is_some_and(|boot| boot != *boot_id);
        let is_back = booted && self.is_ready(name);
        let waits_for = self.not_back_on(name, unwell).filter(|_| is_back);
        // A controller that was away has yet to hear of it. One that is heard of in the boot that was to end has not rebooted.
        let heard = self.last_heard.get(name).map(|&at| self.clock.steady.since(at));
        let may_be_back =
            !self.is_ready(name) && heard < Some(self.settings.unreachable_after.as_duration());
        if is_back && waits_for.is_none() {
            self.set_reboot(name, RebootState::Done, now);
            let message = "has rebooted and is heard of again".to_owned();
            self.event(now, Severity::Info, Subject::Node(name.clone()), "node-rebooted", message);
            self.reopen_after_reboot(name, reboot, now);
            return None;
        }
        if *until > now || (!is_back && may_be_back) {
            return None;
        }
        Some(match waits_for {
            Some(instance) => {
                format!("it came back, but {instance} was not ready by its deadline")
            }
            None if booted => "it rebooted, but was not heard of at its deadline".to_owned(),
            None => format!("it did not come back within {}", reboot.how.back_within),
        })
    }

    /// An instance on a node that was well and is not ready again.
    fn not_back_on(
        &self,
        name: &NodeName,
        unwell: &BTreeSet<InstanceName>,
    ) -> Option<InstanceName> {
        let there = self.tables.index().occupancy.get(name)?;
        let mut names = there.instances.iter().filter(|name| !unwell.contains(*name));
        names
            .find(|one| {
                self.tables.instances().get(*one).is_some_and(|instance| {
                    let is_to_run = instance.run == RunState::Running && !instance.has_ended();
                    let is_here = instance.leaving.is_none() && is_to_run;
                    is_here && !self.is_up(name, instance)
                })
            })
            .cloned()
    }

    /// Whether an instance is ready, or rests as it may, by what its node has said on its present stream.
    fn is_up(&self, node: &NodeName, instance: &Instance) -> bool {
        let session = self.tables.links().get(node).and_then(|link| link.session);
        self.tables.observed().get(&instance.name).is_some_and(|seen| {
            let rests = seen.status.phase == Phase::Stopped;
            session == Some(seen.session) && (seen.status.is_ready() || rests)
        })
    }

    fn fail_reboot(&mut self, name: &NodeName, why: String, now: Timestamp) {
        let message = format!("its reboot failed: {why}; no further node is rebooted");
        let subject = Subject::Node(name.clone());
        self.event(now, Severity::Warning, subject, "reboot-failed", message);
        self.set_reboot(name, RebootState::Failed(why), now);
        self.stop_reboots(&format!("the reboot of {name} failed"), now);
    }

    /// A node says that it cannot, or will not, do what it was ordered.
    pub(super) fn note_reboot_failed(
        &mut self,
        name: &NodeName,
        session: SessionId,
        failed: RebootFailed,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.check_session(name, session)?;
        let Some(reboot) = self.reboot_of(name) else { return Ok(()) };
        let RebootState::Rebooting { number, .. } = &reboot.state else { return Ok(()) };
        if (failed.incarnation, failed.number) == (reboot.incarnation, *number) {
            self.fail_reboot(name, failed.reason, now);
        }
        Ok(())
    }

    /// Gives the next nodes their turn.
    fn begin_reboots(&mut self, now: Timestamp) {
        let open = self.tables.index().rebooting.iter();
        let open = open.filter_map(|name| Some((name.clone(), self.reboot_of(name)?)));
        let mut waiting = BTreeMap::new();
        let mut under_way = 0;
        for (name, reboot) in open {
            match reboot.state {
                RebootState::Waiting => drop(waiting.insert(reboot.place, (name, reboot))),
                _ => under_way += 1,
            }
        }
        for (name, reboot) in waiting.into_values() {
            if under_way >= reboot.how.parallelism {
                return;
            }
            under_way += 1;
            if let Some(why) = self.begin_reboot(&name, &reboot, now) {
                return self.fail_reboot(&name, why, now);
            }
        }
    }

    /// Begins with one node. Returns why that cannot be.
    fn begin_reboot(&mut self, name: &NodeName, reboot: &Reboot, now: Timestamp) -> Option<String> {
        if let Err(refusal) = self.check_reboot(name) {
            return Some(refusal.to_string());
        }
        let was_cordoned = self.tables.nodes().get(name).is_some_and(|node| node.cordoned);
        let reboot = Reboot { was_cordoned, since: now, ..reboot.clone() };
        let change = match reboot.how.drained_within {
            Some(within) => NodeChange {
                draining: Some(true),
                deadline: Some(now.after(within.as_duration())),
                ..NodeChange::default()
            },
            None => NodeChange { cordoned: Some(true), ..NodeChange::default() },
        };
        if let Some(node) = self.tables.nodes().get(name).cloned() {
            let state = RebootState::Draining;
            let reboot = Some(Reboot { state, ..reboot.clone() });
            self.put_node(Node { reboot, ..Node::clone(&node) });
        }
        drop(self.update_node(name, change, now));
        match reboot.how.drained_within {
            Some(_) => self.tend_drained(name, &reboot, now),
            None => self.order_reboot(name, &reboot, now),
        }
    }

    /// What a node is to be told of its reboot; `None` if nothing.
    #[must_use]
    pub fn reboot_order(&self, name: &NodeName) -> Option<RebootOrder> {
        let reboot = self.tables.nodes().get(name)?.reboot.as_ref()?;
        let RebootState::Rebooting { number, boot_id, until, .. } = &reboot.state else {
            return None;
        };
        let is_of_now = reboot.incarnation == self.incarnation() && !self.is_unconfirmed();
        let is_due = self.boot_of(name).as_ref() == Some(boot_id) && *until > self.clock.wall;
        (is_of_now && is_due).then(|| RebootOrder {
            incarnation: reboot.incarnation,
            number: *number,
            boot_id: boot_id.clone(),
        })
    }
}

/// Nodes that are part of a reboot with something left to do.
pub(super) fn is_rebooting(node: &Node) -> bool {
    node.reboot.as_ref().is_some_and(Reboot::is_open)
}

/// Whether a node is away because it was told to reboot.
pub(super) fn is_told_to_reboot(node: &Node) -> bool {
    let reboot = node.reboot.as_ref();
    reboot.is_some_and(|reboot| matches!(reboot.state, RebootState::Rebooting { .. }))
}

/// What there is to say of a node's reboot.
pub(super) fn reboot_message(node: &Node) -> Option<String> {
    let message = node.reboot.as_ref()?.message(&node.name);
    (!message.is_empty()).then_some(message)
}
