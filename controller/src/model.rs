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
//! - what a node is told since a revision adds up to all that it would be told, of its assignment, the network and
//!   the directory;
//! - `restore` of everything that was to be stored is the model again, as far as it is durable;
//! - revisions and generations never go back, not over a restart either.

mod adoption;
mod arrivals;
mod assignment;
mod audit;
mod blocks;
mod carry;
mod command;
mod commit;
mod contexts;
mod counting;
mod custody;
mod directory;
mod downtime;
mod drains;
mod explain;
mod findings;
mod history;
mod in_use;
mod ipam;
mod issuers;
mod jobs;
mod key_sets;
mod log;
mod lost;
mod machines;
mod membership;
mod moves;
mod network;
mod news;
mod nodes;
mod object;
mod ordinals;
mod pages;
mod per_node;
mod placement;
mod plan;
mod readdressing;
mod reboots;
mod record;
mod refusal;
mod registries;
mod replacing;
mod report;
mod rollout;
mod running;
mod second_share;
mod settings;
mod settle;
mod sizes;
mod ssh;
mod tables;
mod takeovers;
mod versions;
mod view;
mod volume_moves;
mod volumes;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use dwell_core::clock::{Now, Timestamp};
use dwell_core::id::{Generation, Incarnation, InstanceName, NodeName, Revision, WorkloadName};
use dwell_core::instance::InstanceStatus;

use directory::Shown;
use downtime::Down;
use history::{Claims, Remains};
use jobs::NextDue;
use log::Log;
use membership::{Dismissed, Runs};
use network::NetworkEntry;
use settle::{Agenda, Placing, Work};
use ssh::SshBudget;
use tables::Tables;
use view::Views;
use volume_moves::CopyProgress;

pub use arrivals::{Arrival, ArrivalNews, Heading, MoveOrder};
use arrivals::{Avoided, Fetches};
pub use audit::Answers;
pub use command::{
    Applied, BlockChange, Command, DECLARED_MAX, Join, MoveHow, Moved, NAMED_MAX, NodeChange,
    RebootPlan, Reply, Size, Target, WORKLOADS_MAX,
};
pub use contexts::{CONTEXTS_MAX, Context};
pub use downtime::{Downtimes, Expected};
pub use drains::{Drain, Evacuated, GivenUp, OBSTACLES_MAX, Obstacle};
pub use explain::{Explanation, Fact};
pub use findings::{FindingKind, FleetCounts, FleetFinding, FleetStatus, Gravity, Surroundings};
pub use history::{RestoreView, Superseded};
pub use issuers::{OldHolders, OldNode};
pub use jobs::{Begun, Ended, InstanceTask, JobRun, PastRun, Scheduled, Tally};
pub use key_sets::{KEY_SETS_MAX, KEYS_BYTES_MAX, KEYS_MAX};
pub use log::Compacted;
pub use lost::Fence;
pub use object::{
    AuthorizedKey, Demand, Elsewhere, Event, History, Identity, Instance, JoinToken, KeySet,
    Leaving, Link, Node, Observed, Quarantine, Registry, Reserved, Restored, SessionId, Severity,
    Stored, Subject, TokenId, Unmet, UpdateState, Waiting, WaitingCause, Workload,
};
pub use pages::Page;
pub use plan::{InstanceAction, InstancePlan, PlanAction, WorkloadPlan};
pub use reboots::{REBOOT_MAX, Reboot, RebootHow, RebootState};
pub use record::{Change, Key, Record, RecordError};
pub use refusal::{Refusal, RefusalClass};
pub use settings::{INSTANCES_MAX, Settings};
pub use sizes::{OwnSize, OwnSizeChange};
pub use versions::{FailedWith, Form, Pause, Version, VersionState, VersionView};
pub use view::{InstanceFilter, InstanceView, NodeView, RouteView, WorkloadView};
pub use volume_moves::{VolumeJob, VolumeMove, VolumeMoveNews, VolumeMovePhase};
pub use volumes::{Volume, VolumeKey, VolumeState, VolumeView};

