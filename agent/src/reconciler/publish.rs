//! Publishing what was seen, only when it says something new.

use std::collections::BTreeMap;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::instance::InstanceStatus;
use dwell_planner::{Desired, Observed, statuses};
use tokio::sync::watch;

use dwell_core::session::Statuses;

/// Publishes the statuses, unless they say the same as before. A status keeps the time at which it
/// was first seen to be so.
pub(super) fn publish(
    published: &watch::Sender<Option<Arc<Statuses>>>,
    desired: &Desired,
    observed: &Observed,
    now: Timestamp,
) {
    let before = published.borrow().clone().unwrap_or_default();
    let instances: BTreeMap<InstanceName, InstanceStatus> = statuses(desired, observed, now)
        .into_iter()
        .map(|status| {
            let known = before.instances.get(&status.instance);
            let observed_at = known
                .filter(|known| {
                    InstanceStatus { observed_at: known.observed_at, ..status.clone() } == **known
                })
                .map_or(now, |known| known.observed_at);
            (status.instance.clone(), InstanceStatus { observed_at, ..status })
        })
        .collect();
    let statuses = Statuses { revision: desired.revision(), instances };
    if published.borrow().is_none() || statuses != *before {
        published.send_replace(Some(Arc::new(statuses)));
    }
}
