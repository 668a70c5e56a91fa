//! What is written into the fleet's diary of what nodes say of their instances.

use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::health::Health;
use dwell_core::image::ImageDigest;
use dwell_core::instance::{InstanceStatus, Phase, ProcessEnd};
use dwell_core::workload::{Template, ToldFromInside};

use super::Model;
use super::object::{Instance, Severity, Subject, Told};

impl Model {
    /// Writes down, once, what people want to read about: that it runs, that it does not, that it is ill, how its main
    /// process ended by itself. What was written down is durable with the events. Returns the instance as it is then.
    pub(super) fn note_news(
        &mut self,
        instance: &Arc<Instance>,
        status: &InstanceStatus,
        now: Timestamp,
    ) -> Arc<Instance> {
        if self.volatile_only {
            return Arc::clone(instance);
        }
        let told = self.note_state(instance, status, now);
        let last_end = self.note_ends(instance, status, now);
        let last_hook_failed = self.note_hook(instance, status, now);
        let other_image = self.note_image(instance, status, now);
        let noted =
            Instance { told, last_end, last_hook_failed, other_image, ..Instance::clone(instance) };
        if noted == **instance {
            return Arc::clone(instance);
        }
        self.put_instance(noted.clone());
        self.tables.instances().get(&instance.name).cloned().unwrap_or_else(|| Arc::new(noted))
    }

    /// Writes down that it runs, that it does not, or that it is ill; what is written down by then.
    fn note_state(
        &mut self,
        instance: &Instance,
        status: &InstanceStatus,
        now: Timestamp,
    ) -> Option<Told> {
        let subject = || Subject::Instance(instance.name.clone());
        let mut told = instance.told;
        let state = match status.phase {
            Phase::Running => Some((Severity::Info, "instance-running", "runs".to_owned())),
            Phase::Backoff => Some((Severity::Warning, "instance-backoff", status.message.clone())),
            Phase::Failed => Some((Severity::Warning, "instance-failed", status.message.clone())),
            _ => None,
        };
        let started_at = status.started_at.filter(|_| status.phase == Phase::Running);
        let is_known =
            told.is_some_and(|told| (told.phase, told.started_at) == (status.phase, started_at));
        if let (false, Some((severity, reason, message))) = (is_known, state) {
            self.event(now, severity, subject(), reason, message);
            let (is_unhealthy, is_unready) = (false, false);
            told = Some(Told { phase: status.phase, started_at, is_unhealthy, is_unready });
        }
        let told = told.as_mut()?;
        let checks = [
            (
                "health",
                &mut told.is_unhealthy,
                status.health,
                "instance-unhealthy",
                "instance-healthy",
            ),
            (
                "readiness",
                &mut told.is_unready,
                status.readiness,
                "instance-unready",
                "instance-ready",
            ),
        ];
        for (name, fails, verdict, failing, passing) in checks {
            let (severity, reason, message) = match (*fails, verdict) {
                (false, Health::Unhealthy) => (Severity::Warning, failing, "fails"),
                (true, Health::Healthy) => (Severity::Info, passing, "passes again"),
                _ => continue,
            };
            let message = match status.message.as_str() {
                said if !*fails && !said.is_empty() => said.to_owned(),
                _ => format!("its {name} check {message}"),
            };
            self.event(now, severity, subject(), reason, message);
            *fails = !*fails;
        }
        Some(*told)
    }

    /// Writes down how the main process ended by itself; the newest end that is written down by then.
    fn note_ends(
        &mut self,
        instance: &Instance,
        status: &InstanceStatus,
        now: Timestamp,
    ) -> Option<(u64, Timestamp)> {
        let mut last = instance.last_end;
        for end in &status.ends {
            let is_news = last.is_none_or(|(number, started_at)| {
                end.number > number || end.started_at() > started_at
            });
            if !is_news {
                continue;
            }
            last = Some((end.number, end.started_at()));
            let (severity, reason, message) =
                in_words(end, &instance.made_from(&instance.wanted.template));
            let subject = Subject::Instance(instance.name.clone());
            self.event(now, severity, subject, reason, message);
        }
        last
    }

    /// Writes down that a hook before a stop failed; the newest that is written down by then.
    fn note_hook(
        &mut self,
        instance: &Instance,
        status: &InstanceStatus,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let known = instance.last_hook_failed;
        let Some(failed) = status.hook_failed.as_ref().filter(|one| Some(one.at) != known) else {
            return known;
        };
        let subject = Subject::Instance(instance.name.clone());
        let message = failed.reason.clone();
        self.event(now, Severity::Warning, subject, "instance-hook-failed", message);
        Some(failed.at)
    }

    /// Pins its version to the image that it runs with, or writes down that its version means another; the image that
    /// is written down by then.
    fn note_image(
        &mut self,
        instance: &Instance,
        status: &InstanceStatus,
        now: Timestamp,
    ) -> Option<ImageDigest> {
        let is_as_told = status.phase == Phase::Running && status.generation == instance.generation;
        let Some(seen) = status.image.digest.filter(|_| is_as_told) else {
            return instance.other_image;
        };
        let pinned = match instance.root.kept_image(&instance.wanted.template) {
            Some(born) => born.digest.unwrap_or(seen),
            None => self.pin(instance, seen, now),
        };
        let other = Some(seen).filter(|seen| *seen != pinned);
        if other.is_some() && other != instance.other_image {
            let message = format!(
                "runs with the image {seen}, but version {} means {pinned}; its next container is made from that",
                instance.wanted.number
            );
            let subject = Subject::Instance(instance.name.clone());
            self.event(now, Severity::Warning, subject, "instance-other-image", message);
        }
        other
    }
}

/// How a main process ended, for people.
fn in_words(end: &ProcessEnd, template: &Template) -> (Severity, &'static str, String) {
    let ran_for = end.ran_for;
    if let Some(reason) = &end.given_up {
        let message = format!("its node ended its main process after {ran_for}: {reason}");
        return (Severity::Warning, "instance-given-up", message);
    }
    if end.out_of_memory {
        let limit = template.resources.memory;
        let message = format!(
            "its main process was killed after {ran_for}, because it used more memory than its limit of {limit} (exit code {})",
            end.code
        );
        return (Severity::Warning, "instance-out-of-memory", message);
    }
    match template.told_from_inside(end.code) {
        Some(ToldFromInside::Reboot) => {
            let message = format!("was rebooted from inside after {ran_for}");
            return (Severity::Info, "machine-rebooted", message);
        }
        Some(ToldFromInside::ShutDown) => {
            let message = format!(
                "was shut down from inside after {ran_for}, and stays so until somebody starts it"
            );
            return (Severity::Info, "machine-shut-down", message);
        }
        None => {}
    }
    let message = match signal(end.code) {
        Some(signal) => {
            format!(
                "its main process was ended by {signal} after {ran_for} (exit code {})",
                end.code
            )
        }
        None => format!("its main process ended with exit code {} after {ran_for}", end.code),
    };
    let severity = if end.code == 0 { Severity::Info } else { Severity::Warning };
    (severity, "instance-ended", message)
}

/// The signal that an exit code stands for, as far as it has a name that people know.
fn signal(code: i32) -> Option<String> {
    const NAMES: [(i32, &str); 11] = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (15, "SIGTERM"),
    ];
    let number = code.checked_sub(128).filter(|number| (1..=64).contains(number))?;
    let name = NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
    Some(name.map_or_else(|| format!("signal {number}"), ToOwned::to_owned))
}
