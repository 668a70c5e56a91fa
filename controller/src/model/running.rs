//! Starting, stopping and restarting.
//!
//! What is stopped has no process and keeps all else: identity, volumes, its container, its place and its share of that. A workload is
//! stopped by an order or by its declaration; both set the same state, so that the last of them counts.

use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::instance::{Phase, RunState};

use super::command::Target;
use super::object::{Instance, Severity, Subject, Workload};
use super::plan::InstanceAction;
use super::{Model, Refusal};

impl Model {
    pub(super) fn set_run(
        &mut self,
        target: &Target,
        run: RunState,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if let Target::Workload(name) = target {
            let workload = self.living(name)?;
            if workload.run != run {
                self.put_workload(Workload { run, ..Workload::clone(&workload) });
            }
        }
        let mut changed = false;
        for instance in self.targets(target)? {
            if instance.rests() {
                match target {
                    Target::Instance(_) => Self::check_not_ended(&instance)?,
                    Target::Workload(_) => continue,
                }
            }
            changed |= instance.run != run;
            let turned = self.turn(&instance, run);
            if run == RunState::Running && instance.run == run && self.has_ended(&instance) {
                let restarts_asked = self.next_restart(&instance);
                self.put_instance(Instance { restarts_asked, ..Instance::clone(&turned) });
                changed = true;
            }
        }
        if changed {
            self.note_turned(subject_of(target), run, now);
        }
        Ok(())
    }

    /// Whether an instance that is to run has ended by itself, for good as far as its node is concerned. Of one that was stopped, its
    /// node has nothing to say.
    fn has_ended(&self, instance: &Instance) -> bool {
        let observed = self.tables.observed().get(&instance.name);
        observed.is_some_and(|seen| {
            let status = &seen.status;
            let is_of_now = status.generation == instance.generation;
            status.phase == Phase::Stopped && is_of_now && !status.message.is_empty()
        })
    }

    pub(super) fn restart(&mut self, target: &Target, now: Timestamp) -> Result<(), Refusal> {
        let targets = self.targets(target)?;
        match target {
            Target::Instance(_) => {
                for instance in &targets {
                    Self::check_not_ended(instance)?;
                    let restarts_asked = self.next_restart(instance);
                    self.put_instance(Instance { restarts_asked, ..Instance::clone(instance) });
                }
            }
            // A few at a time, as a change would be.
            Target::Workload(name) => {
                let workload = self.living(name)?;
                let restarts_asked = workload.restarts_asked + 1;
                self.put_workload(Workload { restarts_asked, ..Workload::clone(&workload) });
                for instance in targets.iter().filter(|instance| !instance.rests()) {
                    self.ask_to_restart(instance, restarts_asked);
                }
            }
        }
        let message = "asked to restart".to_owned();
        self.event(now, Severity::Info, subject_of(target), "restarted", message);
        Ok(())
    }

    pub(super) fn note_turned(&mut self, subject: Subject, run: RunState, now: Timestamp) {
        let (reason, message) = match run {
            RunState::Running => ("started", "asked to start"),
            RunState::Stopped => ("stopped", "asked to stop"),
        };
        self.event(now, Severity::Info, subject, reason, message.to_owned());
    }

    /// Has an instance run, or not. Returns the instance as it is then.
    pub(super) fn turn(&mut self, instance: &Instance, run: RunState) -> Arc<Instance> {
        let next = Instance { run, ..instance.clone() };
        self.put_instance(next.clone());
        Arc::new(next)
    }

    /// Has an instance run, or not, as its workload does; what is done by that.
    pub(super) fn turned(&mut self, workload: &Workload, name: &InstanceName) -> InstanceAction {
        if let Some(instance) = self.tables.instances().get(name).cloned() {
            self.turn(&instance, workload.run);
        }
        InstanceAction::Run(workload.run)
    }
}

fn subject_of(target: &Target) -> Subject {
    match target {
        Target::Workload(name) => Subject::Workload(name.clone()),
        Target::Instance(name) => Subject::Instance(name.clone()),
    }
}
