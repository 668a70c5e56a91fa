//! One table of disagreements, and what comes of an audit of a node of fakes.

use std::collections::BTreeSet;

use dwell_core::audit::Kind;
use dwell_core::clock::Timestamp;
use dwell_core::health::Health;
use dwell_core::id::{Generation, Position, Revision};
use dwell_core::image::ContainerImage;
use dwell_core::instance::{InstanceStatus, Outcome, Phase, RunState, Verdict};
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::sandbox::Slot;
use dwell_core::session::{NodeNetwork, Statuses};
use dwell_core::workload::{Limits, PIDS_DEFAULT, Resources, Template};
use dwell_network::fake::FakeNetwork;
use dwell_network::{IsolationDifference, Look, RouteDifference, Sandbox, SeenSandbox, fixtures};

use super::facts::{ContainerFacts, EngineFacts, Process};
use super::*;
use dwell_engine::fake::control::TokioClock;
use dwell_engine::fake::{FakeEngine, assigned};
use dwell_engine::{Container, ContainerId, Details, Engine as _};

const SHARE: Resources = Resources { cpu: Millicores(250), memory: Bytes(64 << 20) };
const LIMITS: Limits = Limits { share: SHARE, pids: PIDS_DEFAULT };

fn template() -> Template {
    Template { resources: SHARE, ..Template::of_image("a") }
}

fn status(name: &str, phase: Phase) -> InstanceStatus {
    InstanceStatus {
        instance: name.parse().unwrap(),
        generation: Generation(1),
        phase,
        health: Health::None,
        readiness: Health::None,
        container_id: format!("{name}-container"),
        address: None,
        image: ContainerImage::default(),
        started_at: Some(Timestamp(1)),
        restarts: 0,
        exit_code: None,
        ends: Vec::new(),
        hook_failed: None,
        restarts_done: 0,
        message: String::new(),
        observed_at: Timestamp(1),
        verdict: Some(Verdict { generation: Generation(1), outcome: Outcome::Held }),
        task: None,
        image_ahead: None,
        let_go: None,
    }
}

fn container(name: &str) -> ContainerFacts {
    let details = Details { pid: Some(7), limits: LIMITS, ..Details::default() };
    ContainerFacts {
        container: Container {
            id: ContainerId(format!("{name}-container")),
            instance: name.parse().unwrap(),
            generation: Generation(1),
            life: Revision::default(),
            slot: Slot::A,
            address: None,
            fingerprint: template().fingerprint(),
            state: ContainerState::Running,
            restarts_asked: 0,
            details: Some(details),
        },
        process: Some(Process::Lives { namespace: Some(1), limits: Some(LIMITS) }),
        is_mapped: true,
    }
}

/// A node on which `web-0` runs, and all agree.
fn facts() -> Facts {
    let web = assigned("web-0", 1, template());
    let (name, address, mac) = (web.instance.clone(), web.address, web.mac);
    let network = NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap());
    let assignment = Assignment {
        revision: Revision(5),
        instances: [(name.clone(), web)].into(),
        ..Assignment::empty(network)
    };
    let sandbox = SeenSandbox {
        namespace: Some(1),
        mac: Some(mac),
        addresses: [address].into(),
        link: Some("dw-1".to_owned()),
        is_running: true,
        routed: [address].into(),
        sources: [address].into(),
        ipv6: Vec::new(),
    };
    let instances = [(name.clone(), status("web-0", Phase::Running))].into();
    Facts {
        stored: Some(assignment.position()),
        statuses: Some(Arc::new(Statuses { revision: Revision(5), complete: true, instances })),
        journals: [name.clone()].into(),
        engine: Ok(EngineFacts { containers: vec![container("web-0")], ..EngineFacts::default() }),
        network: Look { sandboxes: [(name.into(), sandbox)].into(), ..Look::default() },
        assignment: Arc::new(assignment),
    }
}

