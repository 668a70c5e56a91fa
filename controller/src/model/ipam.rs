//! Addresses: a block for each node, an address for each instance.
//!
//! ```text
//!   free ──given──▶ held by an instance, for its life ──instance deleted──▶ quarantined ──time──▶ free
//!                        ▲                                                       │
//!                        └────────── the same instance name again ───────────────┘
//! ```

use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::clock::{Timestamp, millis};
use dwell_core::id::{InstanceName, NodeName};
use dwell_core::net::Mac;
use ipnet::Ipv4Net;

use super::object::{Identity, Node, Quarantine};
use super::record::{Key, Record};
use super::{Model, Refusal};

impl Model {
    /// The first block that no node has, and that nothing is kept back in.
    pub(super) fn free_block(&self) -> Result<Ipv4Net, Refusal> {
        let range = &self.settings.range;
        let free = range.blocks().find(|block| self.is_free(block));
        let free = free.ok_or_else(|| Refusal::BlocksExhausted {
            blocks: range.block_count(),
            ranges: range.ranges().clone(),
        })?;
        self.check_range_is_known(free.addr())?;
        Ok(free)
    }

    /// Whether no node has a block, and nothing is kept back in it.
    pub(super) fn is_free(&self, block: &Ipv4Net) -> bool {
        !self.tables.index().blocks.contains_key(block) && self.kept_back_in(*block) == 0
    }

    /// How many addresses of a node's blocks can still be given out: at least so many, if some are kept back in a block
    /// that a node had before.
    pub(super) fn free_addresses(&self, node: &Node) -> u32 {
        node.open_blocks().map(|block| self.free_in(block)).fold(0, u32::saturating_add)
    }

    fn free_in(&self, block: Ipv4Net) -> u32 {
        let load = self.tables.index().block_load.get(&block).copied().unwrap_or(0);
        // The first and the last are never given out; a /29, the smallest block, has 8.
        size(block).saturating_sub(2).saturating_sub(load).saturating_sub(self.kept_back_in(block))
    }

    /// How many addresses of a block are only given to who asks for them.
    fn kept_back_in(&self, block: Ipv4Net) -> u32 {
        match self.settings.static_range {
            Some(range) if range.contains(&block) => size(block),
            Some(range) if block.contains(&range) => size(range),
            _ => 0,
        }
    }

    /// Gives an instance the address that was declared for it.
    pub(super) fn claim_static(
        &mut self,
        instance: &InstanceName,
        address: Ipv4Addr,
        now: Timestamp,
    ) -> Result<Identity, Refusal> {
        let range = &self.settings.range;
        let instance = instance.clone();
        if !range.is_usable(address) {
            let range = range.clone();
            return Err(Refusal::AddressUnusable { instance, address, range });
        }
        self.check_range_is_known(address)?;
        if let Some(holder) = self.tables.index().holders.get(&address) {
            let (holder, static_range) = (holder.clone(), self.settings.static_range);
            return Err(Refusal::AddressTaken { instance, address, holder, static_range });
        }
        self.check_not_in_use(&instance, address)?;
        if let Some(kept) = self.tables.quarantine().get(&address)
            && kept.owner != instance
            && kept.until > now
        {
            let seconds = millis(kept.until.since(now)).div_ceil(1000);
            let owner = kept.owner.clone();
            return Err(Refusal::AddressQuarantined { instance, address, owner, seconds });
        }
        self.delete(Key::Quarantine(address));
        Ok(identity(address))
    }

    /// Gives an instance an address of a node's block: the one it had a moment ago, or the first
    /// free one. `None` if there is none.
    pub(super) fn claim_from_block(
        &mut self,
        instance: &InstanceName,
        node: &NodeName,
    ) -> Option<Identity> {
        let blocks: Vec<Ipv4Net> = self.tables.nodes().get(node)?.open_blocks().collect();
        let quarantine = self.tables.quarantine();
        let kept_back = self.settings.static_range;
        let is_kept_back =
            |address: &Ipv4Addr| kept_back.is_some_and(|range| range.contains(address));
        let kept =
            blocks.iter().flat_map(|block| quarantine.range(block.network()..=block.broadcast()));
        let own = kept.filter(|(address, kept)| {
            kept.owner == *instance && kept.in_use_on.is_none() && !is_kept_back(address)
        });
        let address = if let Some((&address, _)) = own.into_iter().next() {
            address
        } else {
            // What is full is not gone through for nothing.
            let with_room = blocks.iter().filter(|block| self.free_in(**block) > 0);
            with_room.flat_map(Ipv4Net::hosts).find(|address| {
                self.settings.range.is_usable(*address)
                    && !is_kept_back(address)
                    && !self.tables.index().holders.contains_key(address)
                    && !quarantine.contains_key(address)
            })?
        };
        self.delete(Key::Quarantine(address));
        Some(identity(address))
    }

    /// Keeps the address of an instance that is gone from others for a while. One that somebody still has stays so.
    pub(super) fn release_address(
        &mut self,
        owner: InstanceName,
        address: Ipv4Addr,
        now: Timestamp,
    ) {
        if self.check_not_in_use(&owner, address).is_err() {
            return;
        }
        let until = now.after(self.settings.quarantine.as_duration());
        self.put(Record::Quarantine(Arc::new(Quarantine {
            address,
            owner,
            until,
            in_use_on: None,
        })));
    }

    /// Frees the addresses whose quarantine is over.
    pub(super) fn expire_quarantine(&mut self, now: Timestamp) {
        while let Some(&(until, address)) = self.tables.index().expiry.first()
            && until <= now
        {
            self.delete(Key::Quarantine(address));
        }
    }
}

/// How many addresses a range has; none is as wide as all there are.
fn size(range: Ipv4Net) -> u32 {
    1 << (32 - range.prefix_len())
}

/// A hardware address goes with the address, so both are unique.
fn identity(address: Ipv4Addr) -> Identity {
    Identity { address, mac: Mac::of_address(address) }
}
