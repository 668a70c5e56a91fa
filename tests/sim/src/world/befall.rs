//! What befalls the fleet: operators, faults and their ends.

use std::collections::{BTreeMap, BTreeSet};

use dwell_agent_core::Input as CoreInput;
use dwell_agent_core::engine::EventKind;
use dwell_controller::model::{
    Command, Join, NodeChange, Refusal, Reply, Target, TokenId, VolumeKey, VolumeState,
};
use dwell_core::clock::Timestamp;
use dwell_core::health::{HealthCheck, Probe};
use dwell_core::id::{Incarnation, InstanceName, NodeName, WorkloadName};
use dwell_core::instance::RunState;
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::workload::{
    Mount, MountSource, Placement, Resources, Template, UpdatePolicy, WorkloadSpec,
};
use dwell_planner::ContainerId;

use super::{CHECK_MS, Declared, Event, Relief, World, node_name, workload_name};
use crate::action::{Action, DOWN_AFTER_MS};
use crate::agent::Input;
use crate::controller::Failed;
use crate::host::{BAD, Host, Mode, Wall, volume_name};
use crate::schedule::Ms;
use crate::truth::Violation;

impl World {
    pub(super) fn befall(&mut self, action: &Action) {
        self.note(|| format!("-- {action}"));
        match *action {
            Action::Apply { workload, bad } => self.apply(workload.into(), bad),
            Action::Scale { workload, replicas } => self.scale(workload.into(), replicas),
            Action::Remove { workload } => self.remove(workload.into()),
            Action::RemoveAndApply { workload, after_ms } => {
                self.remove(workload.into());
                self.schedule.at(self.now + after_ms, Event::Apply { workload: workload.into() });
            }
            Action::Restart { workload } => {
                let name = self.workload(workload.into());
                let command = Command::Restart(Target::Workload(name.clone()));
                self.operate(&name, command, |declared| declared);
            }
            Action::Run { workload, run } => self.set_run(workload.into(), run),
            Action::Drain { host, on } => {
                let change = NodeChange {
                    draining: on.then_some(true),
                    cordoned: (!on).then_some(false),
                    ..NodeChange::default()
                };
                let node = self.hosts[self.host(host)].name.clone();
                drop(self.command(Command::UpdateNode { node, change }));
            }
            Action::RemoveVolume { pick } => {
                let all = self.volumes();
                let one = all.get(usize::from(pick) % all.len().max(1)).cloned();
                one.into_iter().for_each(|key| self.remove_volume(key));
            }
            Action::KillAgent { host, down_ms } => {
                let host = self.host(host);
                self.kill_agent(host);
                let life = self.hosts[host].life;
                self.schedule.at(self.now + down_ms, Event::StartAgent { host, life });
            }
            Action::PowerLoss { host, down_ms } => self.power_loss(host, down_ms),
            Action::KillProcess { host, pick } => {
                let host = self.host(host);
                if let Some(container) = self.container(host, pick) {
                    self.end_process(host, &container, 137);
                }
            }
            Action::RemoveContainer { host, pick } => {
                let host = self.host(host);
                if let Some(container) = self.container(host, pick) {
                    self.end_process(host, &container, 137);
                    self.stir(host, &container, EventKind::Removed);
                    self.hosts[host].engine.containers.remove(&container);
                }
            }
            Action::MissDeath { host, pick } => self.miss_death(host, pick),
            Action::LoseSandbox { host, pick } => self.lose_sandbox(host, pick),
            Action::FillDisk { host, for_ms } => {
                let host = self.host(host);
                self.hosts[host].disk.full = true;
                self.relieve_after(for_ms, Relief::Disk(host));
            }
            Action::EngineDown { host, for_ms, kills } => self.engine_down(host, for_ms, kills),
            Action::EngineHangs { host, for_ms } => {
                let host = self.host(host);
                self.hosts[host].engine.mode = Mode::Hung;
                self.relieve_after(for_ms, Relief::Engine(host));
            }
            Action::EngineFaulty { host, for_ms, failing, losing, slow_max } => {
                let host = self.host(host);
                let engine = &mut self.hosts[host].engine;
                (engine.failing, engine.losing, engine.slow_max) = (failing, losing, slow_max);
                self.relieve_after(for_ms, Relief::Calls(host));
            }
            Action::Cut { host, for_ms, up, down } => {
                let host = self.host(host);
                self.cut(host, up, down);
                self.relieve_after(for_ms, Relief::Link(host));
            }
            Action::Delay { host, for_ms, delay_max } => {
                let host = self.host(host);
                self.hosts[host].link.delay_max = delay_max;
                self.relieve_after(for_ms, Relief::Link(host));
            }
            Action::BreakStream { host } => self.lose_stream(self.host(host)),
            Action::StepClock { host, by_ms } => {
                let host = host.map(|host| self.host(host));
                let wall = match host {
                    Some(host) => &mut self.hosts[host].wall,
                    None => &mut self.controller.wall,
                };
                wall.ahead = by_ms;
            }
            Action::KillController { down_ms } => self.kill_controller(down_ms),
            Action::CrashInCommit { kept } => self.controller.crash_in_commit = Some(kept),
            Action::FillStore { for_ms } => {
                self.controller.store.full = true;
                self.relieve_after(for_ms, Relief::Store);
            }
            Action::Restore { back } => {
                let backup = self.controller.store.len() * usize::from(back) / 256;
                self.kill_controller(2_000);
                self.controller.store.restore(backup.max(1));
                self.declared.clear();
            }
            Action::RemoveNode { host, returns_after_ms, reuse } => {
                let host = self.host(host);
                self.cut(host, true, true);
                self.schedule.at(self.now + DOWN_AFTER_MS, Event::ForceRemove { host, reuse });
                self.relieve_after(DOWN_AFTER_MS + returns_after_ms, Relief::Link(host));
            }
            Action::CloneHost { host } => self.clone_host(host),
        }
    }

