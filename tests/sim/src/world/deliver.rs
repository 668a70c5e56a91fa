//! Streams: how they begin and end, and what moves over them.
//!
//! A stream is TCP: what is sent over it arrives in order, once, or not at all any more. Over a link that is
//! cut it stalls and arrives late, maybe when a newer stream has said more: that is how messages are reordered
//! and doubled here, as they are in life.

use dwell_controller::model::{Command, Model, Reply, SessionId};
use dwell_core::id::NodeName;
use dwell_core::node::Capacity;
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::session::{AssignmentChange, Hello, Lent};

use super::membership::Standing;
use super::{Event, HEARTBEAT_MS, SILENCE_MS, Stream, World};
use crate::agent::Input;
use crate::controller::{Failed, session};
use crate::message::{Down, Up};
use crate::schedule::Ms;

/// The longest pause between two tries to reach the controller.
const RECONNECT_MAX_MS: Ms = 10_000;

impl World {
    pub(super) fn connect(&mut self, host: usize, life: u64) {
        let (up, controller_life) = (self.controller.model.is_some(), self.controller.life);
        let Some(one) = self.hosts.get_mut(host) else { return };
        if one.life != life || one.agent.is_none() || one.stream.is_some() {
            return;
        }
        if one.link.up_cut || one.link.down_cut || !up {
            one.failed_connects = (one.failed_connects + 1).min(8);
            let pause = (100 << one.failed_connects).min(RECONNECT_MAX_MS);
            return self.later(pause / 2, pause, Event::Connect { host, life });
        }
        one.failed_connects = 0;
        self.last_stream += 1;
        let stream = self.last_stream;
        one.stream = Some(stream);
        self.streams.insert(
            stream,
            Stream {
                host,
                life,
                controller_life,
                up_at: self.now,
                down_at: self.now,
                stalled: Vec::new(),
                last_up: None,
            },
        );
        self.note(|| format!("host {host}: stream {stream} begins"));
        let (address, mark) = (self.hosts[host].address, self.hosts[host].mark());
        self.tell(host, life, Input::Attached(address, mark));
    }

    /// The agent's end of its stream is over.
    pub(super) fn lose_stream(&mut self, host: usize) {
        let Some(stream) = self.hosts.get_mut(host).and_then(|one| one.stream.take()) else {
            return;
        };
        let life = self.hosts[host].life;
        self.note(|| format!("host {host}: stream {stream} ends"));
        self.send(stream, true, Event::UpEnd { stream });
        self.tell(host, life, Input::Detached);
        self.later(50, 1_000, Event::Connect { host, life });
    }

