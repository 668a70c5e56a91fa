//! The agent's half of a session, without I/O: what a node holds, what of that is on its disk, and what it tells.
//!
//! ```text
//!   controller ─change─▶ Holding::merge ──assignment──▶ reconciler, and the disk
//!                                                              │
//!   disk ─────"stored up to here"──▶ Holding::stored           │ statuses
//!                                        │                     ▼
//!                                        └──────────▶ Stream::acknowledge, Stream::report ─▶ controller
//! ```
//!
//! Invariant: **what a node says counts when it is durable there.** The controller takes an instance away from a node
//! for good once the node has said that it is gone. If the node crashed afterwards and came up with an older
//! assignment, it would start the instance again, beside the one that runs elsewhere by then. So an acknowledgement
//! and a report never speak of a later position than the one that is on the disk, whatever is in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, Position, Revision, Term};
use dwell_core::instance::InstanceStatus;
use dwell_core::session::{
    Acknowledge, Assignment, AssignmentChange, Claim, MergeError, StatusReport, Statuses,
};

/// Which assignments the disk has, or may have by now: what a crash would bring back.
#[derive(Clone, Debug, Default)]
pub struct OnDisk {
    has: Option<Arc<Assignment>>,
    writing: Vec<Arc<Assignment>>,
}

impl OnDisk {
    /// What was found there when the agent started.
    #[must_use]
    pub fn found(assignment: Option<Arc<Assignment>>) -> Self {
        Self { has: assignment, writing: Vec::new() }
    }

    /// An assignment is about to be written.
    pub fn begin(&mut self, assignment: Arc<Assignment>) {
        self.writing.push(assignment);
    }

    /// An assignment is there, in place of all earlier ones.
    pub fn stored(&mut self, assignment: Arc<Assignment>) {
        let revision = assignment.revision;
        self.writing.retain(|one| one.revision > revision);
        self.has = Some(assignment);
    }

    /// Where the one is that is there for sure; revision 0 for none.
    #[must_use]
    pub fn position(&self) -> Position {
        self.has.as_ref().map(|has| has.position()).unwrap_or_default()
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Assignment>> {
        self.writing.iter().chain(&self.has)
    }
}

/// What a node holds, over all its sessions.
#[derive(Clone, Debug, Default)]
pub struct Holding {
    assignment: Option<Arc<Assignment>>,
    on_disk: OnDisk,
    /// Up to where it counts.
    stored: Position,
}

impl Holding {
    /// What was found on disk when the agent started.
    #[must_use]
    pub fn found(assignment: Option<Arc<Assignment>>) -> Self {
        let on_disk = OnDisk::found(assignment.clone());
        Self { assignment, stored: on_disk.position(), on_disk }
    }

    /// An assignment that is held, what of it the disk has, and up to where it has been taken in.
    #[must_use]
    pub fn of(assignment: Option<Arc<Assignment>>, on_disk: OnDisk, stored: Position) -> Self {
        Self { assignment, on_disk, stored }
    }

    /// What the node is to do now, whether that is on disk or not.
    #[must_use]
    pub fn assignment(&self) -> Option<&Arc<Assignment>> {
        self.assignment.as_ref()
    }

    /// Where the assignment in memory is; revision 0 for none.
    #[must_use]
    pub fn position(&self) -> Position {
        self.assignment.as_ref().map(|held| held.position()).unwrap_or_default()
    }

    /// The term of the controller that the assignment came from.
    #[must_use]
    pub fn term(&self) -> Term {
        self.assignment.as_ref().map(|held| held.term).unwrap_or_default()
    }

    /// How far the controller's store was when it made the assignment.
    #[must_use]
    pub fn controller_durable(&self) -> Revision {
        self.assignment.as_ref().map(|held| held.durable).unwrap_or_default()
    }

    /// The instances that the node was told to run, for a controller that may have forgotten some of them: also those that
    /// it would run again after a crash, since what was told later is not on its disk.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        // What is on disk may be of an earlier life, with another address.
        let mut claims = BTreeMap::new();
        for held in self.assignment.iter().chain(self.on_disk.all()) {
            for one in held.instances.values() {
                claims.entry((&one.instance, one.address)).or_insert_with(|| Claim::of(one));
            }
        }
        claims.into_values().collect()
    }

    /// Whether anything of what the node is to run is lent to it.
    #[must_use]
    pub fn has_leases(&self) -> bool {
        self.assignment.iter().any(|held| held.instances.values().any(|one| one.lease.is_some()))
    }

    /// Takes in what the controller sent. What is returned is to be acted on, and to be written to disk.
    ///
    /// # Errors
    /// [`MergeError`]; what was held stays right.
    pub fn merge(&mut self, change: AssignmentChange) -> Result<Arc<Assignment>, MergeError> {
        let merged = Arc::new(Assignment::merge(self.assignment.as_deref(), change)?);
        self.assignment = Some(Arc::clone(&merged));
        Ok(merged)
    }

    /// What is held is about to be written to the disk.
    pub fn store(&mut self) {
        self.assignment.iter().for_each(|held| self.on_disk.begin(Arc::clone(held)));
    }

