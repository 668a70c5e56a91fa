//! The one task that owns the model, and the handle that everything else talks to it through.
//!
//! ```text
//!   handles ──bounded queue──▶ owner: take what is queued ─▶ apply each ─▶ one commit ─▶ publish ─▶ answer
//!                                                              │             └─failed─▶ revert ─▶ answer
//!                                                              └─ reads: after the batch
//! ```
//!
//! Group commit: all commands that queued up while the last batch was written share the next
//! transaction; a batch without durable changes (heartbeats, status reports) writes nothing.
//!
//! Reads are requests in the same queue, answered between two batches: they see committed state only, in
//! an order that agrees with the answers to commands, and need neither locks nor copies of the model.
//! They cost the writer microseconds, since objects are shared, not copied.
//!
//! Invariants: nothing is answered or seen before it is durable; if nothing of a batch could be written, every
//! command of it is taken back and each caller is told, and until the store works again what needs none goes
//! on without it: nodes that are silent go down, sessions begin and end, statuses change. If nobody knows
//! whether a batch was written, the owner ends, since only a start reads what is there. Time passes (`Tick`) only behind what was queued before,
//! so that a stalled disk does not make nodes look silent whose heartbeats wait in the queue.

mod contexts;
mod roster;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::{Clock, Now};
use dwell_core::id::{NodeName, Revision};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::model::{Change, Command, Model, Refusal, Reply, Touched};
use crate::store::{Batch, CommitError, Store};

pub(crate) use self::contexts::Contexts;
pub(crate) use self::roster::Roster;

/// How many requests may wait, and share one commit; beyond that, senders wait.
const QUEUE_MAX: usize = 1024;
/// How often the model is told that time has passed.
const TICK: Duration = Duration::from_secs(1);

/// Why a command was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommandError {
    /// The model refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be stored, so it was taken back.
    #[error("nothing was changed: {0}")]
    NotStored(Arc<CommitError>),
    /// Nobody knows whether it was stored; the owner has ended.
    #[error("{0}; the controller starts again: look what is there before you try again")]
    NotKnown(Arc<CommitError>),
    /// The owner has ended.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// The owner has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the controller is ending; try again in a moment")]
pub struct Stopped;

/// A command was done, and is durable.
#[derive(Clone, Debug)]
pub struct Done {
    /// The model's answer.
    pub reply: Reply,
    /// The model's revision afterwards.
    pub revision: Revision,
}

type CommandReply = oneshot::Sender<Result<Done, CommandError>>;

enum Request {
    /// Of somebody; of nobody, or of a node, if the name is empty.
    Command(Box<Command>, String, CommandReply),
    Read(Box<dyn FnOnce(&Model) + Send>),
    Follow(NodeName, oneshot::Sender<watch::Receiver<()>>),
}

/// Talks to the owner; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    revision: watch::Receiver<Revision>,
    directory: watch::Receiver<Option<Revision>>,
    roster: Roster,
    contexts: Contexts,
    ailing: watch::Receiver<Option<Arc<CommitError>>>,
}

impl Handle {
    /// Why the store cannot be written; `None` if it can, as far as it was tried.
    pub(crate) fn ailing(&self) -> Option<Arc<CommitError>> {
        self.ailing.borrow().clone()
    }

    /// Which contexts are not good any more, without asking the owner.
    pub(crate) fn contexts(&self) -> &Contexts {
        &self.contexts
    }

    /// Who is a node, without asking the owner.
    pub(crate) fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Has a command done; when this returns, it is durable.
    ///
    /// # Errors
    /// [`CommandError`]; nothing has changed then.
    pub async fn command(&self, command: Command) -> Result<Done, CommandError> {
        self.command_for(String::new(), command).await
    }

    /// The same for somebody, whom the events that come of it name.
    ///
    /// # Errors
    /// [`CommandError`]; nothing has changed then.
    pub async fn command_for(&self, by: String, command: Command) -> Result<Done, CommandError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Command(Box::new(command), by, reply);
        self.requests.send(request).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)?
    }

    /// Looks at the model. `look` has to be short: nothing else happens meanwhile.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn read<T, F>(&self, look: F) -> Result<T, Stopped>
    where
        T: Send + 'static,
        F: FnOnce(&Model) -> T + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        // Whoever asked may have gone meanwhile.
        let look = Box::new(move |model: &Model| drop(reply.send(look(model))));
        self.requests.send(Request::Read(look)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// The newest committed revision, and every later one.
    #[must_use]
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.clone()
    }

    /// The revision of the directory's last change, and every later one; `None` while it is not to be shown.
    #[must_use]
    pub fn directory_revisions(&self) -> watch::Receiver<Option<Revision>> {
        self.directory.clone()
    }

    /// Is told whenever a node's assignment may have changed.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn follow(&self, node: NodeName) -> Result<watch::Receiver<()>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Follow(node, reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

