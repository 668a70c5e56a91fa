//! What is reported about instances, from the same decision as the steps.

use dwell_core::clock::Timestamp;
use dwell_core::health::Health;
use dwell_core::id::{Generation, InstanceName};
use dwell_core::instance::{
    InstanceStatus, MESSAGE_MAX, Outcome, Phase, RunState, Verdict, sanitize,
};
use dwell_core::job::{TaskEnd, TaskOutcome, TaskReport, failed_in_words};

use crate::decide::{AfterStart, Decision, Next, Node, Rest, Wait, after_start, decide, let_go};
use crate::desired::Desired;
use crate::journal::Ruling;
use crate::observed::{
    Check, Container, ContainerState, EngineState, Image, Observed, Seen, Trouble,
};
use crate::step::Step;
use crate::target::Target;

/// What is said of an instance whose lease is over.
const UNLENT: &str =
    "the controller has not answered for as long as this node may run it; it starts when it does";

/// The status of every instance that is desired or of which anything is left (a container, its sandbox, its
/// journal), in the order of the names.
#[must_use]
pub fn statuses(desired: &Desired, observed: &Observed, now: Timestamp) -> Vec<InstanceStatus> {
    let node = Node::new(observed, now);
    observed
        .with_targets(desired)
        .filter(|(_, target, seen)| target.is_some() || !seen.is_nothing())
        .map(|(name, target, seen)| {
            let decision = decide(target, seen, node);
            let status = Report { target, seen, node, observed, decision }.status(name, now);
            if target.is_none() && desired.keeps_unknown() { kept(status, seen) } else { status }
        })
        .collect()
}

/// An instance that the assignment does not have, and that is not to be taken away for that.
fn kept(status: InstanceStatus, seen: &Seen) -> InstanceStatus {
    let runs = seen.containers.iter().any(Container::is_running);
    let phase = match (status.phase, runs) {
        (Phase::Unknown, _) => Phase::Unknown,
        (_, true) => Phase::Running,
        (_, false) => Phase::Stopped,
    };
    let message =
        "the restored controller does not know it; it is kept until `dwell restore confirm`";
    InstanceStatus { phase, message: message.to_owned(), ..status }
}

struct Report<'a> {
    target: Option<&'a Target>,
    seen: &'a Seen,
    node: Node<'a>,
    observed: &'a Observed,
    decision: Decision<'a>,
}

