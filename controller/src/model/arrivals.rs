//! Instances that are to go to another node, which has their image before they leave theirs.
//!
//! ```text
//!   to leave ──▶ heading: room is kept there, and the image fetched ──it is there──▶ leaves, in its turn
//!                   │
//!                   ├── the node takes nothing any more, or it need not leave: it stays, or heads for another
//!                   └── the node cannot have the image, and another one fits: it heads for that, and the first is avoided for a while
//! ```
//!
//! So an instance is down for as long as it takes to stop and to start, however large its image is, and stays where it works if a
//! node cannot get the image. Fetching is somebody else's: [`Model::arrivals`] says what is to be fetched, and
//! [`Command::NoteArrival`](super::Command) what came of it. What cannot be fetched is tried again; meanwhile the instance waits, and says for what.
//!
//! What does not run waits for no image: it leaves at once. What goes with its volumes has [phases of its
//! own](super::volume_moves), in the first of which the image is fetched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, Revision, WorkloadName};
use dwell_core::image;
use dwell_core::instance::{REASON_MAX, RunState, sanitize};
use dwell_core::workload::Resources;
use serde::{Deserialize, Serialize};

use super::Model;
use super::object::{Demand, Instance, Severity, Subject, UpdateState, Workload};
use super::record::Record;
use super::versions::Form;

/// How often an image cannot be fetched before another node is looked for.
const TRIES_MAX: u32 = 4;
/// For how long a node is avoided that could not have the image of a workload.
const AVOIDED_FOR: Duration = Duration::from_secs(300);

/// Where an instance is to go once its image is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heading {
    /// Which node.
    pub to: NodeName,
    /// The revision at which it was sent there: tells this from an earlier order.
    pub since: Revision,
    /// The images that are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub there: Vec<String>,
    /// What is kept for it there beside its share: as much as it is to become.
    #[serde(default)]
    pub room: Resources,
    /// Somebody chose it to go; else it goes because it has to leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<MoveOrder>,
}

/// What an operator asked for beside another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveOrder {
    /// It gives up its address.
    pub new_address: bool,
    /// Who asked.
    pub by: String,
    /// They did not say where, so another node will do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anywhere: bool,
}

/// What is known of the fetches for an instance. Volatile.
#[derive(Clone, Debug, Default)]
pub(super) struct Fetches {
    /// The newest of them.
    news: Option<ArrivalNews>,
    /// How often in a row it could not be had.
    failed: u32,
}

/// Until when nodes are avoided that could not have the image of a workload, by the steady clock. Volatile.
pub(super) type Avoided = BTreeMap<WorkloadName, BTreeMap<NodeName, Timestamp>>;

/// What a node is to have before an instance comes there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arrival {
    /// Which instance.
    pub instance: InstanceName,
    /// Which [`Heading`].
    pub since: Revision,
    /// Where it goes.
    pub to: NodeName,
    /// What is to be there and is not known to be, by reference.
    pub image: String,
}

/// What came of fetching an image for an arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArrivalNews {
    /// It is there, or its node cannot be asked for that and fetches it when it needs it.
    There,
    /// It is under way, which is told for people.
    Progress(String),
    /// It could not be fetched, which is told for people; it is tried again.
    Cannot(String),
}

