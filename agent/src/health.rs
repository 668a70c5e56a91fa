//! The prober: finds out whether instances work, and tells when that changes.
//!
//! One task owns all records; a probe is a short task of its own, at most [`PROBES_MAX`] at once. What
//! waits costs an entry in a queue and no timer. The reconciler says what is to be watched and takes
//! the verdicts; neither side ever blocks the other: verdicts that nobody takes are kept, the newest
//! for each instance.
//!
//! ```text
//!   watch ──▶ queue, by time due ──▶ probe ──▶ record ──▶ verdict, if it changed
//!                   ▲                             │
//!                   └──────── after a pause ──────┘
//! ```
//!
//! Invariants:
//! - a verdict is about one run of one container; a new run begins with none;
//! - what is not known, because the engine does not answer, counts neither way;
//! - probes are spread in time: a steady pause is shortened by up to an eighth, differently each time,
//!   and what was found running at the start of the agent is first probed within a second.

mod probe;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::{Clock, Timestamp};
use dwell_core::health::{Health, HealthCheck, HealthRecord};
use dwell_core::id::InstanceName;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::probe::Outcome;
use crate::engine::{ContainerId, SharedEngine};

/// How many probes run at once.
const PROBES_MAX: usize = 64;
/// How many requests can wait for the prober.
const REQUESTS_MAX: usize = 64;
/// A container that is older when it is first seen was not started just now: its first probe can wait.
const FRESH: Duration = Duration::from_secs(2);

/// A running container to be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Of which instance.
    pub instance: InstanceName,
    /// Which container.
    pub container: ContainerId,
    /// When its main process was started: with the container, this names one run.
    pub started_at: Timestamp,
    /// Where it is reached.
    pub address: Ipv4Addr,
    /// How it is probed.
    pub check: HealthCheck,
}

/// That the health of an instance changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Of which instance.
    pub instance: InstanceName,
    /// Of which container.
    pub container: ContainerId,
    /// Of which run of it.
    pub started_at: Timestamp,
    /// What it is now.
    pub health: Health,
    /// What the last probe failed with, for people; empty if it passed.
    pub message: String,
    /// When that probe ended.
    pub at: Timestamp,
}

/// Says to the prober what is to be watched. The prober ends when this and its clones are dropped.
#[derive(Clone)]
pub struct Prober {
    requests: mpsc::Sender<Request>,
}

enum Request {
    Watch(Box<Target>),
    Forget(InstanceName),
}

impl Prober {
    /// A prober, and the task that has to be run for it.
    pub fn new(
        engine: SharedEngine,
        clock: Arc<dyn Clock>,
        verdicts: mpsc::Sender<Verdict>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (requests, incoming) = mpsc::channel(REQUESTS_MAX);
        let task = Task {
            engine,
            clock,
            watched: BTreeMap::new(),
            queue: BTreeSet::new(),
            running: JoinSet::new(),
            news: BTreeMap::new(),
        };
        (Self { requests }, task.run(incoming, verdicts))
    }

    /// Probes a container from now on, in place of an older one of its instance. Of the same run, what
    /// was found so far goes on to count, also by another check.
    pub async fn watch(&self, target: Target) {
        // Fails only when the agent ends, and the task with it.
        drop(self.requests.send(Request::Watch(Box::new(target))).await);
    }

    /// Probes an instance no longer. A verdict that is under way may still come.
    pub async fn forget(&self, instance: InstanceName) {
        drop(self.requests.send(Request::Forget(instance)).await);
    }
}

/// What is known of one target.
struct Watched {
    target: Arc<Target>,
    record: HealthRecord,
    /// How many probes were made.
    rounds: u64,
    /// When it is probed next; `None` while it is being probed.
    due: Option<Instant>,
}

