//! What agents want done, done: late, with what comes of it told even later, and not always.

use dwell_core::health::Health;
use dwell_core::id::InstanceName;
use dwell_core::quantity::Millis;
use dwell_planner::{ContainerId, Failure, FailureKind, Step};

use super::{Event, Relief, Work, World};
use crate::agent::{Input, Output};
use crate::host::{Deed, Mode, Temper, transient};
use crate::message::Up;
use crate::schedule::Ms;
use crate::truth::{Running, Violation};

/// After what time an agent gives up a call that is not answered.
const CALL_LIMIT_MS: Ms = 30_000;
/// After what time a write that failed is tried again.
const STORE_RETRY_MS: Ms = 2_000;

impl World {
    /// Puts on its way what an agent wants done.
    pub(super) fn see_to(&mut self, host: usize, life: u64, output: Output) {
        let slow = self.hosts[host].engine.slow_max;
        let (work, most) = match output {
            Output::Step { name, step, assigned } => {
                let most = match &step {
                    Step::Stop { grace: Millis(grace), .. } => 20 + (*grace).min(12_000) / 8 + slow,
                    step if is_engines(step) => 60 + slow,
                    _ => 6 + slow / 4,
                };
                (Work::Step { name, step, assigned }, most)
            }
            Output::Look(name) => (Work::Look(name), 20 + slow),
            Output::LookAtAll => (Work::LookAtAll, 100 + slow),
            Output::Pull(image) => (Work::Pull(image), 3_000 + slow),
            Output::Store(held) => (Work::Store(held), 8 + slow / 4),
            Output::Send(mut message) => {
                if let Up::Hello(report) | Up::Report(report) = &mut message {
                    report.volumes = self.hosts[host].seen_volumes();
                }
                if let Some(stream) = self.hosts[host].stream {
                    self.send(stream, true, Event::Up { stream, message });
                }
                return;
            }
            Output::EndStream(reason) => {
                self.note(|| format!("host {host}: gives its stream up: {reason}"));
                return self.lose_stream(host);
            }
            Output::WakeAt(at) => {
                let now = self.hosts[host].agent_wall.now(self.now);
                let wait = at.0.saturating_sub(now.0).max(1);
                let event = Event::Tell { host, life, input: Input::Time };
                return self.schedule.at(self.now + wait, event);
            }
        };
        self.later(1, most.max(2), Event::Do { host, life, work });
    }

    /// Does a piece of work. An agent that has ended meanwhile may have ordered it: the engine and the disk do
    /// not mind.
    pub(super) fn carry_out(&mut self, host: usize, life: u64, work: Work) {
        if !self.hosts[host].on {
            return;
        }
        let needs_engine = match &work {
            Work::Step { step, .. } => is_engines(step),
            Work::Look(_) | Work::LookAtAll | Work::Pull(_) => true,
            Work::Store(_) => false,
        };
        let engine = &self.hosts[host].engine;
        let (mode, failing, losing) = (engine.mode, engine.failing, engine.losing);
        if needs_engine && mode == Mode::Hung {
            // It is done when the engine comes to itself; nobody waits for it so long.
            let input = failed(&work, transient("the engine does not answer"));
            self.parked.push((host, life, work));
            return self.tell_later(host, life, CALL_LIMIT_MS, input, true);
        }
        if needs_engine && mode == Mode::Down {
            let input = failed(&work, transient("the engine is away"));
            return self.tell_later(host, life, 5, input, true);
        }
        if needs_engine && self.rng.u32(..100) < failing {
            let input = failed(&work, transient("the engine could not"));
            return self.tell_later(host, life, 5, input, false);
        }
        let lost = needs_engine && self.rng.u32(..100) < losing;
        let answer = lost.then(|| failed(&work, transient("no answer")));
        let Some(done) = self.do_now(host, life, work) else { return };
        match answer {
            Some(answer) => self.tell_later(host, life, CALL_LIMIT_MS, answer, false),
            None => {
                let wait = self.rng.u64(1..4 + self.hosts[host].engine.slow_max / 4);
                self.tell_later(host, life, wait, done, false);
            }
        }
    }

    fn tell_later(&mut self, host: usize, life: u64, wait: Ms, input: Input, loses_engine: bool) {
        self.schedule.at(self.now + wait, Event::Tell { host, life, input });
        if loses_engine {
            let input = Input::Unanswered;
            self.schedule.at(self.now + wait, Event::Tell { host, life, input });
        }
    }

    /// Does it, and returns what its agent is to be told.
    fn do_now(&mut self, host: usize, life: u64, work: Work) -> Option<Input> {
        let now = self.now;
        let one = &mut self.hosts[host];
        let at = one.agent_wall.now(now);
        Some(match work {
            Work::Step { name, step, assigned } => {
                let cut_short = one.cuts_short(&step);
                let deed = one.carry_out(&name, &step, assigned.as_deref(), now);
                self.note(|| format!("host {host}: {name}: {step:?}: {deed:?}"));
                if let Some(what) = cut_short {
                    self.violate(Violation { rule: "grace", what });
                }
                let outcome = match deed {
                    Ok(deed) => {
                        self.enter(host, &name, deed);
                        Ok(())
                    }
                    Err(failure) => Err(failure),
                };
                Input::Stepped { name, step, outcome }
            }
            Work::Look(name) => {
                let found = Some(one.look(&name, at));
                Input::Looked { name, found }
            }
            Work::LookAtAll => {
                let sandboxes = one.sandboxes.clone();
                Input::LookedAtAll { found: Some((one.look_at_all(at), sandboxes)) }
            }
            Work::Pull(image) => {
                let outcome = match Temper::of(&image) {
                    Temper::Absent => {
                        let message = "no such image".to_owned();
                        Err(Failure { kind: FailureKind::Permanent, message })
                    }
                    _ => {
                        one.engine.images.insert(image.clone());
                        Ok(())
                    }
                };
                Input::Pulled { image, outcome }
            }
            Work::Store(held) => {
                if one.disk.full {
                    let event = Event::Do { host, life, work: Work::Store(held) };
                    self.schedule.at(now + STORE_RETRY_MS, event);
                    return None;
                }
                let is_newer =
                    one.disk.assignment.as_ref().is_none_or(|disk| disk.revision <= held.revision);
                let position = held.position();
                // A newer one was written while this one was tried again.
                if is_newer {
                    one.disk.assignment = Some(*held);
                }
                Input::Stored(position)
            }
        })
    }

