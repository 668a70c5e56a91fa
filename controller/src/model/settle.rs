//! What is looked at again after a change: what waits for a place, and what waits for its turn.
//!
//! A command notes in the [`Agenda`] what got better by it: a node with more room, a workload declared
//! otherwise, a turn that ended. When the command is done, only what could profit from that is looked at.
//!
//! Instances that want the same of a node have one [`Demand`]. The scheduler is asked once for all of
//! them, and its answer "no node fits" is kept as an object of the model ([`Unmet`]) until a node that
//! changed would take one of them, or the workload is declared otherwise. Those that wait for it are in
//! none of the lists that are walked (`open` and `due` of the index), however many there are.
//!
//! ```text
//!   agenda ─▶ demands worth asking again ─▶ ┌─▶ place, give turns ──▶ asked ──▶ solve ─┐
//!                                           └────────── places, or unmet ◀─────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::Bound;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, WorkloadName};

use super::Model;
use super::object::{Demand, Instance, Link, Unmet, UpdateState, WaitingCause};
use super::placement::unfit;
use super::record::{Key, Record};
use super::volume_moves::VolumeMove;

/// How often one command asks the scheduler at most. What is left waits for the next command, at the
/// latest a tick: each round either gives a place or a turn, or learns that a demand is unmet.
const ROUNDS_MAX: usize = 8;
/// How many reasons one tick brings up to date at most.
const REFRESHED_MAX: usize = 16;

/// What got better since things were settled last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Agenda {
    /// Everything is to be looked at: after a start, or after changes were taken back.
    pub(super) everything: bool,
    /// Something without a node may get one.
    pub(super) unplaced: bool,
    /// Nodes that may take what they did not take before.
    pub(super) nodes: BTreeSet<NodeName>,
    /// Workloads that are declared otherwise.
    declared: BTreeSet<WorkloadName>,
    /// Workloads of which another instance may get its turn.
    rolls: BTreeSet<WorkloadName>,
    /// Demands that a node was found for.
    demands: BTreeSet<Demand>,
}

/// What is asked of the scheduler while things settle, and what it answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Placing {
    /// How many have each demand.
    asked: BTreeMap<Demand, usize>,
    /// The nodes for them, the best last.
    found: BTreeMap<Demand, Vec<NodeName>>,
}

/// Where an instance can go.
pub(super) enum Destination {
    /// To this node.
    Node(NodeName),
    /// Nowhere; why is noted.
    Nowhere,
    /// The scheduler is being asked.
    Asked,
}

/// How much was done, for tests that count work instead of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// How often the scheduler was asked.
    pub(super) solves: u64,
    /// How many instances were looked at for a place or a turn.
    pub(super) looks: u64,
}

impl Agenda {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Notes what a change makes better.
    pub(super) fn note(&mut self, old: Option<&Record>, new: Option<&Record>) {
        match (old, new) {
            (_, Some(Record::Node(node))) => {
                self.nodes.insert(node.name.clone());
            }
            (old, Some(Record::Link(new))) => {
                let old = match old {
                    Some(Record::Link(old)) => Some(old.as_ref()),
                    _ => None,
                };
                if old.is_none_or(|old| offers_otherwise(old, new)) {
                    self.nodes.insert(new.node.clone());
                }
            }
            (old, Some(Record::Workload(new))) => match old {
                Some(Record::Workload(old)) if old.spec == new.spec && old.paused == new.paused => {
                }
                _ => {
                    self.declared.insert(new.spec.name.clone());
                }
            },
            (Some(Record::Instance(old)), new) => {
                let new = match new {
                    Some(Record::Instance(new)) => Some(new.as_ref()),
                    _ => None,
                };
                self.note_instance(old, new);
            }
            (None, Some(Record::Instance(new))) => self.unplaced |= new.node.is_none(),
            (_, Some(Record::Volume(volume))) | (Some(Record::Volume(volume)), None) => {
                // Its instance may be free to go elsewhere, or to come back.
                self.unplaced = true;
                self.rolls.insert(volume.key.instance.workload().clone());
            }
            _ => {}
        }
    }

    /// Notes that another instance of a workload may get its turn.
    pub(super) fn go_on(&mut self, workload: &WorkloadName) {
        self.rolls.insert(workload.clone());
    }

