//! Drains: which instance may leave a node next, what holds the others up, and how a drain ends.
//!
//! ```text
//!            drain                    deadline, and some are left
//!   (open) ────────▶ draining, cordoned ───────────────────────▶ cordoned, with why it was given up
//!      ▲                 │                                                    │
//!      └── uncordon, or ─┘◀─────────────────── drain ────────────────────────┘
//!          its time is over
//! ```
//!
//! A drain gives instances their turn as a rollout does (`rollout.rs`), with two rules of its own. Of one workload no
//! further instance leaves before the one that left last holds where it went ([`Evacuated`]), whatever `update.parallelism`
//! is and however many nodes are drained. And what was unwell when the drain began neither waits for others nor holds them up:
//! to move it takes nothing down.
//!
//! What a node has because every node has one (`per_node.rs`) stays there and runs on.
//!
//! Nothing is forced. A drain with a deadline is given up when that is over; what is left stays where it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::health::Health;
use dwell_core::id::{InstanceName, NodeName, Revision, WorkloadName};
use dwell_core::instance::{Counted, InstanceStatus, Phase, RunState};
use serde::{Deserialize, Serialize};

use super::Model;
use super::command::NodeChange;
use super::object::{Instance, Node, Severity, Subject, UpdateState, WaitingCause};
use super::reboots::RebootState;
use super::view::phase_word;

/// The most instances of a node that are shown with what holds them up.
pub const OBSTACLES_MAX: usize = 20;
/// How many of them a message names.
const NAMED_IN_MESSAGE: usize = 3;

/// What is known of a node's drain. Durable, with its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The revision before the one at which it began: tells one drain of a node from the next.
    pub since: Revision,
    /// When it is given up if instances are left; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Instances of the node that were unwell when it began.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unwell: BTreeSet<InstanceName>,
    /// That it was given up. Its node is not drained any more then, but still cordoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<GivenUp>,
}

/// That a drain came to its deadline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// When.
    pub at: Timestamp,
    /// How many instances were left.
    pub left: usize,
    /// What held them up, for people.
    pub why: String,
}

/// That a drain moved an instance, and that it has not held since. Durable, with its instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evacuated {
    /// Which node it left.
    pub node: NodeName,
    /// Which drain of that node: [`Drain::since`].
    pub drain: Revision,
    /// Whether it did well before.
    pub was_well: bool,
}

/// An instance that is still on a node that is drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Which one.
    pub instance: InstanceName,
    /// Why it is still there, for people.
    pub reason: String,
    /// The next step, a command.
    pub next: String,
}

/// What a rollout may do with the next instance.
pub(super) enum Turn {
    /// It gets its turn; with `only_leave`, to leave its node and for nothing else.
    Given {
        /// Nothing but leave.
        only_leave: bool,
    },
    /// It has to wait, but those after it need not.
    Later,
    /// None of its workload gets a turn.
    Nobody,
}

impl Model {
    /// Notes in a node what an operator wants of its drain.
    pub(super) fn ask_to_drain(&self, node: &mut Node, change: &NodeChange) {
        if let Some(draining) = change.draining {
            let is_new = !node.draining;
            node.draining = draining;
            node.cordoned |= draining;
            node.until = change.until.filter(|_| draining);
            let before = node.drain.take().filter(|_| draining && !is_new);
            let deadline = change.deadline;
            node.drain = draining.then(|| match before {
                Some(before) => Drain { deadline, ..before },
                None => Drain {
                    since: self.revision,
                    deadline,
                    unwell: self.unwell_on(&node.name),
                    given_up: None,
                },
            });
        }
        if let Some(cordoned) = change.cordoned {
            node.cordoned = cordoned;
            node.draining &= cordoned;
            // Whoever says so now has the last word.
            node.until = None;
            // What was said of a reboot that is over is out of date now.
            node.reboot.take_if(|reboot| !reboot.is_open() && reboot.state != RebootState::Done);
            if let Some(drain) = &mut node.drain {
                drain.deadline = None;
                drain.given_up = None;
            }
        }
        if !node.draining && node.drain.as_ref().is_some_and(|drain| drain.given_up.is_none()) {
            node.drain = None;
        }
    }

    pub(super) fn unwell_on(&self, node: &NodeName) -> BTreeSet<InstanceName> {
        let there = self.tables.index().occupancy.get(node);
        let names = there.into_iter().flat_map(|there| &there.instances);
        names.filter(|name| self.is_unwell(name)).cloned().collect()
    }

