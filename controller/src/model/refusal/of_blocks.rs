//! Why a node's blocks of addresses stay as they are.

use dwell_core::id::NodeName;
use dwell_core::net::ClusterRange;
use ipnet::Ipv4Net;

use crate::model::blocks::BLOCKS_MAX;

/// Why a node's blocks of addresses stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfBlocks {
    /// It runs no instances.
    #[error("{0} has no block: it joined for the routes alone")]
    RoutesOnly(NodeName),
    /// It is no block.
    #[error(
        "{block} is no block of this cluster: its blocks are the /{prefix} networks of {ranges}",
        prefix = .range.node_prefix(),
        ranges = .range.ranges()
    )]
    Unusable {
        /// What was asked for.
        block: Ipv4Net,
        /// What there is.
        range: ClusterRange,
    },
    /// Some node has it.
    #[error("{block} is of {holder}; leave it out, and the node gets one that is free")]
    Taken {
        /// What was asked for.
        block: Ipv4Net,
        /// Whose it is.
        holder: NodeName,
    },
    /// It is for instances that ask for an address.
    #[error(
        "in {0} are addresses that are only given to instances which ask for them (`static_range`); leave it out, and the node \
         gets one that is free"
    )]
    KeptBack(Ipv4Net),
    /// It has many.
    #[error("{0} has {BLOCKS_MAX} blocks, and may have no more")]
    TooMany(NodeName),
    /// It gives out no addresses of it.
    #[error(
        "{node} gives out no addresses of {block}; `dwell node inspect {node}` lists its blocks"
    )]
    NotIts {
        /// What was asked for.
        block: Ipv4Net,
        /// Which node.
        node: NodeName,
    },
    /// It would have none.
    #[error(
        "{block} is the only block of {node}; `dwell node block add {node}` gives it another one first"
    )]
    Last {
        /// What was asked for.
        block: Ipv4Net,
        /// Which node.
        node: NodeName,
    },
    /// They would not know what to do with its addresses.
    #[error(
        "the agent of {node}{others} is of a version that knows of {known}; upgrade it first",
        others = match .more {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        }
    )]
    OldAgents {
        /// One of them.
        node: NodeName,
        /// How many others.
        more: usize,
        /// What they know of, and no more.
        known: &'static str,
    },
}
