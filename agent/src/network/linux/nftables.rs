//! Our nftables table, `inet dwell`: who may send from which address, and what is masqueraded.
//!
//! The table is written by the `nft` program in one transaction, so that there is no moment without
//! rules, and always as a whole: what others changed in it is undone without having to be understood.
//! The two sets change with every sandbox and peer; those changes go to the kernel directly, because
//! starting `nft` takes longer than making a whole sandbox.
//!
//! `sources` holds pairs of veth and address; a packet of a sandbox that is not in it is dropped.
//! `nodes` holds the addresses of the peers, to which instances talk under their own address.

use std::net::Ipv4Addr;

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NetlinkBuffer, NetlinkSerializable,
};
use nix::errno::Errno;
use nix::libc;

use super::netlink::{Netlink, Outcome, Request};
use super::observe::attributes;
use super::program;
use crate::network::{HostNetwork, INTERFACE_PREFIX, NetworkError};

const TABLE: &str = "dwell";
const SOURCES: &str = "sources";
const NODES: &str = "nodes";
/// Elements in one message, whose attributes can hold 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 1000;

/// The group in which the kernel reports changes of nftables.
pub(super) const NOTIFICATIONS: u32 = 7;

/// A veth in the host namespace and the address that may come out of it.
pub(super) type Source = (String, Ipv4Addr);

/// Writes the whole table.
pub(super) fn write_table(
    host: &HostNetwork,
    sources: &[Source],
    nodes: &[Ipv4Addr],
) -> Result<(), NetworkError> {
    program::feed("nft", "nftables", &["-f", "-"], &script(host, sources, nodes)).map(drop)
}

/// Removes the table, if there is one.
pub(super) fn delete_table() -> Result<(), NetworkError> {
    // `delete` fails on a table that does not exist, and `destroy` is younger than Debian 12's nft.
    let script = format!("add table inet {TABLE}\ndelete table inet {TABLE}\n");
    match program::feed("nft", "nftables", &["-f", "-"], &script) {
        // Without the program there cannot be a table of ours.
        Err(NetworkError::ProgramMissing { .. }) => Ok(()),
        result => result.map(drop),
    }
}

/// The input of `nft`.
fn script(host: &HostNetwork, sources: &[Source], nodes: &[Ipv4Addr]) -> String {
    let cluster = host.cluster.trunc();
    let masquerade = if host.masquerade {
        format!(
            "\n    ip saddr {cluster} ip daddr != {cluster} ip daddr != @{NODES} \
             oifname != \"{INTERFACE_PREFIX}*\" masquerade"
        )
    } else {
        String::new()
    };
    let mut script = format!(
        r#"add table inet {TABLE}
add set inet {TABLE} {SOURCES} {{ type ifname . ipv4_addr; }}
add set inet {TABLE} {NODES} {{ type ipv4_addr; }}
add chain inet {TABLE} guard {{ type filter hook prerouting priority raw; policy accept; }}
add chain inet {TABLE} outbound {{ type nat hook postrouting priority srcnat; policy accept; }}
flush table inet {TABLE}
flush set inet {TABLE} {SOURCES}
flush set inet {TABLE} {NODES}
table inet {TABLE} {{
  chain guard {{
    iifname "{INTERFACE_PREFIX}*" meta nfproto ipv6 drop
    iifname "{INTERFACE_PREFIX}*" iifname . ip saddr != @{SOURCES} counter drop
  }}
  chain outbound {{{masquerade}
  }}
}}
"#
    );
    let pairs = sources.iter().map(|(veth, address)| format!("\"{veth}\" . {address}"));
    add_elements(&mut script, SOURCES, pairs);
    add_elements(&mut script, NODES, nodes.iter().map(Ipv4Addr::to_string));
    script
}

fn add_elements(script: &mut String, set: &str, elements: impl Iterator<Item = String>) {
    let elements = elements.collect::<Vec<_>>().join(", ");
    if !elements.is_empty() {
        script.push_str(&format!("add element inet {TABLE} {set} {{ {elements} }}\n"));
    }
}

/// Lets `source` through; no change if it is let through already.
///
/// `Ok(false)` if the table is not there, because the host was not prepared or somebody flushed it.
pub(super) fn allow(netfilter: &mut Netlink, source: &Source) -> Result<bool, NetworkError> {
    let change = elements(libc::NFT_MSG_NEWSETELEM, SOURCES, &[source_key(source)]);
    match transaction(netfilter, vec![change])? {
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(false),
        outcome => outcome.map(|()| true).map_err(|refusal| NetworkError::Kernel {
            action: format!("allow {} to send from {}", source.0, source.1),
            source: refusal.into(),
        }),
    }
}

