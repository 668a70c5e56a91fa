//! What must hold: at every commit, every second, and once the faults have stopped.

use dwell_controller::model::{Change, Instance, InstanceFilter, Record};
use dwell_core::container::ContainerId;
use dwell_core::id::InstanceName;
use dwell_core::instance::{Assigned, Phase, RunState};
use dwell_core::node::NodeState;
use dwell_core::workload::{OnMove, Resources};
use dwell_planner::Journal;

use super::{CHECK_MS, CONVERGENCE_MS, Event, World, workload_name};
use crate::host::{Host, Real};
use crate::schedule::Ms;
use crate::truth::Violation;

/// For how long a status may say "running" of what does not run: a node counts as unreachable after 15 s, and a
/// call to an engine takes 30 s at most.
const STATUS_AGE_MS: Ms = 60_000;

/// What a host has on its disk of an instance that it is to run.
fn disk_order<'a>(host: &'a Host, name: &InstanceName) -> Option<&'a Assigned> {
    host.disk.assignment.as_ref()?.instances.get(name)
}

impl World {
    /// What a commit did has to be allowed.
    pub(super) fn check_changes(&mut self, changes: &[Change]) {
        self.note_versions(changes);
        self.note_tasks(changes);
        self.note_custody(changes);
        self.note_moves(changes);
        self.note_addresses(changes);
        for change in changes {
            self.check_gone(change);
            self.check_address(change);
            self.check_arrival(change);
            let (Some(Record::Instance(old)), Some(Record::Instance(new))) =
                (&change.old, &change.new)
            else {
                continue;
            };
            let what = if new.generation < old.generation {
                format!("{} falls back from generation {}", new.name, old.generation)
            } else if self.is_second_on_its_node(new) {
                format!("{} is the second one of its workload on {:?}", new.name, new.node)
            } else if old.node.is_some() && new.node.is_some() && old.node != new.node {
                format!("{} goes from {:?} to {:?} at once", new.name, old.node, new.node)
            } else {
                continue;
            };
            self.violate(Violation { rule: "generations and places", what });
        }
    }

    /// What runs on a node that is heard of leaves for another one only when that is known to have an image of it.
    fn check_arrival(&mut self, change: &Change) {
        let (Some(Record::Instance(old)), Some(Record::Instance(new))) = (&change.old, &change.new)
        else {
            return;
        };
        let leads_to = new.leaving.as_ref().and_then(|leaving| leaving.to.as_ref());
        let (Some(from), Some(to), None) = (&old.node, leads_to, &old.leaving) else { return };
        let model = self.controller.model.as_ref();
        let source = model.and_then(|model| model.node(from));
        let is_heard = source.is_some_and(|view| view.state == NodeState::Ready);
        let runs = old.run == RunState::Running && !old.rests() && !old.removing;
        let is_there =
            old.heading.as_deref().is_some_and(|it| it.to == *to && !it.there.is_empty());
        if is_heard && runs && old.volume_move.is_none() && !is_there {
            let what = format!("{} leaves {from} for {to}, which may have no image", new.name);
            self.violate(Violation { rule: "image first", what });
        }
    }

    /// An address is an instance's own until it may be given up, and changes while nothing of the instance is anywhere.
    fn check_address(&mut self, change: &Change) {
        let (Some(Record::Instance(old)), Some(Record::Instance(new))) = (&change.old, &change.new)
        else {
            return;
        };
        if old.identity.is_none() || old.identity == new.identity {
            return;
        }
        let workload = old.name.workload();
        let workload = self.controller.model.as_ref().and_then(|model| model.workload(workload));
        let follows = workload.is_some_and(|view| view.workload.spec.on_move == OnMove::NewAddress);
        let is_anywhere = old.node.is_some() || new.node.is_some();
        if is_anywhere || !(follows || old.new_address) {
            let name = &new.name;
            let what =
                format!("{name} gets {:?} for {:?} on {:?}", new.identity, old.identity, new.node);
            self.violate(Violation { rule: "own address", what });
        }
    }

    /// Of what there is once on every node, no node has two. While a restore is unconfirmed the model follows what nodes say one
    /// after the other, and may know of one where it was and of another where it is; and what only a node knew counts from then on
    /// as leaving it.
    fn is_second_on_its_node(&self, new: &Instance) -> bool {
        let Some(model) = &self.controller.model else { return false };
        if model.is_unconfirmed() || new.leaving.is_some() {
            return false;
        }
        let workload = new.name.workload();
        let declared = model.workload(workload);
        if !declared.is_some_and(|view| view.workload.spec.placement.one_per_node) {
            return false;
        }
        let filter = InstanceFilter { workload: Some(workload.clone()), ..Default::default() };
        let others = model.instances(&filter).into_iter().map(|view| view.instance);
        new.node.is_some()
            && others.filter(|one| one.name != new.name).any(|one| one.node == new.node)
    }