impl Model {
    /// What is to be fetched now.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        if self.is_unconfirmed() {
            return Vec::new();
        }
        let heading = self.tables.index().headings.values().flatten();
        let instances = heading.filter_map(|name| self.tables.instances().get(name));
        instances.filter_map(|instance| self.arrival(instance)).collect()
    }

    fn arrival(&self, instance: &Instance) -> Option<Arrival> {
        let heading = instance.heading.as_deref()?;
        let image = self.missing_there(instance, heading)?;
        Some(Arrival {
            instance: instance.name.clone(),
            since: heading.since,
            to: heading.to.clone(),
            image,
        })
    }

    /// An image of those that an instance comes with which is not known to be where it goes.
    fn missing_there(&self, instance: &Instance, heading: &Heading) -> Option<String> {
        let own = self.own_image(instance);
        let next = self.newest(instance.name.workload()).filter(|newest| {
            let workload = self.tables.workloads().get(&newest.workload);
            // What an operator sends goes as what it is.
            heading.order.is_none()
                && workload.is_some_and(|workload| {
                    workload.paused.is_none() && self.needs_version(workload, instance)
                })
        });
        let next = next.map(|newest| self.image_as(instance, &newest.form));
        [Some(own), next].into_iter().flatten().find(|image| !heading.there.contains(image))
    }

    /// The reference that an instance is made from as what it is.
    pub(super) fn own_image(&self, instance: &Instance) -> String {
        self.image_as(instance, &instance.wanted)
    }

    /// The reference that an instance is made from as what a version says.
    pub(super) fn image_as(&self, instance: &Instance, form: &Form) -> String {
        let kept = instance.root.kept_image(&form.template).map(|born| &born.image);
        let image = kept.unwrap_or(&form.template.image);
        image::pinned(image, self.meant(instance, form)).into_owned()
    }

    /// Has a node keep room for an instance and fetch its image before it goes there; `false` if it may go at once.
    pub(super) fn head_for(
        &mut self,
        instance: &Instance,
        to: &NodeName,
        order: Option<MoveOrder>,
        now: Timestamp,
    ) -> bool {
        if !self.can_wait(instance) {
            return false;
        }
        let message = format!("goes to {to} as soon as that has its image");
        let subject = Subject::Instance(instance.name.clone());
        self.event(now, Severity::Info, subject, "instance-heading", message);
        let room = self.room_to_come(instance, order.is_some());
        self.arrival_news.remove(&instance.name);
        let mut next = instance.clone();
        let to = to.clone();
        self.put_with(|since| {
            next.heading = Some(Box::new(Heading { to, since, there: Vec::new(), room, order }));
            next.revision = since;
            Record::Instance(Arc::new(next))
        });
        true
    }

    /// Whether an instance runs on where it is while something is prepared elsewhere.
    fn can_wait(&self, instance: &Instance) -> bool {
        instance.run == RunState::Running
            && !instance.rests()
            && !instance.removing
            && !instance.is_let_go()
            && instance.leaving.is_none()
            && instance.volume_move.is_none()
            && instance.node.as_ref().is_some_and(|node| self.is_ready(node))
    }

    /// Where an instance goes that heads for a node which may have it, and whether all that it comes with is there.
    pub(super) fn heads_for<'a>(
        &self,
        workload: &Workload,
        instance: &'a Instance,
    ) -> Option<(&'a NodeName, bool)> {
        let heading = instance.heading.as_deref()?;
        let node = self.tables.nodes().get(&heading.to).filter(|node| !node.removed)?;
        let is_open = self.allows(node, &workload.spec.placement)? == (true, true);
        let is_elsewhere = instance.node.as_ref() != Some(&heading.to);
        let fits = self.fits_there(instance, heading);
        let may_go = fits
            && is_open
            && is_elsewhere
            && self.is_ready(&heading.to)
            && self.can_wait(instance);
        may_go.then(|| (&heading.to, self.missing_there(instance, heading).is_none()))
    }

    /// What an instance needs where it goes: what it is to become, or what it is if somebody has chosen it to go.
    fn room_to_come(&self, instance: &Instance, is_chosen: bool) -> Resources {
        let workload = self.tables.workloads().get(instance.name.workload());
        match workload.filter(|_| !is_chosen) {
            Some(workload) => {
                let Demand { cpu, memory, .. } = self.demand(workload, instance);
                Resources { cpu, memory }
            }
            None => instance.share(),
        }
    }

    /// Whether there is room for what an instance has come to need since it began to head for a node.
    fn fits_there(&self, instance: &Instance, heading: &Heading) -> bool {
        let (needs, kept) =
            (self.room_to_come(instance, heading.order.is_some()), instance.share_there());
        let more = needs.minus(kept);
        let free = self.room(&heading.to).map(|(promised, has)| has.minus(promised));
        more.is_zero() || free.is_some_and(|free| more.fits(free))
    }

    /// Takes in what came of fetching an image, unless it was for another order.
    pub(super) fn note_arrival(&mut self, arrival: &Arrival, news: ArrivalNews, now: Timestamp) {
        let name = &arrival.instance;
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        let Some(heading) = instance.heading.as_deref().filter(|it| it.since == arrival.since)
        else {
            return;
        };
        let news = match news {
            ArrivalNews::There => {
                self.avoid_no_more(name.workload(), &heading.to);
                let mut heading = heading.clone();
                heading.there.push(arrival.image.clone());
                let heading = Some(Box::new(heading));
                self.arrival_news.remove(name);
                self.put_instance(Instance { heading, ..Instance::clone(&instance) });
                return self.go_on_heading(name, now);
            }
            ArrivalNews::Progress(text) => ArrivalNews::Progress(sanitize(&text, REASON_MAX)),
            ArrivalNews::Cannot(reason) => ArrivalNews::Cannot(sanitize(&reason, REASON_MAX)),
        };
        let fetches = self.arrival_news.entry(name.clone()).or_default();
        fetches.failed += u32::from(matches!(news, ArrivalNews::Cannot(_)));
        let failed = fetches.failed;
        if fetches.news.as_ref() != Some(&news) {
            fetches.news = Some(news.clone());
            self.show_again(name);
        }
        if let ArrivalNews::Cannot(reason) = news
            && failed >= TRIES_MAX
        {
            self.head_elsewhere(&instance, heading, &reason, now);
        }
    }

    /// The node for which an instance heads cannot have its image: another one that fits is tried, and that one avoided for a while.
    /// If there is none, or somebody named the node, it goes on to wait.
    fn head_elsewhere(
        &mut self,
        instance: &Instance,
        heading: &Heading,
        reason: &str,
        now: Timestamp,
    ) {
        if heading.order.as_ref().is_some_and(|order| !order.anywhere) {
            return;
        }
        let name = &instance.name;
        let Some(workload) = self.tables.workloads().get(name.workload()).cloned() else { return };
        let known = self.avoided.get(name.workload()).cloned();
        let until = self.clock.steady.after(AVOIDED_FOR);
        let avoided = self.avoided.entry(name.workload().clone()).or_default();
        avoided.insert(heading.to.clone(), until);
        let asked = BTreeMap::from([(self.demand(&workload, instance), 1)]);
        let answer = self.solve(&asked, instance.node.as_ref()).into_iter().next();
        let Some(other) = answer.and_then(|(_, nodes, _)| nodes.into_iter().next()) else {
            // Nowhere else would it be better off, nor would others.
            match known {
                Some(known) => self.avoided.insert(name.workload().clone(), known),
                None => self.avoided.remove(name.workload()),
            };
            return;
        };
        let message = format!("{} cannot have its image: {reason}", heading.to);
        let subject = Subject::Instance(name.clone());
        self.event(now, Severity::Warning, subject, "instance-heads-elsewhere", message);
        self.head_for(instance, &other, heading.order.clone(), now);
    }

    /// The nodes that could not have the image of a workload a short while ago.
    pub(super) fn avoided_by(&self, workload: &WorkloadName) -> Vec<&NodeName> {
        self.avoided.get(workload).into_iter().flat_map(BTreeMap::keys).collect()
    }

    fn avoid_no_more(&mut self, workload: &WorkloadName, node: &NodeName) {
        if let Some(avoided) = self.avoided.get_mut(workload) {
            avoided.remove(node);
            if avoided.is_empty() {
                self.avoided.remove(workload);
            }
        }
    }

    /// Time has passed: what could not be had may be there now, which whoever waits for a node tries.
    fn end_avoidance(&mut self) {
        let steady = self.clock.steady;
        for avoided in self.avoided.values_mut() {
            let over = avoided.extract_if(.., |_, until| *until <= steady);
            self.agenda.nodes.extend(over.map(|(node, _)| node));
        }
        self.avoided.retain(|workload, avoided| {
            !avoided.is_empty() && self.tables.workloads().contains_key(workload)
        });
    }

    /// Something is where an instance goes: it leaves, if it was chosen to and that is all; else its turn may have come.
    fn go_on_heading(&mut self, name: &InstanceName, now: Timestamp) {
        self.agenda.go_on(name.workload());
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        let Some(workload) = self.tables.workloads().get(name.workload()).cloned() else { return };
        let order = instance.heading.as_ref().and_then(|heading| heading.order.clone());
        if let (Some(order), Some((to, true))) = (order, self.heads_for(&workload, &instance)) {
            self.send_by_order(&instance, to.clone(), order, now);
        }
    }

    /// Sends an instance that somebody chose to a node, as what it is.
    pub(super) fn send_by_order(
        &mut self,
        instance: &Instance,
        to: NodeName,
        order: MoveOrder,
        now: Timestamp,
    ) {
        let mut next = instance.clone();
        next.generation = self.next_generation(instance);
        next.update = UpdateState::Updating;
        next.evacuated = None;
        next.new_address = order.new_address;
        let by = std::mem::replace(&mut self.by, order.by);
        self.send(next, to, now);
        self.by = by;
    }

    /// Has those stay who need not leave any more, or not for where they were to go.
    pub(super) fn end_headings(&mut self, now: Timestamp) {
        self.end_avoidance();
        let heading: Vec<InstanceName> =
            self.tables.index().headings.values().flatten().cloned().collect();
        self.arrival_news.retain(|name, _| heading.contains(name));
        for name in heading {
            let Some(instance) = self.tables.instances().get(&name).cloned() else { continue };
            let workload = self.tables.workloads().get(name.workload()).cloned();
            let Some((workload, heading)) = workload.zip(instance.heading.as_deref()) else {
                continue;
            };
            let has_to = heading.order.is_some() || self.needs_to_leave(&workload, &instance);
            let nodes = [instance.node.as_ref(), Some(&heading.to)];
            let mut silent = nodes.into_iter().flatten().filter(|node| !self.is_ready(node));
            let may_return = silent.any(|node| self.may_be_heard_again(node));
            if has_to && (may_return || self.heads_for(&workload, &instance).is_some()) {
                continue;
            }
            if instance.node.is_some() && heading.order.is_some() {
                let message = format!("does not go to {}, which may not have it now", heading.to);
                let subject = Subject::Instance(name.clone());
                self.event(now, Severity::Warning, subject, "instance-stays", message);
            }
            self.put_instance(Instance { heading: None, ..Instance::clone(&instance) });
            self.agenda.go_on(name.workload());
        }
    }

    /// What an instance waits for that heads for another node, for people.
    pub(super) fn heading_in_words(&self, instance: &Instance) -> Option<String> {
        let heading = instance.heading.as_deref().filter(|_| instance.leaving.is_none())?;
        let to = &heading.to;
        let Some(image) = self.missing_there(instance, heading) else {
            return Some(format!("goes to {to} when it is its turn"));
        };
        let before = match &self.avoided_by(instance.name.workload())[..] {
            [] => String::new(),
            nodes => {
                let nodes: Vec<&str> = nodes.iter().map(|node| node.as_str()).collect();
                format!("; {} could not have it a short while ago", nodes.join(" and "))
            }
        };
        let news = self.arrival_news.get(&instance.name).and_then(|fetches| fetches.news.as_ref());
        Some(match news {
            Some(ArrivalNews::Cannot(reason)) => {
                format!(
                    "stays until {to}, where it goes, has {image}, which cannot be fetched: {reason}{before}"
                )
            }
            Some(ArrivalNews::Progress(far)) if !far.is_empty() => {
                format!("goes to {to} as soon as that has {image} ({far}){before}")
            }
            _ => format!("goes to {to} as soon as that has {image}{before}"),
        })
    }

    /// Whether an instance heads for another node without having been chosen to.
    pub(super) fn has_to_go(&self, name: &InstanceName) -> bool {
        let instance = self.tables.instances().get(name);
        let heading = instance.and_then(|instance| instance.heading.as_deref());
        heading.is_some_and(|heading| heading.order.is_none())
    }

    /// Whether the node for which an instance heads has said that it cannot get its image.
    pub(super) fn is_held_back(&self, instance: &Instance) -> bool {
        let news = self.arrival_news.get(&instance.name).and_then(|fetches| fetches.news.as_ref());
        instance.heading.is_some() && matches!(news, Some(ArrivalNews::Cannot(_)))
    }
}
