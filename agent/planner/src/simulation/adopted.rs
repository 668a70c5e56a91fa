//! Containers that others have made, in the simulation: what the engine does with them, and what must hold at every step.

use std::collections::BTreeMap;

use dwell_core::container::ContainerId;
use dwell_core::foreign::{Adoption, ForeignRestart};
use dwell_core::id::InstanceName;
use dwell_core::quantity::Millis;
use proptest::prelude::*;

use super::temper::Temper;
use super::world::{Fate, World, failure};
use super::{Action, act, action, check as check_at_rest, victim};
use crate::{Failure, FailureKind, Journal, Progress, Step, TakenOver};

/// A container that others have made, as it really is.
#[derive(Clone, Debug)]
pub(crate) struct Foreigner {
    pub(super) runs: bool,
    /// Whether the engine starts it again by itself.
    restarts: bool,
    /// Whether its files are kept for the instance.
    kept: bool,
    /// Whether the instance has held in its place.
    is_replaced: bool,
}

fn adoption() -> Adoption {
    Adoption {
        container: ContainerId("foreign".to_owned()),
        name: "foreign".to_owned(),
        grace: Millis::seconds(10),
        restart: ForeignRestart::Always,
        image: None,
        volumes: BTreeMap::new(),
    }
}

fn taken<'a>(world: &'a World, name: &InstanceName) -> Option<&'a TakenOver> {
    world.disk.get(name)?.taken_over.as_ref()
}

/// Whether the agent takes the containers of an instance away: another one is to run again, or they are of an earlier instance.
pub(super) fn takes_all_away(world: &World, name: &InstanceName) -> bool {
    let life = world.desired.get(name).map(|assigned| assigned.life);
    match taken(world, name) {
        Some(taken) if Some(taken.life) == life || taken.is_open() => {
            taken.is_open() && (taken.progress != Progress::Taking || Some(taken.life) != life)
        }
        _ => world.adopts(name),
    }
}

/// Nothing starts beside the container in whose place it is put, nor without its files.
pub(super) fn check_start(world: &World, name: &InstanceName) {
    if taken(world, name).is_some_and(TakenOver::is_open) {
        let foreigner = &world.foreigners[name];
        assert!(!foreigner.runs, "{name} is started beside {foreigner:?}");
        assert!(foreigner.kept, "{name} is started without the files of {foreigner:?}");
    }
}

/// What has to be true of a container in whose place an instance was put, once nothing happens any more. Returns whether it runs again
/// for the time being of the instance.
pub(super) fn check(world: &World, name: &InstanceName) -> bool {
    let Some(foreigner) = world.foreigners.get(name) else { return false };
    let found = taken(world, name);
    match found.map(|taken| &taken.progress) {
        Some(Progress::Held) => assert!(!foreigner.runs, "{name} holds beside {foreigner:?}"),
        Some(Progress::Taking | Progress::GivenUp { .. }) => {
            panic!("{name} is left half-way: {foreigner:?}")
        }
        Some(Progress::Returned { .. }) => {
            assert!(foreigner.runs && foreigner.restarts, "{name} has put back {foreigner:?}");
            let life = world.desired.get(name).map(|assigned| assigned.life);
            return life.is_some() && life == found.map(|taken| taken.life);
        }
        None => assert_eq!(foreigner.runs, !foreigner.is_replaced, "{name}: {foreigner:?}"),
    }
    false
}

impl World {
    /// Puts an instance in the place of a container that others have made, which runs; that is made first, unless it is there.
    pub(super) fn take_place(&mut self, name: &InstanceName, temper: Temper) {
        let is_free = self.foreigners.get(name).is_none_or(|one| one.runs);
        if self.desired.contains_key(name) || !is_free {
            return;
        }
        let foreigner = Foreigner { runs: true, restarts: true, kept: false, is_replaced: false };
        self.foreigners.insert(name.clone(), foreigner);
        self.declare(name, temper, 1);
        self.desired.entry(name.clone()).and_modify(|one| one.adopts = Some(adoption()));
    }

    pub(super) fn adopts(&self, name: &InstanceName) -> bool {
        self.desired.get(name).is_some_and(|assigned| assigned.adopts.is_some())
    }

