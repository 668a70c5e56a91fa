//! Instances that are put in the place of a container that dwell did not make.
//!
//! To the rules of an update that container is the old one, which can be put back; but it has a network of its own, and files that have
//! to be kept first. So it is stopped before the instance's own container is made, and runs again only when that is gone.
//!
//! ```text
//!   journal     the container    own container   what is done
//!   -           runs             any             one of an earlier instance is stopped and removed
//!   -           runs             -               note that it is taken
//!   taking      runs, or rests   -               stop it, keep its files ── they cannot be in time ─▶ given up
//!   taking      rests            any             as an update: made, started, on trial ── it holds ─▶ held
//!                                                                                └── it does not ─▶ given up
//!   given up    rests            any             the own one is stopped and removed
//!   given up    rests            -               it is started again, then that is noted: returned
//!   held        rests            any             nothing: the instance is like any other
//!   returned    runs             -               nothing, until the instance is removed
//! ```
//!
//! Who wants the instance no more, or wants another life of it, gives up what is still open. An own container is made only after the files
//! were kept: one that is there says that this was done.

use super::roles::Roles;
use super::{Instance, Next, Node, Rest, attempt, current, take_away, there};
use crate::journal::{Journal, Progress, TakenOver};
use crate::observed::{Container, Seen, Taken};
use crate::step::Step;
use crate::target::Target;
use dwell_core::foreign::Adoption;
use dwell_core::instance::RunState;

/// What is noted where nobody has said why.
const UNWANTED: &str = "it is not wanted any more";

/// What an instance needs, and what to tidy up, beside what every other needs; `None` if that is nothing.
pub(super) fn next<'a>(
    target: Option<&'a Target>,
    seen: &'a Seen,
    roles: &Roles<'a>,
    node: Node<'a>,
) -> Option<(Next<'a>, Option<Next<'a>>)> {
    match (seen.journal.taken_over.as_ref(), target) {
        (Some(taken), Some(target)) if taken.life == target.assigned.life => {
            match &taken.progress {
                Progress::Taking => {
                    let instance = Instance { target, seen, node };
                    Some((instance.take(roles, &taken.adoption)?, None))
                }
                Progress::Held => None,
                Progress::GivenUp { reason } => Some((put_back(taken, reason, seen, node), None)),
                Progress::Returned { reason } => {
                    let container = taken.adoption.name.as_str();
                    let tidy = there(seen).next().map(|slot| Step::RemoveSandbox { slot });
                    let tidy = tidy.map(|step| attempt(step, seen, node));
                    Some((Next::Rest(Rest::PutBack { container, reason }), tidy))
                }
            }
        }
        (Some(taken), _) if taken.is_open() => {
            let reason = match &taken.progress {
                Progress::GivenUp { reason } => reason,
                _ => UNWANTED,
            };
            Some((put_back(taken, reason, seen, node), None))
        }
        (_, Some(target)) => {
            let adoption = target.assigned.adopts.clone()?;
            if node.run(target, seen) != RunState::Running {
                return None;
            }
            // What is there is of an earlier instance of this name.
            if let Some(step) = take_away(seen) {
                return Some((attempt(step, seen, node), None));
            }
            let (life, progress) = (target.assigned.life, Progress::Taking);
            let taken_over = Some(TakenOver { adoption, life, progress });
            let journal = Journal { taken_over, ..seen.journal.clone() };
            Some((attempt(Step::Record(Box::new(journal)), seen, node), None))
        }
        (_, None) => None,
    }
}

/// Nothing of the instance is left before the container is started again.
fn put_back<'a>(taken: &TakenOver, reason: &str, seen: &'a Seen, node: Node<'a>) -> Next<'a> {
    let step = if let Some(step) = take_away(seen) {
        step
    } else if seen.taken == Taken::Returned {
        let progress = Progress::Returned { reason: reason.to_owned() };
        let taken_over = Some(TakenOver { progress, ..taken.clone() });
        Step::Record(Box::new(Journal { taken_over, ..seen.journal.clone() }))
    } else {
        Step::StartForeign(Box::new(taken.adoption.clone()))
    };
    attempt(step, seen, node)
}

impl<'a> Instance<'a> {
    /// Stops the container and keeps its files, unless that is done. Of what is not to run it would never be known whether it holds.
    fn take(self, roles: &Roles<'a>, adoption: &Adoption) -> Option<Next<'a>> {
        if self.overtaken_by().is_some() {
            return None;
        }
        if self.target.assigned.run == RunState::Stopped {
            return Some(self.roll_back("it was stopped before it had held".to_owned()));
        }
        let is_taken = self.seen.taken == Taken::Kept
            || current(self.seen, self.target).next().is_some()
            || roles.others().any(Container::is_running);
        if is_taken || !self.is_to_run() {
            return None;
        }
        if let Some((Step::StopForeign(_) | Step::KeepForeign(_), trouble)) = &self.seen.trouble
            && self.is_hopeless(trouble)
        {
            let (name, reason) = (&adoption.name, &trouble.failure.message);
            return Some(
                self.roll_back(format!("container {name} could not be taken over: {reason}")),
            );
        }
        let adoption = Box::new(adoption.clone());
        let step = match self.seen.taken {
            Taken::Stopped => Step::KeepForeign(adoption),
            Taken::No | Taken::Kept | Taken::Returned => Step::StopForeign(adoption),
        };
        Some(self.attempt(step))
    }
}
