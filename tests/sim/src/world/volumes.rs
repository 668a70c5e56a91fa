//! Volumes: how they move from host to host, and how they are deleted.
//!
//! The model says what is to be copied. A copy takes time, needs both hosts from its beginning to its end, and has what was in the
//! volume when it began.

use dwell_controller::model::{
    Change, Command, InstanceFilter, Model, MoveHow, Record, VolumeJob, VolumeMoveNews,
    VolumeMovePhase, VolumeState,
};
use dwell_core::id::{InstanceName, NodeName, Revision};
use dwell_core::session::StatusReport;

use super::membership::Standing;
use super::{Event, World};
use crate::agent::Agent;
use crate::host::Mode;
use crate::message::Up;
use crate::schedule::Ms;
use crate::truth::Violation;

/// Which copy of which move: whether it is the one after which the copy becomes the volume.
pub(super) type CopyId = (InstanceName, Revision, bool);

/// How long after a copy the next one of the same move begins.
const PAUSE_MS: Ms = 5_000;

/// A copy that is under way.
#[derive(Debug)]
pub(super) struct Copying {
    job: VolumeJob,
    /// Both hosts with the streams over which the copy goes, and what is sent; `None` if that could not begin.
    way: Option<(End, End, u64)>,
}

/// A host at one end of a copy, and its stream.
type End = (usize, u64);

impl World {
    /// Operators move an instance with its volumes, or call that off.
    pub(super) fn move_volumes(&mut self, pick: u8, to: Option<NodeName>, how: MoveHow) {
        let model = self.controller.model.iter();
        let shown = model.flat_map(|model| model.instances(&InstanceFilter::default()));
        let is_meant = shown.filter(|view| {
            let is = &view.instance;
            match how {
                MoveHow::Abort => is.volume_move.is_some(),
                _ => is.wanted.template.volumes().next().is_some(),
            }
        });
        let all: Vec<InstanceName> = is_meant.map(|view| view.instance.name.clone()).collect();
        let Some(name) = all.get(usize::from(pick) % all.len().max(1)).cloned() else { return };
        let order = Command::MoveInstances {
            instances: vec![name.clone()],
            to,
            new_address: false,
            how,
            dry_run: false,
        };
        let done = self.command(order);
        self.note(|| format!("operator: {name}: {how:?}: {done:?}"));
    }

    /// The controller copies what is to be copied.
    pub(super) fn copy_volumes(&mut self) {
        let Some(model) = &self.controller.model else { return };
        let jobs = model.volume_moves();
        self.copying.retain(|of, _| jobs.iter().any(|job| id(job) == *of));
        for job in jobs {
            if self.copying.contains_key(&id(&job)) {
                continue;
            }
            let (of, way) = (id(&job), self.begin_copy(&job));
            let took = match self.rng.u8(..8) {
                0 => self.rng.u64(10_000..90_000),
                _ => self.rng.u64(100..4_000),
            };
            let (way, refused) = match way {
                Ok(way) => (Some(way), None),
                Err(news) => (None, Some(news)),
            };
            self.note(|| format!("controller: copies {of:?} by {way:?}: {refused:?}"));
            self.copying.insert(of.clone(), Copying { job, way });
            let controller_life = self.controller.life;
            match refused {
                Some(news) => self.copy_ends(of, news),
                None => self.schedule.at(self.now + took, Event::Copied { of, controller_life }),
            }
        }
    }

    /// The host that speaks for a node, and can copy.
    fn end_of(&self, node: &NodeName) -> Option<End> {
        let sessions = self.controller.sessions.iter();
        let mut streams = sessions.filter(|(_, session)| session.node == *node);
        let stream = *streams.next()?.0;
        let host = self.streams.get(&stream)?.host;
        let one = self.hosts.get(host)?;
        let is_there = one.on && one.agent.is_some() && one.stream == Some(stream);
        let is_reached = !one.link.up_cut && !one.link.down_cut && one.engine.mode == Mode::Up;
        (is_there && is_reached).then_some((host, stream))
    }