    /// Puts something on its way over a stream.
    pub(super) fn send(&mut self, stream: u64, up: bool, event: Event) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let delay_max = self.hosts[state.host].link.delay_max;
        let arrival = self.now + self.rng.u64(1..4 + delay_max);
        let last = if up { &mut state.up_at } else { &mut state.down_at };
        *last = arrival.max(*last);
        let at = *last;
        if let Event::Up { message, .. } = &event {
            state.last_up = Some(message.clone());
            let is_counted = matches!(message, Up::Report(_) | Up::Acknowledge(_));
            if is_counted && self.hosts[state.host].link.repeats {
                self.schedule.at(at, Event::Up { stream, message: message.clone() });
            }
        }
        self.schedule.at(at, event);
    }

    /// Whether something can arrive now; if not, it waits for the link.
    fn arrives(&mut self, stream: u64, up: bool, event: impl FnOnce() -> Event) -> bool {
        let Some(state) = self.streams.get_mut(&stream) else { return false };
        let link = self.hosts[state.host].link;
        let is_cut = if up { link.up_cut } else { link.down_cut };
        // Nothing overtakes what waits.
        if is_cut || state.stalled.iter().any(|(other, _)| *other == up) {
            state.stalled.push((up, event()));
            return false;
        }
        true
    }

    /// The link is there again: what waited for it goes on.
    pub(super) fn unstall(&mut self, host: usize) {
        let of_host = |stream: &&mut Stream| stream.host == host;
        for stream in self.streams.values_mut().filter(of_host) {
            for (number, (_, event)) in std::mem::take(&mut stream.stalled).into_iter().enumerate()
            {
                let at = self.now + 1 + number as Ms;
                stream.up_at = stream.up_at.max(at);
                stream.down_at = stream.down_at.max(at);
                self.schedule.at(at, event);
            }
        }
    }

    pub(super) fn deliver_up(&mut self, stream: u64, message: Up) {
        if !self.arrives(stream, true, || Event::Up { stream, message: message.clone() }) {
            return;
        }
        let Some(state) = self.streams.get(&stream) else { return };
        if state.controller_life != self.controller.life || self.controller.model.is_none() {
            return self.send(stream, false, Event::DownEnd { stream });
        }
        let host = state.host;
        if let Up::Hello(hello) = &message {
            match self.standing(host) {
                Standing::Member | Standing::Removed => {}
                Standing::Superseded => return self.dismiss(stream, host),
                Standing::Unknown => {
                    let (one, hello) = (&self.hosts[host], hello.clone());
                    let (node, enrolment) = (one.name.clone(), one.enrolment.clone());
                    let adopted = self.command(Command::AdoptNode { node, enrolment, hello });
                    self.note(|| format!("controller: adopts host {host}: {adopted:?}"));
                    if adopted.is_err() {
                        return self.send(stream, false, Event::DownEnd { stream });
                    }
                }
            }
        } else if !self.controller.sessions.contains_key(&stream) {
            // Its end was noticed before its last words came.
            return;
        }
        let beat = match &message {
            Up::Heartbeat(number) => *number,
            _ => 0,
        };
        if !matches!(message, Up::Heartbeat(_)) {
            self.note(|| format!("controller: host {host} says {}", brief_up(&message)));
        }
        let (node, session) = (self.hosts[host].name.clone(), session(stream));
        let from = (node.clone(), self.hosts[host].enrolment.clone());
        let directory = match &message {
            Up::Hello(hello) => Some(hello.directory),
            _ => None,
        };
        match (self.command(taken(from, session, message)), directory) {
            (Ok(Reply::Unserved(refusal)), _) => {
                self.note(|| format!("controller: refuses stream {stream}: {refusal}"));
                self.send(stream, false, Event::DownEnd { stream });
            }
            (Ok(_), Some(directory)) => {
                self.supersede(stream, &node);
                self.controller.open(stream, node, directory);
                self.push(stream);
            }
            (Ok(_), None) if beat > 0 => self.lend(stream, beat),
            (Ok(_), None) => {}
            (Err(Failed::Crashed | Failed::Away), _) => {}
            (Err(error), _) => {
                self.note(|| format!("controller: ends stream {stream}: {error:?}"));
                self.close(stream);
                self.send(stream, false, Event::DownEnd { stream });
            }
        }
    }

    /// Answers a heartbeat, after all that was decided before it was heard.
    fn lend(&mut self, stream: u64, heartbeat: u64) {
        self.push(stream);
        let Some(model) = self.controller.model.as_ref() else { return };
        if self.controller.sessions.contains_key(&stream) {
            let lent = Lent { heartbeat, only_renewed: model.is_unconfirmed() };
            self.send(stream, false, Event::Down { stream, message: Down::Lent(lent) });
        }
    }

    /// Hosts that were told to go on as they are until a restore is confirmed begin another stream then.
    pub(super) fn end_until_confirmed(&mut self) {
        if self.controller.model.as_ref().is_some_and(|model| !model.is_unconfirmed()) {
            for stream in std::mem::take(&mut self.until_confirmed) {
                self.send(stream, false, Event::DownEnd { stream });
            }
        }
    }

    /// A newer stream of a node takes the place of an older one.
    fn supersede(&mut self, stream: u64, node: &NodeName) {
        let sessions = self.controller.sessions.iter();
        let older = sessions.filter(|(_, other)| other.node == *node);
        let older: Vec<u64> = older.map(|(&other, _)| other).filter(|&id| id != stream).collect();
        for other in older {
            self.controller.sessions.remove(&other);
            self.send(other, false, Event::DownEnd { stream: other });
        }
    }

    pub(super) fn deliver_up_end(&mut self, stream: u64) {
        if self.arrives(stream, true, || Event::UpEnd { stream }) {
            self.close(stream);
            self.streams.remove(&stream);
        }
    }

    /// A stream is broken: what was said last over it may come all the same, after a newer stream has begun.
    pub(super) fn break_stream(&mut self, host: usize) {
        let stream = self.hosts[host].stream;
        let state = stream.and_then(|stream| self.streams.get(&stream));
        let late = state.and_then(|state| Some((state.controller_life, state.last_up.clone()?)));
        self.lose_stream(host);
        if let (Some(stream), Some((controller_life, message))) = (stream, late) {
            let one = &self.hosts[host];
            let (node, enrolment) = (one.name.clone(), one.enrolment.clone());
            let late = Event::Late { node, enrolment, stream, controller_life, message };
            self.later(1, 5_000, late);
        }
    }

    pub(super) fn deliver_late(&mut self, from: (NodeName, String), stream: u64, message: Up) {
        let node = from.0.clone();
        if self.controller.model.is_none() || self.controller.sessions.contains_key(&stream) {
            return;
        }
        self.note(|| format!("controller: {node} has said {}, long ago", brief_up(&message)));
        let begins = matches!(message, Up::Hello(_));
        let taken = self.command(taken(from, session(stream), message));
        if begins && matches!(taken, Ok(Reply::Done)) {
            self.supersede(stream, &node);
            drop(self.command(Command::DetachNode { node, session: session(stream) }));
        }
    }

    /// A host whose name is another host's by now is told to run nothing.
    fn dismiss(&mut self, stream: u64, host: usize) {
        let one = &self.hosts[host];
        let (node, enrolment, address) = (one.name.clone(), one.enrolment.clone(), one.address);
        let instances = one.disk.assignment.as_ref().map_or(0, |held| held.instances.len());
        let back = Command::NoteDismissed { node, enrolment, address, instances };
        if self.command(back).is_err() {
            return self.send(stream, false, Event::DownEnd { stream });
        }
        let nothing = self.controller.model.as_ref().map(Model::dismissal);
        if let Some(nothing) = nothing {
            if nothing.unconfirmed {
                self.until_confirmed.push(stream);
            }
            let message = Down::Assignment(Box::new(AssignmentChange::Snapshot(nothing)));
            self.send(stream, false, Event::Down { stream, message });
        }
    }

    /// The controller's end of a stream is over.
    fn close(&mut self, stream: u64) {
        let Some(closed) = self.controller.sessions.remove(&stream) else { return };
        let command = Command::DetachNode { node: closed.node, session: session(stream) };
        drop(self.command(command));
    }

    pub(super) fn push(&mut self, stream: u64) {
        match self.controller.push(stream) {
            Ok(messages) => {
                for message in messages {
                    self.send(stream, false, Event::Down { stream, message });
                }
            }
            Err(refusal) => {
                self.note(|| format!("controller: ends stream {stream}: {refusal}"));
                self.close(stream);
                self.send(stream, false, Event::DownEnd { stream });
            }
        }
    }

    pub(super) fn deliver_down(&mut self, stream: u64, message: Down) {
        if !self.arrives(stream, false, || Event::Down { stream, message: message.clone() }) {
            return;
        }
        let Some(state) = self.streams.get(&stream) else { return };
        let (host, life) = (state.host, state.life);
        if self.hosts[host].stream == Some(stream) {
            if !matches!(message, Down::Lent(_)) {
                self.note(|| format!("host {host}: is told {}", brief(&message)));
            }
            let one = &mut self.hosts[host];
            if !one.disk.full {
                one.disk.claim(one.mark());
            }
            self.tell(host, life, Input::Message(message));
        }
    }

    pub(super) fn deliver_down_end(&mut self, stream: u64) {
        if !self.arrives(stream, false, || Event::DownEnd { stream }) {
            return;
        }
        let Some(state) = self.streams.get(&stream) else { return };
        let host = state.host;
        if self.hosts[host].stream == Some(stream) {
            self.lose_stream(host);
        }
    }

    pub(super) fn heartbeat(&mut self, host: usize, life: u64) {
        let Some(one) = self.hosts.get(host).filter(|one| one.life == life) else { return };
        if one.agent.is_none() {
            return;
        }
        let silent = self.cut_since.get(&host).is_some_and(|&at| at + SILENCE_MS < self.now);
        if silent && one.stream.is_some() {
            self.lose_stream(host);
        }
        self.keep_volumes(host);
        self.tell(host, life, Input::Heartbeat);
        self.schedule.at(self.now + HEARTBEAT_MS, Event::Heartbeat { host, life });
    }

    /// The controller gives up streams over which nothing comes.
    pub(super) fn drop_silent(&mut self) {
        let silent = |stream: &u64| {
            let host = self.streams.get(stream).map(|state| state.host);
            let since = host.and_then(|host| self.cut_since.get(&host));
            since.is_some_and(|&at| at + SILENCE_MS < self.now)
        };
        let silent: Vec<u64> = self.controller.sessions.keys().copied().filter(silent).collect();
        for stream in silent {
            self.close(stream);
            self.send(stream, false, Event::DownEnd { stream });
        }
    }
}

