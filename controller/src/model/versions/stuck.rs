//! Instances that cannot be given the newest version where they are, and nowhere else.
//!
//! Such an instance stays what it is and waits: for room, for a second share, for an agent that can do what is asked. It does so for no
//! longer than `update.deadline` while nothing else of its workload is being changed, which might make room. Then it has failed with the version as if it had
//! not held, and `update.max_failures` and `update.on_failure` say what becomes of that.
//!
//! A node that is not heard of is no such reason: what is there is changed when it is heard of again, or is placed
//! elsewhere by [`on_lost`](dwell_core::workload::WorkloadSpec::on_lost).

use std::collections::BTreeSet;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, WorkloadName};

use super::VersionState;
use crate::model::Model;
use crate::model::object::{Instance, Severity, Subject, UpdateState, WaitingCause, Workload};

/// What to do about a version for which there is no room.
const NO_ROOM: &str = "what is there stays as it is. Make room and apply it again";

impl Model {
    /// Ends the waits that have lasted for too long.
    pub(in crate::model) fn end_stuck_waits(&mut self, now: Timestamp) {
        let open = self.tables.index().unproven.keys();
        let stuck: BTreeSet<InstanceName> = open.flat_map(|name| self.stuck_of(name)).collect();
        let steady = self.clock.steady;
        self.stuck.retain(|name, _| stuck.contains(name));
        for name in stuck {
            let since = *self.stuck.entry(name.clone()).or_insert(steady);
            let workload = self.tables.workloads().get(name.workload()).cloned();
            let Some(workload) = workload else { continue };
            // An earlier one may have ended the rollout just now.
            let Some(instance) = self.tables.instances().get(&name).cloned() else { continue };
            if !self.is_stuck(&workload, &instance) {
                continue;
            }
            if steady.since(since) >= workload.spec.update.deadline.as_duration() {
                self.give_up_waiting(&workload, &instance, now);
            }
        }
    }

    /// Which instances of a workload wait although it is their turn.
    fn stuck_of(&self, name: &WorkloadName) -> Vec<InstanceName> {
        let newest = self.newest(name).filter(|newest| newest.fetched);
        let is_open = newest.is_some_and(|newest| {
            matches!(newest.state, VersionState::RollingOut | VersionState::Incomplete)
        });
        let Some(workload) = self.tables.workloads().get(name).filter(|_| is_open) else {
            return Vec::new();
        };
        if self.tables.index().updating.contains_key(name) {
            return Vec::new();
        }
        let unproven = self.tables.index().unproven.get(name).into_iter().flatten();
        let instances = unproven.filter_map(|one| self.tables.instances().get(one));
        let stuck = instances.filter(|instance| self.is_stuck(workload, instance));
        stuck.map(|instance| instance.name.clone()).collect()
    }

    fn is_stuck(&self, workload: &Workload, instance: &Instance) -> bool {
        let waiting = self.tables.waiting().get(&instance.name);
        let waits = waiting.is_some_and(|waiting| match waiting.cause {
            WaitingCause::Unplaced(_)
            | WaitingCause::NoRoom
            | WaitingCause::NoSecondShare(_)
            | WaitingCause::CarriesNothing
            | WaitingCause::Lacks(_) => true,
            WaitingCause::Turn { .. }
            | WaitingCause::Address(_)
            | WaitingCause::Pinned
            | WaitingCause::VolumeAt { .. }
            | WaitingCause::Volume { .. }
            | WaitingCause::VolumeMissing { .. }
            | WaitingCause::VolumeInDoubt { .. }
            | WaitingCause::VolumesApart { .. } => false,
        });
        (waits || self.is_held_back(instance))
            && workload.paused.is_none()
            && instance.update == UpdateState::Due
            && instance.leaving.is_none()
            && instance.node.as_ref().is_some_and(|node| self.is_ready(node))
            && self.needs_version(workload, instance)
    }

    fn give_up_waiting(&mut self, workload: &Workload, instance: &Instance, now: Timestamp) {
        let name = &instance.name;
        let Some(newest) = self.newest(name.workload()) else { return };
        let waiting = self.tables.waiting().get(name).map(|waiting| self.why(waiting));
        let why = self.heading_in_words(instance).or(waiting);
        let limit = workload.spec.update.deadline;
        let reason = format!("could not be given it within {limit}: {}", why.unwrap_or_default());
        self.stuck.remove(name);
        if self.tolerates(name, newest.form.number, &reason) {
            self.stay(name);
            self.agenda.go_on(name.workload());
            let message = format!("stays as it is: version {} {reason}", newest.form.number);
            let subject = Subject::Instance(name.clone());
            self.event(now, Severity::Warning, subject, "instance-not-updated", message);
        } else {
            let told = format!("{name} {reason}");
            let told = self.with_failures_before(name.workload(), newest.form.number, told);
            self.rule_out_version(name.workload(), newest.form.number, &told, NO_ROOM, now);
        }
        self.look_again_at_waiting(name.workload());
    }

    /// What failed with the newest version before it was given it is due no more, unless for something else.
    fn stay(&mut self, name: &InstanceName) {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        let workload = self.tables.workloads().get(name.workload());
        if !workload.is_some_and(|workload| self.needs_turn(workload, &instance)) {
            let update = UpdateState::Current;
            self.put_instance(Instance { update, ..Instance::clone(&instance) });
        }
    }
}
