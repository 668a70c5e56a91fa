use dwell_core::clock::Timestamp;
use dwell_core::ssh::SshEventKind;
use tokio::io::AsyncWriteExt;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn event(at: u64) -> SshEvent {
    SshEvent {
        at: Timestamp(at),
        instance: "web-0".parse().unwrap(),
        from: "192.0.2.1:1234".parse().unwrap(),
        login: "root".to_owned(),
        key: String::new(),
        what: SshEventKind::Opened,
    }
}

fn line(event: &SshEvent) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).unwrap();
    line.push(b'\n');
    line
}

/// Waits for so many events, and takes them.
async fn taken(queue: &EventQueue, count: usize) -> Vec<u64> {
    let mut taken = Vec::new();
    while taken.len() < count {
        tokio::time::timeout(LIMIT, queue.changed()).await.unwrap();
        while let Some(message) = queue.take() {
            taken.extend(message.events.iter().map(|event| event.at.0));
        }
    }
    taken
}

#[test]
fn the_queue_is_bounded_and_tells_what_it_lost() {
    let queue = EventQueue::default();
    assert_eq!(queue.take(), None);
    (0..1_050).for_each(|at| queue.push(event(at)));
    let first = queue.take().unwrap();
    assert_eq!((first.events.len(), first.events[0].at.0, first.dropped), (SSH_EVENTS_MAX, 50, 50));
    let mut rest = 0;
    while let Some(message) = queue.take() {
        assert_eq!(message.dropped, 0);
        rest += message.events.len();
    }
    assert_eq!((rest, queue.is_empty()), (900, true));
}

#[tokio::test]
async fn lines_become_events_and_nonsense_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ssh/events.sock");
    // What an agent that was killed leaves behind.
    fs::create_dir(dir.path().join("ssh")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let queue = EventQueue::default();
    let listening = tokio::spawn(listen(dir.path().to_owned(), queue.clone()));
    let connect = async || loop {
        if let Ok(stream) = UnixStream::connect(&path).await {
            return stream;
        }
        tokio::task::yield_now().await;
    };

    let mut first = tokio::time::timeout(LIMIT, connect()).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&dir.path().join("ssh"))), (0o600, 0o700));
    first.write_all(&line(&event(1))).await.unwrap();
    first.write_all(b"{\"at\":\n\xff\n").await.unwrap();
    first.write_all(&line(&event(2))).await.unwrap();
    assert_eq!(taken(&queue, 2).await, [1, 2]);

    // A line without an end takes no more memory than a line may, and the connection.
    let endless = vec![b'x'; 1 << 20];
    tokio::time::timeout(LIMIT, first.write_all(&endless)).await.unwrap().unwrap_err();
    let mut second = connect().await;
    second.write_all(&line(&event(3))).await.unwrap();
    assert_eq!(taken(&queue, 1).await, [3]);

    // More connections than there may be wait for one that ends.
    let mut many = Vec::new();
    for at in 0..8 {
        let mut stream = connect().await;
        stream.write_all(&line(&event(10 + at))).await.unwrap();
        many.push(stream);
    }
    let before = taken(&queue, CONNECTIONS_MAX - 1).await;
    drop((second, many));
    let after = taken(&queue, 8 - before.len()).await;
    assert_eq!(before.len() + after.len(), 8);
    listening.abort();
}
