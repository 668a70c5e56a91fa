//! Whether a DNS server answers for a zone, asked from this machine: that is what a resolver here will do.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

/// How long an answer may take, and how often it is asked for: a datagram may be lost.
const PATIENCE: Duration = Duration::from_millis(700);
const ATTEMPTS: usize = 2;
/// The largest answer to a question without extensions, in bytes.
const ANSWER_MAX: usize = 512;

/// Whether `server` answers a question about `zone`.
pub(super) async fn answers(server: SocketAddr, zone: &str) -> bool {
    let id = rand::random();
    let question = question(id, zone);
    for _ in 0..ATTEMPTS {
        if tokio::time::timeout(PATIENCE, ask(server, &question, id)).await.unwrap_or(false) {
            return true;
        }
    }
    false
}

async fn ask(server: SocketAddr, question: &[u8], id: u16) -> bool {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let exchange = async {
        let socket = UdpSocket::bind(local).await?;
        socket.connect(server).await?;
        socket.send(question).await?;
        let mut answer = [0; ANSWER_MAX];
        loop {
            let length = socket.recv(&mut answer).await?;
            if let Some(serves) = serves(&answer[..length], id) {
                return Ok::<bool, std::io::Error>(serves);
            }
        }
    };
    // Refused at once where nobody listens.
    exchange.await.unwrap_or(false)
}

/// A question for the zone's SOA record.
fn question(id: u16, zone: &str) -> Vec<u8> {
    const SOA: u16 = 6;
    const INTERNET: u16 = 1;
    let mut bytes = id.to_be_bytes().to_vec();
    // No flags; one question, nothing else.
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in zone.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label);
    }
    bytes.push(0);
    bytes.extend(SOA.to_be_bytes());
    bytes.extend(INTERNET.to_be_bytes());
    bytes
}

/// Whether an answer says that its server knows of the zone; `None` if it is no answer to question `id`.
fn serves(answer: &[u8], id: u16) -> Option<bool> {
    let [high, low, flags, code, ..] = answer else { return None };
    let is_answer = flags & 0x80 != 0 && [*high, *low] == id.to_be_bytes();
    // No error, or no such name; all else, such as REFUSED, is of a server that does not serve it.
    is_answer.then(|| matches!(code & 0x0f, 0 | 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_and_its_answers() {
        let asked = question(0x1234, "dwell");
        assert_eq!(asked, b"\x12\x34\0\0\0\x01\0\0\0\0\0\0\x05dwell\0\0\x06\0\x01");
        assert_eq!(serves(b"\x12\x34\x84\x00", 0x1234), Some(true));
        assert_eq!(serves(b"\x12\x34\x84\x03", 0x1234), Some(true));
        assert_eq!(serves(b"\x12\x34\x84\x05", 0x1234), Some(false));
        assert_eq!(serves(b"\x12\x35\x84\x00", 0x1234), None, "of another question");
        assert_eq!(serves(b"\x12\x34\x04\x00", 0x1234), None, "a question");
        assert_eq!(serves(b"", 0x1234), None);
    }
}
