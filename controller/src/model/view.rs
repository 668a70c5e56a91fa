//! What the API shows: objects with what is known of them now, honest about what is not.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::{Arc, PoisonError};

use dwell_core::clock::Timestamp;
use dwell_core::health::Health;
use dwell_core::id::{Generation, InstanceName, NodeName, Revision, WorkloadName};
use dwell_core::image::ContainerImage;
use dwell_core::instance::{Counted, InstanceStatus, Phase};
use dwell_core::node::{Capacity, NodeState};
use dwell_core::workload::Resources;
use ipnet::Ipv4Net;

use dwell_scheduler::Closed;

use super::drains::Obstacle;
use super::jobs::Tally;
use super::nodes::claim_message;
use super::object::{Event, Instance, Node, UpdateState, Waiting, WaitingCause, Workload};
use super::placement::unfit;
use super::reboots::{is_told_to_reboot, reboot_message};
use super::versions::{Version, VersionState};
use super::{Model, Refusal, VolumeMovePhase};

/// A workload and how far it is.
#[derive(Clone, Debug)]
pub struct WorkloadView {
    /// What was declared.
    pub workload: Arc<Workload>,
    /// Instances that are there, those on their way out among them.
    pub instances: u32,
    /// Instances that run, with good health.
    pub ready: u32,
    /// Instances that are what was declared last, and hold with it.
    pub updated: u32,
    /// What its instances are brought to.
    pub newest: Option<Arc<Version>>,
    /// What it waits for; empty if all is as declared.
    pub message: String,
    /// Whether all instances that try the newest version out hold with it; `None` if it need not be promoted.
    pub canaries_hold: Option<bool>,
    /// Instances that failed with the newest version and went back.
    pub failed: u32,
    /// Which and why; empty if none did.
    pub failures: String,
    /// Why the version before the newest was ruled out, if that is why all instances go back by themselves; else empty.
    pub rolled_back: String,
    /// How its instances are, if it is a job.
    pub tally: Option<Tally>,
    /// When it is due next, if it is a job with a schedule and is not stopped.
    pub next_due: Option<Timestamp>,
}

/// The views of workloads that were asked for at a revision. Each is made from all of its instances, and all watchers
/// ask for the same. Taking changes back forgets them, since it leads to another state at the same revision.
#[derive(Debug, Default)]
pub(super) struct Views {
    at: Revision,
    of: BTreeMap<WorkloadName, WorkloadView>,
    /// How many were made, for tests that count work instead of time.
    pub(super) made: u64,
}

impl Views {
    pub(super) fn forget(&mut self) {
        self.of.clear();
    }
}

/// An instance and what is known of it.
#[derive(Clone, Debug)]
pub struct InstanceView {
    /// What was decided.
    pub instance: Arc<Instance>,
    /// What was seen last; `Unknown` if its node is not heard of, `Pending` with a reason if it has none.
    pub status: InstanceStatus,
    /// The newest revision of anything shown here.
    pub revision: Revision,
    /// Its IPv6 address, if it has one.
    pub ipv6: Option<Ipv6Addr>,
}

/// A node and how it is doing.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// What was decided.
    pub node: Arc<Node>,
    /// How sure we are of it.
    pub state: NodeState,
    /// What it has; `None` if it has not been heard of since the controller's start.
    pub capacity: Option<Arc<Capacity>>,
    /// What is promised to its instances.
    pub allocated: Resources,
    /// How many instances are, or may be, there.
    pub instances: usize,
    /// How many of them cannot leave, although they should: their volumes are there.
    pub staying: usize,
    /// How many of them belong to it, since every node has one: a drain leaves them where they are.
    pub own: usize,
    /// When it was heard of last; `None` if not since the controller's start.
    pub last_seen: Option<Timestamp>,
    /// The assignment's revision it has stored.
    pub acknowledged: Revision,
    /// What is still there although it is drained, and why; not all of it if that is much.
    pub obstacles: Vec<Obstacle>,
    /// Why it is not ready, or what a drain waits for; empty if there is nothing to say.
    pub message: String,
    /// The newest revision of anything shown here.
    pub revision: Revision,
}