impl Report<'_> {
    fn status(&self, name: &InstanceName, now: Timestamp) -> InstanceStatus {
        let journal = &self.seen.journal;
        let face = self.decision.face;
        let exit_code = match (&self.decision.next, face.map(|container| container.state)) {
            (Next::Rest(Rest::Done(end)), _) => Some(end.code),
            (_, Some(ContainerState::Exited { code, .. })) => Some(code),
            _ => journal.last_exit_code,
        };
        let (phase, message) = self.phase_and_message();
        InstanceStatus {
            instance: name.clone(),
            generation: self.generation(),
            phase,
            health: self.checked(Check::Health, phase),
            readiness: self.checked(Check::Readiness, phase),
            container_id: face.map(|container| container.id.0.clone()).unwrap_or_default(),
            address: face.and_then(|container| container.address),
            image: face.map(|container| container.image).unwrap_or_default(),
            started_at: face.filter(|container| container.is_running()).and_then(Container::run),
            restarts: journal.restarts,
            exit_code,
            ends: journal.clone().with_ends(&self.seen.containers).ends,
            hook_failed: journal.hook_failed.clone(),
            restarts_done: journal
                .restarts_done
                .max(face.map_or(0, |container| container.restarts_asked)),
            message: sanitize(&message, MESSAGE_MAX),
            observed_at: now,
            verdict: self.verdict(now),
            task: self.task(),
            image_ahead: self
                .target
                .and_then(|target| crate::ahead::status(target, self.observed, now)),
            let_go: let_go(self.target, self.seen),
        }
    }

    /// A container that is as desired is of the desired generation, whichever it was made for. What is desired and out of
    /// date is answered with the generation that is here: a controller that was restored counts on from it.
    fn generation(&self) -> Generation {
        if let Next::Rest(Rest::OutOfDate { seen }) = self.decision.next {
            return seen;
        }
        match (self.target, self.decision.face) {
            (Some(target), Some(face)) if face.fingerprint == target.fingerprint => {
                target.assigned.generation.max(face.generation)
            }
            // Nothing is replaced while it is stopped; the next start does that.
            (Some(target), _) if self.is_at_rest_as_desired() => target.assigned.generation,
            (_, face) => face.map(|container| container.generation).unwrap_or_default(),
        }
    }

    fn is_at_rest_as_desired(&self) -> bool {
        self.is_to_be_stopped()
            && matches!(self.decision.next, Next::Rest(Rest::InSync))
            && self.rolled_back().is_none()
    }

    fn is_to_be_stopped(&self) -> bool {
        self.target.is_some_and(|target| target.assigned.run == RunState::Stopped)
    }

    /// Whether it does not run only because it is not lent to the node.
    fn is_unlent(&self) -> bool {
        let run = self.target.map(|target| (target.assigned.run, self.node.run(target, self.seen)));
        run == Some((RunState::Running, RunState::Stopped))
    }

    /// Whether the hook after the start has yet to succeed.
    fn has_to_be_called(&self) -> bool {
        let started = self.target.zip(self.decision.face);
        started.is_some_and(|(target, face)| {
            !matches!(after_start(target, self.seen, face), AfterStart::Nothing)
        })
    }

    /// What a check says. One that was not made yet is not the same as none.
    fn checked(&self, check: Check, phase: Phase) -> Health {
        if check == Check::Readiness && phase == Phase::Running && self.has_to_be_called() {
            return Health::Starting;
        }
        let template = self.target.map(|target| &target.assigned.template);
        let has_check = template.is_some_and(|template| check.of(template).is_some());
        match self.decision.face {
            Some(face) if has_check && phase == Phase::Running => {
                match face.checked(check).health {
                    Health::None => Health::Starting,
                    health => health,
                }
            }
            _ => Health::None,
        }
    }

    /// The update that was taken back, and why.
    fn rolled_back(&self) -> Option<(&Target, &str)> {
        let target = self.target?;
        match self.seen.journal.ruling_on(target.assigned.generation)? {
            Ruling::RolledBack { reason } => Some((target, reason)),
            Ruling::Committed => None,
        }
    }

    /// What was decided about the desired generation.
    fn verdict(&self, now: Timestamp) -> Option<Verdict> {
        let assigned = &self.target?.assigned;
        let journal = &self.seen.journal;
        let outcome = match journal.ruling_on(assigned.generation) {
            _ if self.is_one_beside() => Outcome::Open,
            Some(Ruling::RolledBack { reason }) => Outcome::RolledBack { reason: reason.clone() },
            Some(Ruling::Committed)
                if journal.holds(assigned.generation, assigned.restarts_asked) =>
            {
                Outcome::Held
            }
            _ => self.failing(now).map_or(Outcome::Open, |reason| Outcome::Failing { reason }),
        };
        Some(Verdict { generation: assigned.generation, outcome })
    }

    /// Whether one runs beside the container that serves: a second share is used as long as it does.
    fn is_one_beside(&self) -> bool {
        let slot = self.decision.face.map(|face| face.slot);
        self.seen.containers.iter().any(|one| one.is_running() && Some(one.slot) != slot)
    }

    /// Why the instance does not work, if nothing can be put back.
    fn failing(&self, now: Timestamp) -> Option<String> {
        let deadline = self.decision.deadline?;
        let (is_final, (_, message)) = match &self.decision.next {
            Next::Step(_) => return None,
            Next::Wait(wait) => {
                let is_final = match wait {
                    Wait::Retry(trouble) => trouble.is_permanent(),
                    Wait::Image(image) => matches!(
                        self.observed.images.get(*image),
                        Some(Image::Failed(trouble)) if trouble.is_permanent()
                    ),
                    Wait::Crash { .. }
                    | Wait::Trial { .. }
                    | Wait::Proof { .. }
                    | Wait::Cure { .. } => false,
                };
                (is_final, self.waiting(wait))
            }
            Next::Rest(rest) => {
                (matches!(rest, Rest::GaveUp | Rest::Ended | Rest::ShutDown), self.resting(rest))
            }
        };
        (is_final || now >= deadline).then_some(message)
    }

    fn phase_and_message(&self) -> (Phase, String) {
        let running = self.decision.face.is_some_and(Container::is_running);
        if let Next::Rest(Rest::NoEngine(engine)) = &self.decision.next {
            return (Phase::Unknown, engine_message(engine));
        }
        if let Some(reason) = &self.seen.unseen {
            return (Phase::Unknown, format!("cannot be looked at: {reason}"));
        }
        if let Next::Rest(Rest::LetGo) = &self.decision.next {
            let phase = if running { Phase::Running } else { Phase::Stopped };
            let message = match (self.decision.face, running) {
                (_, true) => "is let go: its container is left alone",
                (Some(_), false) => "is let go, and its container has ended",
                (None, _) => "is let go, and its container is gone",
            };
            return (phase, message.to_owned());
        }
        if let Next::Rest(rest @ Rest::PutBack { .. }) = &self.decision.next {
            return self.resting(rest);
        }
        if self.target.is_none() {
            let message = match &self.decision.next {
                Next::Wait(Wait::Retry(trouble)) => trouble_message(trouble),
                _ => "leaves this node".to_owned(),
            };
            return (Phase::Stopping, message);
        }
        let idle = match &self.decision.next {
            Next::Step(step) => self.step_under_way(step),
            Next::Wait(wait) => self.waiting(wait),
            Next::Rest(rest) => self.resting(rest),
        };
        match idle {
            (Phase::Stopping, message) => (Phase::Stopping, message),
            // Whatever else goes on, a main process that runs is running.
            (_, message) if running => (Phase::Running, self.with_rollback(message)),
            (phase, message) => (phase, self.with_rollback(message)),
        }
    }

    fn with_rollback(&self, message: String) -> String {
        match self.rolled_back() {
            Some((target, reason)) => {
                let update =
                    format!("generation {} was rolled back: {reason}", target.assigned.generation);
                if message.is_empty() { update } else { format!("{message}; {update}") }
            }
            None => message,
        }
    }

    fn step_under_way(&self, step: &Step) -> (Phase, String) {
        let is_face =
            |id| self.decision.face.is_some_and(|face| &face.id == id && face.is_running());
        match step {
            Step::Stop { container, before: None, .. } if is_face(container) => {
                (Phase::Stopping, "waits for its main process to end".to_owned())
            }
            Step::Stop { container, before: Some(_), .. } if is_face(container) => (
                Phase::Stopping,
                "waits for its hook before_stop, and for its main process to end".to_owned(),
            ),
            Step::StopForeign(adoption) => {
                (Phase::Preparing, format!("waits for container {} to end", adoption.name))
            }
            Step::KeepForeign(adoption) => {
                (Phase::Preparing, format!("the files of container {} are copied", adoption.name))
            }
            Step::StartForeign(adoption) => {
                (Phase::Preparing, format!("container {} is started again", adoption.name))
            }
            Step::AfterStart { .. } => {
                (Phase::Running, "waits for its hook after_start to succeed".to_owned())
            }
            _ => (Phase::Preparing, String::new()),
        }
    }

    fn waiting(&self, wait: &Wait<'_>) -> (Phase, String) {
        match wait {
            Wait::Retry(trouble) => (phase_of(trouble), trouble_message(trouble)),
            Wait::Image(image) => match self.observed.images.get(*image) {
                Some(Image::Failed(trouble)) => (phase_of(trouble), trouble_message(trouble)),
                Some(Image::Pulling { progress, .. }) if !progress.is_empty() => {
                    (Phase::Preparing, format!("image {image} is being pulled: {progress}"))
                }
                _ => (Phase::Preparing, format!("image {image} is being pulled")),
            },
            Wait::Crash { .. } => {
                (Phase::Backoff, format!("{}; it is started again after a pause", self.ended()))
            }
            Wait::Trial { .. } => (
                Phase::Running,
                self.with_complaint("the update waits for the new container to hold"),
            ),
            Wait::Proof { .. } | Wait::Cure { .. } => (Phase::Running, self.complaint()),
        }
    }

    fn resting(&self, rest: &Rest<'_>) -> (Phase, String) {
        match rest {
            Rest::InSync if self.is_to_be_stopped() => (Phase::Stopped, String::new()),
            Rest::InSync if self.is_unlent() => (Phase::Preparing, UNLENT.to_owned()),
            Rest::InSync | Rest::NoEngine(_) | Rest::LetGo => (Phase::Running, self.complaint()),
            Rest::Ended => (
                Phase::Stopped,
                format!("{}; its restart policy does not start it again", self.ended()),
            ),
            Rest::ShutDown => (
                Phase::Stopped,
                "was shut down from inside, and stays so until it is started".to_owned(),
            ),
            Rest::GaveUp => {
                (Phase::Failed, format!("{} too often; its restart policy gives up", self.ended()))
            }
            Rest::PutBack { container, reason } => {
                (Phase::Failed, self.put_back(container, reason))
            }
            Rest::Done(end) => self.done(end),
            Rest::OutOfDate { seen } => (
                Phase::Stopped,
                format!("what is desired is older than generation {seen} on this node; left alone"),
            ),
        }
    }

    /// What is on disk of its task. Of what is not assigned any more, that is whichever was assigned last.
    fn task(&self) -> Option<TaskReport> {
        let report = self.seen.stored.task_report()?;
        let is_assigned = |target: &Target| {
            let number = target.assigned.task.map(|task| task.number);
            number == Some(report.number) && target.assigned.life == report.life
        };
        self.target.is_none_or(is_assigned).then_some(report)
    }

    /// That it did not hold in the place of a container that dwell did not make. The reason, which can be long, comes last.
    fn put_back(&self, container: &str, reason: &str) -> String {
        let workload = self.target.map(|target| target.assigned.instance.workload().as_str());
        let workload = workload.unwrap_or_default();
        format!(
            "container {container} was started again as it was, since the instance in its place did not hold; mend that, then \
             `dwell rm {workload}`, and adopt it again: {reason}"
        )
    }

    /// What came of its task.
    fn done(&self, end: &TaskEnd) -> (Phase, String) {
        let failures = self.target.and_then(|target| {
            let task = target.assigned.task?;
            Some(self.seen.journal.of_task(task).failed.saturating_add(task.failed_before))
        });
        match end.outcome {
            TaskOutcome::Completed => (Phase::Completed, String::new()),
            TaskOutcome::Failed => {
                (Phase::Failed, failed_in_words(failures.unwrap_or_default(), end.code))
            }
        }
    }

    fn with_complaint(&self, message: &str) -> String {
        match self.complaint() {
            complaint if complaint.is_empty() => message.to_owned(),
            complaint => format!("{message}; {complaint}"),
        }
    }

    fn complaint(&self) -> String {
        let said = |check: Check, word: &str| {
            let complaint = &self.decision.face?.checked(check).complaint;
            (!complaint.is_empty()).then(|| format!("{word}: {complaint}"))
        };
        let all = [said(Check::Health, "health check"), said(Check::Readiness, "readiness")];
        all.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    fn ended(&self) -> String {
        let journal = &self.seen.journal;
        if let Some(reason) = self.decision.face.and_then(|face| journal.given_up(face)) {
            return reason.to_owned();
        }
        match self.decision.face.map(|container| container.state) {
            Some(ContainerState::Exited { out_of_memory: true, .. }) => {
                "ended because it used more memory than its limit".to_owned()
            }
            Some(ContainerState::Exited { code, .. }) => format!("ended with exit code {code}"),
            _ => "ended".to_owned(),
        }
    }
}

fn engine_message(engine: &EngineState) -> String {
    match engine {
        EngineState::Ready => String::new(),
        EngineState::Away { reason } => reason.clone(),
        EngineState::Unknown => "the engine has not answered yet".to_owned(),
    }
}

fn phase_of(trouble: &Trouble) -> Phase {
    if trouble.is_permanent() { Phase::Failed } else { Phase::Backoff }
}

fn trouble_message(trouble: &Trouble) -> String {
    format!("{} (attempt {})", trouble.failure.message, trouble.attempts)
}
