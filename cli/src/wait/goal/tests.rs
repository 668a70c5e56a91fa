use super::*;

/// A workload of two instances at generation 3.
fn workload() -> v1::Workload {
    v1::Workload {
        spec: Some(v1::WorkloadSpec {
            name: "web".into(),
            replicas: 2,
            template: Some(v1::Template::default()),
            ..Default::default()
        }),
        generation: 3,
        updated: 2,
        ..Default::default()
    }
}

/// An instance of generation 3 that runs with good health.
fn instance(ordinal: u32) -> v1::Instance {
    let name = format!("web-{ordinal}");
    v1::Instance {
        status: Some(v1::InstanceStatus {
            instance: name.clone(),
            generation: 3,
            phase: v1::Phase::Running.into(),
            health: v1::Health::Healthy.into(),
            restarts_done: 1,
            ..Default::default()
        }),
        name,
        workload: "web".into(),
        ordinal,
        generation: 3,
        ..Default::default()
    }
}

fn with_status(change: impl FnOnce(&mut v1::InstanceStatus)) -> v1::Instance {
    let mut instance = instance(1);
    change(instance.status.as_mut().unwrap());
    instance
}

fn declared(workload: v1::Workload, instances: Vec<v1::Instance>) -> Progress {
    let goal = Goal::Declared { workload: "web".into(), generation: 3 };
    progress(&[goal], &Seen::new(vec![workload], instances, vec![]))
}

fn waiting(progress: &Progress) -> &str {
    match progress {
        Progress::Waiting(what) => what,
        other => panic!("{other:?} is not waiting"),
    }
}

#[test]
fn a_workload_is_done_when_every_instance_is() {
    assert_eq!(declared(workload(), vec![instance(0), instance(1)]), Progress::Done);
    assert_eq!(waiting(&declared(workload(), vec![instance(0)])), "web: 1 of 2 done");

    let cases: [(&str, v1::Instance); 7] = [
        (
            "preparing; pulling",
            with_status(|status| {
                status.set_phase(v1::Phase::Preparing);
                status.message = "pulling".into();
            }),
        ),
        ("not healthy yet", with_status(|status| status.set_health(v1::Health::Starting))),
        ("not ready yet", with_status(|status| status.set_readiness(v1::Health::Starting))),
        ("running", with_status(|status| status.generation = 2)),
        ("unknown", with_status(|status| status.set_phase(v1::Phase::Unknown))),
        ("backoff", with_status(|status| status.set_phase(v1::Phase::Backoff))),
        ("not taken up yet", v1::Instance { status: None, ..instance(1) }),
    ];
    for (says, other) in cases {
        let progress = declared(workload(), vec![instance(0), other]);
        assert!(waiting(&progress).contains(says), "expected {says}: {progress:?}");
    }
    let old = v1::Workload { updated: 1, ..workload() };
    assert_eq!(waiting(&declared(old, vec![instance(0), instance(1)])), "web: 1 of 2 done");
    let surplus = v1::Instance { removing: true, ..instance(2) };
    let progress = declared(workload(), vec![instance(0), instance(1), surplus]);
    assert!(waiting(&progress).contains("web-2: being removed"), "{progress:?}");
}

#[test]
fn what_cannot_be_done_any_more_fails() {
    let failed = with_status(|status| {
        status.set_phase(v1::Phase::Failed);
        status.message = "there is no image nginx:9".into();
    });
    assert_eq!(
        declared(workload(), vec![instance(0), failed]),
        Progress::Failed("web-1 failed; there is no image nginx:9".into())
    );
    // A failure of the generation before says nothing of this one.
    let before = with_status(|status| {
        status.set_phase(v1::Phase::Failed);
        status.generation = 2;
        status.failed_generation = Some(2);
    });
    waiting(&declared(workload(), vec![instance(0), before]));
    let rolled_back = with_status(|status| {
        status.generation = 2;
        status.failed_generation = Some(3);
    });
    assert!(matches!(declared(workload(), vec![rolled_back]), Progress::Failed(_)));
    let removing = v1::Workload { removing: true, ..workload() };
    assert!(matches!(declared(removing, vec![]), Progress::Failed(_)));
}

