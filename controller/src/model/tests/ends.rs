//! Every end of a main process is an event of its instance, once.

use dwell_core::clock::Timestamp;
use dwell_core::health::Health;
use dwell_core::instance::{HookFailed, ProcessEnd};
use dwell_core::quantity::{Bytes, Millis};

use super::fleet::{Fleet, instance, node, spec};
use crate::model::Record;

fn end(number: u64, at: u64, code: i32, out_of_memory: bool) -> ProcessEnd {
    let ran_for = Millis(2_000);
    ProcessEnd { number, at: Timestamp(at), ran_for, code, out_of_memory, given_up: None }
}

fn told(fleet: &Fleet) -> Vec<(String, String)> {
    let events = fleet.model.events(Some("instance/web-0"), 50);
    events
        .iter()
        .filter(|event| {
            ["instance-ended", "instance-out-of-memory", "instance-given-up"]
                .contains(&event.reason.as_str())
        })
        .map(|event| (event.reason.clone(), event.message.clone()))
        .collect()
}

fn see(fleet: &mut Fleet, ends: Vec<ProcessEnd>) {
    let now = fleet.now;
    let host = fleet.hosts.get_mut(&node("n1")).unwrap();
    let status = host.containers.get_mut(&instance("web-0")).unwrap();
    status.ends = ends;
    status.observed_at = now;
    fleet.report(&node("n1")).unwrap();
}

#[test]
fn every_end_is_told_once_over_streams_and_restarts() {
    let mut fleet = Fleet::of(1);
    let mut web = spec("web", 1);
    web.template.resources.memory = Bytes::mebi(64);
    fleet.apply(web).unwrap();
    fleet.settle();
    see(&mut fleet, vec![end(1, 5_000, 3, false)]);
    see(&mut fleet, vec![end(1, 5_000, 3, false), end(2, 9_000, 137, true)]);
    let expected = [
        ("instance-ended", "its main process ended with exit code 3 after 2s"),
        (
            "instance-out-of-memory",
            "its main process was killed after 2s, because it used more memory than its limit of 64Mi (exit code 137)",
        ),
    ]
    .map(|(reason, message)| (reason.to_owned(), message.to_owned()));
    assert_eq!(told(&fleet), expected);

    // The same again: on another stream, to another controller, and of a node that looks once more.
    fleet.attach(&node("n1")).unwrap();
    fleet.restart_controller();
    fleet.attach(&node("n1")).unwrap();
    fleet.pass(1);
    see(&mut fleet, vec![end(1, 5_000, 3, false), end(2, 9_000, 137, true)]);
    assert_eq!(told(&fleet), expected);

    // A node that lost its journal counts from the beginning, and is heard all the same.
    see(&mut fleet, vec![end(1, 20_000, 139, false)]);
    let (reason, message) = told(&fleet).pop().unwrap();
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("instance-ended", "its main process was ended by SIGSEGV after 2s (exit code 139)")
    );
    assert_eq!(told(&fleet).len(), 3);

    let given_up = Some("it was unhealthy for 30s: no answer within 5s".to_owned());
    see(&mut fleet, vec![ProcessEnd { given_up, ..end(2, 30_000, 143, false) }]);
    let (reason, message) = told(&fleet).pop().unwrap();
    assert_eq!(
        (reason.as_str(), message.as_str()),
        (
            "instance-given-up",
            "its node ended its main process after 2s: it was unhealthy for 30s: no answer within 5s"
        )
    );
}

/// Once, whatever stream it comes by.
#[test]
fn a_hook_that_failed_is_told() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let mut fail = |at: u64| {
        let host = fleet.hosts.get_mut(&node("n1")).unwrap();
        let status = host.containers.get_mut(&instance("web-0")).unwrap();
        let reason = "its hook before_stop failed: no answer within 30s".to_owned();
        status.hook_failed = Some(HookFailed { at: Timestamp(at), reason });
        fleet.report(&node("n1")).unwrap();
        let events = fleet.model.events(Some("instance/web-0"), 50);
        events.iter().filter(|event| event.reason == "instance-hook-failed").count()
    };
    assert_eq!([fail(5_000), fail(5_000), fail(9_000)], [1, 1, 2]);
}

/// What is told of the state of web-0.
fn states(fleet: &Fleet) -> Vec<String> {
    let events = fleet.model.events(Some("instance/web-0"), 50);
    let reasons = events.iter().map(|event| event.reason.clone());
    let states = ["instance-running", "instance-unhealthy", "instance-healthy", "instance-backoff"];
    reasons.filter(|reason| states.contains(&reason.as_str())).collect()
}

fn seen(fleet: &mut Fleet, started_at: u64, health: Health) {
    let now = fleet.now;
    let host = fleet.hosts.get_mut(&node("n1")).unwrap();
    let status = host.containers.get_mut(&instance("web-0")).unwrap();
    (status.started_at, status.health) = (Some(Timestamp(started_at)), health);
    status.observed_at = now;
    fleet.report(&node("n1")).unwrap();
}

#[test]
fn a_restart_of_the_controller_tells_nothing_of_what_went_on() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    seen(&mut fleet, 5_000, Health::Unhealthy);
    let before = states(&fleet);
    assert_eq!(before.last().unwrap(), "instance-unhealthy");
    fleet.restart_controller();
    fleet.attach(&node("n1")).unwrap();
    let stored = fleet.backup();
    fleet.pass(1);
    seen(&mut fleet, 5_000, Health::Unhealthy);
    assert_eq!(states(&fleet), before);
    assert_eq!(fleet.backup(), stored, "nothing is written either");

    // What happened meanwhile is told.
    seen(&mut fleet, 5_000, Health::Healthy);
    fleet.restart_controller();
    fleet
        .hosts
        .get_mut(&node("n1"))
        .unwrap()
        .containers
        .get_mut(&instance("web-0"))
        .unwrap()
        .started_at = Some(Timestamp(9_000));
    fleet.attach(&node("n1")).unwrap();
    assert_eq!(states(&fleet)[before.len()..], ["instance-healthy", "instance-running"]);
}

#[test]
fn an_instance_stored_before_ends_were_told_is_read() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let now = fleet.model.instance(&instance("web-0")).unwrap().instance;
    let stored = Record::Instance(now).encode().unwrap();
    assert!(!String::from_utf8(stored.clone()).unwrap().contains("last_end"), "as it was before");
    let Record::Instance(read) = Record::decode("instance", &stored).unwrap() else {
        panic!("not an instance")
    };
    assert_eq!(read.last_end, None);
}
