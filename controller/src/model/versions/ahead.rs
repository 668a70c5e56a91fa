//! Images on nodes before anything is stopped for them.
//!
//! A rollout begins with a stage in which every node with an instance that is to get the new version fetches its image; no instance
//! gets the version in a turn before that. Nodes are told of the image with the instance ([`Assigned::image_ahead`]) and say how
//! far they are with its status. Not waited for are instances that do not run, nodes that are not heard of, whose instances get no
//! turn either, and agents that do not know of this.
//!
//! ```text
//!   declared ─▶ nodes fetch ─┬─ all have it ──▶ fetched: turns are given
//!                            └─ one cannot ───▶ ruled out; nothing was stopped
//! ```
//!
//! The stage ends: a node that gets no further for `update.deadline` says that it has failed. That the stage is over is durable.
//!
//! [`Assigned::image_ahead`]: dwell_core::instance::Assigned::image_ahead

use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{NodeName, Revision, WorkloadName};
use dwell_core::instance::{AheadState, Counted, InstanceStatus, RunState};

use super::{Version, VersionState};
use crate::model::Model;
use crate::model::object::{Instance, Workload};

/// What to do about a version that nothing was stopped for.
const STOPPED_NOTHING: &str = "nothing was stopped. Mend that and apply it again";

/// How far the stage is.
enum Stage {
    /// Every node has the image.
    Done,
    /// Some have yet to get it, which is told for people.
    Waits(String),
    /// A node cannot get it, which is told for people.
    Failed(String),
}

impl Model {
    /// The image that an instance's node is to have before the instance gets its turn.
    pub(in crate::model) fn image_ahead(&self, instance: &Instance) -> Option<String> {
        let newest = self.newest(instance.name.workload())?;
        let number = newest.form.number;
        let kept = instance.root.kept_image(&newest.form.template).is_some();
        let is_to_come = newest.state == VersionState::RollingOut
            && number != instance.wanted.number
            && !kept
            && newest.form.template.image != instance.wanted.template.image
            && instance.failed_with(number).is_none()
            // Nothing is stopped for what is nowhere.
            && instance.node.is_some()
            && instance.run == RunState::Running
            && !instance.rests()
            && !instance.removing;
        is_to_come.then(|| self.image_as(instance, &newest.form))
    }

    /// Whether instances may be given the newest version in a turn. If a node cannot get its image, it is ruled out.
    pub(in crate::model) fn is_fetched(&mut self, name: &WorkloadName, now: Timestamp) -> bool {
        let Some(newest) = self.unfetched(name) else { return true };
        match self.stage(name) {
            Stage::Done => {
                self.put_version(Version { fetched: true, ..Version::clone(&newest) });
                self.end_other_turns(name);
                true
            }
            Stage::Waits(_) => false,
            Stage::Failed(why) => {
                self.rule_out_version(name, newest.form.number, &why, STOPPED_NOTHING, now);
                false
            }
        }
    }

    /// The newest version, if it is in the stage.
    fn unfetched(&self, name: &WorkloadName) -> Option<Arc<Version>> {
        let newest = self.newest(name)?;
        (newest.state == VersionState::RollingOut && !newest.fetched).then_some(newest)
    }

    /// What was restarted while nodes fetched need not come up as what it was: it is due again.
    fn end_other_turns(&mut self, name: &WorkloadName) {
        let Some(workload) = self.tables.workloads().get(name).cloned() else { return };
        let updating = self.tables.index().updating.get(name).into_iter().flatten();
        let in_turn: Vec<Arc<Instance>> =
            updating.filter_map(|one| self.tables.instances().get(one).cloned()).collect();
        for instance in in_turn {
            self.adopt(&workload, &instance);
        }
    }

    /// What a rollout waits for before it stops anything, for people; `None` if it is past that, or paused.
    pub(in crate::model) fn fetching_in_words(&self, workload: &Workload) -> Option<String> {
        let name = &workload.spec.name;
        self.unfetched(name).filter(|_| workload.paused.is_none())?;
        match self.stage(name) {
            Stage::Waits(what) => Some(what),
            Stage::Done | Stage::Failed(_) => None,
        }
    }

