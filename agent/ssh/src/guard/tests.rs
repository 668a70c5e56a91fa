//! Limits.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use dwell_core::id::InstanceName;

use super::{Denial, FAILURES, Guard, PER_INSTANCE, WAITING, WAITING_PER_ADDRESS, WINDOW};

fn instance(ordinal: u32) -> InstanceName {
    format!("web-{ordinal}").parse().expect("a name")
}

fn client(number: usize) -> Option<IpAddr> {
    Some(IpAddr::from([10, 0, (number / 256) as u8, (number % 256) as u8]))
}

/// All that come by way of the controller.
const NODE: Option<IpAddr> = None;

#[test]
fn the_many_who_come_by_way_of_the_controller_are_no_one_address() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    for _ in 0..200 {
        guard.admit(&instance(0), NODE, now).unwrap();
    }
    for _ in 0..2 * FAILURES {
        guard.failed(NODE, now);
        guard.logged_in(NODE);
        guard.left(&instance(0));
    }
    guard.admit(&instance(0), NODE, now).unwrap();
    assert!(guard.waiting.is_empty() && guard.failures.is_empty());
}

#[test]
fn few_of_one_address_wait() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    for _ in 0..WAITING_PER_ADDRESS {
        guard.admit(&instance(0), client(0), now).unwrap();
    }
    assert_eq!(guard.admit(&instance(1), client(0), now), Err(Denial::Address));
    guard.admit(&instance(1), client(1), now).unwrap();
    guard.logged_in(client(0));
    guard.admit(&instance(1), client(0), now).unwrap();
}

#[test]
fn few_of_all_wait() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    for number in 0..WAITING {
        let instance = instance(u32::from(number >= PER_INSTANCE));
        guard.admit(&instance, client(number), now).unwrap();
    }
    assert_eq!(guard.admit(&instance(2), client(WAITING), now), Err(Denial::Waiting));
}

#[test]
fn an_instance_has_so_many() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    for number in 0..PER_INSTANCE {
        guard.admit(&instance(0), client(number), now).unwrap();
        guard.logged_in(client(number));
    }
    assert_eq!(guard.admit(&instance(0), client(0), now), Err(Denial::Instance));
    guard.admit(&instance(1), client(0), now).unwrap();
    guard.left(&instance(0));
    guard.admit(&instance(0), client(1), now).unwrap();
}

#[test]
fn who_fails_often_is_not_heard_for_a_while() {
    let (mut guard, start) = (Guard::default(), Instant::now());
    for _ in 0..FAILURES {
        guard.admit(&instance(0), client(0), start).unwrap();
        guard.logged_in(client(0));
        guard.failed(client(0), start);
        guard.left(&instance(0));
    }
    let just_before = start + WINDOW - Duration::from_millis(1);
    assert_eq!(guard.admit(&instance(0), client(0), just_before), Err(Denial::Failures));
    guard.admit(&instance(0), client(1), just_before).unwrap();
    guard.admit(&instance(0), client(0), start + WINDOW).unwrap();
}

#[test]
fn nothing_is_left_of_those_who_left() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    guard.admit(&instance(0), client(0), now).unwrap();
    guard.logged_in(client(0));
    guard.left(&instance(0));
    assert!(guard.instances.is_empty() && guard.waiting.is_empty());
    assert_eq!(guard.waiting_total, 0);
}
