//! Blocks of addresses: nodes get more of them, and give up others.

use std::collections::BTreeSet;

use dwell_controller::model::{BlockChange, Change, Command, InstanceFilter, Record};
use dwell_core::clock::Timestamp;
use dwell_core::id::NodeName;
use dwell_core::quantity::Millis;

use super::World;
use crate::truth::Violation;

/// For how long a released address is nobody else's here.
pub(super) const QUARANTINE: Millis = Millis(20_000);

impl World {
    /// Operators give a node a block more: the first that is free or, `again`, one that it had retired.
    pub(super) fn add_block(&mut self, node: &NodeName, again: bool) {
        let model = self.controller.model.as_ref();
        let view = model.and_then(|model| model.node(node));
        let retired = view.and_then(|view| view.node.retired_blocks.first().copied());
        let change = BlockChange::Add(retired.filter(|_| again));
        let done = self.command(Command::ChangeBlocks { node: node.clone(), change });
        self.note(|| format!("operator: {node} gets a block: {done:?}"));
    }

    pub(super) fn retire_block(&mut self, node: &NodeName, pick: u8) {
        let model = self.controller.model.as_ref();
        let view = model.and_then(|model| model.node(node));
        let Some(view) = view else { return };
        let all: Vec<_> = view.node.blocks().collect();
        let Some(&block) = all.get(usize::from(pick) % all.len().max(1)) else { return };
        let change = BlockChange::Retire(block);
        let done = self.command(Command::ChangeBlocks { node: node.clone(), change });
        self.note(|| format!("operator: {node} is to give {block} up: {done:?}"));
    }

    /// What commits do to addresses and blocks.
    pub(super) fn note_addresses(&mut self, changes: &[Change]) {
        let now = self.controller.wall.now(self.now);
        for change in changes {
            match (&change.old, &change.new) {
                (Some(Record::Instance(old)), new) => {
                    let after = match new {
                        Some(Record::Instance(new)) => new.identity,
                        _ => None,
                    };
                    if let Some(before) = old.identity.filter(|_| after != old.identity) {
                        self.released.insert(before.address, now);
                    }
                    self.check_holders(change);
                }
                (None, Some(Record::Instance(_))) => self.check_holders(change),
                (_, Some(Record::Node(_))) => self.check_blocks(change, now),
                _ => {}
            }
        }
    }

    /// No two instances have one address, whether they run or not.
    fn check_holders(&mut self, change: &Change) {
        let Some(Record::Instance(new)) = &change.new else { return };
        let (Some(own), Some(model)) = (new.identity, &self.controller.model) else { return };
        let shown = model.instances(&InstanceFilter::default());
        let has_same = |other: &dwell_controller::model::Instance| {
            other.name != new.name
                && other.identity.is_some_and(|identity| identity.address == own.address)
        };
        if let Some(other) = shown.iter().find(|view| has_same(&view.instance)) {
            let what = format!("{} and {} have {}", new.name, other.instance.name, own.address);
            self.violate(Violation { rule: "no address twice", what });
        }
    }

    /// No two nodes have one block, and one that is given up is so once nobody has had an address of it for a while.
    fn check_blocks(&mut self, change: &Change, now: Timestamp) {
        let (Some(Record::Node(new)), Some(model)) = (&change.new, &self.controller.model) else {
            return;
        };
        let nodes = model.nodes();
        let others = nodes.iter().map(|view| &view.node);
        let others = others.filter(|node| node.name != new.name && !node.removed);
        let taken: BTreeSet<ipnet::Ipv4Net> = others.flat_map(|node| node.blocks()).collect();
        let twice = new.blocks().find(|block| taken.contains(block));
        let mut what = twice
            .filter(|_| !new.removed)
            .map(|block| format!("{} and another node have block {block}", new.name));
        if let Some(Record::Node(old)) = &change.old {
            let is_gone = |block: &&ipnet::Ipv4Net| !new.blocks().any(|other| other == **block);
            for block in old.retired_blocks.iter().filter(is_gone).filter(|_| !new.removed) {
                let shown = model.instances(&InstanceFilter::default());
                let holder = shown.iter().find(|view| {
                    let identity = view.instance.identity;
                    identity.is_some_and(|identity| block.contains(&identity.address))
                });
                let mut released = self.released.iter();
                let kept = released.find(|(address, at)| {
                    block.contains(*address) && at.0.saturating_add(QUARANTINE.0) > now.0
                });
                if let Some(holder) = holder {
                    let name = &holder.instance.name;
                    what = Some(format!("{block} is free, and {name} has an address of it"));
                } else if let Some((address, _)) = kept {
                    what = Some(format!("{block} is free, and {address} was released just now"));
                }
            }
        }
        if let Some(what) = what {
            self.violate(Violation { rule: "blocks", what });
        }
    }
}
