//! Instances that are let go, and taken back.
//!
//! What counts is the journal on a host's disk: from when on it says that an instance is let go, until it says otherwise, no step
//! may touch a container of that instance there, and it says otherwise only if an operator has asked for it.

use std::collections::BTreeMap;

use dwell_agent_core::Call;
use dwell_controller::model::{Change, Command, InstanceFilter, Record};
use dwell_core::container::ContainerId;
use dwell_core::id::{Generation, InstanceName, WorkloadName};
use dwell_core::instance::Custody;
use dwell_core::workload::WorkloadSpec;
use dwell_planner::Step;

use super::membership::Standing;
use super::{Declared, World};
use crate::host::{Asked, LetGo};
use crate::truth::Violation;

/// The books about instances that were let go.
#[derive(Debug, Default)]
pub(super) struct Custodies {
    /// At which generation instances were last taken back.
    adopted: BTreeMap<InstanceName, Generation>,
    /// The one that an operator is taking back.
    adopting: Option<InstanceName>,
}

impl World {
    /// An agent does something: not to what is let go. What it was asked for before that was written down is on its way.
    pub(super) fn check_let_be(&mut self, host: usize, asked: Asked, call: &Call) {
        let (name, what) = match call {
            Call::EndUnlisted { instance } => (instance, "EndUnlisted".to_owned()),
            Call::Step { instance, step, remains, .. } => {
                let touches = match step {
                    Step::Record(_) | Step::RepairSandbox { .. } => !remains.is_empty(),
                    _ => true,
                };
                if !touches {
                    return;
                }
                (instance, format!("{step:?}"))
            }
            _ => return,
        };
        let one = &self.hosts[host];
        let held = one.agent.as_ref().and_then(|agent| agent.held());
        let is_ordered = held.is_some_and(|held| held.instances.contains_key(name));
        if !is_ordered && self.containers_of(host, name).is_empty() {
            // Somebody has removed its container, and it is nobody's any more: what is left of it goes.
            return;
        }
        let let_go = one.let_go.get(name);
        // What the engine does not know of it ends before it is looked after again.
        let adopted = self.custodies.adopted.get(name);
        let is_adopted = let_go.is_some_and(|let_go| adopted >= Some(&let_go.at));
        if is_adopted && matches!(call, Call::EndUnlisted { .. }) {
            return;
        }
        if let Some(LetGo { at, .. }) = let_go.filter(|let_go| asked > let_go.since) {
            let what = format!("{name} was let go on host {host} at {at}, and gets {what}");
            self.violate(Violation { rule: "let go", what });
        }
    }

    /// A journal was written, or is gone.
    pub(super) fn note_let_go(
        &mut self,
        host: usize,
        asked: Asked,
        name: &InstanceName,
        step: &Step,
    ) {
        let at = match step {
            Step::Record(journal) => journal.let_go,
            Step::Forget => None,
            _ => return,
        };
        let before = self.hosts[host].let_go.remove(name);
        match (at, before) {
            (Some(at), before) => {
                let since = before.map_or(asked, |before| before.since);
                self.hosts[host].let_go.insert(name.clone(), LetGo { at, since });
            }
            (None, Some(before)) if matches!(step, Step::Record(_)) => {
                let adopted = self.custodies.adopted.get(name);
                if adopted.is_none_or(|adopted| *adopted < before.at) {
                    let what = format!(
                        "{name} was let go on host {host} at {}, and is looked after again, which nobody has asked for",
                        before.at
                    );
                    self.violate(Violation { rule: "let go", what });
                }
            }
            (None, _) => {}
        }
    }

    /// What commits say of instances that are let go, or were.
    pub(super) fn note_custody(&mut self, changes: &[Change]) {
        for change in changes {
            self.trace_custody(change);
            match (&change.old, &change.new) {
                (Some(Record::Instance(old)), Some(Record::Instance(new))) => {
                    let Custody::Adopted(at) = new.custody else { continue };
                    if old.custody != new.custody
                        && self.custodies.adopting.as_ref() != Some(&new.name)
                    {
                        let what = format!("{} is taken back, which nobody asked for", new.name);
                        self.violate(Violation { rule: "let go", what });
                    }
                    self.custodies.adopted.insert(new.name.clone(), at);
                }
                // Nodes say that they have let go of something, which a restored controller has forgotten.
                (Some(Record::Workload(old)), Some(Record::Workload(new)))
                    if !self.operating && !new.spec.placement.one_per_node =>
                {
                    if let Some(declared) = self.declared.get_mut(&new.spec.name)
                        && new.spec.replicas < old.spec.replicas
                    {
                        declared.spec.replicas = new.spec.replicas;
                    }
                }
                _ => {}
            }
        }
    }

