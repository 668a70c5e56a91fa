//! Drives the planner through random faults in a simulated node and checks what must hold whatever
//! happens: never two containers of one instance at once, what is healthy is not touched, and once the
//! faults stop, exactly what is desired runs after a bounded number of steps.
//!
//! `world.rs` is the node; it asserts at every step what must never happen. Here is what happens to it.

mod adopted;
mod carried;
mod jobs;
mod temper;
mod world;

use std::time::Duration;

use crate::{ContainerState, Journal, Ruling};
use dwell_core::container::ContainerId;
use dwell_core::id::InstanceName;
use dwell_core::instance::{Custody, RunState};
use dwell_core::quantity::Bytes;
use dwell_core::sandbox::Slot;
use proptest::prelude::*;
use temper::{Temper, carry};
use world::{Fate, World};

/// The instances that everything happens to.
const VICTIMS: usize = 3;
/// More steps than any instance needs for an update with roll-back and all its crashes.
const STEPS_MAX: usize = VICTIMS * 30;

#[derive(Clone, Debug)]
enum Action {
    Plan,
    Finish { index: usize, fate: Fate },
    Pass { ms: u64 },
    Observe { victim: usize },
    Declare { victim: usize, temper: Temper, version: u8 },
    Withdraw { victim: usize },
    LetGo { victim: usize },
    Adopt { victim: usize },
    TakePlace { victim: usize, temper: Temper },
    Limit { victim: usize, mebi: u64 },
    Carry { victim: usize, carries: bool },
    Run { victim: usize, run: RunState },
    Restart { victim: usize },
    Kill { index: usize },
    RemoveByHand { index: usize },
    LoseSandbox { victim: usize },
    RestartAgent { done: Vec<bool> },
    EngineAway,
    EngineBack { killed_all: bool },
}

fn action() -> impl Strategy<Value = Action> {
    let victim = 0..VICTIMS;
    let any_index = any::<proptest::sample::Index>().prop_map(|index| index.index(8));
    let fate =
        prop_oneof![6 => Just(Fate::Done), 1 => Just(Fate::Failed), 1 => Just(Fate::ReplyLost)];
    let temper = prop_oneof![
        5 => Just(Temper::Good), 1 => Just(Temper::Crashes), 1 => Just(Temper::Sick), 1 => Just(Temper::Busy), 1 => Just(Temper::Uncalled),
        1 => Just(Temper::Broken), 1 => Just(Temper::Absent)
    ];
    let run = prop_oneof![Just(RunState::Running), Just(RunState::Stopped)];
    prop_oneof![
        12 => Just(Action::Plan),
        12 => (any_index.clone(), fate).prop_map(|(index, fate)| Action::Finish { index, fate }),
        3 => (1_u64..30_000).prop_map(|ms| Action::Pass { ms }),
        3 => victim.clone().prop_map(|victim| Action::Observe { victim }),
        1 => (victim.clone(), temper.clone())
            .prop_map(|(victim, temper)| Action::TakePlace { victim, temper }),
        3 => (victim.clone(), temper, 0_u8..3)
            .prop_map(|(victim, temper, version)| Action::Declare { victim, temper, version }),
        1 => victim.clone().prop_map(|victim| Action::Withdraw { victim }),
        1 => victim.clone().prop_map(|victim| Action::LetGo { victim }),
        1 => victim.clone().prop_map(|victim| Action::Adopt { victim }),
        1 => (victim.clone(), 16_u64..18).prop_map(|(victim, mebi)| Action::Limit { victim, mebi }),
        1 => (victim.clone(), any::<bool>())
            .prop_map(|(victim, carries)| Action::Carry { victim, carries }),
        1 => (victim.clone(), run).prop_map(|(victim, run)| Action::Run { victim, run }),
        1 => victim.clone().prop_map(|victim| Action::Restart { victim }),
        2 => any_index.clone().prop_map(|index| Action::Kill { index }),
        1 => any_index.prop_map(|index| Action::RemoveByHand { index }),
        1 => victim.prop_map(|victim| Action::LoseSandbox { victim }),
        2 => proptest::collection::vec(any::<bool>(), 4)
            .prop_map(|done| Action::RestartAgent { done }),
        1 => Just(Action::EngineAway),
        2 => any::<bool>().prop_map(|killed_all| Action::EngineBack { killed_all }),
    ]
}

fn bystander() -> InstanceName {
    "bystander-0".parse().unwrap()
}

fn victim(index: usize) -> InstanceName {
    format!("victim-{index}").parse().unwrap()
}

/// The containers that something may be done to by hand.
fn containers_of_victims(world: &World) -> Vec<ContainerId> {
    let of_victim = world.containers.iter().filter(|(_, real)| real.instance != bystander());
    of_victim.map(|(id, _)| id.clone()).collect()
}

