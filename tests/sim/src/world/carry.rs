//! What agents want done, done: late, with what comes of it told even later, and not always.

use std::sync::Arc;

use dwell_agent_core::{Call, CallFailure, CallId, Cause, Input as CoreInput, Outcome, Watch};
use dwell_core::container::ContainerId;
use dwell_core::container::EventKind;
use dwell_core::health::Health;
use dwell_core::id::InstanceName;
use dwell_core::quantity::Millis;
use dwell_core::session::StatusReport;
use dwell_planner::{Failure, FailureKind, Step};

use super::{Event, Relief, Work, World, workload_name};
use crate::agent::{Input, Output};
use crate::host::{Asked, Deed, Mode, Temper, transient};
use crate::message::Up;
use crate::schedule::Ms;
use crate::truth::{Running, Violation};

/// After what time a write that failed is tried again.
const STORE_RETRY_MS: Ms = 2_000;

/// After what time a pull that does not go on is given up.
const PULL_LIMIT_MS: Ms = 60_000;

impl World {
    /// Puts on its way what an agent wants done.
    pub(super) fn see_to(&mut self, host: usize, life: u64, output: Output) {
        match output {
            Output::Call(id, call) => {
                let slow = self.hosts[host].engine.slow_max;
                let most = match &call {
                    Call::Step { step: Step::Stop { grace: Millis(grace), .. }, .. } => {
                        20 + (*grace).min(12_000) / 8 + slow
                    }
                    Call::Step { step, .. } if is_engines(step) => 60 + slow,
                    Call::Step { .. }
                    | Call::Sandboxes
                    | Call::Sweep
                    | Call::EndUnlisted { .. } => 6 + slow / 4,
                    Call::Ping => 5 + slow,
                    Call::Inspect { .. } => 20 + slow,
                    Call::List => 60 + slow,
                    Call::Pull { .. } => 3_000 + slow,
                };
                self.later(1, most, Event::Do { host, life, work: Work::Call(id, call) });
            }
            Output::Watch(watch) => self.watch(host, life, watch),
            Output::Unwatch(container) => drop(self.hosts[host].watches.remove(&container)),
            Output::Store(assignment) => {
                let one = &mut self.hosts[host];
                one.to_store = Some(assignment);
                if !std::mem::replace(&mut one.storing, true) {
                    self.later(1, 8, Event::Do { host, life, work: Work::Store });
                }
            }
            Output::StoreDirectory(directory) => {
                let disk = &mut self.hosts[host].disk;
                if !disk.full {
                    disk.directory = directory;
                }
            }
            Output::Send(mut message) => {
                let volumes = self.hosts[host].seen_volumes();
                match &mut message {
                    Up::Hello(hello) => hello.status.volumes = volumes,
                    Up::Report(report) => report.volumes = volumes,
                    Up::Acknowledge(_) | Up::Heartbeat(_) => {}
                }
                if let Some(stream) = self.hosts[host].stream {
                    self.send(stream, true, Event::Up { stream, message });
                }
            }
            Output::EndStream(reason) => {
                self.note(|| format!("host {host}: gives its stream up: {reason}"));
                self.lose_stream(host);
            }
            Output::Fence(all) => {
                let (now, agent_now) = (self.now, self.hosts[host].agent_wall.now(self.now));
                self.hosts[host].fence(all, agent_now, now);
                self.check_twins();
            }
            Output::WakeAt(at) => {
                let now = self.hosts[host].agent_wall.now(self.now);
                let wait = at.0.saturating_sub(now.0).max(1);
                let event = Event::Tell { host, life, input: Input::Time };
                self.schedule.at(self.now + wait, event);
            }
        }
    }