    fn begin_copy(&mut self, job: &VolumeJob) -> Result<(End, End, u64), VolumeMoveNews> {
        let unheard = || VolumeMoveNews::Interrupted("an end is not reached".to_owned());
        let failed = |why: &str| VolumeMoveNews::Failed(why.to_owned());
        let from = self.end_of(&job.from).ok_or_else(unheard)?;
        let to = self.end_of(&job.to).ok_or_else(unheard)?;
        let name = &job.instance;
        if job.volumes.is_empty() {
            return Ok((from, to, 0));
        }
        let content = self.hosts[from.0].volumes.get(name).copied();
        let content = content.ok_or_else(|| failed("there is no such volume"))?;
        let target = &mut self.hosts[to.0];
        if target.volumes.contains_key(name) {
            let is_of_move = target.moved_in.get(name) == Some(&job.of_move);
            return match is_of_move && job.is_final {
                true => Ok((from, to, content)),
                false => Err(failed("there is a volume already")),
            };
        }
        if target.disk.full {
            return Err(failed("there is no room"));
        }
        let copy = target.copies.entry(name.clone()).or_insert((job.of_move, 0));
        if copy.0 != job.of_move {
            *copy = (job.of_move, 0);
        }
        Ok((from, to, content))
    }

    /// A copy comes to its end, if both hosts are there still.
    pub(super) fn copied(&mut self, of: CopyId, controller_life: u64) {
        if controller_life != self.controller.life || self.controller.model.is_none() {
            return;
        }
        let Some(Copying { job, way: Some((from, to, content)) }) = self.copying.get(&of) else {
            return;
        };
        let (job, from, to, content) = (job.clone(), *from, *to, *content);
        if self.end_of(&job.from) != Some(from) || self.end_of(&job.to) != Some(to) {
            let news = VolumeMoveNews::Interrupted("an end is gone".to_owned());
            return self.copy_ends(of, news);
        }
        let name = &job.instance;
        let target = &mut self.hosts[to.0];
        let copy = target.copies.get_mut(name).filter(|copy| copy.0 == job.of_move);
        let is_moved_in = target.moved_in.get(name) == Some(&job.of_move);
        let news = match copy {
            _ if job.volumes.is_empty() && job.is_final => VolumeMoveNews::Adopted,
            _ if job.volumes.is_empty() => VolumeMoveNews::Copied,
            None if is_moved_in && job.is_final => VolumeMoveNews::Adopted,
            None => VolumeMoveNews::Failed("there is no such copy".to_owned()),
            Some(copy) => {
                copy.1 = content;
                if job.is_final {
                    target.copies.remove(name);
                    target.volumes.insert(name.clone(), content);
                    target.moved_in.insert(name.clone(), job.of_move);
                    VolumeMoveNews::Adopted
                } else {
                    VolumeMoveNews::Copied
                }
            }
        };
        // What was done need not be heard.
        let news = match self.rng.u8(..8) {
            0 => VolumeMoveNews::Interrupted("no answer".to_owned()),
            _ => news,
        };
        self.copy_ends(of, news);
    }

    fn copy_ends(&mut self, of: CopyId, news: VolumeMoveNews) {
        self.note(|| format!("controller: hears of {of:?}: {news:?}"));
        let (instance, of_move, _) = of.clone();
        let controller_life = self.controller.life;
        drop(self.command(Command::NoteVolumeMove { instance, of_move, news }));
        self.schedule.at(self.now + PAUSE_MS, Event::CopyOver { of, controller_life });
    }

    /// A main process has written to its volume until its end.
    pub(super) fn write_last(&mut self, host: usize, name: &InstanceName) {
        if let Some(content) = self.hosts[host].volumes.get_mut(name)
            && let Some(newest) = self.truth.volumes.get_mut(name)
            && *newest == (host, *content)
        {
            *content += 1;
            newest.1 += 1;
        }
    }

    /// What commits say of moves: which of them hold, and which do not.
    pub(super) fn note_moves(&mut self, changes: &[Change]) {
        for change in changes {
            let (Some(Record::Instance(old)), Some(Record::Instance(new))) =
                (&change.old, &change.new)
            else {
                continue;
            };
            let Some(before) = old.volume_move.as_deref() else { continue };
            match new.volume_move.as_deref() {
                Some(moving) if moving.phase == VolumeMovePhase::Returning => {
                    if let Some(left) = self.truth.left.get_mut(&new.name) {
                        left.returns = true;
                    }
                }
                None if before.phase == VolumeMovePhase::Trying
                    && new.node.as_ref() == Some(&before.to)
                    && (new.leaving.is_none() || new.rests()) =>
                {
                    self.truth.left.remove(&new.name);
                }
                _ => {}
            }
        }
    }