    fn host(&self, number: u8) -> usize {
        usize::from(number) % self.hosts.len().max(1)
    }

    fn workload(&self, number: usize) -> WorkloadName {
        workload_name(number % self.scenario.workloads.len().max(1))
    }

    fn container(&self, host: usize, pick: u8) -> Option<ContainerId> {
        let all = &self.hosts[host].engine.containers;
        all.keys().nth(usize::from(pick) % all.len().max(1)).cloned()
    }

    // ── operators ───────────────────────────────────────────────────────────────────────────────

    /// Gives the controller a command, and has its sessions tell whom it concerns.
    pub(super) fn command(&mut self, command: Command) -> Result<Reply, Failed> {
        let life = self.controller.life;
        match self.controller.command(command, self.now) {
            Ok((reply, touched, changes)) => {
                self.check_changes(&changes);
                for stream in self.controller.due(&touched) {
                    self.later(1, 6, Event::Push { stream });
                }
                Ok(reply)
            }
            Err(Failed::Crashed) => {
                self.note(|| "controller: crashes in a commit".to_owned());
                self.controller_gone(life, 1_000);
                Err(Failed::Crashed)
            }
            Err(failed) => Err(failed),
        }
    }

    /// An operator gives a command about a workload. `becomes` says what is declared if it is done.
    fn operate(
        &mut self,
        name: &WorkloadName,
        command: Command,
        becomes: impl FnOnce(Option<Declared>) -> Option<Declared>,
    ) {
        match self.command(command) {
            Ok(_) => {
                self.unsure.remove(name);
                match becomes(self.declared.remove(name)) {
                    Some(declared) => drop(self.declared.insert(name.clone(), declared)),
                    None => drop(self.declared.remove(name)),
                }
            }
            Err(Failed::Crashed) => drop(self.unsure.insert(name.clone())),
            Err(failed) => self.note(|| format!("operator: {name}: {failed:?}")),
        }
    }

    /// Declares a workload, with an image that works or one of the others.
    pub(super) fn apply(&mut self, workload: usize, bad: Option<u8>) {
        let name = self.workload(workload);
        let number = workload % self.scenario.workloads.len().max(1);
        let shape = self.scenario.workloads[number];
        self.version += 1;
        let temper = bad.and_then(|bad| BAD.get(usize::from(bad))).copied().unwrap_or("good");
        let mut template = Template::of_image(format!("{temper}:{}", self.version));
        template.resources = Resources { cpu: Millicores(100), memory: Bytes::mebi(64) };
        template.stop_grace = Millis::seconds(shape.grace_s);
        template.healthcheck = shape.health.then(|| HealthCheck::new(Probe::Tcp { port: 80 }));
        if shape.volume {
            let source = MountSource::Volume(volume_name());
            template.mounts = vec![Mount { source, target: "/data".to_owned(), read_only: false }];
        }
        let replicas = self.declared.get(&name).map_or(shape.replicas, |one| one.spec.replicas);
        let spec = WorkloadSpec {
            name: name.clone(),
            replicas,
            template,
            addresses: Vec::new(),
            placement: Placement::default(),
            update: UpdatePolicy::default(),
            labels: BTreeMap::new(),
        };
        let command = Command::ApplyWorkloads {
            specs: vec![spec.clone()],
            keep_replicas: BTreeSet::new(),
            dry_run: false,
        };
        self.operate(&name, command, |before| {
            Some(Declared { spec, run: before.is_none_or(|before| before.run) })
        });
    }

