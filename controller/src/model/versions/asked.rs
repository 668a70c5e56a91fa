//! What operators ask of versions: to go back to one, to hold a rollout and to go on with it, and what became of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use dwell_core::change;
use dwell_core::clock::Timestamp;
use dwell_core::id::{VersionNumber, WorkloadName};
use dwell_core::workload::WorkloadSpec;

use super::{Pause, VersionState, VersionView};
use crate::model::command::Size;
use crate::model::object::{Severity, Subject, Workload};
use crate::model::plan::WorkloadPlan;
use crate::model::{Model, Refusal};

impl Model {
    /// Goes back to an earlier version: a new one says the same.
    pub(in crate::model) fn roll_back(
        &mut self,
        name: &WorkloadName,
        to: Option<VersionNumber>,
        by: &str,
        now: Timestamp,
    ) -> Result<WorkloadPlan, Refusal> {
        let workload = self.living(name)?;
        let newest = self.newest(name).map_or(VersionNumber(0), |newest| newest.form.number);
        let number = match to {
            Some(to) => to,
            None => self.version_before(&workload, newest)?,
        };
        let found = self.version(name, number);
        let found = found.ok_or_else(|| Refusal::NoVersion { workload: name.clone(), number })?;
        if number == newest {
            return Err(Refusal::VersionIsNewest { workload: name.clone(), number });
        }
        if let VersionState::RuledOut { reason } = &found.state {
            let (workload, reason) = (name.clone(), reason.clone());
            return Err(Refusal::VersionRuledOut { workload, number, reason });
        }
        let template = found.form.template.clone();
        let spec = WorkloadSpec { template, ..workload.spec.clone() };
        if workload.paused.is_some() {
            self.put_workload(Workload { paused: None, ..Workload::clone(&workload) });
        }
        let plan = self.declare(spec, true, by, now)?;
        let message = format!("goes back to what version {number} says");
        let subject = Subject::Workload(name.clone());
        self.event(now, Severity::Info, subject, "rolled-back", message);
        Ok(plan)
    }

    /// Declares anew what a workload says, with other limits.
    pub(in crate::model) fn resize(
        &mut self,
        name: &WorkloadName,
        size: Size,
        by: &str,
        now: Timestamp,
    ) -> Result<WorkloadPlan, Refusal> {
        let mut spec = self.living(name)?.spec.clone();
        let resources = &mut spec.template.resources;
        resources.cpu = size.cpu.unwrap_or(resources.cpu);
        resources.memory = size.memory.unwrap_or(resources.memory);
        spec.template.pids = size.pids.or(spec.template.pids);
        self.declare(spec, true, by, now)
    }

    /// The version to go back to if nobody names one: the good one, or else the last before the newest that is not
    /// ruled out.
    fn version_before(
        &self,
        workload: &Workload,
        newest: VersionNumber,
    ) -> Result<VersionNumber, Refusal> {
        if let Some(good) = workload.good.filter(|good| *good != newest) {
            return Ok(good);
        }
        let name = &workload.spec.name;
        let says = self.version(name, newest).map(|newest| Arc::clone(&newest.form));
        let versions = self.tables.versions().get(name).into_iter().flat_map(BTreeMap::values);
        let mut candidates = versions.rev().filter(|version| {
            !matches!(version.state, VersionState::RuledOut { .. })
                && says.as_ref().is_some_and(|says| says.template != version.form.template)
        });
        let found = candidates.next().map(|version| version.form.number);
        found.ok_or_else(|| Refusal::NothingToRollBackTo(name.clone()))
    }

    /// No instance is given the newest version until somebody resumes the rollout.
    pub(in crate::model) fn pause(
        &mut self,
        name: &WorkloadName,
        by: &str,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let workload = self.living(name)?;
        if workload.paused.is_some() {
            return Ok(());
        }
        let paused = Pause::Asked { by: by.to_owned() };
        let subject = Subject::Workload(name.clone());
        self.event(now, Severity::Info, subject, "rollout-paused", paused.to_string());
        self.put_workload(Workload { paused: Some(paused), ..Workload::clone(&workload) });
        Ok(())
    }

    /// Goes on with a rollout that somebody paused.
    pub(in crate::model) fn resume(
        &mut self,
        name: &WorkloadName,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let workload = self.living(name)?;
        let newest = self.newest(name);
        if let Some(newest) = newest
            && let VersionState::RuledOut { reason } = &newest.state
        {
            return Err(Refusal::VersionRuledOut {
                workload: name.clone(),
                number: newest.form.number,
                reason: reason.clone(),
            });
        }
        match &workload.paused {
            None => return Ok(()),
            Some(Pause::Canary { .. }) => return self.promote(name, now),
            Some(Pause::Asked { .. } | Pause::BadVersion(_)) => {}
        }
        self.put_workload(Workload { paused: None, ..Workload::clone(&workload) });
        self.agenda.go_on(name);
        let subject = Subject::Workload(name.clone());
        self.event(now, Severity::Info, subject, "rollout-resumed", "goes on".to_owned());
        Ok(())
    }

    /// The versions of a workload, the newest first; `None` if there is no such workload.
    #[must_use]
    pub fn versions(&self, name: &WorkloadName) -> Option<Vec<VersionView>> {
        let workload = self.tables.workloads().get(name)?;
        let mut wanted: BTreeMap<VersionNumber, usize> = BTreeMap::new();
        let mut serving: BTreeMap<VersionNumber, usize> = BTreeMap::new();
        for instance in self.tables.instances_of(name) {
            *wanted.entry(instance.wanted.number).or_default() += 1;
            if let Some(number) = instance.serving {
                *serving.entry(number).or_default() += 1;
            }
        }
        let versions = self.tables.versions().get(name).into_iter().flat_map(BTreeMap::values);
        let mut views: Vec<VersionView> = Vec::new();
        for version in versions {
            let number = version.form.number;
            let before = views.last().map(|before| &before.version.form.template);
            views.push(VersionView {
                newest: false,
                good: workload.good == Some(number),
                changed_fields: before.map_or_else(Vec::new, |before| {
                    change::changed_fields(before, &version.form.template)
                }),
                wanted: wanted.get(&number).copied().unwrap_or_default(),
                serving: serving.get(&number).copied().unwrap_or_default(),
                version: Arc::clone(version),
            });
        }
        if let Some(newest) = views.last_mut() {
            newest.newest = true;
        }
        views.reverse();
        Some(views)
    }
}