/// Packets for `prefix` go to `node`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteView {
    /// A node's block, or one address.
    pub prefix: Ipv4Net,
    /// Which node.
    pub node: NodeName,
    /// Its address in the underlay.
    pub via: std::net::Ipv4Addr,
    /// Whose address it is; `None` for a block.
    pub instance: Option<InstanceName>,
}

/// Which instances are wanted; all conditions together.
#[derive(Clone, Debug, Default)]
pub struct InstanceFilter {
    /// Only of this workload.
    pub workload: Option<WorkloadName>,
    /// Only on this node.
    pub node: Option<NodeName>,
}

impl Model {
    /// One workload.
    #[must_use]
    pub fn workload(&self, name: &WorkloadName) -> Option<WorkloadView> {
        let workload = self.tables.workloads().get(name)?;
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if views.at != self.revision {
            views.at = self.revision;
            views.of.clear();
        }
        if let Some(view) = views.of.get(name) {
            return Some(view.clone());
        }
        let view = self.view_workload(workload);
        views.made += 1;
        views.of.insert(name.clone(), view.clone());
        Some(view)
    }

    /// All workloads, by name.
    #[must_use]
    pub fn workloads(&self) -> Vec<WorkloadView> {
        self.tables.workloads().values().map(|workload| self.view_workload(workload)).collect()
    }

    /// One instance.
    #[must_use]
    pub fn instance(&self, name: &InstanceName) -> Option<InstanceView> {
        self.tables.instances().get(name).map(|instance| self.view_instance(instance))
    }

    /// The instances that a filter lets through, by name.
    #[must_use]
    pub fn instances(&self, filter: &InstanceFilter) -> Vec<InstanceView> {
        let on_node = |instance: &&Arc<Instance>| {
            filter.node.is_none() || instance.node.as_ref() == filter.node.as_ref()
        };
        match (&filter.workload, &filter.node) {
            (Some(workload), _) => {
                let instances = self.tables.instances_of(workload).filter(on_node);
                instances.map(|instance| self.view_instance(instance)).collect()
            }
            (None, Some(node)) => {
                let occupancy = self.tables.index().occupancy.get(node);
                let names = occupancy.into_iter().flat_map(|occupancy| &occupancy.instances);
                names.filter_map(|name| self.instance(name)).collect()
            }
            (None, None) => {
                let instances = self.tables.instances().values();
                instances.map(|instance| self.view_instance(instance)).collect()
            }
        }
    }