/// No longer lets `source` through.
pub(super) fn forbid(netfilter: &mut Netlink, source: &Source) -> Result<(), NetworkError> {
    let change = elements(libc::NFT_MSG_DELSETELEM, SOURCES, &[source_key(source)]);
    match transaction(netfilter, vec![change])? {
        Err(refusal) if refusal.errno != Errno::ENOENT => Err(NetworkError::Kernel {
            action: format!("forbid {} to send from {}", source.0, source.1),
            source: refusal.into(),
        }),
        _ => Ok(()),
    }
}

/// Makes `nodes` the addresses of the peers. `Ok(false)` if the table is not there.
pub(super) fn set_nodes(netfilter: &mut Netlink, nodes: &[Ipv4Addr]) -> Result<bool, NetworkError> {
    let keys: Vec<_> = nodes.iter().map(|node| node.octets().to_vec()).collect();
    // A deletion that names no element deletes all.
    let mut changes = vec![elements(libc::NFT_MSG_DELSETELEM, NODES, &[])];
    changes.extend(
        keys.chunks(ELEMENTS_PER_MESSAGE)
            .map(|keys| elements(libc::NFT_MSG_NEWSETELEM, NODES, keys)),
    );
    match transaction(netfilter, changes)? {
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(false),
        outcome => outcome.map(|()| true).map_err(|refusal| NetworkError::Kernel {
            action: format!("exempt {} nodes from masquerading", nodes.len()),
            source: refusal.into(),
        }),
    }
}

/// Whether a notification says that our table is gone.
pub(super) fn is_loss_of_table(message: &NetlinkBuffer<&[u8]>) -> bool {
    const NFTA_TABLE_NAME: u16 = 1;
    message.message_type() == message_type(libc::NFT_MSG_DELTABLE)
        && attributes(message.payload(), HEADER_BYTES).any(|attribute| {
            let name = attribute.value().strip_suffix(b"\0");
            attribute.kind() == NFTA_TABLE_NAME && name == Some(TABLE.as_bytes())
        })
}

fn transaction(netfilter: &mut Netlink, changes: Vec<Request>) -> Result<Outcome, NetworkError> {
    netfilter
        .transaction(
            bracket(libc::NFNL_MSG_BATCH_BEGIN),
            changes,
            bracket(libc::NFNL_MSG_BATCH_END),
        )
        .map_err(|source| NetworkError::Kernel { action: "talk to nftables".to_owned(), source })
}

/// The key of an element of `sources`: an interface name padded to `IFNAMSIZ`, and an address.
fn source_key((veth, address): &Source) -> Vec<u8> {
    let mut key = veth.as_bytes().to_vec();
    key.resize(libc::IFNAMSIZ, 0);
    key.extend(address.octets());
    key
}

const HEADER_BYTES: usize = 4;
const NFPROTO_INET: u8 = 1;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;

/// Adds or deletes the elements with these `keys`.
fn elements(command: i32, set: &str, keys: &[Vec<u8>]) -> Request {
    let name = |name: &str| [name.as_bytes(), b"\0"].concat();
    let mut attributes = vec![
        DefaultNla::new(NFTA_SET_ELEM_LIST_TABLE, name(TABLE)),
        DefaultNla::new(NFTA_SET_ELEM_LIST_SET, name(set)),
    ];
    if !keys.is_empty() {
        let element = |key: &Vec<u8>| {
            let value = nested(NFTA_SET_ELEM_KEY, &[DefaultNla::new(NFTA_DATA_VALUE, key.clone())]);
            nested(NFTA_LIST_ELEM, &[value])
        };
        let elements: Vec<_> = keys.iter().map(element).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn host(masquerade: bool) -> HostNetwork {
        HostNetwork { cluster: "10.80.0.0/16".parse().unwrap(), block: None, masquerade }
    }

    #[test]
    fn masquerading_is_a_switch() {
        assert!(script(&host(true), &[], &[]).contains("ip daddr != @nodes"));
        assert!(!script(&host(false), &[], &[]).contains("masquerade"));
    }

    #[test]
    fn elements_come_in_the_same_transaction() {
        let sources = [("dw-0123456789ab".to_owned(), Ipv4Addr::new(10, 80, 1, 5))];
        let script = script(&host(true), &sources, &[Ipv4Addr::new(192, 0, 2, 7)]);
        assert!(script.contains(r#"sources { "dw-0123456789ab" . 10.80.1.5 }"#));
        assert!(script.contains("nodes { 192.0.2.7 }"));
    }

    #[test]
    fn a_source_key_is_a_padded_name_and_an_address() {
        let key = source_key(&("dw-0".to_owned(), Ipv4Addr::new(10, 80, 1, 5)));
        assert_eq!(key, b"dw-0\0\0\0\0\0\0\0\0\0\0\0\0\x0a\x50\x01\x05");
    }
}
