//! An agent's decisions: what it does around `plan`, as a function of what happens to it.
//!
//! Nothing here does anything: [`Agent::handle`] takes one [`Input`] and says, as [`Output`]s, what is to be
//! done. The world does that, late, twice or not at all.

use std::collections::{BTreeMap, BTreeSet};

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, Position, Revision};
use dwell_core::instance::{Assigned, InstanceStatus};
use dwell_core::session::{Assignment, StatusReport};
use dwell_planner::{
    Container, Desired, EngineState, Failure, FailureKind, Image, Journal, Observed, Sandbox, Step,
    plan, statuses,
};

use crate::message::{Down, Up};

/// What happens to an agent.
#[derive(Debug)]
pub(crate) enum Input {
    /// A stream to the controller is there.
    Attached,
    /// It is not any more.
    Detached,
    /// The controller says something.
    Message(Down),
    /// This assignment is on disk.
    Stored(Position),
    /// The engine's events arrive.
    EngineFound,
    /// The engine does not answer.
    EngineLost,
    /// Something happened to a container of an instance.
    Stirred(InstanceName),
    /// Somebody may have changed sandboxes.
    Disturbed,
    /// A step has ended.
    Stepped { name: InstanceName, step: Step, outcome: Result<(), Failure> },
    /// A call to the engine had no answer.
    Unanswered,
    /// An instance was looked at, or could not be.
    Looked { name: InstanceName, found: Option<Vec<Container>> },
    /// Everything was looked at: containers and sandboxes. Or could not be.
    LookedAtAll { found: Option<Everything> },
    /// A pull has ended.
    Pulled { image: String, outcome: Result<(), Failure> },
    /// A pause is over, or it is time for a heartbeat.
    Time,
    /// Time for a sign of life.
    Heartbeat,
}

/// All containers and all sandboxes of a host.
pub(crate) type Everything = (BTreeMap<InstanceName, Vec<Container>>, BTreeSet<InstanceName>);

/// What an agent wants done.
#[derive(Debug)]
pub(crate) enum Output {
    Step { name: InstanceName, step: Step, assigned: Option<Box<Assigned>> },
    Look(InstanceName),
    LookAtAll,
    Pull(String),
    Store(Box<Assignment>),
    Send(Up),
    EndStream(String),
    WakeAt(Timestamp),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Agent {
    held: Option<Assignment>,
    desired: Desired,
    stored: Position,
    observed: Observed,
    /// Whether the engine's events arrive.
    connected: bool,
    surveying: bool,
    doubts: BTreeSet<InstanceName>,
    looking: BTreeSet<InstanceName>,
    /// What was told of the instances, as it stands.
    statuses: Option<BTreeMap<InstanceName, InstanceStatus>>,
    attached: bool,
    reported: Reported,
    acknowledged: Position,
}

/// What the controller knows by the present stream.
#[derive(Debug, Default)]
struct Reported {
    complete: bool,
    revision: Revision,
    instances: BTreeMap<InstanceName, InstanceStatus>,
}

impl Agent {
    /// An agent that starts with what is on disk.
    pub(crate) fn new(
        held: Option<Assignment>,
        journals: &BTreeMap<InstanceName, Journal>,
        now: Timestamp,
    ) -> Self {
        let mut observed = Observed::default();
        for (name, journal) in journals {
            observed.instances.entry(name.clone()).or_default().remember(journal.clone());
        }
        let mut agent = Self {
            stored: held.as_ref().map(Assignment::position).unwrap_or_default(),
            held,
            desired: Desired::default(),
            observed,
            connected: false,
            surveying: false,
            doubts: BTreeSet::new(),
            looking: BTreeSet::new(),
            statuses: None,
            attached: false,
            reported: Reported::default(),
            acknowledged: Position::default(),
        };
        agent.desire(now);
        agent
    }

    /// What it holds in memory.
    pub(crate) fn held(&self) -> Option<&Assignment> {
        self.held.as_ref()
    }

    /// Whether the engine answers, as far as it knows.
    pub(crate) fn is_engine_ready(&self) -> bool {
        self.observed.engine == EngineState::Ready
    }