    /// An instance leaves a node only when nothing of it is left there, not even the order to run it.
    fn check_gone(&mut self, change: &Change) {
        let Some(Record::Instance(old)) = &change.old else { return };
        let after = match &change.new {
            Some(Record::Instance(new)) => new.node.as_ref(),
            _ => None,
        };
        let Some(before) = old.node.as_ref().filter(|before| after != Some(before)) else { return };
        let name = &old.name;
        let hosts = self.hosts.iter().enumerate();
        let mut hosts =
            hosts.filter(|(_, host)| host.name == *before && !host.excused && !host.copy);
        let left = hosts.find_map(|(number, host)| {
            let disk = &host.disk;
            let is_lent = disk_order(host, name).is_some_and(|one| one.lease.is_some());
            if (is_lent || old.fence.is_some()) && self.is_let_go(host, name) {
                return None;
            }
            let mut own = host.engine.containers.values().filter(|real| !real.foreign);
            let container = own.any(|real| real.instance == *name && !real.came_back);
            let ordered =
                disk.assignment.as_ref().is_some_and(|held| held.instances.contains_key(name));
            let journal =
                disk.journals.get(name).is_some_and(|journal| *journal != Journal::default());
            let what = match () {
                () if container => "a container",
                () if host.has_sandbox(name) => "its sandbox",
                () if ordered => "the order to run it",
                () if journal => "its journal",
                () => return None,
            };
            Some(format!("{name} counts as gone from host {number}, where {what} is left"))
        });
        if let Some(what) = left.filter(|_| !self.removing_by_force) {
            self.violate(Violation { rule: "gone means gone", what });
        }
    }

    /// Whether a host that is lost lets nobody reach an instance, also if it starts again.
    fn is_let_go(&self, host: &Host, name: &InstanceName) -> bool {
        let order = disk_order(host, name);
        let may_start = order.is_some_and(|one| one.lease.is_none());
        let mut processes = host.engine.containers.values().filter(|real| !real.foreign);
        let runs = processes.any(|real| real.instance == *name && real.is_running());
        host.is_shut(name, self.now) || !(runs || may_start)
    }

    /// Nothing is reached twice.
    pub(super) fn check_twins(&mut self) {
        let is_shut = |host: usize, name: &InstanceName, container: &ContainerId| {
            let host = self.hosts.get(host);
            host.is_some_and(|host| host.is_shut(name, self.now) || !host.is_led_to(container))
        };
        if let Err(violation) = self.truth.twins(is_shut) {
            self.violate(violation);
        }
    }

    /// What the controller shows has to be true.
    pub(super) fn check_model(&mut self) {
        let Some(model) = &self.controller.model else { return };
        let instances = model.instances(&InstanceFilter::default());
        let mut violation = None;
        for node in model.nodes() {
            let name = &node.node.name;
            let mut sum = Resources::default();
            for view in &instances {
                let instance = &view.instance;
                if instance.node.as_ref() == Some(name) {
                    sum = sum.plus(instance.promised());
                } else if instance.arrives_on() == Some(name) {
                    sum = sum.plus(instance.share());
                }
            }
            if sum != node.allocated {
                let what = format!("{name} has {sum:?} on it, {:?} in the ledger", node.allocated);
                violation = Some(Violation { rule: "ledger", what });
            }
        }
        // An agent that has just found a container running has yet to find that its process is gone.
        let before = std::mem::take(&mut self.doubtful);
        for view in instances.iter().filter(|view| view.status.phase == Phase::Running) {
            let name = &view.instance.name;
            if let Some(found) = self.check_running(name, view.instance.node.as_ref()) {
                let ticks = before.get(name).copied().unwrap_or(0) + 1;
                self.doubtful.insert(name.clone(), ticks);
                violation = violation.or_else(|| (ticks > 5).then_some(found));
            }
        }
        if let Some(violation) = violation {
            self.violate(violation);
        }
    }

