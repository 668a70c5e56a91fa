//! Instances that are put in the place of a container that dwell did not make.
//!
//! The workload is declared like any other, but for one thing: its instance says whose place it takes ([`Instance::adopts`]), which its node
//! is told until the instance has held. What is done about the container, and that it is put back if the instance does not hold, is the
//! node's affair; so is the memory of it.
//!
//! ```text
//!   adopt ─▶ declared, placed on that node ─┬─ its node says that it holds ──▶ like any other instance
//!                                           ├─ its node has put the container back ─▶ failed, until somebody removes the workload
//!                                           └─ somebody removes the workload ─▶ its node puts the container back ─▶ (deleted)
//! ```
//!
//! Until then nothing of the workload can be changed: there is nothing that could be gone back to.

use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::foreign::Adoption;
use dwell_core::id::{InstanceName, NodeName};
use dwell_core::instance::{InstanceStatus, Outcome, REASON_MAX, sanitize};
use dwell_core::node::NodeState;
use dwell_core::workload::WorkloadSpec;

use super::object::{Instance, Severity, Subject};
use super::plan::WorkloadPlan;
use super::refusal::NotAdopted;
use super::versions::FailedWith;
use super::volumes::{Volume, VolumeKey};
use super::{Model, Refusal};

impl Model {
    /// Declares a workload whose one instance is put in the place of a container.
    pub(super) fn adopt_container(
        &mut self,
        spec: WorkloadSpec,
        node: &NodeName,
        adoption: Box<Adoption>,
        by: &str,
        now: Timestamp,
    ) -> Result<WorkloadPlan, Refusal> {
        self.check_takes_over(node)?;
        let name = InstanceName::new(spec.name.clone(), 0);
        if self.tables.workloads().get(&spec.name).is_some() {
            return Err(NotAdopted::WorkloadExists(spec.name).into());
        }
        // One that nobody has seen was never made.
        let is_there = |one: &&Arc<Volume>| {
            adoption.volumes.contains_key(&one.key.name) && (one.seen || one.key.node != *node)
        };
        if let Some(there) = self.tables.volumes_of(&name).find(is_there) {
            return Err(NotAdopted::VolumeThere { volume: there.key.clone() }.into());
        }
        self.check_total(std::iter::once((&spec.name, spec.replicas)))?;
        let plan = self.declare(spec, true, by, now)?;
        match self.decide_at(&name, node) {
            Some(Ok(())) => {}
            Some(Err(reason)) => {
                return Err(NotAdopted::NoPlace { node: node.clone(), reason }.into());
            }
            None => return Err(NotAdopted::NoHome(node.clone()).into()),
        }
        let instance = self.tables.instances().get(&name).cloned();
        let instance = instance.ok_or_else(|| Refusal::NoInstance(name.clone()))?;
        let message = format!("is put in the place of container {} on {node}", adoption.name);
        self.put_instance(Instance { adopts: Some(adoption), ..Instance::clone(&instance) });
        self.place(&name, node, now);
        self.event(now, Severity::Info, Subject::Instance(name), "container-adopted", message);
        Ok(plan)
    }

    /// Whether the containers of a node can be adopted now.
    ///
    /// # Errors
    /// Why not.
    pub fn check_takes_over(&self, node: &NodeName) -> Result<(), Refusal> {
        let found = self.tables.nodes().get(node).filter(|node| !node.removed);
        if found.is_none() {
            return Err(Refusal::NoNode(node.clone()));
        }
        match self.tables.links().get(node) {
            Some(link) if link.state == NodeState::Ready && link.takes_over => Ok(()),
            Some(link) if link.state == NodeState::Ready => {
                Err(NotAdopted::OldAgent(node.clone()).into())
            }
            _ => Err(NotAdopted::NotReady(node.clone()).into()),
        }
    }

    /// Refuses to change an instance that has not held in the place of a container.
    pub(super) fn check_has_place(instance: &Instance) -> Result<(), Refusal> {
        match &instance.adopts {
            Some(adoption) if !instance.removing => Err(NotAdopted::Open {
                instance: instance.name.clone(),
                container: adoption.name.clone(),
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// Whether a copy on a node is one that an instance in the place of a container is to get.
    pub(super) fn is_taken_over(&self, volume: &VolumeKey) -> bool {
        let instance = self.tables.instances().get(&volume.instance);
        let instance = instance.filter(|instance| instance.node.as_ref() == Some(&volume.node));
        let adoption = instance.and_then(|instance| instance.adopts.as_deref());
        adoption.is_some_and(|adoption| adoption.volumes.contains_key(&volume.name))
    }

    /// Takes in what a node says of an instance that is put in the place of a container. Returns whether the container was put back.
    pub(super) fn judge_takeover(
        &mut self,
        instance: &mut Instance,
        status: &InstanceStatus,
        now: Timestamp,
    ) -> bool {
        let Some(adoption) = instance.adopts.clone() else { return false };
        let container = &adoption.name;
        let subject = Subject::Instance(instance.name.clone());
        let node = instance.node.as_ref().map(NodeName::as_str).unwrap_or_default();
        match status.verdict_on(instance.generation) {
            Some(Outcome::Held) => {
                let message = format!(
                    "holds in the place of container {container}, which stays stopped; `docker rm {container}` on {node} removes it and, \
                     with -v, its anonymous volumes"
                );
                instance.adopts = None;
                self.put_instance(instance.clone());
                self.event(now, Severity::Info, subject, "container-replaced", message);
                false
            }
            Some(Outcome::RolledBack { reason }) => {
                let version = instance.wanted.number;
                if instance.failed_with(version).is_none() {
                    let reason = sanitize(reason, REASON_MAX);
                    let message = format!(
                        "did not hold in the place of container {container}, which is started again: {reason}"
                    );
                    let failed = Some(FailedWith { version, reason });
                    self.put_instance(Instance { failed, ..instance.clone() });
                    self.event(now, Severity::Warning, subject, "container-put-back", message);
                }
                true
            }
            _ => false,
        }
    }
}