    fn trace_custody(&mut self, change: &Change) {
        match (&change.old, &change.new) {
            (Some(Record::Instance(old)), Some(Record::Instance(new)))
                if old.custody != new.custody =>
            {
                self.note(|| format!("controller: {} is {:?}", new.name, new.custody));
            }
            (old, Some(Record::Workload(new))) => {
                let before = match old {
                    Some(Record::Workload(old)) => Some(old.spec.replicas),
                    _ => None,
                };
                if before != Some(new.spec.replicas) {
                    self.note(|| {
                        format!(
                            "controller: {} has {} instances, not {before:?}",
                            new.spec.name, new.spec.replicas
                        )
                    });
                }
            }
            _ => {}
        }
    }

    /// A controller starts: what it was asked to take back without an answer is known now.
    pub(super) fn recall_adopted(&mut self) {
        let Some(model) = &self.controller.model else { return };
        for view in model.instances(&InstanceFilter::default()) {
            if let Custody::Adopted(at) = view.instance.custody {
                self.custodies.adopted.insert(view.instance.name.clone(), at);
            }
        }
    }

    /// A controller has crashed, and may have taken note of what nodes have let go before.
    pub(super) fn doubt_let_go(&mut self) {
        let let_go = self.hosts.iter().flat_map(|host| host.let_go.keys());
        let workloads: Vec<WorkloadName> = let_go.map(|name| name.workload().clone()).collect();
        self.unsure.extend(workloads);
    }

    pub(super) fn dissociate(&mut self, name: &InstanceName) {
        let command = Command::DissociateInstances([name.clone()].into());
        self.operate(name.workload(), command, |declared| fewer_by(1, declared));
    }

    /// Returns whether it is looked after from now on.
    pub(super) fn adopt(&mut self, name: &InstanceName) -> bool {
        self.custodies.adopting = Some(name.clone());
        let command = Command::AdoptInstances([name.clone()].into());
        let done = self.operate(name.workload(), command, |declared| {
            declared.map(|one| {
                let replicas = one.spec.replicas.saturating_add(1);
                Declared { spec: WorkloadSpec { replicas, ..one.spec }, ..one }
            })
        });
        self.custodies.adopting = None;
        done
    }

    /// The instances that operators see to be let go.
    fn all_let_go(&self) -> Vec<InstanceName> {
        let model = self.controller.model.iter();
        let shown = model.flat_map(|model| model.instances(&InstanceFilter::default()));
        let let_go = shown.filter(|view| view.instance.is_let_go());
        let_go.map(|view| view.instance.name.clone()).collect()
    }

    pub(super) fn pick_let_go(&self, pick: u8) -> Option<InstanceName> {
        let all = self.all_let_go();
        all.get(usize::from(pick) % all.len().max(1)).cloned()
    }

    pub(super) fn is_let_go_of(&self, name: &InstanceName) -> bool {
        let model = self.controller.model.as_ref();
        model.and_then(|model| model.instance(name)).is_some_and(|view| view.instance.is_let_go())
    }

    fn containers_of(&self, host: usize, name: &InstanceName) -> Vec<ContainerId> {
        let all = self.hosts[host].engine.containers.iter();
        let own = all.filter(|(_, real)| !real.foreign && real.instance == *name);
        own.map(|(id, _)| id.clone()).collect()
    }

    /// The faults have stopped: operators take back what is let go, or remove it, also where no node is known to have it.
    pub(super) fn end_custody(&mut self) {
        for name in self.all_let_go() {
            let is_removed = (self.scenario.seed + u64::from(name.ordinal())).is_multiple_of(3);
            if !is_removed && self.adopt(&name) {
                continue;
            }
            let model = self.controller.model.as_ref();
            let node = model.and_then(|model| model.instance(&name)?.instance.node.clone());
            for host in 0..self.hosts.len() {
                if Some(&self.hosts[host].name) == node.as_ref() {
                    self.remove_by_hand(host, &name);
                }
            }
            let command = Command::RemoveInstances([name.clone()].into());
            self.operate(name.workload(), command, |declared| declared);
        }
        for host in 0..self.hosts.len() {
            let names: Vec<InstanceName> = self.hosts[host].let_go.keys().cloned().collect();
            for name in names {
                let model = self.controller.model.as_ref();
                let is = model.and_then(|model| model.instance(&name)).map(|view| view.instance);
                let is_here = is.is_some_and(|is| {
                    self.standing(host) == Standing::Member
                        && is.node.as_ref() == Some(&self.hosts[host].name)
                        && is.leaving.is_none()
                });
                if !is_here {
                    self.remove_by_hand(host, &name);
                }
            }
        }
    }

    /// Operators remove all containers of an instance with Docker.
    fn remove_by_hand(&mut self, host: usize, name: &InstanceName) {
        self.end_hidden(host, |other| other == name);
        for container in self.containers_of(host, name) {
            self.note(|| format!("operator: removes {container} of {name} on host {host}"));
            self.remove_container(host, &container);
        }
    }
}

/// A workload with fewer instances.
pub(super) fn fewer_by(count: u32, declared: Option<Declared>) -> Option<Declared> {
    declared.map(|one| {
        let replicas = one.spec.replicas.saturating_sub(count);
        Declared { spec: WorkloadSpec { replicas, ..one.spec }, ..one }
    })
}
