//! A container that takes the place of another one, and images.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_update_replaces_and_a_bad_one_is_rolled_back() {
    let mut host = Host::new().await;
    host.declare(["web-0"], 1, "a");
    let mut agent = host.start();
    agent.all_running(1).await;
    host.change("web-0", |one| one.template.image = "b".into());
    let good = agent
        .status("web-0", |one| one.generation == Generation(2) && one.phase == Phase::Running)
        .await;
    // The old one goes once the new one has held for the time of `monitor`.
    pass(Duration::from_secs(15)).await;
    assert_eq!(host.container("web-0").as_str(), good.container_id);

    host.engine.ends_at_once("broken", Some(3));
    host.change("web-0", |one| one.template.image = "broken".into());
    let status = agent.status("web-0", |one| rolled_back(one, 3)).await;
    assert!(status.message.contains("exit code 3"), "{}", status.message);
    agent
        .status("web-0", |one| one.phase == Phase::Running && one.container_id == good.container_id)
        .await;
    pass(Duration::from_secs(15)).await;
    assert_eq!(host.container("web-0").as_str(), good.container_id);
    assert_eq!(host.engine.overlaps(), 0);

    agent.reconciler.stop().await;
    let mut agent = host.start();
    let status = agent.status("web-0", |one| one.phase == Phase::Running).await;
    assert!(rolled_back(&status, 3), "the verdict outlives the agent");
    pass(Duration::from_secs(15)).await;
    assert_eq!(host.container("web-0").as_str(), good.container_id);
}

