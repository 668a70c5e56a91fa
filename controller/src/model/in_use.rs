//! Addresses that are in use where the ledger does not have them.
//!
//! A controller that was restored does not know which addresses it gave out since its backup. Nodes say which of their
//! instances have which, by what they were told and by what is left of that. An address that the ledger does not have as that
//! instance's is kept from everybody, and whoever it belongs to by the ledger is not started, until the node has let go of
//! the instance.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName};
use dwell_core::session::Claim;

use super::object::{Instance, Leaving, Quarantine};
use super::record::{Key, Record};
use super::{Model, Refusal};

impl Model {
    /// A restore is confirmed: what each node holds at an address that is not its instance's by the ledger ends before anything
    /// else has that address.
    pub(super) fn note_addresses_in_use(&mut self, held: Vec<(NodeName, Claim)>, now: Timestamp) {
        for (node, Claim { instance, address, .. }) in held {
            let Some(there) = self.tables.instances().get(&instance).cloned() else { continue };
            let own = there.identity.map(|identity| identity.address);
            let is_given = self.settings.range.is_usable(address) && own != Some(address);
            if there.node.as_ref() != Some(&node) || !is_given {
                continue;
            }
            self.leave(&there);
            let holder = self.tables.index().holders.get(&address).cloned();
            if let Some(holder) =
                holder.and_then(|name| self.tables.instances().get(&name).cloned())
            {
                self.leave(&holder);
            }
            let until = now.after(self.settings.quarantine.as_duration());
            let kept = Quarantine { address, owner: instance, until, in_use_on: Some(node) };
            self.put(Record::Quarantine(Arc::new(kept)));
        }
        // What was noted after an earlier restore, and is elsewhere by now.
        let noted: Vec<_> = self.tables.index().in_use.keys().cloned().collect();
        for (node, instance) in noted {
            let there = self.tables.instances().get(&instance);
            if there.is_none_or(|there| there.node.as_ref() != Some(&node)) {
                self.let_go_of_addresses(&instance, &node, now);
            }
        }
    }

    /// An instance leaves its node, if it has one, and goes where there is room then.
    fn leave(&mut self, instance: &Instance) {
        if instance.node.is_none() {
            return;
        }
        self.put_with(|revision| {
            let leaving = Some(Leaving { since: revision, to: None });
            Record::Instance(Arc::new(Instance { leaving, revision, ..instance.clone() }))
        });
    }

    /// Nothing of an instance is on a node any more: nothing uses the addresses there that it had.
    pub(super) fn let_go_of_addresses(
        &mut self,
        instance: &InstanceName,
        node: &NodeName,
        now: Timestamp,
    ) {
        let of = (node.clone(), instance.clone());
        for address in self.tables.index().in_use.get(&of).cloned().unwrap_or_default() {
            self.delete(Key::Quarantine(address));
            if !self.tables.index().holders.contains_key(&address) {
                self.release_address(instance.clone(), address, now);
            }
            self.agenda.unplaced = true;
        }
    }

    /// Refuses an address that somebody still has.
    ///
    /// # Errors
    /// [`Refusal::AddressInUse`] says who has it, and where.
    pub(super) fn check_not_in_use(
        &self,
        instance: &InstanceName,
        address: Ipv4Addr,
    ) -> Result<(), Refusal> {
        let kept = self.tables.quarantine().get(&address);
        let Some((kept, node)) = kept.and_then(|kept| Some((kept, kept.in_use_on.clone()?))) else {
            return Ok(());
        };
        let (instance, owner) = (instance.clone(), kept.owner.clone());
        Err(Refusal::AddressInUse { instance, address, owner, node })
    }
}