/// Everything the controller knows.
#[derive(Debug)]
pub struct Model {
    settings: Settings,
    tables: Tables,
    /// The newest one given out.
    revision: Revision,
    /// The changes of the command being applied.
    changes: Vec<Change>,
    /// What changed that could let what waits be placed or moved.
    agenda: Agenda,
    /// What is asked of the scheduler, and what it answered, while a command is applied.
    placing: Placing,
    /// The revision at which the reasons why nothing fits were true, and the last of those that were
    /// brought up to date since.
    refreshed: (Revision, Option<Demand>),
    /// How much work was done.
    work: Work,
    /// Whether there is a record of every volume of what is placed.
    volumes_derived: bool,
    /// Made when the store was read, and not in it.
    unstored: Vec<Record>,
    /// The time of the command being applied.
    now: Timestamp,
    /// Who asked for the command being applied; empty if nobody did, or a node.
    by: String,
    /// The same, and by the clock that intervals are measured with.
    clock: Now,
    /// The store cannot be written: only what is volatile may change.
    volatile_only: bool,
    /// Nodes whose reports were taken in while only what is volatile could change, and on which stream.
    half_heard: BTreeMap<NodeName, SessionId>,
    /// When each node was heard of last. Beside the tables, since it changes with every heartbeat
    /// and nobody watches it; what follows from it is in [`Link::state`].
    last_heard: BTreeMap<NodeName, Timestamp>,
    /// Instances that do not serve because they are being changed.
    down: BTreeMap<InstanceName, Down>,
    /// Instances that cannot be given the newest version of their workload, and since when.
    stuck: BTreeMap<InstanceName, Timestamp>,
    /// How far the copies of volumes are, by whose they are.
    copies: BTreeMap<InstanceName, CopyProgress>,
    /// What came of fetching the image of those that go to another node, if it is not there yet.
    arrival_news: BTreeMap<InstanceName, Fetches>,
    /// Nodes that could not have the image of a workload a short while ago.
    avoided: Avoided,
    /// What was shown of workloads since the last change.
    views: Mutex<Views>,
    /// What was published, for watchers.
    log: Log<Change>,
    /// Whose assignment was changed when, for each node's session.
    node_logs: BTreeMap<NodeName, Log<InstanceName>>,
    /// What of the network was changed when, for all sessions.
    network_log: Log<NetworkEntry>,
    /// When a key set was changed last.
    key_sets_changed: Revision,
    /// When a login at a registry was changed last.
    registries_changed: Revision,
    /// When the volumes that a node is to delete were changed last.
    deletions_changed: BTreeMap<NodeName, Revision>,
    /// The directory, as far as published.
    shown: Shown,
    /// How many log-ins each node has told of since the last tick.
    ssh_budgets: BTreeMap<NodeName, SshBudget>,
    /// How far the store was when this controller started.
    loaded: Revision,
    /// The name of the next history, should one begin.
    spare: Incarnation,
    /// Nodes that have attached since this controller started.
    told: BTreeSet<NodeName>,
    /// What the nodes hold, while a restore is unconfirmed.
    claims: Claims,
    remains: Remains,
    /// Which volumes nodes have said to have, while a restore is unconfirmed.
    volumes_told: BTreeMap<NodeName, BTreeSet<VolumeKey>>,
    /// When jobs are due next, as found in their calendars.
    due: BTreeMap<WorkloadName, NextDue>,
    /// The runs of each node's agent.
    runs: BTreeMap<NodeName, Runs>,
    /// Hosts that came back and whose name is another's by now, by name and enrolment.
    dismissed: BTreeMap<(NodeName, String), Dismissed>,
    /// Nodes that run an instance that is another node's, and the generation that they run.
    rivals: BTreeMap<InstanceName, BTreeMap<NodeName, Generation>>,
    /// What nodes said of instances that were not theirs at that time, the last of each, and on which stream. Nodes say only what
    /// is new, so one that gets the instance does not say it again.
    said_early: BTreeMap<InstanceName, BTreeMap<NodeName, (SessionId, InstanceStatus)>>,
    /// The revision this controller began with, or its present history; nothing is known of how earlier ones came about.
    started: Revision,
}

/// Whom a published change concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Nodes whose instances changed.
    pub nodes: BTreeSet<NodeName>,
    /// The network or the key sets changed, which concerns every node.
    pub everyone: bool,
}

