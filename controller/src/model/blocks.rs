//! More blocks for a node, and fewer.
//!
//! A node joins with one block. When that is full it may get others; and when it is to have another one instead, the one before is
//! *retired*: nobody gets an address of it any more, and it is free again once nobody has one.
//!
//! ```text
//!   free ──join, added──▶ open ──retired──▶ retired ──its last address is free──▶ free
//!                          (addresses are      │
//!                           given out)         └──added again──▶ open
//! ```
//!
//! All of them lead to the node, so an instance with an address of a retired block costs nobody a route. What has to leave it gets
//! another address by [`Model::readdress_instances`].

use std::net::Ipv4Addr;

use dwell_core::clock::Timestamp;
use dwell_core::id::NodeName;
use ipnet::Ipv4Net;

use super::command::BlockChange;
use super::object::{Link, Node, Severity, Subject};
use super::refusal::OfBlocks;
use super::{Model, Refusal};

/// How many blocks a node may have, the retired ones included.
pub(super) const BLOCKS_MAX: usize = 64;

impl Model {
    /// Gives a node a block more, or retires one; which one it was.
    pub(super) fn change_blocks(
        &mut self,
        name: &NodeName,
        change: BlockChange,
        now: Timestamp,
    ) -> Result<Ipv4Net, Refusal> {
        let node = self.member(name)?;
        if node.block.is_none() {
            return Err(OfBlocks::RoutesOnly(name.clone()).into());
        }
        match change {
            BlockChange::Add(block) => self.add_block(&node, block, now),
            BlockChange::Retire(block) => self.retire_block(&node, block, now),
        }
    }

    fn add_block(
        &mut self,
        node: &Node,
        asked: Option<Ipv4Net>,
        now: Timestamp,
    ) -> Result<Ipv4Net, Refusal> {
        self.check_agents(|link| link.knows_blocks, "one block a node")?;
        let block = match asked {
            Some(block) => block,
            None => self.free_block()?,
        };
        let range = &self.settings.range;
        if range.block_of(block.addr()) != Some(block) {
            return Err(OfBlocks::Unusable { block, range: range.clone() }.into());
        }
        self.check_range_is_known(block.addr())?;
        let mut next = node.clone();
        let was_retired = next.retired_blocks.iter().position(|retired| *retired == block);
        match (was_retired, self.tables.index().blocks.get(&block)) {
            (Some(position), _) => drop(next.retired_blocks.remove(position)),
            (None, Some(holder)) => {
                return Err(OfBlocks::Taken { block, holder: holder.clone() }.into());
            }
            (None, None) if self.is_free(&block) => {}
            (None, None) => return Err(OfBlocks::KeptBack(block).into()),
        }
        if node.blocks().count() >= BLOCKS_MAX {
            return Err(OfBlocks::TooMany(node.name.clone()).into());
        }
        next.more_blocks.push(block);
        let message = format!("has block {block} as well from now on");
        self.event(
            now,
            Severity::Info,
            Subject::Node(node.name.clone()),
            "node-block-added",
            message,
        );
        self.put_node(next);
        Ok(block)
    }

    fn retire_block(
        &mut self,
        node: &Node,
        block: Ipv4Net,
        now: Timestamp,
    ) -> Result<Ipv4Net, Refusal> {
        let open: Vec<Ipv4Net> = node.open_blocks().filter(|open| *open != block).collect();
        if !node.open_blocks().any(|open| open == block) {
            return Err(OfBlocks::NotIts { block, node: node.name.clone() }.into());
        }
        let Some((&first, more)) = open.split_first() else {
            return Err(OfBlocks::Last { block, node: node.name.clone() }.into());
        };
        let mut next = Node { block: Some(first), more_blocks: more.to_vec(), ..node.clone() };
        next.retired_blocks.push(block);
        let message = format!(
            "gives out no address of block {block} any more; {} still from it",
            match self.tables.index().holders_in(block).count() {
                0 => "no instance has one".to_owned(),
                1 => "one instance has one".to_owned(),
                count => format!("{count} instances have one"),
            }
        );
        let subject = Subject::Node(node.name.clone());
        self.event(now, Severity::Info, subject, "node-block-retired", message);
        self.put_node(next);
        self.free_retired_blocks(now);
        Ok(block)
    }

    /// Frees retired blocks of which nobody has an address any more.
    pub(super) fn free_retired_blocks(&mut self, now: Timestamp) {
        let retiring = self.tables.nodes().values().filter(|node| !node.retired_blocks.is_empty());
        let retiring: Vec<_> = retiring.cloned().collect();
        for node in retiring {
            let load = &self.tables.index().block_load;
            let (kept, free): (Vec<Ipv4Net>, Vec<Ipv4Net>) =
                node.retired_blocks.iter().partition(|block| load.contains_key(block));
            if free.is_empty() {
                continue;
            }
            self.put_node(Node { retired_blocks: kept, ..Node::clone(&node) });
            for block in free {
                let message =
                    format!("block {block} is free: nobody has an address of it any more");
                let subject = Subject::Node(node.name.clone());
                self.event(now, Severity::Info, subject, "node-block-freed", message);
            }
        }
    }

    /// An agent that knows of one range alone would take what has an address of another one for the world outside.
    pub(super) fn check_range_is_known(&self, address: Ipv4Addr) -> Result<(), OfBlocks> {
        match self.settings.range.ranges().first().contains(&address) {
            true => Ok(()),
            false => self.check_agents(|link| link.knows_ranges, "one range of addresses"),
        }
    }

    /// Whether all agents are of versions that know what all have to know, and not only what is `known` to older ones.
    fn check_agents(
        &self,
        knows: impl Fn(&Link) -> bool,
        known: &'static str,
    ) -> Result<(), OfBlocks> {
        let links = self.tables.links().values();
        let mut old = links
            .filter(|link| link.session.is_some() && !knows(link) && self.is_member(&link.node));
        match old.next() {
            Some(link) => {
                Err(OfBlocks::OldAgents { node: link.node.clone(), more: old.count(), known })
            }
            None => Ok(()),
        }
    }
}
