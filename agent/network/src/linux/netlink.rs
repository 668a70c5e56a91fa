//! A netlink socket, blocking: requests in batches with one acknowledgement, dumps to their end.
//!
//! Requests are written with the types of `netlink-packet-route`. Answers are handed out as bytes, to
//! be read attribute by attribute: decoding whole messages strictly would make the agent fail on the
//! first attribute a newer kernel changes, and is several times slower on a table of 100,000 routes.
//!
//! A socket belongs to the namespace in which it was opened, whatever its thread does later.

#![expect(unsafe_code, reason = "the library takes a socket that exists only as a number")]

use std::fmt;
use std::io;
use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr, protocols};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::family::Octets;
use super::observe::attributes;

/// Requests sent in one system call: far below what fills the receive buffer if all are refused.
const BATCH_REQUESTS: usize = 256;
/// Larger than any datagram of the kernel, which caps dumps at 32 KiB.
pub(super) const DATAGRAM_BYTES: usize = 128 * 1024;
/// For the answers to one batch; an overflow is an error here, never a silent loss.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// For a transaction of nftables, which is one message to the socket: a million elements.
const TRANSACTION_BYTES: usize = 64 * 1024 * 1024;
/// The kernel answers at once; this is only so that nothing can hang for ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How often a dump that was changed under our hands is started again.
const DUMP_ATTEMPTS: usize = 5;

/// One message to the kernel.
pub(super) struct Request(Vec<u8>);

impl Request {
    /// `message` with `flags` beside `NLM_F_REQUEST`.
    pub(super) fn new<M>(message: M, flags: u16) -> Self
    where
        M: NetlinkSerializable,
    {
        let mut message =
            NetlinkMessage::new(Default::default(), NetlinkPayload::InnerMessage(message));
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        Self(bytes)
    }

    /// As [`Request::new`], of a header and attributes, whose values are numbers and addresses.
    pub(super) fn of_words(
        message_type: u16,
        flags: u16,
        header: &[u8],
        attributes: impl IntoIterator<Item = (u16, Octets)>,
    ) -> Self {
        const HEADER_BYTES: usize = 16;
        const ATTRIBUTE_HEADER_BYTES: usize = 4;
        const COMMONLY_BYTES: usize = 96;
        let mut bytes = Vec::with_capacity(COMMONLY_BYTES);
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend_from_slice(header);
        for (kind, value) in attributes {
            let value = value.as_ref();
            let length = u16::try_from(ATTRIBUTE_HEADER_BYTES + value.len()).unwrap_or_default();
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend_from_slice(value);
        }
        let length = u32::try_from(bytes.len()).unwrap_or_default();
        let mut message = NetlinkBuffer::new(&mut bytes);
        message.set_length(length);
        message.set_message_type(message_type);
        message.set_flags(NLM_F_REQUEST | flags);
        Self(bytes)
    }

    fn add_flags(&mut self, flags: u16) {
        let mut buffer = NetlinkBuffer::new(&mut self.0);
        let flags = flags | buffer.flags();
        buffer.set_flags(flags);
    }

    fn set_sequence(&mut self, sequence: u32) {
        NetlinkBuffer::new(&mut self.0).set_sequence_number(sequence);
    }
}

/// The kernel's refusal of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The error number.
    pub(super) errno: Errno,
    /// The kernel's own words, where it has some.
    detail: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.errno.desc())?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        let kind = Self::from_raw_os_error(refusal.errno as i32).kind();
        Self::new(kind, refusal)
    }
}

/// The outcome of one request of a batch.
pub(super) type Outcome = Result<(), Refusal>;

