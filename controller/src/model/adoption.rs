//! Hosts that joined after a backup was made.
//!
//! A controller that was restored from the backup does not know them. Each proves by a certificate of the cluster's CA that it
//! is a node, so it becomes one again while the restore is unconfirmed: under the name and the enrolment of its
//! certificate, on its machine, with the block that it had if that is free. From then on it is a node like all
//! others: what it runs is listed, runs on until somebody confirms, and is awaited then. An operator who does not want it
//! removes it.
//!
//! One that holds no assignment runs nothing, so that it loses nothing by joining again. It may be a copy of such a host, on
//! another machine.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dwell_core::access::Issuer;
use dwell_core::clock::Timestamp;
use dwell_core::host_mark::HostMark;
use dwell_core::id::{NodeName, Revision};
use dwell_core::node::NodeState;
use dwell_core::session::Hello;
use dwell_core::skill::Skills;
use ipnet::Ipv4Net;

use super::object::{History, Link, Node, Restored, Severity, Subject};
use super::{Model, Refusal};

/// What makes a host a node.
pub(super) struct NewNode {
    pub(super) name: NodeName,
    pub(super) address: Ipv4Addr,
    pub(super) block: Option<Ipv4Net>,
    pub(super) enrolment: String,
    pub(super) host_mark: Option<HostMark>,
}

impl Model {
    /// A host that the store does not know attaches with a certificate of the cluster's CA.
    pub(super) fn adopt_node(
        &mut self,
        name: NodeName,
        enrolment: String,
        hello: &Hello,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if self.tables.nodes().contains_key(&name) {
            return Ok(());
        }
        if hello.held.revision == Revision(0) {
            return Err(Refusal::NotANode(name));
        }
        if let Some(reason) = self.evidence(&name, hello) {
            self.begin_another(&reason, now);
            self.end_other_sessions(&name);
        }
        let history = self.tables.history().cloned();
        let Some((history, restored)) = history.and_then(|history| {
            let restored = history.restored.clone()?;
            Some((history, restored))
        }) else {
            return Err(Refusal::NotANode(name));
        };
        let address = hello.address;
        self.check_node_address(&name, address)?;
        let block = match hello.routes_only {
            true => None,
            false => Some(self.block_again(hello.block)?),
        };
        let mut adopted = restored.adopted.clone();
        adopted.insert(name.clone());
        let restored = Some(Restored { adopted, ..restored });
        self.put_history(History { restored, ..History::clone(&history) });
        let message = format!(
            "joined after the backup, as its certificate proves; it is a node again, at {address} with {}",
            block.map_or("no block".to_owned(), |block| format!("block {block}"))
        );
        self.event(now, Severity::Warning, Subject::Node(name.clone()), "node-adopted", message);
        let host_mark = hello.host_mark.clone();
        self.make_node(NewNode { name, address, block, enrolment, host_mark }, now);
        Ok(())
    }

    /// The block that a host had, if nobody else has it by now; another one if not.
    fn block_again(&self, held: Option<Ipv4Net>) -> Result<Ipv4Net, Refusal> {
        let held = held.filter(|held| self.settings.range.block_of(held.network()) == Some(*held));
        match held.filter(|held| self.is_free(held)) {
            Some(held) => Ok(held),
            None => self.free_block(),
        }
    }

    /// A host is a node from now on. It has yet to attach.
    pub(super) fn make_node(&mut self, new: NewNode, now: Timestamp) {
        let NewNode { name, address, block, enrolment, host_mark } = new;
        self.put_node(Node {
            name: name.clone(),
            address,
            block,
            more_blocks: Vec::new(),
            retired_blocks: Vec::new(),
            pool: None,
            labels: BTreeMap::new(),
            cordoned: false,
            draining: false,
            until: None,
            drain: None,
            reboot: None,
            removed: false,
            contested: false,
            host_mark,
            elsewhere: None,
            enrolment,
            issuer: Issuer::default(),
            created_at: now,
            revision: Revision(0),
        });
        self.put_link(Link {
            node: name,
            session: None,
            keeps_leases: false,
            fetches_ahead: false,
            carries: false,
            knows_blocks: false,
            knows_ranges: false,
            skills: Skills::default(),
            lets_go: false,
            takes_over: false,
            moves_volumes: false,
            boot: None,
            state: NodeState::Down,
            capacity: None,
            claimed: None,
            claim_told: false,
            acknowledged: Revision(0),
            unserved: String::new(),
            reported: None,
            revision: Revision(0),
        });
    }

    /// The nodes that joined after the backup, while its restore is unconfirmed.
    pub(super) fn adopted(&self) -> Vec<NodeName> {
        let restored = self.tables.history().and_then(|history| history.restored.as_ref());
        let adopted = restored.into_iter().flat_map(|restored| &restored.adopted);
        adopted.filter(|node| self.is_member(node)).cloned().collect()
    }
}