    fn remove(&mut self, workload: usize) {
        let name = self.workload(workload);
        if self.declared.contains_key(&name) {
            self.operate(&name, Command::RemoveWorkload(name.clone()), |_| None);
        }
    }

    fn scale(&mut self, workload: usize, replicas: u32) {
        let name = self.workload(workload);
        let command = Command::Scale { workload: name.clone(), replicas };
        self.operate(&name, command, |declared| {
            declared.map(|one| Declared { spec: WorkloadSpec { replicas, ..one.spec }, ..one })
        });
    }

    fn set_run(&mut self, workload: usize, run: bool) {
        let name = self.workload(workload);
        let state = if run { RunState::Running } else { RunState::Stopped };
        let command = Command::SetRun { target: Target::Workload(name.clone()), run: state };
        self.operate(&name, command, |declared| declared.map(|one| Declared { run, ..one }));
    }

    /// The volumes that operators see.
    fn volumes(&self) -> Vec<VolumeKey> {
        let all = self.controller.model.iter().flat_map(|model| model.volumes(None, None));
        all.map(|view| view.volume.key.clone()).collect()
    }

    fn remove_volume(&mut self, key: VolumeKey) {
        let VolumeKey { instance, name, node } = key;
        let command = Command::RemoveVolume {
            instance: instance.clone(),
            volume: name,
            node: Some(node.clone()),
        };
        let removed = self.command(command);
        self.note(|| format!("operator: removes the volume of {instance} on {node}: {removed:?}"));
        // What is given up may be anything, also if there was no answer.
        let given_up = matches!(removed, Ok(_) | Err(Failed::Crashed));
        let is_its = |host: usize| self.hosts.get(host).is_some_and(|host| host.name == node);
        if given_up && self.truth.volumes.get(&instance).is_some_and(|(host, _)| is_its(*host)) {
            self.truth.volumes.remove(&instance);
        }
    }

    /// What is on hosts that were given up is given up.
    pub(super) fn give_up_lost_volumes(&mut self) {
        let model = self.controller.model.iter();
        let volumes: Vec<_> = model.flat_map(|model| model.volumes(None, None)).collect();
        for view in volumes.iter().filter(|view| view.volume.state == VolumeState::Lost) {
            self.remove_volume(view.volume.key.clone());
        }
    }

    /// A new host joins under a name.
    pub(super) fn join(&mut self, name: NodeName) {
        let index = self.hosts.len();
        let number = u8::try_from(index + 10).unwrap_or(u8::MAX);
        let host = Host::new(name.clone(), number, format!("e{index}"));
        let (id, digest) = (TokenId(format!("t{index}")), [7; 32]);
        let expires_at = Timestamp(u64::MAX);
        let token = id.clone();
        let minted = self.command(Command::MintToken { id, digest, expires_at });
        let (address, enrolment) = (host.address, host.enrolment.clone());
        let routes_only = false;
        let joined = self.command(Command::RedeemToken(Join {
            token,
            digest,
            name,
            address,
            enrolment,
            routes_only,
        }));
        self.note(|| format!("host {index}: {} joins: {minted:?}, {joined:?}", host.name));
        self.hosts.push(host);
        self.schedule.at(self.now + 100, Event::StartAgent { host: index, life: 0 });
    }

    pub(super) fn force_remove(&mut self, host: usize, reuse: bool) {
        let node = self.hosts[host].name.clone();
        self.removing_by_force = true;
        let removed = self.command(Command::RemoveNode { node: node.clone(), force: true });
        self.removing_by_force = false;
        self.note(|| format!("operator: removes {node} by force: {removed:?}"));
        if removed.is_ok() {
            self.hosts[host].vouched_dead = true;
            self.truth.give_up(host);
            if reuse {
                self.join(node);
            }
        }
    }

    fn clone_host(&mut self, host: u8) {
        let host = self.host(host);
        let original = &self.hosts[host];
        let index = self.hosts.len();
        let number = u8::try_from(index + 10).unwrap_or(u8::MAX);
        let mut clone = Host::new(original.name.clone(), number, original.enrolment.clone());
        clone.disk = original.disk.clone();
        self.hosts.push(clone);
        self.schedule.at(self.now + 100, Event::StartAgent { host: index, life: 0 });
    }

