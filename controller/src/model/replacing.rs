//! Chosen instances whose container is made anew.
//!
//! It is a change of class *in-place* in which nothing is declared otherwise: the container is of another *edition*, so its node makes the new
//! one beside it, takes over, and puts the one before up again if the new one does not hold. That says nothing of the version: others
//! hold with it.
//!
//! ```text
//!   edition A ── somebody asks ──▶ B, before: A ── its node found that it holds ──▶ B
//!                                       └────────── that it does not ─────────────▶ A
//! ```

use std::collections::BTreeSet;

use dwell_core::clock::Timestamp;
use dwell_core::id::{Generation, InstanceName};
use dwell_core::instance::RunState;

use super::command::{Target, check_named};
use super::object::{Instance, Severity, Subject, UpdateState};
use super::{Model, Refusal};

impl Instance {
    /// Whether it has yet to show that it works as what it is to be.
    pub(super) fn is_on_trial(&self) -> bool {
        !self.holds() || self.edition_before.is_some() || self.own_size_before.is_some()
    }
}

impl Model {
    /// Has the containers of chosen instances made anew, all or none. One that is stopped has a new one when it is started.
    pub(super) fn replace_instances(
        &mut self,
        names: &BTreeSet<InstanceName>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        check_named(names.len())?;
        for name in names {
            for instance in self.targets(&Target::Instance(name.clone()))? {
                let message = if instance.rests() {
                    self.do_anew(&instance);
                    "asked to do its work anew".to_owned()
                } else {
                    self.check_carries(&instance)?;
                    self.remake(&instance);
                    "asked to be replaced by a new container".to_owned()
                };
                let subject = Subject::Instance(name.clone());
                self.event(now, Severity::Info, subject, "replaced", message);
            }
        }
        Ok(())
    }

    pub(super) fn remake(&mut self, instance: &Instance) {
        let edition = self.next_generation(instance);
        let runs = instance.node.is_some() && instance.run == RunState::Running;
        let next = Instance {
            generation: edition,
            edition,
            edition_before: instance.edition_before.or(Some(instance.edition)),
            update: if runs { UpdateState::Updating } else { instance.update },
            ..instance.clone()
        };
        self.put_instance(next.with_new_task(true));
    }

    /// The container that was made anew does not hold, and its node has put the one before up again: that is kept.
    pub(super) fn keep_edition(
        &mut self,
        instance: &Instance,
        before: Generation,
        reason: &str,
        now: Timestamp,
    ) {
        self.down.remove(&instance.name);
        let generation = self.next_generation(instance);
        let root = instance.root_before.as_deref().unwrap_or(&instance.root).clone();
        self.put_instance(Instance {
            generation,
            edition: before,
            edition_before: None,
            root,
            root_before: None,
            ..instance.clone()
        });
        let message = format!(
            "was not replaced, since its new container did not hold: {reason}; the one before serves on"
        );
        let subject = Subject::Instance(instance.name.clone());
        self.event(now, Severity::Warning, subject, "instance-not-replaced", message);
    }
}