    /// What is shown as running has to have run within the age of what is shown.
    fn check_running(
        &self,
        name: &InstanceName,
        node: Option<&dwell_core::id::NodeName>,
    ) -> Option<Violation> {
        if self.truth.running.contains_key(name) {
            return None;
        }
        let hosts = self.hosts.iter().enumerate();
        let mut mine = hosts.filter(|(_, host)| Some(&host.name) == node);
        let recently = mine.any(|(host, _)| {
            let last = self.truth.last_ran.get(&(host, name.clone()));
            last.is_some_and(|&last| last + STATUS_AGE_MS > self.now)
        });
        let what =
            || format!("{name} is shown as running on {node:?}, and has not run for a minute");
        (!recently).then(|| Violation { rule: "status", what: what() })
    }

    /// After the faults everything comes to be as declared, within a bound.
    pub(super) fn check_convergence(&mut self) {
        let in_time = self.now <= self.scenario.end + CONVERGENCE_MS;
        match self.settled() {
            Ok(Some(_)) if in_time => {
                self.schedule.at(self.now + CHECK_MS, Event::Check);
            }
            Ok(restarts) => {
                self.note(|| "all is as declared".to_owned());
                // Nothing more is to happen.
                self.schedule = crate::schedule::Schedule::new();
                if let Some(what) = restarts {
                    self.violate(Violation { rule: "restarts", what });
                }
            }
            Err(why) if !in_time => self.has_not_converged(why),
            Err(_) => {
                self.give_up_lost_volumes();
                self.end_custody();
                self.try_good_again();
                self.schedule.at(self.now + CHECK_MS, Event::Check);
            }
        }
    }

    pub(super) fn has_not_converged(&mut self, what: String) {
        for host in 0..self.hosts.len() {
            let agent = self.hosts[host].agent.as_ref();
            let knows = agent.map(crate::agent::Agent::describe);
            self.note(|| format!("host {host} knows {}", knows.unwrap_or_default()));
        }
        let model = self.controller.model.as_ref();
        let shown = model.map(|model| model.instances(&InstanceFilter::default()));
        for view in shown.unwrap_or_default() {
            let (is, status) = (&view.instance, &view.status);
            self.note(|| format!("controller: {is:?}, {status:?}"));
        }
        for workload in 0..self.scenario.workloads.len() {
            let name = workload_name(workload);
            let view = self.controller.model.as_ref().and_then(|model| model.workload(&name));
            if let Some(view) = view {
                self.note(|| format!("controller: {:?}, newest {:?}", view.workload, view.newest));
            }
        }
        self.violate(Violation { rule: "convergence", what });
    }

    /// Whether everything is as declared, and which restart was not done; if not, what is not.
    fn settled(&self) -> Result<Option<String>, String> {
        let model = self.controller.model.as_ref().ok_or("there is no controller")?;
        let shown = model.instances(&InstanceFilter::default());
        let mut declared = 0;
        let mut restarts = None;
        for (name, wanted) in self.declared_instances()? {
            declared += 1;
            let view = shown.iter().find(|view| view.instance.name == name);
            let view = view.ok_or_else(|| format!("{name} is declared and not there"))?;
            if wanted.spec.job.is_some() {
                self.at_rest(&name)?;
                continue;
            }
            let running = self.truth.running.get(&name).map_or(&[][..], Vec::as_slice);
            let [one] = running else {
                return Err(format!(
                    "{name} is to run once and runs {running:?}: {}",
                    view.status.message
                ));
            };
            let host = &self.hosts[one.host];
            if Some(&host.name) != view.instance.node.as_ref() || host.vouched_dead {
                return Err(format!(
                    "{name} runs on host {}, not on {:?}",
                    one.host, view.instance.node
                ));
            }
            let real = host.engine.containers.get(&one.container);
            let image = real.map(|real| real.image.as_str()).unwrap_or_default();
            if image != wanted.spec.template.image {
                return Err(format!("{name} runs {image}, not {}", wanted.spec.template.image));
            }
            let is = &view.instance;
            let asked = is.wanted.template.fingerprint().of_edition(is.edition);
            if real.is_some_and(|real| real.fingerprint != asked) {
                return Err(format!("{name} runs in another container than was asked for"));
            }
            let limits = is.made_from(&wanted.spec.template).limits();
            if let Some(real) = real.filter(|real| real.limits != limits) {
                return Err(format!("{name} is held to {:?}, not to {limits:?}", real.limits));
            }
            if view.status.phase != Phase::Running {
                return Err(format!("{name} runs and is shown as {}", view.status.phase));
            }
            if view.status.restarts_done < view.instance.restarts_asked {
                let (asked, done) = (view.instance.restarts_asked, view.status.restarts_done);
                restarts =
                    Some(format!("{name} was to restart {asked} times and did {done} times"));
            }
            self.routed(&name, one.address, &host.name)?;
        }
        if declared != shown.len() {
            let names: Vec<_> = shown.iter().map(|view| view.instance.name.to_string()).collect();
            return Err(format!("{declared} instances are declared, there are {names:?}"));
        }
        if let Some(name) = self
            .truth
            .running
            .keys()
            .find(|name| !shown.iter().any(|view| view.instance.name == **name))
        {
            return Err(format!("{name} runs and is not declared"));
        }
        let in_service = self.hosts.iter().enumerate().filter(|(_, host)| !host.retired);
        for (number, host) in in_service {
            let agent = host.agent.as_ref().ok_or_else(|| format!("host {number} has no agent"))?;
            if !agent.is_engine_ready() {
                return Err(format!("host {number} does not know its engine"));
            }
            let mut own = host.engine.containers.iter().filter(|(_, real)| !real.foreign);
            let is_kept = |real: &Real| self.has_ended(&real.instance);
            if let Some((id, real)) = own.find(|(_, real)| !real.is_running() && !is_kept(real)) {
                {
                    return Err(format!(
                        "host {number} has a left-over container {id} of {}",
                        real.instance
                    ));
                }
            }
            let mine = |name: &InstanceName| {
                shown.iter().any(|view| {
                    view.instance.name == *name && view.instance.node.as_ref() == Some(&host.name)
                })
            };
            if let Some(left) = host.sandboxes.iter().find(|one| !mine(&one.instance)) {
                return Err(format!("host {number} has a left-over sandbox of {left}"));
            }
            // An empty journal is as good as none.
            let mut journals = host.disk.journals.iter();
            let left =
                journals.find(|(name, journal)| !mine(name) && **journal != Journal::default());
            if let Some((name, _)) = left {
                return Err(format!("host {number} has a left-over journal of {name}"));
            }
        }
        self.volumes_at_rest()?;
        self.directories()?;
        Ok(restarts)
    }

