//! Files that go from a container to the one that takes its place.
//!
//! ```text
//!   old      new        what is done
//!   runs     created    it is stopped: only then the copy is whole
//!   ended    created    Carry, from the old one into the new one
//!   ended    filled     the new one is started; from here on its files are its own
//! ```
//!
//! Nothing of that is in the journal. The old container is only read and is not removed before the new one was started, and
//! what was never started is filled again by an agent that does not remember having done so: the same files, with the same
//! outcome. A container that was started once is never filled again.
//!
//! What is gone back to is a container with the files that it ended with: what its successor made of them is not carried back.

use dwell_core::container::ContainerId;

use super::roles::Roles;
use super::{Instance, current};
use crate::observed::{Carried, Container, ContainerState};
use crate::step::Step;

impl<'a> Instance<'a> {
    /// What a container that is about to be started takes over first, if it does not have it yet. `before` is the container
    /// that served.
    pub(super) fn carry_into(self, before: Option<&Container>, new: &Container) -> Option<Step> {
        let paths = &self.aim().1.carry;
        let is_filled = new.state != ContainerState::Created;
        let old = self.with_files(before, &new.id).filter(|_| !is_filled)?;
        let (from, into) = (old.id.clone(), new.id.clone());
        let carried = Carried { from, run: old.run(), into, paths: paths.clone() };
        let is_done = self.seen.carried.as_ref() == Some(&carried);
        let Carried { from, into, paths, .. } = carried;
        (!is_done).then_some(Step::Carry { from, into, paths })
    }

    /// The container whose files another one takes over when it is started: the one that served, else the last one that ran.
    fn with_files(self, before: Option<&Container>, new: &ContainerId) -> Option<&'a Container> {
        let rank = |one: &&'a Container| {
            (before.is_some_and(|old| old.id == one.id), one.generation, one.run())
        };
        self.others_with_files(new).max_by_key(rank)
    }

    /// What has ended and was not overtaken, if anything is to be carried over.
    fn others_with_files(self, one: &ContainerId) -> impl Iterator<Item = &'a Container> {
        let carries = !self.aim().1.carry.is_empty();
        let all = current(self.seen, self.target).filter(move |_| carries);
        let has_ended = |other: &Container| matches!(other.state, ContainerState::Exited { .. });
        all.filter(move |other| other.id != *one && has_ended(other))
    }

    /// A container that is not removed, although it is to go, before its files are in the one that takes its place.
    pub(super) fn still_needed(self, roles: &Roles<'a>) -> Option<&'a ContainerId> {
        let (before, new) = match roles {
            Roles::Steady { keeper, .. } => (None, *keeper),
            Roles::Update { old, new, .. } => (*old, *new),
        };
        let is_filled = new.is_some_and(|new| new.state != ContainerState::Created);
        let none = ContainerId(String::new());
        let new = new.map_or(&none, |new| &new.id);
        self.with_files(before, new).filter(|_| !is_filled).map(|one| &one.id)
    }

    /// Whether files that are to be carried over would be lost with a container.
    pub(super) fn alone_has_files(self, container: &Container) -> bool {
        let carries = !self.aim().1.carry.is_empty();
        carries
            && container.run().is_some()
            && self.others_with_files(&container.id).next().is_none()
    }

    /// Whether a new container may be tried beside the one that serves, from which nothing can be carried over while it runs.
    pub(super) fn may_be_beside(self) -> bool {
        self.target.assigned.beside && self.aim().1.carry.is_empty()
    }
}
