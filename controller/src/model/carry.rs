//! Instances that need an agent which knows what is declared of them: that carries their files over, or has a [skill](dwell_core::skill::Skill).
//!
//! An agent of an earlier version would take such an instance for any other, and start its next container without the files, or held by
//! nothing. So its node is given none, and what is there already goes on as it is until the agent is upgraded: it is not replaced.

use dwell_core::change::ChangeClass;
use dwell_core::id::InstanceName;
use dwell_core::skill::Skills;

use super::object::{Instance, Link, WaitingCause};
use super::record::Key;
use super::{Model, Refusal};

/// Whether files are carried over on a node. What was not heard of since the controller's start may do that.
pub(super) fn carries(link: &Link) -> bool {
    link.carries || link.capacity.is_none()
}

/// What a node's agent knows of. It may be all where nothing was heard of since the controller's start.
pub(super) fn skills(link: &Link) -> Skills {
    if link.capacity.is_none() { Skills::ALL } else { link.skills }
}

impl Model {
    /// Why an instance is not given the newest version where it is before its node's agent is upgraded, if so.
    pub(super) fn lacks_an_agent(&self, instance: &Instance) -> Option<WaitingCause> {
        if self.would_lose_files(instance) {
            return Some(WaitingCause::CarriesNothing);
        }
        let newest = self.newest(instance.name.workload())?;
        let link = instance.assigned_to().and_then(|node| self.tables.links().get(node))?;
        skills(link).lacking(newest.form.template.needs()).map(WaitingCause::Lacks)
    }

    /// Whether an instance would lose what it is to take along if it were given the newest version where it is.
    fn would_lose_files(&self, instance: &Instance) -> bool {
        let Some(newest) = self.newest(instance.name.workload()) else { return false };
        let (is, says) = (&instance.wanted.template, &newest.form.template);
        !says.carry.is_empty()
            && ChangeClass::between(is, says) == ChangeClass::InPlace
            && self.is_on_one_that_carries_nothing(instance)
    }

    /// # Errors
    /// If an instance would lose what it is to take along if its container were made anew.
    pub(super) fn check_carries(&self, instance: &Instance) -> Result<(), Refusal> {
        let node = instance.assigned_to().cloned();
        match node.filter(|_| self.is_on_one_that_carries_nothing(instance)) {
            Some(node) if !instance.wanted.template.carry.is_empty() => {
                Err(Refusal::CarriesNothing { instance: instance.name.clone(), node })
            }
            _ => Ok(()),
        }
    }

    /// An instance was given its turn, and does not wait for its node's agent any more.
    pub(super) fn no_longer_lacks_an_agent(&mut self, name: &InstanceName) {
        let waiting = self.tables.waiting().get(name);
        let is_agent = |cause: &WaitingCause| {
            matches!(cause, WaitingCause::CarriesNothing | WaitingCause::Lacks(_))
        };
        if waiting.is_some_and(|waiting| is_agent(&waiting.cause)) {
            self.delete(Key::Waiting(name.clone()));
        }
    }

    fn is_on_one_that_carries_nothing(&self, instance: &Instance) -> bool {
        let link = instance.assigned_to().and_then(|node| self.tables.links().get(node));
        link.is_some_and(|link| !carries(link))
    }
}
