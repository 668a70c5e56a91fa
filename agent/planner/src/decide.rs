//! The rules: what one instance needs next.
//!
//! Each instance is decided by itself, in this order:
//!
//! 1. a container that is to go and runs is stopped, before anything is started;
//! 2. the container that is to stay is brought to what is desired: made, stopped, started, limited;
//!    during an update it is the pair of the old and the new one that is moved on;
//! 3. when nothing of that can be done now, containers that are to go are removed, and counters are
//!    written down.
//!
//! Which container has which part is decided in `roles.rs`, in which sandbox it runs in `sandboxes.rs`, updates in `update.rs`,
//! whether one has shown that it works in `proof.rs`, when one that does not is given up in `unwell.rs`, when hooks
//! are called in `hooks.rs`, which files go from one container to the next in `carry.rs`, what comes of instances of jobs in `task.rs`,
//! whose containers are not touched at all in `custody.rs`, and what is put in the place of a container that dwell did not make in
//! `adopt.rs`, both before everything else.

mod adopt;
mod carry;
mod custody;
mod hooks;
mod proof;
mod roles;
mod sandboxes;
mod start;
mod task;
mod unwell;
mod update;

use dwell_core::clock::Timestamp;
use dwell_core::id::Generation;
use dwell_core::instance::RunState;
use dwell_core::job::TaskEnd;
use dwell_core::quantity::Millis;
use dwell_core::sandbox::Slot;
use dwell_core::workload::{RestartPolicy, Template, ToldFromInside};

use crate::journal::{Journal, Ruling};
use crate::lease::Standing;
use crate::observed::{
    Container, ContainerState, EngineState, Image, Observed, Sandbox, Seen, Trouble,
};
use crate::pause;
use crate::step::Step;
use crate::target::Target;
pub(crate) use custody::let_go;
pub(crate) use hooks::{AfterStart, after_start};
use proof::Proof;
use roles::Roles;
pub(crate) use roles::{best_match, current};

/// How long a main process may take to end when its specification is gone and nobody wrote down what it
/// said: a container of an earlier version of dwell.
const GRACE_OF_UNWANTED: Millis = Millis::seconds(10);

/// What one instance needs next, and which of its containers stands for it.
#[derive(Debug)]
pub(crate) struct Decision<'a> {
    /// The container that its status is about.
    pub(crate) face: Option<&'a Container>,
    /// The image that it needs and that is not on the node.
    pub(crate) image: Option<&'a str>,
    /// What to do to bring it to what is desired.
    pub(crate) next: Next<'a>,
    /// What to tidy up when that is nothing at the moment.
    pub(crate) aside: Option<Next<'a>>,
    /// Until when it is to have shown that it works; `None` if it has, or if there is something to put back.
    pub(crate) deadline: Option<Timestamp>,
}

/// What to do about an instance.
#[derive(Debug)]
pub(crate) enum Next<'a> {
    /// This, now.
    Step(Step),
    /// Nothing before a certain time, or before something is done outside the instance.
    Wait(Wait<'a>),
    /// Nothing until something changes.
    Rest(Rest<'a>),
}

/// What an instance waits for.
#[derive(Debug)]
pub(crate) enum Wait<'a> {
    /// An image that is not on the node.
    Image(&'a str),
    /// The pause after a failed step.
    Retry(&'a Trouble),
    /// The pause after its main process ended.
    Crash { until: Timestamp },
    /// A new container to show that it works, beside one that can be put back.
    Trial { until: Timestamp },
    /// The only container to show that it works.
    Proof { until: Timestamp },
    /// One that is unhealthy to get well by itself.
    Cure { until: Timestamp },
}

impl Wait<'_> {
    pub(crate) fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Image(_) => None,
            Self::Retry(trouble) => Some(trouble.retry_at),
            Self::Crash { until }
            | Self::Trial { until }
            | Self::Proof { until }
            | Self::Cure { until } => Some(*until),
        }
    }

    /// This, unless the other has an end and that comes first.
    fn or_sooner(self, other: Self) -> Self {
        match (self.until(), other.until()) {
            (Some(this), Some(that)) if that < this => other,
            (None, Some(_)) => other,
            _ => self,
        }
    }
}