fn act(world: &mut World, action: &Action) {
    match *action {
        Action::Plan => drop(world.plan()),
        Action::Finish { index, fate } => {
            if !world.in_flight.is_empty() {
                world.finish(index % world.in_flight.len(), fate);
            }
        }
        Action::Pass { ms } => world.pass(Duration::from_millis(ms)),
        Action::Observe { victim: index } => world.observe(&victim(index)),
        Action::Declare { victim: index, temper, version } => {
            world.declare(&victim(index), temper, version);
        }
        Action::Withdraw { victim: index } => drop(world.desired.remove(&victim(index))),
        Action::TakePlace { victim: index, temper } => world.take_place(&victim(index), temper),
        // The controller lets nobody let go of what is being put in a container's place.
        Action::LetGo { victim: index } if world.adopts(&victim(index)) => {}
        Action::LetGo { victim: index } => world.alter(&victim(index), |assigned| {
            assigned.custody = Custody::LetGo(assigned.generation);
        }),
        Action::Adopt { victim: index } => world.alter(&victim(index), |assigned| {
            assigned.custody = Custody::Adopted(assigned.generation);
        }),
        Action::Limit { victim: index, mebi } => world.alter(&victim(index), |assigned| {
            assigned.template.resources.memory = Bytes::mebi(mebi);
        }),
        Action::Carry { victim: index, carries } => world.alter(&victim(index), |assigned| {
            assigned.template.carry = if carries { carry() } else { Vec::new() };
        }),
        Action::Run { victim: index, run } => {
            world.alter(&victim(index), |assigned| assigned.run = run);
        }
        Action::Restart { victim: index } => {
            world.alter(&victim(index), |assigned| assigned.restarts_asked += 1);
        }
        Action::Kill { index } => {
            if let Some(id) = containers_of_victims(world).get(index).cloned() {
                world.kill(&id, 137);
            }
        }
        Action::RemoveByHand { index } => {
            if let Some(id) = containers_of_victims(world).get(index) {
                world.containers.remove(id);
            }
        }
        Action::LoseSandbox { victim: index } => {
            let name = victim(index);
            world.sandboxes.retain(|sandbox, _| sandbox.instance != name);
            // All that is noticed is that something has happened.
            if let Some(seen) = world.agent.instances.get_mut(&name) {
                Slot::ALL.into_iter().for_each(|slot| seen.sandboxes.doubt(slot));
            }
        }
        Action::RestartAgent { ref done } => {
            let mut done = done.iter().copied().cycle();
            world.restart_agent(|| done.next().unwrap_or(false));
        }
        Action::EngineAway => world.engine_up = false,
        Action::EngineBack { killed_all } => {
            if killed_all {
                for id in containers_of_victims(world) {
                    world.kill(&id, 137);
                }
                world.kill_foreigners();
            }
            world.engine_up = true;
            world.observe_all();
        }
    }
}