    /// An instance of a job has ended, and nothing of it runs.
    fn at_rest(&self, name: &InstanceName) -> Result<(), String> {
        match (self.has_ended(name), self.truth.running.get(name)) {
            (true, None) => Ok(()),
            (true, Some(running)) => Err(format!("{name} has ended and runs {running:?}")),
            (false, running) => Err(format!("{name} has not ended and runs {running:?}")),
        }
    }

    /// The directory of every node is what the controller shows, and every instance is in it, ready.
    fn directories(&self) -> Result<(), String> {
        let model = self.controller.model.as_ref().ok_or("there is no controller")?;
        let shown = model.directory();
        for (name, wanted) in self.declared_instances()? {
            if wanted.spec.job.is_some() {
                continue;
            }
            if !shown.instances.get(&name).is_some_and(|entry| entry.ready) {
                return Err(format!("{name} runs and is not ready in the directory"));
            }
        }
        for (number, host) in self.hosts.iter().enumerate().filter(|(_, host)| !host.vouched_dead) {
            let held = host.agent.as_ref().map(crate::agent::Agent::directory);
            let is_same = held.is_some_and(|held| {
                held.instances == shown.instances && held.workloads == shown.workloads
            });
            if !is_same {
                return Err(format!("host {number} has another directory: {held:?}"));
            }
        }
        Ok(())
    }

    /// Every node's routes lead to where an instance is.
    fn routed(
        &self,
        name: &InstanceName,
        address: std::net::Ipv4Addr,
        home: &dwell_core::id::NodeName,
    ) -> Result<(), String> {
        for (number, host) in self.hosts.iter().enumerate().filter(|(_, host)| !host.vouched_dead) {
            let held = host.agent.as_ref().and_then(|agent| agent.held());
            let held = held.ok_or_else(|| format!("host {number} has no assignment"))?;
            let exception = held.network.exceptions.get(&address);
            let by_block = || {
                let mut peers = held.network.peers.iter();
                let peer = peers.find(|(_, peer)| {
                    let mut blocks = peer.block.iter().chain(&peer.more_blocks);
                    blocks.any(|block| block.contains(&address))
                });
                peer.map_or(&host.name, |(node, _)| node)
            };
            let leads_to = exception.unwrap_or_else(by_block);
            if leads_to != home {
                return Err(format!(
                    "on host {number}, {name} at {address} leads to {leads_to}, not to {home}"
                ));
            }
        }
        Ok(())
    }
}
