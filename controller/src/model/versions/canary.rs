//! Versions that a few instances try out before somebody promotes them to the others.
//!
//! ```text
//!   declared ─▶ the first few get their turn ─▶ paused: Canary ─┬─ promote ─▶ the others get their turn
//!                                                              └─ abort, or one did not hold ─▶ back to what is good
//! ```
//!
//! Without a good version there is nothing to compare with, and all instances are given the new one. So it is with what says
//! what is good: to go back is not tried out. Live changes that can do no harm wait for no canary.

use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::WorkloadName;
use dwell_core::instance::{Counted, RunState};

use super::{Pause, Version, VersionState};
use crate::model::object::{Instance, Severity, Subject, Workload};
use crate::model::plan::WorkloadPlan;
use crate::model::{Model, Refusal};

impl Model {
    /// How many instances try the newest version out before the others are given it; `None` if all are given it.
    pub(in crate::model) fn canaries(&self, workload: &Workload) -> Option<usize> {
        let declared = workload.spec.update.canary;
        let count = declared.of(workload.spec.replicas);
        if declared.is_none() || count >= workload.spec.replicas {
            return None;
        }
        let newest = self.newest(&workload.spec.name)?;
        let is_new = newest.state == VersionState::RollingOut && !newest.promoted;
        let is_known = workload.good.is_some() && workload.good != Some(newest.form.number);
        (is_new && is_known).then(|| usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Whether as many instances as wanted try the newest version out, and the others are not given it.
    pub(in crate::model) fn has_canaries(&self, workload: &Workload) -> bool {
        let newest = self.newest(&workload.spec.name);
        let wanted = self.canaries(workload).zip(newest);
        wanted.is_some_and(|(wanted, newest)| self.trying(&newest).count() >= wanted)
    }

    /// Whether some try the newest version out and all of them hold with it; `None` if it need not be promoted.
    pub(in crate::model) fn canaries_hold(&self, workload: &Workload) -> Option<bool> {
        let newest = self.newest(&workload.spec.name)?;
        let is_canary = matches!(workload.paused, Some(Pause::Canary { .. }));
        let tried = || self.trying(&newest).next().is_some();
        is_canary.then(|| tried() && self.trying(&newest).all(|instance| instance.holds()))
    }

    /// Holds a rollout until somebody promotes the version, once enough instances try it out. Returns whether it is held.
    pub(in crate::model) fn hold_for_canaries(
        &mut self,
        workload: &Workload,
        now: Timestamp,
    ) -> bool {
        let Some(newest) = self.newest(&workload.spec.name) else { return false };
        if !self.has_canaries(workload) {
            return false;
        }
        let trying = self.trying(&newest).count();
        let pause = Pause::Canary { canary: newest.form.number };
        let subject = Subject::Workload(workload.spec.name.clone());
        let message = format!(
            "{} of {}: {pause}",
            trying,
            Counted(usize::try_from(workload.spec.replicas).unwrap_or(usize::MAX))
        );
        self.event(now, Severity::Info, subject, "rollout-paused", message);
        self.put_workload(Workload { paused: Some(pause), ..workload.clone() });
        true
    }

    /// The instances that run to try a version out.
    fn trying(&self, version: &Version) -> impl Iterator<Item = &Arc<Instance>> {
        let number = version.form.number;
        self.tables.instances_of(&version.workload).filter(move |instance| {
            let runs = instance.run == RunState::Running && instance.node.is_some();
            runs && !instance.removing && instance.wanted.number == number
        })
    }

    /// The version that canaries try out is given to the others.
    pub(in crate::model) fn promote(
        &mut self,
        name: &WorkloadName,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let workload = self.living(name)?;
        let newest = self.newest(name);
        let (Some(Pause::Canary { .. }), Some(newest)) = (&workload.paused, newest) else {
            return Err(Refusal::NoCanary(name.clone()));
        };
        if self.trying(&newest).next().is_none() {
            // What tried it out was stopped, or taken away.
            return Err(Refusal::NoCanary(name.clone()));
        }
        let undecided = self.trying(&newest).find(|instance| !instance.holds());
        if let Some(instance) = undecided {
            return Err(Refusal::CanaryUndecided(instance.name.clone()));
        }
        self.put_version(Version { promoted: true, ..Version::clone(&newest) });
        self.put_workload(Workload { paused: None, ..Workload::clone(&workload) });
        self.agenda.go_on(name);
        let message =
            format!("version {} is promoted: all instances are given it", newest.form.number);
        self.event(
            now,
            Severity::Info,
            Subject::Workload(name.clone()),
            "version-promoted",
            message,
        );
        Ok(())
    }

    /// Ends a rollout that has not come to its end: all instances go back to what is good.
    pub(in crate::model) fn abort(
        &mut self,
        name: &WorkloadName,
        by: &str,
        now: Timestamp,
    ) -> Result<WorkloadPlan, Refusal> {
        let workload = self.living(name)?;
        let newest = self.newest(name);
        let is_good = |newest: &Arc<Version>| workload.good == Some(newest.form.number);
        if newest.as_ref().is_none_or(is_good) {
            return Err(Refusal::NothingToAbort(name.clone()));
        }
        let Some(good) = workload.good else {
            return Err(Refusal::NothingToRollBackTo(name.clone()));
        };
        self.roll_back(name, Some(good), by, now)
    }
}
