//! A fleet to test with: the model, its store, and hosts that do what they are told, when told to.
//!
//! Every change is checked as it is made: that refusals leave no trace, that reverting restores, that
//! what is stored is what is known, and that no two containers of one identity are ever there.

mod check;
mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use dwell_core::clock::Timestamp;
use dwell_core::directory::{Directory, DirectoryInstance};
use dwell_core::health::Health;
use dwell_core::host_mark::HostMark;
use dwell_core::id::{
    Generation, Incarnation, InstanceName, NodeName, Position, Revision, VolumeName, WorkloadName,
};
use dwell_core::image::{ContainerImage, ImageDigest};
use dwell_core::instance::{
    AheadState, Assigned, ImageAhead, InstanceStatus, Outcome, Phase, RunState, Verdict,
};
use dwell_core::job::TaskReport;
use dwell_core::net::{ClusterRange, Ranges};
use dwell_core::node::Capacity;
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::session::{Assignment, Claim, Hello, SeenVolume, StatusReport};
use dwell_core::skill::Skills;
use dwell_core::workload::{OnLost, OnMove, Placement, Template, UpdatePolicy, WorkloadSpec};

use self::check::durable;
use crate::model::tables::Tables;
use crate::model::{
    ArrivalNews, Change, Command, Instance, Join, Key, Model, NodeChange, Record, Refusal, Reply,
    SessionId, Settings, TokenId, VolumeState, WorkloadPlan,
};

