//! Instances of jobs under the same faults: what was told to have ended never runs again as the same task, attempts are bounded
//! by all that happens, and once the faults stop every task has ended.

use proptest::prelude::*;

use super::temper::{Temper, template};
use super::world::{Fate, World};
use super::{STEPS_MAX, VICTIMS, victim};
use crate::{ContainerState, Journal};
use dwell_core::container::ContainerId;
use dwell_core::fixtures;
use dwell_core::hook::Hooks;
use dwell_core::id::{Generation, InstanceName, Revision};
use dwell_core::instance::{Assigned, RunState};
use dwell_core::job::{Task, TaskOutcome};
use dwell_core::workload::Template;
use std::collections::BTreeSet;
use std::time::Duration;

impl World {
    /// Gives an instance of a job other work.
    pub(crate) fn declare_job(&mut self, name: &InstanceName, temper: Temper, version: u8) {
        self.generation += 1;
        let generation = Generation(self.generation);
        let template = template(temper, version);
        let template = Template { readiness: None, hooks: Hooks::default(), ..template };
        let life = self.desired.get(name).map_or(Revision(generation.0), |one| one.life);
        let task = Some(Task { number: generation, failed_before: 0 });
        let fresh = fixtures::assigned(&name.to_string(), generation.0, template);
        let edition = self.desired.get(name).map_or(fresh.edition, |one| one.edition);
        self.desired.insert(name.clone(), Assigned { life, task, edition, ..fresh });
        self.accept();
    }

    /// Has the work of an instance of a job done anew.
    pub(crate) fn redo(&mut self, name: &InstanceName) {
        self.alter(name, |assigned| {
            assigned.edition = assigned.generation;
            assigned.task = Some(Task { number: assigned.generation, failed_before: 0 });
        });
    }

    /// Somebody starts a container without asking.
    pub(crate) fn start_by_hand(&mut self, id: &ContainerId) {
        let started_at = self.now;
        let Some(real) = self.containers.get(id) else { return };
        let name = real.instance.clone();
        let is_busy = self.in_flight.iter().any(|(busy, _)| *busy == name);
        let runs = self.containers.values().any(|one| one.instance == name && one.is_running());
        if runs || is_busy {
            return;
        }
        self.lose_run(id);
        if let Some(real) = self.containers.get_mut(id) {
            real.state = ContainerState::Running { started_at };
        }
        self.observe(&name);
    }

    /// A main process ends without being told to; of a job, that counts.
    pub(crate) fn end_by_itself(&mut self, id: &ContainerId, code: i32) {
        let Some(real) = self.containers.get(id).filter(|real| real.is_running()) else { return };
        let ContainerState::Running { started_at } = real.state else { return };
        let (name, made_for) = (real.instance.clone(), real.generation);
        let journal = self.disk.get(&name).cloned().unwrap_or_default();
        let by_order = journal.ordered_ends.get(id) == Some(&started_at);
        let task = self.desired.get(&name).and_then(|assigned| assigned.task);
        if let Some(task) = task.filter(|task| made_for >= task.number && !by_order && code != 0) {
            self.failures.entry((name, task.number)).or_default().insert(started_at);
        }
        self.kill(id, code);
    }

    /// Nobody can tell whether a run ended before the order to end it was on disk, or because of it.
    pub(super) fn order_ends(&mut self, name: &InstanceName, journal: &Journal) {
        for ((_, _), failures) in self.failures.iter_mut().filter(|((owner, _), _)| owner == name) {
            failures.retain(|run| !journal.ordered_ends.values().any(|ordered| ordered == run));
        }
    }

    /// Somebody removes a container without asking.
    pub(crate) fn remove_by_hand(&mut self, id: &ContainerId) {
        self.lose_run(id);
        self.containers.remove(id);
    }

    /// What a container could have told of its last run is lost, unless it was counted before.
    fn lose_run(&mut self, id: &ContainerId) {
        let Some(real) = self.containers.get(id) else { return };
        let ContainerState::Exited { started_at, .. } = real.state else { return };
        let journal = self.disk.get(&real.instance).cloned().unwrap_or_default();
        for ((name, number), failures) in &mut self.failures {
            let record = journal.of_task(Task { number: *number, failed_before: 0 });
            if *name == real.instance && record.counted != Some(started_at) {
                failures.remove(&started_at);
            }
        }
    }

    /// What a start must not be of an instance of a job.
    pub(super) fn check_task(&self, name: &InstanceName) {
        let Some(assigned) = self.desired.get(name) else { return };
        let Some(task) = assigned.task else { return };
        let journal = self.disk.get(name).cloned().unwrap_or_default();
        let end = journal.of_task(task).end;
        assert!(end.is_none(), "{name} is started although its task has ended: {end:?}");
        let failures = self.failures.get(&(name.clone(), task.number));
        let failed = failures.map_or(0, BTreeSet::len);
        let attempts = assigned.template.restart.attempts().unwrap_or(u32::MAX);
        let attempts = usize::try_from(attempts).unwrap_or(usize::MAX);
        assert!(failed < attempts, "{name} is tried again after {failed} of {attempts} attempts");
    }
}

