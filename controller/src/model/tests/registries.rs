//! Logins at registries: who is told of them, who is not, and what is kept.

use dwell_core::id::Revision;
use dwell_core::registry::{LOGINS_MAX, RegistryHost, RegistryLogin};

use super::fleet::{Fleet, node, spec};
use crate::model::{Command, Refusal, RefusalClass};

fn host(text: &str) -> RegistryHost {
    text.parse().unwrap()
}

fn log_in(registry: &str, username: &str, password: &str) -> Command {
    Command::SetRegistryLogin {
        host: host(registry),
        login: RegistryLogin::new(username.to_owned(), password.to_owned()).unwrap(),
        by: "alice".to_owned(),
    }
}

fn log_out(registry: &str) -> Command {
    Command::RemoveRegistryLogin { host: host(registry), by: String::new() }
}

/// The registries whose logins a node holds, and as whom.
fn held(fleet: &mut Fleet, name: &str) -> Vec<(String, String)> {
    fleet.fetch(&node(name));
    let assignment = fleet.model.assignment(&node(name));
    let logins = assignment.registries.into_iter();
    logins.map(|(host, login)| (host.to_string(), login.username)).collect()
}

#[test]
fn a_node_is_told_the_logins_that_its_instances_images_need_and_no_others() {
    let mut fleet = Fleet::of(2);
    fleet.command(log_in("ghcr.io", "ci", "one")).unwrap();
    fleet.command(log_in("docker.io", "team", "two")).unwrap();
    assert!(held(&mut fleet, "n1").is_empty() && held(&mut fleet, "n2").is_empty());

    let mut private = spec("private", 1);
    private.template.image = "ghcr.io/team/app:1".into();
    fleet.apply(private.clone()).unwrap();
    fleet.settle();
    let place = fleet.model.instance(&"private-0".parse().unwrap()).unwrap().instance.node.clone();
    let place = place.unwrap();
    let other = if place == node("n1") { "n2" } else { "n1" };
    let ci = ("ghcr.io".to_owned(), "ci".to_owned());
    assert_eq!(held(&mut fleet, place.as_str()), std::slice::from_ref(&ci));
    assert!(held(&mut fleet, other).is_empty());

    // What it falls back to may have to be made there, too.
    private.template.image = "team/app:2".into();
    fleet.apply(private).unwrap();
    let both = [("docker.io".to_owned(), "team".to_owned()), ci];
    assert_eq!(held(&mut fleet, place.as_str()), both);
    fleet.settle();
    assert_eq!(
        held(&mut fleet, place.as_str()),
        both[..1],
        "it holds, and has no way back any more"
    );

    fleet.command(log_out("docker.io")).unwrap();
    assert!(held(&mut fleet, place.as_str()).is_empty());
    fleet.command(log_in("index.docker.io", "team", "three")).unwrap();
    assert_eq!(held(&mut fleet, place.as_str()), both[..1]);
    fleet.restart_controller();
    let kept = fleet.model.registries();
    let passwords: Vec<&str> = kept.iter().map(|one| one.login.password.expose()).collect();
    assert_eq!(passwords, ["three", "one"]);
}

#[test]
fn the_same_login_given_again_is_another_one() {
    let mut fleet = Fleet::of(1);
    let given = |fleet: &Fleet| fleet.model.registries()[0].login.given;
    fleet.command(log_in("ghcr.io", "ci", "one")).unwrap();
    let first = given(&fleet);
    fleet.command(log_in("ghcr.io", "ci", "one")).unwrap();
    assert!(given(&fleet) > first && first > Revision(0));
}

#[test]
fn no_event_and_no_refusal_says_a_password() {
    let mut fleet = Fleet::of(1);
    fleet.command(log_in("ghcr.io", "ci", "hunter2")).unwrap();
    fleet.command(log_out("ghcr.io")).unwrap();
    let refusal = fleet.command(log_out("ghcr.io")).unwrap_err();
    assert_eq!(refusal.class(), RefusalClass::NotFound);
    let told = fleet.model.events(Some("cluster"), 2);
    let told: Vec<&str> = told.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(
        told,
        ["alice logged in to registry ghcr.io as ci", "somebody logged out of registry ghcr.io"]
    );
    let shown = format!("{:?} {refusal}", log_in("ghcr.io", "ci", "hunter2"));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn there_is_a_bound_and_what_is_there_can_still_be_changed() {
    let mut fleet = Fleet::of(1);
    for index in 0..LOGINS_MAX {
        fleet.command(log_in(&format!("r{index}.example"), "ci", "x")).unwrap();
    }
    let refusal = fleet.command(log_in("one.more.example", "ci", "x")).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyRegistries);
    fleet.command(log_in("r0.example", "ci", "y")).unwrap();
}
