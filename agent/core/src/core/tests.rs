//! The core against a node that the tests play by hand: what it asks for, and what it makes of the answers.

use dwell_core::fixtures;
use dwell_core::id::{Generation, Revision};
use dwell_core::instance::{Assigned, Custody, Phase};
use dwell_core::sandbox::Slot;
use dwell_core::session::Statuses;
use dwell_core::workload::Template;
use dwell_planner::{Failure, FailureKind};

use super::*;
use crate::{CallFailure, CallId, Cause, Listed, Outcome};
use dwell_core::container::{Container, ContainerState, Details};

const SECOND: u64 = 1_000;

/// A core, the calls it waits for, and what it published last.
struct Node {
    core: Core,
    now: Timestamp,
    open: BTreeMap<CallId, Call>,
    statuses: Option<Arc<Statuses>>,
    engine: EngineState,
}

impl Node {
    fn new(instances: &[&str]) -> Self {
        let settings = Settings { calls_max: 2, backstop: Duration::from_secs(600) };
        let now = Timestamp(1_000 * SECOND);
        let mut node = Self {
            core: Core::new(settings, BTreeMap::new(), now),
            now,
            open: BTreeMap::new(),
            statuses: None,
            engine: EngineState::Unknown,
        };
        let desired: Desired = instances.iter().map(|name| assigned(name)).collect();
        node.tell(Input::Desired(Arc::new(desired.at(Revision(7)))));
        node
    }

    fn tell(&mut self, input: Input) {
        let outputs = self.core.handle(input, self.now);
        self.carry_out(outputs);
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Begin { id, call } => drop(self.open.insert(id, call)),
                Output::Abandon { id } => drop(self.open.remove(&id)),
                Output::Statuses(statuses) => self.statuses = Some(statuses),
                Output::Engine(engine) => self.engine = engine,
                Output::Watch(_) | Output::Unwatch(_) | Output::Sights(_) => {}
            }
        }
    }

    /// Lets time pass, and the core do what is due on the way.
    fn pass(&mut self, seconds: u64) {
        let end = Timestamp(self.now.0 + seconds * SECOND);
        loop {
            let outputs = self.core.advance(self.now);
            self.carry_out(outputs);
            match self.core.wake_at(self.now) {
                Some(at) if at <= end => self.now = at.max(Timestamp(self.now.0 + 1)),
                _ => break,
            }
        }
        self.now = end;
        let outputs = self.core.advance(end);
        self.carry_out(outputs);
    }

    /// Answers all open calls, and those that follow, until there is none that `answer` has an answer for.
    fn answer(&mut self, answer: impl Fn(&Call) -> Option<Outcome>) {
        for _ in 0..1_000 {
            let found = self.open.iter().find_map(|(id, call)| Some((*id, answer(call)?)));
            let Some((id, outcome)) = found else { return };
            self.open.remove(&id);
            self.tell(Input::Done { id, outcome });
        }
        panic!("it does not come to rest: {:?}", self.open);
    }

    fn phase(&self, name: &str) -> Phase {
        self.statuses.as_ref().unwrap().instances[&name.parse().unwrap()].phase
    }

    fn message(&self, name: &str) -> &str {
        &self.statuses.as_ref().unwrap().instances[&name.parse().unwrap()].message
    }
}

fn assigned(name: &str) -> Assigned {
    fixtures::assigned(name, 1, Template::of_image("a"))
}

/// A container that runs for an instance, whose name is its id.
fn running(name: &str) -> Container {
    Container {
        id: ContainerId(name.to_owned()),
        instance: name.parse().unwrap(),
        generation: Generation(1),
        life: Revision::default(),
        slot: Slot::A,
        address: None,
        fingerprint: Template::of_image("a").fingerprint(),
        state: ContainerState::Running,
        restarts_asked: 0,
        details: Some(Details { started_at: Some(Timestamp(1)), ..Details::default() }),
    }
}

