//! Why an instance, or a workload, is where and what it is: from what is known of it and from its own history.
//!
//! Each *fact* is one sentence with its kind; where the fleet's diary knows since when it has been so, and who asked for it,
//! the fact says that too. What the diary has forgotten is left out rather than guessed.

use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, WorkloadName};
use dwell_core::instance::{Counted, Phase, RunState};
use dwell_core::workload::Placement;

use super::Model;
use super::object::{Event, Instance, Subject, UpdateState, Workload};
use super::versions::{Version, VersionState};
use super::view::phase_word;

/// How many events of its history are told, the newest ones.
const HISTORY_MAX: usize = 30;

/// Why something is as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What it is about.
    pub subject: Subject,
    /// What is so, the most important first.
    pub facts: Vec<Fact>,
    /// What happened to it and to its workload, the oldest first.
    pub history: Vec<Arc<Event>>,
}

/// One thing that is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// A stable word for what it is about.
    pub about: &'static str,
    /// What is so and why, for people.
    pub text: String,
    /// Since when, if that is known.
    pub since: Option<Timestamp>,
    /// Who asked for it; empty if nobody did, or if that is not known.
    pub by: String,
}

impl Fact {
    fn new(about: &'static str, text: String) -> Self {
        Self { about, text, since: None, by: String::new() }
    }

    /// The same, as an event tells when and by whom.
    fn told_by(self, event: Option<&Event>) -> Self {
        match event {
            Some(event) => Self { since: Some(event.at), by: event.by.clone(), ..self },
            None => self,
        }
    }
}

impl Model {
    /// Why a workload or an instance is as it is; of two of the same name the workload is meant. `None` if there is neither.
    #[must_use]
    pub fn explain(&self, name: &str) -> Option<Explanation> {
        let workload: Option<WorkloadName> = name.parse().ok();
        if let Some(workload) = workload.and_then(|name| self.tables.workloads().get(&name)) {
            return Some(self.explain_workload(workload));
        }
        let name: InstanceName = name.parse().ok()?;
        let instance = self.tables.instances().get(&name)?;
        let workload = self.tables.workloads().get(name.workload())?;
        Some(self.explain_instance(workload, instance))
    }

    fn explain_workload(&self, workload: &Arc<Workload>) -> Explanation {
        let name = &workload.spec.name;
        let subject = Subject::Workload(name.clone());
        let mut facts = Vec::new();
        if workload.removing {
            let removed = self.newest_event(&subject, &["workload-removed"]);
            facts.push(Fact::new("removal", "is being removed".to_owned()).told_by(removed));
        }
        let view = self.workload(name);
        let (ready, updated) = view.as_ref().map_or((0, 0), |view| (view.ready, view.updated));
        let wanted = usize::try_from(workload.spec.replicas).unwrap_or(usize::MAX);
        let text = format!("{} declared; {ready} ready, {updated} as declared", Counted(wanted));
        facts.push(Fact::new("instances", text));
        facts.extend(self.job_in_words(workload).map(|text| Fact::new("job", text)));
        if let Some(newest) = self.newest(name) {
            facts.push(version_fact("version", "is brought to", &newest));
            facts.extend(self.why_not_everywhere(workload, &newest));
        }
        let message = view.map(|view| view.message).filter(|text| !text.is_empty());
        if let Some(message) = message.filter(|_| workload.paused.is_none()) {
            facts.push(Fact::new("state", message));
        }
        facts.extend(rules(&workload.spec.placement));
        if workload.run == RunState::Stopped {
            facts.push(self.stopped(&subject));
        }
        let history = self.history_of(|event| event.subject == subject);
        Explanation { subject, facts, history }
    }

    /// Which limits an operator has set for it alone.
    fn own_size_of(&self, instance: &Instance, subject: &Subject) -> Option<Fact> {
        let text = format!("has limits of its own: {}", instance.own_size.in_words());
        let told = self.newest_event(subject, &["instance-resized"]);
        (!instance.own_size.is_none()).then(|| Fact::new("limits", text).told_by(told))
    }