    // ── the controller ──────────────────────────────────────────────────────────────────────────

    pub(super) fn start_controller(&mut self) {
        if self.controller.model.is_some() {
            return;
        }
        self.controller.start(self.now);
        let life = self.controller.life;
        self.note(|| format!("controller: starts, life {life}"));
        let fresh = Incarnation(self.rng.u64(1..));
        let evidence = self.restored.take();
        if self.command(Command::Begin { fresh, evidence }).is_err() {
            // It could not be written down: no controller, until it can.
            self.kill_controller(1_000);
            return;
        }
        self.schedule.at(self.now, Event::Tick { life });
        self.recall();
    }

    /// What was acknowledged has to be there still; what was not is as it is.
    fn recall(&mut self) {
        let Some(model) = &self.controller.model else { return };
        for (number, host) in self.hosts.iter_mut().enumerate() {
            let view = model.node(&host.name);
            let removed =
                view.is_some_and(|view| view.node.removed && view.node.enrolment == host.enrolment);
            // Whoever removed it had no answer.
            if removed && !host.vouched_dead {
                host.vouched_dead = true;
                self.truth.give_up(number);
            }
        }
        let known: BTreeMap<WorkloadName, Declared> = model
            .workloads()
            .into_iter()
            .filter(|view| !view.workload.removing)
            .map(|view| {
                let run = view.workload.run == RunState::Running;
                let spec = view.workload.spec.clone();
                (spec.name.clone(), Declared { spec, run })
            })
            .collect();
        if self.controller.life == 1 {
            return;
        }
        if self.declared.is_empty() {
            self.declared = known;
            return;
        }
        for name in std::mem::take(&mut self.unsure) {
            match known.get(&name) {
                Some(one) => drop(self.declared.insert(name, one.clone())),
                None => drop(self.declared.remove(&name)),
            }
        }
        let lost = self
            .declared
            .iter()
            .find(|(name, one)| known.get(*name).is_none_or(|known| known.spec != one.spec));
        if let Some((name, one)) = lost {
            let what = format!(
                "{name} was declared as {} x{}, and the controller knows {:?}",
                one.spec.template.image,
                one.spec.replicas,
                known.get(name).map(|one| (&one.spec.template.image, one.spec.replicas))
            );
            self.violate(Violation { rule: "nothing acknowledged is lost", what });
        }
    }

    fn kill_controller(&mut self, down_ms: Ms) {
        let life = self.controller.life;
        if self.controller.model.is_some() {
            self.controller.crash();
            self.controller_gone(life, down_ms);
        }
    }

    /// Its streams break, and it starts again after a while.
    fn controller_gone(&mut self, life: u64, down_ms: Ms) {
        let of_life = self.streams.iter().filter(|(_, stream)| stream.controller_life == life);
        for stream in of_life.map(|(&stream, _)| stream).collect::<Vec<_>>() {
            self.send(stream, false, Event::DownEnd { stream });
        }
        self.schedule.at(self.now + down_ms, Event::StartController);
    }

    pub(super) fn tick(&mut self, life: u64) {
        if life != self.controller.life || self.controller.model.is_none() {
            return;
        }
        self.drop_silent();
        drop(self.command(Command::Tick));
        self.check_model();
        self.schedule.at(self.now + 1_000, Event::Tick { life });
    }

    // ── hosts ───────────────────────────────────────────────────────────────────────────────────

    pub(super) fn kill_agent(&mut self, host: usize) {
        self.lose_stream(host);
        let one = &mut self.hosts[host];
        one.agent = None;
        one.life += 1;
        one.watches.clear();
        (one.to_store, one.storing) = (None, false);
    }

    fn power_loss(&mut self, host: u8, down_ms: Ms) {
        let host = self.host(host);
        self.kill_agent(host);
        self.end_all(host);
        self.parked.retain(|(on, ..)| *on != host);
        let one = &mut self.hosts[host];
        one.on = false;
        one.sandboxes.clear();
        self.relieve_after(down_ms, Relief::Power(host));
    }

    fn end_all(&mut self, host: usize) {
        let all: Vec<ContainerId> = self.hosts[host].engine.containers.keys().cloned().collect();
        for container in all {
            self.end_process(host, &container, 137);
        }
    }

    fn engine_down(&mut self, host: u8, for_ms: Ms, kills: bool) {
        let host = self.host(host);
        self.hosts[host].engine.mode = Mode::Down;
        if kills {
            self.end_all(host);
        }
        let life = self.hosts[host].life;
        let input = Input::Core(CoreInput::Lost { reason: "is away".to_owned() });
        self.later(1, 20, Event::Tell { host, life, input });
        self.relieve_after(for_ms, Relief::Engine(host));
    }

