//! The controller: the real model, a store that can fail, and a session for each stream.

use std::collections::BTreeMap;

use dwell_controller::model::{
    Change, Command, Model, Record, Refusal, Reply, SessionId, Settings, Touched,
};
use dwell_core::clock::Now;
use dwell_core::directory::DirectoryChange;
use dwell_core::id::{NodeName, Position, Revision};

use crate::host::Wall;
use crate::message::Down;
use crate::schedule::Ms;
use crate::store::Store;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Controller {
    settings: Settings,
    pub(crate) model: Option<Model>,
    pub(crate) store: Store,
    pub(crate) sessions: BTreeMap<u64, Session>,
    /// Counts the starts.
    pub(crate) life: u64,
    pub(crate) wall: Wall,
    /// The wall clock when it started. From then on it counts by itself.
    started_wall: Wall,
    /// Whether the last commit failed: until one succeeds, only what needs no store is done.
    ailing: bool,
    /// It is to crash in the middle of its next commit: whether that is found done afterwards.
    pub(crate) crash_in_commit: Option<bool>,
}

/// One stream, from the controller's side.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) node: NodeName,
    /// The revision the agent was brought to.
    sent: Option<Revision>,
    /// The directory that the agent holds, or will hold when it has got what was sent.
    directory: Position,
    /// Whether the directory that the agent held at first has been compared with what there is.
    compared: bool,
    /// Whether it is about to be brought to a newer one.
    pub(crate) pushing: bool,
}

/// Why a command was not done.
#[derive(Debug)]
pub(crate) enum Failed {
    /// There is no controller.
    Away,
    /// It will not do it.
    Refused(Refusal),
    /// The store cannot be written.
    Store,
    /// It crashed: nobody knows whether it was done.
    Crashed,
}

impl Controller {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            model: None,
            store: Store::default(),
            sessions: BTreeMap::new(),
            life: 0,
            wall: Wall::default(),
            started_wall: Wall::default(),
            ailing: false,
            crash_in_commit: None,
        }
    }

    fn now(&self, now: Ms) -> Now {
        Now { wall: self.wall.now(now), steady: self.started_wall.now(now) }
    }

    /// Starts it from its store.
    pub(crate) fn start(&mut self, now: Ms) {
        self.life += 1;
        self.started_wall = self.wall;
        let records = self.store.records().into_iter().map(reread);
        let now = self.now(now);
        self.ailing = false;
        self.model = Some(if self.store.len() == 0 {
            Model::new(self.settings.clone())
        } else {
            Model::restore(self.settings.clone(), records, now)
        });
    }

    /// It is gone, and so are its streams.
    pub(crate) fn crash(&mut self) {
        self.model = None;
        self.crash_in_commit = None;
        self.sessions.clear();
    }

    /// Does a command, durably, and says whom it concerns.
    pub(crate) fn command(
        &mut self,
        command: Command,
        now: Ms,
    ) -> Result<(Reply, Touched, Vec<Change>), Failed> {
        let at = self.now(now);
        let model = self.model.as_mut().ok_or(Failed::Away)?;
        if self.ailing && command.is_volatile() {
            if matches!(command, Command::Tick) {
                self.ailing = !self.store.commit(&[model.probe()]);
            }
            let applied = model.apply_volatile(command, at).map_err(Failed::Refused)?;
            let applied = applied.ok_or(Failed::Store)?;
            let touched = model.publish(applied.changes.clone());
            return Ok((applied.reply, touched, applied.changes));
        }
        let applied = model.apply(command, at).map_err(Failed::Refused)?;
        if !self.store.commit(&applied.changes) {
            self.ailing = true;
            model.revert(applied.changes);
            return Err(Failed::Store);
        }
        if let Some(kept) = self.crash_in_commit
            && applied.changes.iter().any(Change::is_durable)
        {
            if !kept {
                self.store.lose_last();
            }
            self.crash();
            return Err(Failed::Crashed);
        }
        if applied.changes.iter().any(Change::is_durable) {
            self.store.mark();
        }
        let touched = model.publish(applied.changes.clone());
        Ok((applied.reply, touched, applied.changes))
    }

    /// A stream begins, of an agent that holds this directory.
    pub(crate) fn open(&mut self, stream: u64, node: NodeName, directory: Position) {
        let session = Session { node, sent: None, directory, compared: false, pushing: false };
        self.sessions.insert(stream, session);
    }

    /// What brings an agent to the newest revision, if there is anything to say.
    ///
    /// # Errors
    /// The stream does not speak for its node any more.
    pub(crate) fn push(&mut self, stream: u64) -> Result<Vec<Down>, Refusal> {
        let Some(model) = &self.model else { return Ok(Vec::new()) };
        let Some(session) = self.sessions.get_mut(&stream) else { return Ok(Vec::new()) };
        session.pushing = false;
        model.check_session(&session.node, self::session(stream))?;
        let mut messages = Vec::new();
        if let Some(change) = model.assignment_change(&session.node, session.sent) {
            session.sent = Some(change.position().revision);
            messages.push(Down::Assignment(Box::new(change)));
        }
        messages.extend(session.directory(model).map(|change| Down::Directory(Box::new(change))));
        Ok(messages)
    }

    /// Streams that are to be brought to a newer revision: of these nodes, or for a newer directory.
    pub(crate) fn due(&mut self, touched: &Touched) -> Vec<u64> {
        let mut due = Vec::new();
        let directory = self.model.as_ref().and_then(Model::directory_revision);
        for (&stream, session) in &mut self.sessions {
            let is_touched = touched.everyone || touched.nodes.contains(&session.node);
            if (is_touched || session.has_news(directory)) && !session.pushing {
                session.pushing = true;
                due.push(stream);
            }
        }
        due
    }
}

impl Session {
    fn has_news(&self, directory: Option<Revision>) -> bool {
        directory.is_some_and(|newest| !self.compared || newest > self.directory.revision)
    }

    /// What the agent does not know yet of the directory. A removed node has no business with names.
    fn directory(&mut self, model: &Model) -> Option<DirectoryChange> {
        if !self.has_news(model.directory_revision()) || !model.is_member(&self.node) {
            return None;
        }
        let known = model.directory_since(self.directory.within(model.incarnation()));
        let change = known.unwrap_or_else(|| model.directory());
        (self.directory, self.compared) = (change.position(), true);
        Some(change)
    }
}

/// A record as it comes back from its stored form.
fn reread(record: Record) -> Record {
    let key = record.key();
    let again = key.table().zip(record.encode().ok());
    again.and_then(|(table, json)| Record::decode(table, &json).ok()).unwrap_or(record)
}

/// The number of a stream, as the model knows it.
pub(crate) fn session(stream: u64) -> SessionId {
    SessionId(stream)
}
