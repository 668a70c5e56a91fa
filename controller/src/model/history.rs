//! Which history this is: starts, restores from a backup, and what an operator has to confirm after one.
//!
//! A controller that starts from a backup has forgotten what came after it. If it went on as if nothing had happened,
//! it would take away what was made since, give addresses away a second time, and start instances beside those that
//! were moved. So a restore is noticed, by a mark beside the store (`continuity.rs`) or by what a node holds:
//!
//! ```text
//!   a node holds …                                                     … so this store is
//!   an assignment of this history, made when the store was further      a backup
//!   an assignment of this history, of a start that is not this one      a copy, or a backup
//!   an assignment of a history that is not in this one's past           a backup of an earlier history
//! ```
//!
//! A restore begins another history, with an incarnation of its own, that is *unconfirmed*: nodes are told to go on as
//! they are, nothing is placed, moved or taken away, and declarations are refused. Nodes say what they were told to
//! run; of two claims to an instance, the store's and a node's, the higher generation is right, and the model follows
//! it. When every node has been heard of, an operator confirms, and the model is what counts again. What nodes hold and the
//! model does not know ends, and its addresses are nobody's before (`in_use.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{Generation, Incarnation, InstanceName, NodeName, Revision, Term};
use dwell_core::instance::InstanceStatus;
use dwell_core::session::{Claim, Hello, StatusReport};
use dwell_core::workload::{OnLost, OnMove, Placement, Template, UpdatePolicy, WorkloadSpec};

use super::object::{
    History, Instance, Leaving, Link, Node, Restored, Severity, Subject, Workload,
};
use super::record::{Key, Record};
use super::workloads::next_workload;
use super::{Command, Model, Refusal};

/// How far a node may move the revision on. A node that claims more is wrong, and not followed.
const AHEAD_MAX: u64 = 1 << 40;
/// How many instances an event names.
const NAMED_MAX: usize = 5;

/// What is known of restores, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreView {
    /// The present history.
    pub incarnation: Incarnation,
    /// How often the controller has started.
    pub term: Term,
    /// The restore that waits to be confirmed.
    pub restored: Option<Restored>,
    /// Nodes that have said what they hold since.
    pub heard: Vec<NodeName>,
    /// Nodes that have not.
    pub missing: Vec<NodeName>,
    /// Nodes that joined after the backup.
    pub adopted: Vec<NodeName>,
    /// Hosts that are back and whose name is another host's, as far as is known.
    pub superseded: Vec<Superseded>,
    /// Instances that nodes hold and the controller does not know, or knows on another node.
    pub unknown: Vec<(NodeName, Claim)>,
}

/// A host whose name is another host's by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// The name.
    pub node: NodeName,
    /// Where the host is.
    pub address: Ipv4Addr,
    /// How many instances it says that it was told to run.
    pub instances: usize,
}