    fn note_instance(&mut self, old: &Instance, new: Option<&Instance>) {
        let places = |instance: &Instance| {
            let to = instance.leaving.as_ref().and_then(|leaving| leaving.to.clone());
            let kept = instance.volume_move.as_deref().and_then(VolumeMove::keeps_room_on);
            [instance.node.clone(), to, kept.cloned()]
        };
        let kept = new.map(places).unwrap_or_default();
        let smaller = new.is_none_or(|new| new.promised() != old.promised());
        for place in places(old) {
            if let Some(node) = place.clone()
                && (smaller || !kept.contains(&place))
            {
                self.nodes.insert(node);
            }
        }
        self.unplaced |= new.is_some_and(|new| new.node.is_none());
        let stands = |new: &Instance| {
            (new.update, &new.leaving, &new.evacuated) == (old.update, &old.leaving, &old.evacuated)
                // Nothing has its turn on a node that is not heard of: where it goes it may.
                && (new.node == old.node || new.node.is_none())
        };
        if !new.is_some_and(stands) {
            self.rolls.insert(old.name.workload().clone());
        }
    }
}

/// Whether a node may take something else than before.
fn offers_otherwise(old: &Link, new: &Link) -> bool {
    let offer = |link: &Link| {
        link.capacity.as_ref().map(|has| (has.for_instances(), has.arch.clone(), unfit(has)))
    };
    old.state != new.state
        || (old.carries, old.skills) != (new.carries, new.skills)
        || offer(old) != offer(new)
}

impl Model {
    /// Places what waits for a place, and goes on with what waits for its turn, if something changed
    /// that could let it. If this itself frees room, the next command (at the latest a tick) uses it.
    pub(super) fn settle(&mut self, now: Timestamp) {
        // A restored controller places and changes nothing before an operator has confirmed what it knows.
        if self.agenda.is_empty() || self.volatile_only || self.is_unconfirmed() {
            return;
        }
        let agenda = mem::take(&mut self.agenda);
        self.follow_nodes(&agenda, now);
        let mut rolls = self.reopen(&agenda);
        rolls.extend(self.worth_a_turn(&agenda));
        let again = self.worth_another_look(&agenda);
        self.placing = Placing::default();
        self.give_turns();
        let mut open = self.tables.index().open.clone();
        for _ in 0..ROUNDS_MAX {
            open = self.place_open(open, now);
            for workload in &rolls {
                self.roll(workload, &again, now);
            }
            if !self.answer() {
                return;
            }
        }
        self.agenda.unplaced = true;
        self.agenda.rolls.extend(rolls);
    }

    /// Forgets which demands are unmet that may be met now, and returns whose they are.
    fn reopen(&mut self, agenda: &Agenda) -> BTreeSet<WorkloadName> {
        let unmet: Vec<Demand> = self.tables.unmet().keys().cloned().collect();
        let mut reopened = BTreeSet::new();
        for demand in unmet {
            let may_be_met = agenda.everything
                || agenda.declared.contains(&demand.workload)
                || agenda.demands.contains(&demand)
                || agenda.nodes.iter().any(|node| self.refuses(node, &demand).is_none());
            if may_be_met {
                reopened.insert(demand.workload.clone());
                self.delete(Key::Unmet(demand));
            }
        }
        reopened
    }

    /// Instances that fit nowhere else, but whom the node that they are on may suit again.
    fn worth_another_look(&self, agenda: &Agenda) -> BTreeSet<InstanceName> {
        let occupancy = &self.tables.index().occupancy;
        let there = agenda.nodes.iter().filter_map(|node| occupancy.get(node));
        let names = there.flat_map(|there| &there.instances);
        let waits = |name: &&InstanceName| {
            let waiting = self.tables.waiting().get(name);
            waiting.is_some_and(|waiting| waiting.demand().is_some())
        };
        names.filter(waits).cloned().collect()
    }

    /// Workloads of which an instance may get its turn.
    fn worth_a_turn(&self, agenda: &Agenda) -> BTreeSet<WorkloadName> {
        let index = self.tables.index();
        let mut rolls: BTreeSet<WorkloadName> =
            agenda.rolls.union(&agenda.declared).cloned().collect();
        for node in &agenda.nodes {
            let there = index.occupancy.get(node);
            let names = there.into_iter().flat_map(|there| &there.instances);
            rolls.extend(names.map(|name| name.workload().clone()));
        }
        if agenda.everything {
            rolls.extend(index.due.keys().cloned());
        }
        rolls
    }