/// What the controller makes of a message of a node.
fn taken(from: (NodeName, String), session: SessionId, message: Up) -> Command {
    let (node, enrolment) = from;
    match message {
        Up::Hello(hello) => {
            let hello = Box::new(Hello { capacity: capacity(), ..*hello });
            Command::AttachNode { node, enrolment, session, hello }
        }
        Up::Report(report) => Command::NodeStatus { node, session, report },
        Up::Acknowledge(stored) => Command::Acknowledge { node, session, stored },
        Up::Heartbeat(_) => Command::Heartbeat { node, session, capacity: None },
    }
}

fn capacity() -> Capacity {
    Capacity {
        cpu: Millicores(64_000),
        memory: Bytes::mebi(65_536),
        arch: "amd64".to_owned(),
        ..Capacity::default()
    }
}

fn brief_up(message: &Up) -> String {
    let (kind, report) = match message {
        Up::Hello(hello) => ("hello,", &hello.status),
        Up::Report(report) => ("it sees,", report),
        Up::Acknowledge(stored) => return format!("it has stored {}", stored.revision),
        Up::Heartbeat(_) => return "it lives".to_owned(),
    };
    let statuses = report.instances.iter();
    let statuses: Vec<_> = statuses
        .map(|status| format!("{} {} {}", status.instance, status.phase, status.container_id))
        .collect();
    let (revision, complete) = (report.seen_under.revision, report.complete);
    format!("{kind} at {revision}, complete: {complete}: {statuses:?}, gone: {:?}", report.gone)
}

fn brief(message: &Down) -> String {
    let change = match message {
        Down::Assignment(change) => change,
        Down::Directory(change) => return format!("the directory of {}", change.revision),
        Down::Lent(lent) => return format!("that heartbeat {} was heard", lent.heartbeat),
    };
    match change.as_ref() {
        AssignmentChange::Snapshot(all) => {
            let names = all.instances.values().map(told);
            format!("all of revision {}: {:?}", all.revision, names.collect::<Vec<_>>())
        }
        AssignmentChange::Delta(delta) => {
            let names = delta.changed.iter().map(told);
            let names: Vec<_> = names.collect();
            format!(
                "changes from {} to {}: {names:?}, without {:?}",
                delta.base, delta.revision, delta.removed
            )
        }
    }
}

/// What an instance is told to be, in a word or two.
fn told(one: &dwell_core::instance::Assigned) -> String {
    let kept = if one.kept_volumes.is_empty() { "" } else { " with its volume" };
    format!("{}@{} {}{kept}", one.instance, one.generation, one.template.image)
}
