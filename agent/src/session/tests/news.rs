//! Directory, differences of the network, and log-ins over SSH.

use dwell_core::ssh::{SshEvent, SshEventKind};

use super::*;

fn directory(base_revision: u64, revision: u64, ordinal: u32) -> Down {
    let instance = v1::DirectoryInstance {
        instance: name(ordinal).to_string(),
        address: format!("10.80.1.{ordinal}"),
        ready: true,
    };
    Down::Directory(v1::DirectoryChange {
        revision,
        base_revision,
        instances: vec![instance],
        ..v1::DirectoryChange::default()
    })
}

#[tokio::test]
async fn a_gap_in_the_directory_ends_the_stream_and_the_next_one_asks_for_all() {
    let (mut controller, mut agent) = pair().await;
    let stream = controller.attachment().await;
    assert_eq!(stream.hello.directory_revision, 0);
    stream.welcome(1_000).await;
    stream.send(directory(0, 5, 0)).await;
    stream.send(directory(5, 7, 1)).await;
    let held = agent.directory.wait_for(|held| held.revision == Revision(7)).await.unwrap().clone();
    assert_eq!(held.instances.len(), 2);
    stream.send(directory(8, 9, 2)).await;
    ended(stream).await;

    let stream = controller.attachment().await;
    assert_eq!(stream.hello.directory_revision, 0);
    assert_eq!(*agent.directory.borrow(), held);
    stream.welcome(1_000).await;
    stream.send(directory(0, 9, 2)).await;
    agent.directory.wait_for(|held| held.revision == Revision(9)).await.unwrap();
    drop(stream);
    let stream = controller.attachment().await;
    assert_eq!(stream.hello.directory_revision, 9);
}

#[tokio::test]
async fn a_moved_instance_and_other_keys_are_small_messages() {
    let (mut controller, agent) = pair().await;
    let mut stream = controller.attachment().await;
    stream.welcome(1_000).await;
    let peer = |n: u8| v1::Peer {
        node: format!("h{n}"),
        address: format!("192.168.1.{n}"),
        block: format!("10.80.{n}.0/24"),
        more_blocks: Vec::new(),
    };
    let mut first = snapshot(5, &[0]);
    first.network.as_mut().unwrap().peers = vec![peer(2), peer(3)];
    first.ssh_trust = Some(v1::SshTrust { user_authority: "a CA".into(), ..Default::default() });
    stream.send(Down::Assignment(first)).await;
    let exception = v1::Exception { address: "10.80.1.0".into(), node: "h2".into() };
    let key_set = v1::KeySet { name: "team".into(), keys: vec!["ssh-ed25519 AAAA".into()] };
    stream
        .send(Down::Assignment(v1::Assignment {
            network_delta: Some(v1::NetworkDelta {
                removed_peers: vec!["h3".into()],
                exceptions: vec![exception],
                block_changed: true,
                ..v1::NetworkDelta::default()
            }),
            ssh_trust: Some(v1::SshTrust { key_sets: vec![key_set], ..Default::default() }),
            ..delta(5, 6, &[], &[])
        }))
        .await;
    acknowledged(&mut stream, 6).await;
    let held = agent.desired.borrow().clone().unwrap();
    let nodes: Vec<_> = held.network.peers.keys().map(ToString::to_string).collect();
    assert_eq!((nodes, held.network.block), (vec!["h2".to_owned()], None));
    assert_eq!(held.network.exceptions[&"10.80.1.0".parse().unwrap()].to_string(), "h2");
    assert_eq!(held.ssh_trust.user_authority, "");
    assert_eq!(held.ssh_trust.key_sets["team"].len(), 1);
    assert_eq!(agent.instances(), ["web-0"]);
}