/// Owns the model and the store.
pub struct Owner<S> {
    model: Model,
    store: S,
    clock: Arc<dyn Clock>,
    requests: mpsc::Receiver<Request>,
    revision: watch::Sender<Revision>,
    directory: watch::Sender<Option<Revision>>,
    roster: Roster,
    contexts: Contexts,
    followers: BTreeMap<NodeName, watch::Sender<()>>,
    /// Why the store cannot be written, from the first commit that failed to the next that did not.
    ailing: watch::Sender<Option<Arc<CommitError>>>,
    /// What is on the disk is not known, or is another's: this has to end.
    broken: bool,
}

impl<S: Store> Owner<S> {
    /// An owner, still to be [run](Self::run), and the handle to it.
    pub fn new(model: Model, store: S, clock: Arc<dyn Clock>) -> (Self, Handle) {
        let (sender, requests) = mpsc::channel(QUEUE_MAX);
        let (revision, watched) = watch::channel(model.revision());
        let (directory, shown) = watch::channel(model.directory_revision());
        let roster = Roster::of(&model);
        let contexts = Contexts::of(&model);
        let followers = BTreeMap::new();
        let (ailing, told_ailing) = watch::channel(None);
        let owner = Self {
            model,
            store,
            clock,
            requests,
            revision,
            directory,
            roster: roster.clone(),
            contexts: contexts.clone(),
            followers,
            ailing,
            broken: false,
        };
        let handle = Handle {
            requests: sender,
            revision: watched,
            directory: shown,
            roster,
            contexts,
            ailing: told_ailing,
        };
        (owner, handle)
    }

