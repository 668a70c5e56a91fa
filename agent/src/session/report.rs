//! What one stream has told the controller of the node's instances, and what it has yet to tell.
//!
//! Reports are differences: an instance is in one when it differs from what this stream sent last, so
//! that any number of changes between two reports costs one message, and the newest state wins.

use std::collections::BTreeMap;
use std::sync::Arc;

use dwell_core::id::{Incarnation, InstanceName, Position, Revision};
use dwell_core::instance::InstanceStatus;
use dwell_core::session::{StatusReport, Statuses};

use crate::volumes::Volumes;

/// What the controller knows by this stream.
#[derive(Debug, Default)]
pub(super) struct Reported {
    /// Whether it was told anything.
    begun: bool,
    /// Whether it knows everything.
    complete: bool,
    revision: Revision,
    instances: BTreeMap<InstanceName, InstanceStatus>,
    volumes: Option<Arc<Volumes>>,
}

impl Reported {
    /// What there is to tell; `None` for nothing. The first report of a node that was looked at is complete.
    /// Until then nothing is gone, whatever is not listed, and a report is of no revision: nobody has seen what is
    /// left of instances that are not in the assignment any more.
    /// `incarnation` is that of the assignment that the statuses were seen under.
    pub(super) fn next(
        &mut self,
        now: Option<&Statuses>,
        incarnation: Incarnation,
    ) -> Option<StatusReport> {
        let now = now?;
        let news: Vec<&InstanceStatus> =
            now.instances.values().filter(|status| self.is_news(status)).collect();
        let is_gone = |name: &&InstanceName| !now.instances.contains_key(*name);
        let gone: Vec<InstanceName> =
            self.instances.keys().filter(is_gone).filter(|_| now.complete).cloned().collect();
        let revision = if now.complete { now.revision } else { Revision(0) };
        let is_same = self.begun && self.complete == now.complete && self.revision == revision;
        if is_same && news.is_empty() && gone.is_empty() {
            return None;
        }
        let is_first_complete = now.complete && !self.complete;
        let news: Vec<&InstanceStatus> =
            if is_first_complete { now.instances.values().collect() } else { news };
        let report = StatusReport {
            seen_under: Position { incarnation, revision },
            complete: is_first_complete,
            instances: news.iter().map(|&status| status.clone()).collect(),
            gone,
            volumes: None,
        };
        self.instances.extend(news.iter().map(|&new| (new.instance.clone(), new.clone())));
        if now.complete {
            self.instances.retain(|name, _| now.instances.contains_key(name));
        }
        self.revision = revision;
        self.begun = true;
        self.complete = now.complete;
        Some(report)
    }

    /// The volumes there are to tell of; `None` if they are told, or not to be told yet. A report says that its
    /// revision was taken up by the instances, so the volumes wait until that was said of them.
    pub(super) fn next_volumes(&self, now: Option<&Arc<Volumes>>) -> Option<StatusReport> {
        let now = now.filter(|&now| self.volumes.as_ref() != Some(now))?;
        let is_taken_up = self.complete && now.seen_under.revision <= self.revision;
        is_taken_up.then(|| StatusReport {
            seen_under: now.seen_under,
            volumes: Some(now.there.clone()),
            ..StatusReport::default()
        })
    }

    /// The volumes were told.
    pub(super) fn told_volumes(&mut self, volumes: Arc<Volumes>) {
        self.volumes = Some(volumes);
    }

    /// Whether a status says something new. To have looked again and seen the same is nothing new.
    fn is_news(&self, status: &InstanceStatus) -> bool {
        let observed_at = status.observed_at;
        self.instances
            .get(&status.instance)
            .is_none_or(|sent| InstanceStatus { observed_at, ..sent.clone() } != *status)
    }
}

#[cfg(test)]
mod tests {
    use dwell_core::clock::Timestamp;
    use dwell_core::health::Health;
    use dwell_core::id::Generation;
    use dwell_core::instance::Phase;

    use super::*;

    fn status(name: &str, phase: Phase) -> InstanceStatus {
        InstanceStatus {
            instance: name.parse().unwrap(),
            generation: Generation(1),
            phase,
            health: Health::None,
            container_id: String::new(),
            started_at: None,
            restarts: 0,
            exit_code: None,
            ends: Vec::new(),
            restarts_done: 0,
            message: String::new(),
            observed_at: Timestamp(1),
            failed_generation: None,
        }
    }

    fn statuses(complete: bool, all: &[InstanceStatus]) -> Statuses {
        let instances = all.iter().map(|one| (one.instance.clone(), one.clone())).collect();
        Statuses { revision: Revision(7), complete, instances }
    }

    #[test]
    fn an_agent_that_has_not_looked_reports_nothing_as_gone() {
        let life = Incarnation::default();
        let mut reported = Reported::default();
        let unknown = [status("web-0", Phase::Unknown), status("web-1", Phase::Unknown)];
        let first = reported.next(Some(&statuses(false, &unknown)), life).unwrap();
        assert!(!first.complete && first.gone.is_empty() && first.instances.len() == 2);
        assert_eq!(first.seen_under.revision, Revision(0), "it was seen under no assignment");
        assert_eq!(reported.next(Some(&statuses(false, &unknown)), life), None);
        let fewer = reported.next(Some(&statuses(false, &unknown[..1])), life);
        assert_eq!(fewer, None, "what is not listed is not gone");

        // The first complete report says everything anew, and what is not in it is gone.
        let seen = statuses(true, &unknown[..1]);
        let complete = reported.next(Some(&seen), life).unwrap();
        assert!(complete.complete && complete.instances.len() == 1);
        assert_eq!(complete.seen_under.revision, Revision(7));
        assert_eq!(reported.next(Some(&seen), life), None);
        let gone = reported.next(Some(&statuses(true, &[])), life).unwrap();
        assert_eq!((gone.complete, gone.gone.len()), (false, 1));
    }
}