#[test]
fn a_workload_is_not_done_before_every_instance_has_held() {
    use v1::verdict::Outcome;
    let with_verdict = |generation, outcome: Outcome| {
        with_status(|status| {
            let reason = "ended with exit code 3".into();
            status.verdict = Some(v1::Verdict { generation, outcome: outcome.into(), reason });
        })
    };
    let held = with_verdict(3, Outcome::Held);
    assert_eq!(declared(workload(), vec![instance(0), held]), Progress::Done);
    for open in [with_verdict(3, Outcome::Open), with_verdict(2, Outcome::Held)] {
        let progress = declared(workload(), vec![instance(0), open]);
        assert!(waiting(&progress).contains("web-1: running, has to hold"), "{progress:?}");
    }
    let failing = with_verdict(3, Outcome::Failing);
    assert_eq!(
        declared(workload(), vec![instance(0), failing]),
        Progress::Failed("web-1: it does not work; ended with exit code 3".into())
    );
    let rolled_back = with_verdict(3, Outcome::RolledBack);
    assert_eq!(
        declared(workload(), vec![instance(0), rolled_back]),
        Progress::Failed(
            "web-1: the update failed and the old container was put back; ended with exit code 3"
                .into()
        )
    );
    let before = with_verdict(2, Outcome::RolledBack);
    waiting(&declared(workload(), vec![instance(0), before]));
}

#[test]
fn where_some_may_fail_the_end_of_the_rollout_is_waited_for() {
    let rolled_back = |generation| v1::Instance {
        failed_version: 5,
        generation,
        ..with_status(|status| {
            let outcome = v1::verdict::Outcome::RolledBack.into();
            status.verdict = Some(v1::Verdict { generation: 3, outcome, reason: String::new() });
        })
    };
    let tolerant = |state: v1::VersionState| {
        let mut one = workload();
        let update = v1::UpdatePolicy { max_failures: 1, ..Default::default() };
        one.spec.as_mut().unwrap().update = Some(update);
        (one.version, one.failed, one.updated) = (5, 1, 1);
        one.failures =
            "1 of 2 instances did not hold with version 5 and went back: web-1: exit code 3".into();
        one.set_version_state(state);
        one
    };
    waiting(&declared(tolerant(v1::VersionState::RollingOut), vec![instance(0), rolled_back(3)]));
    assert_eq!(
        declared(tolerant(v1::VersionState::Incomplete), vec![instance(0), rolled_back(3)]),
        Progress::Failed(
            "web; 1 of 2 instances did not hold with version 5 and went back: web-1: exit code 3; apply it again to try it \
             anew there, or go back with `dwell rollback web`"
                .into()
        )
    );
    let back = v1::Workload {
        generation: 4,
        rolled_back: "version 5 is ruled out, web-1 did not hold: exit code 3".into(),
        ..tolerant(v1::VersionState::RollingOut)
    };
    let progress = declared(back, vec![instance(0), instance(1)]);
    assert!(matches!(progress, Progress::Failed(why) if why.contains("version 5 is ruled out")));
}

#[test]
fn a_first_start_that_fails_for_good_is_not_waited_for() {
    let refused = |generation: u64| v1::Instance {
        generation,
        ..with_status(|status| {
            status.generation = 0;
            status.container_id.clear();
            status.set_phase(v1::Phase::Failed);
            status.message = "mounting /etc is not allowed".into();
        })
    };
    let first = v1::Workload { generation: 1, ..workload() };
    let goal = [Goal::Declared { workload: "web".into(), generation: 1 }];
    let seen = Seen::new(vec![first], vec![refused(1)], vec![]);
    assert_eq!(
        progress(&goal, &seen),
        Progress::Failed("web-1 failed; mounting /etc is not allowed".into())
    );
    // Of a later one it may be what was seen before.
    waiting(&declared(workload(), vec![refused(3)]));
}

#[test]
fn a_job_is_done_when_it_has_ended_well() {
    let ended = |code| {
        with_status(|status| {
            status.set_phase(v1::Phase::Stopped);
            status.exit_code = Some(code);
        })
    };
    let mut job = workload();
    let never =
        v1::RestartPolicy { mode: v1::restart_policy::Mode::Never.into(), max_retries: None };
    job.spec.as_mut().unwrap().template.as_mut().unwrap().restart = Some(never);
    assert_eq!(declared(job, vec![instance(0), ended(0)]), Progress::Done);
    waiting(&declared(workload(), vec![instance(0), ended(0)]));
}

#[test]
fn a_stopped_instance_is_done_when_it_has_stopped() {
    let stopped = |phase: v1::Phase| v1::Instance {
        run: v1::RunState::Stopped.into(),
        ..with_status(|status| status.set_phase(phase))
    };
    let goal = [Goal::Settled { instance: "web-1".into() }];
    let of = |instance| progress(&goal, &Seen::new(vec![], vec![instance], vec![]));
    assert_eq!(of(stopped(v1::Phase::Stopped)), Progress::Done);
    waiting(&of(stopped(v1::Phase::Running)));
    waiting(&of(stopped(v1::Phase::Unknown)));
    assert!(matches!(progress(&goal, &Seen::default()), Progress::Failed(_)));
}

#[test]
fn a_restart_is_done_when_it_was_done_and_runs() {
    let goal = |before| [Goal::Restarted { instance: "web-1".into(), before }];
    let seen = Seen::new(vec![], vec![instance(1)], vec![]);
    assert_eq!(progress(&goal(0), &seen), Progress::Done);
    assert_eq!(waiting(&progress(&goal(1), &seen)), "web-1: restarting");
}