    /// Does a piece of work. An agent that has ended meanwhile may have ordered it: the engine and the disk do
    /// not mind, unless they have ended too.
    pub(super) fn carry_out(&mut self, host: usize, life: u64, work: Work) {
        if !self.hosts[host].on || life < self.hosts[host].first_life {
            return;
        }
        let (id, call) = match work {
            Work::Store => return self.store(host, life),
            Work::Call(id, call) => (id, call),
        };
        let needs_engine = match &call {
            Call::Step { step, .. } => is_engines(step),
            Call::Sandboxes | Call::Sweep => false,
            Call::Ping
            | Call::List
            | Call::Inspect { .. }
            | Call::EndUnlisted { .. }
            | Call::Pull { .. } => true,
        };
        let engine = &self.hosts[host].engine;
        let (mode, failing, losing) = (engine.mode, engine.failing, engine.losing);
        if needs_engine && mode == Mode::Hung {
            // It is done when the engine comes to itself; nobody waits for it so long.
            self.parked.push((host, life, Work::Call(id, call)));
            return;
        }
        if needs_engine && mode == Mode::Down {
            return self.refuse(host, life, id);
        }
        if needs_engine && self.rng.u32(..100) < failing {
            let outcome = failed(transient("the engine could not"), Cause::Engine);
            return self.answer(host, life, 5, id, outcome);
        }
        // A pull that does not go on is given up by whoever makes it.
        let is_pull = matches!(call, Call::Pull { .. });
        let lost = needs_engine && self.rng.u32(..100) < losing;
        let outcome = self.do_now(host, (life, id), call);
        if !lost {
            let wait = self.rng.u64(1..4 + self.hosts[host].engine.slow_max / 4);
            self.answer(host, life, wait, id, outcome);
        } else if is_pull {
            let outcome = failed(transient("the pull does not go on"), Cause::NoAnswer);
            self.answer(host, life, PULL_LIMIT_MS, id, outcome);
        }
    }

    /// There is no engine that a call could reach, or it has ended with the call.
    pub(super) fn refuse(&mut self, host: usize, life: u64, id: CallId) {
        let outcome = failed(transient("the engine is away"), Cause::NoAnswer);
        self.answer(host, life, 5, id, outcome);
    }

    fn answer(&mut self, host: usize, life: u64, wait: Ms, id: CallId, outcome: Outcome) {
        let input = Input::Core(CoreInput::Done { id, outcome });
        self.schedule.at(self.now + wait, Event::Tell { host, life, input });
    }

    /// Writes the newest assignment to disk, sooner or later.
    fn store(&mut self, host: usize, life: u64) {
        let one = &mut self.hosts[host];
        if one.life != life {
            return;
        }
        if one.disk.full {
            return self
                .schedule
                .at(self.now + STORE_RETRY_MS, Event::Do { host, life, work: Work::Store });
        }
        one.storing = false;
        let Some(assignment) = one.to_store.take() else { return };
        one.disk.assignment = Some(Arc::clone(&assignment));
        self.later(1, 3, Event::Tell { host, life, input: Input::Stored(assignment) });
    }

    /// Does a call, and returns what its agent is to be told.
    fn do_now(&mut self, host: usize, asked: Asked, call: Call) -> Outcome {
        self.check_let_be(host, asked, &call);
        let now = self.now;
        let one = &mut self.hosts[host];
        match call {
            Call::Ping => Outcome::Done,
            Call::List => Outcome::Listed(one.list()),
            Call::Sandboxes => Outcome::Sandboxes(one.sandboxes.clone()),
            Call::Sweep => Outcome::Journals(one.disk.journals.clone()),
            Call::Inspect { container, .. } => match one.inspect(&container) {
                Some(found) => Outcome::Found(Box::new(found)),
                None => Outcome::Gone,
            },
            Call::EndUnlisted { instance } => {
                self.end_hidden(host, |other| *other == instance);
                Outcome::Done
            }
            Call::Pull { image, .. } => match Temper::of(&image) {
                Temper::Absent => {
                    let message = "no such image".to_owned();
                    failed(Failure { kind: FailureKind::Permanent, message }, Cause::Engine)
                }
                _ => {
                    one.engine.images.insert(image);
                    Outcome::Done
                }
            },
            Call::Step { instance: name, step, assigned, remains, failed: _ } => {
                let cut_short = one.cuts_short(&step);
                let touched = one.touches_foreign(&step, &remains);
                // Whoever starts or removes a container ends what is left of it.
                let own = match &step {
                    Step::Start { container } | Step::Remove { container } => {
                        let all = &self.hosts[host].engine.containers;
                        let lost = all.get(container).is_some_and(|real| real.lost_process);
                        lost.then(|| container.clone())
                    }
                    _ => None,
                };
                for left in own.iter().chain(&remains) {
                    self.end_process(host, left, 137);
                }
                let one = &mut self.hosts[host];
                let deed = one.carry_out(&name, &step, assigned.as_deref(), now);
                self.note(|| format!("host {host}: {name}: {step:?}: {deed:?}"));
                if deed.is_ok() {
                    self.note_let_go(host, asked, &name, &step);
                }
                if let Some(what) = cut_short {
                    self.violate(Violation { rule: "grace", what });
                }
                if let Some(what) = touched {
                    self.violate(Violation { rule: "foreign containers", what });
                }
                match deed {
                    Ok(Deed::Nothing) => Outcome::Done,
                    Ok(Deed::Made(container)) => Outcome::Created(container),
                    Ok(deed) => {
                        self.enter(host, &name, deed);
                        Outcome::Done
                    }
                    Err(failure) if is_engines(&step) => failed(failure, Cause::Engine),
                    Err(failure) => failed(failure, Cause::Other),
                }
            }
        }
    }

