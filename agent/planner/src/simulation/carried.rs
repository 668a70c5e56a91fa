//! Files that are carried over, in the simulation: what the engine does, and what must hold at every step.

use crate::decide::current;
use crate::target::Target;
use crate::{ContainerState, Failure, FailureKind, Step};
use dwell_core::container::ContainerId;
use dwell_core::id::InstanceName;

use super::adopted;
use super::temper::Temper;
use super::world::{Fate, Real, World, failure};
use super::{check as check_at_rest, victim};

impl World {
    /// The engine copies the files of one container into another one.
    pub(super) fn carry(&mut self, from: &ContainerId, into: &ContainerId) -> Result<(), Failure> {
        let gone = || failure(FailureKind::Transient, "no such container");
        let old = self.containers.get(from).ok_or_else(gone)?;
        assert!(!old.is_running(), "files are carried over from {from}, which runs");
        let (identity, run) = (old.identity, old.run());
        let new = self.containers.get_mut(into).ok_or_else(gone)?;
        if new.state != ContainerState::Created {
            return Err(failure(FailureKind::Transient, "it was started"));
        }
        (new.identity, new.filled) = (identity, Some((from.clone(), run)));
        Ok(())
    }

    /// A copy that fails may have got somewhere.
    pub(super) fn carry_half(&mut self, step: &Step) {
        if let Step::Carry { into, .. } = step
            && let Some(new) = self.containers.get_mut(into)
            && new.state == ContainerState::Created
        {
            (new.identity, new.filled) = (Some(0), None);
        }
    }
}

/// Checks a step that was planned: nothing starts without the files of what it takes the place of, and what alone has them is not
/// removed.
pub(super) fn check(world: &World, name: &InstanceName, step: &Step) {
    let Some(seen) = world.agent.instances.get(name) else { return };
    let Some(target) = world.desired.get(name).cloned().map(Target::of) else { return };
    if target.aim(&seen.journal).1.carry.is_empty() {
        return;
    }
    let is_current: Vec<&ContainerId> = current(seen, &target).map(|one| &one.id).collect();
    let real = |id: &ContainerId| world.containers.get(id).filter(|real| real.instance == *name);
    let others = |id: &ContainerId| -> Vec<(&ContainerId, &Real)> {
        let others = is_current.iter().filter(|other| **other != id);
        others.filter_map(|other| Some((*other, real(other)?))).collect()
    };
    match step {
        Step::Start { container } => {
            let Some(new) = real(container).filter(|new| new.state == ContainerState::Created)
            else {
                return;
            };
            let mut sources =
                others(container).into_iter().filter(|(_, other)| other.run().is_some());
            let is_filled = match &new.filled {
                // It may have been removed by hand since.
                Some((from, run)) => real(from).is_none_or(|old| old.run() == *run),
                None => sources.next().is_none(),
            };
            assert!(
                is_filled,
                "{container} of {name} is started without the files of {:?}",
                others(container)
            );
        }
        Step::Remove { container }
            if is_current.contains(&container) && !adopted::takes_all_away(world, name) =>
        {
            let has_files = |real: &Real| real.run().is_some() || real.filled.is_some();
            let is_last = real(container).is_some_and(|one| one.run().is_some())
                && !others(container).into_iter().any(|(_, other)| has_files(other));
            assert!(!is_last, "{container} of {name} is removed, which alone has its files");
        }
        _ => {}
    }
}

/// An instance with an identity that it wrote in its first run.
fn with_identity() -> (World, u64) {
    let mut world = World::new();
    world.declare(&victim(0), Temper::Good, 0);
    world.settle();
    let identity = world.containers.values().next().unwrap().identity.unwrap();
    (world, identity)
}

#[test]
fn an_identity_outlives_every_version_wherever_the_agent_crashes() {
    for crash_at in 0..12 {
        for done in [false, true] {
            let (mut world, identity) = with_identity();
            world.declare(&victim(0), Temper::Good, 1);
            for _ in 0..crash_at {
                world.plan();
                while !world.in_flight.is_empty() {
                    world.finish(0, Fate::Done);
                }
            }
            world.plan();
            world.restart_agent(|| done);
            world.settle();
            check_at_rest(&world, &victim(0));
            let now = world.containers.values().next().unwrap().identity;
            assert_eq!(now, Some(identity), "a crash at step {crash_at}, done: {done}");
        }
    }
}

#[test]
fn a_copy_that_fails_half_way_is_made_again() {
    let (mut world, identity) = with_identity();
    world.declare(&victim(0), Temper::Good, 1);
    let mut failed = 0;
    while failed < 3 {
        world.plan();
        while let Some((_, step)) = world.in_flight.first().cloned() {
            let is_copy = matches!(step, Step::Carry { .. });
            failed += usize::from(is_copy);
            world.finish(0, if is_copy { Fate::Failed } else { Fate::Done });
        }
        world.pass(std::time::Duration::from_millis(500));
    }
    world.settle();
    check_at_rest(&world, &victim(0));
    assert_eq!(world.containers.values().next().unwrap().identity, Some(identity));
}

#[test]
fn what_is_put_back_has_what_it_had_and_a_version_that_failed_leaves_nothing() {
    for temper in [Temper::Crashes, Temper::Sick, Temper::Busy, Temper::Uncalled, Temper::Broken] {
        let (mut world, identity) = with_identity();
        world.declare(&victim(0), temper, 1);
        world.settle();
        let all: Vec<_> = world.containers.values().map(|real| real.identity).collect();
        assert_eq!(all, [Some(identity)], "{temper:?}");
        world.declare(&victim(0), Temper::Good, 1);
        world.settle();
        let all: Vec<_> = world.containers.values().map(|real| real.identity).collect();
        assert_eq!(all, [Some(identity)], "after {temper:?}");
    }
}
