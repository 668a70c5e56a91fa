//! A random fleet: users, hosts, faults and time in any order; what must always hold, holds.

use std::collections::{BTreeMap, BTreeSet};

use dwell_core::id::{Generation, InstanceName, NodeName, Revision, VolumeName};
use dwell_core::image::ImageDigest;
use dwell_core::instance::{Outcome, RunState};
use dwell_core::job::Job;
use dwell_core::quantity::{Millicores, Millis};
use dwell_core::registry::RegistryLogin;
use dwell_core::session::StatusReport;
use dwell_core::workload::{
    Machine, Mount, MountSource, OnImageChange, OnMove, Portion, RestartPolicy, WorkloadSpec,
};
use proptest::prelude::*;

use super::fleet::{Fleet, Host, address, node, settings_of, spec, workload};
use crate::model::{
    ArrivalNews, Command, MoveHow, NodeChange, OwnSize, OwnSizeChange, Refusal, Target,
    UpdateState, VolumeJob, VolumeMoveNews, WorkloadView,
};

const NODES: u8 = 4;
/// `j` is a job, and of `n` there is one on every node.
const WORKLOADS: [&str; 5] = ["a", "b", "c", "j", "n"];
/// Its instances are machines when they have a volume.
const MACHINE: usize = 2;
const JOB: usize = 3;
const PER_NODE: usize = 4;
/// How many instances of the job may be at work at once.
const AT_ONCE: u32 = 2;

#[derive(Clone, Debug)]
enum Step {
    Apply(Declared),
    /// The same, but the store fails.
    ApplyInVain(Declared),
    Remove(usize),
    Scale(usize, u32),
    /// One of those that there are, to one of the nodes or to any.
    MoveOne(usize, Option<u8>),
    MoveVolumes(usize, Option<u8>),
    StayWithVolumes(usize),
    /// What is to be copied of volumes is copied, and perhaps the controller hears of it.
    Copy(usize, bool),
    /// It cannot be.
    CopyInVain(usize),
    RemoveOne(usize),
    Readdress(usize),
    SetRun(usize, bool),
    Promote(usize),
    Abort(usize),
    Restart(usize),
    Join(u8),
    Attach(u8),
    Detach(u8),
    Cordon(u8, bool),
    Drain(u8, bool),
    Label(u8, bool),
    RemoveNode(u8, bool),
    /// The host takes its assignment.
    /// From now on images are at once where instances go, or when it is said.
    Fetches(bool),
    /// What came of fetching one.
    Fetched(usize, bool),
    Fetch(u8),
    /// The host does what its assignment says.
    Converge(u8),
    /// The host looks, and what it saw is under way.
    Look(u8),
    /// Something that is under way arrives, perhaps not for the last time.
    Arrive(usize, bool),
    Fail(u8, usize),
    /// A main process of the job ends, well or badly.
    Finish(u8, usize, bool),
    /// What an instance has to do is to be done anew, if it is of the job.
    Redo(usize),
    Resize(usize, Option<u64>),
    /// Somebody logs in to the registry of an image, or out.
    Login(u8, bool),
    Pass(u64),
    RestartController,
}

#[derive(Clone, Debug)]
struct Declared {
    workload: usize,
    replicas: u32,
    image: u8,
    cpu: u64,
    ssd: bool,
    volume: bool,
    fixed: Option<u8>,
    deadline: u64,
}