#[derive(Clone, Debug)]
enum Action {
    Plan,
    Finish { index: usize, fate: Fate },
    Pass { ms: u64 },
    Observe { victim: usize },
    Declare { victim: usize, temper: Temper, version: u8 },
    Redo { victim: usize },
    Run { victim: usize, run: RunState },
    Restart { victim: usize },
    Kill { index: usize },
    StartByHand { index: usize },
    RemoveByHand { index: usize },
    RestartAgent { done: Vec<bool> },
    EngineAway,
    EngineBack,
}

fn action() -> impl Strategy<Value = Action> {
    let victim = 0..VICTIMS;
    let index = any::<proptest::sample::Index>().prop_map(|index| index.index(8));
    let fate =
        prop_oneof![6 => Just(Fate::Done), 1 => Just(Fate::Failed), 1 => Just(Fate::ReplyLost)];
    let temper = prop_oneof![
        4 => Just(Temper::Works), 2 => Just(Temper::Crashes), 1 => Just(Temper::Sick),
        1 => Just(Temper::Absent)
    ];
    let run = prop_oneof![Just(RunState::Running), Just(RunState::Stopped)];
    prop_oneof![
        12 => Just(Action::Plan),
        12 => (index.clone(), fate).prop_map(|(index, fate)| Action::Finish { index, fate }),
        6 => (1_u64..20_000).prop_map(|ms| Action::Pass { ms }),
        3 => victim.clone().prop_map(|victim| Action::Observe { victim }),
        2 => (victim.clone(), temper, 0_u8..3)
            .prop_map(|(victim, temper, version)| Action::Declare { victim, temper, version }),
        1 => victim.clone().prop_map(|victim| Action::Redo { victim }),
        1 => (victim.clone(), run).prop_map(|(victim, run)| Action::Run { victim, run }),
        1 => victim.prop_map(|victim| Action::Restart { victim }),
        1 => index.clone().prop_map(|index| Action::Kill { index }),
        1 => index.clone().prop_map(|index| Action::StartByHand { index }),
        1 => index.prop_map(|index| Action::RemoveByHand { index }),
        3 => prop::collection::vec(any::<bool>(), 4).prop_map(|done| Action::RestartAgent { done }),
        1 => Just(Action::EngineAway),
        2 => Just(Action::EngineBack),
    ]
}

fn act(world: &mut World, action: &Action) {
    let container = |world: &World, index| world.containers.keys().nth(index).cloned();
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
            world.declare_job(&victim(index), temper, version);
        }
        Action::Redo { victim: index } => world.redo(&victim(index)),
        Action::Run { victim: index, run } => {
            world.alter(&victim(index), |assigned| assigned.run = run);
        }
        Action::Restart { victim: index } => {
            world.alter(&victim(index), |assigned| assigned.restarts_asked += 1);
        }
        Action::Kill { index } => {
            if let Some(id) = container(world, index) {
                world.end_by_itself(&id, 137);
            }
        }
        Action::StartByHand { index } => {
            if let Some(id) = container(world, index) {
                world.start_by_hand(&id);
            }
        }
        Action::RemoveByHand { index } => {
            if let Some(id) = container(world, index) {
                world.remove_by_hand(&id);
            }
        }
        Action::RestartAgent { ref done } => {
            let mut done = done.iter().copied().cycle();
            world.restart_agent(|| done.next().unwrap_or(false));
        }
        Action::EngineAway => world.engine_up = false,
        Action::EngineBack => {
            world.engine_up = true;
            world.observe_all();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_has_ended_never_runs_again(actions in prop::collection::vec(action(), 1..150)) {
        let mut world = World::new();
        for index in 0..VICTIMS {
            world.declare_job(&victim(index), Temper::Works, 0);
        }
        for action in &actions {
            act(&mut world, action);
        }
        for index in 0..VICTIMS {
            world.alter(&victim(index), |assigned| assigned.run = RunState::Running);
        }
        world.engine_up = true;
        world.restart_agent(|| true);
        let steps = world.settle();
        prop_assert!(steps <= STEPS_MAX, "{} steps to settle", steps);
        for index in 0..VICTIMS {
            let name = victim(index);
            let assigned = &world.desired[&name];
            let journal = world.disk.get(&name).cloned().unwrap_or_else(Journal::default);
            let end = assigned.task.and_then(|task| journal.of_task(task).end);
            let image = assigned.template.image.clone();
            let runs = world.containers.values().any(|real| real.instance == name && real.is_running());
            match end.map(|end| end.outcome) {
                // What is unhealthy is given up, and what cannot be fetched is tried for ever.
                None => prop_assert!(image.starts_with("absent"), "{} of {} goes on", name, image),
                Some(TaskOutcome::Completed) => prop_assert!(!runs, "{} runs on", name),
                Some(TaskOutcome::Failed) => prop_assert!(!runs, "{} runs on", name),
            }
        }
    }
}