    /// An assignment is on the disk.
    pub fn stored(&mut self, assignment: Arc<Assignment>) {
        self.on_disk.stored(assignment);
        self.stored = self.on_disk.position();
    }

    /// What may be said of something that was seen under the assignment of `seen_under`: not later than what is on
    /// the disk. Revisions that one node gets only grow, also from one history to the next.
    fn durable(&self, seen_under: Revision) -> Position {
        Position { revision: self.stored.revision.min(seen_under), ..self.stored }
    }
}

/// What one stream has told the controller, and what it has yet to tell.
///
/// Reports are differences: an instance is in one when it differs from what this stream sent last, so
/// that any number of changes between two reports costs one message, and the newest state wins.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// The newest position that came over it.
    received: Option<Position>,
    /// The newest that was acknowledged on it.
    acknowledged: Position,
    /// Whether anything was reported on it.
    begun: bool,
    /// Whether the controller knows everything by it.
    complete: bool,
    /// Up to where the last report spoke.
    reported: Position,
    instances: BTreeMap<InstanceName, InstanceStatus>,
    /// The number of the last heartbeat that wanted an answer.
    beats: u64,
    /// When those were sent that have no answer yet, the oldest first.
    unanswered: VecDeque<(u64, Timestamp)>,
}

/// How many heartbeats may wait for an answer; older ones wait for none any more.
const UNANSWERED_MAX: usize = 64;

impl Stream {
    /// A change came over this stream and was merged.
    pub fn received(&mut self, position: Position) {
        self.received = Some(position);
    }

    /// A heartbeat is sent: its number; 0 if no answer is wanted, since nothing is lent to the node.
    pub fn beat(&mut self, holding: &Holding, now: Timestamp) -> u64 {
        if !holding.has_leases() {
            return 0;
        }
        self.beats += 1;
        self.unanswered.push_back((self.beats, now));
        if self.unanswered.len() > UNANSWERED_MAX {
            self.unanswered.pop_front();
        }
        self.beats
    }

    /// The controller has answered a heartbeat: when that was sent, unless a later one was answered before.
    pub fn answered(&mut self, number: u64) -> Option<Timestamp> {
        let sent_at = self.unanswered.iter().find(|(one, _)| *one == number).map(|(_, at)| *at);
        self.unanswered.retain(|(one, _)| *one > number);
        sent_at
    }

    /// Whether there is something to acknowledge.
    #[must_use]
    pub fn is_to_acknowledge(&self, holding: &Holding) -> bool {
        let stored = holding.stored;
        // Only what came over this stream: the controller may not know of anything else.
        let came = self.received.is_some_and(|received| {
            received.incarnation == stored.incarnation && stored.revision <= received.revision
        });
        came && stored.revision > Revision(0) && stored != self.acknowledged
    }

    /// What to acknowledge now, if anything.
    pub fn acknowledge(&mut self, holding: &Holding) -> Option<Acknowledge> {
        let stored = holding.stored;
        self.is_to_acknowledge(holding).then(|| {
            self.acknowledged = stored;
            Acknowledge { stored }
        })
    }

    /// What there is to tell of the instances; `None` for nothing. The first report of a node that was looked at is
    /// complete. Until then nothing is gone, whatever is not listed, and a report is of no revision: nobody has seen
    /// what is left of instances that are not in the assignment any more.
    pub fn report(&mut self, holding: &Holding, now: Option<&Statuses>) -> Option<StatusReport> {
        let now = now?;
        let revision = if now.complete { now.revision } else { Revision(0) };
        let seen_under = holding.durable(revision);
        let news: Vec<&InstanceStatus> =
            now.instances.values().filter(|status| self.is_news(status)).collect();
        let is_gone = |name: &&InstanceName| now.complete && !now.instances.contains_key(*name);
        let gone: Vec<InstanceName> = self.instances.keys().filter(is_gone).cloned().collect();
        let is_same = self.begun && self.complete == now.complete && self.reported == seen_under;
        if is_same && news.is_empty() && gone.is_empty() {
            return None;
        }
        let complete = now.complete && !self.complete;
        let news: Vec<&InstanceStatus> =
            if complete { now.instances.values().collect() } else { news };
        let instances: Vec<InstanceStatus> = news.into_iter().cloned().collect();
        self.instances.extend(instances.iter().map(|one| (one.instance.clone(), one.clone())));
        if now.complete {
            self.instances.retain(|name, _| now.instances.contains_key(name));
        }
        self.reported = seen_under;
        self.begun = true;
        self.complete = now.complete;
        Some(StatusReport { seen_under, complete, instances, gone, volumes: None })
    }

    /// Whether the instances have been reported as they are under this position, or a later one.
    #[must_use]
    pub fn has_reported(&self, seen_under: Position) -> bool {
        self.complete
            && seen_under.incarnation == self.reported.incarnation
            && seen_under.revision <= self.reported.revision
    }

    /// Whether a status says something new. To have looked again and seen the same is nothing new.
    fn is_news(&self, status: &InstanceStatus) -> bool {
        let observed_at = status.observed_at;
        self.instances
            .get(&status.instance)
            .is_none_or(|sent| InstanceStatus { observed_at, ..sent.clone() } != *status)
    }
}

#[cfg(test)]
mod tests;