#[tokio::test]
async fn log_ins_are_told_in_bounded_messages() {
    let (mut controller, agent) = pair().await;
    for at in 0..150 {
        agent.ssh_events.push(SshEvent {
            at: Timestamp(at),
            instance: name(0),
            from: "192.0.2.1:1234".parse().unwrap(),
            login: "root".to_owned(),
            key: "SHA256:abc alice".to_owned(),
            what: SshEventKind::Opened,
        });
    }
    let mut stream = controller.attachment().await;
    stream.welcome(60_000).await;
    let mut told = Vec::new();
    while told.len() < 150 {
        match stream.next().await.unwrap() {
            Up::SshEvents(message) => {
                assert!(message.events.len() <= 100);
                told.extend(message.events.iter().map(|event| event.at_ms));
            }
            other => assert!(matches!(other, Up::Heartbeat(_)), "{other:?}"),
        }
    }
    assert!(told.iter().copied().eq(0..150));
}

/// The next heartbeat, passing over everything else.
async fn heartbeat(stream: &mut Attachment) -> u64 {
    loop {
        if let Up::Heartbeat(heartbeat) = stream.next().await.unwrap() {
            return heartbeat.number;
        }
    }
}

#[tokio::test]
async fn what_is_lent_counts_from_its_heartbeat_and_what_is_not_is_asked_for_at_once() {
    let (mut controller, mut agent) = pair().await;
    let mut stream = controller.attachment().await;
    assert!(stream.hello.keeps_leases);
    assert_eq!(stream.hello.boot, Some(v1::Boot { id: "b1".into(), may_reboot: true }));
    // It is its assignment that has it say something, and not the time.
    stream.welcome(60_000).await;
    agent.fenced.send_replace(Position::default());
    let leased = v1::AssignedInstance { lease_ms: Some(12_000), ..assigned(0) };
    let all = v1::Assignment { instances: vec![leased], ..snapshot(5, &[]) };
    stream.send(Down::Assignment(all)).await;
    assert_eq!(heartbeat(&mut stream).await, 1);
    let lent = v1::Lent { heartbeat: 1, only_renewed: false };
    stream.send(Down::Lent(lent)).await;
    let leases =
        agent.leases.subscribe().wait_for(|all| *all != Leases::default()).await.unwrap().clone();
    let held = agent.desired.borrow_and_update().clone().unwrap();
    let standing = leases.standing(&held.instances[&name(0)], Timestamp(0));
    assert!(matches!(standing, dwell_planner::Standing::Lent { .. }), "{standing:?}");
    // On the disk, and not yet known to the kernel.
    let silence = tokio::time::timeout(Duration::from_millis(300), acknowledged(&mut stream, 5));
    assert!(silence.await.is_err());
    agent.fenced.send_replace(held.position());
    acknowledged(&mut stream, 5).await;
}

/// The next heartbeat that says why an order has failed.
async fn failed(stream: &mut Attachment) -> v1::RebootFailed {
    loop {
        if let Up::Heartbeat(heartbeat) = stream.next().await.unwrap()
            && let Some(failed) = heartbeat.reboot_failed
        {
            return failed;
        }
    }
}

#[tokio::test]
async fn an_order_to_reboot_is_taken_once_and_only_of_the_history_that_the_controller_is_in() {
    use dwell_core::session::RebootFailed;
    let (mut controller, agent) = pair().await;
    let mut stream = controller.attachment().await;
    stream.welcome(60_000).await;
    let mut orders = agent.reboot_orders.subscribe();
    let order = |incarnation, number| {
        Down::Reboot(v1::RebootOrder { incarnation, number, boot_id: "b1".into() })
    };
    // The fake one is in the history 0.
    stream.send(order(9, 1)).await;
    stream.send(order(0, 2)).await;
    let taken = orders.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!((taken.incarnation.0, taken.number), (0, 2));
    orders.mark_unchanged();
    stream.send(order(0, 2)).await;
    let incarnation = taken.incarnation;
    let reason = "no power".to_owned();
    agent.reboot_failed.send_replace(Some(RebootFailed { incarnation, number: 2, reason }));
    let told = failed(&mut stream).await;
    assert_eq!((told.number, told.reason.as_str()), (2, "no power"));
    assert!(!orders.has_changed().unwrap(), "what is told again is the same order");
}
