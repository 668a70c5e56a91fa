//! Instances that do not hold with a version, and what becomes of the version.
//!
//! An instance that fails with a version goes back to what it held with before, and is not given that version again: only a
//! new version that says the same, which is what applying the same file again declares. The failure is kept with the
//! instance ([`Instance::failed`]) and counted with the version.
//!
//! ```text
//!   fails ─┬─ no more than `update.max_failures` ─▶ goes back within its turn; then the next instance gets its turn
//!          └─ more than that, or it is a canary ──▶ the version is ruled out: `update.on_failure`
//! ```
//!
//! With `on_failure: continue` any number may fail. Canaries are there to find out, so none of them may. When every instance
//! has been given the version, it is *good* if every instance holds with it, *incomplete* if some failed, and ruled out if
//! none holds with it. What is good stays what others fall back to while a version is incomplete.

use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, VersionNumber, WorkloadName};
use dwell_core::instance::{Counted, REASON_MAX, sanitize};
use dwell_core::workload::OnFailure;
use serde::{Deserialize, Serialize};

use super::{Pause, Version, VersionState};
use crate::model::Model;
use crate::model::object::{Instance, Severity, Subject, UpdateState, Workload};

/// Who declares the version by which a workload goes back by itself.
const BY_ITSELF: &str = "update.on_failure";
/// How many instances a message about several names.
const NAMED_MAX: usize = 3;
/// What to do about a version with which instances did not hold.
const PUT_BACK: &str = "what served before was put back. Apply a mended version";

/// That an instance did not hold with a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedWith {
    /// Which version.
    pub version: VersionNumber,
    /// Why, for people.
    pub reason: String,
}

impl Instance {
    /// Why it did not hold with a version, if it did not.
    #[must_use]
    pub fn failed_with(&self, version: VersionNumber) -> Option<&str> {
        let failed = self.failed.as_ref().filter(|failed| failed.version == version)?;
        Some(&failed.reason)
    }
}