/// A socket to one netlink family of one namespace.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Netlink {
    /// A socket for links, addresses, routes and neighbours, in the namespace of this thread.
    pub(super) fn route() -> io::Result<Self> {
        Self::open(protocols::NETLINK_ROUTE)?.with_room()
    }

    /// As [`Netlink::route`], of a socket that was opened in another namespace and has no port yet.
    pub(super) fn of_route(socket: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned, and nobody else has it from here on.
        let socket = unsafe { Socket::from_raw_fd(socket.into_raw_fd()) };
        Self::with(socket)?.with_room()
    }

    /// As [`Netlink::route`], for dumps alone, which need neither rights nor much room: the kernel goes on with them as they
    /// are read.
    pub(super) fn reader() -> io::Result<Self> {
        Self::open(protocols::NETLINK_ROUTE)
    }

    /// A socket for nftables, in the namespace of this thread.
    pub(super) fn netfilter() -> io::Result<Self> {
        let netlink = Self::open(protocols::NETLINK_NETFILTER)?.with_room()?;
        setsockopt(&netlink.socket, sockopt::SndBufForce, &TRANSACTION_BYTES)?;
        Ok(netlink)
    }

    /// The number by which the kernel names this socket as the cause of a change.
    pub(super) fn port(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address)?;
        Ok(address.port_number())
    }

    fn open(protocol: isize) -> io::Result<Self> {
        Self::with(Socket::new(protocol)?)
    }

    fn with(mut socket: Socket) -> io::Result<Self> {
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        let timeout = TimeVal::new(ANSWER_WITHIN.as_secs().try_into().unwrap_or(i64::MAX), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
        Ok(Self { socket, sequence: 0, datagram: Vec::new() })
    }

    /// With room for the answers to a batch, which takes the right to configure the network.
    fn with_room(self) -> io::Result<Self> {
        setsockopt(&self.socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
        Ok(self)
    }

    /// Sends all `requests` in order, many to a system call, and returns the outcome of each.
    pub(super) fn batch(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
    ) -> io::Result<Vec<Outcome>> {
        let mut requests = requests.into_iter();
        let mut outcomes = Vec::with_capacity(requests.size_hint().0);
        let mut chunk = Vec::with_capacity(BATCH_REQUESTS.min(requests.size_hint().0));
        loop {
            chunk.extend(requests.by_ref().take(BATCH_REQUESTS));
            // The kernel works through a chunk in order and reports every failure; an
            // acknowledgement of the last one therefore says that all have been dealt with.
            let Some(last) = chunk.last_mut() else { return Ok(outcomes) };
            last.add_flags(NLM_F_ACK);
            let first = self.post(&mut chunk)?;
            let mut results = vec![Ok(()); chunk.len()];
            let last = chunk.len() - 1;
            self.collect(first, &mut results, |at, _| at == last)?;
            outcomes.append(&mut results);
            chunk.clear();
        }
    }

    /// One request and its outcome.
    pub(super) fn request(&mut self, request: Request) -> io::Result<Outcome> {
        Ok(self.batch([request])?.pop().unwrap_or(Ok(())))
    }

    /// Sends an nftables transaction: `begin`, `changes`, `end`. All of it happens or nothing.
    pub(super) fn transaction(
        &mut self,
        begin: Request,
        changes: Vec<Request>,
        end: Request,
    ) -> io::Result<Outcome> {
        let last = changes.len();
        let mut all: Vec<_> = [begin].into_iter().chain(changes).collect();
        if let Some(change) = all.last_mut() {
            change.add_flags(NLM_F_ACK);
        }
        all.push(end);
        let first = self.post(&mut all)?;
        let mut results = vec![Ok(()); all.len()];
        self.collect(first, &mut results, |at, outcome| at == last || outcome.is_err())?;
        Ok(results.into_iter().collect())
    }

    /// Asks for one object and reads it with `parse`; `None` if `parse` knows nothing of the answer.
    pub(super) fn get<T>(
        &mut self,
        mut request: Request,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Result<Option<T>, Refusal>> {
        request.add_flags(NLM_F_ACK);
        let sequence = self.post(&mut [request])?;
        let mut found = None;
        loop {
            self.receive()?;
            for message in messages(&self.datagram) {
                if message.sequence_number() != sequence {
                    continue;
                }
                match message.message_type() {
                    NLMSG_ERROR => return Ok(outcome(&message).map(|()| found)),
                    _ => found = found.or_else(|| parse(message.payload())),
                }
            }
        }
    }

    /// Asks for all objects of a kind; those of which `parse` knows nothing are left out.
    pub(super) fn dump<T>(
        &mut self,
        request: impl Fn() -> Request,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut request = request();
            request.add_flags(NLM_F_DUMP);
            if let Some(found) = self.dump_once(request, &parse)? {
                return Ok(found);
            }
        }
        Err(io::Error::other(format!("dump was interrupted by changes {DUMP_ATTEMPTS} times")))
    }

    /// `None` if the table changed while it was read.
    fn dump_once<T>(
        &mut self,
        request: Request,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        let sequence = self.post(&mut [request])?;
        let mut found = Vec::new();
        let mut consistent = true;
        loop {
            self.receive()?;
            for message in messages(&self.datagram) {
                if message.sequence_number() != sequence {
                    continue;
                }
                consistent &= message.flags() & NLM_F_DUMP_INTR == 0;
                match message.message_type() {
                    NLMSG_DONE => return Ok(consistent.then_some(found)),
                    NLMSG_ERROR => {
                        outcome(&message)?;
                        return Ok(Some(found));
                    }
                    _ => found.extend(parse(message.payload())),
                }
            }
        }
    }

    /// Numbers the requests, sends them in one system call, returns the first number.
    fn post(&mut self, requests: &mut [Request]) -> io::Result<u32> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.set_sequence(self.sequence);
            bytes.extend_from_slice(&request.0);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        self.socket.send(&bytes, 0)?;
        Ok(first)
    }

    /// Reads the outcomes of the requests from number `first` on, until one of them is the last.
    fn collect(
        &mut self,
        first: u32,
        results: &mut [Outcome],
        is_last: impl Fn(usize, &Outcome) -> bool,
    ) -> io::Result<()> {
        loop {
            self.receive()?;
            for message in messages(&self.datagram) {
                let at = message.sequence_number().wrapping_sub(first) as usize;
                let Some(result) = results.get_mut(at) else { continue };
                if message.message_type() != NLMSG_ERROR {
                    continue;
                }
                *result = outcome(&message);
                if is_last(at, result) {
                    return Ok(());
                }
            }
        }
    }

    /// Fills `self.datagram` with the next datagram.
    fn receive(&mut self) -> io::Result<()> {
        self.datagram.clear();
        self.datagram.reserve(DATAGRAM_BYTES);
        let length = self.socket.recv(&mut self.datagram, libc::MSG_TRUNC)?;
        if length > self.datagram.len() {
            return Err(io::Error::other(format!(
                "netlink datagram of {length} bytes is too long"
            )));
        }
        Ok(())
    }
}

/// The messages of a datagram; a malformed one ends them.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(rest).ok()?;
        let length = (message.length() as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        Some(message)
    })
}

/// Reads an `NLMSG_ERROR`, which is also how the kernel says that all went well.
fn outcome(message: &NetlinkBuffer<&[u8]>) -> Outcome {
    let payload = message.payload();
    let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 {
        return Ok(());
    }
    Err(Refusal { errno: Errno::from_raw(-code), detail: detail(message).unwrap_or_default() })
}

/// The text that the kernel adds to a refusal.
fn detail(message: &NetlinkBuffer<&[u8]>) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    const HEADER_BYTES: usize = 16;
    if message.flags() & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let quoted = message.payload().get(4..)?;
    let quoted_bytes = match message.flags() & NLM_F_CAPPED {
        0 => u32::from_ne_bytes(*quoted.first_chunk()?) as usize,
        _ => HEADER_BYTES,
    };
    let text = attributes(quoted, quoted_bytes.next_multiple_of(4))
        .find(|attribute| attribute.kind == NLMSGERR_ATTR_MSG)?;
    let text = text.value.strip_suffix(b"\0").unwrap_or(text.value);
    Some(String::from_utf8_lossy(text).into_owned())
}