    /// A node has said something new of an image: is that the end of the stage?
    pub(in crate::model) fn note_image_ahead(
        &mut self,
        before: Option<&InstanceStatus>,
        status: &InstanceStatus,
    ) {
        let state = |status: &InstanceStatus| {
            status.image_ahead.clone().map(|ahead| match ahead.state {
                AheadState::Fetching(_) => (ahead.image, AheadState::Fetching(String::new())),
                state => (ahead.image, state),
            })
        };
        let said = state(status);
        if said.is_none() || before.and_then(state) == said {
            return;
        }
        let name = status.instance.workload();
        if self.is_stage_over(name) {
            self.agenda.go_on(name);
        }
    }

    /// Rollouts whose stage is over because a node is not waited for any more.
    pub(in crate::model) fn look_at_stages(&mut self) {
        let due = self.tables.index().due.keys();
        let names = due.filter(|name| self.is_stage_over(name));
        for name in names.cloned().collect::<Vec<_>>() {
            self.agenda.go_on(&name);
        }
    }

    /// Whether a stage is over and that is not noted yet.
    fn is_stage_over(&self, name: &WorkloadName) -> bool {
        self.unfetched(name).is_some() && !matches!(self.stage(name), Stage::Waits(_))
    }

    /// Whether a node may still say that it has an image. One that has only just fallen silent, or has yet to be heard of by
    /// a controller that has just started, may.
    fn is_waited_for(&self, node: &NodeName) -> bool {
        if self.is_ready(node) {
            return self.tables.links().get(node).is_some_and(|link| link.fetches_ahead);
        }
        self.may_be_heard_again(node)
    }

    /// Whether a node that is not ready has only just fallen silent, or has yet to be heard of by a controller that has just
    /// started.
    pub(in crate::model) fn may_be_heard_again(&self, node: &NodeName) -> bool {
        let heard = self.last_heard.get(node);
        heard.is_some_and(|&at| {
            self.clock.steady.since(at) < self.settings.unreachable_after.as_duration()
        })
    }

    /// Whether what a node says was seen when it knew of a version, by when that was declared.
    fn has_looked(&self, node: &NodeName, declared: Revision) -> bool {
        let reported = self.tables.links().get(node).and_then(|link| link.reported);
        reported.is_some_and(|reported| reported >= declared)
    }

    fn stage(&self, name: &WorkloadName) -> Stage {
        let declared = self.newest(name).map_or(Revision(0), |newest| newest.declared);
        let mut waits: Option<(String, usize)> = None;
        for instance in self.tables.instances_of(name) {
            let Some(image) = self.image_ahead(instance) else { continue };
            let Some(node) = instance.assigned_to() else { continue };
            if !self.is_waited_for(node) {
                continue;
            }
            let seen = self.tables.observed().get(&instance.name);
            let said = seen.and_then(|seen| seen.status.image_ahead.as_ref());
            match said.filter(|said| said.image == image).map(|said| &said.state) {
                Some(AheadState::Here) => {}
                Some(AheadState::Failed(reason)) if self.has_looked(node, declared) => {
                    return Stage::Failed(format!("{node} cannot fetch {image}: {reason}"));
                }
                // What was said of an earlier version with the same image is not the answer to this one.
                None | Some(AheadState::Fetching(_) | AheadState::Failed(_)) => {
                    let progress = match said.map(|said| &said.state) {
                        Some(AheadState::Fetching(text)) if !text.is_empty() => {
                            format!(" ({text})")
                        }
                        _ => String::new(),
                    };
                    waits = Some(match waits {
                        None => (format!("waits for {node} to fetch {image}{progress}"), 0),
                        Some((first, more)) => (first, more + 1),
                    });
                }
            }
        }
        match waits {
            None => Stage::Done,
            Some((first, more)) => {
                let more = match more {
                    0 => String::new(),
                    more => format!(", and for the nodes of {} more", Counted(more)),
                };
                Stage::Waits(format!("{first}{more}; nothing is stopped before"))
            }
        }
    }
}
