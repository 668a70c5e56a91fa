//! Changes that reach instances a few at a time, and what goes wrong with them.

mod ahead;
mod beside;
mod canaries;
mod failures;
mod moves;
mod stuck;

use dwell_core::change::ChangeClass;
use dwell_core::health::{HealthCheck, Probe};
use dwell_core::instance::{Outcome, Phase, RunState};
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::workload::{Mount, MountSource, OnFailure, Portion, Ssh, WorkloadSpec};

use super::fleet::{Fleet, at, instance, node, spec, workload};
use crate::model::{Command, NodeChange, Target, VersionState};

fn image(version: u32, replicas: u32) -> WorkloadSpec {
    let mut spec = spec("web", replicas);
    spec.template.image = format!("image:{version}");
    spec
}

/// The image that each instance is to run, as versions.
fn versions(fleet: &Fleet) -> Vec<String> {
    let instances = fleet.model.tables.instances().values();
    instances.map(|instance| instance.wanted.template.image.replace("image:", "")).collect()
}

#[test]
fn one_after_the_other() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 3)).unwrap();
    fleet.settle();
    fleet.apply(image(2, 3)).unwrap();
    assert_eq!(versions(&fleet), ["2", "1", "1"]);
    let view = fleet.model.workload(&workload("web")).unwrap();
    assert_eq!((view.updated, view.workload.generation), (0, at(2)));
    assert!(view.message.starts_with("waits for web-0"), "{}", view.message);

    // Others' reports, and old ones, are no reason to go on.
    fleet.sync(&node("n2"));
    fleet.report(&node("n1")).unwrap();
    assert_eq!(versions(&fleet), ["2", "1", "1"]);
    fleet.sync(&node("n1"));
    assert_eq!(versions(&fleet), ["2", "2", "1"]);
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "2"]);
    assert_eq!(fleet.model.workload(&workload("web")).unwrap().updated, 3);
}

#[test]
fn as_many_at_once_as_allowed() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 5)).unwrap();
    fleet.settle();
    let mut two = image(2, 5);
    two.update.parallelism = Portion::Percent(40);
    fleet.apply(two).unwrap();
    assert_eq!(versions(&fleet), ["2", "2", "1", "1", "1"]);
}

#[test]
fn live_changes_go_to_all_at_once_also_in_the_middle() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 3)).unwrap();
    fleet.settle();
    let mut live = image(1, 3);
    live.template.resources.cpu = Millicores(100);
    fleet.apply(live.clone()).unwrap();
    fleet.settle();
    let mut live = image(1, 3);
    live.template.resources.cpu = Millicores(150);
    fleet.apply(live.clone()).unwrap();
    let assigned = fleet.assigned_to("n3");
    assert_eq!(assigned[0].template.resources.cpu, Millicores(150));
    assert_eq!(assigned[0].generation, at(3));

    live.template.image = "image:2".into();
    fleet.apply(live.clone()).unwrap();
    live.template.resources.cpu = Millicores(200);
    fleet.apply(live).unwrap();
    assert_eq!(versions(&fleet), ["2", "1", "1"], "web-0 still has its turn");
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "2"]);
}

#[test]
fn who_may_reach_and_log_in_changes_at_once_and_without_a_restart() {
    let mut fleet = Fleet::of(2);
    fleet.apply(image(1, 4)).unwrap();
    fleet.settle();
    let mut closed = image(1, 4);
    closed.template.allow_from = Some(Vec::new());
    let mut silent = closed.clone();
    silent.template.ssh = Ssh::Off;
    for (spec, field) in [(closed, "network.allow_from"), (silent, "ssh")] {
        let base = fleet.model.revision();
        let plan = fleet.apply(spec.clone()).unwrap();
        assert_eq!((plan.class(), plan.changed_fields), (ChangeClass::Live, vec![field]));
        let delta = fleet.model.assignment_since(&node("n2"), base).unwrap();
        assert_eq!(delta.changed.len(), 2, "all at once");
        for assigned in &delta.changed {
            assert_eq!((&assigned.template, assigned.restarts_asked), (&spec.template, 0));
        }
        fleet.settle();
    }
}