    fn explain_instance(&self, workload: &Arc<Workload>, instance: &Arc<Instance>) -> Explanation {
        let subject = Subject::Instance(instance.name.clone());
        let mut facts = vec![self.where_and_why(instance, &subject)];
        if self.is_bound(instance) {
            let node = instance.node.as_ref().map(NodeName::as_str).unwrap_or_default();
            let text = format!("its workload has one on every node, and it is the one of {node}");
            facts.push(Fact::new("stays", text));
        } else if let Some(text) = self.volume_move_in_words(instance) {
            let began = self.newest_event(&subject, &["volume-move-began"]);
            facts.push(Fact::new("volumes", text).told_by(began));
        } else if self.is_pinned(instance) {
            let node = instance.node.as_ref().map(NodeName::as_str).unwrap_or_default();
            let text = format!("its volumes are on {node}, so it stays there");
            facts.push(Fact::new("volumes", text));
        }
        facts.extend(self.if_lost(workload, instance).map(|text| Fact::new("lost", text)));
        facts.extend(Self::task_in_words(workload, instance).map(|text| Fact::new("task", text)));
        facts.extend(self.own_size_of(instance, &subject));
        facts.extend(rules(&workload.spec.placement));
        facts.extend(self.address_of(instance));
        facts.extend(self.versions_of(workload, instance));
        facts.push(self.state_of(instance, &subject));
        if instance.run == RunState::Stopped {
            let own = self.stopped(&subject);
            let all = || self.stopped(&Subject::Workload(instance.name.workload().clone()));
            facts.push(if own.since.is_some() { own } else { all() });
        }
        let drained = instance.node.as_ref().and_then(|node| self.tables.nodes().get(node));
        if let Some(node) = drained.filter(|node| node.draining && !self.is_bound(instance))
            && let Some(obstacle) = self.obstacle(node, &instance.name)
        {
            let subject = Subject::Node(node.name.clone());
            let told = self.newest_event(&subject, &["node-draining"]);
            let text = format!(
                "{} is drained, and it is still there: {}; next: {}",
                node.name, obstacle.reason, obstacle.next
            );
            facts.push(Fact::new("drain", text).told_by(told));
        } else if let Some(waiting) = self.tables.waiting().get(&instance.name) {
            let why = self.why(waiting);
            if instance.node.is_some() && !why.is_empty() {
                facts.push(Fact::new("waits", why));
            }
        }
        let of_all = Subject::Workload(instance.name.workload().clone());
        let since = instance.life;
        let history = self.history_of(|event| {
            let is_of_all = event.subject == of_all && event.revision >= since;
            event.subject == subject || is_of_all
        });
        Explanation { subject, facts, history }
    }