    /// Runs the owner on a thread of its own, so that however long it works, connections are served and
    /// their pings answered. What is returned is told when it has ended.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(self, stop: CancellationToken) -> std::io::Result<oneshot::Receiver<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (told, ended) = oneshot::channel();
        std::thread::Builder::new().name("owner".into()).spawn(move || {
            runtime.block_on(self.run(stop));
            // Nobody may be listening any more.
            told.send(()).ok();
        })?;
        Ok(ended)
    }

    /// Serves until `stop` is cancelled, then what is queued at that moment.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut next_tick = Instant::now();
        let mut queued = Vec::new();
        loop {
            // Cancel-safe: receiving, sleeping and being told to stop lose nothing when dropped.
            tokio::select! {
                biased;
                taken = self.requests.recv_many(&mut queued, QUEUE_MAX) => {
                    if taken == 0 {
                        return;
                    }
                    self.serve(std::mem::take(&mut queued)).await;
                    if self.broken {
                        return;
                    }
                }
                () = tokio::time::sleep_until(next_tick) => {}
                () = stop.cancelled() => self.requests.close(),
            }
            // Between two batches, so that time passes however busy we are, and behind all that was queued.
            if next_tick <= Instant::now() {
                self.tick().await;
                if self.broken {
                    return;
                }
                next_tick = Instant::now() + TICK;
            }
        }
    }

    async fn tick(&mut self) {
        let (reply, _) = oneshot::channel();
        self.serve(vec![Request::Command(Box::new(Command::Tick), String::new(), reply)]).await;
    }

    async fn serve(&mut self, queued: Vec<Request>) {
        let mut reads = Vec::new();
        let mut answers = Vec::new();
        let mut changes = Vec::new();
        let now = self.clock.both();
        for request in queued {
            match request {
                Request::Command(command, _, reply)
                    if self.is_ailing() && command.is_volatile() =>
                {
                    let answer = self.without_store(*command, now).await;
                    // Whoever asked may have gone.
                    drop(reply.send(answer));
                }
                Request::Command(command, by, reply) => {
                    let answer = self.model.apply_for(by, *command, now).map(|applied| {
                        changes.extend(applied.changes);
                        applied.reply
                    });
                    answers.push((reply, answer));
                }
                Request::Read(look) => reads.push(look),
                Request::Follow(node, reply) => {
                    let follower =
                        self.followers.entry(node).or_insert_with(|| watch::Sender::new(()));
                    drop(reply.send(follower.subscribe()));
                }
            }
        }
        let outcome = self.settle(changes).await;
        self.tell_directory();
        let revision = self.model.revision();
        for (reply, answer) in answers {
            // A refusal waits as well: it may be due to a command that was taken back.
            let answer = match outcome.clone() {
                Ok(()) => answer.map(|reply| Done { reply, revision }).map_err(CommandError::from),
                Err(error) => Err(error),
            };
            // Whoever asked may have gone; it is done, or not, all the same.
            drop(reply.send(answer));
        }
        for look in reads {
            look(&self.model);
        }
    }

    /// Commits and publishes, or takes back.
    async fn settle(&mut self, changes: Vec<Change>) -> Result<(), CommandError> {
        if changes.is_empty() {
            return Ok(());
        }
        match self.commit(&changes).await {
            Ok(()) => {
                self.publish(changes);
                Ok(())
            }
            Err(error) => {
                let survivable = error.is_survivable();
                let error = self.fails(error);
                self.model.revert(changes);
                // Revisions that were taken back are not given out again, but lists show them as passed.
                self.revision.send_replace(self.model.revision());
                let why = if survivable { CommandError::NotStored } else { CommandError::NotKnown };
                Err(why(error))
            }
        }
    }

    fn publish(&mut self, changes: Vec<Change>) {
        self.roster.publish(&changes);
        self.contexts.publish(&changes);
        let touched = self.model.publish(changes);
        self.tell(&touched);
    }

    async fn commit(&mut self, changes: &[Change]) -> Result<(), CommitError> {
        let batch = Batch::of(changes.iter()).map_err(CommitError::Unfit)?;
        if batch.is_empty() {
            return Ok(());
        }
        self.store.commit(batch).await?;
        if self.ailing.send_replace(None).is_some() {
            tracing::info!("changes can be stored again");
        }
        Ok(())
    }

    fn is_ailing(&self) -> bool {
        self.ailing.borrow().is_some()
    }

    /// Notes that a commit failed, and says so once.
    fn fails(&mut self, error: CommitError) -> Arc<CommitError> {
        if !error.is_survivable() {
            tracing::error!(%error, "what is on the disk is not known; the controller ends and has to read it again");
            self.broken = true;
        } else if !self.is_ailing() {
            tracing::error!(
                %error,
                "cannot store changes; none is accepted until this is repaired, but nodes are heard of as ever"
            );
        }
        let error = Arc::new(error);
        self.ailing.send_replace(Some(Arc::clone(&error)));
        error
    }

    /// Does of a command what needs no store, while that cannot be written; and tries it now and then.
    async fn without_store(&mut self, command: Command, now: Now) -> Result<Done, CommandError> {
        if matches!(command, Command::Tick)
            && let Err(error) = self.commit(&[self.model.probe()]).await
        {
            self.fails(error);
        }
        let Some(error) = self.ailing.borrow().clone() else {
            // It works again; the next tick goes on with what waited.
            let applied = self.model.apply_volatile(command, now)?;
            self.publish(applied.map(|applied| applied.changes).unwrap_or_default());
            return Ok(Done { reply: Reply::Done, revision: self.model.revision() });
        };
        match self.model.apply_volatile(command, now)? {
            Some(applied) => {
                self.publish(applied.changes);
                Ok(Done { reply: applied.reply, revision: self.model.revision() })
            }
            None => Err(CommandError::NotStored(error)),
        }
    }

    fn tell(&mut self, touched: &Touched) {
        self.revision.send_replace(self.model.revision());
        self.followers.retain(|node, follower| {
            if touched.everyone || touched.nodes.contains(node) {
                follower.send_replace(());
            }
            follower.receiver_count() > 0
        });
    }

    /// Also without a change: time alone can make the directory one that may be shown.
    fn tell_directory(&mut self) {
        let newest = self.model.directory_revision();
        self.directory.send_if_modified(|told| std::mem::replace(told, newest) != newest);
    }
}

#[cfg(test)]
mod tests;