#[test]
fn a_failed_update_pauses_until_the_next_apply() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 3)).unwrap();
    fleet.settle();
    fleet.apply(image(2, 3)).unwrap();
    fleet.fetch(&node("n1"));
    let now = fleet.now;
    fleet.hosts.get_mut(&node("n1")).unwrap().fail(&instance("web-0"), now);
    fleet.report(&node("n1")).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["1", "1", "1"], "it is told to be again what it held with");
    let view = fleet.model.workload(&workload("web")).unwrap();
    assert_eq!(
        view.message,
        "rollout paused: version 2 is ruled out, web-0 did not hold: does not answer; what served before was put back. \
         Apply a mended version, or go back with `dwell rollback web`"
    );
    let paused = fleet.model.events(Some("workload/web"), 1);
    assert_eq!(paused[0].reason, "rollout-paused");
    fleet.report(&node("n1")).unwrap();
    fleet.settle();
    let told = fleet.model.events(Some("instance/web-0"), 50);
    let told: Vec<&str> = told
        .iter()
        .filter(|event| event.reason == "instance-rolled-back")
        .map(|event| event.message.as_str())
        .collect();
    assert_eq!(told, ["did not hold with version 2: does not answer; goes back to version 1"]);

    // Scaling is no opinion about the failure; restarts go on.
    fleet.command(Command::Scale { workload: workload("web"), replicas: 4 }).unwrap();
    fleet.command(Command::Restart(Target::Workload(workload("web")))).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["1", "1", "1", "1"], "a new one is what is good");
    assert!(fleet.model.workload(&workload("web")).unwrap().workload.paused.is_some());

    // The same again is another try, with a generation of its own.
    fleet.apply(image(2, 4)).unwrap();
    let again = &fleet.assigned_to("n1")[0];
    assert!(again.generation > at(3));
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "2", "2"]);
    assert_eq!(fleet.model.workload(&workload("web")).unwrap().message, "");
}

#[test]
fn going_back_touches_only_what_had_changed() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 3)).unwrap();
    fleet.settle();
    fleet.apply(image(2, 3)).unwrap();
    let plan = fleet.apply(image(1, 3)).unwrap();
    let touched: Vec<String> =
        plan.instances.iter().map(|plan| plan.instance.to_string()).collect();
    assert_eq!(touched, ["web-0"]);
    fleet.settle();
    assert_eq!(versions(&fleet), ["1", "1", "1"]);
}

#[test]
fn a_rollout_survives_the_controller() {
    let mut fleet = Fleet::of(2);
    fleet.apply(image(1, 4)).unwrap();
    fleet.settle();
    fleet.apply(image(2, 4)).unwrap();
    fleet.restart_controller();
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "2", "2"]);
}

#[test]
fn a_turn_ends_with_the_verdict_and_not_with_a_process_that_runs() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 3)).unwrap();
    fleet.settle();
    fleet.apply(image(2, 3)).unwrap();
    fleet.fetch(&node("n1"));
    let now = fleet.now;
    fleet.hosts.get_mut(&node("n1")).unwrap().try_out(&instance("web-0"), now);
    fleet.report(&node("n1")).unwrap();
    assert_eq!(versions(&fleet), ["2", "1", "1"], "web-0 runs, and has to hold yet");
    fleet.sync(&node("n1"));
    assert_eq!(versions(&fleet), ["2", "2", "1"]);
}

