//! Trouble has a place: what fails or hangs for one instance harms no other.

use dwell_core::quantity::Bytes;
use dwell_core::registry::RegistryLogin;
use dwell_core::workload::Enforced;

use super::*;

/// Two instances that run, looked at by an agent that has just started.
async fn two_running(host: &mut Host) -> Agent {
    host.declare(["web-0", "web-1"], 1, "a");
    let mut agent = host.start();
    agent.all_running(2).await;
    agent
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_inspected_is_unknown_alone() {
    let mut host = Host::new().await;
    let agent = two_running(&mut host).await;
    agent.reconciler.stop().await;
    let (hung, other) = (host.container("web-0"), host.container("web-1"));
    host.engine.stall_subject(Operation::Inspect, hung.as_str());
    let mut agent = host.start();
    let seen = agent.status("web-0", |one| one.message.contains(&hung.to_string())).await;
    assert_eq!(seen.phase, Phase::Unknown);
    assert!(host.engine.crash(&other, 9));
    agent.status("web-1", |one| one.restarts == 1 && one.phase == Phase::Running).await;
    assert_eq!(*agent.reconciler.engine().borrow(), EngineState::Ready);
    // Withdrawn, it is not gone: nobody could look.
    host.assigned.remove(&"web-0".parse().unwrap());
    host.publish();
    pass(Duration::from_secs(300)).await;
    assert!(agent.statuses.borrow().as_ref().unwrap().instances.len() == 2);
    host.engine.release_subject(Operation::Inspect, hung.as_str());
    agent.until("web-0 gone", |all| all.instances.len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_registry_refused_is_asked_for_again_once_the_login_there_is_another_one() {
    let mut host = Host::new().await;
    let (private, other) = ("ghcr.io/team/app:1", "quay.io/team/app:1");
    for image in [private, other] {
        host.engine.break_image(image, true);
    }
    host.declare(["web-0"], 1, private);
    host.declare(["db-0"], 1, other);
    let mut agent = host.start();
    for name in ["web-0", "db-0"] {
        agent.status(name, |one| one.phase == Phase::Failed).await;
    }
    let refused = host.engine.count(Operation::Pull);
    for image in [private, other] {
        host.engine.forget_image(image);
    }
    let login = RegistryLogin::new("ci".to_owned(), "x".to_owned()).unwrap();
    host.registries.insert("ghcr.io".parse().unwrap(), login);
    let began = tokio::time::Instant::now();
    host.publish();
    agent.status("web-0", |one| one.phase == Phase::Running).await;
    assert!(began.elapsed() < Duration::from_secs(5), "the pause after a refusal is longer");
    assert_eq!(host.engine.count(Operation::Pull), refused + 1, "nothing changed for the other");
    // The same login, given again, says that somebody has done something about it.
    agent.status("db-0", |one| one.phase == Phase::Running).await;
    let another = "ghcr.io/team/other:1";
    host.engine.break_image(another, true);
    host.declare(["other-0"], 1, another);
    agent.status("other-0", |one| one.phase == Phase::Failed).await;
    let refused = host.engine.count(Operation::Pull);
    let given = host.registries.values_mut().next().unwrap();
    given.given = Revision(7);
    host.publish();
    pass(Duration::from_secs(1)).await;
    assert_eq!(host.engine.count(Operation::Pull), refused + 1);
}

#[tokio::test(start_paused = true)]
async fn starts_that_hang_do_not_hold_up_others() {
    let mut host = Host::new().await;
    host.engine.stall(Operation::Start);
    let hung: Vec<String> = (0..8).map(|n| format!("hung-{n}")).collect();
    host.declare(hung.iter().map(String::as_str), 1, "a");
    let mut agent = host.start();
    agent.until("made", |all| all.instances.values().all(|one| !one.container_id.is_empty())).await;
    for container in host.engine.containers() {
        host.engine.stall_subject(Operation::Start, container.id.as_str());
    }
    host.engine.release(Operation::Start);
    host.declare(["web-0"], 1, "a");
    agent.status("web-0", |one| one.phase == Phase::Running).await;
    assert_eq!(*agent.reconciler.engine().borrow(), EngineState::Ready);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_process_ends_a_stop_whose_answer_is_lost() {
    let mut host = Host::new().await;
    let mut agent = two_running(&mut host).await;
    host.engine.lose_answers(Operation::Stop, 1);
    host.assigned.remove(&"web-0".parse().unwrap());
    host.publish();
    let began = tokio::time::Instant::now();
    agent.until("web-0 gone", |all| all.instances.len() == 1).await;
    assert!(began.elapsed() < Duration::from_secs(3), "took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_process_whose_end_the_engine_missed_is_started_again() {
    let mut host = Host::new().await;
    let mut agent = two_running(&mut host).await;
    pass(Duration::from_secs(1)).await;
    let id = host.container("web-0");
    host.engine.crash_unseen(&id);
    agent.status("web-0", |one| one.restarts == 1 && one.phase == Phase::Running).await;
    assert_eq!(host.engine.count(Operation::Start), 3, "only that one was started again");

    // An agent that starts later finds a process id that is nobody's, and believes the kernel as well.
    agent.reconciler.stop().await;
    pass(Duration::from_secs(1)).await;
    host.engine.crash_unseen(&host.container("web-0"));
    let mut agent = host.start();
    agent.status("web-0", |one| one.restarts == 2 && one.phase == Phase::Running).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_started_beside_what_a_killed_engine_left() {
    let mut host = Host::new().await;
    let agent = two_running(&mut host).await;
    agent.reconciler.stop().await;
    let id = host.container("web-0");
    assert!(host.engine.crash(&id, 137));
    host.engine.leave_process(&id);
    let mut agent = host.start();
    agent.status("web-0", |one| one.restarts == 1 && one.phase == Phase::Running).await;
    assert_eq!(host.engine.overlaps(), 0);
}

/// What the engine leaves out is not asked for again and again, and no instance waits for it.
#[tokio::test(start_paused = true)]
async fn a_limit_that_the_node_cannot_enforce_is_not_set_for_ever() {
    let mut host = Host::new().await;
    host.engine.enforce_only(Enforced { pids: false, ..Enforced::ALL });
    let mut agent = host.start();
    host.declare(["web-0"], 1, "a");
    let holds = |one: &InstanceStatus| {
        one.verdict.as_ref().is_some_and(|verdict| verdict.outcome == Outcome::Held)
    };
    agent.status("web-0", holds).await;
    host.change("web-0", |one| one.template.resources.memory = Bytes::mebi(64));
    agent.status("web-0", |one| one.generation.0 == 2 && holds(one)).await;
    pass(Duration::from_secs(60)).await;
    assert_eq!(host.engine.count(Operation::UpdateLimits), 1, "for its memory");
}
