//! nftables' netlink messages, as far as we send and read them.

use std::time::Duration;

use dwell_core::clock::millis;
use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NetlinkBuffer, NetlinkSerializable,
};
use nix::libc;

use crate::NetworkError;
use crate::linux::netlink::{Netlink, Outcome, Request};
use crate::linux::observe::attributes;

/// The group in which the kernel reports changes of nftables.
pub(in super::super) const NOTIFICATIONS: u32 = 7;

/// Elements in one message, whose attributes can hold 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 1000;

const HEADER_BYTES: usize = 4;
pub(in super::super) const NFPROTO_INET: u8 = 1;
pub(in super::super) const NFPROTO_IPV4: u8 = 2;
pub(in super::super) const NFPROTO_IPV6: u8 = 10;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_GEN_ID: u16 = 1;

/// A change of a set's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Delete,
}

/// Adds or deletes the elements with these `keys`, in as many messages as it takes.
pub(super) fn change(table: &str, change: Change, set: &str, keys: &[&[u8]]) -> Vec<Request> {
    let command = match change {
        Change::Add => libc::NFT_MSG_NEWSETELEM,
        Change::Delete => libc::NFT_MSG_DELSETELEM,
    };
    let chunks = keys.chunks(ELEMENTS_PER_MESSAGE);
    let of = |keys: &[&[u8]]| elements(command, table, set, keys.iter().map(|key| (*key, None)));
    chunks.map(of).collect()
}

/// Adds elements that go by themselves after a time, in as many messages as it takes.
pub(super) fn add_for(table: &str, set: &str, keys: &[(&[u8], Duration)]) -> Vec<Request> {
    let chunks = keys.chunks(ELEMENTS_PER_MESSAGE / 2);
    let timed = |(key, left): &(_, Duration)| (*key, Some(*left));
    let of = |keys: &[_]| elements(libc::NFT_MSG_NEWSETELEM, table, set, keys.iter().map(timed));
    chunks.map(of).collect()
}

/// Deletes all elements of a set.
pub(super) fn flush(table: &str, set: &str) -> Request {
    elements(libc::NFT_MSG_DELSETELEM, table, set, std::iter::empty())
}

/// The keys of all elements of a set; none if it is not there.
pub(super) fn keys(
    netfilter: &mut Netlink,
    table: &str,
    set: &str,
) -> Result<Vec<Vec<u8>>, NetworkError> {
    dump(netfilter, table, set, key)
}

/// The keys of all elements of a set, and after what time each goes by itself; none if it is not there.
pub(super) fn expirations(
    netfilter: &mut Netlink,
    table: &str,
    set: &str,
) -> Result<Vec<(Vec<u8>, Duration)>, NetworkError> {
    dump(netfilter, table, set, |element| {
        let left = value(element, 0, NFTA_SET_ELEM_EXPIRATION)?;
        Some((key(element)?, Duration::from_millis(u64::from_be_bytes(*left.first_chunk()?))))
    })
}

fn key(element: &[u8]) -> Option<Vec<u8>> {
    value(&value(element, 0, NFTA_SET_ELEM_KEY)?, 0, NFTA_DATA_VALUE)
}

fn value(payload: &[u8], skip: usize, kind: u16) -> Option<Vec<u8>> {
    let found = attributes(payload, skip).find(|attribute| attribute.kind == kind);
    found.map(|attribute| attribute.value.to_vec())
}