/// Its disk was full when it lost power, so that it knows only the order before.
#[test]
fn a_node_that_has_lost_its_order_ends_no_turn() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 3)).unwrap();
    fleet.settle();
    let held = fleet.hosts[&node("n1")].containers[&instance("web-0")].clone();
    fleet.apply(image(2, 3)).unwrap();
    fleet.fetch(&node("n1"));
    // What is there is of the lost order, so that the node leaves it alone; what it has decided is of the one before.
    let host = fleet.hosts.get_mut(&node("n1")).unwrap();
    let left = host.containers.get_mut(&instance("web-0")).unwrap();
    (left.phase, left.generation, left.verdict) = (Phase::Stopped, at(2), held.verdict);
    fleet.report(&node("n1")).unwrap();
    assert_eq!(versions(&fleet), ["2", "1", "1"], "nothing is known of version 2");
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "2"]);
}

#[test]
fn an_agent_without_verdicts_is_judged_by_what_it_shows() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 3)).unwrap();
    fleet.settle();
    fleet.apply(image(2, 3)).unwrap();
    fleet.fetch(&node("n1"));
    let now = fleet.now;
    let host = fleet.hosts.get_mut(&node("n1")).unwrap();
    host.try_out(&instance("web-0"), now);
    host.containers.get_mut(&instance("web-0")).unwrap().verdict = None;
    fleet.report(&node("n1")).unwrap();
    assert_eq!(versions(&fleet), ["2", "2", "1"]);
}

#[test]
fn a_roll_back_pauses_the_rollout_also_when_the_turn_seemed_to_be_over() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 3)).unwrap();
    fleet.settle();
    fleet.apply(image(2, 3)).unwrap();
    fleet.fetch(&node("n1"));
    fleet.sync(&node("n1"));
    assert_eq!(versions(&fleet), ["2", "2", "1"]);
    let generation = fleet.model.instance(&instance("web-0")).unwrap().instance.generation;
    let now = fleet.now;
    let host = fleet.hosts.get_mut(&node("n1")).unwrap();
    host.containers.get_mut(&instance("web-0")).unwrap().generation = at(1);
    host.fail(&instance("web-0"), now);
    let status = &host.containers[&instance("web-0")];
    assert!(matches!(status.verdict_on(generation), Some(Outcome::RolledBack { .. })));
    fleet.report(&node("n1")).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["1", "1", "1"], "web-2 is not risked, web-1 had not held yet");
    assert!(fleet.model.workload(&workload("web")).unwrap().workload.paused.is_some());
}

#[test]
fn what_was_declared_since_is_not_paused_by_the_version_before() {
    let mut fleet = Fleet::of(1);
    fleet.apply(image(1, 1)).unwrap();
    fleet.settle();
    fleet.apply(image(2, 1)).unwrap();
    fleet.fetch(&node("n1"));
    let now = fleet.now;
    fleet.hosts.get_mut(&node("n1")).unwrap().fail(&instance("web-0"), now);
    fleet.apply(image(3, 1)).unwrap();
    fleet.report(&node("n1")).unwrap();
    assert!(fleet.model.workload(&workload("web")).unwrap().workload.paused.is_none());
    fleet.settle();
    assert_eq!(versions(&fleet), ["3"]);
}

#[test]
fn a_live_change_that_can_hurt_reaches_instances_a_few_at_a_time() {
    let sized = |memory: u64, cpu: u64| {
        let mut spec = image(1, 3);
        spec.template.resources.memory = Bytes::mebi(memory);
        spec.template.resources.cpu = Millicores(cpu);
        spec
    };
    let memory = |fleet: &Fleet| {
        let instances = fleet.model.tables.instances().values();
        instances.map(|one| one.wanted.template.resources.memory.0 >> 20).collect::<Vec<_>>()
    };
    let mut fleet = Fleet::of(3);
    fleet.apply(sized(128, 100)).unwrap();
    fleet.settle();
    let plan = fleet.apply(sized(64, 100)).unwrap();
    assert_eq!(plan.class(), ChangeClass::Live);
    assert_eq!(memory(&fleet), [64, 128, 128]);
    let now = fleet.now;
    fleet.fetch(&node("n1"));
    fleet.hosts.get_mut(&node("n1")).unwrap().fail(&instance("web-0"), now);
    fleet.report(&node("n1")).unwrap();
    fleet.settle();
    assert_eq!(memory(&fleet), [128, 128, 128], "what was killed there gets back what it had");
    assert!(fleet.model.workload(&workload("web")).unwrap().workload.paused.is_some());

    fleet.apply(sized(256, 200)).unwrap();
    assert_eq!(memory(&fleet), [256, 256, 256], "more hurts nobody");
}