fn found(facts: &Facts) -> Vec<(Kind, bool)> {
    let of = |one: Judged| (one.finding.kind, one.finding.remedy == Remedy::Repair);
    judge(facts).into_iter().map(of).collect()
}

fn engine(facts: &mut Facts) -> &mut EngineFacts {
    facts.engine.as_mut().unwrap()
}

fn web(facts: &mut Facts) -> &mut ContainerFacts {
    &mut engine(facts).containers[0]
}

fn details(facts: &mut Facts) -> &mut Details {
    web(facts).container.details.as_mut().unwrap()
}

fn sandbox(facts: &mut Facts) -> &mut SeenSandbox {
    facts.network.sandboxes.values_mut().next().unwrap()
}

fn report(facts: &mut Facts, change: impl FnOnce(&mut InstanceStatus)) {
    let statuses = Arc::make_mut(facts.statuses.as_mut().unwrap());
    change(statuses.instances.values_mut().next().unwrap());
}

#[test]
fn where_all_agree_nothing_is_found() {
    assert_eq!(found(&facts()), []);
}

#[test]
fn each_disagreement_is_found_once_and_it_is_known_who_mends_it() {
    type Change = fn(&mut Facts);
    let table: &[(Kind, bool, Change)] = &[
        (Kind::AssignmentUnstored, false, |facts| facts.stored = Some(Position::default())),
        (Kind::AssignmentUnstored, false, |facts| facts.stored = None),
        (Kind::EngineSilent, false, |facts| facts.engine = Err("it is away".to_owned())),
        (Kind::ContainerForeign, false, |facts| engine(facts).strangers.extend(["c9".into()])),
        (Kind::FileUnowned, true, |facts| engine(facts).leftovers.extend(["/run/x".into()])),
        (Kind::ContainerMissing, true, |facts| engine(facts).containers.clear()),
        (Kind::ContainerMissing, true, |facts| web(facts).container.state = ContainerState::Exited),
        (Kind::ContainerTwice, true, |facts| {
            let mut second = container("web-0");
            second.container.id = ContainerId("second".to_owned());
            engine(facts).containers.push(second);
        }),
        (Kind::ContainerRuns, true, |facts| {
            let assignment = Arc::make_mut(&mut facts.assignment);
            assignment.instances.values_mut().for_each(|one| one.run = RunState::Stopped);
            report(facts, |status| status.phase = Phase::Stopped);
        }),
        (Kind::ContainerOutdated, true, |facts| {
            web(facts).container.fingerprint = Template::of_image("b").fingerprint();
        }),
        (Kind::ContainerUnowned, true, |facts| engine(facts).containers.push(container("gone-0"))),
        (Kind::LimitsEngine, true, |facts| {
            let share = Resources { cpu: Millicores(500), ..SHARE };
            let other = Limits { share, ..LIMITS };
            details(facts).limits = other;
            let process = Process::Lives { namespace: Some(1), limits: Some(other) };
            web(facts).process = Some(process);
        }),
        (Kind::LimitsKernel, true, |facts| {
            let limits = Some(Limits { pids: 0, ..LIMITS });
            web(facts).process = Some(Process::Lives { namespace: Some(1), limits });
        }),
        (Kind::ProcessGone, true, |facts| web(facts).process = Some(Process::Gone)),
        (Kind::ProcessOutside, false, |facts| {
            let process = Process::Lives { namespace: Some(2), limits: None };
            web(facts).process = Some(process);
        }),
        (Kind::Mapping, true, |facts| web(facts).is_mapped = false),
        (Kind::SandboxMissing, true, |facts| facts.network.sandboxes.clear()),
        (Kind::SandboxAddress, true, |facts| {
            sandbox(facts).addresses = ["10.80.9.9".parse().unwrap()].into();
        }),
        (Kind::SandboxAddress, true, |facts| sandbox(facts).mac = None),
        (Kind::SandboxLink, true, |facts| sandbox(facts).is_running = false),
        (Kind::SandboxRoute, true, |facts| sandbox(facts).routed.clear()),
        (Kind::SandboxSource, true, |facts| sandbox(facts).sources.clear()),
        (Kind::SandboxSource, true, |facts| {
            sandbox(facts).sources.insert("10.80.9.9".parse().unwrap());
        }),
        (Kind::SandboxUnowned, true, |facts| {
            let one = sandbox(facts).clone();
            facts.network.sandboxes.insert("gone-0".parse().unwrap(), one);
        }),
        (Kind::JournalUnowned, true, |facts| facts.journals.extend(["gone-0".parse().unwrap()])),
        (Kind::NetworkUnowned, true, |facts| facts.network.strays.extend(["x".to_owned()])),
        (Kind::Isolation, true, |facts| {
            let address = facts.assignment.instances.values().next().map(|web| web.address);
            facts.network.isolation.push(IsolationDifference {
                address,
                declared: "who may reach it is in a set".to_owned(),
                found: "1 of its elements is missing".to_owned(),
            });
        }),
        (Kind::Route, true, |facts| facts.network.routes.push(difference(true))),
        (Kind::Route, false, |facts| facts.network.routes.push(difference(false))),
    ];
    for (kind, is_repaired, change) in table {
        let mut facts = facts();
        change(&mut facts);
        assert_eq!(found(&facts), [(*kind, *is_repaired)]);
        let words: BTreeSet<String> =
            judge(&facts)[0].finding.claims.iter().map(|claim| claim.says.clone()).collect();
        assert!(words.len() == 2 && words.iter().all(|says| !says.is_empty()), "{words:?}");
    }
}