/// What a store holds: JSON by table and name.
pub(super) type Snapshot = BTreeMap<(&'static str, String), Vec<u8>>;

pub(super) struct Fleet {
    pub(super) model: Model,
    pub(super) now: Timestamp,
    pub(super) hosts: BTreeMap<NodeName, Host>,
    /// What a store would hold: JSON by table and name.
    stored: Snapshot,
    /// Whose an address was when it was released, and until when nobody else may have it.
    released: BTreeMap<Ipv4Addr, (InstanceName, Timestamp)>,
    /// What an operator has sent elsewhere, whoever's turn it was.
    ordered: BTreeSet<InstanceName>,
    /// Whether images are at once where instances go; else the test says what came of it.
    pub(super) fetches: bool,
    newest: Revision,
    sessions: u64,
    tokens: u64,
}

/// A host and its agent.
#[derive(Default)]
pub(super) struct Host {
    pub(super) host_mark: Option<HostMark>,
    /// What it says of images that it is to have ahead; `None` of an agent that does not know of them.
    pub(super) ahead: Option<AheadState>,
    pub(super) session: Option<SessionId>,
    pub(super) held: Option<Assignment>,
    pub(super) directory: Directory,
    pub(super) containers: BTreeMap<InstanceName, InstanceStatus>,
    /// What is on its disk of tasks.
    pub(super) tasks: BTreeMap<InstanceName, TaskReport>,
    /// Nobody knows which volumes are here.
    pub(super) engine_is_away: bool,
    /// What is in the volumes: how often each was made empty is known to nobody but this host.
    pub(super) volumes: BTreeSet<(InstanceName, VolumeName)>,
    /// What was copied from other nodes' volumes, and is no volume yet.
    pub(super) copies: BTreeSet<(InstanceName, VolumeName)>,
    /// Its agent is of a version that does not copy volumes.
    pub(super) moves_no_volumes: bool,
    /// Which image every reference means here, if it is of a registry; an instance may be pinned to another.
    pub(super) tags_mean: Option<ImageDigest>,
    /// Its agent is of a version that knows nothing of leases.
    pub(super) keeps_no_leases: bool,
    /// Its agent is of a version that carries no files over.
    pub(super) carries_nothing: bool,
    /// Its agent is of a version that knows of one block a node.
    pub(super) knows_no_blocks: bool,
    /// Its agent is of a version that knows of one range of addresses.
    pub(super) knows_no_ranges: bool,
    /// Its agent is of a version that does not know of these.
    pub(super) lacks: Skills,
    /// Its agent is of a version that can let go of nothing.
    pub(super) lets_nothing_go: bool,
    /// What is on its disk of instances that it has let go: at which generation.
    pub(super) let_go: BTreeMap<InstanceName, Generation>,
    /// Its agent is of a version that knows nothing of digests in what it is told.
    pub(super) ignores_pins: bool,
    /// How often the host has booted.
    pub(super) boots: u64,
    /// Its agent is not to reboot the host.
    pub(super) is_not_to_reboot: bool,
    /// Its agent is of a version that knows nothing of reboots.
    pub(super) knows_no_reboots: bool,
}

pub(super) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub(super) fn workload(name: &str) -> WorkloadName {
    WorkloadName::new(name).unwrap()
}

pub(super) fn instance(name: &str) -> InstanceName {
    name.parse().unwrap()
}

pub(super) fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub(super) fn spec(name: &str, replicas: u32) -> WorkloadSpec {
    WorkloadSpec {
        name: workload(name),
        replicas,
        run: None,
        template: Template::of_image("image:1"),
        addresses: Vec::new(),
        placement: Placement::default(),
        update: UpdatePolicy::default(),
        on_lost: OnLost::Keep,
        on_move: OnMove::default(),
        job: None,
        labels: BTreeMap::new(),
    }
}

pub(super) fn settings() -> Settings {
    settings_of("10.80.0.0/16", 24)
}

pub(super) fn settings_of(cidr: &str, prefix: u8) -> Settings {
    Settings {
        events_max: 50,
        ..Settings::new(ClusterRange::of(cidr.parse::<Ranges>().unwrap().iter(), prefix).unwrap())
    }
}

impl Fleet {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            model: Model::new(settings),
            now: Timestamp(1_000_000),
            hosts: BTreeMap::new(),
            stored: BTreeMap::new(),
            released: BTreeMap::new(),
            ordered: BTreeSet::new(),
            fetches: true,
            newest: Revision(0),
            sessions: 0,
            tokens: 0,
        }
    }

    /// A fleet of `n1`, `n2` and so on, attached.
    pub(super) fn of(nodes: usize) -> Self {
        let mut fleet = Self::new(settings());
        for index in 1..=nodes {
            fleet.join(&format!("n{index}")).unwrap();
            fleet.attach(&node(&format!("n{index}"))).unwrap();
        }
        fleet
    }

    pub(super) fn command(&mut self, command: Command) -> Result<Reply, Refusal> {
        self.command_for("", command)
    }

    pub(super) fn command_for(&mut self, by: &str, command: Command) -> Result<Reply, Refusal> {
        let before = self.model.tables.clone();
        // What is ordered for chosen instances is done at once, however many others are changing.
        let chosen = match &command {
            Command::MoveInstances { instances, .. } => instances.as_slice(),
            Command::ResizeInstance { instance, .. } => std::slice::from_ref(instance),
            _ => &[],
        };
        if !chosen.is_empty() {
            let updating = &self.model.tables.index().updating;
            self.ordered.retain(|one| updating.values().any(|those| those.contains(one)));
            self.ordered.extend(chosen.iter().cloned());
        }
        match self.model.apply_for(by.to_owned(), command, self.now) {
            Ok(applied) => {
                self.commit(applied.changes);
                self.fetch_for_arrivals();
                Ok(applied.reply)
            }
            Err(refusal) => {
                assert_eq!(self.model.tables, before, "a refusal leaves no trace: {refusal}");
                Err(refusal)
            }
        }
    }

    /// Every node has every image, unless a test says otherwise.
    fn fetch_for_arrivals(&mut self) {
        if self.fetches {
            arrived(&self.model).into_iter().for_each(|noted| drop(self.command(noted).unwrap()));
        }
    }

    /// The store fails: the command is as if it had never been given.
    pub(super) fn command_without_store(&mut self, command: Command) {
        let before = self.model.tables.clone();
        if let Ok(applied) = self.model.apply(command, self.now) {
            self.model.revert(applied.changes);
        }
        assert_eq!(self.model.tables, before, "what could not be stored leaves no trace");
    }

    pub(super) fn dry_run(
        &mut self,
        specs: Vec<WorkloadSpec>,
    ) -> Result<Vec<WorkloadPlan>, Refusal> {
        let before = self.model.tables.clone();
        let reply = self.command(Command::ApplyWorkloads {
            specs,
            keep_replicas: BTreeSet::new(),
            dry_run: true,
            force: false,
            planned: Vec::new(),
            by: String::new(),
        });
        assert_eq!(self.model.tables, before, "a dry run leaves no trace");
        reply.map(plans)
    }

    pub(super) fn apply(&mut self, spec: WorkloadSpec) -> Result<WorkloadPlan, Refusal> {
        let promised = self.dry_run(vec![spec.clone()]);
        let reply = self.command(Command::ApplyWorkloads {
            specs: vec![spec],
            keep_replicas: BTreeSet::new(),
            dry_run: false,
            force: false,
            planned: Vec::new(),
            by: String::new(),
        });
        let plans = reply.map(plans);
        assert_eq!(promised, plans, "a dry run says what will be");
        plans.map(|mut plans| plans.remove(0))
    }

    pub(super) fn commit(&mut self, changes: Vec<Change>) {
        for change in &changes {
            assert!(change.revision > self.newest, "revisions only grow");
            self.newest = change.revision;
            self.check_change(change);
            let Some(table) = change.key.table() else { continue };
            let key = (table, change.key.name());
            match &change.new {
                Some(record) => drop(self.stored.insert(key, record.encode().unwrap())),
                None => drop(self.stored.remove(&key)),
            }
        }
        self.model.publish(changes);
    }

    /// The controller is killed and starts again from its store.
    pub(super) fn restart_controller(&mut self) {
        self.restart_with(self.model.settings().clone());
    }

    /// The same, with another configuration.
    pub(super) fn restart_with(&mut self, settings: Settings) {
        let records: Vec<Record> = self
            .stored
            .iter()
            .map(|((table, _), json)| Record::decode(table, json).unwrap())
            .collect();
        let is_same_range = settings.range == self.model.settings().range;
        let restored = Model::restore(settings, records, self.now);
        if is_same_range {
            assert_eq!(durable(&restored.tables), durable(&self.model.tables));
        }
        assert!(restored.revision() >= self.newest, "revisions go on");
        self.model = restored;
        for host in self.hosts.values_mut() {
            host.session = None;
        }
        self.command(Command::Tick).unwrap();
    }

    /// The controller starts, with evidence of a restore or without.
    pub(super) fn begin(&mut self, fresh: u64, evidence: Option<String>) {
        self.command(Command::Begin { fresh: Incarnation(fresh), evidence }).unwrap();
    }

    /// A copy of the store.
    pub(super) fn backup(&self) -> Snapshot {
        self.stored.clone()
    }

    /// The controller is ended, its store replaced by a backup, and started again.
    pub(super) fn restore(&mut self, backup: Snapshot) {
        self.stored = backup;
        self.released.clear();
        let records: Vec<Record> = self
            .stored
            .iter()
            .map(|((table, _), json)| Record::decode(table, json).unwrap())
            .collect();
        self.model = Model::restore(self.model.settings().clone(), records, self.now);
        self.newest = self.model.revision();
        for host in self.hosts.values_mut() {
            host.session = None;
        }
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.now = Timestamp(self.now.0 + seconds * 1000);
        self.command(Command::Tick).unwrap();
    }

    pub(super) fn mint(&mut self) -> (TokenId, [u8; 32]) {
        self.tokens += 1;
        let id = TokenId(format!("t{}", self.tokens));
        let digest = [7; 32];
        let expires_at = Timestamp(self.now.0 + 3_600_000);
        self.command(Command::MintToken { id: id.clone(), digest, expires_at }).unwrap();
        (id, digest)
    }

    pub(super) fn join(&mut self, name: &str) -> Result<Reply, Refusal> {
        let (token, digest) = self.mint();
        let number: u8 = name[1..].parse().unwrap();
        let reply = self.command(Command::RedeemToken(Join {
            token,
            digest,
            name: node(name),
            address: Ipv4Addr::new(192, 168, 0, number),
            enrolment: "c".into(),
            routes_only: false,
            host_mark: None,
        }))?;
        self.hosts.entry(node(name)).or_default();
        Ok(reply)
    }

    /// Joins and attaches node number `index`, as one of very many.
    pub(super) fn join_quickly(&mut self, index: u32, session: SessionId) {
        let name = node(&format!("n{index}"));
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 168, 0, 0)) + index);
        let (token, digest) = (TokenId(format!("q{index}")), [7; 32]);
        let expires_at = Timestamp(u64::MAX);
        for command in [
            Command::MintToken { id: token.clone(), digest, expires_at },
            Command::RedeemToken(Join {
                token,
                digest,
                name: name.clone(),
                address,
                enrolment: String::new(),
                routes_only: false,
                host_mark: None,
            }),
            Command::AttachNode {
                node: name,
                enrolment: String::new(),
                session,
                hello: Box::new(Hello {
                    capacity: Self::capacity(),
                    status: StatusReport { complete: true, ..StatusReport::default() },
                    ..Hello::of(address)
                }),
            },
        ] {
            let applied = self.model.apply(command, self.now).unwrap();
            self.model.publish(applied.changes);
        }
    }

    pub(super) fn capacity() -> Capacity {
        Capacity {
            cpu: Millicores(4000),
            memory: Bytes::mebi(4096),
            arch: "x86_64".into(),
            ..Capacity::default()
        }
    }

    /// What a host's certificate says, as long as the controller knows it.
    pub(super) fn enrolment(&self, name: &NodeName) -> String {
        self.model.node(name).map(|view| view.node.enrolment.clone()).unwrap_or_default()
    }

    pub(super) fn attach(&mut self, name: &NodeName) -> Result<(), Refusal> {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let number = name.as_str()[1..].parse().unwrap();
        let hello = self.hosts[name].hello(Ipv4Addr::new(192, 168, 0, number));
        let hello = Box::new(hello);
        let enrolment = self.enrolment(name);
        self.command(Command::AttachNode { node: name.clone(), enrolment, session, hello })?;
        self.hosts.get_mut(name).unwrap().session = Some(session);
        Ok(())
    }

    /// The host takes its assignment: the changes if the controller knows them, else all.
    pub(super) fn fetch(&mut self, name: &NodeName) {
        let host = self.hosts.get_mut(name).unwrap();
        let full = self.model.assignment(name);
        let is_own = host.position().incarnation == self.model.incarnation();
        let sent = Some(host.revision()).filter(|sent| is_own && *sent > Revision(0));
        if let Some(change) = self.model.assignment_change(name, sent) {
            host.held = Some(Assignment::merge(host.held.as_ref(), change).unwrap());
        }
        let held = host.held.clone().unwrap();
        if !self.model.is_unconfirmed() {
            let Assignment { revision, durable, term, .. } = full;
            let same = Assignment { revision, durable, term, ..held };
            assert_eq!(same, full, "deltas add up to the snapshot");
        }
        if self.model.directory_revision().is_some() {
            let change = self.model.directory_since(host.directory.revision);
            host.directory.apply(change.unwrap_or_else(|| self.model.directory())).unwrap();
            let whole = self.model.directory();
            assert_eq!(host.directory.instances, whole.instances, "changes add up to the whole");
            assert_eq!(host.directory.workloads, whole.workloads, "changes add up to the whole");
        }
    }

    /// Reports what is there on the present stream, and that the assignment is on disk.
    pub(super) fn report(&mut self, name: &NodeName) -> Result<Reply, Refusal> {
        self.acknowledge(name)?;
        let report = self.hosts[name].look();
        self.deliver(name, report)
    }

    /// Says that the assignment held is on the host's disk.
    pub(super) fn acknowledge(&mut self, name: &NodeName) -> Result<Reply, Refusal> {
        let host = &self.hosts[name];
        let stored = host.held.as_ref().map(Assignment::position).unwrap_or_default();
        let Some(session) = host.session else {
            return Err(Refusal::SessionSuperseded(name.clone()));
        };
        self.command(Command::Acknowledge { node: name.clone(), session, stored })
    }

    pub(super) fn deliver(
        &mut self,
        name: &NodeName,
        report: StatusReport,
    ) -> Result<Reply, Refusal> {
        let Some(session) = self.hosts[name].session else {
            return Err(Refusal::SessionSuperseded(name.clone()));
        };
        self.command(Command::NodeStatus { node: name.clone(), session, report })
    }

    /// The host takes its assignment, does all of it and says so.
    pub(super) fn sync(&mut self, name: &NodeName) {
        self.fetch(name);
        let now = self.now;
        self.hosts.get_mut(name).unwrap().converge(now);
        self.check_containers();
        self.report(name).unwrap();
    }

    /// All attached hosts do what they are told, until nothing changes any more.
    pub(super) fn settle(&mut self) {
        for _ in 0..200 {
            let before = self.model.tables.clone();
            let attached: Vec<NodeName> = self
                .hosts
                .iter()
                .filter(|(_, host)| host.session.is_some())
                .map(|(name, _)| name.clone())
                .collect();
            for name in attached {
                self.sync(&name);
            }
            self.command(Command::Tick).unwrap();
            if self.model.tables == before {
                return;
            }
        }
        panic!("the fleet does not come to rest");
    }

    pub(super) fn update_node(&mut self, name: &str, change: NodeChange) -> Result<Reply, Refusal> {
        self.command(Command::UpdateNode { node: node(name), change })
    }

    pub(super) fn drain(&mut self, name: &str) {
        let change = NodeChange { draining: Some(true), ..NodeChange::default() };
        self.update_node(name, change).unwrap();
    }

    /// What a node is told to run, by name.
    pub(super) fn assigned_to(&self, name: &str) -> Vec<Assigned> {
        self.model.assignment(&node(name)).instances.into_values().collect()
    }

    /// Where an instance is.
    pub(super) fn place(&self, name: &str) -> Option<String> {
        let view = self.model.instance(&instance(name))?;
        view.instance.node.as_ref().map(ToString::to_string)
    }

    pub(super) fn address(&self, name: &str) -> Option<String> {
        let view = self.model.instance(&instance(name))?;
        view.instance.identity.map(|identity| identity.address.to_string())
    }

    pub(super) fn phase(&self, name: &str) -> Phase {
        self.model.instance(&instance(name)).unwrap().status.phase
    }

    pub(super) fn message(&self, name: &str) -> String {
        self.model.instance(&instance(name)).unwrap().status.message
    }
}

