//! The world: hosts, a controller, what is on its way between them, and what happens next.
//!
//! One event is taken after the other, in the order of simulated time. `carry.rs` does what agents want done,
//! `deliver.rs` moves messages, `befall.rs` is where faults come in, `operate.rs` and `membership.rs` where operators
//! do, `check.rs` says what must hold.

mod befall;
mod blocks;
mod carry;
mod check;
mod custody;
mod deliver;
mod jobs;
mod membership;
mod operate;
mod versions;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use dwell_agent_core::{Call, CallId, Input as CoreInput};
use dwell_controller::model::Settings;
use dwell_core::clock::Timestamp;
use dwell_core::container::ContainerId;
use dwell_core::id::{InstanceName, NodeName, WorkloadName};
use dwell_core::net::ClusterRange;
use dwell_core::workload::WorkloadSpec;

use self::custody::Custodies;
use self::jobs::Jobs;
use self::versions::Versions;
use self::volumes::{CopyId, Copying};
use crate::action::Scenario;
use crate::agent::{Agent, Input, Output};
use crate::controller::Controller;
use crate::host::{Host, Mode};
use crate::message::{Down, Up};
use crate::schedule::{Ms, Schedule};
use crate::truth::{Truth, Violation};

/// How often an agent gives a sign of life, and how often it looks whether its stream is dead.
const HEARTBEAT_MS: Ms = 2_000;
/// For how long nothing may come over a stream before its ends give it up.
const SILENCE_MS: Ms = 6_000;
/// How long everything may take to be as declared once the faults have stopped.
const CONVERGENCE_MS: Ms = 30 * 60_000;
/// How often that is looked at.
const CHECK_MS: Ms = 5_000;

/// Something that happens.
#[derive(Debug)]
enum Event {
    /// An action of the scenario.
    Act(usize),
    /// A fault is over.
    Relieve(Relief),
    /// A second of the controller.
    Tick {
        life: u64,
    },
    StartController,
    /// An agent's stream is to be brought to the newest revision.
    Push {
        stream: u64,
    },
    Up {
        stream: u64,
        message: Up,
    },
    /// What was said last over a stream that is broken by now comes all the same.
    Late {
        node: NodeName,
        enrolment: String,
        stream: u64,
        controller_life: u64,
        message: Up,
    },
    /// The agent has ended a stream.
    UpEnd {
        stream: u64,
    },
    Down {
        stream: u64,
        message: Down,
    },
    /// The controller has ended a stream.
    DownEnd {
        stream: u64,
    },
    StartAgent {
        host: usize,
        life: u64,
    },
    Connect {
        host: usize,
        life: u64,
    },
    Heartbeat {
        host: usize,
        life: u64,
    },
    /// An agent looks whether its engine answers.
    Seek {
        host: usize,
        life: u64,
    },
    Tell {
        host: usize,
        life: u64,
        input: Input,
    },
    Do {
        host: usize,
        life: u64,
        work: Work,
    },
    /// A main process ends by itself.
    Ends {
        host: usize,
        container: ContainerId,
        run: u64,
        code: i32,
    },
    /// A health check passes, or fails for good.
    Judged {
        host: usize,
        container: ContainerId,
        run: u64,
        healthy: bool,
    },
    /// A copy of a volume is made, or not.
    Copied {
        of: CopyId,
        controller_life: u64,
    },
    /// It may be begun again.
    CopyOver {
        of: CopyId,
        controller_life: u64,
    },
    /// An operator declares a workload.
    Apply {
        workload: usize,
    },
    /// Operators remove a node by force.
    ForceRemove {
        host: usize,
        reuse: bool,
    },
    /// The faults stop.
    Heal,
    /// Operators put right what is theirs to put right.
    PutRight,
    /// Is everything as declared?
    Check,
}

/// What an agent wants done.
#[derive(Debug)]
enum Work {
    Call(CallId, Call),
    /// The newest assignment is to be written to disk.
    Store,
}

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
enum Relief {
    Disk(usize),
    Engine(usize),
    Calls(usize),
    Link(usize),
    Spoiled(usize),
    Power(usize),
    Store,
}

/// A connection of an agent to the controller.
#[derive(Debug)]
struct Stream {
    host: usize,
    /// Of the agent that made it.
    life: u64,
    /// Of the controller that took it.
    controller_life: u64,
    /// When the last message in either direction arrives: they do not overtake each other.
    up_at: Ms,
    down_at: Ms,
    /// What waits until the link is there again, and whether it is for the controller.
    stalled: Vec<(bool, Event)>,
    /// What the agent said last.
    last_up: Option<Up>,
}

