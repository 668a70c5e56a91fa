//! Who may reach the instances of this node, and whom they may reach: `allow_from`, the cluster's switch and `allow_to`,
//! resolved with the directory and handed to the network.
//!
//! ```text
//!   assignment ──┐                                                ┌──▶ network: rules in force
//!                ├──▶ policies() ──▶ keep ──▶ sync_policies ──────┤
//!   directory ───┘                                                └──▶ settled ──▶ reconciler: sandboxes
//! ```
//!
//! Invariant: no sandbox is made for an instance that is not [`Settled`], so that an isolated one can never be reached
//! openly, not even for the instant between its first packet and its rules. If the kernel refuses the rules,
//! isolated instances that have none yet are not started, and all others are looked after as ever.
//!
//! An assignment is acted on at once; changes of the directory, which follow every start and end anywhere in the
//! cluster, go together for [`DIRECTORY_PAUSE`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::directory::Directory;
use dwell_core::id::WorkloadName;
use dwell_core::instance::Assigned;
use dwell_core::session::Assignment;
use dwell_core::workload::{AllowRule, AllowSource};
use ipnet::Ipv4Net;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::directory::Directories;
use dwell_daemon::Causes;
use dwell_network::{Allow, Direction, Network, Policy, PortRange};

/// The addresses of assigned instances that are open to all, or whose rules are in force.
pub type Settled = watch::Receiver<Arc<BTreeSet<Ipv4Addr>>>;

/// The least time between two looks at a directory that has changed.
const DIRECTORY_PAUSE: Duration = Duration::from_millis(100);
/// The first wait after a failure; it doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(1);
/// The longest wait after a failure.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The policies of all instances of the assignment that are not open to all, or may not reach all, by address.
#[must_use]
pub fn policies(assignment: &Assignment, directory: &Directory) -> Vec<Policy> {
    let directions = [Direction::In, Direction::Out];
    let all = assignment.instances.values();
    let all = all.flat_map(|assigned| directions.map(|direction| (assigned, direction)));
    let policies = all.filter_map(|(assigned, direction)| {
        let rules = rules(assignment, assigned, direction)?;
        let mut allowed: Vec<Allow> = Vec::new();
        for rule in rules {
            let ports: Vec<PortRange> = rule.ports.iter().map(|&range| port_range(range)).collect();
            let sources = sources(&rule.from, assigned.instance.workload(), directory);
            allowed.extend(sources.map(|source| Allow { source, ports: ports.clone() }));
        }
        allowed.sort_unstable();
        allowed.dedup();
        let address = assigned.address;
        Some(((address, direction), Policy { address, direction, allowed }))
    });
    policies.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// The rules of an instance in one direction; `None` if there it is open to all, or reaches all.
fn rules<'a>(
    assignment: &Assignment,
    assigned: &'a Assigned,
    direction: Direction,
) -> Option<&'a [AllowRule]> {
    let nobody = assignment.network.closed.then_some(&[][..]);
    match direction {
        Direction::In => assigned.template.allow_from.as_deref().or(nobody),
        Direction::Out => assigned.template.allow_to.as_deref(),
    }
}

/// The addresses that a source stands for, seen from an instance of `own`. That the instance is itself among the
/// instances of its workload does no harm: what it sends to itself never leaves its sandbox.
fn sources<'a>(
    source: &'a AllowSource,
    own: &'a WorkloadName,
    directory: &'a Directory,
) -> Box<dyn Iterator<Item = Ipv4Net> + 'a> {
    let of = |workload| directory.instances_of(workload).map(|(_, one)| Ipv4Net::from(one.address));
    match source {
        AllowSource::Any => Box::new(std::iter::once(Ipv4Net::default())),
        AllowSource::Cidr(range) => Box::new(std::iter::once(range.trunc())),
        AllowSource::SameWorkload => Box::new(of(own)),
        AllowSource::Workload(workload) => Box::new(of(workload)),
        AllowSource::Labels(labels) => {
            let has_all = |found: &BTreeMap<String, String>| {
                labels.iter().all(|(name, value)| found.get(name) == Some(value))
            };
            let chosen = directory.workloads.iter().filter(move |(_, one)| has_all(&one.labels));
            Box::new(chosen.flat_map(move |(workload, _)| of(workload)))
        }
    }
}

fn port_range(range: dwell_core::workload::PortRange) -> PortRange {
    PortRange { protocol: range.protocol, first: range.first, last: range.last }
}

/// Who keeps the policies in force.
pub struct Isolation {
    /// What enforces them.
    pub network: Arc<dyn Network>,
    /// What the node is to do.
    pub assignment: watch::Receiver<Option<Arc<Assignment>>>,
    /// Who is where.
    pub directory: Directories,
    /// See [`Settled`].
    pub settled: watch::Sender<Arc<BTreeSet<Ipv4Addr>>>,
}

impl Isolation {
    /// Keeps them until the task is dropped.
    pub async fn keep(mut self) {
        let mut in_force: Option<Vec<Policy>> = None;
        let mut pause = RETRY;
        loop {
            let mut retry_at = None;
            let assignment = self.assignment.borrow_and_update().clone();
            if let Some(assignment) = assignment {
                let wanted = policies(&assignment, &self.directory.borrow_and_update());
                if in_force.as_ref() != Some(&wanted) {
                    match self.network.sync_policies(&wanted).await {
                        Ok(()) => {
                            tracing::debug!(isolated = wanted.len(), "who may reach instances");
                            in_force = Some(wanted);
                            pause = RETRY;
                        }
                        Err(error) => {
                            tracing::error!(
                                error = %Causes(&error), retry_s = pause.as_secs(),
                                "cannot set who may reach instances and whom they may reach; those with rules are not started until it succeeds"
                            );
                            retry_at = Some(Instant::now() + pause);
                            pause = (pause * 2).min(RETRY_MAX);
                        }
                    }
                }
                self.settle(&assignment, in_force.as_deref().unwrap_or_default());
            }
            let directory_from = Instant::now() + DIRECTORY_PAUSE;
            // Cancel-safe: all that is lost is a wait.
            tokio::select! {
                Ok(()) = self.assignment.changed() => {}
                Ok(()) = async {
                    sleep_until(directory_from).await;
                    self.directory.changed().await
                } => {}
                () = async {
                    match retry_at {
                        Some(at) => sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    /// Publishes which instances may get a sandbox. Where a change could not be made, the policy of before is in
    /// force: stale perhaps, and not open.
    fn settle(&self, assignment: &Assignment, in_force: &[Policy]) {
        let enforced: BTreeSet<(Ipv4Addr, Direction)> =
            in_force.iter().map(|policy| (policy.address, policy.direction)).collect();
        let is_settled = |assigned: &&Assigned| {
            [Direction::In, Direction::Out].into_iter().all(|direction| {
                rules(assignment, assigned, direction).is_none()
                    || enforced.contains(&(assigned.address, direction))
            })
        };
        let instances = assignment.instances.values().filter(is_settled);
        let settled = instances.map(|assigned| assigned.address).collect();
        self.settled.send_if_modified(|published| {
            let differs = **published != settled;
            if differs {
                *published = Arc::new(settled);
            }
            differs
        });
    }
}

#[cfg(test)]
mod tests;
