//! Instances that get another address.
//!
//! An address is an instance's own and goes along when that moves; then every node has a route to that one address, an *exception*
//! beside the routes to the nodes' blocks. An operator may let go of addresses instead, for good (`network.on_move: new-address`) or
//! once (`move --new-address`; `replace --new-address` for an instance that stays where it is). There is one moment at which an
//! address changes: when an instance without a node is placed. Nothing of it is anywhere then, so no container and no sandbox ever
//! has an address that is not its instance's.
//!
//! ```text
//!   on n1 with A ── told to leave ──▶ gone, with A ── placed ──▶ on n2 with B, and A in quarantine
//! ```
//!
//! An address that was asked for is kept in any case, and so is every other if the block of the new node has none that is free.

use std::collections::BTreeSet;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName};
use dwell_core::workload::OnMove;

use super::command::{Target, check_named};
use super::object::{Identity, Instance, Leaving, Severity, Subject, UpdateState};
use super::record::Record;
use super::refusal::NotReaddressed;
use super::{Model, Refusal};

impl Model {
    /// Has chosen instances leave their nodes and come back with an address of the node's block, all or none.
    pub(super) fn readdress_instances(
        &mut self,
        names: &BTreeSet<InstanceName>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        check_named(names.len())?;
        for name in names {
            for instance in self.targets(&Target::Instance(name.clone()))? {
                self.readdress(&instance, now)?;
            }
        }
        Ok(())
    }

    fn readdress(&mut self, instance: &Instance, now: Timestamp) -> Result<(), Refusal> {
        let name = instance.name.clone();
        Self::check_not_ended(instance)?;
        self.check_gives_up_address(instance)?;
        let Some((node, own)) = instance.node.clone().zip(instance.identity) else {
            return Err(NotReaddressed::NoNode(name).into());
        };
        self.check_can_leave(instance, &node)?;
        let home = self.tables.nodes().get(&node);
        match home {
            Some(home) if home.gives_out(own.address) => {
                let address = own.address;
                return Err(NotReaddressed::AtHome { instance: name, address, node }.into());
            }
            Some(home) if self.free_addresses(home) > 0 => {}
            _ => return Err(NotReaddressed::NoneFree { instance: name, node }.into()),
        }
        let message = format!("leaves {node} and comes back with an address of that node's block");
        self.event(now, Severity::Info, Subject::Instance(name), "instance-readdressing", message);
        let next = Instance {
            generation: self.next_generation(instance),
            new_address: true,
            update: UpdateState::Updating,
            ..instance.clone()
        };
        self.put_with(|since| {
            let leaving = Some(Leaving { since, to: None });
            Record::Instance(Arc::new(Instance { leaving, revision: since, ..next }))
        });
        Ok(())
    }

    /// Refuses to let go of an address that was asked for.
    pub(super) fn check_gives_up_address(&self, instance: &Instance) -> Result<(), Refusal> {
        let instance = instance.name.clone();
        match self.declared_address(&instance) {
            Some(address) => Err(NotReaddressed::AskedFor { instance, address }.into()),
            None => Ok(()),
        }
    }

    /// Whether an instance gets an address of the block of its next node, if that has one.
    pub(super) fn follows_its_node(&self, instance: &Instance) -> bool {
        let workload = self.tables.workloads().get(instance.name.workload());
        let always = workload.is_some_and(|one| one.spec.on_move == OnMove::NewAddress);
        (always || instance.new_address) && self.declared_address(&instance.name).is_none()
    }

    /// By what an instance that is nowhere is reached on its next node. `None` if it has no address yet, and none is free.
    pub(super) fn identity_on(
        &mut self,
        instance: &Instance,
        node: &NodeName,
        now: Timestamp,
    ) -> Option<Identity> {
        // A restored controller gives out nothing that it may have given to somebody else before.
        let gives_out = !self.is_unconfirmed();
        let name = &instance.name;
        let Some(own) = instance.identity else {
            return gives_out.then(|| self.claim_from_block(name, node)).flatten();
        };
        let home = self.tables.nodes().get(node);
        let is_at_home = home.is_some_and(|home| home.gives_out(own.address));
        if is_at_home || !gives_out || !self.follows_its_node(instance) {
            return Some(own);
        }
        let Some(new) = self.claim_from_block(name, node) else { return Some(own) };
        self.put_instance(Instance { identity: Some(new), ..instance.clone() });
        self.release_address(name.clone(), own.address, now);
        let message = format!("has address {} from now on, it was {}", new.address, own.address);
        self.event(
            now,
            Severity::Info,
            Subject::Instance(name.clone()),
            "instance-readdressed",
            message,
        );
        Some(new)
    }
}
