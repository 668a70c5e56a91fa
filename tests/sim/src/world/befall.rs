//! What befalls the fleet: faults and their ends.

use std::collections::BTreeMap;

use dwell_agent_core::Input as CoreInput;
use dwell_controller::model::{
    ArrivalNews, Command, Model, MoveHow, NodeChange, OwnSize, OwnSizeChange, Target,
};
use dwell_core::container::ContainerId;
use dwell_core::container::EventKind;
use dwell_core::id::{Incarnation, InstanceName, WorkloadName};
use dwell_core::instance::RunState;
use dwell_core::quantity::Bytes;

use super::versions::Versions;
use super::{Declared, Event, Relief, Work, World, workload_name};
use crate::action::{Action, DOWN_AFTER_MS};
use crate::agent::Input;
use crate::host::Mode;
use crate::schedule::Ms;
use crate::truth::Violation;

impl World {
    pub(super) fn befall(&mut self, action: &Action) {
        self.note(|| format!("-- {action}"));
        match *action {
            Action::Apply { workload, bad } => self.apply(workload.into(), bad),
            Action::ApplyAgain { workload } => self.apply_again(workload.into()),
            Action::Promote { workload } => {
                let name = self.workload(workload.into());
                self.operate(&name, Command::Promote(name.clone()), |declared| declared);
            }
            Action::Abort { workload } => self.abort(workload.into()),
            Action::Scale { workload, replicas } => self.scale(workload.into(), replicas),
            Action::Remove { workload } => self.remove(workload.into()),
            Action::RemoveAndApply { workload, after_ms } => {
                self.remove(workload.into());
                self.schedule.at(self.now + after_ms, Event::Apply { workload: workload.into() });
            }
            Action::OnLost { workload, after_s } => self.set_on_lost(workload.into(), after_s),
            Action::Restart { workload } => {
                let name = self.workload(workload.into());
                let command = Command::Restart(Target::Workload(name.clone()));
                self.operate(&name, command, |declared| declared);
            }
            Action::Move { pick, to } => {
                let to = to.map(|host| self.hosts[self.host(host)].name.clone());
                let instances = self.pick_instance(pick).into_iter().collect();
                let new_address = pick.is_multiple_of(2);
                let order = Command::MoveInstances {
                    instances,
                    to,
                    new_address,
                    how: MoveHow::default(),
                    dry_run: false,
                };
                drop(self.command(order));
            }
            Action::RemoveOne { pick } => {
                if let Some(name) = self.pick_instance(pick) {
                    self.remove_one(&name);
                }
            }
            Action::Replace { pick } => {
                let names = self.pick_instance(pick).into_iter().collect();
                drop(self.command(match pick.is_multiple_of(2) {
                    true => Command::ReaddressInstances(names),
                    false => Command::ReplaceInstances(names),
                }));
            }
            Action::Dissociate { pick } => {
                if let Some(name) = self.pick_instance(pick) {
                    self.dissociate(&name);
                }
            }
            Action::Adopt { pick } => {
                if let Some(name) = self.pick_let_go(pick) {
                    self.adopt(&name);
                }
            }
            Action::MoveVolumes { pick, to } => {
                let to = to.map(|host| self.hosts[self.host(host)].name.clone());
                self.move_volumes(pick, to, MoveHow::WithVolumes);
            }
            Action::AddBlock { host, again } => {
                let name = self.hosts[self.host(host)].name.clone();
                self.add_block(&name, again);
            }
            Action::RetireBlock { host, pick } => {
                let name = self.hosts[self.host(host)].name.clone();
                self.retire_block(&name, pick);
            }
            Action::AbortMove { pick } => self.move_volumes(pick, None, MoveHow::Abort),
            Action::Spoil { host, for_ms } => {
                let host = self.host(host);
                self.hosts[host].spoiled = true;
                self.relieve_after(for_ms, Relief::Spoiled(host));
            }
            Action::Resize { pick, mebi } => {
                let own = |mebi| OwnSize { cpu: None, memory: Some(Bytes::mebi(mebi)) };
                let size = mebi.map_or(OwnSizeChange::Reset, |mebi| OwnSizeChange::Set(own(mebi)));
                if let Some(instance) = self.pick_instance(pick) {
                    drop(self.command(Command::ResizeInstance {
                        instance,
                        size,
                        dry_run: false,
                        force: false,
                    }));
                }
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
            Action::LoseVolume { host, pick } => self.lose_volume(self.host(host), pick),
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
                    self.remove_container(host, &container);
                }
            }
            Action::MissDeath { host, pick } => self.miss_death(host, pick),
            Action::LoseProcess { host, pick } => {
                let host = self.host(host);
                let Some(id) = self.container(host, pick) else { return };
                let now = self.now;
                if let Some(instance) = self.hosts[host].lose_process(&id, now) {
                    let (life, at) = (self.hosts[host].life, self.hosts[host].wall.now(now));
                    let kind = EventKind::Died { exit_code: None };
                    let event = dwell_core::container::Event { id, instance, at, kind };
                    let input = Input::Core(CoreInput::Event(event));
                    self.later(1, 40, Event::Tell { host, life, input });
                }
            }
            Action::LoseSandbox { host, pick } => self.lose_sandbox(host, pick),
            Action::FillDisk { host, for_ms } => {
                let host = self.host(host);
                self.hosts[host].disk.full = true;
                self.relieve_after(for_ms, Relief::Disk(host));
            }
            Action::EngineDown { host, for_ms, kills } => self.engine_down(host, for_ms, kills),
            Action::SwitchStore { host, for_ms, kills } => {
                self.engine_down(host, for_ms, kills);
                let host = self.host(host);
                self.hosts[host].engine.switch_store();
            }
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
            Action::BreakStream { host } => self.break_stream(self.host(host)),
            Action::Repeat { host, for_ms } => {
                let host = self.host(host);
                self.hosts[host].link.repeats = true;
                self.relieve_after(for_ms, Relief::Link(host));
            }
            Action::RunForeign { host, pick } => {
                let host = self.host(host);
                if let Some(model) = self.container(host, pick)
                    && let Some(foreign) = self.hosts[host].run_foreign(&model)
                {
                    self.stir(host, &foreign, EventKind::Started);
                }
            }
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
                let keeps_mark = back % 3 > 0;
                self.controller.store.restore(backup.max(1), keeps_mark);
                self.forget_moves();
                // What was released since the backup is not known to have been.
                self.released.clear();
                self.declared.clear();
                self.unsure.clear();
                // Nobody remembers what failed after the backup, or served.
                self.versions = Versions::default();
                self.jobs.forget_ends();
            }
            Action::RemoveNode { host, returns_after_ms, reuse } => {
                let host = self.host(host);
                self.cut(host, true, true);
                self.schedule.at(self.now + DOWN_AFTER_MS, Event::ForceRemove { host, reuse });
                self.relieve_after(DOWN_AFTER_MS + returns_after_ms, Relief::Link(host));
            }
            Action::CloneHost { host } => self.clone_host(self.host(host)),
        }
    }

    fn host(&self, number: u8) -> usize {
        usize::from(number) % self.hosts.len().max(1)
    }

    pub(super) fn workload(&self, number: usize) -> WorkloadName {
        workload_name(number % self.scenario.workloads.len().max(1))
    }

    fn container(&self, host: usize, pick: u8) -> Option<ContainerId> {
        let all = &self.hosts[host].engine.containers;
        all.keys().nth(usize::from(pick) % all.len().max(1)).cloned()
    }

    /// Somebody removes a container with Docker.
    pub(super) fn remove_container(&mut self, host: usize, container: &ContainerId) {
        self.end_process(host, container, 137);
        self.stir(host, container, EventKind::Removed);
        self.hosts[host].engine.containers.remove(container);
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
        let evidence = self.controller.store.evidence().map(str::to_owned);
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
        self.recall_members();
        self.recall_tasks();
        self.recall_adopted();
        self.recall_moves();
        let Some(model) = &self.controller.model else { return };
        let known: BTreeMap<WorkloadName, Declared> = model
            .workloads()
            .into_iter()
            .filter(|view| !view.workload.removing)
            .map(|view| {
                let run = view.workload.run == RunState::Running;
                let mut spec = view.workload.spec.clone();
                if spec.placement.one_per_node {
                    // Of these the controller counts them.
                    let declared = self.declared.get(&spec.name);
                    spec.replicas = declared.map_or(1, |declared| declared.spec.replicas);
                }
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
    pub(super) fn controller_gone(&mut self, life: u64, down_ms: Ms) {
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
        self.fetch_for_arrivals();
        self.operators_look();
        self.end_until_confirmed();
        self.copy_volumes();
        self.check_twins();
        self.check_model();
        self.schedule.at(self.now + 1_000, Event::Tick { life });
    }

    /// Some nodes have the images of those that go there by now, and some cannot get them yet.
    fn fetch_for_arrivals(&mut self) {
        let arrivals = self.controller.model.as_ref().map(Model::arrivals);
        for arrival in arrivals.unwrap_or_default() {
            let news = match self.rng.u8(..8) {
                0 => continue,
                1 => ArrivalNews::Cannot("the registry refuses".to_owned()),
                _ => ArrivalNews::There,
            };
            drop(self.command(Command::NoteArrival { arrival, news }));
        }
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
        let one = &mut self.hosts[host];
        (one.on, one.first_life) = (false, one.life);
        one.sandboxes.clear();
        one.led.clear();
        one.doors.clear();
        self.relieve_after(down_ms, Relief::Power(host));
    }

    /// All processes of a host end.
    pub(super) fn end_all(&mut self, host: usize) {
        self.end_engine(host);
        self.end_hidden(host, |_| true);
    }

    /// The engine of a host ends, with all that it knows to run: what hangs there will never be done.
    fn end_engine(&mut self, host: usize) {
        let parked = std::mem::take(&mut self.parked);
        let (mine, others) = parked.into_iter().partition(|(on, ..)| *on == host);
        self.parked = others;
        for (_, life, work) in mine {
            if let Work::Call(id, _) = work {
                self.refuse(host, life, id);
            }
        }
        let all: Vec<ContainerId> = self.hosts[host].engine.containers.keys().cloned().collect();
        for container in all {
            self.end_process(host, &container, 137);
        }
    }

    fn engine_down(&mut self, host: u8, for_ms: Ms, kills: bool) {
        let host = self.host(host);
        self.hosts[host].engine.mode = Mode::Down;
        if kills {
            self.end_engine(host);
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
        if real.is_running() && !real.foreign {
            real.missed_death = true;
            let name = real.instance.clone();
            self.truth.ended(&name, host, &container, now);
            self.write_last(host, &name);
            self.stir(host, &container, EventKind::Died { exit_code: None });
        }
    }

    fn lose_sandbox(&mut self, host: u8, pick: u8) {
        let host = self.host(host);
        let all = &self.hosts[host].sandboxes;
        let name = all.iter().nth(usize::from(pick) % all.len().max(1)).cloned();
        // What the engine does not know is found by its sandbox; who loses both has lost the instance.
        let runs_unseen = |name: &InstanceName| {
            let mut hidden = self.hosts[host].engine.hidden();
            hidden.any(|(_, real)| real.is_running() && real.instance == *name)
        };
        if let Some(name) = name.filter(|sandbox| !runs_unseen(&sandbox.instance)) {
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
                self.hosts[host].on = !self.hosts[host].retired;
                let life = self.hosts[host].life;
                self.later(500, 5_000, Event::StartAgent { host, life });
            }
            Relief::Spoiled(host) => self.hosts[host].spoiled = false,
            Relief::Store => self.controller.store.full = false,
        }
    }
}
