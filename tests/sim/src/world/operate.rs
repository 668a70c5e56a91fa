//! What operators do: declare, scale, stop and remove, and put everything right once the faults have stopped.

use std::collections::{BTreeMap, BTreeSet};

use dwell_controller::model::{
    Command, InstanceFilter, InstanceView, Model, Node, NodeChange, Pause, Refusal, Reply, Target,
    VersionState, VolumeKey, VolumeState,
};
use dwell_core::health::{HealthCheck, Probe};
use dwell_core::id::{InstanceName, NodeName, WorkloadName};
use dwell_core::instance::RunState;
use dwell_core::job::Job;
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::workload::{
    Mount, MountSource, OnFailure, OnLost, OnMove, Placement, Portion, Resources, RestartPolicy,
    Template, UpdateOrder, UpdatePolicy, WorkloadSpec,
};

use super::custody::fewer_by;
use super::{CHECK_MS, CONVERGENCE_MS, Declared, Event, Relief, World, workload_name};
use crate::controller::Failed;
use crate::host::{BAD, Temper, Wall, volume_name};

/// After what time lost instances are replaced, of workloads that begin so.
const LOST_AFTER_S: u64 = 20;

/// How often an instance of a job is tried.
const ATTEMPTS: u32 = 3;

impl World {
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
                self.doubt_let_go();
                self.controller_gone(life, 1_000);
                Err(Failed::Crashed)
            }
            Err(failed) => Err(failed),
        }
    }

    /// An operator gives a command about a workload. `becomes` says what is declared if it is done.
    pub(super) fn operate(
        &mut self,
        name: &WorkloadName,
        command: Command,
        becomes: impl FnOnce(Option<Declared>) -> Option<Declared>,
    ) -> bool {
        self.operating = true;
        let done = self.command(command);
        self.operating = false;
        let is_done = done.is_ok();
        match done {
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
        is_done
    }

    /// Declares a workload, with an image that works or one of the others.
    pub(super) fn apply(&mut self, workload: usize, bad: Option<u8>) {
        let name = self.workload(workload);
        let number = workload % self.scenario.workloads.len().max(1);
        let shape = self.scenario.workloads[number];
        self.version += 1;
        let good = if shape.job.is_some() { "works" } else { "good" };
        let temper = bad.and_then(|bad| BAD.get(usize::from(bad))).copied().unwrap_or(good);
        let mut template = Template::of_image(format!("{temper}:{}", self.version));
        template.resources = Resources { cpu: Millicores(100), memory: Bytes::mebi(64) };
        template.stop_grace = Millis::seconds(shape.grace_s);
        template.healthcheck = shape.health.then(|| HealthCheck::new(Probe::Tcp { port: 80 }));
        if shape.job.is_none() && number % 2 == 1 {
            template.carry = vec!["/etc/identity".to_owned()];
        }
        if shape.job.is_some() {
            template.restart = RestartPolicy::of_attempts(ATTEMPTS);
        }
        if shape.volume {
            let source = MountSource::Volume(volume_name());
            template.mounts = vec![Mount { source, target: "/data".to_owned(), read_only: false }];
        }
        let replicas = self.declared.get(&name).map_or(shape.replicas, |one| one.spec.replicas);
        let spec = WorkloadSpec {
            name,
            replicas,
            run: None,
            template,
            addresses: Vec::new(),
            placement: Placement { one_per_node: shape.per_node, ..Placement::default() },
            update: UpdatePolicy {
                canary: Portion::Count(u32::from(shape.canary)),
                max_failures: Portion::Count(shape.may_fail.unwrap_or_default()),
                on_failure: match shape.may_fail {
                    Some(_) => OnFailure::Pause,
                    None => OnFailure::Continue,
                },
                order: match shape.volume || number % 2 == 1 {
                    true => UpdateOrder::StopFirst,
                    false => UpdateOrder::StartFirst,
                },
                ..UpdatePolicy::default()
            },
            on_lost: match shape.lost {
                true => OnLost::ReplaceAfter(Millis::seconds(LOST_AFTER_S)),
                false => OnLost::Keep,
            },
            on_move: match number.is_multiple_of(3) {
                true => OnMove::NewAddress,
                false => OnMove::KeepAddress,
            },
            job: shape.job.map(|parallelism| Job {
                parallelism: Some(parallelism).filter(|&most| most > 0),
                ..Job::default()
            }),
            labels: BTreeMap::new(),
        };
        self.declare(spec);
    }

    /// Declares what becomes of lost instances.
    pub(super) fn set_on_lost(&mut self, workload: usize, after_s: Option<u64>) {
        let declared = self.declared.get(&self.workload(workload));
        let Some(spec) = declared.map(|declared| declared.spec.clone()) else { return };
        if spec.template.mounts.is_empty() && !spec.placement.one_per_node {
            let after = after_s.map(Millis::seconds);
            let on_lost = after.map_or(OnLost::Keep, OnLost::ReplaceAfter);
            self.versions.try_anew(&spec);
            self.declare(WorkloadSpec { on_lost, ..spec });
        }
    }

    /// Goes back to what is good, which is declared then.
    pub(super) fn abort(&mut self, workload: usize) {
        let name = self.workload(workload);
        let command = Command::Abort { workload: name.clone(), by: String::new() };
        self.operate(&name, command, |declared| declared);
        let model = self.controller.model.as_ref();
        let template = model.and_then(|model| model.workload(&name));
        let template = template.map(|view| view.workload.spec.template.clone());
        if let (Some(declared), Some(template)) = (self.declared.get_mut(&name), template) {
            declared.spec.template = template;
        }
    }

    /// Declares what is declared once more, as one does when a rollout is paused.
    pub(super) fn apply_again(&mut self, workload: usize) {
        let declared = self.declared.get(&self.workload(workload));
        if let Some(spec) = declared.map(|declared| declared.spec.clone()) {
            self.versions.try_anew(&spec);
            self.declare(spec);
        }
    }

    /// Whether what is declared is known, and works.
    fn is_good(&self, name: &WorkloadName) -> bool {
        let declared = self.declared.get(name).filter(|_| !self.unsure.contains(name));
        declared.is_some_and(|one| Temper::of(&one.spec.template.image) == Temper::Good)
    }

    fn declare(&mut self, spec: WorkloadSpec) {
        let name = spec.name.clone();
        let command = Command::ApplyWorkloads {
            specs: vec![spec.clone()],
            keep_replicas: BTreeSet::new(),
            dry_run: false,
            force: false,
            planned: Vec::new(),
            by: String::new(),
        };
        self.operate(&name, command, |before| {
            let as_before = before.is_none_or(|before| before.run);
            let run = spec.run.map_or(as_before, |run| run == RunState::Running);
            Some(Declared { spec: WorkloadSpec { run: None, ..spec }, run })
        });
    }

    pub(super) fn remove(&mut self, workload: usize) {
        let name = self.workload(workload);
        if self.declared.contains_key(&name) {
            self.operate(&name, Command::RemoveWorkload(name.clone()), |_| None);
        }
    }

    pub(super) fn scale(&mut self, workload: usize, replicas: u32) {
        let name = self.workload(workload);
        let command = Command::Scale { workload: name.clone(), replicas };
        self.operate(&name, command, |declared| {
            declared.map(|one| Declared { spec: WorkloadSpec { replicas, ..one.spec }, ..one })
        });
    }

    /// One of the instances that operators see.
    pub(super) fn pick_instance(&self, pick: u8) -> Option<InstanceName> {
        let shown = self.controller.model.as_ref()?.instances(&InstanceFilter::default());
        let one = shown.get(usize::from(pick) % shown.len().max(1))?;
        Some(one.instance.name.clone())
    }

    pub(super) fn remove_one(&mut self, name: &InstanceName) {
        // What becomes of it is told to nobody.
        self.versions.forget_reached(name);
        // What is let go is none of its workload's any more.
        let fewer = u32::from(!self.is_let_go_of(name));
        let command = Command::RemoveInstances([name.clone()].into());
        self.operate(name.workload(), command, |declared| fewer_by(fewer, declared));
    }

    pub(super) fn set_run(&mut self, workload: usize, run: bool) {
        let name = self.workload(workload);
        let state = if run { RunState::Running } else { RunState::Stopped };
        // By declaration as often as by order.
        let declared = self.declared.get(&name).filter(|_| self.version.is_multiple_of(2));
        if let Some(spec) = declared.map(|declared| declared.spec.clone()) {
            self.versions.try_anew(&spec);
            return self.declare(WorkloadSpec { run: Some(state), ..spec });
        }
        let command = Command::SetRun { target: Target::Workload(name.clone()), run: state };
        self.operate(&name, command, |declared| declared.map(|one| Declared { run, ..one }));
    }

    /// The volumes that operators see.
    pub(super) fn volumes(&self) -> Vec<VolumeKey> {
        let all = self.controller.model.iter().flat_map(|model| model.volumes(None, None));
        all.map(|view| view.volume.key.clone()).collect()
    }

    pub(super) fn remove_volume(&mut self, key: VolumeKey) {
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
        if given_up && self.truth.left.get(&instance).is_some_and(|left| is_its(left.host)) {
            self.truth.left.remove(&instance);
        }
    }

    /// What is on hosts that were given up, or on none any more, is given up. Of what several nodes have, operators look at each and
    /// keep the newest.
    pub(super) fn give_up_lost_volumes(&mut self) {
        let model = self.controller.model.iter();
        let volumes: Vec<_> = model.flat_map(|model| model.volumes(None, None)).collect();
        for view in &volumes {
            let VolumeKey { instance, node, .. } = &view.volume.key;
            let newest = self.truth.volumes.get(instance).and_then(|(on, _)| self.hosts.get(*on));
            let is_given_up = match view.volume.state {
                VolumeState::Lost => true,
                VolumeState::Stale => newest.is_none_or(|host| host.name != *node),
                VolumeState::Kept | VolumeState::Copy | VolumeState::Deleting { .. } => false,
            };
            if is_given_up {
                self.remove_volume(view.volume.key.clone());
            }
        }
    }

    /// All faults stop.
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
                Relief::Spoiled(host),
                Relief::Power(host),
            ] {
                self.relieve(relief);
            }
            self.later(1, 1_000, Event::StartAgent { host, life });
        }
        self.schedule.at(self.now + 1, Event::PutRight);
    }

    /// Operators put right what is theirs to put right, once the controller takes declarations.
    pub(super) fn put_right(&mut self) {
        let is_ready = |model: &Model| !model.is_unconfirmed();
        if !self.controller.model.as_ref().is_some_and(is_ready) {
            let (wait, in_time) = (1_000, self.now <= self.scenario.end + CONVERGENCE_MS);
            if !in_time {
                let what = "the controller takes no declarations".to_owned();
                self.has_not_converged(what);
            }
            return self.schedule.at(self.now + wait, Event::PutRight);
        }
        self.put_members_right();
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
                self.scenario.workloads[workload].canary = false;
                if let Some(declared) = self.declared.get_mut(&name) {
                    declared.spec.update = UpdatePolicy::default();
                }
                match self.rng.bool() && self.is_good(&name) {
                    true => self.apply_again(workload),
                    false => self.apply(workload, None),
                }
                self.set_run(workload, true);
                if self.rng.bool() {
                    let command = Command::Restart(Target::Workload(name.clone()));
                    self.operate(&name, command, |declared| declared);
                }
            }
        }
        self.schedule.at(self.now + CHECK_MS, Event::Check);
    }

    /// A fault that came to light only now may have ruled out what works, in the middle of its trial: it is declared anew, once.
    pub(super) fn try_good_again(&mut self) {
        for workload in 0..self.scenario.workloads.len() {
            let name = workload_name(workload);
            let view = self.controller.model.as_ref().and_then(|model| model.workload(&name));
            let has_failed = view.is_some_and(|view| {
                matches!(view.workload.paused, Some(Pause::BadVersion(_)))
                    || view.newest.is_some_and(|one| one.state == VersionState::Incomplete)
            });
            if has_failed && self.is_good(&name) && self.tried_again.insert(name) {
                self.apply_again(workload);
            }
        }
    }

    /// The instances that are declared, as many as that, by the names that operators see: which ordinals they have is told by what
    /// was taken away.
    pub(super) fn declared_instances(&self) -> Result<Vec<(InstanceName, &Declared)>, String> {
        let model = self.controller.model.as_ref().ok_or("there is no controller")?;
        let mut all = Vec::new();
        for (name, declared) in &self.declared {
            let filter = InstanceFilter { workload: Some(name.clone()), ..Default::default() };
            let there = model.instances(&filter);
            let wanted = match declared.spec.placement.one_per_node {
                true => self.nodes_with_one(&there)?,
                false => declared.spec.replicas,
            };
            if there.len() != usize::try_from(wanted).unwrap_or(usize::MAX) {
                let names: Vec<_> = there.iter().map(|one| one.instance.name.to_string()).collect();
                return Err(format!("{wanted} of {name} are declared, there are {names:?}"));
            }
            all.extend(there.into_iter().map(|one| (one.instance.name.clone(), declared)));
        }
        Ok(all)
    }

    /// How many instances a workload is to have that has one on every node. A node that takes nothing new keeps what it has.
    fn nodes_with_one(&self, there: &[InstanceView]) -> Result<u32, String> {
        let model = self.controller.model.as_ref().ok_or("there is no controller")?;
        let has_one =
            |node: &NodeName| there.iter().any(|one| one.instance.node.as_ref() == Some(node));
        let nodes = model.nodes();
        let members = nodes.iter().filter(|view| !view.node.removed);
        let closed = |node: &Node| node.cordoned || node.draining;
        let with_one = members.filter(|view| !closed(&view.node) || has_one(&view.node.name));
        u32::try_from(with_one.count()).map_err(|error| error.to_string())
    }
}