#[test]
fn a_replacement_is_done_when_another_container_holds() {
    let goal = |before: &str| [Goal::Replaced { instance: "web-1".into(), before: before.into() }];
    let with = |change: fn(&mut v1::Instance)| {
        let mut one = instance(1);
        one.status.as_mut().unwrap().container_id = "c2".into();
        change(&mut one);
        Seen::new(vec![], vec![one], vec![])
    };
    assert_eq!(progress(&goal("c1"), &with(|_| {})), Progress::Done);
    let Progress::Failed(why) = progress(&goal("c2"), &with(|_| {})) else { panic!() };
    assert!(why.starts_with("web-1 was not replaced: its new container did not hold"), "{why}");
    waiting(&progress(&goal("c2"), &with(|one| one.generation += 1)));
    let stopped = with(|one| {
        one.set_run(v1::RunState::Stopped);
        one.status.as_mut().unwrap().set_phase(v1::Phase::Stopped);
    });
    assert_eq!(progress(&goal("c2"), &stopped), Progress::Done, "at its next start");
}

#[test]
fn what_is_let_go_is_so_once_its_node_has_written_it_down() {
    let goal = [Goal::LetGo { instance: "web-1".into() }];
    let with = |let_go: bool, on_disk: u64| {
        let mut one = instance(1);
        one.let_go = let_go;
        one.status.as_mut().unwrap().let_go = on_disk;
        Seen::new(vec![v1::Workload { removing: true, ..workload() }], vec![one], vec![])
    };
    waiting(&progress(&goal, &with(true, 0)));
    assert_eq!(progress(&goal, &with(true, 7)), Progress::Done);
    assert!(matches!(progress(&goal, &with(false, 7)), Progress::Failed(_)));
    // Its workload cannot go as long as it is there.
    let gone = [Goal::Gone { workload: "web".into() }];
    let Progress::Failed(why) = progress(&gone, &with(true, 7)) else { panic!() };
    assert_eq!(why, "web: 1 instance let go and left alone");
}

#[test]
fn changes_are_taken_in() {
    let gone = [Goal::Gone { workload: "web".into() }];
    let mut seen =
        Seen::new(vec![v1::Workload { removing: true, ..workload() }], vec![instance(0)], vec![]);
    let deleted = |kind: v1::Kind, name: &str| v1::WatchResponse {
        revision: 1,
        change: Some(Change::Deleted(v1::Deleted { kind: kind.into(), name: name.into() })),
    };
    assert_eq!(waiting(&progress(&gone, &seen)), "web: 1 instance left");
    seen.take(deleted(v1::Kind::Instance, "web-0"));
    seen.take(v1::WatchResponse::default());
    assert_eq!(waiting(&progress(&gone, &seen)), "web: 0 instances left");
    seen.take(deleted(v1::Kind::Workload, "web"));
    assert_eq!(progress(&gone, &seen), Progress::Done);
}

#[test]
fn a_node_is_drained_when_it_is_empty() {
    let goal = [Goal::Drained { node: "h1".into() }];
    let of = |draining, instances| {
        let node = v1::Node { name: "h1".into(), draining, instances, ..Default::default() };
        progress(&goal, &Seen::new(vec![], vec![], vec![node]))
    };
    assert_eq!(of(true, 0), Progress::Done);
    assert_eq!(waiting(&of(true, 2)), "h1: 2 instances left");
    assert!(matches!(of(false, 2), Progress::Failed(_)));
    let given_up = v1::Node {
        name: "h1".into(),
        instances: 2,
        drain_given_up_ms: Some(1),
        message: "was not drained by its deadline; 2 instances were left: web-0: no room".into(),
        ..Default::default()
    };
    let Progress::Failed(why) = progress(&goal, &Seen::new(vec![], vec![], vec![given_up])) else {
        panic!("a drain that was given up is waited for")
    };
    assert!(why.starts_with("h1 was not drained by its deadline"), "{why}");
    let held_up = v1::Node {
        name: "h1".into(),
        draining: true,
        instances: 1,
        obstacles: vec![v1::DrainObstacle {
            instance: "web-0".into(),
            reason: "waits for web-1 to hold".into(),
            next: "dwell logs web-1".into(),
        }],
        ..Default::default()
    };
    assert_eq!(
        waiting(&progress(&goal, &Seen::new(vec![], vec![], vec![held_up]))),
        "h1: 1 instance left; web-0: waits for web-1 to hold; next: dwell logs web-1"
    );
    let node = |staying| v1::Node {
        name: "h1".into(),
        draining: true,
        instances: 2,
        staying,
        ..Default::default()
    };
    let of = |node| progress(&goal, &Seen::new(vec![], vec![], vec![node]));
    waiting(&of(node(1)));
    assert_eq!(of(v1::Node { own: 2, ..node(0) }), Progress::Done, "what belongs to it stays");
    let Progress::Failed(why) = of(node(2)) else {
        panic!("a drain that cannot end is waited for")
    };
    insta::assert_snapshot!(why, @"h1 is drained but for 2 instances, whose volumes are there; `dwell ps --node h1` lists what is left, `dwell move INSTANCE --volumes` takes them along, `dwell node uncordon h1` ends the drain");
}