    /// An agent watches a run from now on. One that is over already is told of at once.
    fn watch(&mut self, host: usize, life: u64, watch: Watch) {
        let container = watch.run.container.clone();
        let real = self.hosts[host].engine.real(&container);
        let runs = real.filter(|real| {
            let lives = real.is_running() || real.lost_process;
            lives && real.started_at == Some(watch.run.started_at)
        });
        let health = runs.map(|real| real.health);
        let (instance, started_at) = (watch.instance.clone(), watch.run.started_at);
        match health {
            None => {
                let input = CoreInput::Ended { instance, container, started_at };
                self.later(1, 5, Event::Tell { host, life, input: Input::Core(input) });
            }
            Some(health) => {
                let probed = !watch.probed.is_empty();
                self.hosts[host].watches.insert(container.clone(), watch);
                if probed && health != Health::Starting {
                    self.tell_health(host, &container);
                }
            }
        }
    }

    /// Tells whoever watches a run what its health is.
    fn tell_health(&mut self, host: usize, container: &ContainerId) {
        let one = &self.hosts[host];
        let (Some(watch), Some(real)) = (one.watches.get(container), one.engine.real(container))
        else {
            return;
        };
        if watch.probed.is_empty() {
            return;
        }
        let input = CoreInput::Health {
            instance: watch.instance.clone(),
            container: container.clone(),
            started_at: watch.run.started_at,
            check: dwell_planner::Check::Health,
            health: real.health,
            complaint: String::new(),
        };
        let life = one.life;
        self.later(1, 20, Event::Tell { host, life, input: Input::Core(input) });
    }

    /// The kernel tells of the end of a process, the engine of whatever it noticed.
    pub(super) fn stir(&mut self, host: usize, container: &ContainerId, kind: EventKind) {
        let one = &self.hosts[host];
        let life = one.life;
        let Some(real) = one.engine.real(container) else { return };
        let is_listed = one.engine.containers.contains_key(container);
        let instance = real.instance.clone();
        let at = one.wall.now(self.now);
        let ended = match one.watches.get(container) {
            Some(watch) if matches!(kind, EventKind::Died { .. }) => Some(watch.run.started_at),
            _ => None,
        };
        let tells = one.engine.mode == Mode::Up && is_listed && !real.missed_death;
        let lost = self.rng.u32(..100) < one.engine.losing;
        if let Some(started_at) = ended {
            self.hosts[host].watches.remove(container);
            let (instance, container) = (instance.clone(), container.clone());
            let input = CoreInput::Ended { instance, container, started_at };
            self.later(1, 3, Event::Tell { host, life, input: Input::Core(input) });
        }
        if tells && !lost {
            let event = dwell_core::container::Event { id: container.clone(), instance, at, kind };
            let input = Input::Core(CoreInput::Event(event));
            self.later(1, 40, Event::Tell { host, life, input });
        }
    }

    /// Processes end of which the engine knows nothing.
    pub(super) fn end_hidden(&mut self, host: usize, is_meant: impl Fn(&InstanceName) -> bool) {
        let hidden = self.hosts[host].engine.hidden();
        let meant = hidden.filter(|(_, real)| is_meant(&real.instance));
        let meant: Vec<ContainerId> = meant.map(|(id, _)| id.clone()).collect();
        for container in meant {
            self.end_process(host, &container, 137);
        }
    }

    /// Keeps the books about what a step did to a main process.
    fn enter(&mut self, host: usize, name: &InstanceName, deed: Deed) {
        match deed {
            Deed::Nothing | Deed::Made(_) => {}
            Deed::Started(container) => self.started(host, &container),
            Deed::Ended(container) => {
                if !self.is_foreign(host, &container) {
                    self.truth.ended(name, host, &container, self.now);
                    self.write_last(host, name);
                }
                self.stir(host, &container, EventKind::Died { exit_code: None });
            }
        }
    }

    fn is_foreign(&self, host: usize, container: &ContainerId) -> bool {
        self.hosts[host].engine.real(container).is_some_and(|real| real.foreign)
    }