struct Task {
    engine: SharedEngine,
    clock: Arc<dyn Clock>,
    watched: BTreeMap<InstanceName, Watched>,
    /// Everything in `watched` that has a time due, by that time.
    queue: BTreeSet<(Instant, InstanceName)>,
    running: JoinSet<(Arc<Target>, Outcome)>,
    /// Verdicts that were not taken yet.
    news: BTreeMap<InstanceName, Verdict>,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, verdicts: mpsc::Sender<Verdict>) {
        loop {
            let next = self.queue.first().map(|(due, _)| *due);
            let may_probe = next.is_some() && self.running.len() < PROBES_MAX;
            // All branches are cancel-safe: nothing is taken that is not handled.
            tokio::select! {
                request = requests.recv() => match request {
                    Some(Request::Watch(target)) => self.watch(*target),
                    Some(Request::Forget(instance)) => drop(self.forget(&instance)),
                    None => return,
                },
                Some(done) = self.running.join_next() => {
                    if let Ok((target, outcome)) = done {
                        self.take_in(&target, outcome);
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if may_probe => self.probe(),
                permit = verdicts.reserve(), if !self.news.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some((_, verdict)) = self.news.pop_first() {
                            permit.send(verdict);
                        }
                    }
                    Err(_) => return,
                },
            }
        }
    }

    fn watch(&mut self, target: Target) {
        let same_run = |old: &Watched| {
            (&old.target.container, old.target.started_at) == (&target.container, target.started_at)
        };
        let old = self.forget(&target.instance).filter(same_run);
        let (record, rounds) = old.map_or_else(
            || (HealthRecord::new(target.started_at), 0),
            |old| (old.record, old.rounds),
        );
        let fresh = self.clock.now().since(target.started_at) < FRESH;
        let delay = if fresh { 0.0 } else { share(&target.instance, rounds) };
        let due = Instant::now() + Duration::from_secs(1).mul_f64(delay);
        self.queue.insert((due, target.instance.clone()));
        let instance = target.instance.clone();
        let target = Arc::new(target);
        self.watched.insert(instance, Watched { target, record, rounds, due: Some(due) });
    }

    fn forget(&mut self, instance: &InstanceName) -> Option<Watched> {
        self.news.remove(instance);
        let old = self.watched.remove(instance)?;
        if let Some(due) = old.due {
            self.queue.remove(&(due, instance.clone()));
        }
        Some(old)
    }

    /// Starts the probe that is due first.
    fn probe(&mut self) {
        let Some((_, instance)) = self.queue.pop_first() else { return };
        let Some(watched) = self.watched.get_mut(&instance) else { return };
        watched.due = None;
        watched.rounds += 1;
        let (engine, target) = (Arc::clone(&self.engine), Arc::clone(&watched.target));
        self.running.spawn(async move {
            let outcome = probe::probe(&*engine, &target).await;
            (target, outcome)
        });
    }

    fn take_in(&mut self, target: &Arc<Target>, outcome: Outcome) {
        let Some(watched) = self.watched.get_mut(&target.instance) else { return };
        if !Arc::ptr_eq(&watched.target, target) {
            return;
        }
        let now = self.clock.now();
        let before = watched.record.health();
        let message = match outcome {
            Outcome::Passed => {
                watched.record.observe(&target.check, true, now);
                String::new()
            }
            Outcome::Failed(message) => {
                watched.record.observe(&target.check, false, now);
                message
            }
            Outcome::Unknown => String::new(),
        };
        let health = watched.record.health();
        if health != before {
            let verdict = Verdict {
                instance: target.instance.clone(),
                container: target.container.clone(),
                started_at: target.started_at,
                health,
                message,
                at: now,
            };
            self.news.insert(target.instance.clone(), verdict);
        }
        let mut pause = watched.record.pause(&target.check, now).as_duration();
        if health != Health::Starting {
            pause -= (pause / 8).mul_f64(share(&target.instance, watched.rounds));
        }
        let due = Instant::now() + pause;
        watched.due = Some(due);
        self.queue.insert((due, target.instance.clone()));
    }
}

/// A number from 0 to 1 that is another one for each instance and round, and always the same for both.
fn share(instance: &InstanceName, round: u64) -> f64 {
    let mut hasher = DefaultHasher::new();
    (instance, round).hash(&mut hasher);
    f64::from(hasher.finish() as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