/// A workload as an operator knows it to be declared.
#[derive(Clone, Debug)]
struct Declared {
    spec: WorkloadSpec,
    run: bool,
}

/// What has come of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How many events happened.
    pub steps: u64,
    /// What must never be and was.
    pub violation: Option<Violation>,
    /// What happened, if that was asked for.
    pub trace: Vec<String>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct World {
    scenario: Scenario,
    now: Ms,
    rng: fastrand::Rng,
    schedule: Schedule<Event>,
    controller: Controller,
    hosts: Vec<Host>,
    streams: BTreeMap<u64, Stream>,
    /// Since when each link is cut, in either direction.
    cut_since: BTreeMap<usize, Ms>,
    parked: Vec<(usize, u64, Work)>,
    truth: Truth,
    /// What operators know to be declared.
    declared: BTreeMap<WorkloadName, Declared>,
    versions: Versions,
    jobs: Jobs,
    custodies: Custodies,
    /// When addresses were released last, by the clock of the controller.
    released: BTreeMap<Ipv4Addr, Timestamp>,
    /// The copies of volumes that are under way.
    copying: BTreeMap<CopyId, Copying>,
    /// Instances that are shown as running and do not, and for how many seconds in a row.
    doubtful: BTreeMap<InstanceName, u32>,
    /// Workloads about which an operator had no answer.
    unsure: BTreeSet<WorkloadName>,
    /// Workloads that were declared anew after the faults had stopped, because what works was ruled out.
    tried_again: BTreeSet<WorkloadName>,
    /// Streams of dismissed hosts that end when the restore is confirmed.
    until_confirmed: Vec<u64>,
    last_stream: u64,
    version: u64,
    /// Counts the keys with which hosts have joined.
    enrolments: u64,
    /// An operator's command about a workload is under way.
    operating: bool,
    /// Operators are vouching for a host's death.
    removing_by_force: bool,
    violation: Option<Violation>,
    steps: u64,
    trace: Option<Vec<String>>,
    outputs: Vec<Output>,
}

impl World {
    /// Lets all of a scenario happen.
    pub(crate) fn run(scenario: &Scenario, traced: bool) -> Outcome {
        let mut world = Self::new(scenario.clone(), traced);
        world.begin();
        let end = scenario.end + CONVERGENCE_MS + 2 * CHECK_MS;
        while let Some((at, event)) = world.schedule.next(end) {
            world.now = at;
            world.steps += 1;
            world.happen(event);
            if world.violation.is_some() {
                break;
            }
        }
        Outcome {
            steps: world.steps,
            violation: world.violation,
            trace: world.trace.unwrap_or_default(),
        }
    }

    fn new(scenario: Scenario, traced: bool) -> Self {
        Self {
            now: 0,
            rng: fastrand::Rng::with_seed(scenario.seed ^ 0x5eed),
            schedule: Schedule::new(),
            controller: Controller::new(settings()),
            hosts: Vec::new(),
            streams: BTreeMap::new(),
            cut_since: BTreeMap::new(),
            parked: Vec::new(),
            truth: Truth::default(),
            declared: BTreeMap::new(),
            versions: Versions::default(),
            jobs: Jobs::default(),
            custodies: Custodies::default(),
            released: BTreeMap::new(),
            copying: BTreeMap::new(),
            doubtful: BTreeMap::new(),
            unsure: BTreeSet::new(),
            tried_again: BTreeSet::new(),
            until_confirmed: Vec::new(),
            last_stream: 0,
            version: 0,
            enrolments: 0,
            operating: false,
            removing_by_force: false,
            violation: None,
            steps: 0,
            trace: traced.then(Vec::new),
            outputs: Vec::new(),
            scenario,
        }
    }