    /// One node, also a removed one.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<NodeView> {
        self.tables.nodes().get(name).map(|node| self.view_node(node))
    }

    /// All nodes as they are kept, also the removed ones.
    pub(crate) fn nodes_and_tombstones(&self) -> impl Iterator<Item = Arc<Node>> {
        self.tables.nodes().values().cloned()
    }

    /// All nodes but the removed ones, by name.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeView> {
        self.nodes_page(None, usize::MAX).items
    }

    /// All routes of the fleet: blocks first, then exceptions.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteView> {
        let index = self.tables.index();
        let blocks = index.blocks.iter().filter_map(|(&prefix, node)| {
            let via = self.tables.nodes().get(node)?.address;
            Some(RouteView { prefix, node: node.clone(), via, instance: None })
        });
        let exceptions = index.exceptions.iter().filter_map(|(&address, node)| {
            let via = self.tables.nodes().get(node)?.address;
            let instance = index.holders.get(&address).cloned();
            Some(RouteView { prefix: Ipv4Net::from(address), node: node.clone(), via, instance })
        });
        blocks.chain(exceptions).collect()
    }

    /// At most `limit` of the newest events, oldest first, only about `subject` (such as `node/n1`) if
    /// one is given.
    #[must_use]
    pub fn events(&self, subject: Option<&str>, limit: usize) -> Vec<Arc<Event>> {
        let about = |event: &&Arc<Event>| {
            subject.is_none_or(|subject| event.subject.to_string() == subject)
        };
        let newest = self.tables.events().values().rev().filter(about).take(limit);
        let mut events: Vec<_> = newest.cloned().collect();
        events.reverse();
        events
    }

    fn view_workload(&self, workload: &Arc<Workload>) -> WorkloadView {
        let mut view = WorkloadView {
            workload: Arc::clone(workload),
            instances: 0,
            ready: 0,
            updated: 0,
            newest: self.newest(&workload.spec.name),
            message: workload.paused.as_ref().map(ToString::to_string).unwrap_or_default(),
            canaries_hold: self.canaries_hold(workload),
            failed: 0,
            failures: self.failures_in_words(workload).unwrap_or_default(),
            rolled_back: self.rolled_back(&workload.spec.name).unwrap_or_default(),
            tally: workload.spec.job.as_ref().map(|_| self.tally(&workload.spec.name)),
            next_due: self.due_next(workload),
        };
        if view.message.is_empty() {
            view.message = self.fetching_in_words(workload).unwrap_or_default();
        }
        let mut waits = None;
        let instances = self.tables.instances_of(&workload.spec.name);
        for instance in instances.filter(|instance| !instance.is_let_go()) {
            view.instances += 1;
            view.updated += u32::from(self.is_as_declared(workload, instance));
            let has_failed = !instance.removing && self.failed_with_newest(instance).is_some();
            view.failed += u32::from(has_failed);
            let status = self.status(instance);
            let ready = status.is_ready();
            view.ready += u32::from(ready);
            let rests = ready || status.phase == Phase::Stopped || instance.rests();
            let settled = rests && instance.update != UpdateState::Updating;
            if !settled && waits.is_none() {
                waits = Some((instance, status));
            }
        }
        if let (true, Some(tally)) =
            (view.message.is_empty(), view.tally.filter(|one| one.failed > 0))
        {
            let failed = usize::try_from(tally.failed).unwrap_or(usize::MAX);
            view.message = format!("{} failed", Counted(failed));
        }
        let is_over = view.newest.as_ref().is_some_and(|one| one.state == VersionState::Incomplete);
        if view.message.is_empty() && (is_over || waits.is_none()) {
            view.message.clone_from(&view.failures);
        }
        if let (true, Some((instance, status))) = (view.message.is_empty(), waits) {
            let verb = if workload.removing { "is being removed; waits" } else { "waits" };
            let phase = phase_word(status.phase);
            view.message = format!("{verb} for {} ({phase})", instance.name);
            if !status.message.is_empty() {
                view.message = format!("{}: {}", view.message, status.message);
            }
        }
        view
    }

    fn view_instance(&self, instance: &Arc<Instance>) -> InstanceView {
        let observed = self.tables.observed().get(&instance.name);
        let ipv6 = self.settings.ipv6.zip(instance.identity);
        InstanceView {
            ipv6: ipv6.map(|(range, identity)| range.address(identity.address)),
            instance: Arc::clone(instance),
            status: self.with_rivals(self.with_move(instance, self.status(instance))),
            revision: observed
                .map_or(instance.revision, |seen| seen.revision.max(instance.revision)),
        }
    }

    /// Says of an instance how far it moves with its volumes.
    fn with_move(&self, instance: &Instance, mut status: InstanceStatus) -> InstanceStatus {
        if let Some(far) = self.volume_move_in_words(instance) {
            // While it is stopped it waits for no node to take it up.
            let is_stopped = instance
                .volume_move
                .as_deref()
                .is_some_and(|moving| moving.phase == VolumeMovePhase::Settling);
            status.message = match is_stopped || status.message.is_empty() {
                true => far,
                false => format!("{far}; {}", status.message),
            };
        }
        status
    }

    /// Says of an instance that other nodes have it too.
    fn with_rivals(&self, mut status: InstanceStatus) -> InstanceStatus {
        let Some(rivals) = self.rivals.get(&status.instance) else { return status };
        let nodes: Vec<&str> = rivals.keys().map(NodeName::as_str).collect();
        let gap = if status.message.is_empty() { "" } else { "; " };
        let also = format!("{gap}{} has it too, and is told to stop it", nodes.join(", "));
        status.message.push_str(&also);
        status
    }

    /// What is known of an instance now.
    pub(super) fn status(&self, instance: &Instance) -> InstanceStatus {
        if let Some(ended) = instance.ended() {
            return self.after_end(instance, ended);
        }
        if instance.is_idle() {
            return unseen(instance, Phase::Pending, self.idle_in_words(instance));
        }
        let waiting = self.tables.waiting().get(&instance.name);
        let because = waiting.map(|waiting| self.why(waiting)).filter(|why| !why.is_empty());
        let Some(node) = &instance.node else {
            let message = because.unwrap_or_else(|| "waits for a node".to_owned());
            return unseen(instance, Phase::Pending, message);
        };
        let state = self.tables.links().get(node).map_or(NodeState::Down, |link| link.state);
        let seen = self.tables.observed().get(&instance.name).map(|observed| &observed.status);
        match (state, seen) {
            (NodeState::Ready, Some(seen)) => {
                let mut status = seen.clone();
                if status.message.is_empty() {
                    let heading = self.heading_in_words(instance);
                    status.message = heading.or(because).unwrap_or_default();
                }
                status
            }
            (NodeState::Ready, None) => {
                unseen(instance, Phase::Pending, format!("waits for {node} to take it up"))
            }
            (_, Some(seen)) => InstanceStatus {
                phase: Phase::Unknown,
                health: Health::None,
                readiness: Health::None,
                message: format!(
                    "{node} is not heard of; it was {} when last seen",
                    phase_word(seen.phase)
                ),
                ..seen.clone()
            },
            (_, None) => unseen(instance, Phase::Unknown, format!("{node} is not heard of")),
        }
    }

    /// Why an instance waits, in words; empty if the reason is just being found out.
    pub(super) fn why(&self, waiting: &Waiting) -> String {
        match waiting.demand() {
            Some(demand) => {
                let unmet = self.tables.unmet().get(demand);
                unmet.map(|unmet| unmet.reason.to_string()).unwrap_or_default()
            }
            None => waiting.cause.to_string(),
        }
    }

    pub(super) fn view_node(&self, node: &Arc<Node>) -> NodeView {
        let link = self.tables.links().get(&node.name);
        let occupancy = self.tables.index().occupancy.get(&node.name);
        let instances = occupancy.map_or(0, |there| there.instances.len());
        let capacity = link.and_then(|link| link.capacity.clone());
        let heard = self.last_heard.get(&node.name).copied();
        let state = link.map_or(NodeState::Down, |link| link.state);
        NodeView {
            node: Arc::clone(node),
            state,
            allocated: occupancy.map(|there| there.promised).unwrap_or_default(),
            instances,
            own: instances - self.left_on(&node.name),
            staying: occupancy.map_or(0, |there| self.staying(&there.instances)),
            last_seen: heard.filter(|_| capacity.is_some()).map(|heard| self.clock.wall_at(heard)),
            capacity,
            acknowledged: link.map_or(Revision(0), |link| link.acknowledged),
            obstacles: self.obstacles(node),
            message: self.node_message(node, state),
            revision: link.map_or(node.revision, |link| link.revision.max(node.revision)),
        }
    }

    fn staying<'a>(&self, instances: impl IntoIterator<Item = &'a InstanceName>) -> usize {
        let waiting = instances.into_iter().filter_map(|name| self.tables.waiting().get(name));
        waiting.filter(|waiting| waiting.cause == WaitingCause::Pinned).count()
    }

    fn node_message(&self, node: &Node, state: NodeState) -> String {
        let link = self.tables.links().get(&node.name);
        let unserved = link.map(|link| link.unserved.as_str()).unwrap_or_default();
        match state {
            _ if node.removed => "was removed".to_owned(),
            _ if node.contested => Refusal::NodeContested(node.name.clone()).to_string(),
            _ if let Some(other) = node.undecided() => {
                let (node, address) = (node.name.clone(), other.address);
                Refusal::NodeElsewhere { node, address }.to_string()
            }
            NodeState::Unreachable | NodeState::Down if is_told_to_reboot(node) => {
                "reboots".to_owned()
            }
            NodeState::Down => format!(
                "has not been heard of for long; it may be cut off and still run its instances. Only if its \
                 host is switched off or destroyed: `dwell node rm --force {}` places them elsewhere",
                node.name
            ),
            NodeState::Unreachable => {
                "has not been heard of for a while; what runs there is left alone".to_owned()
            }
            NodeState::Ready if !unserved.is_empty() => {
                format!("cannot be told what to do: {unserved}")
            }
            NodeState::Ready if let Some(claimed) = link.and_then(|link| link.claimed) => {
                claim_message(node, claimed)
            }
            NodeState::Ready if node.draining => self.drain_message(node),
            NodeState::Ready if let Some(said) = reboot_message(node) => said,
            NodeState::Ready if let Some(given_up) = node.given_up() => {
                given_up.message(&node.name)
            }
            NodeState::Ready => {
                let capacity = link.and_then(|link| link.capacity.as_deref());
                let unfit = capacity.map(unfit_message).unwrap_or_default();
                if unfit.is_empty() { self.doubt_message(&node.name) } else { unfit }
            }
        }
    }
}