    /// Where an instance is, and what brought it there.
    fn where_and_why(&self, instance: &Instance, subject: &Subject) -> Fact {
        let name = &instance.name;
        let Some(node) = &instance.node else {
            if instance.is_idle() {
                let text = format!("is on no node: {}", self.idle_in_words(instance));
                return Fact::new("place", text);
            }
            let waiting = self.tables.waiting().get(name);
            let why = waiting.map(|waiting| self.why(waiting)).filter(|why| !why.is_empty());
            let why = why.unwrap_or_else(|| "a place is being looked for".to_owned());
            return Fact::new("place", format!("is on no node: {why}"));
        };
        if instance.is_let_go() {
            let text = format!("{} (on {node})", self.let_go_in_words(instance));
            let asked = self.newest_event(subject, &["instance-dissociated"]);
            return Fact::new("place", text).told_by(asked);
        }
        if let Some(leaving) = &instance.leaving {
            let why = if instance.removing { "is being removed from" } else { "leaves" };
            let to = leaving.to.as_ref().map(|to| format!(" for {to}")).unwrap_or_default();
            let moving = self.newest_event(subject, &["instance-moving"]);
            return Fact::new("place", format!("{why} {node}{to}")).told_by(moving);
        }
        if let Some(heading) = self.heading_in_words(instance) {
            let asked = self.newest_event(subject, &["instance-heading"]);
            return Fact::new("place", format!("is on {node}, and {heading}")).told_by(asked);
        }
        let placed = self.newest_event(subject, &["instance-placed"]);
        let moving = self.newest_event(subject, &["instance-moving"]);
        let moved = moving.filter(|moving| placed.is_some_and(|at| at.revision > moving.revision));
        let why = match moved {
            Some(moving) if moving.by.is_empty() => format!("is on {node}, where it was moved"),
            Some(_) => format!("is on {node}, where it was moved on request"),
            None => format!("is on {node}, the best node when it was placed"),
        };
        let fact = Fact::new("place", why).told_by(placed);
        match moved {
            Some(moving) => Fact { by: moving.by.clone(), ..fact },
            None => fact,
        }
    }

    fn address_of(&self, instance: &Instance) -> Option<Fact> {
        let identity = instance.identity?;
        let address = identity.address;
        let text = if self.declared_address(&instance.name) == Some(address) {
            format!("{address}, as its workload declares")
        } else {
            let holder = self.settings.range.block_of(address);
            let holder = holder.and_then(|block| self.tables.index().blocks.get(&block));
            match (holder, &instance.node) {
                (Some(holder), Some(node)) if holder != node => format!(
                    "{address}, of the block of {holder}, where it was first: it keeps that, at the cost of a route of its own"
                ),
                (Some(holder), _) => format!("{address}, of the block of {holder}"),
                (None, _) => format!("{address}, which it keeps"),
            }
        };
        Some(Fact::new("address", text))
    }

    /// Which version an instance is, and why it is not the newest.
    fn versions_of(&self, workload: &Workload, instance: &Instance) -> Vec<Fact> {
        let name = &workload.spec.name;
        let Some(version) = self.tables.versions().get(name) else { return Vec::new() };
        let Some(wanted) = version.get(&instance.wanted.number) else { return Vec::new() };
        let mut facts = vec![version_fact("version", "is", wanted)];
        let held = match instance.serving {
            Some(number) if instance.holds() => format!("has held with version {number}"),
            Some(number) => format!("has not held with it yet; it held with version {number} last"),
            None => "has not held with any version yet".to_owned(),
        };
        let back = self.fallback(workload, instance).map(|form| form.number);
        let back = back.map(|back| format!("; version {back} is put up again if it does not"));
        facts.push(Fact::new("verdict", held + &back.unwrap_or_default()));
        let Some(newest) = self.newest(name) else { return facts };
        if newest.form.number != instance.wanted.number {
            let why = match (&workload.paused, self.why_not_everywhere(workload, &newest)) {
                (Some(_), Some(why)) => why,
                _ => self.why_not_yet(workload, instance, &newest),
            };
            facts.push(why);
        } else if instance.update == UpdateState::Updating {
            facts
                .push(Fact::new("rollout", "has its turn, which ends when it has held".to_owned()));
        }
        facts
    }

    /// Why no instance is given the newest version.
    fn why_not_everywhere(&self, workload: &Workload, newest: &Version) -> Option<Fact> {
        let subject = Subject::Workload(workload.spec.name.clone());
        let number = newest.form.number;
        let text = match (&newest.state, &workload.paused) {
            (VersionState::RuledOut { reason }, _) => {
                format!("version {number} is given to no instance: it is ruled out, {reason}")
            }
            // The words of its state say who failed.
            (VersionState::Incomplete, None) => return None,
            (_, Some(pause)) => pause.to_string(),
            (_, None) => return None,
        };
        let told = self.newest_event(&subject, &["rollout-paused", "version-ruled-out"]);
        Some(Fact::new("rollout", text).told_by(told))
    }