    /// Takes in one thing that happened.
    pub(crate) fn handle(&mut self, input: Input, now: Timestamp, out: &mut Vec<Output>) {
        match input {
            Input::Attached => {
                self.attached = true;
                self.reported = Reported::default();
                self.acknowledged = Position::default();
                let report = self.reported.next(self.desired.revision(), self.statuses.as_ref());
                out.push(Output::Send(Up::Hello(report.unwrap_or_default())));
                return self.tell(out);
            }
            Input::Detached => {
                self.attached = false;
                return;
            }
            Input::Heartbeat => {
                if self.attached {
                    out.push(Output::Send(Up::Heartbeat));
                }
                return;
            }
            Input::Stored(position) => {
                self.stored = position;
                return self.tell(out);
            }
            Input::Message(message) => {
                if let Err(reason) = self.merge(message) {
                    self.attached = false;
                    out.push(Output::EndStream(reason));
                    return;
                }
                self.desire(now);
                out.extend(self.held.clone().map(|held| Output::Store(Box::new(held))));
            }
            Input::EngineFound => {
                self.connected = true;
                self.look_at_all(out);
            }
            Input::EngineLost => {
                self.connected = false;
                self.lose_engine(out);
            }
            Input::Stirred(name) => self.doubt(&name),
            Input::Disturbed => {
                for seen in self.observed.instances.values_mut() {
                    if seen.sandbox == Sandbox::Ready {
                        seen.sandbox = Sandbox::Doubtful;
                    }
                }
            }
            Input::Stepped { name, step, outcome } => self.conclude(&name, &step, outcome, now),
            Input::Looked { name, found } => {
                self.looking.remove(&name);
                let settled = !self.doubts.contains(&name);
                match found {
                    Some(found) => {
                        let seen = self.observed.instances.entry(name).or_default();
                        take(&mut seen.containers, found);
                        seen.in_doubt &= !settled;
                    }
                    None => self.doubt(&name),
                }
            }
            Input::LookedAtAll { found } => {
                self.surveying = false;
                match found {
                    Some((found, sandboxes)) => self.looked_at_all(found, &sandboxes, now),
                    None => self.lose_engine(out),
                }
            }
            Input::Unanswered => self.lose_engine(out),
            Input::Pulled { image, outcome } => {
                let state = self.observed.images.remove(&image).unwrap_or(Image::Missing);
                if let Err(failure) = outcome {
                    self.observed.images.insert(image, state.failed(failure, now));
                }
            }
            Input::Time => {}
        }
        self.advance(now, out);
    }