#[test]
fn the_deadline_is_at_least_what_the_health_check_needs_and_plan_says_so() {
    let mut fleet = Fleet::of(1);
    let mut web = image(1, 1);
    let probe = Probe::Http { port: 8080, path: "/".into() };
    let start_period = Millis::seconds(180);
    web.template.healthcheck = Some(HealthCheck { start_period, ..HealthCheck::new(probe) });
    let plan = fleet.apply(web).unwrap();
    assert_eq!(
        plan.notes,
        [
            "update.deadline is 3m25s, not 1m: its health check's start_period, interval, retries and timeout take \
          that long"
        ]
    );
    let assigned = &fleet.assigned_to("n1")[0];
    assert_eq!(assigned.update_deadline, Millis::seconds(205));
}

#[test]
fn a_changed_deadline_reaches_the_node_by_delta() {
    let mut fleet = Fleet::of(1);
    fleet.apply(image(1, 1)).unwrap();
    fleet.settle();
    let base = fleet.model.revision();
    let mut patient = image(1, 1);
    patient.update.deadline = Millis::seconds(300);
    patient.update.monitor = Millis::seconds(20);
    fleet.apply(patient).unwrap();
    let delta = fleet.model.assignment_since(&node("n1"), base).unwrap();
    let told = &delta.changed[0];
    assert_eq!((told.update_deadline.0, told.monitor.0), (300_000, 20_000));
    assert_eq!(delta.changed, fleet.assigned_to("n1"));
}

#[test]
fn an_instance_that_is_made_again_has_another_life() {
    let mut fleet = Fleet::of(1);
    fleet.apply(image(1, 1)).unwrap();
    fleet.settle();
    let life = |fleet: &Fleet| fleet.assigned_to("n1")[0].life;
    let first = life(&fleet);
    fleet.command(Command::Restart(Target::Workload(workload("web")))).unwrap();
    fleet.settle();
    assert_eq!(life(&fleet), first);
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    fleet.settle();
    fleet.apply(image(1, 1)).unwrap();
    assert!(life(&fleet) > first);
}

#[test]
fn all_go_back_by_themselves_where_that_is_declared() {
    let mut fleet = Fleet::of(3);
    let by_itself = |version| {
        let mut spec = image(version, 3);
        spec.update.on_failure = OnFailure::Rollback;
        spec
    };
    fleet.apply(by_itself(1)).unwrap();
    fleet.settle();
    fleet.apply(by_itself(2)).unwrap();
    // web-0 holds with it, and web-1 does not.
    fleet.sync(&node("n1"));
    fleet.sync(&node("n1"));
    assert_eq!(versions(&fleet), ["2", "2", "1"]);
    fleet.fetch(&node("n2"));
    let now = fleet.now;
    fleet.hosts.get_mut(&node("n2")).unwrap().fail(&instance("web-1"), now);
    fleet.report(&node("n2")).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["1", "1", "1"], "also the one that held with it");
    let view = fleet.model.workload(&workload("web")).unwrap();
    assert_eq!(view.workload.paused, None);
    assert_eq!(view.workload.spec.template.image, "image:1", "that is what is declared now");
    let history = fleet.model.versions(&workload("web")).unwrap();
    assert!(history[0].good && history[0].version.by == "update.on_failure", "{history:?}");
    assert!(matches!(history[1].version.state, VersionState::RuledOut { .. }));
}
