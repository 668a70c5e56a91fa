//! What goes to agents that read and to those that do not, in time that passes at will.

use dwell_core::clock::Timestamp;
use dwell_core::id::Position;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::pki::{Authority, rotation};
use crate::session::WholeDirectory;
use crate::session::admission::{Admission, KEPT, PLACES};
use crate::session::fixture::{SESSION, join, node, start};

/// What reaches an agent, and what sends it.
struct Taken {
    messages: mpsc::Receiver<Result<v1::ControllerMessage, Status>>,
    hear: watch::Sender<u64>,
    requests: mpsc::Sender<v1::OpenTunnel>,
    _sending: JoinHandle<()>,
}

type Authorities = (Arc<Authority>, Arc<SshAuthority>);

/// Those of a new cluster.
fn authorities(directory: &tempfile::TempDir) -> Authorities {
    let authority = Authority::open(directory.path()).unwrap();
    let ssh = SshAuthority::open(directory.path(), &authority, "dwell").unwrap();
    (Arc::new(authority), Arc::new(ssh))
}

/// Begins to take an agent in. Its stream takes the Welcome; what comes after that waits until it is read.
async fn take_in(owner: &Handle, authorities: &Authorities, place: Place) -> Taken {
    let (authority, ssh) = authorities;
    let (sender, messages) = mpsc::channel(1);
    let (requests, wanted) = mpsc::channel(1);
    let held = Position::default();
    let (hear, heard) = watch::channel(0);
    let mut outbound = Outbound {
        owner: owner.clone(),
        ssh: Arc::clone(ssh),
        node: node(),
        session: SESSION,
        protocol: 2,
        changes: owner.follow(node()).await.unwrap(),
        takes_pieces: true,
        unserved: String::new(),
        trust: authority.changes(),
        heard,
        sent: None,
        directory: DirectoryFeed::new(owner, (node(), SESSION), WholeDirectory::default(), held),
        sender,
    };
    let sending = async move {
        outbound.run(place, v1::Welcome::default(), wanted).await;
    };
    Taken { messages, hear, requests, _sending: tokio::spawn(sending) }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_does_not_read_keeps_nobody_out() {
    let owner = start().await;
    let directory = tempfile::tempdir().unwrap();
    let authorities = authorities(&directory);
    let admission = Admission::default();
    let begun = Instant::now();
    let mut deaf = Vec::new();
    for _ in 0..3 * PLACES {
        let place = admission.enter().await.unwrap();
        deaf.push(take_in(&owner, &authorities, place).await);
    }
    let place = admission.enter().await.unwrap();
    assert_eq!(begun.elapsed(), 3 * KEPT, "each keeps its place for so long");
    let mut good = take_in(&owner, &authorities, place).await;
    let welcome = good.messages.recv().await.unwrap().unwrap().message;
    assert!(matches!(welcome, Some(Message::Welcome(_))), "{welcome:?}");
    let assignment = good.messages.recv().await.unwrap().unwrap().message;
    assert!(matches!(assignment, Some(Message::Assignment(_))), "{assignment:?}");
    // Whoever reads in the end gets everything, too.
    for agent in &mut deaf {
        agent.messages.recv().await.unwrap().unwrap();
        let late = agent.messages.recv().await.unwrap().unwrap().message;
        assert!(matches!(late, Some(Message::Assignment(_))), "{late:?}");
    }
}

/// One that is told by a revision alone would keep what the retired authority signed.
#[tokio::test(start_paused = true)]
async fn a_rotation_is_told_on_a_stream_that_runs_and_everything_comes_again() {
    let owner = start().await;
    let directory = tempfile::tempdir().unwrap();
    let authorities = authorities(&directory);
    let (authority, ssh) = &authorities;
    let place = Admission::default().enter().await.unwrap();
    let mut agent = take_in(&owner, &authorities, place).await;
    let mut next = async || agent.messages.recv().await.unwrap().unwrap().message.unwrap();
    assert!(matches!(next().await, Message::Welcome(_)));
    let Message::Assignment(first) = next().await else { panic!("no assignment") };
    let users = |told: &v1::Assignment| {
        let trust = told.ssh_trust.clone().unwrap();
        [&[trust.user_authority][..], &trust.more_user_authorities].concat()
    };
    assert_eq!(users(&first), ssh.user_authorities());
    for turn in [0, 1] {
        match turn {
            0 => drop(rotation::rotate(authority, ssh, "ann", Timestamp(5)).unwrap()),
            _ => drop(rotation::finish(authority, ssh).unwrap()),
        }
        loop {
            match next().await {
                Message::Trust(trust) => {
                    break assert_eq!(trust.ca_pem, authority.certificates_pem());
                }
                Message::Directory(_) => {}
                other => panic!("{other:?}"),
            }
        }
        loop {
            match next().await {
                Message::Assignment(told) => {
                    assert_eq!(told.base_revision, 0);
                    break assert_eq!(users(&told), ssh.user_authorities());
                }
                Message::Directory(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(!users(&first).iter().any(|line| ssh.user_authorities().contains(line)));
}

/// Which of the two comes first where both are due is left to chance, unless somebody sees to it: so it is tried often.
#[tokio::test(start_paused = true)]
async fn what_is_assigned_comes_before_what_is_lent() {
    let owner = start().await;
    let directory = tempfile::tempdir().unwrap();
    let authorities = authorities(&directory);
    let place = Admission::default().enter().await.unwrap();
    let mut taken = take_in(&owner, &authorities, place).await;
    let is_assigned =
        |message: &Message| matches!(message, Message::Assignment(_) | Message::AssignmentPiece(_));
    while !is_assigned(&taken.messages.recv().await.unwrap().unwrap().message.unwrap()) {}
    for round in 1..=100 {
        // There is no place for a message while both come about.
        for _ in 0..2 {
            taken.requests.send(v1::OpenTunnel::default()).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        join(&owner, &format!("h{}", 10 + round), [192, 0, 2, 10 + round].into()).await;
        taken.hear.send_replace(u64::from(round));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut was_assigned = false;
        loop {
            match taken.messages.recv().await.unwrap().unwrap().message.unwrap() {
                Message::Lent(lent) => {
                    assert_eq!((lent.heartbeat, lent.only_renewed), (u64::from(round), false));
                    break;
                }
                message => was_assigned |= is_assigned(&message),
            }
        }
        assert!(was_assigned, "in round {round}");
    }
}
