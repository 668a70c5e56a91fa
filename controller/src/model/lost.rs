//! Instances that are put up elsewhere when their node is lost.
//!
//! A node that is not heard of may well be running what it has. What has a lease it keeps no longer than that says, by its
//! kernel (`dwell_planner::Leases` tells how); so an instance may be placed on another node once all of this is so:
//!
//! - its workload declares it (`on_lost: replace after T`), and its node has not been heard of for that long, by the steady
//!   clock of this controller, which counts from its own start at the latest;
//! - its node has acknowledged an assignment in which the instance has that lease, or a shorter one: a [`Fence`]. What was
//!   declared and has not reached the disk of the node proves nothing, nor does what was acknowledged in another history;
//! - no volume of it is there;
//! - at least half of the nodes are heard of. A controller that hears of few has probably lost its own network, and would
//!   pile up on the first nodes that return what the others are about to start again;
//! - no restore waits to be confirmed.
//!
//! The node that lost it finds that out when it returns: its assignment comes before anything is lent to it.

use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::id::{Incarnation, InstanceName, NodeName};
use dwell_core::node::NodeState;
use dwell_core::quantity::Millis;
use dwell_core::workload::{OnLost, WorkloadSpec};
use serde::{Deserialize, Serialize};

use super::object::{Instance, Link, Severity, Subject, Workload};
use super::{Model, Refusal};

/// That a node lets an instance be reached no longer than a lease says. Durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Which node.
    pub node: NodeName,
    /// Once the node has not been heard of for so long, the instance is not reached there for sure.
    pub after: Millis,
    /// The history in which the node has acknowledged it.
    pub incarnation: Incarnation,
}

impl Model {
    /// Refuses times that are shorter than what a node may be silent for.
    pub(super) fn check_on_lost(&self, spec: &WorkloadSpec) -> Result<(), Refusal> {
        let least = self.settings.unreachable_after;
        match spec.on_lost.replaced_after() {
            Some(after) if after < least => {
                Err(Refusal::ReplacedTooSoon { workload: spec.name.clone(), after, least })
            }
            _ => Ok(()),
        }
    }

    /// Workloads are about to be declared otherwise. Until a node has acknowledged that, it may go by the one or the other.
    pub(super) fn loosen_fences(&mut self, old: &Workload, new: &WorkloadSpec) {
        if old.spec.on_lost == new.on_lost {
            return;
        }
        let fenced: Vec<Arc<Instance>> = self
            .tables
            .instances_of(&new.name)
            .filter(|instance| instance.fence.is_some())
            .cloned()
            .collect();
        for instance in fenced {
            let fence = instance.fence.clone().zip(new.on_lost.replaced_after());
            let fence =
                fence.map(|(fence, after)| Fence { after: fence.after.max(after), ..fence });
            self.put_instance(Instance { fence, ..Instance::clone(&instance) });
        }
    }

    /// A node has acknowledged its assignment up to some revision: by it go all instances whose part of it has not changed
    /// since.
    pub(super) fn note_fences(&mut self, link: &Link) {
        let (node, acknowledged) = (&link.node, link.acknowledged);
        if self.volatile_only || self.is_unconfirmed() || acknowledged < self.started {
            return;
        }
        let unsaid: Vec<InstanceName> = match self.node_logs.get(node) {
            Some(log) => match log.since(acknowledged) {
                Ok(names) => names.cloned().collect(),
                Err(_) => return,
            },
            None => Vec::new(),
        };
        let incarnation = self.incarnation();
        for name in self.instances_on(node) {
            let Some(instance) = self.tables.instances().get(&name).cloned() else { continue };
            let Some(workload) = self.tables.workloads().get(name.workload()) else { continue };
            if instance.assigned_to() != Some(node) || unsaid.contains(&name) {
                continue;
            }
            let is_lent = link.keeps_leases && !instance.is_let_go();
            let after = workload.spec.on_lost.replaced_after().filter(|_| is_lent);
            let fence = after.map(|after| Fence { node: node.clone(), after, incarnation });
            if instance.fence != fence {
                self.put_instance(Instance { fence, ..Instance::clone(&instance) });
            }
        }
    }

