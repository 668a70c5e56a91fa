//! Where the facts disagree: pure, facts in, findings out.
//!
//! What a disagreement is, is told from what each layer can know. An instance that is on its way to another state, by the
//! agent's own report, is not compared with the engine: there is nothing yet that both should agree on.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dwell_core::audit::{Finding, Kind, Layer, Remedy, Statement};
use dwell_core::id::InstanceName;
use dwell_core::instance::{Assigned, InstanceStatus, Outcome, Phase, RunState};
use dwell_core::workload::Limits;
use dwell_network::SeenSandbox;

use super::facts::{ContainerFacts, Facts, Process};
use super::limits;
use dwell_engine::{ContainerId, ContainerState};

/// A finding, and what mends it.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) finding: Finding,
    pub(super) action: Action,
}

/// What mends a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing that a program should decide.
    Person,
    /// The agent, once it looks.
    Recheck,
    /// Removing what of the network belongs to nothing.
    SweepNetwork,
    /// Setting the limits of a container.
    SetLimits(ContainerId, Limits),
    /// Telling the runtime the sandbox and the mounts of a container.
    Map(ContainerId),
}

/// Compares all layers with each other.
pub(super) fn judge(facts: &Facts) -> Vec<Judged> {
    let mut court = Court { facts, found: Vec::new() };
    court.assignment();
    court.engine();
    court.instances();
    court.unowned();
    court.network();
    court.found
}

struct Court<'a> {
    facts: &'a Facts,
    found: Vec<Judged>,
}

