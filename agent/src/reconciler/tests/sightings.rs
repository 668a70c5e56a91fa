use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_seen_last_stands_while_the_engine_is_away() {
    let mut host = Host::new().await;
    let mut agent = host.start();
    let mut sightings = agent.reconciler.sightings();
    assert!(sightings.borrow().is_none());
    host.declare(["web-0"], 1, "a");
    agent.all_running(1).await;
    // The fake engine's process ids are nobody's, and so is not believed in a container that runs.
    let all_seen = Sighting { sandbox: Some(true), own_ssh: Some(false), container: None };
    let is_seen =
        |all: &Option<Arc<Sightings>>| all.as_ref().is_some_and(|all| all.values().eq([&all_seen]));
    drop(timeout(LIMIT, sightings.wait_for(is_seen)).await.unwrap().unwrap());

    host.engine.down();
    agent.status("web-0", |one| one.phase == Phase::Unknown).await;
    assert!(is_seen(&sightings.borrow_and_update()));
    host.change("web-0", |one| one.template.restart = RestartPolicy::Never);
    agent.until("the change is known", |all| all.revision == Revision(2)).await;
    assert!(!sightings.has_changed().unwrap());

    // An agent that starts meanwhile has seen nothing.
    drop(agent);
    let agent = host.start();
    pass(Duration::from_secs(30)).await;
    assert!(agent.reconciler.sightings().borrow().is_none());
    host.engine.up();
    drop(timeout(LIMIT, agent.reconciler.sightings().wait_for(is_seen)).await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_image_with_an_ssh_server_is_known_before_it_replaces_one_without() {
    let mut host = Host::new().await;
    let mut agent = host.start();
    host.declare(["web-0"], 1, "a");
    agent.all_running(1).await;
    host.engine.stall(Operation::Start);
    host.change("web-0", |one| one.template.command = vec!["sshd".to_owned()]);
    let mut sightings = agent.reconciler.sightings();
    let is_known = sightings.wait_for(|all| {
        all.as_ref().is_some_and(|all| all.values().all(|one| one.own_ssh == Some(true)))
    });
    // Its start stalls: what comes after that could not have told.
    drop(timeout(LIMIT, is_known).await.unwrap().unwrap());
    host.engine.release(Operation::Start);
    agent.status("web-0", |one| one.phase == Phase::Running && one.generation.0 == 2).await;
}
