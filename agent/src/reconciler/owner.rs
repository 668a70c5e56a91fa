//! The task that owns what is known of the node.
//!
//! It never waits for anything but the next thing to happen: whatever takes time is a task of its own,
//! whose end is one of those things.

mod observe;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::session::Statuses;
use dwell_planner::{
    Desired, EngineState, Failure, FailureKind, Image, Observed, Sandbox, Step, plan,
};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use super::doubts::Doubts;
use super::guards::Guards;
use super::sightings::Sights;
use super::tools::{Effect, StepError, Tools};
use super::{Config, News, follow, publish};
use crate::engine::{Container, EngineError, PullProgress};
use dwell_daemon::Causes;
use dwell_network::Disturbances;

/// How much may be told before those who tell have to wait.
const NEWS_MAX: usize = 1_024;
/// How much is taken in before it is planned again.
const BATCH_MAX: usize = 256;
/// How many main processes may be waited for at once while they end. That costs nobody anything.
const STOPS_MAX: usize = 64;
/// How many images are pulled at once.
const PULLS_MAX: usize = 3;
/// How often the progress of a pull is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// The end of a task.
enum Done {
    /// A step.
    Step { name: InstanceName, step: Step, outcome: Result<Effect, StepError> },
    /// A look at one instance.
    Looked { name: InstanceName, found: Result<Vec<Container>, EngineError> },
    /// A look at everything.
    LookedAtAll { found: Result<(Vec<Container>, Option<BTreeSet<InstanceName>>), EngineError> },
    /// A pull.
    Pulled { image: String, outcome: Result<(), EngineError> },
}

/// The look at everything that is under way.
#[derive(Default)]
struct Survey {
    running: bool,
    /// It has to be repeated: it began before the engine was connected.
    again: bool,
    /// How often it failed in a row.
    failures: u32,
    /// Instances that have changed since it began, and about which it may be out of date.
    overtaken: BTreeSet<InstanceName>,
}

/// See the module's documentation.
pub(super) struct Owner {
    config: Config,
    tools: Tools,
    desired: watch::Receiver<Option<Arc<Desired>>>,
    observed: Observed,
    /// Says when others may have changed sandboxes.
    disturbances: watch::Receiver<Disturbances>,
    /// How often that was, as far as it was heeded.
    disturbed: u64,
    /// Instances whose sandbox was being seen to when that happened, too late perhaps to notice.
    doubted: BTreeSet<InstanceName>,
    /// Whether the engine's events arrive.
    connected: bool,
    survey: Survey,
    doubts: Doubts,
    guards: Guards,
    sights: Sights,
    news: mpsc::Receiver<News>,
    news_sender: mpsc::Sender<News>,
    tasks: JoinSet<Done>,
    /// The steps among the tasks.
    steps: HashMap<Id, (InstanceName, Step)>,
    wake_at: Option<Timestamp>,
    statuses: watch::Sender<Option<Arc<Statuses>>>,
    engine: watch::Sender<EngineState>,
}

