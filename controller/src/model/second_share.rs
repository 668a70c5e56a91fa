//! The second share of an instance whose new container is tried beside the old one.
//!
//! Its node is promised both while both may run: from its turn on, until the node has said what became of the new one, which it
//! does not before one of the two has ended. An instance whose node lacks room for a second share waits for it as it is, and
//! says so; it is not moved for that.

use dwell_core::change::ChangeClass;
use dwell_core::instance::{InstanceStatus, Outcome, Phase, RunState};
use dwell_core::workload::{Resources, UpdateOrder};

use super::Model;
use super::object::{Instance, Workload};
use super::rollout::has_arrived;

impl Model {
    /// What an instance takes of its node beside its share while its new container is tried beside the old one, if that is
    /// how it is changed.
    pub(super) fn second_share(
        &self,
        workload: &Workload,
        instance: &Instance,
    ) -> Option<Resources> {
        let newest = self.newest(&workload.spec.name)?;
        let (is, says) = (&instance.wanted.template, &newest.form.template);
        let is_beside = workload.spec.update.order == UpdateOrder::StartFirst
            && workload.paused.is_none()
            && instance.run == RunState::Running
            && instance.assigned_to().is_some()
            && instance.failed_with(newest.form.number).is_none()
            && ChangeClass::between(is, says) == ChangeClass::InPlace;
        let serves = instance.fallback.as_ref().filter(|_| !instance.holds());
        let serves = serves.map_or(is.resources, |form| form.template.resources);
        let sized = |declared| instance.own_size.over(declared);
        // Its share is enough for the greater of the two.
        is_beside.then(|| sized(serves).min(sized(says.resources)))
    }

    /// The second share that an instance has already, if what is declared since changes only limits: it is that of the same
    /// two containers.
    pub(super) fn kept_second_share(&self, instance: &Instance) -> Option<Resources> {
        let newest = self.newest(instance.name.workload())?;
        let class = ChangeClass::between(&instance.wanted.template, &newest.form.template);
        instance.second_share.filter(|_| class < ChangeClass::InPlace)
    }

    /// What its node lacks for an instance to have a second share there as what it is to become.
    pub(super) fn missing_for(&self, instance: &Instance, second: Resources) -> Option<Resources> {
        let (promised, capacity) = self.room(instance.assigned_to()?)?;
        let newest = self.newest(instance.name.workload())?;
        let says = instance.own_size.over(newest.form.template.resources);
        let next = instance.share().max(says).plus(second);
        let missing = promised.minus(instance.promised()).plus(next).minus(capacity);
        // Of a part that it does not ask for nothing is missing.
        Some(missing.min(next)).filter(|missing| !missing.is_zero())
    }

    /// Takes it back when nothing uses it any more.
    pub(super) fn take_back_second_share(
        &mut self,
        instance: &mut Instance,
        status: &InstanceStatus,
    ) {
        let is_over = match status.verdict_on(instance.generation) {
            Some(outcome) => *outcome != Outcome::Open || status.phase == Phase::Stopped,
            // An older agent does not try anything beside anything.
            None => status.verdict.is_none() && has_arrived(instance, status),
        };
        if instance.second_share.is_some() && is_over {
            instance.second_share = None;
            self.put_instance(instance.clone());
        }
    }
}
