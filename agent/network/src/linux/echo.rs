//! ICMP echoes: whether an address answers, how soon, and up to which size.
//!
//! A raw socket that is connected to the address, so that the kernel hands it nobody else's packets. What it
//! sends must not be fragmented on the way (the kernel's default): of a packet that is too large for
//! some hop, that hop either says so, and the kernel sends smaller ones from then on, or it is lost, time after time.

use std::io;
use std::net::{Ipv4Addr, UdpSocket as StdUdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

const IP_HEADER_BYTES: usize = 20;
const ICMP_HEADER_BYTES: usize = 8;
/// Of an IPv4 packet, which is the most that a route's MTU can ask for.
const PACKET_BYTES: usize = 65_535;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// Tries for one answer, because single packets do get lost, and how long one is waited for.
const TRIES: u16 = 3;
const ANSWER_WITHIN: Duration = Duration::from_millis(330);

/// A socket for echoes to one address.
#[derive(Debug)]
pub(super) struct Echo {
    /// No UDP socket, but it sends and receives like one.
    socket: StdUdpSocket,
    /// Tells the answers to this socket's echoes from those to others'.
    id: u16,
}

impl Echo {
    /// In the namespace of the calling thread; what it sends has this mark.
    pub(super) fn open(address: Ipv4Addr, mark: Option<u32>) -> io::Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let socket = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::Icmp,
        )?;
        if let Some(mark) = mark {
            setsockopt(&socket, sockopt::Mark, &mark)?;
        }
        let socket = StdUdpSocket::from(socket);
        socket.connect((address, 0))?;
        Ok(Self { socket, id: NEXT.fetch_add(1, Ordering::Relaxed) })
    }

    /// From a small echo to its answer, and whether one in packets of `mtu` bytes is answered as well; `None`
    /// for what was not answered in a second.
    pub(super) async fn measure(self, mtu: u32) -> io::Result<(Option<Duration>, Option<bool>)> {
        let socket = UdpSocket::from_std(self.socket)?;
        let Some(round_trip) = ask(&socket, self.id, 0, 0).await? else {
            return Ok((None, None));
        };
        let mtu = usize::try_from(mtu).unwrap_or(PACKET_BYTES).min(PACKET_BYTES);
        let fill = mtu.saturating_sub(IP_HEADER_BYTES + ICMP_HEADER_BYTES);
        let full_size = ask(&socket, self.id, TRIES, fill).await?;
        Ok((Some(round_trip), Some(full_size.is_some())))
    }
}

/// Sends echoes with `fill` bytes of content, numbered from `first` on, until one is answered.
async fn ask(socket: &UdpSocket, id: u16, first: u16, fill: usize) -> io::Result<Option<Duration>> {
    let mut packet = vec![0; PACKET_BYTES];
    let range = first..first + TRIES;
    let mut sent_at = Vec::new();
    for number in range.clone() {
        sent_at.push(Instant::now());
        match socket.send(&request(id, number, fill)).await {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // Too large for the interface, or refused on the way: there is no answer to come.
            _ => {}
        }
        let until = Instant::now() + ANSWER_WITHIN;
        // Cancel-safe: all that is lost is a wait.
        while let Ok(received) = timeout_at(until, socket.recv(&mut packet)).await {
            // An error is what somebody on the way has said of an echo.
            let packet = packet.get(..received.unwrap_or_default()).unwrap_or_default();
            let answered = answered(packet, id).filter(|number| range.contains(number));
            if let Some(at) = answered.and_then(|number| sent_at.get(usize::from(number - first))) {
                return Ok(Some(at.elapsed()));
            }
        }
    }
    Ok(None)
}

fn request(id: u16, number: u16, fill: usize) -> Vec<u8> {
    let mut packet = vec![0; ICMP_HEADER_BYTES + fill];
    packet[0] = ECHO_REQUEST;
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&number.to_be_bytes());
    let checksum = checksum(&packet).to_be_bytes();
    packet[2..4].copy_from_slice(&checksum);
    packet
}

/// The number of the echo with our `id` that this IPv4 packet answers.
fn answered(packet: &[u8], id: u16) -> Option<u16> {
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let &[kind, _, _, _, id_high, id_low, high, low] = packet.get(header_bytes..)?.first_chunk()?;
    let is_ours = kind == ECHO_REPLY && u16::from_be_bytes([id_high, id_low]) == id;
    is_ours.then(|| u16::from_be_bytes([high, low]))
}

/// Of RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let mut sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default()))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_packet_with_its_checksum_sums_up_to_nothing() {
        for fill in [0, 1, 56, 1472] {
            assert_eq!(checksum(&request(0x1234, 7, fill)), 0, "{fill} bytes");
        }
    }

    /// The answer to a request, behind an IP header of so many words.
    fn answer(id: u16, number: u16, words: u8) -> Vec<u8> {
        let mut packet = vec![0; usize::from(words) * 4];
        packet[0] = 0x40 | words;
        packet.extend(request(id, number, 3));
        packet[usize::from(words) * 4] = ECHO_REPLY;
        packet
    }

    #[test]
    fn only_answers_to_our_own_count() {
        assert_eq!(answered(&answer(5, 2, 5), 5), Some(2));
        assert_eq!(answered(&answer(5, 2, 7), 5), Some(2), "with IP options");
        assert_eq!(answered(&answer(5, 2, 5), 6), None);
        let mut own_request = answer(5, 2, 5);
        own_request[20] = ECHO_REQUEST;
        assert_eq!(answered(&own_request, 5), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..64), id: u16) {
            let _number = answered(&bytes, id);
        }
    }
}
