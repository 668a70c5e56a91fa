//! Key sets: what is added, taken away, refused, and how nodes hear of it.

use dwell_core::workload::Ssh;

use super::fleet::{Fleet, node, spec};
use crate::model::{
    AuthorizedKey, Command, KEY_SETS_MAX, KEYS_BYTES_MAX, KEYS_MAX, Record, Refusal, RefusalClass,
    Severity,
};

fn key(who: &str) -> AuthorizedKey {
    AuthorizedKey {
        line: format!("ssh-ed25519 {who}-key {who}@laptop"),
        fingerprint: format!("SHA256:{who}"),
        comment: format!("{who}@laptop"),
    }
}

fn update(name: &str, add: &[AuthorizedKey], remove: &[&str]) -> Command {
    Command::UpdateKeySet {
        name: name.parse().unwrap(),
        add: add.to_vec(),
        remove: remove.iter().map(ToString::to_string).collect(),
    }
}

fn names(fleet: &Fleet, set: &str) -> Vec<String> {
    let set = fleet.model.key_set(&set.parse().unwrap()).unwrap();
    set.keys.iter().map(|key| key.comment.clone()).collect()
}

#[test]
fn keys_are_added_once_and_taken_away_by_whatever_names_them() {
    let mut fleet = Fleet::of(1);
    fleet.command(update("team", &[key("ann"), key("bob"), key("cy"), key("ann")], &[])).unwrap();
    assert_eq!(names(&fleet, "team"), ["ann@laptop", "bob@laptop", "cy@laptop"]);
    let before = fleet.model.revision();
    fleet.command(update("team", &[key("bob")], &[])).unwrap();
    assert_eq!(fleet.model.revision(), before, "it is there already");

    let line = key("cy").line;
    fleet.command(update("team", &[], &["SHA256:ann", "bob@laptop", &line])).unwrap();
    assert!(names(&fleet, "team").is_empty());
    let told = fleet.model.events(Some("cluster"), 1).pop().unwrap();
    assert_eq!(
        (told.reason.as_str(), told.message.as_str()),
        (
            "key-set-changed",
            "key set team: removed SHA256:ann ann@laptop, SHA256:bob bob@laptop, SHA256:cy cy@laptop"
        )
    );

    // The same key with other options is not a second one.
    fleet.command(update("team", &[key("ann")], &[])).unwrap();
    let restricted = AuthorizedKey { line: format!("restrict {}", key("ann").line), ..key("ann") };
    fleet.command(update("team", std::slice::from_ref(&restricted), &[])).unwrap();
    assert_eq!(fleet.model.key_sets()[0].keys, [restricted]);
    fleet.restart_controller();
    assert_eq!(names(&fleet, "team"), ["ann@laptop"]);
}

#[test]
fn what_is_not_there_cannot_be_taken_away_and_nothing_else_happens() {
    let mut fleet = Fleet::of(1);
    let refusal = fleet.command(update("team", &[], &["x"])).unwrap_err();
    assert_eq!(refusal, Refusal::NoKeySet("team".parse().unwrap()));
    fleet.command(update("team", &[key("ann")], &[])).unwrap();
    let refusal = fleet.command(update("team", &[key("bob")], &["SHA256:cy"])).unwrap_err();
    assert!(matches!(&refusal, Refusal::NoKey { wanted, .. } if wanted == "SHA256:cy"));
    assert_eq!(refusal.class(), RefusalClass::NotFound);
    assert_eq!(names(&fleet, "team"), ["ann@laptop"]);
    let none = fleet.command(Command::RemoveKeySet("others".parse().unwrap())).unwrap_err();
    assert_eq!(none.class(), RefusalClass::NotFound);
}

#[test]
fn there_are_bounds() {
    let mut fleet = Fleet::of(1);
    let many: Vec<AuthorizedKey> = (0..=KEYS_MAX).map(|index| key(&format!("k{index}"))).collect();
    let refusal = fleet.command(update("team", &many, &[])).unwrap_err();
    assert!(matches!(refusal, Refusal::TooManyKeys(_)));
    let long = |who: &str| AuthorizedKey { line: "x".repeat(KEYS_BYTES_MAX / 2), ..key(who) };
    fleet.command(update("one", &[long("ann")], &[])).unwrap();
    let refusal = fleet.command(update("two", &[long("bob"), key("cy")], &[])).unwrap_err();
    assert!(matches!(refusal, Refusal::KeysTooLarge(_)));
    for index in 1..KEY_SETS_MAX {
        fleet.command(update(&format!("s{index}"), &[key("ann")], &[])).unwrap();
    }
    let refusal = fleet.command(update("last", &[key("ann")], &[])).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyKeySets);
}

#[test]
fn a_change_reaches_every_node_and_a_named_set_is_missed() {
    let mut fleet = Fleet::of(2);
    let mut web = spec("web", 0);
    let key_sets = Some(vec!["team".parse().unwrap()]);
    web.template.ssh = Ssh::Dwell {
        authorized_keys: Vec::new(),
        key_sets,
        users: None,
        login_as: None,
        account_keys: None,
    };
    fleet.apply(web).unwrap();
    let base = fleet.model.revision();
    let none = fleet.model.assignment_since(&node("n1"), base).unwrap();
    assert_eq!(none.ssh_trust, None);
    let applied = fleet.model.apply(update("team", &[key("ann")], &[]), fleet.now).unwrap();
    assert!(applied.changes.iter().any(|change| matches!(change.new, Some(Record::KeySet(_)))));
    assert!(fleet.model.publish(applied.changes).everyone);
    for name in ["n1", "n2"] {
        let delta = fleet.model.assignment_since(&node(name), base).unwrap();
        assert_eq!(delta.ssh_trust.unwrap().key_sets["team"], [key("ann").line]);
        assert_eq!(fleet.model.assignment(&node(name)).ssh_trust.key_sets.len(), 1);
    }
    let base = fleet.model.revision();
    let applied =
        fleet.model.apply(Command::RemoveKeySet("team".parse().unwrap()), fleet.now).unwrap();
    fleet.model.publish(applied.changes);
    let delta = fleet.model.assignment_since(&node("n1"), base).unwrap();
    assert_eq!(delta.ssh_trust.unwrap().key_sets.len(), 0, "none are left, and that is said");
    let told = fleet.model.events(Some("cluster"), 1).pop().unwrap();
    assert_eq!(told.severity, Severity::Warning);
    assert_eq!(told.message, "key set team is removed, although named by web");

    fleet.command(update("team", &[key("ann")], &[])).unwrap();
    fleet.command(Command::RemoveNode { node: node("n2"), force: false }).unwrap();
    let told = fleet.model.assignment(&node("n2")).ssh_trust.key_sets;
    assert!(told.is_empty(), "it is none of its business");
    let base = fleet.model.revision();
    fleet.command(update("team", &[key("bob")], &[])).unwrap();
    assert!(fleet.model.assignment_since(&node("n2"), base).unwrap().is_empty());
}