/// What `parse` finds in the elements of a set.
fn dump<T>(
    netfilter: &mut Netlink,
    table: &str,
    set: &str,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, NetworkError> {
    let all = |payload: &[u8]| {
        let elements = value(payload, HEADER_BYTES, NFTA_SET_ELEM_LIST_ELEMENTS)?;
        Some(attributes(&elements, 0).filter_map(|one| parse(one.value)).collect::<Vec<_>>())
    };
    let request = || elements(libc::NFT_MSG_GETSETELEM, table, set, std::iter::empty());
    match netfilter.dump(request, all) {
        Ok(found) => Ok(found.into_iter().flatten().collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(talking(error)),
    }
}

/// How many rules a chain has; none if it is not there.
pub(super) fn rules(
    netfilter: &mut Netlink,
    table: &str,
    chain: &str,
) -> Result<usize, NetworkError> {
    let request = || {
        let name = |name: &str| [name.as_bytes(), b"\0"].concat();
        let attributes = vec![
            DefaultNla::new(NFTA_RULE_TABLE, name(table)),
            DefaultNla::new(NFTA_RULE_CHAIN, name(chain)),
        ];
        let message = NetfilterMessage {
            message_type: message_type(libc::NFT_MSG_GETRULE),
            family: NFPROTO_INET,
            resource: 0,
            attributes,
        };
        Request::new(message, 0)
    };
    match netfilter.dump(request, |_| Some(())) {
        Ok(found) => Ok(found.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(talking(error)),
    }
}

/// Carries out `changes`, all or none.
pub(super) fn transaction(
    netfilter: &mut Netlink,
    changes: Vec<Request>,
) -> Result<Outcome, NetworkError> {
    netfilter
        .transaction(
            bracket(libc::NFNL_MSG_BATCH_BEGIN),
            changes,
            bracket(libc::NFNL_MSG_BATCH_END),
        )
        .map_err(talking)
}

/// The number that goes up with every transaction on nftables in this namespace, whosever it is.
pub(super) fn generation(netfilter: &mut Netlink) -> Result<Option<u32>, NetworkError> {
    let request = NetfilterMessage {
        message_type: message_type(libc::NFT_MSG_GETGEN),
        family: 0,
        resource: 0,
        attributes: Vec::new(),
    };
    let parse = |payload: &[u8]| {
        let mut attributes = attributes(payload, HEADER_BYTES);
        let id = attributes.find(|attribute| attribute.kind == NFTA_GEN_ID)?;
        Some(u32::from_be_bytes(*id.value.first_chunk()?))
    };
    let answer = netfilter.get(Request::new(request, 0), parse).map_err(talking)?;
    Ok(answer.ok().flatten())
}

/// Where in nftables a change was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Place<'a> {
    pub(in super::super) family: u8,
    pub(in super::super) table: &'a str,
    pub(in super::super) chain: Option<&'a str>,
}

/// Where the change was made that a notification tells of; `None` for what is no change of a table.
pub(in super::super) fn place<'a>(message: &'a NetlinkBuffer<&[u8]>) -> Option<Place<'a>> {
    const TABLE: u16 = 1;
    let [subsystem, command] = message.message_type().to_be_bytes();
    let command = i32::from(command);
    // What is not about a chain or a rule is about a table, a set, or elements of one.
    let chain = match command {
        libc::NFT_MSG_NEWCHAIN | libc::NFT_MSG_DELCHAIN => Some(3),
        libc::NFT_MSG_NEWRULE | libc::NFT_MSG_DELRULE => Some(2),
        _ => None,
    };
    if i32::from(subsystem) != libc::NFNL_SUBSYS_NFTABLES || command == libc::NFT_MSG_NEWGEN {
        return None;
    }
    let payload: &'a [u8] = message.payload();
    let text = |kind: u16| {
        let mut attributes = attributes(payload, HEADER_BYTES);
        let value = attributes.find(|attribute| attribute.kind == kind)?.value;
        std::str::from_utf8(value.strip_suffix(b"\0")?).ok()
    };
    let family = *payload.first()?;
    Some(Place { family, table: text(TABLE)?, chain: chain.and_then(text) })
}

fn talking(source: std::io::Error) -> NetworkError {
    NetworkError::Kernel { action: "talk to nftables".to_owned(), source }
}

fn elements<'a>(
    command: i32,
    table: &str,
    set: &str,
    keys: impl Iterator<Item = (&'a [u8], Option<Duration>)>,
) -> Request {
    let name = |name: &str| [name.as_bytes(), b"\0"].concat();
    let mut attributes = vec![
        DefaultNla::new(NFTA_SET_ELEM_LIST_TABLE, name(table)),
        DefaultNla::new(NFTA_SET_ELEM_LIST_SET, name(set)),
    ];
    let element = |(key, left): (&[u8], Option<Duration>)| {
        let value = nested(NFTA_SET_ELEM_KEY, &[DefaultNla::new(NFTA_DATA_VALUE, key.to_vec())]);
        let timeout = left.map(|left| {
            DefaultNla::new(NFTA_SET_ELEM_TIMEOUT, millis(left).to_be_bytes().to_vec())
        });
        nested(NFTA_LIST_ELEM, &[value].into_iter().chain(timeout).collect::<Vec<_>>())
    };
    let elements: Vec<_> = keys.map(element).collect();
    if !elements.is_empty() {
        attributes.push(nested(NFTA_SET_ELEM_LIST_ELEMENTS, &elements));
    }
    let message = NetfilterMessage {
        message_type: message_type(command),
        family: NFPROTO_INET,
        resource: 0,
        attributes,
    };
    Request::new(message, if command == libc::NFT_MSG_NEWSETELEM { NLM_F_CREATE } else { 0 })
}

fn message_type(command: i32) -> u16 {
    u16_of(libc::NFNL_SUBSYS_NFTABLES) << 8 | u16_of(command)
}

/// The begin or the end of a transaction.
fn bracket(message_type: i32) -> Request {
    let message = NetfilterMessage {
        message_type: u16_of(message_type),
        family: 0,
        resource: u16_of(libc::NFNL_SUBSYS_NFTABLES),
        attributes: Vec::new(),
    };
    Request::new(message, 0)
}

fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

/// `libc` declares the kernel's small constants as `c_int`.
fn u16_of(constant: i32) -> u16 {
    u16::try_from(constant).unwrap_or_default()
}

/// `struct nfgenmsg` and its attributes.
struct NetfilterMessage {
    message_type: u16,
    family: u8,
    resource: u16,
    attributes: Vec<DefaultNla>,
}

impl NetlinkSerializable for NetfilterMessage {
    fn message_type(&self) -> u16 {
        self.message_type
    }

    fn buffer_len(&self) -> usize {
        HEADER_BYTES + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[0] = self.family;
        buffer[1] = 0;
        buffer[2..4].copy_from_slice(&self.resource.to_be_bytes());
        self.attributes.as_slice().emit(&mut buffer[HEADER_BYTES..]);
    }
}
