//! Publishing what was seen, only when it says something new.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::instance::InstanceStatus;
use dwell_core::session::Statuses;
use dwell_planner::{Desired, EngineState, statuses};

use super::Core;
use crate::call::Output;
use crate::sights::Sights;

/// How long nothing is said of the instances while the engine has yet to be asked for the first time. Usually it
/// answers by then, and nobody has to hear that instances were unknown for a moment.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was published last.
#[derive(Default)]
pub(super) struct Published {
    statuses: Option<Arc<Statuses>>,
    engine: EngineState,
    sights: Option<Arc<Sights>>,
}

impl Core {
    /// When it is said that the engine has not answered yet.
    pub(super) fn patience_ends_at(&self) -> Option<Timestamp> {
        let is_waiting = self.observed.engine == EngineState::Unknown
            && self.published.statuses.is_none()
            && self.desired.is_some();
        is_waiting.then(|| self.started_at.after(PATIENCE))
    }

    pub(super) fn publish(&mut self, desired: &Desired, now: Timestamp) {
        if self.patience_ends_at().is_none_or(|until| until <= now) {
            self.publish_statuses(desired, now);
        }
        if self.observed.engine == EngineState::Ready {
            self.publish_sights();
        }
    }

    /// A status keeps the time at which it was first seen to be so.
    fn publish_statuses(&mut self, desired: &Desired, now: Timestamp) {
        let before = self.published.statuses.clone();
        let instances: BTreeMap<InstanceName, InstanceStatus> =
            statuses(desired, &self.observed, now)
                .into_iter()
                .map(|mut status| {
                    let known = before.as_ref().and_then(|all| all.instances.get(&status.instance));
                    if let Some(known) = known {
                        let observed_at =
                            std::mem::replace(&mut status.observed_at, known.observed_at);
                        if status != *known {
                            status.observed_at = observed_at;
                        }
                    }
                    (status.instance.clone(), status)
                })
                .collect();
        let statuses = Statuses { revision: desired.revision(), complete: self.looked, instances };
        if before.as_deref() != Some(&statuses) {
            let statuses = Arc::new(statuses);
            self.published.statuses = Some(Arc::clone(&statuses));
            self.outputs.push(Output::Statuses(statuses));
        }
    }

    fn publish_sights(&mut self) {
        let all = &self.observed.instances;
        let sights: Sights =
            all.iter().flat_map(|(name, seen)| self.watches.sights(name, seen)).collect();
        if self.published.sights.as_deref() != Some(&sights) {
            let sights = Arc::new(sights);
            self.published.sights = Some(Arc::clone(&sights));
            self.outputs.push(Output::Sights(sights));
        }
    }

    pub(super) fn publish_engine(&mut self) {
        if self.published.engine != self.observed.engine {
            self.published.engine = self.observed.engine.clone();
            self.outputs.push(Output::Engine(self.observed.engine.clone()));
        }
    }
}