/// The answers of a node on which these run; those in `hanging` cannot be looked at.
fn answers<'a>(
    all: &'a [&'a str],
    hanging: &'a [&'a str],
) -> impl Fn(&Call) -> Option<Outcome> + 'a {
    move |call| {
        Some(match call {
            Call::List => Outcome::Listed(
                all.iter()
                    .map(|name| Listed {
                        id: ContainerId((*name).to_owned()),
                        instance: name.parse().unwrap(),
                    })
                    .collect(),
            ),
            Call::Sandboxes => {
                Outcome::Sandboxes(all.iter().map(|name| name.parse().unwrap()).collect())
            }
            Call::Inspect { container, .. } if hanging.contains(&container.as_str()) => {
                return None;
            }
            Call::Inspect { container, .. } => {
                Outcome::Found(Box::new(running(container.as_str())))
            }
            Call::Sweep => Outcome::Journals(BTreeMap::new()),
            Call::Ping | Call::EndUnlisted { .. } | Call::Pull { .. } | Call::Step { .. } => {
                Outcome::Done
            }
        })
    }
}

#[test]
fn nothing_is_complete_before_everything_was_looked_at() {
    let mut node = Node::new(&["web-0"]);
    assert!(node.statuses.is_none(), "a moment later more is known");
    node.tell(Input::Lost { reason: "connection refused".to_owned() });
    let statuses = node.statuses.clone().unwrap();
    assert!(!statuses.complete);
    assert_eq!(node.phase("web-0"), Phase::Unknown);
    node.tell(Input::Connected);
    node.pass(1);
    assert!(!node.statuses.as_ref().unwrap().complete, "the lists have not come");
    // What nobody desires is there until it was seen to go.
    node.answer(answers(&["web-0", "old-0"], &[]));
    let statuses = node.statuses.clone().unwrap();
    assert!(statuses.complete && statuses.revision == Revision(7));
    assert_eq!((node.phase("web-0"), node.phase("old-0")), (Phase::Running, Phase::Stopping));
}

#[test]
fn one_container_that_cannot_be_looked_at_is_unknown_and_others_go_on() {
    let mut node = Node::new(&["web-0", "web-1"]);
    node.tell(Input::Connected);
    node.answer(answers(&["web-0", "web-1"], &["web-0"]));
    for _ in 0..40 {
        node.pass(3);
        node.answer(answers(&["web-0", "web-1"], &["web-0"]));
    }
    assert_eq!(node.engine, EngineState::Ready);
    assert_eq!((node.phase("web-0"), node.phase("web-1")), (Phase::Unknown, Phase::Running));
    assert!(node.message("web-0").contains("container web-0"), "{}", node.message("web-0"));
    let looks = node.open.values().filter(|call| matches!(call, Call::Inspect { .. })).count();
    assert!(looks <= 1, "{looks} looks at one container at once");
    node.pass(1);
    node.answer(answers(&["web-0", "web-1"], &[]));
    assert_eq!(node.phase("web-0"), Phase::Running);
}

/// The engine is not asked while it makes a container, however long that takes; the kernel has spoken.
#[test]
fn what_the_kernel_says_has_ended_is_not_shown_as_running_while_a_step_hangs() {
    let mut node = Node::new(&["web-0"]);
    node.tell(Input::Connected);
    node.answer(answers(&["web-0"], &[]));
    let mut next = assigned("web-0");
    (next.generation, next.template) = (Generation(2), Template::of_image("b"));
    let desired: Desired = [next].into_iter().collect();
    node.tell(Input::Desired(Arc::new(desired.at(Revision(8)))));
    let is_made = |call: &Call| matches!(call, Call::Step { step: Step::Create { .. }, .. });
    assert!(node.open.values().any(is_made), "{:?}", node.open);
    assert_eq!(node.phase("web-0"), Phase::Running);
    node.tell(Input::Ended {
        instance: "web-0".parse().unwrap(),
        container: ContainerId("web-0".to_owned()),
        started_at: Timestamp(1),
    });
    node.pass(1);
    assert_ne!(node.phase("web-0"), Phase::Running);
}

#[test]
fn an_engine_that_freezes_is_noticed_by_pings() {
    let mut node = Node::new(&["web-0"]);
    node.tell(Input::Connected);
    node.answer(answers(&["web-0"], &[]));
    assert_eq!(node.engine, EngineState::Ready);
    node.pass(10);
    assert!(matches!(node.engine, EngineState::Away { .. }), "{:?}", node.engine);
    node.answer(answers(&["web-0"], &[]));
    node.pass(2);
    node.answer(answers(&["web-0"], &[]));
    assert_eq!(node.engine, EngineState::Ready);
}