impl Model {
    /// An empty cluster.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            tables: Tables::new(settings.range.clone()),
            revision: Revision(0),
            changes: Vec::new(),
            agenda: Agenda::default(),
            placing: Placing::default(),
            refreshed: (Revision(0), None),
            work: Work::default(),
            volumes_derived: true,
            unstored: Vec::new(),
            now: Timestamp(0),
            by: String::new(),
            clock: Now::default(),
            volatile_only: false,
            half_heard: BTreeMap::new(),
            last_heard: BTreeMap::new(),
            down: BTreeMap::new(),
            stuck: BTreeMap::new(),
            copies: BTreeMap::new(),
            arrival_news: BTreeMap::new(),
            avoided: Avoided::new(),
            views: Mutex::default(),
            log: Log::new(Revision(0), settings.watch_max),
            node_logs: BTreeMap::new(),
            network_log: Log::new(Revision(0), network::LOG_MAX),
            key_sets_changed: Revision(0),
            registries_changed: Revision(0),
            deletions_changed: BTreeMap::new(),
            shown: Shown::new(Revision(0), None),
            ssh_budgets: BTreeMap::new(),
            loaded: Revision(0),
            spare: Incarnation::UNKNOWN,
            told: BTreeSet::new(),
            claims: Claims::new(),
            volumes_told: BTreeMap::new(),
            remains: Remains::new(),
            due: BTreeMap::new(),
            runs: BTreeMap::new(),
            dismissed: BTreeMap::new(),
            rivals: BTreeMap::new(),
            said_early: BTreeMap::new(),
            started: Revision(0),
            settings,
        }
    }

    /// Does what a command asks, wholly or not at all.
    ///
    /// Volatile commands may yield a durable change too (an instance that is gone, a reserved range of
    /// revisions), so the changes decide whether there is something to store, not the command.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn apply(&mut self, command: Command, now: impl Into<Now>) -> Result<Applied, Refusal> {
        self.clock = now.into();
        let now = self.clock.wall;
        self.now = now;
        let before = (self.revision, self.agenda.clone(), self.volumes_derived);
        let result = self.run(command, now);
        if matches!(result, Ok(Outcome::Keep(_))) && self.changes.iter().any(Change::is_durable) {
            self.put_with(|revision| Record::Stored(Stored { revision }));
        }
        let changes = std::mem::take(&mut self.changes);
        match result {
            Ok(Outcome::Keep(reply)) => Ok(Applied { reply, changes }),
            Ok(Outcome::Forget(reply)) => {
                self.undo(changes);
                (self.revision, self.agenda, self.volumes_derived) = before;
                Ok(Applied { reply, changes: Vec::new() })
            }
            Err(refusal) => {
                self.undo(changes);
                (self.revision, self.agenda, self.volumes_derived) = before;
                Err(refusal)
            }
        }
    }

    /// The same for somebody: all events that come of it name who asked.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn apply_for(
        &mut self,
        by: String,
        command: Command,
        now: impl Into<Now>,
    ) -> Result<Applied, Refusal> {
        self.by = by;
        let applied = self.apply(command, now);
        self.by = String::new();
        applied
    }

    /// Does of a command what needs no store, while that cannot be written: nodes that are silent go down,
    /// statuses are shown, sessions begin and end. Nothing is placed or moved, and no event is kept.
    /// `None`, and nothing has changed, if the command cannot do without the store.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn apply_volatile(
        &mut self,
        command: Command,
        now: impl Into<Now>,
    ) -> Result<Option<Applied>, Refusal> {
        if !command.is_volatile() {
            return Ok(None);
        }
        self.volatile_only = true;
        let before = self.revision;
        let applied = self.apply(command, now);
        self.volatile_only = false;
        let applied = applied?;
        if applied.changes.iter().any(Change::is_durable) {
            self.undo(applied.changes);
            self.revision = before;
            return Ok(None);
        }
        Ok(Some(applied))
    }

    /// What can be written to find out whether the store works: what is in it already.
    #[must_use]
    pub fn probe(&self) -> Change {
        let reserved = Record::Reserved(Reserved { revision: self.tables.reserved() });
        Change {
            revision: self.revision,
            key: Key::Reserved,
            old: Some(reserved.clone()),
            new: Some(reserved),
        }
    }

    fn run(&mut self, command: Command, now: Timestamp) -> Result<Outcome, Refusal> {
        self.check_confirmed(&command)?;
        if !self.volatile_only {
            self.derive_volumes();
        }
        let mut reply = Reply::Done;
        let mut forget = false;
        let mut planned = Vec::new();
        match command {
            Command::ApplyWorkloads {
                specs,
                keep_replicas,
                dry_run,
                force,
                planned: those,
                by,
            } => {
                planned = those;
                let plans = self.apply_workloads(specs, &keep_replicas, &by, now)?;
                plans.iter().filter(|_| force).for_each(|plan| self.force_limits(&plan.workload));
                reply = Reply::Plans(plans);
                forget = dry_run;
            }
            Command::RollBack { workload, to, dry_run, by } => {
                reply = Reply::Plans(vec![self.roll_back(&workload, to, &by, now)?]);
                forget = dry_run;
            }
            Command::Resize { workload, size, dry_run, force, by } => {
                reply = Reply::Plans(vec![self.resize(&workload, size, &by, now)?]);
                if force {
                    self.force_limits(&workload);
                }
                forget = dry_run;
            }
            Command::ResizeInstance { instance, size, dry_run, force } => {
                reply = Reply::Plans(vec![self.resize_instance(&instance, size, force, now)?]);
                forget = dry_run;
            }
            Command::Pause { workload, by } => self.pause(&workload, &by, now)?,
            Command::Resume(workload) => self.resume(&workload, now)?,
            Command::Promote(workload) => self.promote(&workload, now)?,
            Command::Abort { workload, by } => {
                reply = Reply::Plans(vec![self.abort(&workload, &by, now)?]);
            }
            Command::RemoveWorkload(name) => self.remove_workload(&name, now)?,
            Command::Scale { workload, replicas } => self.scale(&workload, replicas, now)?,
            Command::ScaleAll(workloads) => self.scale_all(&workloads, now)?,
            Command::SetRun { target, run } => self.set_run(&target, run, now)?,
            Command::Restart(target) => self.restart(&target, now)?,
            Command::MoveInstances { instances, to, new_address, how, dry_run } => {
                let kind = (how, new_address);
                reply = Reply::Moves(self.move_instances(&instances, to.as_ref(), kind, now)?);
                forget = dry_run;
            }
            Command::NoteArrival { arrival, news } => self.note_arrival(&arrival, news, now),
            Command::NoteVolumeMove { instance, of_move, news } => {
                self.note_volume_move(&instance, of_move, news, now);
            }
            Command::ReplaceInstances(instances) => self.replace_instances(&instances, now)?,
            Command::RebuildInstances(instances) => self.rebuild_instances(&instances, now)?,
            Command::ReaddressInstances(instances) => self.readdress_instances(&instances, now)?,
            Command::RemoveInstances(instances) => self.remove_instances(&instances, now)?,
            Command::DissociateInstances(instances) => {
                self.dissociate_instances(&instances, now)?;
            }
            Command::AdoptInstances(instances) => self.adopt_instances(&instances, now)?,
            Command::AdoptContainer { spec, node, adoption, dry_run, by } => {
                let plan = self.adopt_container(*spec, &node, adoption, &by, now)?;
                reply = Reply::Plans(vec![plan]);
                forget = dry_run;
            }
            Command::MintToken { id, digest, expires_at } => {
                self.mint_token(id, digest, expires_at, now)?;
            }
            Command::RedeemToken(join) => {
                reply = Reply::Joined { block: self.redeem_token(join, now)? };
            }
            Command::Begin { fresh, evidence } => self.begin(fresh, evidence, now),
            Command::ConfirmRestore { force } => self.confirm_restore(force, now)?,
            Command::AdoptNode { node, enrolment, hello } => {
                self.adopt_node(node, enrolment, &hello, now)?;
            }
            Command::AttachNode { node, enrolment, session, hello } => {
                self.check_enrolment(&node, &enrolment)?;
                if let Some(refusal) = self.attach(&node, session, &hello, now)? {
                    reply = Reply::Unserved(refusal);
                } else {
                    self.learn_history(&node, &hello, now);
                    self.report(&node, session, hello.status, now)?;
                }
            }
            Command::NodeStatus { node, session, report } => {
                self.report(&node, session, report, now)?;
            }
            Command::Heartbeat { node, session, capacity } => {
                self.heartbeat(&node, session, capacity, now)?;
            }
            Command::Acknowledge { node, session, stored } => {
                self.acknowledge(&node, session, stored, now)?;
            }
            Command::NoteDismissed { node, enrolment, address, instances } => {
                let found = Dismissed { told: now, address, instances };
                self.note_dismissed(node, enrolment, found);
            }
            Command::DetachNode { node, session } => self.detach(&node, session),
            Command::ChangeBlocks { node, change } => {
                reply = Reply::Block(self.change_blocks(&node, change, now)?);
            }
            Command::UpdateNode { node, change } => self.update_node(&node, change, now)?,
            Command::RebootNodes(plan) => reply = Reply::Reboot(self.reboot_nodes(&plan, now)?),
            Command::CancelReboot => reply = Reply::Rebooting(self.cancel_reboot(now)?),
            Command::NoteRebootFailed { node, session, failed } => {
                self.note_reboot_failed(&node, session, failed, now)?;
            }
            Command::RemoveNode { node, force } => {
                self.remove_node(&node, force, now)?;
                // Its name may be another host's before anybody looks again.
                self.tend_volume_moves(now);
                self.end_headings(now);
            }
            Command::UpdateKeySet { name, add, remove } => {
                self.update_key_set(&name, add, &remove, now)?;
            }
            Command::RemoveKeySet(name) => self.remove_key_set(&name, now)?,
            Command::SetRegistryLogin { host, login, by } => {
                self.set_registry_login(host, login, by, now)?;
            }
            Command::RemoveRegistryLogin { host, by } => {
                self.remove_registry_login(&host, &by, now)?;
            }
            Command::IssueContext(client) => self.issue_context(client, now)?,
            Command::NoteContext(client) => self.note_context(client, now)?,
            Command::RevokeContext(which) => {
                reply = Reply::Contexts(self.revoke_context(&which, now)?);
            }
            Command::SshEvents { node, session, told } => {
                self.ssh_events(&node, session, told, now)?;
            }
            Command::RemoveVolume { instance, volume, node } => {
                self.remove_volume(&instance, &volume, node.as_ref(), now)?;
            }
            Command::NoteUnserved { node, session, reason } => {
                self.note_unserved(&node, session, reason, now)?;
            }
            Command::Note { subject, reason, message } => {
                self.event(now, Severity::Info, subject, reason, message);
            }
            Command::NoteIssuer { node, enrolment, issuer } => {
                self.check_enrolment(&node, &enrolment)?;
                self.note_issuer(&node, issuer);
            }
            Command::NoteSuperseded { node, earlier, present } => {
                let message = format!(
                    "its stream from {earlier} was taken over by one from {present}; if that is not the same host, its \
                     key is in other hands: remove the node and join it again"
                );
                let subject = Subject::Node(node);
                self.event(now, Severity::Warning, subject, "node-superseded", message);
            }
            Command::Tick => {
                self.tick(now);
                self.look_at_stages();
                self.refresh_reasons();
            }
        }
        self.learn();
        self.settle(now);
        if let Reply::Plans(plans) = &mut reply {
            self.foresee(plans);
            plan::check(plans, &planned)?;
        }
        Ok(if forget { Outcome::Forget(reply) } else { Outcome::Keep(reply) })
    }

    /// What is settled.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// At most `limit` committed changes after a revision, oldest first.
    ///
    /// # Errors
    /// [`Compacted`] if some of them are not known any more.
    pub fn changes_since(&self, after: Revision, limit: usize) -> Result<Vec<Change>, Compacted> {
        Ok(self.log.since(after)?.take(limit).cloned().collect())
    }
}

/// What becomes of the changes of an accepted command.
enum Outcome {
    Keep(Reply),
    Forget(Reply),
}

#[cfg(test)]
mod tests;
