//! The reason of a roll-back has what the failed container printed last.

use super::*;

const FATAL: &str = "FATAL: no config file";

/// A host on which an update of `web-0` has failed after it had printed something; what was reported of it.
async fn failed_update(prepare: impl FnOnce(&Host)) -> (Host, Agent, InstanceStatus) {
    let mut host = Host::new().await;
    host.declare(["web-0"], 1, "a");
    let mut agent = host.start();
    agent.all_running(1).await;
    pass(Duration::from_secs(15)).await;
    prepare(&host);
    host.change("web-0", |one| one.template.image = "b".into());
    let tried = agent
        .status("web-0", |one| one.generation == Generation(2) && one.phase == Phase::Running)
        .await;
    let tried = ContainerId(tried.container_id);
    host.engine.print(&tried, &format!("reads its configuration\n{FATAL}\n"));
    assert!(host.engine.crash(&tried, 3));
    let status = agent.status("web-0", |one| rolled_back(one, 2)).await;
    agent.status("web-0", |one| one.phase == Phase::Running).await;
    (host, agent, status)
}

#[tokio::test(start_paused = true)]
async fn a_rollback_tells_what_the_failed_container_printed_last() {
    let (host, agent, status) = failed_update(|_| {}).await;
    let told = format!(
        "ended with exit code 3; it printed last: started | reads its configuration | {FATAL}"
    );
    assert!(status.message.ends_with(&told), "{}", status.message);
    pass(Duration::from_secs(15)).await;
    host.container("web-0");

    agent.reconciler.stop().await;
    let status = host.start().status("web-0", |one| one.phase == Phase::Running).await;
    assert!(status.message.ends_with(&told), "after a restart of the agent: {}", status.message);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_gives_no_logs_does_not_hold_a_rollback_up() {
    let (host, _agent, status) = failed_update(|host| host.engine.stall(Operation::Logs)).await;
    assert!(status.message.ends_with("ended with exit code 3"), "{}", status.message);
    assert_eq!(host.running("web-0"), 1);
}
