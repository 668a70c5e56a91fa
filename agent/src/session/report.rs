//! What one stream has told the controller of the node's instances, and what it has yet to tell.
//!
//! Reports are differences: an instance is in one when it differs from what this stream sent last, so
//! that any number of changes between two reports costs one message, and the newest state wins.

use std::collections::BTreeMap;

use dwell_core::id::{Incarnation, InstanceName, Position, Revision};
use dwell_core::instance::InstanceStatus;
use dwell_core::session::{StatusReport, Statuses};

/// What the controller knows by this stream.
#[derive(Debug, Default)]
pub(super) struct Reported {
    /// Whether it knows everything.
    complete: bool,
    revision: Revision,
    instances: BTreeMap<InstanceName, InstanceStatus>,
}

impl Reported {
    /// What there is to tell; `None` for nothing. The first report that has a node to tell of is complete;
    /// an agent that has not looked yet must not be taken to have seen an empty node.
    /// `incarnation` is that of the assignment that the statuses were seen under.
    pub(super) fn next(
        &mut self,
        now: Option<&Statuses>,
        incarnation: Incarnation,
    ) -> Option<StatusReport> {
        let now = now?;
        let news: Vec<&InstanceStatus> =
            now.instances.values().filter(|status| self.is_news(status)).collect();
        let gone: Vec<InstanceName> = self
            .instances
            .keys()
            .filter(|&name| !now.instances.contains_key(name))
            .cloned()
            .collect();
        if self.complete && news.is_empty() && gone.is_empty() && self.revision == now.revision {
            return None;
        }
        let report = StatusReport {
            seen_under: Position { incarnation, revision: now.revision },
            complete: !self.complete,
            instances: news.iter().map(|&status| status.clone()).collect(),
            gone,
            volumes: None,
        };
        self.instances.extend(news.iter().map(|&new| (new.instance.clone(), new.clone())));
        self.instances.retain(|name, _| now.instances.contains_key(name));
        self.revision = now.revision;
        self.complete = true;
        Some(report)
    }

    /// Whether a status says something new. To have looked again and seen the same is nothing new.
    fn is_news(&self, status: &InstanceStatus) -> bool {
        let observed_at = status.observed_at;
        self.instances
            .get(&status.instance)
            .is_none_or(|sent| InstanceStatus { observed_at, ..sent.clone() } != *status)
    }
}