    /// Whether an instance that is to run does not work, as its node says.
    fn is_unwell(&self, name: &InstanceName) -> bool {
        let Some(instance) = self.tables.instances().get(name) else { return false };
        let Some(seen) = self.tables.observed().get(name) else { return false };
        let status = &seen.status;
        instance.run == RunState::Running
            && (self.is_failing(name)
                || matches!(status.phase, Phase::Backoff | Phase::Failed)
                || status.health == Health::Unhealthy
                || status.readiness == Health::Unhealthy)
    }

    /// The node that an instance is to leave because it is drained, if it may leave it at all.
    fn drained_from(&self, instance: &Instance) -> Option<&Arc<Node>> {
        let node = self.tables.nodes().get(instance.assigned_to()?)?;
        let leaves = node.draining && !instance.has_ended() && !self.is_pinned(instance);
        leaves.then_some(node)
    }

    /// Whether an instance has been unwell since before its node was drained.
    fn was_unwell(&self, node: &Node, name: &InstanceName) -> bool {
        let drain = node.drain.as_ref();
        drain.is_some_and(|drain| drain.unwell.contains(name)) && self.is_unwell(name)
    }

    /// What an instance that gets another node is to remember, if it is a drain that moves it.
    pub(super) fn evacuated(&self, instance: &Instance) -> Option<Evacuated> {
        let node = self.drained_from(instance)?;
        Some(Evacuated {
            node: node.name.clone(),
            drain: node.drain.as_ref().map(|drain| drain.since).unwrap_or_default(),
            was_well: !self.was_unwell(node, &instance.name),
        })
    }

    /// Whether the drain that moved an instance goes on.
    fn goes_on(&self, evacuated: &Evacuated) -> bool {
        self.tables.nodes().get(&evacuated.node).is_some_and(|node| {
            let since = node.drain.as_ref().map(|drain| drain.since).unwrap_or_default();
            node.draining && since == evacuated.drain
        })
    }

    /// The instance of a workload that a drain moved and that has not held since: no further one may leave before it does.
    fn awaited_by_drains(&self, workload: &WorkloadName) -> Option<&Arc<Instance>> {
        let moved = self.tables.index().evacuated.get(workload).into_iter().flatten();
        let moved = moved.filter_map(|name| self.tables.instances().get(name));
        let mut holds_up = moved.filter(|instance| {
            let is_awaited = |one: &Evacuated| one.was_well && self.goes_on(one);
            !instance.has_ended() && instance.evacuated.as_ref().is_some_and(is_awaited)
        });
        holds_up.next()
    }

    /// Whether an instance that is being changed holds up no other that has to leave its node.
    fn is_passed_over(&self, name: &InstanceName) -> bool {
        let instance = self.tables.instances().get(name);
        match instance.and_then(|instance| instance.evacuated.as_ref()) {
            Some(evacuated) if self.goes_on(evacuated) => !evacuated.was_well,
            _ => self.is_failing(name),
        }
    }

    /// Whether an instance may have its turn, with so many others that are being looked at.
    pub(super) fn turn_of(
        &self,
        workload: &WorkloadName,
        most: usize,
        name: &InstanceName,
        asked: usize,
    ) -> Turn {
        let changing = self.tables.index().updating.get(workload);
        // Those that somebody chose to go are changed beside the rest.
        let heading = self.tables.index().headings.get(workload).into_iter().flatten();
        let heading = heading.filter(|other| *other != name && self.has_to_go(other)).count();
        let count = asked + heading + changing.map_or(0, BTreeSet::len);
        let instance = self.tables.instances().get(name);
        let drained = instance.and_then(|instance| self.drained_from(instance));
        if drained.is_some_and(|node| self.was_unwell(node, name)) {
            return Turn::Given { only_leave: count >= most };
        }
        if drained.is_some() && self.awaited_by_drains(workload).is_some() {
            return Turn::Later;
        }
        let over = changing.into_iter().flatten().filter(|one| self.is_passed_over(one)).count();
        match count.saturating_sub(over) >= most {
            false => Turn::Given { only_leave: count >= most },
            true if self.has_unwell_to_move(workload) => Turn::Later,
            true => Turn::Nobody,
        }
    }