    /// Places what has no node, as far as there is room. Returns those that wait for an answer.
    fn place_open(
        &mut self,
        names: BTreeSet<InstanceName>,
        now: Timestamp,
    ) -> BTreeSet<InstanceName> {
        let mut asked = BTreeSet::new();
        let mut asked_of: BTreeMap<WorkloadName, usize> = BTreeMap::new();
        for name in names {
            let Some(instance) = self.tables.instances().get(&name).cloned() else { continue };
            let Some(workload) = self.tables.workloads().get(name.workload()).cloned() else {
                continue;
            };
            self.work.looks += 1;
            let of_it = asked_of.get(name.workload()).copied().unwrap_or_default();
            if self.waits_for_turn(&workload, &name, of_it) {
                continue;
            }
            if !self.ensure_address(&name, now) || self.place_by_volumes(&name, now) {
                continue;
            }
            // It may have got its address just now.
            let instance = self.tables.instances().get(&name).cloned().unwrap_or(instance);
            match self.destination(&self.demand(&workload, &instance), &name) {
                Destination::Node(node) => self.place(&name, &node, now),
                Destination::Nowhere => {}
                Destination::Asked => {
                    *asked_of.entry(name.workload().clone()).or_default() += 1;
                    asked.insert(name);
                }
            }
        }
        asked
    }

    /// The next instance that is due, in order: of those that wait for their turn, and of those that
    /// are worth another look.
    pub(super) fn next_due(
        &self,
        workload: &WorkloadName,
        after: Option<&InstanceName>,
        again: &BTreeSet<InstanceName>,
    ) -> Option<InstanceName> {
        let first = InstanceName::new(workload.clone(), 0);
        let from = after.map_or(Bound::Included(&first), Bound::Excluded);
        let due = self.tables.index().due.get(workload);
        let due = due.and_then(|due| due.range((from, Bound::Unbounded)).next());
        let is_due = |name: &&InstanceName| {
            let instance = self.tables.instances().get(name);
            instance.is_some_and(|instance| instance.update == UpdateState::Due)
        };
        let again = again.range((from, Bound::Unbounded));
        let again = again.take_while(|name| name.workload() == workload).find(is_due);
        due.into_iter().chain(again).min().cloned()
    }

    /// Where an instance can go that has a demand.
    pub(super) fn destination(&mut self, demand: &Demand, name: &InstanceName) -> Destination {
        while let Some(node) = self.placing.found.get_mut(demand).and_then(Vec::pop) {
            // Something else may have grown there meanwhile.
            if self.refuses(&node, demand).is_none() {
                return Destination::Node(node);
            }
        }
        if self.tables.unmet().contains_key(demand) {
            self.wait(name, WaitingCause::Unplaced(demand.clone()));
            return Destination::Nowhere;
        }
        *self.placing.asked.entry(demand.clone()).or_default() += 1;
        Destination::Asked
    }

    /// Has the scheduler answer what was asked; returns whether anything was.
    fn answer(&mut self) -> bool {
        let asked = mem::take(&mut self.placing.asked);
        if asked.is_empty() {
            return false;
        }
        self.work.solves += 1;
        for (demand, mut nodes, reason) in self.solve(&asked, None) {
            nodes.reverse();
            if let Some(reason) = reason {
                self.put(Record::Unmet(Unmet::of(demand.clone(), reason)));
            }
            self.placing.found.insert(demand, nodes);
        }
        true
    }

    /// Brings some of the reasons why nothing fits up to date, if anything changed: they name nodes
    /// and numbers.
    pub(super) fn refresh_reasons(&mut self) {
        if self.refreshed.0 == self.revision || self.volatile_only {
            return;
        }
        let from = self.refreshed.1.take().map_or(Bound::Unbounded, Bound::Excluded);
        let unmet = self.tables.unmet().range((from, Bound::Unbounded)).take(REFRESHED_MAX);
        let asked: BTreeMap<Demand, usize> = unmet.map(|(demand, _)| (demand.clone(), 1)).collect();
        if !asked.is_empty() {
            self.work.solves += 1;
        }
        for (demand, _, reason) in self.solve(&asked, None) {
            match reason {
                None => drop(self.agenda.demands.insert(demand)),
                Some(reason) => {
                    let known = self.tables.unmet().get(&demand);
                    if known.is_none_or(|known| known.reason != reason) {
                        self.put(Record::Unmet(Unmet::of(demand, reason)));
                    }
                }
            }
        }
        if asked.len() == REFRESHED_MAX {
            self.refreshed.1 = asked.into_keys().next_back();
        } else {
            self.refreshed.0 = self.revision;
        }
    }
}