impl Declared {
    fn spec(&self) -> WorkloadSpec {
        let mut spec = spec(WORKLOADS[self.workload], self.replicas);
        spec.template.image = format!("r{0}.example/image:{0}", self.image);
        spec.template.resources.cpu = Millicores(self.cpu);
        // The same at all times, so that it can be checked at any.
        spec.update.parallelism = Portion::Count(if self.workload == 0 { 1 } else { 2 });
        let tries_out = ![0, JOB].contains(&self.workload);
        spec.update.canary = Portion::Count(u32::from(tries_out));
        if self.workload == JOB {
            spec.job = Some(Job { parallelism: Some(AT_ONCE), ..Job::default() });
            spec.template.restart = RestartPolicy::of_attempts(2);
        }
        spec.update.deadline = Millis::seconds(self.deadline);
        if self.ssd {
            spec.placement.constraints.push("disk==ssd".parse().unwrap());
        }
        if self.volume && self.workload == MACHINE {
            let on_image_change = match self.ssd {
                true => OnImageChange::Rebuild,
                false => OnImageChange::Keep,
            };
            let volume = "root".parse().unwrap();
            spec.template.machine = Some(Machine { volume, on_image_change });
        } else if self.volume {
            spec.template.mounts.push(Mount {
                source: MountSource::Volume("data".parse().unwrap()),
                target: "/data".into(),
                read_only: false,
            });
        }
        if self.workload == 1 {
            spec.on_move = OnMove::NewAddress;
        }
        spec.placement.one_per_node = self.workload == PER_NODE;
        let fixed = self.fixed.filter(|_| self.workload != PER_NODE);
        spec.addresses =
            fixed.map(|last| address(&format!("10.80.0.{last}"))).into_iter().collect();
        spec
    }
}