    fn has_unwell_to_move(&self, workload: &WorkloadName) -> bool {
        let drained = self.tables.index().draining.iter();
        let drained = drained.filter_map(|node| self.tables.nodes().get(node)?.drain.as_ref());
        let mut unwell = drained.flat_map(|drain| &drain.unwell);
        unwell.any(|name| name.workload() == workload)
    }

    /// A drain has ended, one way or the other: who waited for what it moved waits no longer.
    pub(super) fn release_from_drain(&mut self, node: &NodeName) {
        let evacuated = self.tables.index().evacuated.values().flatten();
        let instances = evacuated.filter_map(|name| self.tables.instances().get(name));
        let by_it =
            instances.filter(|one| one.evacuated.as_ref().is_some_and(|by| by.node == *node));
        let workloads: BTreeSet<WorkloadName> =
            by_it.map(|instance| instance.name.workload().clone()).collect();
        workloads.iter().for_each(|workload| self.agenda.go_on(workload));
    }

    /// Ends drains whose time is over, and gives up those whose deadline is.
    pub(super) fn end_drains(&mut self, now: Timestamp) {
        let closed = self.tables.nodes().values().filter(|node| !node.removed);
        let is_over = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        let (mut over, mut late) = (Vec::new(), Vec::new());
        for node in closed {
            if is_over(node.until) {
                over.push(Arc::clone(node));
            } else if node.draining && is_over(node.drain.as_ref().and_then(|one| one.deadline)) {
                late.push(Arc::clone(node));
            }
        }
        for node in over {
            let (name, node) = (node.name.clone(), Node::clone(&node));
            self.put_node(Node {
                cordoned: false,
                draining: false,
                until: None,
                drain: None,
                ..node
            });
            let message = "takes new instances again: the time for which it was drained is over";
            let subject = Subject::Node(name.clone());
            self.event(now, Severity::Info, subject, "node-uncordoned", message.to_owned());
            self.release_from_drain(&name);
            self.reconsider(&name);
        }
        for node in late {
            self.give_up_drain(&node, now);
        }
    }

    /// The deadline of a drain is over. If everything has left, it has done what was asked.
    fn give_up_drain(&mut self, node: &Arc<Node>, now: Timestamp) {
        let Some(drain) = node.drain.clone() else { return };
        let obstacles = self.obstacles(node);
        let left = self.left_on(&node.name);
        if left == 0 {
            let drain = Some(Drain { deadline: None, ..drain });
            return self.put_node(Node { drain, ..Node::clone(node) });
        }
        let why = in_words(&obstacles, left);
        let message = format!(
            "was not drained by its deadline and stays cordoned; {} left, nothing was forced: {why}",
            counted(left)
        );
        let subject = Subject::Node(node.name.clone());
        self.event(now, Severity::Warning, subject, "drain-failed", message);
        let given_up = Some(GivenUp { at: now, left, why });
        self.put_node(Node {
            draining: false,
            until: None,
            drain: Some(Drain { deadline: None, unwell: BTreeSet::new(), given_up, ..drain }),
            ..Node::clone(node)
        });
        self.release_from_drain(&node.name);
        self.reconsider(&node.name);
    }

    /// How many instances have yet to leave a node that is drained. What belongs to it stays.
    pub(super) fn left_on(&self, node: &NodeName) -> usize {
        self.guests_on(node).count()
    }

    /// What is still on a node that is drained, and why: what does not pass by itself first. At most [`OBSTACLES_MAX`].
    pub(super) fn obstacles(&self, node: &Node) -> Vec<Obstacle> {
        let names = self.guests_on(&node.name).filter(|_| node.draining);
        let mut names: Vec<&InstanceName> = names.collect();
        let leaves = |name: &InstanceName| {
            self.tables.instances().get(name).is_some_and(|instance| instance.leaving.is_some())
        };
        names.sort_by_key(|name| (!self.tables.waiting().contains_key(*name), leaves(name)));
        names.truncate(OBSTACLES_MAX);
        names.into_iter().filter_map(|name| self.obstacle(node, name)).collect()
    }

    /// Why an instance is still on a node that is drained; `None` if it is not there.
    pub(super) fn obstacle(&self, node: &Node, name: &InstanceName) -> Option<Obstacle> {
        let instance = self.tables.instances().get(name)?;
        let (reason, next) = self.why_still_there(node, instance);
        Some(Obstacle { instance: name.clone(), reason, next })
    }