    /// What the engine does with a container that others have made.
    pub(super) fn adopt(&mut self, name: &InstanceName, step: &Step) -> Result<(), Failure> {
        let runs = self.containers.values().any(|real| real.instance == *name && real.is_running());
        let gone = || failure(FailureKind::Transient, "no such container");
        let foreigner = self.foreigners.get_mut(name).ok_or_else(gone)?;
        assert!(!foreigner.is_replaced, "{step:?} of what {name} has replaced");
        match step {
            Step::StopForeign(_) => (foreigner.runs, foreigner.restarts) = (false, false),
            Step::KeepForeign(_) if foreigner.runs => {
                return Err(failure(FailureKind::Transient, "it runs"));
            }
            Step::KeepForeign(_) => foreigner.kept = true,
            _ => {
                assert!(!runs, "{foreigner:?} is started beside {name}");
                (foreigner.runs, foreigner.restarts) = (true, true);
            }
        }
        Ok(())
    }

    /// What fails may have got somewhere.
    pub(super) fn adopt_half(&mut self, name: &InstanceName, step: &Step) {
        let Some(foreigner) = self.foreigners.get_mut(name) else { return };
        match step {
            Step::StopForeign(_) => foreigner.restarts = false,
            Step::StartForeign(_) => foreigner.runs = true,
            _ => {}
        }
    }

    pub(super) fn note_foreigner(&mut self, name: &InstanceName, journal: &Journal) {
        let progress = journal.taken_over.as_ref().map(|taken| &taken.progress);
        if progress == Some(&Progress::Held)
            && let Some(foreigner) = self.foreigners.get_mut(name)
        {
            foreigner.is_replaced = true;
        }
    }

    /// The engine ends them all, and starts those again that it is to.
    pub(super) fn kill_foreigners(&mut self) {
        self.foreigners.values_mut().for_each(|one| one.runs &= one.restarts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_the_two_exactly_one_runs_in_the_end(
        tempers in prop::collection::vec(prop_oneof![Just(Temper::Good), Just(Temper::Crashes), Just(Temper::Sick), Just(Temper::Broken)], 3),
        actions in prop::collection::vec(action(), 1..100),
    ) {
        let mut world = World::new();
        for (index, temper) in tempers.into_iter().enumerate() {
            world.take_place(&victim(index), temper);
        }
        let others = |action: &&Action| !matches!(action, Action::Run { .. } | Action::Declare { .. } | Action::RemoveByHand { .. });
        for action in actions.iter().filter(others) {
            act(&mut world, action);
        }
        world.engine_up = true;
        world.restart_agent(|| true);
        world.settle();
        for index in 0..3 {
            let name = victim(index);
            check_at_rest(&world, &name);
            let own = world.containers.values().any(|real| real.instance == name && real.is_running());
            let taken = taken(&world, &name).map(|taken| taken.progress.clone());
            match taken {
                Some(Progress::Held) => prop_assert!(!world.foreigners[&name].runs),
                Some(_) => prop_assert_eq!(own, !world.foreigners[&name].runs),
                None => {}
            }
        }
    }
}

/// Whatever the agent is at when it is killed, and whether that was done or not.
#[test]
fn a_crash_at_any_step_ends_in_one_of_the_two() {
    for (temper, holds) in [(Temper::Good, true), (Temper::Crashes, false), (Temper::Broken, false)]
    {
        for crash_at in 0..16 {
            for done in [false, true] {
                let mut world = World::new();
                let name = victim(0);
                world.take_place(&name, temper);
                for _ in 0..crash_at {
                    world.plan();
                    while !world.in_flight.is_empty() {
                        world.finish(0, Fate::Done);
                    }
                }
                world.plan();
                world.restart_agent(|| done);
                world.settle();
                check_at_rest(&world, &name);
                let progress = &taken(&world, &name).unwrap().progress;
                let at = format!("{temper:?}, a crash at step {crash_at}, done: {done}");
                assert_eq!(*progress == Progress::Held, holds, "{at}: {progress:?}");
                assert_eq!(world.foreigners[&name].runs, !holds, "{at}");
            }
        }
    }
}

/// A removal amid it puts the container back, at whatever step, and leaves nothing.
#[test]
fn a_removal_puts_it_back() {
    for removed_at in 0..8 {
        let mut world = World::new();
        let name = victim(0);
        world.take_place(&name, Temper::Sick);
        for _ in 0..removed_at {
            world.plan();
            while !world.in_flight.is_empty() {
                world.finish(0, Fate::Done);
            }
        }
        world.desired.remove(&name);
        world.settle();
        check_at_rest(&world, &name);
        assert!(world.foreigners[&name].runs && !world.disk.contains_key(&name), "{removed_at}");
        world.take_place(&name, Temper::Good);
        world.settle();
        assert_eq!(taken(&world, &name).unwrap().progress, Progress::Held, "{removed_at}");
    }
}