impl Owner {
    /// The owner of what was `observed`, and what it publishes.
    pub(super) fn new(
        config: Config,
        tools: Tools,
        observed: Observed,
        sights: Sights,
        desired: watch::Receiver<Option<Arc<Desired>>>,
    ) -> (Self, watch::Receiver<Option<Arc<Statuses>>>, watch::Receiver<EngineState>) {
        let (news_sender, news) = mpsc::channel(NEWS_MAX);
        let (statuses, statuses_receiver) = watch::channel(None);
        let (engine, engine_receiver) = watch::channel(EngineState::Unknown);
        let owner = Self {
            config,
            desired,
            observed,
            disturbances: tools.network.disturbances(),
            disturbed: 0,
            doubted: BTreeSet::new(),
            connected: false,
            survey: Survey::default(),
            doubts: Doubts::default(),
            guards: Guards::new(tools.clone(), news_sender.clone()),
            sights,
            tools,
            news,
            news_sender,
            tasks: JoinSet::new(),
            steps: HashMap::new(),
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
        let mut backstop =
            tokio::time::interval_at(Instant::now() + self.config.backstop, self.config.backstop);
        backstop.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.take_desired();
        loop {
            // Every branch is cancel-safe: what is not taken now is there the next time.
            tokio::select! {
                changed = self.desired.changed() => match changed {
                    Ok(()) => self.take_desired(),
                    Err(_) => return,
                },
                Some(news) = self.news.recv() => self.hear(news),
                Some(done) = self.tasks.join_next_with_id() => self.finish(done),
                Ok(()) = self.disturbances.changed() => self.doubt_sandboxes(),
                _ = backstop.tick() => self.look_at_all(),
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
            self.advance();
        }
    }

    fn take_desired(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        for (name, target) in desired.iter().flat_map(|desired| desired.instances()) {
            let seen = self.observed.instances.entry(name.clone()).or_default();
            seen.accept(target.assigned.generation);
        }
    }

    /// Sandboxes that were right have to be looked at again; one that still is costs little.
    fn doubt_sandboxes(&mut self) {
        let sandboxes = self.disturbances.borrow_and_update().sandboxes;
        if std::mem::replace(&mut self.disturbed, sandboxes) == sandboxes {
            return;
        }
        for (name, seen) in &mut self.observed.instances {
            if matches!(seen.busy, Some(Step::EnsureSandbox | Step::RepairSandbox)) {
                self.doubted.insert(name.clone());
            } else if seen.sandbox == Sandbox::Ready {
                seen.sandbox = Sandbox::Doubtful;
            }
        }
    }

    /// Plans, starts what can be started, and publishes.
    fn advance(&mut self) {
        for name in self.doubts.open() {
            self.look_at(&name);
        }
        self.wake_at = None;
        let desired = self.desired.borrow().clone();
        let now = self.tools.clock.now();
        if let Some(desired) = &desired {
            let plan = plan(desired, &self.observed, now);
            self.wake_at = plan.wake_at;
            for (name, step) in plan.steps {
                if self.has_room_for(&step) {
                    self.begin(name, step, desired);
                }
            }
            for image in plan.pulls {
                self.pull(image);
            }
            self.forget_what_is_over(desired);
            self.guards.sync(desired, &self.observed);
            self.sights.publish(&self.observed);
            if self.observed.engine != EngineState::Unknown {
                publish::publish(&self.statuses, desired, &self.observed, now);
            }
        }
        if *self.engine.borrow() != self.observed.engine {
            self.engine.send_replace(self.observed.engine.clone());
        }
    }

    fn forget_what_is_over(&mut self, desired: &Desired) {
        let is_wanted = |image: &String| {
            desired.instances().values().any(|target| target.assigned.template.image == *image)
        };
        self.observed
            .images
            .retain(|image, state| matches!(state, Image::Pulling { .. }) || is_wanted(image));
        self.observed.instances.retain(|name, seen| {
            desired.get(name).is_some() || !seen.is_nothing() || self.doubts.concern(name)
        });
    }

    /// Whether a step can begin now. One that cannot is planned again when another one ends.
    fn has_room_for(&self, step: &Step) -> bool {
        let load = load(step);
        let most = match load {
            Load::Light => return true,
            Load::Stop => STOPS_MAX,
            Load::Heavy => self.config.calls_max.max(1),
        };
        self.steps.values().filter(|(_, step)| self::load(step) == load).count() < most
    }

    fn begin(&mut self, name: InstanceName, step: Step, desired: &Desired) {
        tracing::debug!(instance = %name, ?step, "step begins");
        let seen = self.observed.instances.entry(name.clone()).or_default();
        seen.busy = Some(step.clone());
        let tools = self.tools.clone();
        let assigned = desired.get(&name).map(|target| target.assigned.clone());
        let entry = (name.clone(), step.clone());
        let task = self.tasks.spawn(async move {
            let outcome = tools.carry_out(&name, &step, assigned.as_ref()).await;
            Done::Step { name, step, outcome }
        });
        self.steps.insert(task.id(), entry);
    }

    fn pull(&mut self, image: String) {
        let pulling = |state: &&Image| matches!(state, Image::Pulling { .. });
        if self.observed.images.values().filter(pulling).count() >= PULLS_MAX {
            return;
        }
        tracing::info!(image, "pulling");
        let state = self.observed.images.remove(&image).unwrap_or(Image::Missing);
        self.observed.images.insert(image.clone(), state.pulling());
        let (engine, news) = (Arc::clone(&self.tools.engine), self.news_sender.clone());
        self.tasks.spawn(async move {
            let (progress, mut seen) = watch::channel(PullProgress::default());
            let telling = async {
                while seen.changed().await.is_ok() {
                    let text = describe(*seen.borrow_and_update());
                    let told = News::Progress { image: image.clone(), text };
                    if news.send(told).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(PROGRESS_EVERY).await;
                }
            };
            let pulling = async {
                let outcome = engine.pull(&image, &progress).await;
                drop(progress);
                outcome
            };
            tokio::pin!(telling);
            let outcome = tokio::select! {
                outcome = pulling => outcome,
                () = &mut telling => Ok(()),
            };
            Done::Pulled { image: image.clone(), outcome }
        });
    }

    fn finish(&mut self, done: Result<(Id, Done), JoinError>) {
        match done {
            Ok((id, done)) => {
                self.steps.remove(&id);
                match done {
                    Done::Step { name, step, outcome } => self.conclude(&name, &step, outcome),
                    Done::Looked { name, found } => self.looked_at(&name, found),
                    Done::LookedAtAll { found } => self.looked_at_all(found),
                    Done::Pulled { image, outcome } => self.pulled(&image, outcome),
                }
            }
            Err(error) => match self.steps.remove(&error.id()) {
                Some((name, step)) => self.conclude(&name, &step, Err(StepError::CutShort)),
                // Without its looks it would go on blind: rather end, and be started again.
                None => std::panic::resume_unwind(error.into_panic()),
            },
        }
    }

    fn pulled(&mut self, image: &str, outcome: Result<(), EngineError>) {
        let state = self.observed.images.remove(image).unwrap_or(Image::Missing);
        let Err(error) = outcome else {
            tracing::info!(image, "pulled");
            return;
        };
        tracing::warn!(image, error = %Causes(&error), "pull failed");
        let kind =
            if error.is_permanent() { FailureKind::Permanent } else { FailureKind::Transient };
        let failure = Failure { kind, message: Causes(&error).to_string() };
        let state = state.failed(failure, self.tools.clock.now());
        self.observed.images.insert(image.to_owned(), state);
    }
}

/// What a step costs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    /// The engine's processor time.
    Heavy,
    /// Waiting for a main process to end.
    Stop,
    /// Next to nothing.
    Light,
}

fn load(step: &Step) -> Load {
    match step {
        Step::Create { .. }
        | Step::Start { .. }
        | Step::Remove { .. }
        | Step::UpdateLimits { .. } => Load::Heavy,
        Step::Stop { .. } => Load::Stop,
        Step::EnsureSandbox
        | Step::RepairSandbox
        | Step::RemoveSandbox
        | Step::Record(_)
        | Step::Forget => Load::Light,
    }
}

fn describe(progress: PullProgress) -> String {
    const MEBI: u64 = 1 << 20;
    format!(
        "{} of {} MiB, {} of {} layers",
        progress.bytes_done / MEBI,
        progress.bytes / MEBI,
        progress.layers_done,
        progress.layers
    )
}

/// Waits until `at` by the clock that says `now`; for ever without one.
async fn sleep_until(at: Option<Timestamp>, now: Timestamp) {
    match at {
        Some(at) => tokio::time::sleep(at.since(now)).await,
        None => std::future::pending().await,
    }
}