    /// Why an instance has not been given the newest version, although others are.
    fn why_not_yet(&self, workload: &Workload, instance: &Instance, newest: &Version) -> Fact {
        let number = newest.form.number;
        if let Some(reason) = instance.failed_with(number) {
            let text = format!(
                "version {number} is not given to it again: it did not hold with it, {reason}; apply the workload anew to try again"
            );
            let subject = Subject::Instance(instance.name.clone());
            return Fact::new("rollout", text)
                .told_by(self.newest_event(&subject, &["instance-rolled-back"]));
        }
        let updating = self.tables.index().updating.get(&workload.spec.name);
        let before = updating.into_iter().flatten().find(|other| **other != instance.name);
        let node = instance.assigned_to().filter(|node| !self.is_ready(node));
        let text = match (node, before) {
            _ if let Some(what) = self.fetching_in_words(workload) => what,
            (Some(node), _) => format!("{node} is not heard of"),
            (None, Some(other)) => format!(
                "{other} has its turn, and {} at a time may have it",
                workload.spec.update.parallelism.of(workload.spec.replicas)
            ),
            (None, None) => "its turn comes next".to_owned(),
        };
        Fact::new("rollout", format!("version {number} has not been given to it yet: {text}"))
    }

    fn state_of(&self, instance: &Arc<Instance>, subject: &Subject) -> Fact {
        let status = self.status(instance);
        let phase = phase_word(status.phase);
        let mut text = match (status.health.is_good(), status.readiness.is_good()) {
            (true, true) => phase.to_owned(),
            (true, false) => format!("{phase}, not ready"),
            (false, _) => format!("{phase}, {}", status.health),
        };
        if !status.message.is_empty() {
            text = format!("{text}: {}", status.message);
        }
        let reasons: &[&str] = match status.phase {
            Phase::Running => &[
                "instance-running",
                "instance-unhealthy",
                "instance-healthy",
                "instance-unready",
                "instance-ready",
            ],
            Phase::Backoff => &["instance-backoff", "instance-given-up"],
            Phase::Failed => &["instance-failed", "instance-given-up"],
            _ => &[],
        };
        Fact::new("state", text).told_by(self.newest_event(subject, reasons))
    }

    fn stopped(&self, subject: &Subject) -> Fact {
        let stopped = self.newest_event(subject, &["stopped"]);
        Fact::new("run", "is stopped, as somebody asked".to_owned()).told_by(stopped)
    }

    /// The newest events that are of interest, the oldest first.
    fn history_of(&self, is_of_interest: impl Fn(&Event) -> bool) -> Vec<Arc<Event>> {
        let events = self.tables.events().values().rev();
        let newest = events.filter(|event| is_of_interest(event)).take(HISTORY_MAX);
        let mut history: Vec<_> = newest.cloned().collect();
        history.reverse();
        history
    }
}

fn version_fact(about: &'static str, verb: &str, version: &Version) -> Fact {
    let form = &version.form;
    let text = format!("{verb} version {}, image {}", form.number, form.template.image);
    Fact { since: Some(version.at), by: version.by.clone(), ..Fact::new(about, text) }
}

fn rules(placement: &Placement) -> Option<Fact> {
    let pool = placement.pool.iter().map(|pool| format!("of pool {pool}"));
    let constraints = placement.constraints.iter().map(|one| format!("where {one}"));
    let rules: Vec<String> = pool.chain(constraints).collect();
    let text = match (placement.one_per_node, rules.join(", and ")) {
        (true, rules) if rules.is_empty() => "one on every node".to_owned(),
        (true, rules) => format!("one on every node {rules}"),
        (false, rules) => format!("may only be on nodes {rules}"),
    };
    (!placement.is_anywhere()).then(|| Fact::new("rules", text))
}
