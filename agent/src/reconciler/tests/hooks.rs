//! Hooks: called in the container, within their time.

use dwell_core::hook::{Hook, HookAction, Hooks};
use dwell_core::quantity::Millis;

use super::*;

fn hook(command: &str) -> Option<Hook> {
    let action = HookAction::Exec { command: vec![command.into()] };
    Some(Hook { action, timeout: Millis::seconds(20) })
}

/// What was done to containers, in order.
fn deeds(host: &Host) -> Vec<Operation> {
    let deeds = [Operation::Start, Operation::Exec, Operation::Stop];
    let calls = host.engine.journal().into_iter().map(|call| call.operation);
    calls.filter(|one| deeds.contains(one)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_start_counts_when_its_hook_has_succeeded() {
    let mut host = Host::new().await;
    host.engine.set_exec_exit_code(7);
    host.declare(["web-0"], 1, "a");
    let hooks = Hooks { after_start: hook("warm"), before_stop: None };
    host.change("web-0", |one| one.template.hooks = hooks.clone());
    let mut agent = host.start();
    let status = agent.status("web-0", |one| one.restarts >= 2).await;
    let end = status.ends.last().unwrap();
    let reason = "its hook after_start failed: \"warm\" ended with 7: warm";
    assert_eq!(end.given_up.as_deref(), Some(reason));
    assert!(!status.is_ready());
    host.engine.set_exec_exit_code(0);
    agent.status("web-0", InstanceStatus::is_ready).await;
    pass(Duration::from_secs(60)).await;
    let called = host.engine.count(Operation::Exec);

    // An agent that is started again calls no hook of what runs.
    agent.reconciler.stop().await;
    let mut agent = host.start();
    agent.status("web-0", InstanceStatus::is_ready).await;
    pass(Duration::from_secs(60)).await;
    assert_eq!(host.engine.count(Operation::Exec), called);

    // A version whose hook fails is put back.
    host.engine.set_exec_exit_code(7);
    host.change("web-0", |one| one.template.image = "b".into());
    let generation = host.assigned.values().next().unwrap().generation;
    let status = agent.status("web-0", |one| rolled_back(one, generation.0)).await;
    assert!(status.message.contains(reason), "{}", status.message);
}

#[tokio::test(start_paused = true)]
async fn an_ordered_stop_calls_its_hook_first_and_waits_for_it_no_longer_than_it_may_take() {
    let mut host = Host::new().await;
    host.declare(["web-0"], 1, "a");
    let hooks = Hooks { after_start: None, before_stop: hook("drain") };
    host.change("web-0", |one| one.template.hooks = hooks);
    let mut agent = host.start();
    agent.status("web-0", InstanceStatus::is_ready).await;
    pass(Duration::from_secs(20)).await;
    host.change("web-0", |one| one.restarts_asked = 1);
    agent.status("web-0", |one| one.restarts_done == 1 && one.is_ready()).await;
    let restarted = [Operation::Start, Operation::Exec, Operation::Stop, Operation::Start];
    assert_eq!(deeds(&host), restarted);

    // One that ends by itself has no hook.
    pass(Duration::from_secs(20)).await;
    assert!(host.engine.crash(&host.container("web-0"), 1));
    agent.status("web-0", |one| one.restarts == 1 && one.is_ready()).await;
    assert_eq!(deeds(&host).len(), restarted.len() + 1);

    // It moves, or is removed; and its hook hangs.
    pass(Duration::from_secs(20)).await;
    host.engine.set_exec_hangs(true);
    let begun = tokio::time::Instant::now();
    host.assigned.clear();
    host.publish();
    let failed = agent.status("web-0", |one| one.hook_failed.is_some()).await.hook_failed.unwrap();
    let reason = "its hook before_stop failed: no answer within 20s; it was stopped all the same";
    assert_eq!(failed.reason, reason);
    agent.until("nothing left", |all| all.instances.is_empty()).await;
    let elapsed = begun.elapsed();
    assert!(elapsed >= Duration::from_secs(20) && elapsed < Duration::from_secs(25), "{elapsed:?}");
    assert_eq!((host.engine.kills(), host.engine.containers().len()), (1, 0));
}