    fn why_still_there(&self, node: &Node, instance: &Instance) -> (String, String) {
        let (name, node) = (&instance.name, &node.name);
        let explain = |name: &InstanceName| format!("dwell explain {name}");
        if !self.is_ready(node) {
            let next = format!("on {node}: systemctl status dwell-agent");
            return (format!("{node} is not heard of"), next);
        }
        if let Some(heading) = self.heading_in_words(instance) {
            return (heading, explain(name));
        }
        if let Some(leaving) = &instance.leaving {
            let reason = match &leaving.to {
                _ if instance.removing => "is being removed".to_owned(),
                Some(to) => format!("moves to {to} once {node} has let go of it"),
                None => format!("waits until {node} has let go of it"),
            };
            return (reason, explain(name));
        }
        if instance.is_let_go() {
            let reason = "was let go, and does not move";
            return (reason.to_owned(), format!("dwell adopt {name}"));
        }
        if let Some(far) = self.volume_move_in_words(instance) {
            return (far, explain(name));
        }
        if self.is_unconfirmed() {
            let reason = "nothing moves before the restore of the controller is confirmed";
            return (reason.to_owned(), "dwell restore confirm".to_owned());
        }
        if let Some(waiting) = self.tables.waiting().get(name) {
            let why = self.why(waiting);
            if !why.is_empty() {
                let next = match waiting.cause {
                    WaitingCause::Pinned => format!("dwell move {name} --volumes --wait"),
                    WaitingCause::Unplaced(_) => "dwell node ls".to_owned(),
                    _ => explain(name),
                };
                return (why, next);
            }
        }
        if let Some(other) = self.awaited_by_drains(name.workload()) {
            let from = other.evacuated.as_ref().map(|by| by.node.as_str()).unwrap_or_default();
            let what = format!("waits for {} to hold, which is moved off {from}", other.name);
            let next = match self.is_unwell(&other.name) {
                true => format!("dwell logs {}", other.name),
                false => explain(&other.name),
            };
            return (with_state(&what, &self.status(other)), next);
        }
        let changing = self.tables.index().updating.get(name.workload());
        let mut others = changing.into_iter().flatten();
        let other = others.find(|other| *other != name && !self.is_passed_over(other));
        match other.and_then(|other| self.tables.instances().get(other)) {
            Some(other) if instance.update == UpdateState::Due => {
                let what = format!("waits for {}, which has its turn", other.name);
                (with_state(&what, &self.status(other)), explain(&other.name))
            }
            _ => ("its turn comes next".to_owned(), explain(name)),
        }
    }

    /// What is to be said of a node that is drained.
    pub(super) fn drain_message(&self, node: &Node) -> String {
        let left = self.left_on(&node.name);
        if left == 0 {
            return "is drained".to_owned();
        }
        let obstacles = self.obstacles(node);
        match &obstacles[..] {
            [one] => format!("drains; {} is still there: {}", one.instance, one.reason),
            _ => format!(
                "drains; {left} instances are still there; {}",
                obstacles.first().map(ToString::to_string).unwrap_or_default()
            ),
        }
    }
}

impl GivenUp {
    /// What is to be said of its node.
    pub(super) fn message(&self, node: &NodeName) -> String {
        format!(
            "was not drained by its deadline; {} left: {}. `dwell node drain {node}` goes on, `dwell node uncordon {node}` \
             gives it back",
            counted(self.left),
            self.why
        )
    }
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.instance, self.reason)
    }
}

fn counted(left: usize) -> String {
    let verb = if left == 1 { "was" } else { "were" };
    format!("{} {verb}", Counted(left))
}

/// The first obstacles, for a message.
fn in_words(obstacles: &[Obstacle], left: usize) -> String {
    let named: Vec<String> =
        obstacles.iter().take(NAMED_IN_MESSAGE).map(ToString::to_string).collect();
    let more = left.saturating_sub(named.len());
    let named = named.join("; ");
    if more == 0 { named } else { format!("{named}; and {more} more") }
}

fn with_state(what: &str, status: &InstanceStatus) -> String {
    let word = match (status.health, status.readiness) {
        (Health::Unhealthy, _) => "unhealthy",
        (_, Health::Unhealthy) => "not ready",
        _ => phase_word(status.phase),
    };
    match status.message.as_str() {
        "" => format!("{what} ({word})"),
        message => format!("{what} ({word}: {message})"),
    }
}