/// Why an instance needs nothing.
#[derive(Debug)]
pub(crate) enum Rest<'a> {
    /// It is as it is to be, or nothing of it is left.
    InSync,
    /// It ended, and its restart policy does not start it again.
    Ended,
    /// It was shut down from inside, as a machine is, and stays so until somebody starts it.
    ShutDown,
    /// It ended too often.
    GaveUp,
    /// It is of a job and has done its work, or has failed as often as it was tried.
    Done(TaskEnd),
    /// What is desired is older than what is here.
    OutOfDate { seen: Generation },
    /// The engine does not answer.
    NoEngine(&'a EngineState),
    /// It was let go: nothing of it is touched.
    LetGo,
    /// It did not hold in the place of a container that dwell did not make, which runs again.
    PutBack { container: &'a str, reason: &'a str },
}

/// What is the same for all instances of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    observed: &'a Observed,
    now: Timestamp,
}

impl<'a> Node<'a> {
    pub(crate) fn new(observed: &'a Observed, now: Timestamp) -> Self {
        Self { observed, now }
    }

    /// Whether an instance is to run here now: what is not lent to the node is not, whatever was declared.
    pub(crate) fn run(self, target: &Target, seen: &Seen) -> RunState {
        let runs = || seen.containers.iter().any(Container::is_running);
        match self.observed.leases.standing(&target.assigned, self.now) {
            Standing::Over => RunState::Stopped,
            Standing::Left { .. } if !runs() => RunState::Stopped,
            Standing::Free | Standing::Lent { .. } | Standing::Left { .. } => target.assigned.run,
        }
    }

    /// When something that runs is not lent any more.
    pub(crate) fn lease_ends(self, target: &Target, seen: &Seen) -> Option<Timestamp> {
        match self.observed.leases.standing(&target.assigned, self.now) {
            Standing::Lent { until } | Standing::Left { until } => Some(until),
            Standing::Free | Standing::Over => None,
        }
        .filter(|_| seen.containers.iter().any(Container::is_running))
    }
}

/// Decides what an instance needs next.
pub(crate) fn decide<'a>(
    target: Option<&'a Target>,
    seen: &'a Seen,
    node: Node<'a>,
) -> Decision<'a> {
    let roles = Roles::assign(target.map(|target| (target, node.run(target, seen))), seen);
    let face = roles.face();
    if node.observed.engine != EngineState::Ready {
        let next = Next::Rest(Rest::NoEngine(&node.observed.engine));
        return Decision { face, image: None, next, aside: None, deadline: None };
    }
    if let Some((next, aside)) = custody::next(target, seen, node) {
        return Decision { face, image: None, next, aside, deadline: None };
    }
    if let Some((next, aside)) = adopt::next(target, seen, &roles, node) {
        return Decision { face, image: None, next, aside, deadline: None };
    }
    let Some(target) = target else {
        let next = unwanted(seen, node);
        return Decision { face, image: None, next, aside: None, deadline: None };
    };
    let instance = Instance { target, seen, node };
    if let Some(seen) = instance.overtaken_by() {
        let next = Next::Rest(Rest::OutOfDate { seen });
        return Decision { face, image: None, next, aside: None, deadline: None };
    }
    Decision {
        face,
        image: instance.missing_image(&roles),
        next: instance.next(&roles),
        aside: instance.aside(&roles),
        deadline: instance.deadline(&roles),
    }
}

/// An instance that is not desired: everything goes, the journal last.
fn unwanted<'a>(seen: &'a Seen, node: Node<'a>) -> Next<'a> {
    let step = if let Some(step) = take_away(seen) {
        step
    } else if let Some(slot) = there(seen).next() {
        Step::RemoveSandbox { slot }
    } else if seen.stored != Journal::default() {
        Step::Forget
    } else {
        return Next::Rest(Rest::InSync);
    };
    attempt(step, seen, node)
}

/// What takes all containers of an instance away; `None` if there are none.
fn take_away(seen: &Seen) -> Option<Step> {
    if let Some(running) = seen.containers.iter().find(|container| container.is_running()) {
        let declared = seen.journal.stop_grace.or(running.stop_grace);
        let grace = declared.unwrap_or(GRACE_OF_UNWANTED);
        let before = seen.journal.before_stop.get(&running.id).cloned();
        return Some(Step::Stop { container: running.id.clone(), grace, before });
    }
    let container = seen.containers.first()?;
    Some(Step::Remove { container: container.id.clone() })
}

/// The slots in which there is a sandbox, or may be.
fn there(seen: &Seen) -> impl Iterator<Item = Slot> + use<'_> {
    Slot::ALL.into_iter().filter(|slot| seen.sandboxes.of(*slot) != Sandbox::Absent)
}

