//! Why an instance gets no other address.

use std::net::Ipv4Addr;

use dwell_core::id::{InstanceName, NodeName};

/// Why an instance gets no other address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReaddressed {
    /// It has no address yet, or waits for a place with it.
    #[error(
        "{0} waits for a place and keeps its address until it has one; `dwell inspect {0}` says what it waits for"
    )]
    NoNode(InstanceName),
    /// The one it has is its node's.
    #[error(
        "{instance} has {address}, which is of the block of {node} already; nothing was changed"
    )]
    AtHome {
        /// Which one.
        instance: InstanceName,
        /// Its address.
        address: Ipv4Addr,
        /// Its node.
        node: NodeName,
    },
    /// Somebody wants it to have this one.
    #[error(
        "{instance} has {address} because its workload asks for that; take it out of `network.ip` first"
    )]
    AskedFor {
        /// Which one.
        instance: InstanceName,
        /// Its address.
        address: Ipv4Addr,
    },
    /// There is no other.
    #[error(
        "{instance} can get no address of the block of {node}: none is free; `dwell move --new-address {instance}` takes it to a \
         node that has one"
    )]
    NoneFree {
        /// Which one.
        instance: InstanceName,
        /// Its node.
        node: NodeName,
    },
}