fn declared() -> impl Strategy<Value = Declared> {
    (
        0..WORKLOADS.len(),
        0..5u32,
        0..3u8,
        prop::sample::select(vec![0u64, 500, 1500]),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.2, 0..40u8),
        60..62u64,
    )
        .prop_map(|(workload, replicas, image, cpu, ssd, volume, fixed, deadline)| Declared {
            workload,
            replicas,
            image,
            cpu,
            ssd,
            volume,
            fixed,
            deadline,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let host = || 1..=NODES;
    let any = any::<bool>;
    let name = || 0..WORKLOADS.len();
    prop_oneof![
        6 => declared().prop_map(Step::Apply),
        1 => declared().prop_map(Step::ApplyInVain),
        1 => name().prop_map(Step::Remove),
        2 => (name(), 0..5u32).prop_map(|(name, count)| Step::Scale(name, count)),
        1 => (0..8usize, prop::option::of(host())).prop_map(|(which, to)| Step::MoveOne(which, to)),
        2 => (0..8usize, prop::option::of(host())).prop_map(|(which, to)| Step::MoveVolumes(which, to)),
        1 => (0..8usize).prop_map(Step::StayWithVolumes),
        5 => (0..2usize, any()).prop_map(|(which, is_heard)| Step::Copy(which, is_heard)),
        1 => (0..2usize).prop_map(Step::CopyInVain),
        1 => (0..8usize).prop_map(Step::RemoveOne),
        1 => (0..8usize).prop_map(Step::Readdress),
        1 => (name(), any()).prop_map(|(name, run)| Step::SetRun(name, run)),
        2 => name().prop_map(Step::Promote),
        1 => name().prop_map(Step::Abort),
        1 => name().prop_map(Step::Restart),
        3 => host().prop_map(Step::Join),
        5 => host().prop_map(Step::Attach),
        1 => host().prop_map(Step::Detach),
        1 => (host(), any()).prop_map(|(host, on)| Step::Cordon(host, on)),
        2 => (host(), any()).prop_map(|(host, on)| Step::Drain(host, on)),
        1 => (host(), any()).prop_map(|(host, on)| Step::Label(host, on)),
        2 => (host(), any()).prop_map(|(host, force)| Step::RemoveNode(host, force)),
        1 => any().prop_map(Step::Fetches),
        3 => (0..3usize, any()).prop_map(|(which, there)| Step::Fetched(which, there)),
        10 => host().prop_map(Step::Fetch),
        10 => host().prop_map(Step::Converge),
        10 => host().prop_map(Step::Look),
        12 => (0..8usize, any()).prop_map(|(which, last)| Step::Arrive(which, last)),
        2 => (host(), 0..4usize).prop_map(|(host, which)| Step::Fail(host, which)),
        4 => (host(), 0..4usize, any()).prop_map(|(host, which, ok)| Step::Finish(host, which, ok)),
        1 => (0..8usize).prop_map(Step::Redo),
        2 => (0..8usize, prop::option::weighted(0.8, prop::sample::select(vec![0, 500, 1000, 2500])))
            .prop_map(|(which, cpu)| Step::Resize(which, cpu)),
        2 => (0..3u8, any()).prop_map(|(image, on)| Step::Login(image, on)),
        2 => prop::sample::select(vec![1u64, 20, 200, 700]).prop_map(Step::Pass),
        1 => Just(Step::RestartController),
    ]
}

struct World {
    fleet: Fleet,
    under_way: Vec<(NodeName, StatusReport)>,
    /// The tasks that have ended, as was acknowledged.
    ended: BTreeSet<(InstanceName, Revision, Generation)>,
    /// Which volumes have come to a node with which move.
    adopted: BTreeSet<(NodeName, Revision, (InstanceName, VolumeName))>,
}

impl World {
    fn take(&mut self, step: Step) {
        let host = |number: u8| node(&format!("n{number}"));
        let fleet = &mut self.fleet;
        match step {
            Step::Apply(declared) => {
                let spec = declared.spec();
                if fleet.apply(spec.clone()).is_ok() {
                    let view = fleet.model.workload(&spec.name).unwrap();
                    let replicas = if spec.placement.one_per_node {
                        view.workload.spec.replicas
                    } else {
                        spec.replicas
                    };
                    let spec = WorkloadSpec { replicas, ..spec };
                    assert_eq!(view.workload.spec, spec, "what was accepted is there");
                }
            }
            Step::ApplyInVain(declared) => fleet.command_without_store(Command::ApplyWorkloads {
                specs: vec![declared.spec()],
                keep_replicas: BTreeSet::new(),
                dry_run: false,
                force: false,
                planned: Vec::new(),
                by: String::new(),
            }),
            Step::Remove(name) => {
                let name = workload(WORKLOADS[name]);
                if fleet.command(Command::RemoveWorkload(name.clone())).is_ok() {
                    let left = fleet.model.workload(&name);
                    assert!(left.is_none_or(|left| left.workload.removing));
                }
            }
            Step::Scale(name, replicas) => {
                let workload = workload(WORKLOADS[name]);
                let scale = Command::Scale { workload: workload.clone(), replicas };
                if fleet.command(scale).is_ok() {
                    assert_eq!(
                        fleet.model.workload(&workload).unwrap().workload.spec.replicas,
                        replicas
                    );
                }
            }
            Step::MoveOne(which, to) => {
                self.move_one(which, to.map(host), which % 2 == 1, MoveHow::default());
            }
            Step::MoveVolumes(which, to) => {
                self.move_one(which, to.map(host), false, MoveHow::WithVolumes);
            }
            Step::StayWithVolumes(which) => self.move_one(which, None, false, MoveHow::Abort),
            Step::Copy(which, is_heard) => self.copy(which, is_heard),
            Step::Fetches(fetches) => fleet.fetches = fetches,
            Step::Fetched(which, there) => {
                if let Some(arrival) = fleet.model.arrivals().into_iter().nth(which) {
                    let cannot = || ArrivalNews::Cannot("refused".to_owned());
                    let news = if there { ArrivalNews::There } else { cannot() };
                    fleet.command(Command::NoteArrival { arrival, news }).unwrap();
                }
            }
            Step::CopyInVain(which) => {
                if let Some(job) = fleet.model.volume_moves().into_iter().nth(which) {
                    self.tell(job, VolumeMoveNews::Failed("it has no room".to_owned()));
                }
            }
            Step::RemoveOne(which) => {
                let chosen = fleet.model.tables.instances().keys().nth(which).cloned();
                drop(fleet.command(Command::RemoveInstances(chosen.into_iter().collect())));
            }
            Step::Readdress(which) => {
                let chosen = fleet.model.tables.instances().keys().nth(which).cloned();
                drop(fleet.command(Command::ReaddressInstances(chosen.into_iter().collect())));
            }
            Step::SetRun(name, run) => {
                let target = Target::Workload(workload(WORKLOADS[name]));
                let run = if run { RunState::Running } else { RunState::Stopped };
                drop(fleet.command(Command::SetRun { target, run }));
            }
            Step::Promote(name) => {
                drop(fleet.command(Command::Promote(workload(WORKLOADS[name]))));
            }
            Step::Abort(name) => {
                let workload = workload(WORKLOADS[name]);
                drop(fleet.command(Command::Abort { workload, by: String::new() }));
            }
            Step::Restart(name) => {
                drop(fleet.command(Command::Restart(Target::Workload(workload(WORKLOADS[name])))));
            }
            Step::Join(number) => {
                drop(fleet.join(host(number).as_str()));
                // The tag moves all the time, and every other node has an agent that does not know of it.
                if let Some(host) = fleet.hosts.get_mut(&host(number)) {
                    host.tags_mean = Some(ImageDigest::new([number; 32]));
                    host.ignores_pins = number % 2 == 1;
                }
            }
            Step::Attach(number) => {
                if fleet.hosts.contains_key(&host(number)) {
                    fleet.attach(&host(number)).unwrap();
                }
            }
            Step::Detach(number) => {
                if let Some(session) =
                    fleet.hosts.get_mut(&host(number)).and_then(|host| host.session.take())
                {
                    fleet.command(Command::DetachNode { node: host(number), session }).unwrap();
                }
            }
            Step::Cordon(number, on) => {
                let change = NodeChange { cordoned: Some(on), ..NodeChange::default() };
                drop(fleet.update_node(host(number).as_str(), change));
            }
            Step::Drain(number, on) => {
                let change = NodeChange { draining: Some(on), ..NodeChange::default() };
                drop(fleet.update_node(host(number).as_str(), change));
            }
            Step::Label(number, on) => {
                let mut change = NodeChange::default();
                if on {
                    change.set_labels = BTreeMap::from([("disk".into(), "ssd".into())]);
                } else {
                    change.remove_labels = vec!["disk".into()];
                }
                drop(fleet.update_node(host(number).as_str(), change));
            }
            Step::RemoveNode(number, force) => {
                let removal = Command::RemoveNode { node: host(number), force };
                if fleet.command(removal).is_ok() && force {
                    // Whoever removes by force has made sure that nothing runs there, or ever will.
                    *fleet.hosts.get_mut(&host(number)).unwrap() = Host::default();
                }
            }
            Step::Fetch(number) => {
                if fleet.hosts.get(&host(number)).is_some_and(|host| host.session.is_some()) {
                    fleet.fetch(&host(number));
                }
            }
            Step::Converge(number) => {
                let now = fleet.now;
                if let Some(host) = fleet.hosts.get_mut(&host(number)) {
                    host.converge(now);
                }
            }
            Step::Look(number) => {
                if let Some(seen) = fleet.hosts.get(&host(number)).map(Host::look) {
                    self.under_way.push((host(number), seen));
                }
            }
            Step::Arrive(which, last) => self.arrive(which, last),
            Step::Fail(number, which) => {
                let now = fleet.now;
                if let Some(host) = fleet.hosts.get_mut(&host(number))
                    && let Some(name) = host.containers.keys().nth(which).cloned()
                    && let Some(instance) = fleet.model.tables.instances().get(&name)
                    && instance.update == UpdateState::Updating
                {
                    host.fail(&name, now);
                }
            }
            Step::Finish(number, which, ok) => {
                let now = fleet.now;
                if let Some(host) = fleet.hosts.get_mut(&host(number))
                    && let Some(name) = host.containers.keys().nth(which).cloned()
                    && host.tasks.get(&name).is_none_or(|told| told.end.is_none())
                {
                    host.finish(&name, i32::from(!ok), now);
                }
            }
            Step::Redo(which) => {
                let chosen = fleet.model.tables.instances().keys().nth(which).cloned();
                let is_of = |number: usize| {
                    let name = workload(WORKLOADS[number]);
                    chosen.clone().filter(|chosen| *chosen.workload() == name).into_iter()
                };
                let (redone, rebuilt) = (is_of(JOB).collect(), is_of(MACHINE).collect());
                drop(fleet.command(Command::ReplaceInstances(redone)));
                drop(fleet.command(Command::RebuildInstances(rebuilt)));
            }
            Step::Resize(which, cpu) => {
                let chosen = fleet.model.tables.instances().keys().nth(which).cloned();
                let own = |cpu| OwnSize { cpu: Some(Millicores(cpu)), memory: None };
                let size = cpu.map_or(OwnSizeChange::Reset, |cpu| OwnSizeChange::Set(own(cpu)));
                if let Some(instance) = chosen {
                    drop(fleet.command(Command::ResizeInstance {
                        instance,
                        size,
                        dry_run: false,
                        force: false,
                    }));
                }
            }
            Step::Login(image, on) => {
                let host = format!("r{image}.example").parse().unwrap();
                let by = String::new();
                drop(fleet.command(if on {
                    let login = RegistryLogin::new("ci".into(), "secret".into()).unwrap();
                    Command::SetRegistryLogin { host, login, by }
                } else {
                    Command::RemoveRegistryLogin { host, by }
                }));
            }
            Step::Pass(seconds) => fleet.pass(seconds),
            Step::RestartController => fleet.restart_controller(),
        }
        self.fleet.check();
        self.check_job();
        self.check_per_node();
    }

    fn move_one(&mut self, which: usize, to: Option<NodeName>, new_address: bool, how: MoveHow) {
        let instances = self.fleet.model.tables.instances().keys().nth(which).cloned();
        let instances = instances.into_iter().collect();
        let order = Command::MoveInstances { instances, to, new_address, how, dry_run: false };
        drop(self.fleet.command(order));
    }

    /// As the agents do it: a volume that is there already is not copied over, unless it has come with the same move.
    fn copy(&mut self, which: usize, is_heard: bool) {
        let Some(job) = self.fleet.model.volume_moves().into_iter().nth(which) else { return };
        let host = self.fleet.hosts.get_mut(&job.to).unwrap();
        for (volume, _) in &job.volumes {
            let key = (job.instance.clone(), volume.clone());
            let of_move = (job.to.clone(), job.of_move, key.clone());
            let is_adopted = self.adopted.contains(&of_move) && host.volumes.contains(&key);
            if host.volumes.contains(&key) && !(is_adopted && job.is_final) {
                return self.tell(job, VolumeMoveNews::Failed("it is there already".to_owned()));
            }
            if job.is_final {
                host.copies.remove(&key);
                host.volumes.insert(key);
                self.adopted.insert(of_move);
            } else {
                host.copies.insert(key);
            }
        }
        if is_heard {
            let is_final = job.is_final;
            let news = if is_final { VolumeMoveNews::Adopted } else { VolumeMoveNews::Copied };
            self.tell(job, news);
        }
    }

    fn tell(&mut self, job: VolumeJob, news: VolumeMoveNews) {
        let VolumeJob { instance, of_move, .. } = job;
        self.fleet.command(Command::NoteVolumeMove { instance, of_move, news }).unwrap();
    }

    /// No node has two of those of which it is to have one.
    fn check_per_node(&self) {
        let instances = self.fleet.model.tables.instances_of(&workload(WORKLOADS[PER_NODE]));
        let mut nodes = BTreeSet::new();
        for instance in instances {
            let Some(node) = &instance.node else { continue };
            assert!(nodes.insert(node), "{} is the second one on {node}", instance.name);
            let moves = instance.leaving.as_ref().is_some_and(|leaving| leaving.to.is_some());
            assert!(!moves, "{} leaves {node}", instance.name);
        }
    }

    /// Every node that takes instances and is allowed to has one, and no other has.
    fn check_every_node(&self) {
        let model = &self.fleet.model;
        let Some(view) = model.workload(&workload(WORKLOADS[PER_NODE])) else { return };
        let rules = &view.workload.spec.placement;
        for node in model.tables.nodes().values() {
            let count = model.tables.instances_of(&view.workload.spec.name);
            let count = count.filter(|instance| instance.node.as_ref() == Some(&node.name)).count();
            let is_allowed = !node.removed && model.allows(node, rules).is_some_and(|(is, _)| is);
            let is_waiting = model.tables.instances_of(&view.workload.spec.name);
            let is_waiting = is_waiting.filter(|instance| instance.node.is_none()).count();
            assert!(
                count == usize::from(is_allowed) || (is_allowed && is_waiting > 0),
                "{}",
                node.name
            );
        }
    }

    /// What has ended stays so and is told to nobody as something to run, and no more are at work than may be.
    fn check_job(&mut self) {
        let model = &self.fleet.model;
        let job = workload(WORKLOADS[JOB]);
        let mut at_work = 0;
        for instance in model.tables.instances_of(&job) {
            let Some(task) = &instance.task else { continue };
            let key = (instance.name.clone(), instance.life, task.number);
            assert!(
                task.end.is_some() || !self.ended.contains(&key),
                "{key:?} is to be done again"
            );
            if task.end.is_some() {
                self.ended.insert(key);
            }
            let Some(node) = instance.assigned_to() else { continue };
            let told = model.assignment(node).instances;
            let runs = told.get(&instance.name).is_some_and(|one| one.run == RunState::Running);
            assert!(!(runs && task.end.is_some()), "{} has ended and is to run", instance.name);
            at_work += u32::from(task.end.is_none());
        }
        assert!(at_work <= AT_ONCE, "{at_work} are at work");
    }

    fn arrive(&mut self, which: usize, last: bool) {
        if which >= self.under_way.len() {
            return;
        }
        let (node, report) =
            if last { self.under_way.remove(which) } else { self.under_way[which].clone() };
        match self.fleet.deliver(&node, report) {
            Ok(_) | Err(Refusal::SessionSuperseded(_)) => {}
            Err(refusal) => panic!("{refusal}"),
        }
    }

    /// All faults end; the fleet comes to what was declared.
    fn heal(&mut self) {
        let names: Vec<NodeName> = self.fleet.hosts.keys().cloned().collect();
        self.fleet.fetches = true;
        for name in &names {
            drop(self.fleet.update_node(
                name.as_str(),
                NodeChange { cordoned: Some(false), ..NodeChange::default() },
            ));
            self.fleet.attach(name).unwrap();
        }
        self.fleet.pass(1_000);
        for name in &names {
            self.fleet.attach(name).unwrap();
        }
        self.fleet.settle();
        self.promote_all();
        self.fleet.check();
        self.check_healed();
        self.check_every_node();
    }

    /// What a few try out holds by now, and is given to the others.
    fn promote_all(&mut self) {
        let tried = |view: &WorkloadView| view.canaries_hold.is_some();
        let tried: Vec<_> = self.fleet.model.workloads().into_iter().filter(tried).collect();
        for view in tried {
            // One that waits for a place has not held.
            if view.canaries_hold == Some(true) {
                let name = view.workload.spec.name.clone();
                self.fleet.command(Command::Promote(name)).unwrap();
            }
        }
        self.fleet.settle();
    }

    fn check_healed(&self) {
        let model = &self.fleet.model;
        for view in model.workloads() {
            let workload = &view.workload;
            assert!(!workload.removing, "what was removed is gone");
            assert_eq!(
                view.instances, workload.spec.replicas,
                "{} has its instances",
                workload.spec.name
            );
            for instance in model.tables.instances_of(&workload.spec.name) {
                assert!(instance.leaving.is_none() && !instance.removing);
                assert!(instance.heading.is_none());
                if instance.has_ended() {
                    continue;
                }
                let Some(node) = &instance.node else { continue };
                let container = &self.fleet.hosts[node].containers[&instance.name];
                let stays = model.tables.waiting().contains_key(&instance.name);
                if workload.paused.is_none() && !stays {
                    assert_eq!(
                        instance.wanted.template, workload.spec.template,
                        "{}",
                        instance.name
                    );
                    assert_eq!(instance.update, UpdateState::Current, "{}", instance.name);
                    assert_eq!(container.generation, instance.generation);
                    assert_eq!(container.verdict_on(instance.generation), Some(&Outcome::Held));
                }
                assert!(stays || !model.is_misplaced(workload, node), "{}", instance.name);
            }
        }
        let containers = self.fleet.hosts.values().map(|host| host.containers.len()).sum::<usize>();
        let placed = model.tables.instances().values().filter(|instance| instance.node.is_some());
        assert_eq!(containers, placed.count(), "what runs is what was declared");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_random_fleet_keeps_its_promises(steps in prop::collection::vec(step(), 1..120)) {
        let fleet = Fleet::new(settings_of("10.80.0.0/24", 28));
        let (under_way, ended, adopted) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut world = World { fleet, under_way, ended, adopted };
        for step in steps {
            world.take(step);
        }
        world.heal();
    }
}
