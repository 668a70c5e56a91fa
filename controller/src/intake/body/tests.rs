//! Bodies in pieces, as the network brings them.

use std::collections::VecDeque;
use std::time::Duration;

use http_body::Frame;
use tonic::Code;

use super::*;
use crate::intake::budget::{ALL_MAX_BYTES, Budget, NODE_MAX_BYTES, OWN_BYTES};
use crate::pki::Enrolment;

/// Pieces, and then silence.
struct Pieces(VecDeque<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.pop_front().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece)))))
    }
}

const TERMS_TIME: Duration = Duration::from_secs(10);

fn terms(first_max: usize, later_max: Option<usize>) -> Terms {
    let (later_time, first_until) = (Some(MESSAGE_TIME), Instant::now() + TERMS_TIME);
    Terms { first_max, later_max, later_time, first_until }
}

/// What a body that is made of these pieces says in the end, and after how long.
async fn end(pieces: &[&[u8]], terms: Terms, account: Option<Arc<Account>>) -> (Code, Duration) {
    let begun = Instant::now();
    let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
    let mut body = Bounded::new(Body::new(Pieces(pieces)), terms, account);
    let refused = async {
        loop {
            let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            if let Err(status) = frame.await.unwrap() {
                return status.code();
            }
        }
    };
    let day = Duration::from_secs(24 * 3600);
    let code = tokio::time::timeout(day, refused).await.unwrap_or(Code::Ok);
    (code, begun.elapsed())
}

fn message(length: u32) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(length.to_be_bytes());
    bytes.resize(5 + length as usize, 7);
    bytes
}

#[tokio::test(start_paused = true)]
async fn what_is_begun_has_to_be_said_in_time() {
    let late = Code::DeadlineExceeded;
    let unfinished: [&[&[u8]]; 3] = [&[], &[b"\0"], &[b"\0\0", b"\0\0\x09abc"]];
    for pieces in unfinished {
        let only = terms(100, None);
        assert_eq!(end(pieces, only, None).await, (late, TERMS_TIME), "{pieces:?}");
        let many = terms(100, Some(100));
        assert_eq!(end(pieces, many, None).await, (late, TERMS_TIME), "{pieces:?}");
    }
    // Of a request of one message the end is due as well; of a stream nothing is, between two messages.
    let whole = message(9);
    let only = terms(100, None);
    assert_eq!(end(&[&whole], only, None).await, (late, TERMS_TIME));
    let (code, waited) = end(&[&whole, &whole], terms(100, Some(100)), None).await;
    assert_eq!((code, waited > MESSAGE_TIME), (Code::Ok, true));
    let half = end(&[&whole, &whole[..8]], terms(100, Some(100)), None).await;
    assert_eq!(half, (late, MESSAGE_TIME));
    // A large one may take as long as the others.
    let large = &message(1 << 20)[..100];
    assert_eq!(end(&[large], terms(1 << 20, None), None).await, (late, MESSAGE_TIME));
}

/// A reader that pauses, with a half of the next message in hand, does not make the sender late.
#[tokio::test(start_paused = true)]
async fn time_in_which_nobody_reads_is_not_counted() {
    let pause = Duration::from_secs(3600);
    let whole = message(9);
    for (later_time, end) in [(Some(MESSAGE_TIME), Some(Code::DeadlineExceeded)), (None, None)] {
        let pieces = [[&whole[..], &whole[..8]].concat(), whole[8..10].to_vec()];
        let pieces = Pieces(pieces.into_iter().map(Bytes::from).collect());
        let terms = Terms { later_time, ..terms(9, Some(9)) };
        let mut body = Bounded::new(Body::new(pieces), terms, None);
        let mut next = async || {
            let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            let frame = tokio::time::timeout(10 * pause, frame).await.ok()?.unwrap();
            Some(frame.map_or_else(|status| status.code(), |_| Code::Ok))
        };
        for _ in 0..2 {
            assert_eq!(next().await, Some(Code::Ok), "{later_time:?}");
            tokio::time::sleep(pause).await;
        }
        let asked = Instant::now();
        assert_eq!(next().await, end);
        assert_eq!(asked.elapsed(), later_time.unwrap_or(10 * pause));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_announced_is_judged_before_it_is_there() {
    let now = Duration::ZERO;
    let header = |length: u32| message(length)[..5].to_vec();
    for length in [101, 1 << 20] {
        let pieces = header(length);
        assert_eq!(end(&[&pieces], terms(100, None), None).await, (Code::OutOfRange, now));
    }
    let then = [message(100), header(51)];
    let pieces: Vec<&[u8]> = then.iter().map(Vec::as_slice).collect();
    assert_eq!(end(&pieces, terms(100, Some(50)), None).await, (Code::OutOfRange, now));
    assert_eq!(end(&pieces, terms(100, None), None).await, (Code::InvalidArgument, now));
    // However the pieces are cut.
    let bytes = [message(3), message(0), message(50), header(51)].concat();
    for cut in 1..=bytes.len() {
        let pieces: Vec<&[u8]> = bytes.chunks(cut).collect();
        assert_eq!(end(&pieces, terms(3, Some(50)), None).await, (Code::OutOfRange, now), "{cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_announced_counts_until_it_is_there() {
    let budget = Budget::default();
    let account = |name: &str| budget.account(&Enrolment(name.to_owned()));
    let largest = dwell_proto::MESSAGE_MAX_BYTES;
    let thief = account("thief");
    let mut held: Vec<Charge> =
        (0..NODE_MAX_BYTES / largest).map(|_| thief.charge(largest).unwrap()).collect();
    let full = |charged: Result<Charge, Status>| charged.err().map(|status| status.code());
    assert_eq!(full(thief.charge(1)), Some(Code::ResourceExhausted));
    // What is refused leaves nothing behind, and neither does what has arrived.
    let good = account("good");
    for _ in 0..3 {
        let whole = message(1000);
        let account = Some(Arc::clone(&good));
        let (code, _) =
            end(&[&whole, &whole], terms(largest, Some(largest)), account.clone()).await;
        assert_eq!(code, Code::Ok);
        let (half, _) = end(&[&whole[..900]], terms(largest, None), account).await;
        assert_eq!(half, Code::DeadlineExceeded);
    }
    let thieves: Vec<_> =
        (1..ALL_MAX_BYTES / NODE_MAX_BYTES).map(|n| account(&n.to_string())).collect();
    for thief in &thieves {
        held.extend((0..NODE_MAX_BYTES / largest).map(|_| thief.charge(largest).unwrap()));
    }
    assert_eq!(full(good.charge(OWN_BYTES + 1)), Some(Code::ResourceExhausted), "all together");
    assert!(good.charge(OWN_BYTES).is_ok(), "what a node says now and then is heard all the same");
    drop(held);
    drop((thief, thieves));
    assert!(good.charge(largest).is_ok());
    drop(good);
    assert_eq!(budget.in_use(), (0, 0));
}
