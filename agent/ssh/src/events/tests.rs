//! Events while the agent is there, away and back.

use dwell_core::clock::Timestamp;
use dwell_core::ssh::{SshEvent, SshEventKind};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Duration, Instant};

use super::refusals::Refusals;
use super::{QUEUE, Reporter};

fn event(what: SshEventKind, login: &str) -> SshEvent {
    SshEvent {
        at: Timestamp(1),
        instance: "web-0".parse().unwrap(),
        from: "192.0.2.1:4000".parse().unwrap(),
        login: login.to_owned(),
        key: String::new(),
        what,
    }
}

async fn accept(listener: &UnixListener) -> Lines<BufReader<UnixStream>> {
    BufReader::new(listener.accept().await.unwrap().0).lines()
}

async fn next(lines: &mut Lines<BufReader<UnixStream>>) -> SshEvent {
    serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap()
}

#[tokio::test]
async fn they_wait_for_an_agent_that_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.sock");
    let reporter = Reporter::default();
    let delivery = tokio::spawn({
        let (reporter, path) = (reporter.clone(), path.clone());
        async move { reporter.deliver(&path).await }
    });
    reporter.report(event(SshEventKind::Opened, "early"));
    let listener = UnixListener::bind(&path).unwrap();
    let mut lines = accept(&listener).await;
    assert_eq!(next(&mut lines).await.login, "early");
    // The agent restarts.
    drop((lines, listener));
    std::fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    // The first write after that may go into the connection that was.
    let mut number = 0;
    let mut lines = loop {
        reporter.report(event(SshEventKind::Opened, &format!("late {number}")));
        number += 1;
        match tokio::time::timeout(Duration::from_millis(100), accept(&listener)).await {
            Ok(lines) => break lines,
            Err(_) => assert!(number < 100, "nothing comes any more"),
        }
    };
    assert!(next(&mut lines).await.login.starts_with("late"));
    delivery.abort();
}

#[test]
fn the_oldest_are_dropped() {
    let reporter = Reporter::default();
    for number in 0..=QUEUE {
        reporter.report(event(SshEventKind::Opened, &number.to_string()));
    }
    reporter.with(|waiting| {
        assert_eq!(waiting.queue.len(), QUEUE);
        assert_eq!(waiting.queue[0].login, "1");
        assert_eq!(waiting.dropped, 1);
    });
}

#[test]
fn refusals_are_told_at_once_and_then_together() {
    let mut refusals = Refusals::default();
    let refused = || event(SshEventKind::Refused { count: 1 }, "root");
    let start = Instant::now();
    let minute = Duration::from_secs(60);
    assert_eq!(refusals.add(refused(), start), Some(refused()));
    for _ in 0..5 {
        assert_eq!(refusals.add(refused(), start), None);
    }
    assert!(refusals.due(start + minute / 2).is_empty());
    let due = refusals.due(start + minute);
    assert_eq!(due, [event(SshEventKind::Refused { count: 5 }, "root")]);
    // Nothing came since: the next one is told at once again.
    assert!(refusals.due(start + minute * 2).is_empty());
    assert_eq!(refusals.add(refused(), start + minute * 2), Some(refused()));
}
