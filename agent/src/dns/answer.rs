//! The answer to a question, as bytes from bytes. Pure: everything that can be sent to the server's ports
//! goes through [`answer`], which is what the tests and a fuzzer feed.
//!
//! A reply over UDP is at most as long as the client takes and at most [`UDP_MAX_BYTES`], so that it is never
//! fragmented. Where not all fits, addresses are a random selection: they are one of many to connect to. Of
//! services, which are for those who want them all, the reply says that it was cut (TC), and the client asks
//! again over TCP, where a message has 64 KiB.

use std::net::IpAddr;

use fastrand::Rng;
use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

use super::zone::{Found, Look, Names};

/// The longest reply over UDP, in bytes: what passes any network in one piece.
pub const UDP_MAX_BYTES: u16 = 1232;
/// The longest reply over UDP to those who do not say what they take, in bytes.
const PLAIN_UDP_MAX_BYTES: u16 = 512;
/// How many additional records a question may bring: OPT, and signatures that nobody looks at.
const ADDITIONALS_MAX: u16 = 4;
/// The length of a message's header, in bytes.
pub(super) const HEADER_BYTES: usize = 12;
/// The least that a record takes: a pointer to its name, type, class, TTL, length, and an address.
const RECORD_MIN_BYTES: usize = 16;
/// The length of our OPT record, in bytes.
const OPT_BYTES: usize = 11;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In one datagram.
    Udp,
    /// In a stream.
    Tcp,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Whether names that are not the cluster's are looked up for it.
    pub may_forward: bool,
    /// Our address that it asked.
    pub asked_at: IpAddr,
    /// How it asked.
    pub transport: Transport,
}

/// What is to be done about a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To send this reply.
    Reply(Vec<u8>),
    /// To ask another server: the name is not ours.
    Forward {
        /// Where in the bytes the question ends, which begins after the header.
        question_end: usize,
    },
    /// Nothing: it is no question, and an answer to it might be taken for one.
    Silence,
}

/// Answers `query`. Without `names` there is no cluster yet. `seed` decides what is random.
#[must_use]
pub fn answer(query: &[u8], names: Option<Names<'_>>, client: Client, seed: u64) -> Answer {
    let Some(asked) = Asked::read(query) else { return Answer::Silence };
    let asked = match asked {
        Ok(asked) => asked,
        Err(refused) => return reply(&refused, u16::MAX),
    };
    let reply_max = asked.reply_max(client.transport);
    let look = names.map(|names| Look {
        names,
        name: asked.question.name(),
        of: asked.question.query_type(),
        asked_at: match client.asked_at {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        },
        most: usize::from(reply_max) / RECORD_MIN_BYTES,
    });
    let found = look.as_ref().and_then(|look| Some((look, look.find(&mut Rng::with_seed(seed))?)));
    let mut message = asked.response();
    message.metadata.recursion_available = client.may_forward;
    match (found, names) {
        // What is not known yet is not to be taken for what is not there.
        (Some(_), Some(names)) if names.directory.revision.0 == 0 => {
            message.metadata.response_code = ResponseCode::ServFail;
        }
        (Some((look, found)), _) => fill(&mut message, look, found, reply_max),
        (None, _) if client.may_forward => {
            return Answer::Forward { question_end: asked.end };
        }
        (None, None) => message.metadata.response_code = ResponseCode::ServFail,
        (None, Some(_)) => message.metadata.response_code = ResponseCode::Refused,
    }
    reply(&message, reply_max)
}

/// A reply to `query` that only says how it went, for when other servers did not answer.
#[must_use]
pub(super) fn failure(query: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let mut message = Asked::read(query)?.ok()?.response();
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.to_vec().ok()
}

/// A question that was understood.
struct Asked {
    metadata: Metadata,
    question: Query,
    /// Where the question ends.
    end: usize,
    edns: Option<Edns>,
}

