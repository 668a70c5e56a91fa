//! The model: everything the controller knows and decides, as one value.
//!
//! Purpose: commands go in, changes come out. [`Model::apply`] is synchronous, asks no clock and does
//! no I/O; the same commands at the same times make the same model.
//!
//! Who owns it: one task of the controller. It applies a few commands, commits their changes in one
//! transaction of the store, and then either [publishes](Model::publish) them to watchers and sessions
//! or, if the store failed, [reverts](Model::revert) them:
//!
//! ```text
//!   command ─▶ apply ─▶ changes ─▶ store ─ok──▶ publish ─▶ reply, watchers, sessions
//!                 │                   └─error─▶ revert  ─▶ "try again"
//!                 └─▶ Refusal (nothing has changed)
//! ```
//!
//! Between `apply` and `publish` nothing may be read for others' eyes: it may yet be taken back.
//!
//! Invariants (each is a property of `tests.rs`):
//! - no address belongs to two instances, and a released one to nobody else for the quarantine time;
//! - an instance is in the assignment of at most one node, and never in a new node's before the old
//!   one confirmed, under an assignment without it, that nothing of it is left;
//! - a refused or reverted command leaves no trace, and a dry run neither;
//! - `restore` of everything that was to be stored is the model again, as far as it is durable;
//! - revisions and generations never go back, not over a restart either.

mod assignment;
mod command;
mod object;
mod record;
mod refusal;
mod settings;
mod view;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, Revision, WorkloadName};

pub use assignment::{Assignment, AssignmentDelta, Exception, NodeNetwork, Peer};
pub use command::{
    Applied, Command, InstanceAction, InstancePlan, Join, NodeChange, PlanAction, Reply, Report,
    Target, WORKLOADS_MAX, WorkloadPlan,
};
pub use object::{
    Event, Identity, Instance, JoinToken, Leaving, Link, Node, Observed, Quarantine, Reserved,
    SessionId, Severity, Subject, TokenId, UpdateState, Waiting, Workload,
};
pub use record::{Change, Key, Record, RecordError};
pub use refusal::{Refusal, RefusalClass};
pub use settings::Settings;
pub use view::{InstanceFilter, InstanceView, NodeView, RouteView, WorkloadView};
pub use watch::Compacted;

/// Everything the controller knows.
#[derive(Debug)]
pub struct Model {
    settings: Settings,
}

/// Whom a published change concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Nodes whose instances changed.
    pub nodes: BTreeSet<NodeName>,
    /// The network changed, which concerns every node.
    pub network: bool,
}

impl Model {
    /// An empty cluster.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// The model that these records of the store are, in any order, at the start of a controller.
    /// Nodes count as unreachable until they are heard of.
    #[must_use]
    pub fn restore(
        settings: Settings,
        records: impl IntoIterator<Item = Record>,
        now: Timestamp,
    ) -> Self {
        let _ = (records.into_iter().count(), now);
        Self { settings }
    }

    /// Does what a command asks, wholly or not at all.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn apply(&mut self, command: Command, now: Timestamp) -> Result<Applied, Refusal> {
        let _ = (command, now);
        todo!()
    }

    /// The changes are committed: watchers and sessions may see them.
    pub fn publish(&mut self, changes: Vec<Change>) -> Touched {
        let _ = changes;
        todo!()
    }

    /// The changes could not be committed: takes them back. They have to be all that were applied
    /// since the last call of `publish` or `revert`, in order.
    pub fn revert(&mut self, changes: Vec<Change>) {
        let _ = changes;
        todo!()
    }

    /// What is settled.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        todo!()
    }

    /// All that a node is to do; empty for one that is unknown or removed.
    #[must_use]
    pub fn assignment(&self, node: &NodeName) -> Assignment {
        let _ = node;
        todo!()
    }

    /// What changed for a node since it had `base`; `None` if that is not known any more, and a
    /// snapshot is needed.
    #[must_use]
    pub fn assignment_since(&self, node: &NodeName, base: Revision) -> Option<AssignmentDelta> {
        let _ = (node, base);
        todo!()
    }

    /// At most `limit` committed changes after a revision, oldest first.
    ///
    /// # Errors
    /// [`Compacted`] if some of them are not known any more.
    pub fn changes_since(&self, after: Revision, limit: usize) -> Result<Vec<Change>, Compacted> {
        let _ = (after, limit);
        todo!()
    }

    /// One workload.
    #[must_use]
    pub fn workload(&self, name: &WorkloadName) -> Option<WorkloadView> {
        let _ = name;
        todo!()
    }

    /// All workloads, by name.
    #[must_use]
    pub fn workloads(&self) -> Vec<WorkloadView> {
        todo!()
    }

    /// One instance.
    #[must_use]
    pub fn instance(&self, name: &InstanceName) -> Option<InstanceView> {
        let _ = name;
        todo!()
    }

    /// The instances that a filter lets through, by name.
    #[must_use]
    pub fn instances(&self, filter: &InstanceFilter) -> Vec<InstanceView> {
        let _ = filter;
        todo!()
    }

    /// One node, also a removed one.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<NodeView> {
        let _ = name;
        todo!()
    }

    /// All nodes but the removed ones, by name.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeView> {
        todo!()
    }

    /// All routes of the fleet: blocks first, then exceptions.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteView> {
        todo!()
    }

    /// At most `limit` of the newest events, oldest first, only about `subject` if one is given.
    #[must_use]
    pub fn events(&self, subject: Option<&str>, limit: usize) -> Vec<Arc<Event>> {
        let _ = (subject, limit);
        todo!()
    }
}