/// What has to be true of an instance once nothing happens any more.
fn check(world: &World, name: &InstanceName) {
    let of_instance: Vec<_> =
        world.containers.iter().filter(|(_, real)| &real.instance == name).collect();
    let running: Vec<_> = of_instance.iter().filter(|(_, real)| real.is_running()).collect();
    assert!(running.len() <= 1, "{name} runs twice: {of_instance:?}");
    if world.is_let_go(name) {
        // What was done to it by others, nobody mends; that nothing was done by the planner is asserted at each step.
        return;
    }
    if adopted::check(world, name) {
        assert!(of_instance.is_empty(), "{name} was put back but has {of_instance:?}");
        return;
    }
    let Some(assigned) = world.desired.get(name) else {
        assert!(of_instance.is_empty(), "{name} is not desired but {of_instance:?}");
        let has_sandbox = world.sandboxes.keys().any(|sandbox| sandbox.instance == *name);
        assert!(!has_sandbox, "{name} is not desired but has a sandbox");
        assert!(!world.disk.contains_key(name), "{name} is not desired but has a journal");
        return;
    };
    if assigned.run == RunState::Stopped {
        assert!(running.is_empty(), "{name} is to be stopped but {running:?}");
        return;
    }
    let journal = world.disk.get(name).cloned().unwrap_or_else(Journal::default);
    let rolled_back = journal.verdict.is_some_and(|verdict| {
        verdict.generation == assigned.generation
            && matches!(verdict.ruling, Ruling::RolledBack { .. })
    });
    let works = assigned.template.image.starts_with("good");
    if works && !rolled_back {
        let [(id, real)] = running[..] else {
            panic!("{name} does not run: {of_instance:?}");
        };
        assert_eq!(of_instance.len(), 1, "{name} has left-overs: {of_instance:?}");
        let ContainerState::Running { started_at } = real.state else { unreachable!() };
        assert_eq!(real.called, Some(started_at), "the hook of {id} was not called in this run");
        assert_eq!(real.fingerprint, assigned.fingerprint(), "{id} is out of date");
        assert_eq!(real.limits, assigned.template.limits(), "{id} has old limits");
        let all = world.sandboxes.iter().filter(|(sandbox, _)| sandbox.instance == *name);
        let all: Vec<_> = all.map(|(sandbox, number)| (sandbox.slot, Some(*number))).collect();
        assert_eq!(all, [(real.slot, real.sandbox)], "{id} runs in another place, or not alone");
        assert_eq!(world.reached.get(name), Some(&real.slot), "{id} is not what is reached");
    }
    if rolled_back {
        // What was put back may have been removed by hand since. Then it is made anew from the fallback. Without one it
        // is made from what is desired, which cannot be done without an image.
        let can_be_made = !assigned.template.image.starts_with("absent");
        match (&assigned.fallback, &of_instance[..]) {
            (Some(_), [(id, real)]) => {
                let ruled_out = assigned.fingerprint();
                assert_ne!(
                    real.fingerprint, ruled_out,
                    "{id} is of the version that was ruled out"
                );
            }
            (None, [_]) => {}
            (None, []) if !can_be_made => {}
            (_, other) => panic!("{name} was rolled back but has {other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn faults_end_in_exactly_what_is_desired(actions in prop::collection::vec(action(), 1..150)) {
        let mut world = World::new();
        world.declare(&bystander(), Temper::Good, 0);
        world.settle();
        let untouched: Vec<_> =
            world.containers.iter().map(|(id, real)| (id.clone(), real.state)).collect();
        prop_assert_eq!(untouched.len(), 1);

        for action in &actions {
            act(&mut world, action);
        }
        // A last crash, with nothing of the volatile state left, makes pauses start anew.
        world.engine_up = true;
        world.restart_agent(|| true);
        let steps = world.settle();

        prop_assert!(steps <= STEPS_MAX, "{} steps to settle", steps);
        for index in 0..VICTIMS {
            check(&world, &victim(index));
        }
        let (id, state) = &untouched[0];
        prop_assert_eq!(&world.containers[id].state, state, "a healthy instance was touched");
    }
}

#[test]
fn a_new_instance_takes_as_many_steps_as_it_needs_and_a_plan_at_the_fixpoint_is_empty() {
    let mut world = World::new();
    world.declare(&victim(0), Temper::Good, 0);
    world.images.insert("good:0".into());
    let steps =
        "create, sandbox, the note of one hook, start, the other hook, and the note that it holds";
    assert_eq!(world.settle(), 6, "{steps}");
    check(&world, &victim(0));
    assert!(world.plan().is_empty());
    world.restart_agent(|| false);
    assert_eq!(
        world.settle(),
        1,
        "a restart of the agent checks the sandbox and does nothing else"
    );
}

#[test]
fn every_bad_image_is_rolled_back_to_the_container_that_worked() {
    for temper in [Temper::Crashes, Temper::Sick, Temper::Busy, Temper::Uncalled, Temper::Broken] {
        let mut world = World::new();
        world.declare(&victim(0), Temper::Good, 0);
        world.settle();
        let before: Vec<_> = world.containers.keys().cloned().collect();
        world.declare(&victim(0), temper, 1);
        world.settle();
        let after: Vec<_> = world.containers.iter().filter(|(_, real)| real.is_running()).collect();
        assert_eq!(after.len(), 1, "{temper:?}");
        assert_eq!(after[0].0, &before[0], "{temper:?}");
        assert_eq!(world.containers.len(), 1, "{temper:?}: {:?}", world.containers);
        world.declare(&victim(0), Temper::Good, 2);
        world.settle();
        check(&world, &victim(0));
    }
}

#[test]
fn an_image_that_cannot_be_fetched_leaves_the_old_container_serving() {
    let mut world = World::new();
    world.declare(&victim(0), Temper::Good, 0);
    world.settle();
    let before = world.containers.keys().next().cloned().unwrap();
    world.declare(&victim(0), Temper::Absent, 1);
    world.plan();
    world.kill(&before, 137);
    world.settle();
    assert!(world.containers[&before].is_running(), "the old one was not kept alive");
    assert_eq!(world.containers.len(), 1);
    let verdict = world.disk[&victim(0)].verdict.clone().unwrap();
    let reason = "image absent:1 could not be pulled: no such image".to_owned();
    assert_eq!(verdict.ruling, Ruling::RolledBack { reason });
}
