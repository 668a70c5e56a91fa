//! The task that owns the core: it tells it what happens, and carries out what it says.
//!
//! It never waits for anything but the next thing to happen: whatever takes time is a task of its own,
//! whose end is one of those things.

use std::collections::HashMap;
use std::sync::Arc;

use dwell_agent_core::{Call, CallFailure, CallId, Cause, Core, Input, Outcome, Output};
use dwell_core::clock::Timestamp;
use dwell_core::session::Statuses;
use dwell_network::Disturbances;
use dwell_planner::{Desired, EngineState, Failure, FailureKind, Leases};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::follow;
use super::guards::Guards;
use super::sightings::Publisher;
use super::tools::Tools;

/// How much may be told before those who tell have to wait.
const NEWS_MAX: usize = 1_024;
/// How much is taken in before it is planned again.
const BATCH_MAX: usize = 256;

/// See the module's documentation.
pub(super) struct Owner {
    core: Core,
    tools: Tools,
    told: Told,
    /// Says when others may have changed sandboxes.
    disturbances: watch::Receiver<Disturbances>,
    /// How often that was, as far as it was heeded.
    disturbed: u64,
    guards: Guards,
    sightings: Publisher,
    news: mpsc::Receiver<Input>,
    news_sender: mpsc::Sender<Input>,
    tasks: JoinSet<Outcome>,
    /// The calls that the tasks make.
    calls: HashMap<Id, (CallId, Kind)>,
    handles: HashMap<CallId, AbortHandle>,
    wake_at: Option<Timestamp>,
    statuses: watch::Sender<Option<Arc<Statuses>>>,
    engine: watch::Sender<EngineState>,
}

/// What others say.
pub(super) struct Told {
    pub(super) desired: watch::Receiver<Option<Arc<Desired>>>,
    /// What is lent to the node, if anything can be.
    pub(super) leases: Option<watch::Receiver<Leases>>,
    /// Goes up when somebody wants everything to be looked at.
    pub(super) recheck: watch::Receiver<u64>,
}

/// Whether the agent can go on if a task of a call panics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Step,
    Other,
}

impl Owner {
    /// The owner of a core, and what it publishes.
    pub(super) fn new(
        core: Core,
        tools: Tools,
        sightings: Publisher,
        told: Told,
    ) -> (Self, watch::Receiver<Option<Arc<Statuses>>>, watch::Receiver<EngineState>) {
        let (news_sender, news) = mpsc::channel(NEWS_MAX);
        let (statuses, statuses_receiver) = watch::channel(None);
        let (engine, engine_receiver) = watch::channel(EngineState::Unknown);
        let owner = Self {
            core,
            told,
            disturbances: tools.network.disturbances(),
            disturbed: 0,
            guards: Guards::new(tools.clone(), news_sender.clone()),
            sightings,
            tools,
            news,
            news_sender,
            tasks: JoinSet::new(),
            calls: HashMap::new(),
            handles: HashMap::new(),
            wake_at: None,
            statuses,
            engine,
        };
        (owner, statuses_receiver, engine_receiver)
    }

    /// Runs until it is dropped, or nobody desires anything any more.
    pub(super) async fn run(mut self) {
        let follower =
            tokio::spawn(follow::follow(Arc::clone(&self.tools.engine), self.news_sender.clone()));
        let _follower = tokio_util::task::AbortOnDropHandle::new(follower);
        self.take_leases();
        self.take_desired();
        loop {
            self.advance();
            // Every branch is cancel-safe: what is not taken now is there the next time.
            tokio::select! {
                changed = self.told.desired.changed() => match changed {
                    Ok(()) => self.take_desired(),
                    Err(_) => return,
                },
                Some(news) = self.news.recv() => self.hear(news),
                Some(done) = self.tasks.join_next_with_id() => self.finish(done),
                Ok(()) = self.disturbances.changed() => self.note_disturbance(),
                Ok(()) = changed(self.told.leases.as_mut()) => self.take_leases(),
                Ok(()) = self.told.recheck.changed() => self.hear(Input::Recheck),
                () = sleep_until(self.wake_at, self.tools.clock.now()) => {}
            }
            for _ in 0..BATCH_MAX {
                if let Ok(news) = self.news.try_recv() {
                    self.hear(news);
                } else if let Some(done) = self.tasks.try_join_next_with_id() {
                    self.finish(done);
                } else {
                    break;
                }
            }
        }
    }