    /// A main process ends; the kernel tells the agent, and the engine knows nothing of it.
    fn miss_death(&mut self, host: u8, pick: u8) {
        let host = self.host(host);
        let Some(container) = self.container(host, pick) else { return };
        let now = self.now;
        let Some(real) = self.hosts[host].engine.containers.get_mut(&container) else { return };
        if real.is_running() {
            real.missed_death = true;
            let name = real.instance.clone();
            self.truth.ended(&name, host, &container, now);
            self.stir(host, &container, EventKind::Died { exit_code: None });
        }
    }

    fn lose_sandbox(&mut self, host: u8, pick: u8) {
        let host = self.host(host);
        let all = &self.hosts[host].sandboxes;
        let name = all.iter().nth(usize::from(pick) % all.len().max(1)).cloned();
        if let Some(name) = name {
            self.hosts[host].sandboxes.remove(&name);
            let life = self.hosts[host].life;
            let input = Input::Core(CoreInput::SandboxesDisturbed);
            self.later(1, 40, Event::Tell { host, life, input });
        }
    }

    fn cut(&mut self, host: usize, up: bool, down: bool) {
        let link = &mut self.hosts[host].link;
        (link.up_cut, link.down_cut) = (up, down);
        self.cut_since.entry(host).or_insert(self.now);
    }

    pub(super) fn relieve(&mut self, relief: Relief) {
        match relief {
            Relief::Disk(host) => self.hosts[host].disk.full = false,
            Relief::Engine(host) => {
                if self.hosts[host].engine.mode != Mode::Up {
                    self.find_engine(host);
                }
            }
            Relief::Calls(host) => {
                let engine = &mut self.hosts[host].engine;
                (engine.failing, engine.losing, engine.slow_max) = (0, 0, 0);
            }
            Relief::Link(host) => {
                self.hosts[host].link = crate::host::Link::default();
                self.cut_since.remove(&host);
                self.unstall(host);
            }
            Relief::Power(host) => {
                self.hosts[host].on = true;
                let life = self.hosts[host].life;
                self.later(500, 5_000, Event::StartAgent { host, life });
            }
            Relief::Store => self.controller.store.full = false,
        }
    }

    /// All faults stop, and operators put right what is theirs to put right.
    pub(super) fn heal(&mut self) {
        self.note(|| "-- the faults stop".to_owned());
        self.controller.store.full = false;
        self.controller.crash_in_commit = None;
        self.controller.wall = Wall::default();
        self.start_controller();
        for host in 0..self.hosts.len() {
            let one = &mut self.hosts[host];
            one.wall = Wall::default();
            let life = one.life;
            for relief in [
                Relief::Disk(host),
                Relief::Engine(host),
                Relief::Calls(host),
                Relief::Link(host),
                Relief::Power(host),
            ] {
                self.relieve(relief);
            }
            self.later(1, 1_000, Event::StartAgent { host, life });
        }
        if self.hosts.iter().all(|one| one.vouched_dead) {
            let number = u8::try_from(self.hosts.len()).unwrap_or(u8::MAX);
            self.join(node_name(number));
        }
        for node in self.hosts.iter().map(|one| one.name.clone()).collect::<Vec<_>>() {
            let change = NodeChange { cordoned: Some(false), ..NodeChange::default() };
            match self.command(Command::UpdateNode { node, change }) {
                Ok(_) | Err(Failed::Refused(Refusal::NoNode(_))) => {}
                Err(failed) => self.note(|| format!("operator: {failed:?}")),
            }
        }
        self.give_up_lost_volumes();
        for workload in 0..self.scenario.workloads.len() {
            let name = workload_name(workload);
            if self.declared.contains_key(&name) || self.unsure.contains(&name) {
                self.apply(workload, None);
                self.set_run(workload, true);
                if self.rng.bool() {
                    let command = Command::Restart(Target::Workload(name.clone()));
                    self.operate(&name, command, |declared| declared);
                }
            }
        }
        self.schedule.at(self.now + CHECK_MS, Event::Check);
    }

    /// The names that instances of what is declared have.
    pub(super) fn declared_instances(&self) -> impl Iterator<Item = (InstanceName, &Declared)> {
        self.declared.iter().flat_map(|(name, declared)| {
            let ordinals = 0..declared.spec.replicas;
            ordinals.map(move |ordinal| (InstanceName::new(name.clone(), ordinal), declared))
        })
    }
}
