//! What goes to agents that read and to those that do not, in time that passes at will.

use dwell_core::id::Position;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::pki::Authority;
use crate::session::WholeDirectory;
use crate::session::admission::{Admission, KEPT, PLACES};
use crate::session::fixture::{SESSION, node, start};

/// What reaches an agent, and what sends it.
struct Taken {
    messages: mpsc::Receiver<Result<v1::ControllerMessage, Status>>,
    _requests: mpsc::Sender<v1::OpenTunnel>,
    _sending: JoinHandle<()>,
}

/// Begins to take an agent in. Its stream takes the Welcome; what comes after that waits until it is read.
async fn take_in(owner: &Handle, ssh: &Arc<SshAuthority>, place: Place) -> Taken {
    let (sender, messages) = mpsc::channel(1);
    let (requests, wanted) = mpsc::channel(1);
    let held = Position::default();
    let mut outbound = Outbound {
        owner: owner.clone(),
        ssh: Arc::clone(ssh),
        node: node(),
        session: SESSION,
        protocol: 2,
        changes: owner.follow(node()).await.unwrap(),
        takes_pieces: true,
        unserved: String::new(),
        sent: None,
        directory: DirectoryFeed::new(owner, (node(), SESSION), WholeDirectory::default(), held),
        sender,
    };
    let sending = async move {
        outbound.run(place, v1::Welcome::default(), wanted).await;
    };
    Taken { messages, _requests: requests, _sending: tokio::spawn(sending) }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_does_not_read_keeps_nobody_out() {
    let owner = start().await;
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open(directory.path()).unwrap();
    let ssh = Arc::new(SshAuthority::open(directory.path(), &authority, "dwell").unwrap());
    let admission = Admission::default();
    let begun = Instant::now();
    let mut deaf = Vec::new();
    for _ in 0..3 * PLACES {
        let place = admission.enter().await.unwrap();
        deaf.push(take_in(&owner, &ssh, place).await);
    }
    let place = admission.enter().await.unwrap();
    assert_eq!(begun.elapsed(), 3 * KEPT, "each keeps its place for so long");
    let mut good = take_in(&owner, &ssh, place).await;
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
