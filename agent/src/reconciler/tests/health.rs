//! What a node does about instances that do not work.

use dwell_core::health::Health;
use dwell_core::quantity::Millis;

use super::*;

#[tokio::test(start_paused = true)]
async fn what_stays_unhealthy_is_restarted_by_the_node_alone_and_told_with_the_reason() {
    let mut host = Host::new().await;
    let check = HealthCheck {
        restart: Some(Millis::seconds(30)),
        ..HealthCheck::new(Probe::Exec { command: vec!["check".into()] })
    };
    host.declare(["web-0"], 1, "a");
    host.change("web-0", |one| one.template.healthcheck = Some(check));
    let mut agent = host.start();
    agent.status("web-0", |one| one.health == Health::Healthy).await;
    pass(Duration::from_secs(120)).await;
    host.engine.set_exec_exit_code(3);
    agent.status("web-0", |one| one.health == Health::Unhealthy).await;
    let status = agent.status("web-0", |one| one.restarts == 1).await;
    let end = status.ends.last().unwrap();
    assert_eq!(
        end.given_up.as_deref(),
        Some("it was unhealthy for 30s: \"check\" ended with 3: check")
    );
    assert_eq!(host.engine.count(Operation::Stop), 1);

    // It does not help: each time it is waited for longer, and nobody has to ask for it.
    agent.status("web-0", |one| one.restarts == 2).await;
    let status = agent.status("web-0", |one| one.restarts == 3).await;
    assert_eq!(status.ends.len(), 3);
    host.engine.set_exec_exit_code(0);
    agent.status("web-0", |one| one.health == Health::Healthy).await;
    pass(Duration::from_secs(600)).await;
    assert_eq!(host.engine.count(Operation::Start), 4);
}
