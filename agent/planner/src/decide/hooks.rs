//! Hooks: when one is called.
//!
//! The one after the start is called once in each run, as a step of its own, and has succeeded before the run counts for
//! anything. The one before the stop belongs to the step that stops a container, whatever the reason for that is. Both are
//! called at least once: what an agent had begun when it ended is begun again by the next.

use std::collections::BTreeMap;

use dwell_core::container::ContainerId;
use dwell_core::workload::Template;

use super::{Instance, Next};
use crate::journal::Journal;
use crate::lease::Standing;
use crate::observed::{Container, Seen};
use crate::step::{HookCall, Step};
use crate::target::Target;

/// What is to be done about the hook of a run.
#[derive(Debug)]
pub(crate) enum AfterStart {
    /// There is none, or it has succeeded.
    Nothing,
    /// It is to be called.
    Call(HookCall),
    /// It failed, for this reason.
    Failed(String),
}

/// The template that a container was made from, if it is one of those that the node is told of.
fn template_of<'a>(target: &'a Target, container: &Container) -> Option<&'a Template> {
    if container.fingerprint == target.fingerprint {
        return Some(&target.assigned.template);
    }
    let fallback = target.assigned.fallback.as_ref();
    fallback.filter(|_| target.fallback.as_ref() == Some(&container.fingerprint))
}

/// What is to be done about the hook of a container that may have been started.
pub(crate) fn after_start(target: &Target, seen: &Seen, container: &Container) -> AfterStart {
    let template = template_of(target, container).filter(|_| container.is_running());
    let hook = template.and_then(|template| template.hooks.after_start.as_ref());
    let (Some(hook), Some(run)) = (hook, container.run()) else { return AfterStart::Nothing };
    if seen.journal.started.get(&container.id) == Some(&run) {
        return AfterStart::Nothing;
    }
    match &seen.failed_hook {
        Some(failed) if failed.container == container.id && failed.run == run => {
            AfterStart::Failed(failed.reason.clone())
        }
        _ => {
            let address = target.assigned.address;
            AfterStart::Call(HookCall { address, slot: container.slot, hook: hook.clone() })
        }
    }
}

impl<'a> Instance<'a> {
    /// See [`after_start`].
    pub(super) fn after_start(self, container: &Container) -> AfterStart {
        after_start(self.target, self.seen, container)
    }

    pub(super) fn call(self, container: &Container, call: HookCall) -> Next<'a> {
        self.attempt(Step::AfterStart { container: container.id.clone(), call })
    }

    /// What is called before a container is stopped. One that is not lent to the node any more ends at once.
    pub(super) fn before_stop(self, container: &Container) -> Option<HookCall> {
        let standing = self.node.observed.leases.standing(&self.target.assigned, self.node.now);
        if standing == Standing::Over {
            return None;
        }
        self.declared_before_stop(container)
    }

    fn declared_before_stop(self, container: &Container) -> Option<HookCall> {
        let Some(template) = template_of(self.target, container) else {
            return self.seen.journal.before_stop.get(&container.id).cloned();
        };
        let hook = template.hooks.before_stop.clone()?;
        let address = self.target.assigned.address;
        Some(HookCall { address, slot: container.slot, hook })
    }

    /// The journal with what is to be called before a container is stopped, if the step starts it and that is not on disk: the
    /// declaration may be gone by then.
    pub(super) fn noting_before_stop(self, step: &Step) -> Option<Journal> {
        let Step::Start { container } = step else { return None };
        let before_stop = self.all_before_stop();
        let is_noted = before_stop.get(container) == self.seen.stored.before_stop.get(container);
        (!is_noted).then(|| Journal { before_stop, ..self.seen.journal.clone() })
    }

    /// The same of all containers, to be remembered.
    pub(super) fn all_before_stop(self) -> BTreeMap<ContainerId, HookCall> {
        let all = self.seen.containers.iter();
        all.filter_map(|one| Some((one.id.clone(), self.declared_before_stop(one)?))).collect()
    }
}