impl Court<'_> {
    /// Notes a disagreement: `right` is the claim that should be true.
    fn note(
        &mut self,
        kind: Kind,
        subject: impl Into<String>,
        right: (Layer, String),
        wrong: (Layer, String),
        (action, remedy): (Action, Remedy),
    ) {
        let claims = [right, wrong].map(|(by, says)| Statement { by, says });
        let finding = Finding { kind, subject: subject.into(), node: None, claims, remedy };
        self.found.push(Judged { finding, action });
    }

    fn assignment(&mut self) {
        let held = self.facts.assignment.position();
        if self.facts.stored == Some(held) {
            return;
        }
        let stored = match self.facts.stored {
            Some(stored) => format!("the one on disk is of revision {}", stored.revision),
            None => "there is none on disk that can be read".to_owned(),
        };
        let next =
            "free some space in the agent's data directory; its log says why it cannot be written";
        self.note(
            Kind::AssignmentUnstored,
            "the assignment",
            (Layer::Assignment, format!("it is of revision {}", held.revision)),
            (Layer::Files, stored),
            person(next),
        );
    }

    fn engine(&mut self) {
        match &self.facts.engine {
            Err(reason) => self.note(
                Kind::EngineSilent,
                "the engine",
                (Layer::Agent, "it is to run this node's instances".to_owned()),
                (Layer::Engine, reason.clone()),
                person("`dwell doctor` says what is wrong with it; what it has cannot be compared until it answers"),
            ),
            Ok(engine) => {
                for id in &engine.strangers {
                    let next = format!(
                        "remove it, or run it without the label `dwell.cluster`: `docker rm -f {id}` on the node"
                    );
                    self.note(
                        Kind::ContainerForeign,
                        format!("container {id}"),
                        (Layer::Agent, "dwell did not make it".to_owned()),
                        (Layer::Engine, "it has the label of this cluster".to_owned()),
                        person(next),
                    );
                }
                for path in &engine.leftovers {
                    self.note(
                        Kind::FileUnowned,
                        path.display().to_string(),
                        (Layer::Engine, "its container is gone".to_owned()),
                        (Layer::Files, "it is there".to_owned()),
                        recheck(),
                    );
                }
            }
        }
    }

    /// The instances that are to be here.
    fn instances(&mut self) {
        let Some(statuses) = &self.facts.statuses else { return };
        if self.facts.engine.is_err() {
            return;
        }
        let by_instance = self.facts.by_instance();
        for (name, assigned) in &self.facts.assignment.instances {
            let Some(status) = statuses.instances.get(name) else { continue };
            // What was let go is somebody else's to change.
            if status.let_go.is_some() {
                continue;
            }
            let containers = by_instance.get(name).map(Vec::as_slice).unwrap_or_default();
            let running: Vec<_> = containers.iter().copied().filter(|one| runs(one)).collect();
            if let [first, .., last] = running.as_slice()
                && !is_trial(assigned, &running)
            {
                self.note(
                    Kind::ContainerTwice,
                    instance(name),
                    (Layer::Assignment, "it runs once".to_owned()),
                    (
                        Layer::Engine,
                        format!(
                            "{} of its containers run: {} … {}",
                            running.len(),
                            short(first),
                            short(last)
                        ),
                    ),
                    recheck(),
                );
            }
            match status.phase {
                Phase::Running => {
                    let own =
                        running.iter().find(|one| one.container.id.as_str() == status.container_id);
                    match own {
                        Some(container) => self.served(assigned, status, container),
                        None => self.not_served(name, status, containers),
                    }
                }
                Phase::Stopped | Phase::Completed if assigned.run == RunState::Stopped => {
                    if let Some(one) = running.first() {
                        self.note(
                            Kind::ContainerRuns,
                            instance(name),
                            (Layer::Assignment, "it is to be stopped".to_owned()),
                            (Layer::Engine, format!("container {} runs", short(one))),
                            recheck(),
                        );
                    }
                }
                _ => {}
            }
        }
    }

    fn not_served(
        &mut self,
        name: &InstanceName,
        status: &InstanceStatus,
        all: &[&ContainerFacts],
    ) {
        let id = &status.container_id;
        let known = all.iter().find(|one| one.container.id.as_str() == id);
        let says = match known.map(|one| one.container.state) {
            Some(ContainerState::Created) => "it was never started",
            Some(_) => "it does not run",
            None => "there is no such container",
        };
        let claim = format!("it runs in container {}", id.get(..12).unwrap_or(id));
        self.note(
            Kind::ContainerMissing,
            instance(name),
            (Layer::Agent, claim),
            (Layer::Engine, says.to_owned()),
            recheck(),
        );
    }

    /// An instance that runs, with the container that it runs in.
    fn served(&mut self, assigned: &Assigned, status: &InstanceStatus, one: &ContainerFacts) {
        let name = &assigned.instance;
        let details = one.container.details.unwrap_or_default();
        let verdict = status.verdict_on(assigned.generation);
        let has_held = verdict == Some(&Outcome::Held);
        let is_ruled_out = matches!(verdict, Some(Outcome::RolledBack { .. }));
        // What was ruled out is not what it is to be: what it fell back to may differ in its share alone.
        let fallback = assigned.fallback.as_ref().filter(|_| is_ruled_out);
        let aim = fallback.unwrap_or(&assigned.template);
        // What its engine cannot enforce is a fact of the node, which its engine tells, and no difference.
        let declared = details.enforced.of(aim.limits());
        let is_of_declared =
            one.container.fingerprint == aim.fingerprint().of_edition(assigned.edition);
        if has_held && !is_of_declared {
            self.note(
                Kind::ContainerOutdated,
                instance(name),
                (Layer::Assignment, format!("it is of generation {}", assigned.generation)),
                (
                    Layer::Engine,
                    format!("container {} was made from another declaration", short(one)),
                ),
                recheck(),
            );
        }
        if is_of_declared && details.limits != declared {
            self.note(
                Kind::LimitsEngine,
                instance(name),
                (Layer::Assignment, declared.to_string()),
                (Layer::Engine, details.limits.to_string()),
                recheck(),
            );
        }
        if !one.is_mapped {
            let repair = (Action::Map(one.container.id.clone()), Remedy::Repair);
            self.note(
                Kind::Mapping,
                instance(name),
                (Layer::Engine, format!("it runs in container {}", short(one))),
                (Layer::Files, "the runtime is not told which sandbox that has".to_owned()),
                repair,
            );
        }
        self.process(name, one, details.limits);
        match self.facts.network.sandboxes.get(&one.sandbox()) {
            Some(sandbox) => self.sandbox(assigned, sandbox),
            None => self.note(
                Kind::SandboxMissing,
                instance(name),
                (Layer::Engine, format!("it runs in container {}", short(one))),
                (Layer::Kernel, "there is no sandbox of its name".to_owned()),
                recheck(),
            ),
        }
    }

    fn process(&mut self, name: &InstanceName, one: &ContainerFacts, told: Limits) {
        let pid = one.container.details.and_then(|details| details.pid).unwrap_or_default();
        let (namespace, enforced) = match &one.process {
            None => return,
            Some(Process::Gone) => {
                self.note(
                    Kind::ProcessGone,
                    instance(name),
                    (Layer::Engine, format!("container {} runs as process {pid}", short(one))),
                    (Layer::Kernel, "there is no such process in its control group".to_owned()),
                    recheck(),
                );
                return;
            }
            Some(Process::Lives { namespace, limits }) => (namespace, limits),
        };
        if let Some(enforced) = enforced.filter(|enforced| !limits::are_in_force(told, *enforced)) {
            let set = Action::SetLimits(one.container.id.clone(), told);
            self.note(
                Kind::LimitsKernel,
                instance(name),
                (Layer::Engine, told.to_string()),
                (Layer::Kernel, enforced.to_string()),
                (set, Remedy::Repair),
            );
        }
        let sandbox = self.facts.network.sandboxes.get(&one.sandbox());
        let sandbox = sandbox.and_then(|sandbox| sandbox.namespace);
        if let (Some(its), Some(sandbox)) = (namespace, sandbox)
            && *its != sandbox
        {
            self.note(
                Kind::ProcessOutside,
                instance(name),
                (Layer::Kernel, format!("its sandbox is network namespace {sandbox}")),
                (Layer::Kernel, format!("its main process {pid} is in network namespace {its}")),
                person(format!("`dwell restart {name}` puts it into its sandbox")),
            );
        }
    }

    fn sandbox(&mut self, assigned: &Assigned, sandbox: &SeenSandbox) {
        let (name, address) = (&assigned.instance, assigned.address);
        let listed = |all: &BTreeSet<Ipv4Addr>| match all.len() {
            0 => "none".to_owned(),
            _ => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        if !sandbox.addresses.contains(&address) || sandbox.mac != Some(assigned.mac) {
            let mac = sandbox.mac.map(|mac| format!(" ({mac})")).unwrap_or_default();
            self.note(
                Kind::SandboxAddress,
                instance(name),
                (Layer::Assignment, format!("its address is {address} ({})", assigned.mac)),
                (Layer::Kernel, format!("its sandbox has {}{mac}", listed(&sandbox.addresses))),
                recheck(),
            );
        }
        let Some(link) = sandbox.link.as_ref().filter(|_| sandbox.is_running) else {
            self.note(
                Kind::SandboxLink,
                instance(name),
                (Layer::Assignment, format!("it is reached at {address}")),
                (Layer::Kernel, "its interface is missing or down".to_owned()),
                recheck(),
            );
            return;
        };
        if !sandbox.routed.contains(&address) {
            self.note(
                Kind::SandboxRoute,
                instance(name),
                (Layer::Assignment, format!("it is reached at {address}")),
                (Layer::Kernel, format!("no route leads {address} to {link}")),
                recheck(),
            );
        }
        if sandbox.sources != [address].into() {
            self.note(
                Kind::SandboxSource,
                instance(name),
                (Layer::Assignment, format!("it sends from {address} and nothing else")),
                (Layer::Kernel, format!("it may send from: {}", listed(&sandbox.sources))),
                recheck(),
            );
        }
        if !sandbox.ipv6.is_empty() {
            self.note(
                Kind::SandboxAddress,
                instance(name),
                (
                    Layer::Assignment,
                    format!("its IPv6 address is the one that follows from {address}"),
                ),
                (Layer::Kernel, sandbox.ipv6.join("; ")),
                recheck(),
            );
        }
    }

    /// What is here of instances that nobody knows. Those that the agent reports are on their way out.
    fn unowned(&mut self) {
        let facts = self.facts;
        let Some(statuses) = &facts.statuses else { return };
        let is_known = |name: &InstanceName| {
            facts.assignment.instances.contains_key(name) || statuses.instances.contains_key(name)
        };
        // A restored controller may have forgotten them.
        let remedy = || {
            if facts.assignment.unconfirmed {
                person("`dwell restore status` says what the restored controller has forgotten")
            } else {
                recheck()
            }
        };
        let nobody = || (Layer::Assignment, "there is no such instance here".to_owned());
        let let_go = statuses.instances.iter().filter(|(name, status)| {
            status.let_go.is_some() && !facts.assignment.instances.contains_key(*name)
        });
        for (name, status) in let_go {
            let id = &status.container_id;
            let says = format!("it was let go, and has container {}", id.get(..12).unwrap_or(id));
            let next = "it is left alone; once nobody needs it, remove its container with Docker, and its network and journal follow";
            let files = (Layer::Files, says);
            self.note(Kind::ContainerLetGo, instance(name), nobody(), files, person(next));
        }
        for (name, containers) in
            facts.by_instance().into_iter().filter(|(name, _)| !is_known(name))
        {
            for one in containers {
                let says = format!("container {} is there", short(one));
                self.note(
                    Kind::ContainerUnowned,
                    instance(name),
                    nobody(),
                    (Layer::Engine, says),
                    remedy(),
                );
            }
        }
        let names = facts.network.sandboxes.keys().map(|sandbox| &sandbox.instance);
        for name in names.filter(|name| !is_known(name)).collect::<BTreeSet<_>>() {
            let says = (Layer::Kernel, "there is a sandbox of its name".to_owned());
            self.note(Kind::SandboxUnowned, instance(name), nobody(), says, remedy());
        }
        for name in facts.journals.iter().filter(|name| !is_known(name)) {
            let says = (Layer::Files, "there is a journal of it".to_owned());
            self.note(Kind::JournalUnowned, instance(name), nobody(), says, remedy());
        }
    }

    fn network(&mut self) {
        for stray in &self.facts.network.strays {
            self.note(
                Kind::NetworkUnowned,
                stray.clone(),
                (Layer::Agent, "no sandbox needs it".to_owned()),
                (Layer::Kernel, "it is there".to_owned()),
                (Action::SweepNetwork, Remedy::Repair),
            );
        }
        for difference in &self.facts.network.isolation {
            let of_address = |address: Ipv4Addr| {
                let mut all = self.facts.assignment.instances.values();
                all.find(|one| one.address == address)
                    .map_or_else(|| format!("address {address}"), |one| instance(&one.instance))
            };
            self.note(
                Kind::Isolation,
                difference.address.map_or_else(|| "isolated instances".to_owned(), of_address),
                (Layer::Agent, difference.declared.clone()),
                (Layer::Kernel, difference.found.clone()),
                recheck(),
            );
        }
        for route in &self.facts.network.routes {
            let remedy = if route.is_own {
                recheck()
            } else {
                person("remove what is in the way; `dwell doctor` says more of it")
            };
            self.note(
                Kind::Route,
                route.subject.clone(),
                (Layer::Assignment, route.declared.clone()),
                (Layer::Kernel, route.found.clone()),
                remedy,
            );
        }
    }
}

fn recheck() -> (Action, Remedy) {
    (Action::Recheck, Remedy::Repair)
}

fn person(next: impl Into<String>) -> (Action, Remedy) {
    (Action::Person, Remedy::Person(next.into()))
}

/// Whether one of two containers is tried beside the other.
fn is_trial(assigned: &Assigned, running: &[&ContainerFacts]) -> bool {
    matches!(running, [one, other] if assigned.beside && one.sandbox() != other.sandbox())
}

fn runs(one: &ContainerFacts) -> bool {
    one.container.state == ContainerState::Running
}

fn instance(name: &InstanceName) -> String {
    format!("instance {name}")
}

/// As engines show it.
fn short(one: &ContainerFacts) -> &str {
    let id = one.container.id.as_str();
    id.get(..12).unwrap_or(id)
}