#[test]
fn a_step_that_fails_for_one_does_not_touch_the_engine() {
    let mut node = Node::new(&["web-0"]);
    node.tell(Input::Connected);
    let empty = answers(&[], &[]);
    node.answer(|call| match call {
        Call::Step { step: Step::Create { .. }, .. } => Some(Outcome::Failed(CallFailure {
            failure: Failure { kind: FailureKind::Transient, message: "no reply".to_owned() },
            cause: Cause::NoAnswer,
        })),
        Call::Step { .. } | Call::Ping => None,
        call => empty(call),
    });
    assert_eq!(node.engine, EngineState::Ready);
    assert!(node.open.values().any(|call| *call == Call::Ping), "it is asked whether it lives");
}

#[test]
fn an_instance_of_which_nothing_is_found_is_not_in_doubt_any_more() {
    let mut node = Node::new(&["web-0"]);
    node.tell(Input::Connected);
    let empty = answers(&[], &[]);
    let without_create = |call: &Call| match call {
        Call::Step { step: Step::Create { .. }, .. } => None,
        call => empty(call),
    };
    node.answer(without_create);
    let is_create = |call: &Call| matches!(call, Call::Step { step: Step::Create { .. }, .. });
    assert!(node.open.values().any(is_create));
    // The answer is lost, and no container was made.
    for _ in 0..150 {
        node.pass(1);
        node.answer(without_create);
    }
    assert!(!node.core.observed().instances[&"web-0".parse().unwrap()].in_doubt);
    assert!(node.open.values().any(is_create), "it is tried again");
}

#[test]
fn what_cannot_be_ended_is_told_all_the_time_until_it_is() {
    let mut node = Node::new(&["web-0"]);
    node.tell(Input::Connected);
    let empty = answers(&[], &[]);
    let refuses = |call: &Call| match call {
        Call::EndUnlisted { .. } => Some(Outcome::Failed(CallFailure {
            failure: Failure {
                kind: FailureKind::Transient,
                message: "process 7 does not end".to_owned(),
            },
            cause: Cause::Other,
        })),
        Call::Step { .. } => None,
        call => empty(call),
    };
    node.answer(refuses);
    for _ in 0..60 {
        node.pass(1);
        // That the engine has nothing to say of it is no news.
        node.answer(|call| match call {
            Call::EndUnlisted { .. } => None,
            call => refuses(call),
        });
        assert!(node.message("web-0").contains("process 7"), "{}", node.message("web-0"));
        node.answer(refuses);
        assert!(node.message("web-0").contains("process 7"), "{}", node.message("web-0"));
        assert!(node.core.observed().instances[&"web-0".parse().unwrap()].in_doubt);
    }
    node.pass(10);
    node.answer(|call| match call {
        Call::Step { .. } => None,
        call => empty(call),
    });
    let is_create = |call: &Call| matches!(call, Call::Step { step: Step::Create { .. }, .. });
    assert!(node.open.values().any(is_create), "{:?}", node.open);
    assert!(!node.message("web-0").contains("process 7"), "{}", node.message("web-0"));
}

/// A store that the engine does not show any more may have its container, which is to run on.
#[test]
fn what_the_engine_has_lost_sight_of_is_not_ended_while_it_is_let_go() {
    let mut node = Node::new(&[]);
    let journal = Journal { let_go: Some(Generation(1)), ..Journal::default() };
    let settings = Settings { calls_max: 2, backstop: Duration::from_secs(600) };
    let journals = [("web-0".parse().unwrap(), journal)].into();
    node.core = Core::new(settings, journals, node.now);
    let desire = |node: &mut Node, generation, custody| {
        let generation = Generation(generation);
        let desired: Desired =
            [Assigned { generation, custody, ..assigned("web-0") }].into_iter().collect();
        node.tell(Input::Desired(Arc::new(desired.at(Revision(generation.0)))));
    };
    let ended = std::cell::Cell::new(0);
    let there = answers(&[], &[]);
    let answer = |call: &Call| {
        let ends = matches!(call, Call::EndUnlisted { .. });
        ended.set(ended.get() + usize::from(ends));
        there(call).filter(|_| !matches!(call, Call::Step { .. }))
    };
    desire(&mut node, 1, Custody::LetGo(Generation(1)));
    node.tell(Input::Connected);
    node.answer(answer);
    assert_eq!((&node.engine, ended.get()), (&EngineState::Ready, 0));
    desire(&mut node, 2, Custody::Adopted(Generation(2)));
    node.answer(answer);
    assert_eq!(ended.get(), 1, "before anything is started again");
}

