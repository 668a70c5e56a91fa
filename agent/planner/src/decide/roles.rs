//! Which container of an instance has which part.
//!
//! Usually there is one, and it is the keeper. Two are there during an update. More, or two of the
//! same kind, only after somebody meddled or an update was overtaken by the next one: then exactly
//! one way of choosing leads from any set of containers to one that stays.
//!
//! An engine may show containers again that it, or another store of its own, had not shown for a while. What has been
//! overtaken meanwhile has no part but to go ([`current`]).

use dwell_core::id::Revision;
use dwell_core::instance::RunState;

use crate::journal::{Journal, Ruling};
use crate::observed::{Container, Seen};
use crate::target::Target;

/// The parts of an instance's containers.
#[derive(Debug)]
pub(crate) enum Roles<'a> {
    /// One container is to stay, if there is one.
    Steady { keeper: Option<&'a Container>, others: Vec<&'a Container> },
    /// The new container (once it is made) has to show that it works; the old one goes on meanwhile. Where it was started, there is
    /// a way back: the old container has held, or the assignment names what did, which can be made anew where it is missing.
    Update { old: Option<&'a Container>, new: Option<&'a Container>, others: Vec<&'a Container> },
}

impl<'a> Roles<'a> {
    /// Of an instance that is to be, what it is and whether it is to run.
    pub(crate) fn assign(target: Option<(&'a Target, RunState)>, seen: &'a Seen) -> Self {
        let all = &seen.containers;
        let Some((target, run)) = target else {
            return Self::Steady { keeper: None, others: all.iter().collect() };
        };
        let new = best_match(current(seen, target), target);
        let old = last_known_good(current(seen, target), target, &seen.journal)
            // A task is nothing that another container could be gone back to for.
            .filter(|_| target.assigned.task.is_none());
        let back = old.filter(|old| is_way_back(old, target, &seen.journal));
        let is_started = new.is_some_and(|new| new.run().is_some());
        let ruling = seen.journal.ruling_on(target.assigned.generation);
        let is_to_run = run == RunState::Running;
        let others = |kept: [Option<&Container>; 2]| {
            let is_kept = |id| kept.iter().flatten().any(|container| &container.id == id);
            all.iter().filter(|container| !is_kept(&container.id)).collect()
        };
        match (old, ruling) {
            // An instance that is not to run cannot show that it works: its update is undone, and
            // begins anew when it is to run again.
            (Some(_), None) if !is_to_run => {
                Self::Steady { keeper: old, others: others([old, None]) }
            }
            // What never held serves until there is something better, and is not gone back to.
            (Some(_), None) if back.is_some() || !is_started => {
                Self::Update { old, new, others: others([old, new]) }
            }
            (_, None)
                if is_to_run
                    && (target.fallback.is_some()
                        || seen.journal.is_taking(target.assigned.life)) =>
            {
                Self::Update { old: back, new, others: others([back, new]) }
            }
            (_, Some(Ruling::RolledBack { .. })) if back.is_some() || target.fallback.is_some() => {
                Self::Steady { keeper: back, others: others([back, None]) }
            }
            (_, _) => Self::Steady { keeper: new, others: others([new, None]) },
        }
    }

    /// The containers that are to go.
    pub(crate) fn others(&self) -> impl Iterator<Item = &'a Container> {
        let (Self::Steady { others, .. } | Self::Update { others, .. }) = self;
        others.iter().copied()
    }

    /// The container that stands for the instance: one that runs, else the one that is to.
    pub(crate) fn face(&self) -> Option<&'a Container> {
        let (first, second) = match self {
            Self::Steady { keeper, .. } => (*keeper, None),
            // What is tried beside another is not reached yet.
            Self::Update { old: Some(old), new: Some(new), .. }
                if old.is_running() && old.slot != new.slot =>
            {
                (Some(*old), Some(*new))
            }
            Self::Update { old, new, .. } => (*new, *old),
        };
        let all = || first.into_iter().chain(second).chain(self.others());
        all().find(|container| container.is_running()).or_else(|| all().next())
    }
}

/// The containers that may be the instance's: not those of an earlier life of it, nor those that were made before one
/// which has held.
pub(crate) fn current<'a>(
    seen: &'a Seen,
    target: &Target,
) -> impl Iterator<Item = &'a Container> + use<'a> {
    // What would be made now is never out of date, also if a controller that was restored counts anew.
    let least = seen.journal.proven.min(target.aim(&seen.journal).0).max(target.least_generation());
    let life = target.assigned.life;
    let is_earlier =
        move |container: &Container| container.life != Revision::default() && container.life < life;
    let is_current = move |one: &&Container| one.generation >= least && !is_earlier(one);
    seen.containers.iter().filter(is_current)
}

/// The container that is as desired. Of several, the one of the desired generation, then one that
/// runs, then the newest.
pub(crate) fn best_match<'a>(
    all: impl Iterator<Item = &'a Container>,
    target: &Target,
) -> Option<&'a Container> {
    let rank = |container: &Container| {
        let exact = container.generation == target.assigned.generation;
        (exact, container.is_running(), container.generation, container.run())
    };
    all.filter(|container| container.fingerprint == target.fingerprint)
        .max_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| b.id.cmp(&a.id)))
}

/// Whether a container is what is put up again if its successor does not hold.
fn is_way_back(container: &Container, target: &Target, journal: &Journal) -> bool {
    journal.has_held(container) || target.fallback.as_ref() == Some(&container.fingerprint)
}

/// The container of an earlier generation that serves while there is no other: what can be gone back to, of that the one that an
/// update was committed to, else the oldest, because whatever is older than one that held is not [`current`]. Never one that was
/// ruled out here.
fn last_known_good<'a>(
    all: impl Iterator<Item = &'a Container>,
    target: &Target,
    journal: &Journal,
) -> Option<&'a Container> {
    let committed = journal
        .verdict
        .as_ref()
        .filter(|verdict| verdict.ruling == Ruling::Committed)
        .map(|verdict| verdict.generation);
    all.filter(|container| container.fingerprint != target.fingerprint)
        .filter(|container| container.generation < target.assigned.generation)
        .filter(|container| {
            let ruling = journal.ruling_on(container.generation);
            !matches!(ruling, Some(Ruling::RolledBack { .. }))
        })
        .min_by_key(|container| {
            let is_committed = Some(container.generation) == committed;
            let is_back = is_way_back(container, target, journal);
            (!is_back, !is_committed, container.generation, !container.is_running(), &container.id)
        })
}