#[tokio::test(start_paused = true)]
async fn agents_that_die_amid_an_update_leave_exactly_one_container() {
    for pause_ms in (0..200).step_by(7) {
        let mut host = Host::new().await;
        host.declare(["web-0"], 1, "a");
        let mut agent = host.start();
        agent.all_running(1).await;
        for operation in [Operation::Create, Operation::Start, Operation::Stop, Operation::Remove] {
            host.engine.set_latency(operation, Duration::from_millis(40));
        }
        host.change("web-0", |one| one.template.image = "b".into());
        pass(Duration::from_millis(pause_ms)).await;
        drop(agent);
        let mut agent = host.start();
        agent
            .status("web-0", |one| one.generation == Generation(2) && one.phase == Phase::Running)
            .await;
        pass(Duration::from_secs(15)).await;
        host.container("web-0");
        assert_eq!((host.running("web-0"), host.engine.overlaps()), (1, 0), "after {pause_ms} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn images_are_pulled_once_for_all_and_a_failed_pull_says_why() {
    let mut host = Host::new().await;
    host.engine.forget_image("a");
    host.engine.break_image("none", true);
    let names = names(5);
    host.declare(names.iter().map(String::as_str), 1, "a");
    host.declare(["bad-0"], 1, "none");
    let mut agent = host.start();
    let status = agent.status("bad-0", |one| one.phase == Phase::Failed).await;
    assert!(status.message.contains("told to fail"), "{}", status.message);
    agent
        .until("web running", |all| {
            let web =
                all.instances.values().filter(|one| one.instance.workload().as_str() == "web");
            web.filter(|one| one.phase == Phase::Running).count() == 5
        })
        .await;
    let pulls = host.engine.journal();
    let pulls = pulls.iter().filter(|call| call.operation == Operation::Pull);
    assert_eq!(pulls.filter(|call| call.subject == "a").count(), 1);
    host.engine.forget_image("none");
    agent.status("bad-0", |one| one.phase == Phase::Running).await;
}

#[tokio::test(start_paused = true)]
async fn a_health_check_decides_about_an_update() {
    let mut host = Host::new().await;
    let check = HealthCheck::new(Probe::Exec { command: vec!["true".into()] });
    host.declare(["web-0"], 1, "a");
    host.change("web-0", |one| one.template.healthcheck = Some(check));
    let mut agent = host.start();
    agent.status("web-0", |one| one.health.is_good() && one.phase == Phase::Running).await;
    host.engine.set_exec_exit_code(1);
    host.change("web-0", |one| one.template.image = "b".into());
    let outcome = |one: &InstanceStatus| one.verdict.clone().map(|verdict| verdict.outcome);
    let is_back = |one: &InstanceStatus| matches!(outcome(one), Some(Outcome::RolledBack { .. }));
    let status = agent.status("web-0", is_back).await;
    assert!(status.message.contains("rolled back"), "{}", status.message);
    host.engine.set_exec_exit_code(0);
    agent.status("web-0", |one| one.health.is_good() && one.phase == Phase::Running).await;
    pass(Duration::from_secs(5)).await;
    host.container("web-0");
}

#[tokio::test(start_paused = true)]
async fn a_container_is_made_from_the_image_that_its_version_means_though_the_tag_has_moved() {
    let (first, second) = (ImageDigest::new([1; 32]), ImageDigest::new([2; 32]));
    let mut host = Host::new().await;
    host.engine.move_tag("a", first);
    host.declare(["web-0"], 1, "a");
    let mut agent = host.start();
    let status = agent.status("web-0", |one| one.phase == Phase::Running).await;
    assert_eq!(status.image.digest, Some(first), "it says what it runs");
    host.engine.move_tag("a", second);
    // That it is known now replaces nothing.
    let web = host.assigned.get_mut(&"web-0".parse().unwrap()).unwrap();
    web.image_digest = Some(first);
    host.publish();
    pass(Duration::from_secs(15)).await;
    assert_eq!(host.container("web-0").as_str(), status.container_id);
    assert_eq!(host.engine.count(Operation::Pull), 0);
    // What is not here any more is fetched by its digest; without one the tag decides.
    host.change("web-0", |one| {
        one.template.environment.insert("A".into(), "1".into());
        one.image_digest = Some(first);
    });
    let status = agent
        .status("web-0", |one| one.generation == Generation(2) && one.phase == Phase::Running)
        .await;
    assert_eq!(status.image.digest, Some(first));
    assert_eq!(host.engine.count(Operation::Pull), 1);
    host.declare(["web-1"], 1, "a");
    let status = agent.status("web-1", |one| one.phase == Phase::Running).await;
    assert_eq!(status.image.digest, Some(second));
    assert_eq!(host.engine.count(Operation::Pull), 1);
}

/// An engine's stores do not see each other's containers: what was overtaken while it was not seen does not serve again,
/// whether it says the same or something else, nor is it what an update falls back to.
#[tokio::test(start_paused = true)]
async fn a_store_of_the_engine_that_comes_back_brings_no_older_container_back() {
    let held = Duration::from_secs(15);
    let mut host = Host::new().await;
    let starts_of = |host: &Host, id: &ContainerId| {
        let calls = host.engine.journal();
        calls.iter().filter(|one| one.operation == Operation::Start && one.subject == id.0).count()
    };
    host.declare(["web-0"], 1, "a");
    let mut agent = host.start();
    agent.all_running(1).await;
    host.change("web-0", |one| one.template.resources.cpu.0 += 100);
    pass(held).await;
    let first = host.container("web-0");
    host.engine.switch_store(false);
    pass(held).await;
    let second = host.container("web-0");
    assert_eq!((host.running("web-0"), first != second), (1, true));
    host.engine.switch_store(false);
    pass(held).await;
    let third = host.container("web-0");
    assert_eq!((host.running("web-0"), third != first), (1, true), "the first serves again");
    assert_eq!(starts_of(&host, &first), 1);

    host.change("web-0", |one| one.template.image = "b".into());
    pass(held).await;
    host.engine.ends_at_once("broken", Some(3));
    host.engine.switch_store(false);
    host.change("web-0", |one| {
        one.fallback = Some(one.template.clone());
        one.template.image = "broken".into();
    });
    agent.status("web-0", |one| rolled_back(one, 4) && one.phase == Phase::Running).await;
    pass(held).await;
    let last = host.container("web-0");
    let serves = host.engine.containers().into_iter().find(|one| one.id == last).unwrap();
    assert_eq!(serves.fingerprint, Template::of_image("b").fingerprint());
    assert_eq!((starts_of(&host, &second), host.engine.overlaps()), (1, 0));
}

/// An engine that keeps containers alive and is given another store does not know any more what runs. It is ended before
/// another container takes its place, and before an instance counts as gone from here: whether the agent saw it go or not.
#[tokio::test(start_paused = true)]
async fn what_the_engine_does_not_know_any_more_is_ended_first() {
    let mut host = Host::new().await;
    host.declare(["web-0", "web-1"], 1, "a");
    let mut agent = host.start();
    agent.all_running(2).await;
    let first = host.container("web-0");
    host.engine.switch_store(true);
    agent.all_running(2).await;
    pass(Duration::from_secs(5)).await;
    assert_ne!(host.container("web-0"), first);
    assert_eq!((host.engine.processes(), host.engine.overlaps()), (2, 0));

    drop(agent);
    host.engine.switch_store(true);
    host.assigned.remove(&"web-1".parse().unwrap());
    host.publish();
    let mut agent = host.start();
    agent.all_running(1).await;
    pass(Duration::from_secs(5)).await;
    assert_eq!((host.engine.processes(), host.engine.overlaps()), (1, 0));
}