#[test]
fn a_journal_of_an_instance_that_nobody_knows_is_forgotten() {
    let mut node = Node::new(&["web-0"]);
    node.tell(Input::Connected);
    let there = answers(&["web-0"], &[]);
    let forgotten = std::cell::RefCell::new(Vec::new());
    let answer = |call: &Call| match call {
        Call::Sweep => {
            let journal = Journal { restarts: 1, ..Journal::default() };
            let names = ["web-0", "gone-0"].map(|name| name.parse().unwrap());
            Some(Outcome::Journals(names.map(|name| (name, journal.clone())).into()))
        }
        Call::Step { instance, step: Step::Forget, .. } => {
            forgotten.borrow_mut().push(instance.to_string());
            Some(Outcome::Done)
        }
        call => there(call),
    };
    node.answer(answer);
    assert_eq!(forgotten.take(), ["gone-0"]);
    node.tell(Input::Recheck);
    node.answer(answer);
    assert_eq!(forgotten.take(), ["gone-0"], "each complete look is followed by a sweep");
}

#[test]
fn nothing_is_swept_before_it_is_known_what_is_desired() {
    let settings = Settings { calls_max: 2, backstop: Duration::from_secs(600) };
    let now = Timestamp(SECOND);
    let mut node = Node::new(&[]);
    node.core = Core::new(settings, BTreeMap::new(), now);
    node.open.clear();
    let swept = std::cell::Cell::new(0);
    let there = answers(&["web-0"], &[]);
    let answer = |call: &Call| {
        swept.set(swept.get() + usize::from(*call == Call::Sweep));
        there(call)
    };
    node.tell(Input::Connected);
    node.answer(answer);
    assert_eq!((&node.engine, swept.get()), (&EngineState::Ready, 0));
    node.tell(Input::Desired(Arc::new(Desired::default().at(Revision(7)))));
    node.answer(answer);
    assert_eq!(swept.get(), 1, "what an agent that was killed has left is not there for long");
    node.tell(Input::Recheck);
    node.answer(answer);
    assert_eq!(swept.get(), 2);
}

/// A container whose making got no answer may have left files that nobody owns.
#[test]
fn when_the_last_of_an_instance_has_gone_what_is_left_of_it_is_swept() {
    let mut node = Node::new(&["web-0", "web-1"]);
    let swept = std::cell::Cell::new(0);
    let there = answers(&[], &[]);
    let answer = |call: &Call| {
        swept.set(swept.get() + usize::from(*call == Call::Sweep));
        match call {
            Call::Step { .. } => None,
            call => there(call),
        }
    };
    node.tell(Input::Connected);
    node.answer(answer);
    assert_eq!(swept.get(), 1);
    node.tell(Input::Desired(Arc::new(Desired::default().at(Revision(8)))));
    node.open.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| {
        node.open.remove(&id);
        let failure = Failure { kind: FailureKind::Transient, message: "refused".to_owned() };
        let failed = CallFailure { failure, cause: Cause::Engine };
        node.tell(Input::Done { id, outcome: Outcome::Failed(failed) });
    });
    for _ in 0..20 {
        node.pass(1);
        node.answer(answer);
    }
    assert_eq!(swept.get(), 2, "once for all of them");
}

#[test]
fn what_somebody_changes_while_the_sandbox_is_repaired_is_looked_at() {
    let mut node = Node::new(&["web-0"]);
    node.tell(Input::Connected);
    node.answer(answers(&["web-0"], &[]));
    node.tell(Input::SandboxesDisturbed);
    let is_repair =
        |call: &Call| matches!(call, Call::Step { step: Step::RepairSandbox { .. }, .. });
    assert!(node.open.values().any(is_repair));
    let (id, instance) = (ContainerId("web-0".to_owned()), "web-0".parse().unwrap());
    let kind = dwell_core::container::EventKind::Changed;
    node.tell(Input::Event(dwell_core::container::Event { id, instance, at: Timestamp(2), kind }));
    node.answer(|call| is_repair(call).then_some(Outcome::Done));
    assert!(node.open.values().any(|call| matches!(call, Call::Inspect { .. })), "{:?}", node.open);
}
