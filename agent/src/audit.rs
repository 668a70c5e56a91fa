//! Auditing this node: what its assignment, its engine, its kernel, its network and its files claim of the same things,
//! and where they disagree.
//!
//! ```text
//!   facts ─▶ judge ─┬─ nothing ─────────────────────────────▶ answer
//!                   └─ something ─ pause ─ facts ─ judge ─▶ what was found both times ─▶ answer
//!                                                             │ if it is to be repaired
//!                                                             ▼
//!                                             repair ─ facts ─ judge, until nothing is left to repair
//! ```
//!
//! The facts are gathered in one pass ([`facts`]) and judged by a pure function ([`judge`]). An instance on its way from
//! one state to another disagrees with itself for a moment, so that a disagreement counts only if it is found twice,
//! in the same words.
//!
//! Invariants: looking changes nothing. A repair makes the agent look at everything again, which puts right what it
//! is there to put right, and removes what is recognisably dwell's and belongs to nothing. Nothing of others, no volume
//! and no running container is touched.

mod facts;
mod judge;
mod limits;

use std::sync::Arc;
use std::time::Duration;

use dwell_core::audit::{FINDINGS_MAX, Finding, NodeAudit, Remedy};
use dwell_core::session::{Assignment, Claim, Statuses};
use dwell_network::Network;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use self::facts::Facts;
use self::judge::{Action, Judged, judge};
use crate::config::Config;
use dwell_daemon::Causes;
use dwell_engine::{ContainerState, SharedEngine};

/// How long what is found is given to go away by itself.
const SETTLE: Duration = Duration::from_secs(3);
/// How long a repair may take to show.
const REPAIR_LIMIT: Duration = Duration::from_secs(30);
/// How often is looked whether it does.
const REPAIR_POLL: Duration = Duration::from_secs(1);

/// Counts how often somebody wanted everything on the node to be looked at again.
pub type Recheck = watch::Sender<u64>;

/// A node that is audited.
#[derive(Clone)]
pub struct Audited {
    /// What runs its instances; a routes-only node has nothing.
    pub engine: Option<SharedEngine>,
    /// What connects them.
    pub network: Arc<dyn Network>,
    /// What it is to do.
    pub assignment: watch::Receiver<Option<Arc<Assignment>>>,
    /// What it reports.
    pub statuses: watch::Receiver<Option<Arc<Statuses>>>,
    /// Makes whoever keeps something in order look at it.
    pub recheck: Arc<Recheck>,
    /// How the agent is configured.
    pub config: Arc<Config>,
}

impl Audited {
    /// Looks at everything, and repairs what can be repaired, if that is wanted.
    ///
    /// # Errors
    /// Why nothing can be said of this node, for people.
    pub async fn audit(&self, repair: bool) -> Result<NodeAudit, String> {
        let mut facts = self.facts().await?;
        let mut found = judge(&facts);
        if !found.is_empty() {
            sleep(SETTLE).await;
            facts = self.facts().await?;
            let first = found;
            found = judge(&facts);
            found.retain(|one| first.iter().any(|before| before.finding == one.finding));
        }
        let mut findings: Vec<Finding> = found.iter().map(|one| one.finding.clone()).collect();
        if repair && findings.iter().any(|one| one.remedy == Remedy::Repair) {
            self.repair(&found).await;
            facts = self.await_repair(&mut findings).await?;
        }
        findings.truncate(FINDINGS_MAX);
        Ok(answer(&facts, findings))
    }

    /// Does what mends each finding, or makes others do it.
    async fn repair(&self, found: &[Judged]) {
        for one in found {
            let done = match &one.action {
                Action::Person | Action::Recheck => Ok(()),
                Action::SweepNetwork => {
                    self.network.sweep().await.map_err(|error| Causes(&error).to_string())
                }
                Action::SetLimits(container, limits) => match &self.engine {
                    Some(engine) => engine
                        .update_limits(container, *limits)
                        .await
                        .map_err(|error| Causes(&error).to_string()),
                    None => Ok(()),
                },
                Action::Map(container) => match &self.engine {
                    Some(engine) => engine
                        .tell_runtime(container)
                        .await
                        .map_err(|error| Causes(&error).to_string()),
                    None => Ok(()),
                },
            };
            if let Err(error) = done {
                let (kind, subject) = (one.finding.kind, &one.finding.subject);
                tracing::warn!(%kind, subject, error, "cannot repair what an audit found");
            }
        }
        self.recheck.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Waits until what can be repaired is, or it takes too long; marks what is.
    async fn await_repair(&self, findings: &mut [Finding]) -> Result<Facts, String> {
        let until = Instant::now() + REPAIR_LIMIT;
        loop {
            sleep(REPAIR_POLL).await;
            let facts = self.facts().await?;
            let left = judge(&facts);
            for finding in findings.iter_mut().filter(|one| one.remedy == Remedy::Repair) {
                if !left.iter().any(|one| one.finding.is_about_the_same(finding)) {
                    finding.remedy = Remedy::Repaired;
                    tracing::info!(kind = %finding.kind, subject = finding.subject, "repaired what an audit found");
                }
            }
            let is_done = !findings.iter().any(|one| one.remedy == Remedy::Repair);
            if is_done || until <= Instant::now() {
                return Ok(facts);
            }
        }
    }
}

/// What a node tells of itself beside its findings.
fn answer(facts: &Facts, findings: Vec<Finding>) -> NodeAudit {
    let claim_of = |name| facts.assignment.instances.get(name).map(Claim::of);
    let running = facts.engine.as_ref().ok().map(|engine| {
        let running =
            engine.containers.iter().filter(|one| one.container.state == ContainerState::Running);
        running
            .filter_map(|one| {
                let name = &one.container.instance;
                let address = claim_of(name).map(|claim| claim.address).or_else(|| {
                    let sandbox = facts.network.sandboxes.get(&one.sandbox())?;
                    sandbox.addresses.first().copied()
                })?;
                Some(Claim {
                    instance: name.clone(),
                    generation: one.container.generation,
                    address,
                })
            })
            .collect()
    });
    NodeAudit {
        findings,
        held: facts.assignment.position(),
        assigned: facts.assignment.instances.values().map(Claim::of).collect(),
        running,
        volumes: facts.engine.as_ref().ok().map(|engine| engine.volumes.clone()),
    }
}

#[cfg(test)]
mod tests;