impl Model {
    /// Which history this is; unknown until one has begun.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.tables.history().map(|history| history.incarnation).unwrap_or_default()
    }

    /// How often the controller has started.
    #[must_use]
    pub fn term(&self) -> Term {
        self.tables.history().map(|history| history.term).unwrap_or_default()
    }

    /// Whether a restore waits to be confirmed.
    #[must_use]
    pub fn is_unconfirmed(&self) -> bool {
        self.tables.history().is_some_and(|history| history.restored.is_some())
    }

    /// What is known of restores.
    #[must_use]
    pub fn restore_view(&self) -> RestoreView {
        let members = self.tables.nodes().values().filter(|node| !node.removed);
        let (heard, missing): (Vec<_>, Vec<_>) = members.partition(|node| self.has_said_all(node));
        let names = |nodes: Vec<&Arc<Node>>| nodes.iter().map(|node| node.name.clone()).collect();
        RestoreView {
            incarnation: self.incarnation(),
            term: self.term(),
            restored: self.tables.history().and_then(|history| history.restored.clone()),
            heard: names(heard),
            missing: names(missing),
            adopted: self.adopted(),
            superseded: self.superseded(),
            unknown: self.unknown_claims(),
        }
    }

    /// Whether a node has said what it was told to run, what is there, and which volumes: while its engine does not answer, nobody
    /// knows of those that were made after the backup, and an empty one would be put in their place. While it is not decided which of
    /// two machines it is, it has not.
    fn has_said_all(&self, node: &Node) -> bool {
        let link = self.tables.links().get(&node.name);
        let is_decided = !node.contested && node.undecided().is_none();
        is_decided
            && self.claims.contains_key(&node.name)
            && (node.block.is_none() || self.volumes_told.contains_key(&node.name))
            && link.is_some_and(|link| link.reported.is_some())
    }

    /// A node has said what is there, whoever asked for it. While a restore is unconfirmed, that counts as held as well:
    /// what a node was told to end, and what it may not have ended yet, has no order any more.
    pub(super) fn note_remains(&mut self, node: &NodeName, report: &StatusReport) {
        if !self.is_unconfirmed() && !self.remains.contains_key(node) {
            return;
        }
        let remains = self.remains.entry(node.clone()).or_default();
        if report.complete {
            remains.clear();
        }
        for status in &report.instances {
            let InstanceStatus { instance, generation, address, .. } = status;
            let address = address.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let claim = Claim { instance: instance.clone(), generation: *generation, address };
            remains.insert(instance.clone(), claim);
        }
        for gone in &report.gone {
            remains.remove(gone);
        }
        if remains.is_empty() {
            self.remains.remove(node);
        }
    }

    /// Whether a node has said that something of an instance is there, when nothing was known of that.
    pub(super) fn remains_on(&self, node: &NodeName, instance: &InstanceName) -> bool {
        self.remains.get(node).is_some_and(|remains| remains.contains_key(instance))
    }

    /// The controller starts. `fresh` is chosen at random; `evidence` says why the store is not the newest.
    pub(super) fn begin(&mut self, fresh: Incarnation, evidence: Option<String>, now: Timestamp) {
        self.store_versions();
        self.spare = fresh;
        let old = self.tables.history().map(|history| History::clone(history));
        let is_first = old.is_none();
        let history = old.unwrap_or_else(|| History {
            incarnation: fresh,
            term: Term(0),
            past: Vec::new(),
            restored: None,
            revision: Revision(0),
        });
        self.put_history(History { term: history.term.next(), ..history });
        if is_first {
            self.spare = Incarnation(fresh.0.wrapping_add(1).max(1));
        }
        if let Some(reason) = evidence {
            self.begin_another(&reason, now);
        }
    }

    /// A restore was noticed: another history begins.
    pub(super) fn begin_another(&mut self, reason: &str, now: Timestamp) {
        let Some(old) = self.tables.history().cloned() else { return };
        let mut past = old.past.clone();
        past.push(old.incarnation);
        past.drain(..past.len().saturating_sub(History::PAST_MAX));
        let incarnation = self.spare;
        self.spare = Incarnation(incarnation.0.wrapping_add(1).max(1));
        self.forget_volume_moves();
        self.forget_deletions();
        self.claims.clear();
        self.volumes_told.clear();
        self.remains.clear();
        let adopted = old.restored.as_ref().map(|before| before.adopted.clone());
        let adopted = adopted.unwrap_or_default();
        let restored = Some(Restored { at: now, reason: reason.to_owned(), adopted });
        self.put_history(History { incarnation, past, restored, ..History::clone(&old) });
        let message = format!(
            "the controller was restored from a backup: {reason}. Nothing is changed until an operator has looked at \
             `dwell restore status` and run `dwell restore confirm`"
        );
        let severity = Severity::Warning;
        self.event(now, severity, Subject::Cluster, "controller-restored", message);
    }

    /// Nodes that attached before a restore was noticed attach again, to say what they hold.
    pub(super) fn end_other_sessions(&mut self, of: &NodeName) {
        let links = self.tables.links().values();
        let others = links.filter(|link| link.node != *of && link.session.is_some());
        for link in others.cloned().collect::<Vec<_>>() {
            self.put_link(Link { session: None, ..Link::clone(&link) });
        }
    }

    pub(super) fn put_history(&mut self, history: History) {
        self.put_with(|revision| Record::History(Arc::new(History { revision, ..history })));
    }

    /// A node says what it holds: whether that proves a restore, and what is to be learned from it.
    pub(super) fn learn_history(&mut self, node: &NodeName, hello: &Hello, now: Timestamp) {
        if let Some(reason) = self.evidence(node, hello) {
            self.begin_another(&reason, now);
            self.end_other_sessions(node);
        }
        self.told.insert(node.clone());
        // Revisions that one node is given only grow, also over a restore.
        let held = hello.held.revision;
        if held > self.revision && held.0 - self.revision.0 < AHEAD_MAX {
            self.revision = held;
        }
        if self.is_unconfirmed() {
            for claim in &hello.claims {
                self.follow_claim(node, claim, now);
            }
            self.claims.insert(node.clone(), hello.claims.clone());
        }
    }

    /// What a node holds that this store could not have given it.
    pub(super) fn evidence(&self, node: &NodeName, hello: &Hello) -> Option<String> {
        let history = self.tables.history()?;
        let held = hello.held;
        if held.revision == Revision(0) {
            return None;
        }
        let is_own = held.incarnation == history.incarnation;
        let is_from_here =
            hello.term < history.term || (hello.term == history.term && self.told.contains(node));
        if is_own && !is_from_here {
            return Some(format!("node {node} has heard of another start of this controller"));
        }
        if is_own && hello.term < history.term && hello.durable > self.loaded {
            return Some(format!("node {node} holds changes that are not in the store"));
        }
        if held.incarnation.is_unknown() && held.revision > self.revision {
            return Some(format!("node {node} holds changes that are not in the store"));
        }
        let is_past = held.incarnation.is_unknown() || history.past.contains(&held.incarnation);
        (!is_own && !is_past)
            .then(|| format!("node {node} is of a later history of this controller"))
    }

    /// Follows a node's claim to an instance if it is newer than what is known.
    fn follow_claim(&mut self, node: &NodeName, claim: &Claim, now: Timestamp) {
        let Some(instance) = self.tables.instances().get(&claim.instance).cloned() else { return };
        // One that was not placed yet when the backup was made was placed at the same generation.
        let is_older = claim.generation < instance.generation;
        if is_older || (claim.generation == instance.generation && instance.node.is_some()) {
            return;
        }
        // What the node was told at a later generation is not known here: what is known is told as a still later one.
        let is_newer = claim.generation > instance.generation;
        let generation = if is_newer { claim.generation.next() } else { claim.generation };
        if instance.node.as_ref() == Some(node) {
            self.put_instance(Instance { generation, ..Instance::clone(&instance) });
            return;
        }
        if instance.removing || !self.is_member(node) {
            return;
        }
        let identity = match instance.identity {
            Some(own) => Some(own).filter(|own| own.address == claim.address),
            None => self.claim_static(&claim.instance, claim.address, now).ok(),
        };
        if identity.is_none() {
            return;
        }
        let before = instance.node.as_ref().map_or("no node".to_owned(), ToString::to_string);
        self.delete(Key::Observed(claim.instance.clone()));
        let freed = Instance { node: None, leaving: None, ..Instance::clone(&instance) };
        self.put_instance(freed.clone());
        self.put_instance(Instance { node: Some(node.clone()), identity, generation, ..freed });
        self.delete(Key::Waiting(claim.instance.clone()));
        let message = format!(
            "is taken to be on {node}, which holds generation {}; the restored controller knew generation {} \
             on {before}",
            claim.generation, instance.generation
        );
        let subject = Subject::Instance(claim.instance.clone());
        self.event(now, Severity::Warning, subject, "instance-adopted", message);
        self.recall(&claim.instance, node, now);
    }

    /// Whether a node has said that it was told to run an instance.
    pub(super) fn claims_of(&self, node: &NodeName, instance: &InstanceName) -> bool {
        let claims = self.claims.get(node).into_iter().flatten();
        claims.into_iter().any(|claim| claim.instance == *instance)
    }

    /// The generation at which a node has said to hold an instance, by an order or as what is left of it.
    fn held_by(&self, node: &NodeName, instance: &InstanceName) -> Option<Generation> {
        let claims = self.claims.get(node).into_iter().flatten();
        let claims = claims.filter(|claim| claim.instance == *instance);
        let left = || self.remains.get(node)?.get(instance).map(|claim| claim.generation);
        claims.map(|claim| claim.generation).max().or_else(left)
    }

    /// What nodes hold that is not theirs as far as is known.
    fn unknown_claims(&self) -> Vec<(NodeName, Claim)> {
        let is_known = |node: &NodeName, claim: &Claim| {
            let instance = self.tables.instances().get(&claim.instance);
            instance.is_some_and(|instance| instance.node.as_ref() == Some(node))
        };
        let is_left = |node: &NodeName, claim: &Claim| !self.claims_of(node, &claim.instance);
        let remains = self.remains().filter(|(node, claim)| is_left(node, claim));
        let unknown = self.orders().chain(remains).filter(|(node, claim)| !is_known(node, claim));
        let mut seen = BTreeSet::new();
        // The newest of an instance on a node stands for all.
        let newest = unknown.filter(|(node, claim)| seen.insert((*node, &claim.instance)));
        newest.map(|(node, claim)| (node.clone(), claim.clone())).collect()
    }

    /// What nodes were told to run.
    fn orders(&self) -> impl Iterator<Item = (&NodeName, &Claim)> {
        self.claims.iter().flat_map(|(node, claims)| claims.iter().map(move |claim| (node, claim)))
    }

    /// What is there on nodes.
    fn remains(&self) -> impl Iterator<Item = (&NodeName, &Claim)> {
        let of_nodes = self.remains.iter().map(|(node, remains)| (node, remains.values()));
        of_nodes.flat_map(|(node, remains)| remains.map(move |claim| (node, claim)))
    }

    /// An operator vouches that what is known is right.
    pub(super) fn confirm_restore(&mut self, force: bool, now: Timestamp) -> Result<(), Refusal> {
        let history = self.tables.history().filter(|history| history.restored.is_some());
        let history = history.cloned().ok_or(Refusal::NotRestored)?;
        let missing = self.restore_view().missing;
        if let Some(example) = missing.first().filter(|_| !force) {
            let (count, example) = (missing.len(), example.clone());
            return Err(Refusal::NodesNotHeard { count, example });
        }
        let unknown = self.unknown_claims();
        for (node, claim) in &unknown {
            self.await_end(node, claim, now);
        }
        let held = self.orders().chain(self.remains());
        let held: Vec<(NodeName, Claim)> =
            held.map(|(node, claim)| (node.clone(), claim.clone())).collect();
        self.note_addresses_in_use(held, now);
        self.await_ends_anew();
        let adopted = self.adopted();
        self.put_history(History { restored: None, ..History::clone(&history) });
        let named: Vec<String> = unknown
            .iter()
            .take(NAMED_MAX)
            .map(|(node, claim)| format!("{} on {node}", claim.instance))
            .collect();
        let mut message = match unknown.len() {
            0 if adopted.is_empty() => {
                "the restore is confirmed; nothing had been made since the backup".to_owned()
            }
            0 => "the restore is confirmed".to_owned(),
            count => format!(
                "the restore is confirmed; instances that only nodes knew are taken away: {}{}",
                named.join(", "),
                if count > named.len() { " and others" } else { "" }
            ),
        };
        if !adopted.is_empty() {
            let some = adopted.iter().take(NAMED_MAX).map(ToString::to_string);
            let others = if adopted.len() > NAMED_MAX { " and others" } else { "" };
            let some = some.collect::<Vec<_>>().join(", ");
            message += &format!("; nodes that joined after the backup stay nodes: {some}{others}");
        }
        self.event(now, Severity::Warning, Subject::Cluster, "restore-confirmed", message);
        self.settle_volumes(now);
        self.recall_let_go(now);
        self.pass_due_times(now);
        self.agenda.everything = true;
        Ok(())
    }

    /// What nodes have stored since the restore changed nothing of what they do, so it frees nothing either: what leaves
    /// a node leaves it from now on.
    fn await_ends_anew(&mut self) {
        let instances = self.tables.instances().values();
        let leaving: Vec<Arc<Instance>> =
            instances.filter(|instance| instance.leaving.is_some()).cloned().collect();
        for instance in leaving {
            self.put_with(|revision| {
                let to = instance.leaving.as_ref().and_then(|leaving| leaving.to.clone());
                let leaving = Some(Leaving { since: revision, to });
                Record::Instance(Arc::new(Instance {
                    leaving,
                    revision,
                    ..Instance::clone(&instance)
                }))
            });
        }
    }

    /// A node holds an instance that is not there, as far as is known. It counts as leaving that node, so that neither its
    /// name nor its address is used elsewhere before the node has let go of it.
    fn await_end(&mut self, node: &NodeName, claim: &Claim, now: Timestamp) {
        let Some(instance) = self.tables.instances().get(&claim.instance).cloned() else {
            return self.bury(node, claim, now);
        };
        // Of several nodes that hold it, the one with the highest generation is awaited: it was placed there once the others let
        // nobody reach it any more.
        let held = instance.node.as_ref().and_then(|home| self.held_by(home, &claim.instance));
        if held >= Some(claim.generation) {
            return;
        }
        let generation = self.next_generation(&instance).max(claim.generation.next());
        self.delete(Key::Observed(claim.instance.clone()));
        let freed =
            Instance { node: None, leaving: None, generation, ..Instance::clone(&instance) };
        self.put_instance(freed.clone());
        self.put_with(|revision| {
            let leaving = Some(Leaving { since: revision, to: None });
            let node = Some(node.clone());
            Record::Instance(Arc::new(Instance { node, leaving, revision, ..freed }))
        });
    }

    /// Nothing is known of an instance that a node holds: it is removed, as one that is known would be.
    fn bury(&mut self, node: &NodeName, claim: &Claim, now: Timestamp) {
        let name = &claim.instance;
        if !self.tables.workloads().contains_key(name.workload()) {
            let spec = WorkloadSpec {
                name: name.workload().clone(),
                replicas: 0,
                run: None,
                template: Template::of_image(""),
                addresses: Vec::new(),
                placement: Placement::default(),
                update: UpdatePolicy::default(),
                on_lost: OnLost::Keep,
                on_move: OnMove::default(),
                job: None,
                labels: BTreeMap::new(),
            };
            self.declare_version(&spec, "", now);
            self.put_workload(Workload { removing: true, ..next_workload(None, spec, false, now) });
        }
        let Some(workload) = self.tables.workloads().get(name.workload()).cloned() else { return };
        let identity = self.claim_static(name, claim.address, now).ok();
        let Some(form) = self.form_for_new(&workload) else { return };
        let instance = self.new_instance(&workload, form, name, now, identity);
        let (node, generation) = (Some(node.clone()), claim.generation.next());
        self.put_with(|revision| {
            let leaving = Some(Leaving { since: revision, to: None });
            let (life, removing) = (revision, true);
            let instance =
                Instance { node, generation, leaving, removing, life, revision, ..instance };
            Record::Instance(Arc::new(instance))
        });
    }

    /// Refuses what has to wait until a restore is confirmed.
    pub(super) fn check_confirmed(&self, command: &Command) -> Result<(), Refusal> {
        let changes_something = matches!(
            command,
            Command::ApplyWorkloads { dry_run: false, .. }
                | Command::RollBack { dry_run: false, .. }
                | Command::Resize { dry_run: false, .. }
                | Command::ResizeInstance { dry_run: false, .. }
                | Command::Pause { .. }
                | Command::Resume(_)
                | Command::RemoveWorkload(_)
                | Command::Scale { .. }
                | Command::ScaleAll(_)
                | Command::SetRun { .. }
                | Command::Restart(_)
                | Command::ReplaceInstances(_)
                | Command::RebuildInstances(_)
                | Command::ReaddressInstances(_)
                | Command::ChangeBlocks { .. }
                | Command::DissociateInstances(_)
                | Command::AdoptInstances(_)
                | Command::AdoptContainer { dry_run: false, .. }
                | Command::RebootNodes(_)
                | Command::RedeemToken(_)
                | Command::RemoveVolume { .. }
        ) || matches!(
            command,
            Command::UpdateNode { change, .. } if !change.leaves_instances_alone()
        );
        if changes_something && self.is_unconfirmed() {
            return Err(Refusal::RestoreUnconfirmed);
        }
        Ok(())
    }

    /// A history began or was confirmed: whatever was sent before is sent anew.
    pub(super) fn note_for_history(
        &mut self,
        old: Option<&Record>,
        new: Option<&Record>,
        at: Revision,
    ) -> bool {
        let shown = |record: Option<&Record>| match record {
            Some(Record::History(history)) => {
                Some((history.incarnation, history.restored.is_some()))
            }
            _ => None,
        };
        // The first history of a store begins before anybody was told anything.
        let has_changed = old.is_some() && shown(old) != shown(new);
        if has_changed {
            self.started = at;
            self.shown.restart(at);
        }
        has_changed
    }
}

/// What each node holds, as it said when it attached. Only while a restore is unconfirmed.
pub(super) type Claims = BTreeMap<NodeName, Vec<Claim>>;

/// What is there on each node, as it said since it attached, of which generation and at which address. Only of nodes that attached while a
/// restore was unconfirmed.
pub(super) type Remains = BTreeMap<NodeName, BTreeMap<InstanceName, Claim>>;
