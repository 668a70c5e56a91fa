use super::*;
use crate::wait::goal::{Goal, progress, reached};

fn workload(restart: v1::restart_policy::Mode) -> v1::Workload {
    let restart = Some(v1::RestartPolicy { mode: restart.into(), max_retries: None });
    let template = Some(v1::Template { restart, ..Default::default() });
    v1::Workload {
        spec: Some(v1::WorkloadSpec {
            name: "web".into(),
            replicas: 2,
            template,
            ..Default::default()
        }),
        generation: 3,
        updated: 2,
        created_at_ms: 10,
        ..Default::default()
    }
}

fn instance(ordinal: u32, change: impl FnOnce(&mut v1::InstanceStatus)) -> v1::Instance {
    let name = format!("web-{ordinal}");
    let mut status = v1::InstanceStatus {
        instance: name.clone(),
        generation: 3,
        phase: v1::Phase::Running.into(),
        ..Default::default()
    };
    change(&mut status);
    v1::Instance {
        status: Some(status),
        workload: "web".into(),
        ordinal,
        generation: 3,
        created_at_ms: 11,
        address: format!("10.80.0.{}", ordinal + 1),
        name,
        ..Default::default()
    }
}

fn runs(ordinal: u32) -> v1::Instance {
    instance(ordinal, |_| {})
}

fn goal(subject: Subject, state: State) -> Goal {
    let created_at_ms = if matches!(subject, Subject::Workload(_)) { 10 } else { 11 };
    Goal::In(Awaited { subject, state, generation: 3, created_at_ms })
}

fn web(state: State) -> Goal {
    goal(Subject::Workload("web".into()), state)
}

fn web_1(state: State) -> Goal {
    goal(Subject::Instance("web-1".into()), state)
}

use v1::restart_policy::Mode::{Always, Never};

fn how(goal: &Goal, workload: v1::Workload, other: v1::Instance) -> Progress {
    progress(std::slice::from_ref(goal), &Seen::new(vec![workload], vec![runs(0), other], vec![]))
}

fn says(progress: &Progress) -> String {
    match progress {
        Progress::Done => "done".into(),
        Progress::Waiting(what) => format!("waits: {what}"),
        Progress::Failed(why) => format!("fails: {why}"),
    }
}

#[test]
fn each_state_of_a_workload_and_of_an_instance() {
    type Change = fn(&mut v1::InstanceStatus);
    let sick: Change = |status| status.set_health(v1::Health::Unhealthy);
    let fine: Change = |_| {};
    let failed: Change = |status| {
        status.set_phase(v1::Phase::Failed);
        status.message = "no such image".into();
    };
    let backs_off: Change = |status| status.set_phase(v1::Phase::Backoff);
    let ended: Change = |status| {
        status.set_phase(v1::Phase::Stopped);
        status.exit_code = Some(0);
    };
    let ended_badly: Change = |status| {
        status.set_phase(v1::Phase::Stopped);
        status.exit_code = Some(3);
    };
    let mut shown = String::new();
    for state in [State::Healthy, State::Running, State::Stopped, State::Completed] {
        for (what, change) in [
            ("runs", fine),
            ("is sick", sick),
            ("failed", failed),
            ("backs off", backs_off),
            ("ended", ended),
            ("ended badly", ended_badly),
        ] {
            let of = |goal: &Goal| says(&how(goal, workload(Never), instance(1, change)));
            let (all, one) = (of(&web(state)), of(&web_1(state)));
            shown += &format!("{state:?}, web-1 {what}\n  web    {all}\n  web-1  {one}\n");
        }
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn what_is_stopped_will_not_be_healthy_by_itself() {
    let stopped = v1::Workload { run: v1::RunState::Stopped.into(), ..workload(Always) };
    let why = says(&how(&web(State::Healthy), stopped, runs(1)));
    assert_eq!(why, "fails: web is stopped; `dwell start web` starts it");
    let one = v1::Instance { run: v1::RunState::Stopped.into(), ..runs(1) };
    for state in [State::Healthy, State::Running] {
        let why = says(&how(&web_1(state), workload(Always), one.clone()));
        assert_eq!(why, "fails: web-1 is stopped; `dwell start web-1` starts it");
    }
}

#[test]
fn what_is_always_started_again_never_completes() {
    let why = says(&how(&web(State::Completed), workload(Always), runs(1)));
    assert!(why.starts_with("fails: web-0 is started again whenever it ends"), "{why}");
}

#[test]
fn what_ended_before_the_present_declaration_has_not_completed_it() {
    let ended = |status: &mut v1::InstanceStatus| {
        status.set_phase(v1::Phase::Stopped);
        status.exit_code = Some(0);
    };
    let both = |generation| {
        let of = |ordinal| v1::Instance { generation, ..instance(ordinal, ended) };
        vec![of(0), of(1)]
    };
    let goal = [web(State::Completed)];
    let how =
        |workload, instances| says(&progress(&goal, &Seen::new(vec![workload], instances, vec![])));
    assert_eq!(how(workload(Never), both(3)), "done");
    let waits = how(workload(Never), both(4));
    assert_eq!(waits, "waits: web: 0 of 2 completed; web-0: stopped");
    let rolling = v1::Workload { updated: 1, ..workload(Never) };
    assert_eq!(how(rolling, both(3)), "waits: web: 1 of 2 as declared");
}

#[test]
fn an_update_that_failed_is_not_waited_for() {
    let rolled_back = instance(1, |status| {
        status.generation = 2;
        status.verdict = Some(v1::Verdict {
            generation: 3,
            outcome: v1::verdict::Outcome::RolledBack.into(),
            reason: "does not answer".into(),
        });
    });
    for goal in [web(State::Healthy), web_1(State::Healthy)] {
        let why = says(&how(&goal, workload(Always), rolled_back.clone()));
        assert!(why.starts_with("fails: web-1: the update failed"), "{why}");
    }
}

#[test]
fn gone_is_what_was_there_when_the_waiting_began() {
    let empty = Seen::default();
    let there = || Seen::new(vec![workload(Always)], vec![runs(1)], vec![]);
    for (goal, name) in [(web(State::Gone), "web"), (web_1(State::Gone), "web-1")] {
        let goals = [goal];
        assert_eq!(progress(&goals, &empty), Progress::Done);
        assert_eq!(reached(&goals, &empty), [format!("{name} is gone")]);
        let waits = says(&progress(&goals, &there()));
        assert_eq!(waits, format!("waits: {name}: there, and nobody has removed it"));
        // Somebody has made another one of that name.
        let again = v1::Workload { created_at_ms: 20, ..workload(Always) };
        let other = v1::Instance { created_at_ms: 20, ..runs(1) };
        assert_eq!(progress(&goals, &Seen::new(vec![again], vec![other], vec![])), Progress::Done);
    }
    let going = v1::Instance { removing: true, ..runs(1) };
    let waits = says(&how(&web_1(State::Gone), workload(Always), going));
    assert_eq!(waits, "waits: web-1: being removed");
}

#[test]
fn a_node_is_ready_when_it_is_heard_of() {
    let node = |state: v1::NodeState| v1::Node {
        name: "h1".into(),
        state: state.into(),
        message: "says why".into(),
        ..Default::default()
    };
    let goals = [Goal::Ready { node: "h1".into() }];
    let how = |nodes| says(&progress(&goals, &Seen::new(vec![], vec![], nodes)));
    assert_eq!(how(vec![node(v1::NodeState::Ready)]), "done");
    assert_eq!(how(vec![node(v1::NodeState::Down)]), "waits: h1: not heard of; says why");
    assert_eq!(how(vec![]), "fails: h1 was removed");
}