/// That all images are where instances go.
pub(super) fn arrived(model: &Model) -> Vec<Command> {
    let there = |arrival| Command::NoteArrival { arrival, news: ArrivalNews::There };
    model.arrivals().into_iter().map(there).collect()
}

pub(super) fn running(assigned: &Assigned, now: Timestamp) -> InstanceStatus {
    InstanceStatus {
        instance: assigned.instance.clone(),
        generation: assigned.generation,
        phase: match assigned.run {
            RunState::Running => Phase::Running,
            RunState::Stopped => Phase::Stopped,
        },
        health: Health::None,
        readiness: Health::None,
        container_id: "c".into(),
        address: Some(assigned.address),
        image: ContainerImage::default(),
        started_at: None,
        restarts: 0,
        exit_code: None,
        ends: Vec::new(),
        hook_failed: None,
        restarts_done: assigned.restarts_asked,
        message: String::new(),
        observed_at: now,
        verdict: Some(Verdict { generation: assigned.generation, outcome: Outcome::Held }),
        task: None,
        image_ahead: None,
        let_go: None,
    }
}

pub(super) fn plans(reply: Reply) -> Vec<WorkloadPlan> {
    match reply {
        Reply::Plans(plans) => plans,
        other => panic!("not a plan: {other:?}"),
    }
}

pub(super) fn at(generation: u64) -> Generation {
    Generation(generation)
}