impl Model {
    /// Which instances a node that is heard of cannot look at.
    fn doubt_message(&self, node: &NodeName) -> String {
        let here = self.tables.index().occupancy.get(node);
        let mut doubtful = here.into_iter().flat_map(|there| &there.instances).filter(|name| {
            let observed = self.tables.observed().get(name);
            observed.is_some_and(|seen| seen.node == *node && seen.status.phase == Phase::Unknown)
        });
        match (doubtful.next(), doubtful.count()) {
            (None, _) => String::new(),
            (Some(one), 0) => format!("cannot look at {one}"),
            (Some(one), more) => format!("cannot look at {one} and {more} more"),
        }
    }
}

/// Why nothing new is placed on a node that is heard of; empty if it is.
pub(super) fn unfit_message(capacity: &Capacity) -> String {
    match unfit(capacity) {
        Some(Closed::NoEngine) => {
            let engines =
                capacity.engines.iter().map(|(name, engine)| match engine.message.as_str() {
                    "" => format!("{name} does not answer"),
                    // Most messages name the engine themselves.
                    message if message.starts_with(name.as_str()) => message.to_owned(),
                    message => format!("{name}: {message}"),
                });
            format!("takes nothing new: {}", engines.collect::<Vec<_>>().join(", "))
        }
        Some(Closed::DiskFull) if !capacity.disk_pressures.is_empty() => {
            let disks = capacity.disk_pressures.iter().map(ToString::to_string);
            let disks: Vec<String> = disks.collect();
            format!("takes nothing new: disk-pressure: {}", disks.join("; "))
        }
        // Of an agent of an earlier version.
        Some(Closed::DiskFull) => {
            let (free, disk) = (capacity.disk_free, capacity.disk);
            format!("takes nothing new: disk-pressure: {free} of {disk} are free on its disk")
        }
        Some(Closed::Pressed) => {
            "takes nothing new: memory-pressure: what runs there has to wait for memory".to_owned()
        }
        _ => String::new(),
    }
}

/// The status of an instance of which no node has said anything.
pub(super) fn unseen(instance: &Instance, phase: Phase, message: String) -> InstanceStatus {
    InstanceStatus {
        instance: instance.name.clone(),
        generation: Generation(0),
        phase,
        health: Health::None,
        readiness: Health::None,
        container_id: String::new(),
        address: None,
        image: ContainerImage::default(),
        started_at: None,
        restarts: 0,
        exit_code: None,
        ends: Vec::new(),
        hook_failed: None,
        restarts_done: 0,
        message,
        observed_at: Timestamp(0),
        verdict: None,
        task: None,
        image_ahead: None,
        let_go: None,
    }
}

pub(super) fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "pending",
        Phase::Preparing => "preparing",
        Phase::Running => "running",
        Phase::Stopping => "stopping",
        Phase::Stopped => "stopped",
        Phase::Backoff => "backing off",
        Phase::Failed => "failed",
        Phase::Completed => "completed",
        Phase::Unknown => "unknown",
    }
}