    /// Somebody removes a volume from the engine that no container has.
    pub(super) fn lose_volume(&mut self, host: usize, pick: u8) {
        let one = &self.hosts[host];
        if one.engine.mode != Mode::Up {
            return;
        }
        let free: Vec<InstanceName> =
            one.volumes.keys().filter(|name| !one.mounts_volume(name)).cloned().collect();
        let Some(name) = free.get(usize::from(pick) % free.len().max(1)) else { return };
        self.note(|| format!("host {host}: somebody removes the volume of {name}"));
        let one = &mut self.hosts[host];
        one.volumes.remove(name);
        one.moved_in.remove(name);
        // A restored controller may never have known of it, and takes what there is.
        if self.controller.model.as_ref().is_none_or(Model::is_unconfirmed) {
            self.forget_what_is_gone();
        }
    }

    /// A restored controller knows of no data that is on no node any more.
    pub(super) fn forget_what_is_gone(&mut self) {
        let hosts = &self.hosts;
        self.truth.volumes.retain(|name, (host, _)| hosts[*host].volumes.contains_key(name));
    }

    /// The controller is restored from a backup: how far moves were is forgotten.
    pub(super) fn forget_moves(&mut self) {
        self.truth.left.values_mut().for_each(|left| left.returns = true);
        self.forget_what_is_gone();
    }

    /// A controller starts: what came of moves without an answer is known now.
    pub(super) fn recall_moves(&mut self) {
        let Some(model) = &self.controller.model else { return };
        for (name, left) in &mut self.truth.left {
            let view = model.instance(name);
            let moving = view.as_ref().and_then(|view| view.instance.volume_move.as_deref());
            left.returns |= moving.is_none_or(|moving| moving.phase == VolumeMovePhase::Returning);
        }
    }

    /// An agent deletes what it is to delete, and tells which volumes there are.
    pub(super) fn keep_volumes(&mut self, host: usize) {
        for name in self.hosts[host].volumes_to_delete() {
            self.note(|| format!("host {host}: deletes the volume of {name}"));
            self.check_deletion(host, &name);
            let one = &mut self.hosts[host];
            one.volumes.remove(&name);
            one.copies.remove(&name);
            one.moved_in.remove(&name);
        }
        let one = &self.hosts[host];
        let under = one.agent.as_ref().and_then(Agent::looks_under);
        let Some(seen) = under.zip(one.seen_volumes()) else { return };
        let Some(stream) = one.stream.filter(|_| one.told_volumes.as_ref() != Some(&seen)) else {
            return;
        };
        self.hosts[host].told_volumes = Some(seen.clone());
        let (seen_under, volumes) = (seen.0, Some(seen.1));
        let report = StatusReport { seen_under, volumes, ..StatusReport::default() };
        self.send(stream, true, Event::Up { stream, message: Up::Report(report) });
    }

    /// What is deleted is neither the newest there is, nor what its instance may come back to.
    fn check_deletion(&mut self, host: usize, name: &InstanceName) {
        let one = &self.hosts[host];
        if !one.volumes.contains_key(name) || one.excused || one.copy || one.vouched_dead {
            return;
        }
        let is_newest = self.truth.volumes.get(name).is_some_and(|(on, _)| *on == host);
        let left = self.truth.left.get(name).filter(|left| left.host == host);
        let is_left = left.is_some_and(|left| !left.returns);
        if is_newest || is_left {
            let what = format!(
                "host {host} deletes the volume of {name}; the newest is {:?}, and it may come back to {:?}",
                self.truth.volumes.get(name),
                self.truth.left.get(name)
            );
            self.violate(Violation { rule: "no data deleted", what });
        }
    }

    /// No volume moves, and no copy is left.
    pub(super) fn volumes_at_rest(&self) -> Result<(), String> {
        let model = self.controller.model.as_ref().ok_or("there is no controller")?;
        let shown = model.instances(&InstanceFilter::default());
        if let Some(view) = shown.iter().find(|view| view.instance.volume_move.is_some()) {
            return Err(format!("{} still moves: {}", view.instance.name, view.status.message));
        }
        let volumes = model.volumes(None, None);
        let mut states = volumes.iter().map(|view| &view.volume);
        let is_over = |state| matches!(state, VolumeState::Copy | VolumeState::Deleting { .. });
        if let Some(left) = states.find(|volume| is_over(volume.state)) {
            return Err(format!("volume {:?} is still {:?}", left.key, left.state));
        }
        for host in 0..self.hosts.len() {
            let one = &self.hosts[host];
            let is_member = self.standing(host) == Standing::Member && !one.retired;
            if let Some(name) = one.copies.keys().next().filter(|_| is_member) {
                return Err(format!("host {host} has a left-over copy of the volume of {name}"));
            }
        }
        Ok(())
    }
}

fn id(job: &VolumeJob) -> CopyId {
    (job.instance.clone(), job.of_move, job.is_final)
}
