//! Who has to slow down, and for whom.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{Intake, LAG, LIMIT, PAUSES, TRICKLE};

fn open(intake: &Intake) -> bool {
    matches!(intake.poll_open(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
}

static PACKET: [u8; 32 * 1024] = [0; 32 * 1024];

#[tokio::test(start_paused = true)]
async fn a_reader_that_lags_slows_its_client_down() {
    let intake = Arc::<Intake>::default();
    let (inlet, mut outlet) = intake.queue();
    let (other, _others) = intake.queue();
    while !inlet.lags() {
        inlet.push(&PACKET);
    }
    assert!(open(&intake), "a full window in a packet's time is no reason to pause");
    inlet.push(&[0; TRICKLE as usize]);
    assert!(!open(&intake));
    assert!(!other.lags());
    tokio::time::advance(PAUSES[0]).await;
    assert!(open(&intake));
    for _ in 0..10 {
        inlet.push(&[0; TRICKLE as usize]);
    }
    tokio::time::advance(PAUSES[1]).await;
    assert!(open(&intake), "no pause is longer than the longest");
    while inlet.lags() {
        drop(outlet.next().await.unwrap());
    }
    inlet.push(&[0; TRICKLE as usize]);
    assert!(open(&intake));
}

#[tokio::test(start_paused = true)]
async fn beyond_the_limit_nothing_is_read() {
    let intake = Arc::<Intake>::default();
    let queues: Vec<_> = (0..LIMIT / LAG + 1).map(|_| intake.queue()).collect();
    for (inlet, _) in &queues {
        for _ in 0..=LAG / PACKET.len() {
            inlet.push(&PACKET);
        }
    }
    assert!(!open(&intake));
    let (inlet, outlet) = queues.into_iter().next().unwrap();
    drop(outlet);
    assert!(open(&intake), "what nobody will read does not count");
    inlet.push(&PACKET);
    assert!(!inlet.lags());
}

#[tokio::test]
async fn data_comes_out_in_order_and_ends() {
    let intake = Arc::<Intake>::default();
    let (mut inlet, mut outlet) = intake.queue();
    inlet.push(b"one");
    inlet.push(b"two");
    inlet.end();
    assert_eq!(&*outlet.next().await.unwrap(), b"one");
    assert_eq!(&*outlet.next().await.unwrap(), b"two");
    assert!(outlet.next().await.is_none());
}