fn difference(is_own: bool) -> RouteDifference {
    RouteDifference {
        subject: "route 10.80.2.0/24".to_owned(),
        declared: "it leads to h2".to_owned(),
        found: "there is none".to_owned(),
        is_own,
    }
}

#[test]
fn what_is_on_its_way_disagrees_with_nobody() {
    type Change = fn(&mut Facts);
    let table: &[Change] = &[
        // Its container is being replaced, or it waits for its next start.
        |facts| {
            engine(facts).containers.clear();
            report(facts, |status| status.phase = Phase::Preparing);
        },
        |facts| {
            engine(facts).containers.clear();
            report(facts, |status| status.phase = Phase::Backoff);
        },
        // A new generation has to show that it holds; until then what served before may be there.
        |facts| {
            web(facts).container.fingerprint = Template::of_image("before").fingerprint();
            details(facts).limits = Limits::default();
            let process = Process::Lives { namespace: Some(1), limits: None };
            web(facts).process = Some(process);
            report(facts, |status| status.verdict = None);
        },
        // It fell back to what differs in its share alone.
        |facts| {
            let assignment = Arc::make_mut(&mut facts.assignment);
            for one in assignment.instances.values_mut() {
                one.fallback = Some(one.template.clone());
                one.template.resources = Resources { memory: Bytes(99 << 20), ..SHARE };
            }
            report(facts, |status| {
                let outcome = Outcome::RolledBack { reason: "it ended".to_owned() };
                status.verdict = Some(Verdict { generation: Generation(1), outcome });
            });
        },
        // The node's kernel cannot limit processes.
        |facts| {
            let unlimited = Limits { pids: 0, ..LIMITS };
            details(facts).enforced.pids = false;
            details(facts).limits = unlimited;
            let process = Process::Lives { namespace: Some(1), limits: Some(unlimited) };
            web(facts).process = Some(process);
        },
        // An instance that leaves is stopped with a grace.
        |facts| {
            engine(facts).containers.push(container("gone-0"));
            let statuses = Arc::make_mut(facts.statuses.as_mut().unwrap());
            let leaving = status("gone-0", Phase::Stopping);
            statuses.instances.insert(leaving.instance.clone(), leaving);
        },
        // Nobody has looked yet.
        |facts| {
            engine(facts).containers.clear();
            facts.statuses = None;
        },
    ];
    for (at, change) in table.iter().enumerate() {
        let mut facts = facts();
        change(&mut facts);
        assert_eq!(found(&facts), [], "case {at}");
    }
}