/// The step, or the wait for its time if it failed a short while ago. A different step is not held
/// back: whatever changed may have mended the trouble.
fn attempt<'a>(step: Step, seen: &'a Seen, node: Node<'a>) -> Next<'a> {
    match &seen.trouble {
        Some((failed, trouble)) if failed.is_like(&step) && node.now < trouble.retry_at => {
            Next::Wait(Wait::Retry(trouble))
        }
        _ => Next::Step(step),
    }
}

/// A desired instance, with all that its rules look at.
#[derive(Clone, Copy)]
struct Instance<'a> {
    target: &'a Target,
    seen: &'a Seen,
    node: Node<'a>,
}

impl<'a> Instance<'a> {
    fn next(self, roles: &Roles<'a>) -> Next<'a> {
        if let Some(running) = roles.others().find(|container| container.is_running()) {
            return self.lead_away(roles, running).unwrap_or_else(|| self.stop(running));
        }
        if let Some(count) = self.count_run(roles) {
            return count;
        }
        if let Some(end) = self.task_end() {
            return self.rest_for_good(end, roles);
        }
        match roles {
            Roles::Steady { keeper, .. } if !self.is_to_run() => self.rest_stopped(*keeper),
            Roles::Steady { keeper: Some(keeper), .. } => self.serve(keeper, true),
            Roles::Steady { keeper: None, .. } => self.create(roles),
            Roles::Update { old, new, .. } => self.update(*old, *new, roles),
        }
    }

    fn is_to_run(self) -> bool {
        self.task_end().is_none() && self.node.run(self.target, self.seen) == RunState::Running
    }

    fn aside(self, roles: &Roles<'a>) -> Option<Next<'a>> {
        // What is to take their place is made first, as long as it can be.
        let lacks_keeper = matches!(roles, Roles::Steady { keeper: None, .. }) && self.is_to_run();
        // One that runs may only seem to be forgotten: the pause after a failed stop is not over.
        let needed = self.still_needed(roles);
        let to_go = roles.others().find(|one| !one.is_running() && needed != Some(&one.id));
        if let Some(container) = to_go.filter(|_| !lacks_keeper) {
            return Some(self.attempt(Step::Remove { container: container.id.clone() }));
        }
        if let Some(slot) = self.vacant() {
            return Some(self.attempt(Step::RemoveSandbox { slot }));
        }
        let proven = match roles {
            Roles::Steady { keeper, .. } => keeper.filter(|keeper| {
                self.is_to_be_proved(keeper) && self.holds(keeper) == Proof::Holds
            }),
            Roles::Update { .. } => None,
        };
        let journal = self.up_to_date(roles);
        let journal = match proven {
            Some(container) => self.holding(&journal, container),
            None => journal,
        };
        let stored = &self.seen.stored;
        let is_news = journal != *stored && !(journal.is_blank() && stored.is_blank());
        is_news.then(|| self.attempt(Step::Record(Box::new(journal))))
    }

    /// The journal, with the ends that are seen, and with the grace that a live change gave to a container which has
    /// another one written on it.
    fn up_to_date(self, roles: &Roles<'a>) -> Journal {
        let declared = self.target.assigned.template.stop_grace;
        let written =
            roles.face().map(|container| container.stop_grace.unwrap_or(GRACE_OF_UNWANTED));
        let stop_grace = written.filter(|written| *written != declared).map(|_| declared);
        let before_stop = self.all_before_stop();
        let journal = Journal { stop_grace, before_stop, ..self.seen.journal.clone() };
        journal.with_ends(&self.seen.containers)
    }

    /// When to say that it does not work, although there is nothing to put back. It is tried on.
    fn deadline(self, roles: &Roles<'a>) -> Option<Timestamp> {
        let assigned = &self.target.assigned;
        let keeper = match roles {
            Roles::Steady { keeper, .. } => *keeper,
            Roles::Update { old, .. } if self.has_way_back(*old) => return None,
            Roles::Update { new, .. } => *new,
        };
        let is_ruled =
            self.seen.journal.ruling_on(assigned.generation).is_some_and(|ruling| {
                matches!(ruling, Ruling::RolledBack { .. }) || self.has_held()
            });
        if is_ruled || !self.is_to_run() || self.failures() > 0 {
            return None;
        }
        // A pull that gets on is waited for, and so is the first run that follows it.
        let pull = match self.node.observed.images.get(self.target.image(false)) {
            Some(Image::Missing) => return None,
            Some(Image::Pulling { since, .. }) => Some(*since),
            Some(Image::Failed(_)) | None => None,
        };
        let first_run = keeper
            .filter(|keeper| keeper.is_running() && self.seen.journal.crashes == 0)
            .map(|keeper| keeper.since);
        let since = self.seen.accepted_at.max(self.node.observed.ready_since);
        let since = since.max(pull.unwrap_or_default()).max(first_run.unwrap_or_default());
        Some(since.after(assigned.update_deadline.as_duration()))
    }

    /// Whether something failed in a way that trying again within the deadline cannot mend.
    fn is_hopeless(self, trouble: &Trouble) -> bool {
        let since = trouble.since.max(self.node.observed.ready_since);
        let deadline = since.after(self.target.assigned.update_deadline.as_duration());
        trouble.is_permanent() || self.node.now >= deadline
    }

    /// The generation that is here already, if it is newer than the desired one.
    fn overtaken_by(self) -> Option<Generation> {
        let made_for = current(self.seen, self.target).map(|container| container.generation);
        let seen = made_for.max().unwrap_or_default().max(self.seen.accepted);
        (self.target.assigned.generation < seen).then_some(seen)
    }

    /// The image that a container has to be made from, if it is not on the node, or if the registry is to be asked whether it
    /// is still the one, which is done once for each change that reaches the node.
    fn missing_image(self, roles: &Roles<'a>) -> Option<&'a str> {
        let is_to_be_made =
            matches!(roles, Roles::Steady { keeper: None, .. } | Roles::Update { new: None, .. });
        let is_fallback = self.aim().0 != self.target.assigned.generation;
        let image = self.target.image(is_fallback);
        let fetched_at = self.node.observed.fetched.get(image);
        let may_be_old = self.target.asks_for_newest(is_fallback)
            && fetched_at.is_none_or(|at| *at < self.seen.accepted_at);
        let is_wanted = is_to_be_made
            && self.is_to_run()
            && (may_be_old || self.node.observed.images.contains_key(image));
        is_wanted.then_some(image)
    }

    /// See [`Target::aim`].
    fn aim(self) -> (Generation, &'a Template) {
        self.target.aim(&self.seen.journal)
    }

    /// Whether a container is what the instance is to be now, as far as it can be told by its fingerprint.
    fn is_aim(self, container: &Container) -> bool {
        let is_assigned = self.aim().0 == self.target.assigned.generation;
        let fingerprint = Some(&self.target.fingerprint).filter(|_| is_assigned);
        fingerprint.or(self.target.fallback.as_ref()) == Some(&container.fingerprint)
    }

    /// Brings the one container of the instance to what is desired. `steady` is false while an update
    /// is prepared beside it: what it would need a restart for can wait.
    fn serve(self, container: &'a Container, steady: bool) -> Next<'a> {
        if steady && self.restart_is_due(container) {
            return self.order_end(container);
        }
        match container.state {
            ContainerState::Created => self.start(container),
            ContainerState::Dead => self.attempt(Step::Remove { container: container.id.clone() }),
            ContainerState::Exited { .. } if self.has_ordered_end(container) => {
                self.start(container)
            }
            ContainerState::Exited { .. } if self.has_task() => self.try_again(container),
            ContainerState::Exited { .. } if steady && self.has_done_its_work(container) => {
                self.prove(container)
            }
            ContainerState::Exited { code, .. } => self.restart(container, code),
            ContainerState::Running { .. } if self.is_to_end(container) => self.stop(container),
            ContainerState::Running { .. } => match self.keep_running(container) {
                Next::Rest(Rest::InSync) => match self.after_start(container) {
                    AfterStart::Call(call) => self.call(container, call),
                    AfterStart::Failed(reason) => self.give_up(container, &reason, false),
                    AfterStart::Nothing if steady => self.cure(container),
                    AfterStart::Nothing => Next::Rest(Rest::InSync),
                },
                next => next,
            },
        }
    }

    fn keep_running(self, container: &'a Container) -> Next<'a> {
        if let Some(next) = self.see_to_sandbox(container, true) {
            return next;
        }
        let limits = self.aim().1.limits();
        if !self.is_aim(container) || container.is_limited_to(limits) {
            return Next::Rest(Rest::InSync);
        }
        // With what it has held with before it can live, or could.
        let is_on_trial = self.aim().0 == self.target.assigned.generation && !self.has_held();
        let force = self.target.assigned.force_limits || !is_on_trial;
        let step = Step::UpdateLimits { container: container.id.clone(), limits, force };
        match &self.seen.trouble {
            Some((failed, trouble))
                if *failed == step
                    && is_on_trial
                    && trouble.is_permanent()
                    && self.target.assigned.fallback.is_some() =>
            {
                self.roll_back(trouble.failure.message.clone())
            }
            _ => self.attempt(step),
        }
    }

    /// What the restart policy says about a main process that ended by itself.
    fn restart(self, container: &'a Container, code: i32) -> Next<'a> {
        let crashes = self.seen.journal.crashes_before(container);
        let told = self.target.assigned.template.told_from_inside(code);
        if told == Some(ToldFromInside::ShutDown) && !self.was_given_up(container) {
            return Next::Rest(Rest::ShutDown);
        }
        match self.target.assigned.template.restart {
            RestartPolicy::Never => return Next::Rest(Rest::Ended),
            RestartPolicy::OnFailure { .. } if code == 0 && !self.was_given_up(container) => {
                return Next::Rest(Rest::Ended);
            }
            RestartPolicy::OnFailure { max_retries: Some(most) } if crashes >= most => {
                return Next::Rest(Rest::GaveUp);
            }
            RestartPolicy::Always | RestartPolicy::OnFailure { .. } => {}
        }
        let until = container.since.after(pause::after_crash(crashes));
        if self.node.now < until {
            return Next::Wait(Wait::Crash { until });
        }
        self.start(container)
    }

    /// Whatever the reason it does not run, a later wish to run it starts it: its end counts as ordered. What ended by
    /// itself and is only not lent has not been wished away.
    fn rest_stopped(self, keeper: Option<&'a Container>) -> Next<'a> {
        let is_wished = self.target.assigned.run == RunState::Stopped;
        let is_to_end = |one: &Container| one.is_running() || (is_wished && one.run().is_some());
        match keeper {
            Some(container) if is_to_end(container) && !self.has_ordered_end(container) => {
                self.order_end(container)
            }
            Some(container) if container.is_running() => self.stop(container),
            _ => Next::Rest(Rest::InSync),
        }
    }

    /// Makes the container of the desired generation.
    fn create(self, roles: &Roles<'a>) -> Next<'a> {
        let (generation, _) = self.aim();
        // Of two containers of one generation, the one that is not as desired has the other's name.
        let in_the_way = roles.others().find(|container| container.generation == generation);
        if let Some(container) = in_the_way {
            return self.attempt(Step::Remove { container: container.id.clone() });
        }
        if let Some(image) = self.missing_image(roles) {
            return Next::Wait(Wait::Image(image));
        }
        self.attempt(Step::Create { generation, slot: self.slot_of_new(roles) })
    }

    fn stop(self, container: &Container) -> Next<'a> {
        let grace = self.target.assigned.template.stop_grace;
        let before = self.before_stop(container);
        self.attempt(Step::Stop { container: container.id.clone(), grace, before })
    }

    /// Notes that the present run is to end and, since nothing will undo that, that all restarts asked
    /// for so far are as good as done.
    fn order_end(self, container: &Container) -> Next<'a> {
        self.attempt(Step::Record(Box::new(self.ending(container))))
    }

    fn ending(self, container: &Container) -> Journal {
        let mut journal = self.seen.journal.ordering_end(container, &self.seen.containers);
        journal.restarts_done = journal.restarts_done.max(self.target.assigned.restarts_asked);
        // Of its successor, too: that is not to wait for a note of its own when this one has ended.
        journal.before_stop = self.all_before_stop();
        journal
    }

    fn has_ordered_end(self, container: &Container) -> bool {
        self.seen.journal.has_ordered_end(container)
    }

    /// A container that was made after the request needs no restart for it, nor one never started.
    fn restart_is_due(self, container: &Container) -> bool {
        let done = self.seen.journal.restarts_done.max(container.restarts_asked);
        container.run().is_some() && self.target.assigned.restarts_asked > done
    }

    fn attempt(self, step: Step) -> Next<'a> {
        if let Step::Start { container } = &step
            && let Some(stale) = self.seen.container(container).filter(|container| container.stale)
        {
            return self.make_engine_notice(stale);
        }
        let step = match self.noting_before_stop(&step) {
            Some(journal) => Step::Record(Box::new(journal)),
            None => step,
        };
        attempt(step, self.seen, self.node)
    }
}

#[cfg(test)]
mod tests;