impl Model {
    /// Why an instance did not hold with the newest version, if that is so.
    pub(in crate::model) fn failed_with_newest<'a>(
        &self,
        instance: &'a Instance,
    ) -> Option<&'a str> {
        instance.failed_with(self.newest(instance.name.workload())?.form.number)
    }

    /// An instance did not hold with what it is to be: it goes back, and if more failed with that than may, so does what was
    /// given the same. That it does is an event once, since what its node says of the generation before counts no more.
    pub(in crate::model) fn go_back(&mut self, instance: &Instance, reason: &str, now: Timestamp) {
        if self.tolerates(&instance.name, instance.wanted.number, reason) {
            self.take_back_alone(&instance.name);
            self.agenda.go_on(instance.name.workload());
        } else {
            self.rule_out(instance, reason, now);
        }
        // How long that took says nothing of a change that holds.
        self.down.remove(&instance.name);
        let back = self.tables.instances().get(&instance.name);
        let back = back.filter(|back| back.generation > instance.generation);
        let Some(back) = back.map(|back| back.wanted.number) else { return };
        let message = format!(
            "did not hold with version {}: {reason}; goes back to version {back}",
            instance.wanted.number
        );
        let subject = Subject::Instance(instance.name.clone());
        self.event(now, Severity::Warning, subject, "instance-rolled-back", message);
    }

    /// Whether others are given a version with which an instance failed all the same. If they are, the failure is noted.
    pub(super) fn tolerates(
        &mut self,
        failed: &InstanceName,
        number: VersionNumber,
        reason: &str,
    ) -> bool {
        let name = failed.workload();
        let Some(instance) = self.tables.instances().get(failed).cloned() else { return false };
        let Some(version) = self.version(name, number) else { return false };
        let Some(workload) = self.tables.workloads().get(name).cloned() else { return false };
        let is_known = instance.failed_with(number).is_some();
        let failures = version.failures.saturating_add(u32::from(!is_known));
        let may_fail = match version.state {
            VersionState::RollingOut | VersionState::Incomplete => {
                let is_newest = self.newest(name).is_some_and(|one| one.form.number == number);
                !(is_newest && self.canaries(&workload).is_some())
            }
            VersionState::Good | VersionState::RuledOut { .. } => false,
        };
        let allowed = workload.spec.update.failures_allowed(workload.spec.replicas);
        if !may_fail || allowed.is_some_and(|allowed| failures > allowed) {
            return false;
        }
        if !is_known {
            self.put_version(Version { failures, ..Version::clone(&version) });
            let reason = sanitize(reason, REASON_MAX);
            let failed = Some(FailedWith { version: number, reason });
            self.put_instance(Instance { failed, ..Instance::clone(&instance) });
        }
        true
    }

    /// An instance does not work as it is to be, and there is nothing to put up again. Returns whether its turn is over all
    /// the same, since others are given that, too.
    pub(in crate::model) fn gives_up_turn(&mut self, instance: &Instance, reason: &str) -> bool {
        let Some(newest) = self.newest(instance.name.workload()) else { return false };
        // It has gone back, and does not work as what it was either; or it has only moved, as what it was.
        let number = newest.form.number;
        instance.wanted.number != number || self.tolerates(&instance.name, number, reason)
    }

    /// What is left of an instance's failure when it holds with what it is to be: nothing, if it is that which failed.
    pub(in crate::model) fn still_failed(&mut self, instance: &Instance) -> Option<FailedWith> {
        let failed = instance.failed.clone()?;
        if failed.version != instance.wanted.number {
            return Some(failed);
        }
        if let Some(version) = self.version(instance.name.workload(), failed.version) {
            let failures = version.failures.saturating_sub(1);
            self.put_version(Version { failures, ..Version::clone(&version) });
        }
        None
    }

    /// Finds what became of the newest version once all instances were given it and have held with it or failed.
    pub(in crate::model) fn prove(&mut self, name: &WorkloadName, now: Timestamp) {
        let Some(newest) = self.newest(name) else { return };
        let is_open = matches!(newest.state, VersionState::RollingOut | VersionState::Incomplete);
        if !is_open || self.tables.index().unproven.contains_key(name) {
            return;
        }
        let number = newest.form.number;
        let living = || self.tables.instances_of(name).filter(|instance| !instance.removing);
        let failed = living().find(|instance| instance.failed_with(number).is_some()).cloned();
        let is_given = living().any(|instance| instance.wanted.number == number);
        let is_held = living().any(|one| one.wanted.number == number && one.holds());
        let Some(workload) = self.tables.workloads().get(name).cloned() else { return };
        let subject = Subject::Workload(name.clone());
        match failed {
            None if is_held => {
                self.put_version(Version { state: VersionState::Good, ..Version::clone(&newest) });
                self.put_workload(Workload { good: Some(number), ..Workload::clone(&workload) });
                let message = format!("version {number} is good: all instances hold with it");
                self.event(now, Severity::Info, subject, "version-good", message);
            }
            Some(_) if is_held && newest.state == VersionState::RollingOut => {
                let state = VersionState::Incomplete;
                self.put_version(Version { state, ..Version::clone(&newest) });
                if let Some(message) = self.failures_in_words(&workload) {
                    self.event(now, Severity::Warning, subject, "rollout-incomplete", message);
                }
            }
            Some(failed) if !is_given => {
                let reason = failed.failed_with(number).unwrap_or_default();
                let told = format!("no instance holds with it: {}: {reason}", failed.name);
                self.rule_out_version(name, number, &told, PUT_BACK, now);
            }
            _ => {}
        }
    }

    /// Why the version before the newest one was ruled out, if that is why all instances go back by themselves.
    pub(in crate::model) fn rolled_back(&self, name: &WorkloadName) -> Option<String> {
        let newest = self.newest(name).filter(|newest| newest.by == BY_ITSELF)?;
        let versions = self.tables.versions().get(name)?;
        let (number, before) = versions.range(..newest.form.number).next_back()?;
        let VersionState::RuledOut { reason } = &before.state else { return None };
        Some(format!("version {number} is ruled out, {reason}; all instances go back"))
    }

    /// Which instances failed with the newest version and why, if any did that is there.
    pub(in crate::model) fn failures_in_words(&self, workload: &Workload) -> Option<String> {
        let name = &workload.spec.name;
        let newest = self.newest(name)?;
        let number = newest.form.number;
        let (mut named, mut count, mut present) = (Vec::new(), 0, 0);
        for instance in self.tables.instances_of(name).filter(|instance| !instance.removing) {
            present += 1;
            let Some(reason) = instance.failed_with(number) else { continue };
            count += 1;
            if named.len() < NAMED_MAX {
                named.push(format!("{}: {reason}", instance.name));
            }
        }
        let more = match count - named.len() {
            _ if count == 0 => return None,
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let named = named.join("; ");
        Some(format!(
            "{count} of {} did not hold with version {number} and went back: {named}{more}",
            Counted(present)
        ))
    }

    /// An instance did not hold with what it is to be, and no more may: nothing else is given that version.
    fn rule_out(&mut self, instance: &Instance, reason: &str, now: Timestamp) {
        let (name, number) = (instance.name.workload(), instance.wanted.number);
        let Some(version) = self.version(name, number) else { return };
        if matches!(version.state, VersionState::RuledOut { .. }) {
            return self.take_back(&instance.name);
        }
        let told = format!("{} did not hold: {reason}", instance.name);
        let told = self.with_failures_before(name, number, told);
        self.rule_out_version(name, number, &told, PUT_BACK, now);
    }

    /// Why a version is ruled out, if it is not for this failure alone.
    pub(super) fn with_failures_before(
        &self,
        name: &WorkloadName,
        number: VersionNumber,
        told: String,
    ) -> String {
        match self.version(name, number).map_or(0, |version| version.failures) {
            0 => told,
            before => {
                format!("{told}; {before} failed before, and update.max_failures allows no more")
            }
        }
    }

    /// Nothing is given a version any more, and what was given it and has not held with it goes back, as far as there is
    /// something to go back to. `next` says what became of what served, and what to do now.
    pub(in crate::model) fn rule_out_version(
        &mut self,
        name: &WorkloadName,
        number: VersionNumber,
        told: &str,
        next: &str,
        now: Timestamp,
    ) {
        let Some(version) = self.version(name, number) else { return };
        let is_newest = self.newest(name).is_some_and(|newest| newest.form.number == number);
        let state = VersionState::RuledOut { reason: told.to_owned() };
        self.put_version(Version { state, ..Version::clone(&version) });
        if is_newest && let Some(workload) = self.tables.workloads().get(name).cloned() {
            let message = format!(
                "rollout paused: version {number} is ruled out, {told}; {next}, or go back with `dwell rollback {name}`"
            );
            let good = workload.good.filter(|good| *good != number);
            let paused = Some(Pause::BadVersion(message.clone()));
            self.put_workload(Workload { paused, good, ..Workload::clone(&workload) });
            let subject = Subject::Workload(name.clone());
            self.event(now, Severity::Warning, subject, "rollout-paused", message);
        } else {
            let message = format!("version {number} is ruled out: {told}");
            let subject = Subject::Workload(name.clone());
            self.event(now, Severity::Warning, subject, "version-ruled-out", message);
        }
        self.fall_back_to_good(name, number);
        let given: Vec<InstanceName> = self
            .tables
            .instances_of(name)
            .filter(|other| other.wanted.number == number && !other.holds())
            .map(|other| other.name.clone())
            .collect();
        for other in given {
            self.take_back(&other);
        }
        if is_newest {
            self.roll_back_by_itself(name, now);
        }
    }

    /// Takes all instances back to the good version, if that is what the workload says of one that did not hold. Where it cannot be
    /// done, the rollout stays paused.
    fn roll_back_by_itself(&mut self, name: &WorkloadName, now: Timestamp) {
        let Some(workload) = self.tables.workloads().get(name).cloned() else { return };
        let wants = workload.spec.update.on_failure == OnFailure::Rollback && !workload.removing;
        let Some(good) = workload.good.filter(|_| wants) else { return };
        let (before, revision) = (self.changes.len(), self.revision);
        if let Err(refusal) = self.roll_back(name, Some(good), BY_ITSELF, now) {
            let changes = self.changes.split_off(before);
            self.undo(changes);
            self.revision = revision;
            let message = format!("cannot go back to version {good} by itself: {refusal}");
            let subject = Subject::Workload(name.clone());
            self.event(now, Severity::Warning, subject, "roll-back-refused", message);
        }
    }

    /// What was ruled out is put up again only where it held; elsewhere what is good is, if anything.
    fn fall_back_to_good(&mut self, name: &WorkloadName, ruled_out: VersionNumber) {
        let workload = self.tables.workloads().get(name);
        if workload.and_then(|workload| self.good_form(workload)).is_none() {
            return;
        }
        let trusts = |instance: &Arc<Instance>| {
            let falls_back =
                instance.fallback.as_ref().is_some_and(|form| form.number == ruled_out);
            falls_back && instance.serving != Some(ruled_out)
        };
        let trusting: Vec<Arc<Instance>> =
            self.tables.instances_of(name).filter(|instance| trusts(instance)).cloned().collect();
        for instance in trusting {
            self.put_instance(Instance { fallback: None, ..Instance::clone(&instance) });
        }
    }

    /// An instance is to be what it held with before, or else what is good, or what it may have held with. Its turn comes
    /// again when the rollout goes on.
    pub(in crate::model) fn take_back(&mut self, name: &InstanceName) {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        if let Some(back) = self.back(&instance) {
            self.put_instance(Instance { update: UpdateState::Due, ..back });
        }
    }

    /// The same within a rollout that goes on: its turn lasts until it holds again.
    fn take_back_alone(&mut self, name: &InstanceName) {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        let in_turn = instance.update == UpdateState::Updating;
        let (next, awaited) = match self.back(&instance) {
            Some(back) => (back, in_turn),
            // Its node has put up again what nobody here knows of.
            None => (Instance::clone(&instance), false),
        };
        let workload = self.tables.workloads().get(name.workload());
        let update = match workload.is_some_and(|workload| self.needs_turn(workload, &next)) {
            _ if awaited => UpdateState::Updating,
            true => UpdateState::Due,
            false => UpdateState::Current,
        };
        self.put_instance(Instance { update, ..next });
    }

    /// An instance as what it goes back to, if there is anything.
    fn back(&mut self, instance: &Instance) -> Option<Instance> {
        let workload = self.tables.workloads().get(instance.name.workload()).cloned();
        let back = workload.and_then(|workload| self.fallback(&workload, instance));
        let back = back.or_else(|| instance.unseen.clone());
        let back = back.filter(|_| !instance.removing)?;
        Some(Instance {
            wanted: back,
            edition: instance.edition_before.unwrap_or(instance.edition),
            edition_before: None,
            root: instance.root_before.as_deref().unwrap_or(&instance.root).clone(),
            root_before: None,
            fallback: None,
            unseen: None,
            generation: self.next_generation(instance),
            ..instance.clone()
        })
    }
}
