//! Log-ins, as they are written down.

use dwell_core::clock::Timestamp;
use dwell_core::session::SshEvents;
use dwell_core::ssh::{SshEvent, SshEventKind};

use super::fleet::{Fleet, instance, node, spec};
use crate::model::ssh::KEPT_MAX;
use crate::model::{Command, Refusal, Reply, SessionId, Severity};

fn event(name: &str, what: SshEventKind) -> SshEvent {
    SshEvent {
        at: Timestamp(1),
        instance: instance(name),
        from: "10.80.1.4:5123".parse().unwrap(),
        login: "root".into(),
        key: "SHA256:abc ann@laptop".into(),
        what,
    }
}

fn tell(
    fleet: &mut Fleet,
    name: &str,
    events: Vec<SshEvent>,
    dropped: u64,
) -> Result<Reply, Refusal> {
    let session = fleet.hosts[&node(name)].session.unwrap();
    fleet.command(Command::SshEvents {
        node: node(name),
        session,
        told: SshEvents { events, dropped },
    })
}

#[test]
fn log_ins_are_events_of_their_instance() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    let refused =
        SshEvent { key: String::new(), ..event("web-0", SshEventKind::Refused { count: 3 }) };
    let events = vec![
        event("web-0", SshEventKind::Opened),
        event("web-0", SshEventKind::Closed { duration_ms: 61_000 }),
        refused,
    ];
    tell(&mut fleet, "n1", events, 0).unwrap();
    let told: Vec<_> = fleet
        .model
        .events(Some("instance/web-0"), 3)
        .iter()
        .map(|event| (event.severity, event.reason.clone(), event.message.clone()))
        .collect();
    let who = "from 10.80.1.4:5123 with SHA256:abc ann@laptop";
    assert_eq!(
        told,
        [
            (Severity::Info, "ssh-opened".into(), format!("root logged in {who}")),
            (Severity::Info, "ssh-closed".into(), format!("root {who} left after 1m1s")),
            (
                Severity::Warning,
                "ssh-refused".into(),
                "root was refused from 10.80.1.4:5123, 3 times".into()
            ),
        ]
    );
}

#[test]
fn a_node_speaks_for_its_own_instances_on_its_own_stream() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 1)).unwrap();
    let opened =
        || vec![event("web-0", SshEventKind::Opened), event("nobody-0", SshEventKind::Opened)];
    tell(&mut fleet, "n2", opened(), 0).unwrap();
    let (node, session) = (node("n1"), SessionId(77));
    let told = SshEvents { events: opened(), dropped: 0 };
    let command = Command::SshEvents { node, session, told };
    assert!(matches!(fleet.command(command), Err(Refusal::SessionSuperseded(_))));
    assert!(fleet.model.events(None, 99).iter().all(|event| event.reason != "ssh-opened"));
}

#[test]
fn a_flood_is_counted_and_told_once() {
    let mut fleet =
        Fleet::new(crate::model::Settings { events_max: 1_000, ..super::fleet::settings() });
    fleet.join("n1").unwrap();
    fleet.attach(&node("n1")).unwrap();
    fleet.apply(spec("web", 1)).unwrap();
    let refused = || vec![event("web-0", SshEventKind::Refused { count: 1 }); 90];
    let kept = |fleet: &Fleet| {
        let events = fleet.model.events(None, 1_000);
        events.iter().filter(|event| event.reason == "ssh-refused").count() as u64
    };
    for _ in 0..5 {
        tell(&mut fleet, "n1", refused(), 5).unwrap();
    }
    assert_eq!(kept(&fleet), KEPT_MAX);
    fleet.pass(1);
    fleet.pass(1);
    let lost: Vec<_> = fleet.model.events(Some("node/n1"), 99);
    let lost: Vec<_> = lost.iter().filter(|event| event.reason == "ssh-events-dropped").collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(
        lost[0].message,
        format!("{} log-ins and the like on its instances were not kept", 5 * 95 - KEPT_MAX)
    );
    tell(&mut fleet, "n1", refused(), 0).unwrap();
    assert_eq!(kept(&fleet), KEPT_MAX + 90, "with the next second it goes on");
}

/// An automation that logs in everywhere, day by day, leaves the history of the fleet alone.
#[test]
fn log_ins_never_push_out_other_events() {
    let settings = crate::model::Settings { events_max: 1_000, ..super::fleet::settings() };
    let most = settings.events_of_a_kind_max();
    let mut fleet = Fleet::new(settings);
    fleet.join("n1").unwrap();
    fleet.attach(&node("n1")).unwrap();
    fleet.apply(spec("web", 1)).unwrap();
    let count = |fleet: &Fleet, of_ssh: bool| {
        let events = fleet.model.events(None, 1_000);
        events.iter().filter(|event| event.reason.starts_with("ssh-") == of_ssh).count()
    };
    let others = count(&fleet, false);
    let one = [SshEventKind::Opened, SshEventKind::Closed { duration_ms: 1 }];
    for round in 0..30 {
        let told = (0..90).map(|number| event("web-0", one[number % 2])).collect();
        tell(&mut fleet, "n1", told, 0).unwrap();
        fleet.pass(1);
        assert!(count(&fleet, true) <= most, "round {round}");
    }
    assert_eq!(count(&fleet, true), most, "the newest are kept");
    assert_eq!(count(&fleet, false), others);
}