impl Asked {
    /// Reads a question: `None` for what is none, an error reply for one that cannot be answered.
    fn read(bytes: &[u8]) -> Option<Result<Self, Message>> {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder).ok()?;
        if header.metadata.message_type != MessageType::Query {
            return None;
        }
        let refuse = |code| {
            let mut message = Message::response(header.metadata.id, header.metadata.op_code);
            message.metadata.response_code = code;
            Some(Err(message))
        };
        if header.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        let counts = header.counts;
        if (counts.queries, counts.answers, counts.authorities) != (1, 0, 0)
            || counts.additionals > ADDITIONALS_MAX
        {
            return refuse(ResponseCode::FormErr);
        }
        let Ok(question) = Query::read(&mut decoder) else {
            return refuse(ResponseCode::FormErr);
        };
        let end = decoder.index();
        let additionals = usize::from(counts.additionals);
        let Ok((_, edns, _)) =
            Message::read_records(&mut decoder, additionals, true, OpCode::Query)
        else {
            return refuse(ResponseCode::FormErr);
        };
        let asked = Self { metadata: header.metadata, question, end, edns };
        let code = match asked.question.query_class() {
            _ if asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) => {
                ResponseCode::BADVERS
            }
            DNSClass::IN | DNSClass::ANY => match asked.question.query_type() {
                RecordType::AXFR | RecordType::IXFR => ResponseCode::Refused,
                _ => return Some(Ok(asked)),
            },
            _ => ResponseCode::Refused,
        };
        let mut message = asked.response();
        message.metadata.response_code = code;
        Some(Err(message))
    }

    fn response(&self) -> Message {
        let mut message = Message::response(self.metadata.id, OpCode::Query);
        message.metadata = Metadata::response_from_request(&self.metadata);
        message.add_query(self.question.clone());
        message.edns = self.edns.as_ref().map(|_| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_MAX_BYTES);
            edns
        });
        message
    }

    fn reply_max(&self, transport: Transport) -> u16 {
        match (transport, &self.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => PLAIN_UDP_MAX_BYTES,
            (Transport::Udp, Some(edns)) => {
                edns.max_payload().clamp(PLAIN_UDP_MAX_BYTES, UDP_MAX_BYTES)
            }
        }
    }
}

/// Puts in what was found, as much of it as there is room for.
fn fill(message: &mut Message, look: &Look<'_>, found: Found, reply_max: u16) {
    message.metadata.authoritative = true;
    if !found.exists {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    if found.answers.is_empty() {
        message.authorities.extend(look.nothing(&found.apex));
        return;
    }
    // Type and class of the question take four bytes.
    let used = HEADER_BYTES + look.name.len() + 4 + OPT_BYTES;
    let mut room = usize::from(reply_max).saturating_sub(used);
    let mut fits = |length: usize| {
        let fits = room >= length;
        room = room.saturating_sub(length);
        fits
    };
    let count = found.answers.len();
    let answers = found.answers.into_iter();
    message.answers = answers.take_while(|answer| fits(answer_length(answer))).collect();
    message.metadata.truncation = message.answers.len() < count && look.of == RecordType::SRV;
    let additionals = found.additionals.into_iter();
    message.additionals = additionals.take_while(|address| fits(address.name.len() + 14)).collect();
}

/// How long an answer is, in bytes. Its name is a pointer to the question's.
fn answer_length(answer: &Record) -> usize {
    match &answer.data {
        RData::SRV(service) => 18 + service.target.len(),
        RData::AAAA(_) => RECORD_MIN_BYTES + 12,
        _ => RECORD_MIN_BYTES,
    }
}

fn reply(message: &Message, reply_max: u16) -> Answer {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(reply_max);
    match message.emit(&mut encoder) {
        Ok(()) => Answer::Reply(bytes),
        Err(error) => {
            tracing::warn!(%error, "cannot encode an answer; this is a defect of dwell-agent");
            Answer::Silence
        }
    }
}