    fn hear(&mut self, input: Input) {
        self.core.hear(input, self.tools.clock.now());
    }

    fn take_desired(&mut self) {
        if let Some(desired) = self.told.desired.borrow_and_update().clone() {
            self.core.hear(Input::Desired(desired), self.tools.clock.now());
        }
    }

    fn take_leases(&mut self) {
        let leases = self.told.leases.as_mut().map(|leases| leases.borrow_and_update().clone());
        if let Some(leases) = leases {
            self.core.hear(Input::Leases(leases), self.tools.clock.now());
        }
    }

    fn note_disturbance(&mut self) {
        let sandboxes = self.disturbances.borrow_and_update().sandboxes;
        if std::mem::replace(&mut self.disturbed, sandboxes) != sandboxes {
            self.hear(Input::SandboxesDisturbed);
        }
    }

    /// Carries out what the core says.
    fn advance(&mut self) {
        let now = self.tools.clock.now();
        for output in self.core.advance(now) {
            match output {
                Output::Begin { id, call } => self.begin(id, call),
                Output::Abandon { id } => {
                    if let Some(handle) = self.handles.remove(&id) {
                        handle.abort();
                    }
                }
                Output::Watch(watch) => self.guards.watch(watch),
                Output::Unwatch(container) => self.guards.unwatch(&container),
                Output::Statuses(statuses) => {
                    self.statuses.send_replace(Some(statuses));
                }
                Output::Engine(state) => {
                    self.engine.send_replace(state);
                }
                Output::Sights(sights) => self.sightings.publish(&sights),
            }
        }
        self.wake_at = self.core.wake_at(now);
    }

    fn begin(&mut self, id: CallId, call: Call) {
        let kind = if matches!(call, Call::Step { .. }) { Kind::Step } else { Kind::Other };
        let (tools, news) = (self.tools.clone(), self.news_sender.clone());
        let handle = self.tasks.spawn(async move { tools.make(call, news).await });
        self.calls.insert(handle.id(), (id, kind));
        self.handles.insert(id, handle);
    }

    fn finish(&mut self, done: Result<(Id, Outcome), JoinError>) {
        let task = match &done {
            Ok((task, _)) => *task,
            Err(error) => error.id(),
        };
        let Some((id, kind)) = self.calls.remove(&task) else { return };
        // One that was given up is not waited for.
        if self.handles.remove(&id).is_none() {
            return;
        }
        let outcome = match (done, kind) {
            (Ok((_, outcome)), _) => outcome,
            (Err(_), Kind::Step) => Outcome::Failed(cut_short()),
            // Without its looks it would go on blind: rather end, and be started again.
            (Err(error), Kind::Other) => std::panic::resume_unwind(error.into_panic()),
        };
        self.hear(Input::Done { id, outcome });
    }
}

/// A task has panicked.
fn cut_short() -> CallFailure {
    let message = "the step was cut short; this is a defect of dwell-agent".to_owned();
    CallFailure { failure: Failure { kind: FailureKind::Transient, message }, cause: Cause::Engine }
}

/// Waits for something new; for ever, if nobody tells.
async fn changed<T>(told: Option<&mut watch::Receiver<T>>) -> Result<(), watch::error::RecvError> {
    match told {
        Some(told) => told.changed().await,
        None => std::future::pending().await,
    }
}

/// Waits until `at` by the clock that says `now`; for ever without one.
async fn sleep_until(at: Option<Timestamp>, now: Timestamp) {
    match at {
        Some(at) => tokio::time::sleep(at.since(now)).await,
        None => std::future::pending().await,
    }
}
