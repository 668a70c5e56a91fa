//! An agent: the real core of its reconciler, what it holds of its assignment, and what it tells the controller.
//!
//! Nothing here does anything: [`Agent::handle`] takes one [`Input`] and says, as [`Output`]s, what is to be
//! done. The world does that, late, twice or not at all.

use dwell_core::container::ContainerId;
use dwell_core::skill::Skills;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dwell_agent_core::{Call, CallId, Core, Input as CoreInput, Output as CoreOutput, Watch};
use dwell_core::clock::Timestamp;
use dwell_core::directory::Directory;
use dwell_core::host_mark::HostMark;
use dwell_core::id::{InstanceName, Position};
use dwell_core::session::{Assignment, Hello, Statuses};
use dwell_core::workload::Lease;
use dwell_planner::session::{Holding, Stream};
use dwell_planner::{Desired, EngineState, Leases, Standing};

use crate::host::Disk;
use crate::message::{Down, Up};

/// What happens to an agent.
#[derive(Debug)]
pub(crate) enum Input {
    /// A stream to the controller is there.
    Attached(Ipv4Addr, HostMark),
    /// It is not any more.
    Detached,
    /// The controller says something.
    Message(Down),
    /// An assignment is on disk.
    Stored(Arc<Assignment>),
    /// Something happened to the node.
    Core(CoreInput),
    /// A pause is over.
    Time,
    /// Time for a sign of life.
    Heartbeat,
}

/// What an agent wants done.
#[derive(Debug)]
pub(crate) enum Output {
    Call(CallId, Call),
    Watch(Watch),
    Unwatch(ContainerId),
    Store(Arc<Assignment>),
    StoreDirectory(Directory),
    Send(Up),
    EndStream(String),
    WakeAt(Timestamp),
    /// The kernel is to let instances be reached so long; all that are assigned.
    Fence(Vec<(InstanceName, Standing, Option<Lease>)>),
}

/// See the module's documentation.
pub(crate) struct Agent {
    core: Core,
    holding: Holding,
    leases: Leases,
    directory: Directory,
    /// Whether a change of the directory was lost, so that all of it is needed.
    has_gap: bool,
    statuses: Option<Arc<Statuses>>,
    /// What the present stream was used for, if there is one.
    stream: Option<Stream>,
    /// Tells this run of the agent from others.
    run: u64,
    wakes_at: Option<Timestamp>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").finish_non_exhaustive()
    }
}

impl Agent {
    /// An agent that starts with what is on disk. What another machine was told to run is none of its business.
    pub(crate) fn new(disk: &Disk, mark: &HostMark, run: u64, now: Timestamp) -> Self {
        let settings =
            dwell_agent_core::Settings { calls_max: 4, backstop: Duration::from_secs(600) };
        Self {
            core: Core::new(settings, disk.journals.clone(), now),
            holding: Holding::found(disk.assignment.clone().filter(|_| disk.is_of(mark))),
            leases: Leases::begin(now),
            directory: disk.directory.clone(),
            has_gap: false,
            statuses: None,
            stream: None,
            run,
            wakes_at: None,
        }
    }

    /// What it does first of all.
    pub(crate) fn begin(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        self.desire(now);
        self.fence(now, out);
        self.advance(now, out);
    }

    /// What it holds in memory.
    pub(crate) fn held(&self) -> Option<&Assignment> {
        self.holding.assignment().map(AsRef::as_ref)
    }

    /// Under which assignment it looks at its volumes, once it has told what became of its instances under that.
    pub(crate) fn looks_under(&self) -> Option<Position> {
        let at = self.holding.position();
        self.stream.as_ref().filter(|stream| stream.has_reported(at)).map(|_| at)
    }

    /// Who is where, as far as it was told.
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What it knows of the node, and when it looks again, for a trace.
    pub(crate) fn describe(&self) -> String {
        format!("{:#?}, wakes at {:?}", self.core.observed(), self.wakes_at)
    }

    /// Whether the engine answers, as far as it knows.
    pub(crate) fn is_engine_ready(&self) -> bool {
        self.core.observed().engine == EngineState::Ready
    }