    /// A node attaches whose agent keeps no leases, though an earlier one may have.
    pub(super) fn forget_fences(&mut self, node: &NodeName) {
        if self.volatile_only {
            return;
        }
        for name in self.instances_on(node) {
            let instance = self.tables.instances().get(&name).cloned();
            if let Some(instance) = instance.filter(|instance| instance.fence.is_some()) {
                self.put_instance(Instance { fence: None, ..Instance::clone(&instance) });
            }
        }
    }

    /// After what time without a word of its node an instance is not reached there for sure; `None` if that is not known.
    fn fenced_after(&self, instance: &Instance) -> Option<Millis> {
        let fence = instance.fence.as_ref()?;
        let is_good =
            Some(&fence.node) == instance.node.as_ref() && fence.incarnation == self.incarnation();
        is_good.then_some(fence.after)
    }

    /// Places elsewhere what is not reached any more on nodes that are lost.
    pub(super) fn replace_lost(&mut self, now: Timestamp) {
        if self.is_unconfirmed() || !self.hears_enough() {
            return;
        }
        let silent = self.last_heard.iter().map(|(node, &at)| (node, self.clock.steady.since(at)));
        let silent = silent.filter(|(_, silence)| *silence >= OnLost::AFTER_MIN.as_duration());
        let silent: Vec<(NodeName, Duration)> = silent
            .filter(|(node, _)| self.is_member(node))
            .map(|(node, silence)| (node.clone(), silence))
            .collect();
        for (node, silence) in silent {
            for name in self.instances_on(&node) {
                self.replace_if_due(&node, &name, silence, now);
            }
        }
    }

    fn replace_if_due(
        &mut self,
        node: &NodeName,
        name: &InstanceName,
        silence: Duration,
        now: Timestamp,
    ) {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        // What was let go stays where it is, found or not.
        if instance.rests() || instance.is_let_go() {
            return;
        }
        let Some(workload) = self.tables.workloads().get(name.workload()) else { return };
        let declared = workload.spec.on_lost.replaced_after();
        let Some((fenced, declared)) = self.fenced_after(&instance).zip(declared) else { return };
        let after = fenced.max(declared);
        if silence < after.as_duration() || self.is_pinned(&instance) {
            return;
        }
        let message = format!(
            "{node} has not been heard of for {after} and lets it be reached no more; {}",
            if instance.removing { "it is gone" } else { "it is placed on another node" }
        );
        let subject = Subject::Instance(name.clone());
        self.event(now, Severity::Warning, subject, "instance-replaced", message);
        self.take_from_the_dead(name, now);
    }

    /// Whether at least half of the nodes that instances live on are heard of.
    fn hears_enough(&self) -> bool {
        let homes = self.tables.nodes().values();
        let homes = homes.filter(|node| !node.removed && node.block.is_some());
        let (mut all, mut heard) = (0, 0);
        for node in homes {
            let link = self.tables.links().get(&node.name);
            all += 1;
            heard += usize::from(link.is_some_and(|link| link.state == NodeState::Ready));
        }
        heard * 2 >= all
    }

    /// What becomes of an instance if its node is lost, for people; nothing to say of one that is kept as every other.
    pub(super) fn if_lost(&self, workload: &Workload, instance: &Instance) -> Option<String> {
        let after = workload.spec.on_lost.replaced_after().filter(|_| !instance.rests())?;
        let node = instance.assigned_to()?;
        let link = self.tables.links().get(node);
        let keeps_leases = link.is_none_or(|link| link.session.is_none() || link.keeps_leases);
        Some(if self.is_pinned(instance) {
            format!("is kept if {node} is lost, for its volumes are there")
        } else if let Some(fenced) = self.fenced_after(instance) {
            let after = fenced.max(after);
            match self.hears_enough() {
                true => {
                    format!("is placed elsewhere once {node} has not been heard of for {after}")
                }
                false => format!(
                    "is not placed elsewhere although {node} may be lost: more than half of the nodes are not heard of"
                ),
            }
        } else if keeps_leases {
            format!(
                "is kept if {node} is lost: that node has not acknowledged yet that it may be placed elsewhere"
            )
        } else {
            format!(
                "is kept if {node} is lost: the agent there is of a version that cannot tell when to let go; upgrade it"
            )
        })
    }
}