    fn started(&mut self, host: usize, container: &ContainerId) {
        let one = &mut self.hosts[host];
        let Some(real) = one.engine.containers.get(container).cloned() else { return };
        let name = real.instance.clone();
        let (address, excused) = (real.address, one.excused);
        self.stir(host, container, EventKind::Started);
        let running = Running { host, container: container.clone(), address, excused };
        self.note(|| format!("host {host}: {name} runs as {container}, {}", real.image));
        self.truth.started(&name, running);
        self.check_twins();
        if real.has_volume && !excused {
            let content = self.hosts[host].volumes.get(&name).copied().unwrap_or(0);
            match self.truth.opened(&name, host, content) {
                Ok(content) => drop(self.hosts[host].volumes.insert(name, content)),
                Err(violation) => self.violate(violation),
            }
        }
        let held = self.hosts[host].held.get(&real.instance).copied();
        if let Some(held) = held.filter(|held| real.is_older_than(*held)) {
            let what = format!(
                "{} is started as {container} on host {host}, after {held:?}",
                real.instance
            );
            self.violate(Violation { rule: "never an older one", what });
        }
        self.check_version(host, &real.instance, &real.image);
        self.check_task(host, &real);
        let (container, run) = (container.clone(), real.run);
        match Temper::of(&real.image) {
            _ if self.hosts[host].spoiled => {
                self.later(300, 900, Event::Ends { host, container, run, code: 1 });
            }
            Temper::Ends(after) => {
                self.later(after, after + 100, Event::Ends { host, container, run, code: 1 });
            }
            Temper::Works(after) => {
                self.later(after, after + 2_000, Event::Ends { host, container, run, code: 0 });
            }
            Temper::Sick => {
                self.later(500, 2_000, Event::Judged { host, container, run, healthy: false });
            }
            _ => self.later(50, 800, Event::Judged { host, container, run, healthy: true }),
        }
    }

    pub(super) fn is_run(&self, host: usize, container: &ContainerId, run: u64) -> bool {
        let real = self.hosts[host].engine.real(container);
        real.is_some_and(|real| real.run == run && real.is_running())
    }

    /// A main process ends, and whoever listens is told.
    pub(super) fn end_process(&mut self, host: usize, container: &ContainerId, code: i32) {
        let now = self.now;
        let one = &mut self.hosts[host];
        let Some(name) = one.engine.real(container).map(|real| real.instance.clone()) else {
            return;
        };
        let deed = one.end(container, code, now);
        if matches!(deed, Deed::Ended(_)) {
            self.note(|| format!("host {host}: {name} ended as {container} with {code}"));
        }
        self.enter(host, &name, deed);
    }

    pub(super) fn judge(&mut self, host: usize, container: &ContainerId, run: u64, healthy: bool) {
        if !self.is_run(host, container, run) {
            return;
        }
        let Some(real) = self.hosts[host].engine.real_mut(container) else { return };
        real.health = if healthy { Health::Healthy } else { Health::Unhealthy };
        let (name, image) = (real.instance.clone(), real.image.clone());
        // Without a health check nobody sees that it is sick.
        let mut shapes = self.scenario.workloads.iter().enumerate();
        let is_checked =
            shapes.any(|(n, shape)| shape.health && workload_name(n) == *name.workload());
        if healthy || !is_checked {
            self.serves(&name, &image);
        }
        self.tell_health(host, container);
    }

    /// The engine answers again: first it does what it was asked long ago.
    pub(super) fn find_engine(&mut self, host: usize) {
        self.hosts[host].engine.mode = Mode::Up;
        let parked = std::mem::take(&mut self.parked);
        let (mine, others) = parked.into_iter().partition(|(on, ..)| *on == host);
        self.parked = others;
        for (_, life, work) in mine {
            // Whoever asked may have given up meanwhile.
            if let Work::Call(id, call) = work {
                let outcome = self.do_now(host, (life, id), call);
                self.answer(host, life, 1, id, outcome);
            }
        }
        let life = self.hosts[host].life;
        self.later(5, 1_000, Event::Seek { host, life });
        // Which volumes there are is looked at apart, and told as soon as it is known.
        if let Some(stream) = self.hosts[host].stream {
            let volumes = self.hosts[host].seen_volumes();
            let message = Up::Report(StatusReport { volumes, ..StatusReport::default() });
            self.send(stream, true, Event::Up { stream, message });
        }
    }

    pub(super) fn relieve_after(&mut self, wait: Ms, relief: Relief) {
        self.schedule.at(self.now + wait.max(1), Event::Relieve(relief));
    }
}

fn is_engines(step: &Step) -> bool {
    !matches!(
        step,
        Step::EnsureSandbox { .. }
            | Step::RepairSandbox { .. }
            | Step::RemoveSandbox { .. }
            | Step::Record(_)
            | Step::Forget
    )
}

fn failed(failure: Failure, cause: Cause) -> Outcome {
    Outcome::Failed(CallFailure { failure, cause })
}