#[test]
fn what_a_restored_controller_may_have_forgotten_is_left_to_a_person() {
    let mut facts = facts();
    Arc::make_mut(&mut facts.assignment).unconfirmed = true;
    engine(&mut facts).containers.push(container("gone-0"));
    assert_eq!(found(&facts), [(Kind::ContainerUnowned, false)]);
}

/// A node of fakes, at rest, with something in its network and its engine that belongs to nothing.
#[tokio::test(start_paused = true)]
async fn what_is_found_twice_is_told_and_what_was_repaired_is_said() {
    let disk = tempfile::tempdir().unwrap();
    let engine = FakeEngine::new(Arc::new(TokioClock::new()));
    let network = FakeNetwork::default();
    let assignment = facts().assignment;
    let web = assignment.instances.values().next().unwrap().clone();
    network.ensure_host(&fixtures::host()).await.unwrap();
    let sandbox = Sandbox::only(web.instance.clone(), web.address, web.mac);
    network.ensure_sandbox(&sandbox).await.unwrap();
    crate::assignment::cache::store(disk.path(), &assignment).unwrap();
    let statuses = facts().statuses.map(|statuses| {
        let mut statuses = Statuses::clone(&statuses);
        // No process of a fake is one of the kernel's, so that the instance is not said to run.
        statuses.instances.values_mut().for_each(|status| status.phase = Phase::Preparing);
        Arc::new(statuses)
    });
    let config = Config {
        data_dir: disk.path().to_owned(),
        run_dir: disk.path().join("run"),
        ..Config::default()
    };
    let audited = Audited {
        engine: Some(Arc::new(engine.clone())),
        network: Arc::new(network.clone()),
        assignment: watch::Sender::new(Some(Arc::clone(&assignment))).subscribe(),
        statuses: watch::Sender::new(statuses).subscribe(),
        recheck: Arc::default(),
        config: Arc::new(config),
    };
    let clean = audited.audit(true).await.unwrap();
    assert_eq!((&clean.findings, clean.assigned.len()), (&Vec::new(), 1));
    assert_eq!((clean.held, clean.running), (assignment.position(), Some(Vec::new())));
    assert_eq!(*audited.recheck.borrow(), 0, "nobody is disturbed for nothing");

    network.stray("interface dw-x");
    engine.leave_file("/run/dwell/containers/x");
    let kinds = |audit: &NodeAudit| {
        audit.findings.iter().map(|one| (one.kind, one.remedy.clone())).collect::<Vec<_>>()
    };
    let told = audited.audit(false).await.unwrap();
    let expected = [Kind::FileUnowned, Kind::NetworkUnowned];
    assert_eq!(kinds(&told), expected.map(|kind| (kind, Remedy::Repair)));
    assert_eq!(audited.audit(false).await.unwrap(), told, "looking changes nothing");

    // Whoever looks again sweeps; here that is this test.
    let mut rechecks = audited.recheck.subscribe();
    let (swept, repaired) = tokio::join!(
        async {
            rechecks.changed().await.unwrap();
            engine.sweep().await.unwrap();
        },
        audited.audit(true)
    );
    let () = swept;
    assert_eq!(kinds(&repaired.unwrap()), expected.map(|kind| (kind, Remedy::Repaired)));
    assert_eq!(audited.audit(false).await.unwrap().findings, []);

    // What goes away by itself within a moment is not told.
    network.stray("interface dw-y");
    let (told, ()) = tokio::join!(audited.audit(false), async {
        sleep(SETTLE / 2).await;
        network.sweep().await.unwrap();
    });
    assert_eq!(told.unwrap().findings, []);
}
