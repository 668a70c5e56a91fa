use super::*;

#[tokio::test(start_paused = true)]
async fn an_instance_gets_no_sandbox_before_it_is_isolated() {
    let mut host = Host::new().await;
    let settled = watch::Sender::new(Arc::default());
    host.settled = vec![settled.subscribe()];
    host.declare(["web-0", "web-1"], 1, "nginx");
    let [open, closed] = [[10, 80, 0, 1].into(), [10, 80, 0, 2].into()];
    host.change("web-1", |one| one.address = closed);
    settled.send_replace(Arc::new([open].into()));
    let mut agent = host.start();
    let waiting = agent.status("web-1", |one| one.phase == Phase::Backoff).await;
    assert!(waiting.message.contains("isolate"), "{}", waiting.message);
    assert!(host.network.sandbox(&"web-1".parse().unwrap()).is_none());
    agent.status("web-0", |one| one.phase == Phase::Running).await;

    settled.send_replace(Arc::new([open, closed].into()));
    agent.all_running(2).await;

    // One that runs is left alone, whatever becomes of its isolation.
    settled.send_replace(Arc::default());
    host.network.lose(&"web-0".parse().unwrap());
    let seen = agent.status("web-0", |one| !one.message.is_empty()).await;
    assert_eq!((seen.phase, host.running("web-0")), (Phase::Running, 1));
}

#[tokio::test(start_paused = true)]
async fn an_instance_gets_no_sandbox_before_its_host_forwards() {
    let mut host = Host::new().await;
    let prepared = watch::Sender::new(Prepared::WithoutForwarding);
    host.prepared = Some(prepared.subscribe());
    host.declare(["web-0"], 1, "nginx");
    let mut agent = host.start();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(host.network.sandbox(&"web-0".parse().unwrap()).is_none());
    prepared.send_replace(Prepared::Whole);
    agent.all_running(1).await;
}