    fn begin(&mut self) {
        self.start_controller();
        for number in 0..self.scenario.hosts {
            self.add_host(node_name(number));
        }
        for workload in 0..self.scenario.workloads.len() {
            self.apply(workload, None);
        }
        for (index, &(at, _)) in self.scenario.actions.iter().enumerate() {
            self.schedule.at(at, Event::Act(index));
        }
        self.schedule.at(self.scenario.end, Event::Heal);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Act(index) => {
                if let Some((_, action)) = self.scenario.actions.get(index).cloned() {
                    self.befall(&action);
                }
            }
            Event::Relieve(relief) => self.relieve(relief),
            Event::Tick { life } => self.tick(life),
            Event::StartController => self.start_controller(),
            Event::Push { stream } => self.push(stream),
            Event::Up { stream, message } => self.deliver_up(stream, message),
            Event::Late { node, enrolment, stream, controller_life, message } => {
                if controller_life == self.controller.life {
                    self.deliver_late((node, enrolment), stream, message);
                }
            }
            Event::UpEnd { stream } => self.deliver_up_end(stream),
            Event::Down { stream, message } => self.deliver_down(stream, message),
            Event::DownEnd { stream } => self.deliver_down_end(stream),
            Event::StartAgent { host, life } => self.start_agent(host, life),
            Event::Connect { host, life } => self.connect(host, life),
            Event::Heartbeat { host, life } => self.heartbeat(host, life),
            Event::Seek { host, life } => self.seek_engine(host, life),
            Event::Tell { host, life, input } => self.tell(host, life, input),
            Event::Do { host, life, work } => self.carry_out(host, life, work),
            Event::Ends { host, container, run, code } => {
                if self.is_run(host, &container, run) {
                    if let Some(real) = self.hosts[host].engine.real(&container).cloned() {
                        self.note_done(host, &real, code);
                    }
                    self.end_process(host, &container, code);
                }
            }
            Event::Judged { host, container, run, healthy } => {
                self.judge(host, &container, run, healthy);
            }
            Event::Copied { of, controller_life } => self.copied(of, controller_life),
            Event::CopyOver { of, controller_life } => {
                if controller_life == self.controller.life {
                    self.copying.remove(&of);
                }
            }
            Event::Apply { workload } => self.apply(workload, None),
            Event::ForceRemove { host, reuse } => self.force_remove(host, reuse),
            Event::Heal => self.heal(),
            Event::PutRight => self.put_right(),
            Event::Check => self.check_convergence(),
        }
    }

    /// Tells an agent something, unless it has ended meanwhile, and sees to what it wants done.
    fn tell(&mut self, host: usize, life: u64, input: Input) {
        self.ask(host, life, |agent, at, out| agent.handle(input, at, out));
    }

    fn ask(
        &mut self,
        host: usize,
        life: u64,
        act: impl FnOnce(&mut Agent, Timestamp, &mut Vec<Output>),
    ) {
        let Some(one) = self.hosts.get_mut(host).filter(|one| one.life == life) else { return };
        let at = one.agent_wall.now(self.now);
        let Some(agent) = &mut one.agent else { return };
        let mut outputs = std::mem::take(&mut self.outputs);
        act(agent, at, &mut outputs);
        for output in outputs.drain(..) {
            self.see_to(host, life, output);
        }
        self.outputs = outputs;
    }

    fn later(&mut self, from: Ms, to: Ms, event: Event) {
        let at = self.now + self.rng.u64(from..to);
        self.schedule.at(at, event);
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>5}.{:03} {}", self.now / 1000, self.now % 1000, what()));
        }
    }

    fn violate(&mut self, violation: Violation) {
        self.note(|| format!("!! {violation}"));
        if self.violation.is_none() {
            self.violation = Some(violation);
        }
    }

    fn start_agent(&mut self, host: usize, life: u64) {
        let Some(one) = self.hosts.get_mut(host) else { return };
        if one.life != life || one.agent.is_some() || !one.on || one.retired {
            return;
        }
        one.agent_wall = one.wall;
        let at = one.agent_wall.now(self.now);
        let run = self.rng.u64(1..);
        one.agent = Some(Agent::new(&one.disk, &one.mark(), run, at));
        one.watches.clear();
        (one.to_store, one.storing) = (None, false);
        one.failed_connects = 0;
        self.note(|| format!("host {host}: agent starts"));
        self.later(1, 500, Event::Connect { host, life });
        self.later(1, HEARTBEAT_MS, Event::Heartbeat { host, life });
        self.later(5, 200, Event::Seek { host, life });
        self.ask(host, life, Agent::begin);
    }

    /// What an agent finds is so when it looks, not when it began to.
    fn seek_engine(&mut self, host: usize, life: u64) {
        let input = match self.hosts[host].engine.mode {
            Mode::Up => CoreInput::Connected,
            Mode::Down | Mode::Hung => CoreInput::Lost { reason: "does not answer".to_owned() },
        };
        self.tell(host, life, Input::Core(input));
    }
}

pub(crate) fn node_name(number: u8) -> NodeName {
    parse(&format!("n{number}"))
}

pub(crate) fn workload_name(number: usize) -> WorkloadName {
    parse(&format!("w{number}"))
}

#[expect(clippy::panic, reason = "names that this program makes are names")]
fn parse<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is not a name"))
}

#[expect(clippy::panic, reason = "the range is a constant")]
fn settings() -> Settings {
    let cidr = parse("10.80.0.0/16");
    let range = ClusterRange::new(cidr, 24).unwrap_or_else(|error| panic!("{error}"));
    Settings { events_max: 20, quarantine: blocks::QUARANTINE, ..Settings::new(range) }
}