#[test]
fn a_reboot_is_done_when_the_node_is_back_and_fails_with_its_reason() {
    use v1::reboot::State;
    let goal = [Goal::Rebooted { node: "h1".into(), run: 7 }];
    let of = |run, state: State, message: &str| {
        let reboot = v1::Reboot { run, state: state.into(), message: message.into(), since_ms: 0 };
        let node = v1::Node { name: "h1".into(), reboot: Some(reboot), ..Default::default() };
        progress(&goal, &Seen::new(vec![], vec![], vec![node]))
    };
    assert_eq!(of(7, State::Done, ""), Progress::Done);
    assert_eq!(waiting(&of(7, State::Rebooting, "reboots")), "h1: reboots");
    assert_eq!(waiting(&of(6, State::Done, "")), "h1: waits for its turn to reboot");
    let failed = Progress::Failed("h1: its reboot failed: no power".into());
    assert_eq!(of(7, State::Failed, "its reboot failed: no power"), failed);
    assert!(matches!(of(8, State::Done, ""), Progress::Failed(_)));
}

#[test]
fn what_was_reached_is_said() {
    let at =
        |ordinal: u32| v1::Instance { address: format!("10.80.0.{ordinal}"), ..instance(ordinal) };
    let mut healthy = workload();
    healthy.spec.as_mut().unwrap().template.as_mut().unwrap().healthcheck =
        Some(v1::HealthCheck::default());
    let mut many = workload();
    many.spec.as_mut().unwrap().replicas = 6;
    let mut none = workload();
    none.spec.as_mut().unwrap().replicas = 0;
    let declared = [Goal::Declared { workload: "web".into(), generation: 3 }];
    let of = |goals: &[Goal], workload: v1::Workload, count: u32| {
        reached(goals, &Seen::new(vec![workload], (0..count).map(at).collect(), vec![])).join("\n")
    };
    let restarted = |ordinal| Goal::Restarted { instance: format!("web-{ordinal}"), before: 0 };
    insta::assert_snapshot!(
        [
            of(&declared, healthy, 2),
            of(&declared, many, 6),
            of(&declared, none, 0),
            of(&declared, v1::Workload { run: v1::RunState::Stopped.into(), ..workload() }, 2),
            of(&[Goal::Gone { workload: "web".into() }, Goal::Drained { node: "h1".into() }], workload(), 0),
            of(&[Goal::Settled { instance: "web-1".into() }, restarted(0)], workload(), 2),
            of(&[restarted(0), restarted(1)], workload(), 2),
        ]
        .join("\n"),
        @r"
    web: 2 of 2 healthy at 10.80.0.0, 10.80.0.1
    web: 6 of 6 running at 10.80.0.0, 10.80.0.1, 10.80.0.2, 10.80.0.3 and 2 more
    web: no instances, as declared
    web: 2 of 2 stopped
    web is gone
    h1 is drained
    web-1 runs at 10.80.0.1
    web-0 has restarted
    2 instances have restarted
    "
    );
}

#[test]
fn a_move_is_done_when_it_holds_where_it_was_sent() {
    let goal = [Goal::Moved { instance: "web-1".into(), to: "h2".into() }];
    let seen = |change: fn(&mut v1::Instance)| {
        let mut one = v1::Instance { node: "h2".into(), ..instance(1) };
        change(&mut one);
        progress(&goal, &Seen::new(vec![workload()], vec![one], vec![]))
    };
    assert_eq!(seen(|_| {}), Progress::Done);
    // It does well where it is, and is not told to leave before its image is there.
    let heading = seen(|one| {
        one.node = "h1".into();
        one.moving_to = "h2".into();
        one.status.as_mut().unwrap().message = "goes to h2 as soon as that has web:1".into();
    });
    assert_eq!(waiting(&heading), "web-1: moving; goes to h2 as soon as that has web:1");
    let copied = seen(|one| one.volumes_moving_to = "h2".into());
    assert_eq!(waiting(&copied), "web-1: moving");
    let stayed = seen(|one| one.node = "h1".into());
    assert!(matches!(stayed, Progress::Failed(_)), "{stayed:?}");
    waiting(&seen(|one| {
        one.node = String::new();
        one.status = None;
    }));
}