    /// Takes in one thing that happened.
    pub(crate) fn handle(&mut self, input: Input, now: Timestamp, out: &mut Vec<Output>) {
        match input {
            Input::Attached(address, host_mark) => {
                let mut stream = Stream::default();
                let holding = &self.holding;
                let status = stream.report(holding, self.statuses.as_deref()).unwrap_or_default();
                let hello = Hello {
                    run: self.run,
                    status,
                    held: holding.position(),
                    term: holding.term(),
                    durable: holding.controller_durable(),
                    claims: holding.claims(),
                    directory: match self.has_gap {
                        true => Position::default(),
                        false => self.directory.position(),
                    },
                    host_mark: Some(host_mark),
                    keeps_leases: true,
                    fetches_ahead: true,
                    carries: true,
                    moves_volumes: true,
                    knows_blocks: true,
                    knows_ranges: true,
                    skills: Skills::ALL,
                    lets_go: true,
                    block: holding.assignment().and_then(|held| held.network.block),
                    ..Hello::of(address)
                };
                self.stream = Some(stream);
                out.push(Output::Send(Up::Hello(Box::new(hello))));
                return self.tell(out);
            }
            Input::Detached => {
                self.stream = None;
                return;
            }
            Input::Heartbeat => {
                return self.beat(now, out);
            }
            Input::Stored(assignment) => {
                self.holding.stored(assignment);
                return self.tell(out);
            }
            Input::Message(Down::Directory(change)) => {
                self.has_gap = self.directory.apply(*change).is_err();
                match self.has_gap {
                    false => out.push(Output::StoreDirectory(self.directory.clone())),
                    true => {
                        self.stream = None;
                        out.push(Output::EndStream("the directory has a gap".to_owned()));
                    }
                }
                return;
            }
            Input::Message(Down::Assignment(change)) => match self.holding.merge(*change) {
                Ok(merged) => {
                    if let Some(stream) = &mut self.stream {
                        stream.received(merged.position());
                    }
                    self.holding.store();
                    out.push(Output::Store(merged));
                    self.desire(now);
                    self.fence(now, out);
                    if self.lacks_leases(now) {
                        self.beat(now, out);
                    }
                }
                Err(error) => {
                    self.stream = None;
                    out.push(Output::EndStream(error.to_string()));
                    return;
                }
            },
            Input::Message(Down::Lent(lent)) => {
                let stream = self.stream.as_mut();
                let sent_at = stream.and_then(|stream| stream.answered(lent.heartbeat));
                let Some(sent_at) = sent_at else { return };
                let assigned = self.holding.assignment().map(|held| held.instances.values());
                self.leases.hear(lent, sent_at, assigned.into_iter().flatten(), now);
                self.core.hear(CoreInput::Leases(self.leases.clone()), now);
                self.fence(now, out);
            }
            Input::Core(input) => self.core.hear(input, now),
            Input::Time => {
                // Only the newest of the pauses counts.
                if self.wakes_at.is_none_or(|at| at > now) {
                    return;
                }
                self.wakes_at = None;
            }
        }
        self.advance(now, out);
    }

    fn beat(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        if let Some(stream) = &mut self.stream {
            out.push(Output::Send(Up::Heartbeat(stream.beat(&self.holding, now))));
        }
    }

    /// Whether something is to run that is not lent.
    fn lacks_leases(&self, now: Timestamp) -> bool {
        let mut assigned =
            self.holding.assignment().into_iter().flat_map(|held| held.instances.values());
        assigned.any(|one| {
            matches!(self.leases.standing(one, now), Standing::Left { .. } | Standing::Over)
        })
    }

    fn fence(&self, now: Timestamp, out: &mut Vec<Output>) {
        let Some(held) = self.holding.assignment() else { return };
        let all = held.instances.values();
        let all = all.map(|one| (one.instance.clone(), self.leases.standing(one, now), one.lease));
        out.push(Output::Fence(all.collect()));
    }

    fn desire(&mut self, now: Timestamp) {
        let Some(held) = self.holding.assignment() else { return };
        let desired = held.instances.values().cloned().collect::<Desired>().at(held.revision);
        self.core.hear(CoreInput::Desired(Arc::new(desired)), now);
    }

    fn advance(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        for output in self.core.advance(now) {
            match output {
                CoreOutput::Begin { id, call } => out.push(Output::Call(id, call)),
                CoreOutput::Watch(watch) => out.push(Output::Watch(watch)),
                CoreOutput::Unwatch(container) => out.push(Output::Unwatch(container)),
                CoreOutput::Statuses(statuses) => self.statuses = Some(statuses),
                CoreOutput::Abandon { .. } | CoreOutput::Engine(_) | CoreOutput::Sights(_) => {}
            }
        }
        let wake_at = self.core.wake_at(now);
        if wake_at.is_some() && wake_at != self.wakes_at {
            out.extend(wake_at.map(Output::WakeAt));
        }
        self.wakes_at = wake_at;
        self.tell(out);
    }

    /// Tells the controller what it does not know yet.
    fn tell(&mut self, out: &mut Vec<Output>) {
        let Some(stream) = &mut self.stream else { return };
        if let Some(stored) = stream.acknowledge(&self.holding) {
            out.push(Output::Send(Up::Acknowledge(stored.stored)));
        }
        let report = stream.report(&self.holding, self.statuses.as_deref());
        out.extend(report.map(|report| Output::Send(Up::Report(report))));
    }
}
