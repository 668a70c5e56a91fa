//! Contexts: listed while they could be used, and no longer.

use dwell_core::access::{Client, ContextId, Issuer, Role};
use dwell_core::clock::Timestamp;

use super::fleet::Fleet;
use crate::model::{CONTEXTS_MAX, Command, Record, Refusal};

fn client(serial: u64, name: &str, expires_at: Timestamp) -> Client {
    let (name, context) = (name.parse().unwrap(), ContextId(serial));
    Client { name, role: Role::Developer, context, expires_at, issuer: Issuer(1) }
}

#[test]
fn a_context_is_kept_until_it_has_expired_and_a_use_does_not_make_it_good_again() {
    let mut fleet = Fleet::of(0);
    let until = Timestamp(fleet.now.0 + 10_000);
    fleet.command_for("local", Command::IssueContext(client(1, "ann", until))).unwrap();
    fleet.command_for("bob", Command::RevokeContext("ann".to_owned())).unwrap();
    fleet.command(Command::NoteContext(client(1, "ann", until))).unwrap();
    let context = fleet.model.contexts().remove(0);
    assert!(context.revoked_at.is_some() && context.used_at.is_some(), "{context:?}");
    assert_eq!((context.issued_by.as_str(), context.revoked_by.as_str()), ("local", "bob"));
    fleet.restart_controller();
    assert_eq!(fleet.model.contexts().len(), 1);
    fleet.pass(20);
    fleet.command(Command::Tick).unwrap();
    assert_eq!(fleet.model.contexts(), []);
    // What has expired is not noted any more.
    fleet.command(Command::NoteContext(client(1, "ann", until))).unwrap();
    assert_eq!(fleet.model.contexts(), []);
    fleet.check();
}

#[test]
fn there_are_not_too_many() {
    let mut fleet = Fleet::of(0);
    let until = Timestamp(fleet.now.0 + 10_000);
    for serial in 0..CONTEXTS_MAX as u64 {
        fleet.model.tables.put(Record::Context(std::sync::Arc::new(crate::model::Context::of(
            client(serial, "ci", until),
        ))));
    }
    let one_more = client(CONTEXTS_MAX as u64, "ci", until);
    let refused = fleet.command(Command::IssueContext(one_more)).unwrap_err();
    assert_eq!(refused, Refusal::TooManyContexts);
}
