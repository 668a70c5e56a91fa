//! Who did what.

use dwell_core::clock::Timestamp;

use super::fleet::{Fleet, spec};
use crate::model::{Command, Record, Severity, Subject};

#[test]
fn all_events_that_come_of_a_command_name_who_asked() {
    let mut fleet = Fleet::of(1);
    let by = |fleet: &Fleet, reason: &str| {
        let events = fleet.model.events(None, 100);
        events.iter().rev().find(|event| event.reason == reason).map(|event| event.by.clone())
    };
    assert_eq!(by(&fleet, "node-joined").as_deref(), Some(""), "a host's own doing");
    let declare = Command::ApplyWorkloads {
        specs: vec![spec("web", 2)],
        keep_replicas: Default::default(),
        dry_run: false,
        force: false,
        planned: Vec::new(),
        by: "ann".to_owned(),
    };
    fleet.command_for("ann", declare).unwrap();
    assert_eq!(by(&fleet, "workload-created").as_deref(), Some("ann"));
    assert_eq!(by(&fleet, "instance-placed").as_deref(), Some("ann"));
    fleet.settle();
    let scale = Command::Scale { workload: "web".parse().unwrap(), replicas: 1 };
    fleet.command_for("bob", scale).unwrap();
    assert_eq!(by(&fleet, "workload-changed").as_deref(), Some("bob"));
    // What nodes say of it is nobody's request.
    fleet.settle();
    assert_eq!(by(&fleet, "instance-removed").as_deref(), Some(""));
    // Nor is the next command of somebody unknown.
    fleet.command(Command::RemoveWorkload("web".parse().unwrap())).unwrap();
    assert_eq!(by(&fleet, "workload-removed").as_deref(), Some(""));
}

#[test]
fn events_of_a_version_that_did_not_note_who_asked_are_read() {
    let old = br#"{"revision":7,"at":5,"severity":"info","subject":"cluster","reason":"x","message":"y"}"#;
    let Ok(Record::Event(read)) = Record::decode("event", old) else { panic!("not read") };
    assert_eq!((read.by.as_str(), read.at, read.severity), ("", Timestamp(5), Severity::Info));
    assert_eq!(read.subject, Subject::Cluster);
    // And one without stays as it was.
    assert_eq!(Record::Event(read).encode().unwrap(), old);
}