    /// Keeps the books about what a step did to a main process.
    fn enter(&mut self, host: usize, name: &InstanceName, deed: Deed) {
        match deed {
            Deed::Nothing => {}
            Deed::Started(container) => self.started(host, &container),
            Deed::Ended(container) => {
                self.truth.ended(name, host, &container, self.now);
            }
        }
    }

    fn started(&mut self, host: usize, container: &ContainerId) {
        let one = &mut self.hosts[host];
        let Some(real) = one.engine.containers.get(container).cloned() else { return };
        let name = real.instance.clone();
        let (address, excused) = (real.address, one.vouched_dead);
        let running = Running { host, container: container.clone(), address, excused };
        self.note(|| format!("host {host}: {name} runs as {container}, {}", real.image));
        let result = self.truth.started(&name, running);
        if let Err(violation) = result {
            self.violate(violation);
        }
        if real.has_volume && !excused {
            let content = self.hosts[host].volumes.get(&name).copied().unwrap_or(0);
            match self.truth.opened(&name, host, content) {
                Ok(content) => drop(self.hosts[host].volumes.insert(name, content)),
                Err(violation) => self.violate(violation),
            }
        }
        self.check_version(host, &real.instance, &real.image);
        let (container, run) = (container.clone(), real.run);
        match Temper::of(&real.image) {
            Temper::Ends(after) => {
                self.later(after, after + 100, Event::Ends { host, container, run, code: 1 });
            }
            Temper::Sick => {
                self.later(500, 2_000, Event::Judged { host, container, run, healthy: false });
            }
            _ => self.later(50, 800, Event::Judged { host, container, run, healthy: true }),
        }
    }

    pub(super) fn is_run(&self, host: usize, container: &ContainerId, run: u64) -> bool {
        let real = self.hosts[host].engine.containers.get(container);
        real.is_some_and(|real| real.run == run && real.is_running())
    }

    /// A main process ends, and whoever listens is told.
    pub(super) fn end_process(&mut self, host: usize, container: &ContainerId, code: i32) {
        let now = self.now;
        let one = &mut self.hosts[host];
        let Some(name) = one.engine.containers.get(container).map(|real| real.instance.clone())
        else {
            return;
        };
        let deed = one.end(container, code, now);
        if matches!(deed, Deed::Ended(_)) {
            self.note(|| format!("host {host}: {name} ended as {container} with {code}"));
        }
        self.enter(host, &name, deed);
        self.stir(host, &name);
    }

    /// The agent is told that something happened to an instance.
    pub(super) fn stir(&mut self, host: usize, name: &InstanceName) {
        let life = self.hosts[host].life;
        let input = Input::Stirred(name.clone());
        self.later(1, 40, Event::Tell { host, life, input });
    }

    pub(super) fn judge(&mut self, host: usize, container: &ContainerId, run: u64, healthy: bool) {
        if !self.is_run(host, container, run) {
            return;
        }
        let Some(real) = self.hosts[host].engine.containers.get_mut(container) else { return };
        real.health = if healthy { Health::Healthy } else { Health::Unhealthy };
        let (name, image) = (real.instance.clone(), real.image.clone());
        if healthy {
            self.serves(&name, &image);
        }
        self.stir(host, &name);
    }

    /// The engine answers again: first it does what it was asked long ago.
    pub(super) fn find_engine(&mut self, host: usize) {
        self.hosts[host].engine.mode = Mode::Up;
        let parked = std::mem::take(&mut self.parked);
        let (mine, others) = parked.into_iter().partition(|(on, ..)| *on == host);
        self.parked = others;
        for (_, life, work) in mine {
            // Whoever asked has given up: no answer.
            drop(self.do_now(host, life, work));
        }
        let life = self.hosts[host].life;
        self.later(5, 1_000, Event::Tell { host, life, input: Input::EngineFound });
    }

    pub(super) fn relieve_after(&mut self, wait: Ms, relief: Relief) {
        self.schedule.at(self.now + wait.max(1), Event::Relieve(relief));
    }
}

fn is_engines(step: &Step) -> bool {
    !matches!(
        step,
        Step::EnsureSandbox
            | Step::RepairSandbox
            | Step::RemoveSandbox
            | Step::Record(_)
            | Step::Forget
    )
}

/// What an agent is told of work that failed.
fn failed(work: &Work, failure: Failure) -> Input {
    match work {
        Work::Step { name, step, .. } => {
            Input::Stepped { name: name.clone(), step: step.clone(), outcome: Err(failure) }
        }
        Work::Look(name) => Input::Looked { name: name.clone(), found: None },
        Work::LookAtAll => Input::LookedAtAll { found: None },
        Work::Pull(image) => Input::Pulled { image: image.clone(), outcome: Err(failure) },
        Work::Store(held) => Input::Stored(held.position()),
    }
}