    fn merge(&mut self, change: Down) -> Result<(), String> {
        let merged = Assignment::merge(self.held.as_ref(), *change);
        self.held = Some(merged.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn desire(&mut self, now: Timestamp) {
        let Some(held) = &self.held else { return };
        self.desired = held.instances.values().cloned().collect::<Desired>().at(held.revision);
        for (name, target) in self.desired.instances() {
            let seen = self.observed.instances.entry(name.clone()).or_default();
            seen.accept(&target.assigned, now);
        }
    }

    fn doubt(&mut self, name: &InstanceName) {
        self.observed.instances.entry(name.clone()).or_default().in_doubt = true;
        self.doubts.insert(name.clone());
    }

    fn lose_engine(&mut self, out: &mut Vec<Output>) {
        self.observed.engine = EngineState::Away { reason: "does not answer".to_owned() };
        if self.connected {
            self.look_at_all(out);
        }
    }

    fn look_at_all(&mut self, out: &mut Vec<Output>) {
        if !self.surveying {
            self.surveying = true;
            out.push(Output::LookAtAll);
        }
    }

    fn looked_at_all(
        &mut self,
        mut found: BTreeMap<InstanceName, Vec<Container>>,
        sandboxes: &BTreeSet<InstanceName>,
        now: Timestamp,
    ) {
        let known = self.observed.instances.keys().cloned();
        let names: BTreeSet<_> =
            known.chain(found.keys().cloned()).chain(sandboxes.iter().cloned()).collect();
        for name in names {
            let seen = self.observed.instances.entry(name.clone()).or_default();
            if seen.busy.is_some() || self.looking.contains(&name) {
                self.doubt(&name);
                continue;
            }
            let has_sandbox = sandboxes.contains(&name);
            seen.sandbox = if has_sandbox { Sandbox::Doubtful } else { Sandbox::Absent };
            take(&mut seen.containers, found.remove(&name).unwrap_or_default());
        }
        if self.connected {
            if self.observed.engine != EngineState::Ready {
                self.observed.ready_since = now;
            }
            self.observed.engine = EngineState::Ready;
        }
    }

    fn conclude(
        &mut self,
        name: &InstanceName,
        step: &Step,
        outcome: Result<(), Failure>,
        now: Timestamp,
    ) {
        let seen = self.observed.instances.entry(name.clone()).or_default();
        match outcome {
            Ok(()) => seen.succeeded(step),
            Err(failure) => {
                if failure.kind == FailureKind::ImageMissing
                    && let Some(target) = self.desired.get(name)
                {
                    let image = target.assigned.template.image.clone();
                    self.observed.images.entry(image).or_insert(Image::Missing);
                }
                seen.failed(step, failure, now);
            }
        }
        let concerns_engine = !matches!(
            step,
            Step::EnsureSandbox
                | Step::RepairSandbox
                | Step::RemoveSandbox
                | Step::Record(_)
                | Step::Forget
        );
        if concerns_engine {
            self.doubt(name);
        }
    }

    fn advance(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        if self.observed.engine == EngineState::Ready {
            for name in std::mem::take(&mut self.doubts) {
                let seen = self.observed.instances.entry(name.clone()).or_default();
                if seen.busy.is_some() || !self.looking.insert(name.clone()) {
                    self.doubts.insert(name);
                } else {
                    out.push(Output::Look(name));
                }
            }
        }
        if self.held.is_none() {
            return;
        }
        let plan = plan(&self.desired, &self.observed, now);
        out.extend(plan.wake_at.map(Output::WakeAt));
        for (name, step) in plan.steps {
            let seen = self.observed.instances.entry(name.clone()).or_default();
            seen.busy = Some(step.clone());
            let target = self.desired.get(&name);
            let assigned = target.map(|target| Box::new(target.assigned.clone()));
            out.push(Output::Step { name, step, assigned });
        }
        for image in plan.pulls {
            let state = self.observed.images.remove(&image).unwrap_or(Image::Missing);
            self.observed.images.insert(image.clone(), state.pulling(now));
            out.push(Output::Pull(image));
        }
        let (desired, doubts, looking) = (&self.desired, &self.doubts, &self.looking);
        self.observed.instances.retain(|name, seen| {
            let doubted = doubts.contains(name) || looking.contains(name);
            desired.get(name).is_some() || !seen.is_nothing() || doubted
        });
        if self.observed.engine != EngineState::Unknown {
            self.publish(now);
            self.tell(out);
        }
    }

    /// A status keeps the time at which it was first seen to be so.
    fn publish(&mut self, now: Timestamp) {
        let before = self.statuses.take().unwrap_or_default();
        let now = statuses(&self.desired, &self.observed, now).into_iter().map(|mut status| {
            if let Some(known) = before.get(&status.instance)
                && says_the_same(known, &status)
            {
                status.observed_at = known.observed_at;
            }
            (status.instance.clone(), status)
        });
        self.statuses = Some(now.collect());
    }

    /// Tells the controller what it does not know yet.
    fn tell(&mut self, out: &mut Vec<Output>) {
        if !self.attached {
            return;
        }
        if self.stored != self.acknowledged {
            self.acknowledged = self.stored;
            out.push(Output::Send(Up::Acknowledge(self.stored)));
        }
        if let Some(report) = self.reported.next(self.desired.revision(), self.statuses.as_ref()) {
            out.push(Output::Send(Up::Report(report)));
        }
    }
}

impl Reported {
    fn next(
        &mut self,
        revision: Revision,
        now: Option<&BTreeMap<InstanceName, InstanceStatus>>,
    ) -> Option<StatusReport> {
        let now = now?;
        let is_known = |status: &InstanceStatus| {
            self.instances.get(&status.instance).is_some_and(|known| says_the_same(known, status))
        };
        let statuses: Vec<_> = now.values().filter(|status| !is_known(status)).cloned().collect();
        let gone = self.instances.keys().filter(|name| !now.contains_key(*name));
        let gone: Vec<_> = gone.cloned().collect();
        if self.complete && statuses.is_empty() && gone.is_empty() && self.revision == revision {
            return None;
        }
        let report = StatusReport {
            seen_under: Position { revision, ..Position::default() },
            complete: !self.complete,
            instances: statuses,
            gone,
            volumes: None,
        };
        self.instances.clone_from(now);
        (self.complete, self.revision) = (true, revision);
        Some(report)
    }
}

/// Replaces what is known of an instance's containers by what was found; a state keeps the time at which it
/// was first seen.
fn take(known: &mut Vec<Container>, found: Vec<Container>) {
    let before = std::mem::replace(known, found);
    for container in known {
        let same = before.iter().find(|one| one.id == container.id && one.state == container.state);
        if let Some(same) = same {
            container.since = same.since;
        }
    }
}

fn says_the_same(one: &InstanceStatus, other: &InstanceStatus) -> bool {
    let InstanceStatus { observed_at: _, .. } = one;
    one.phase == other.phase
        && one.generation == other.generation
        && one.health == other.health
        && one.container_id == other.container_id
        && one.started_at == other.started_at
        && one.restarts == other.restarts
        && one.exit_code == other.exit_code
        && one.restarts_done == other.restarts_done
        && one.message == other.message
        && one.verdict == other.verdict
}
