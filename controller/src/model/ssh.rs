//! What happens on the instances' port 22, written down.
//!
//! Anybody who reaches an instance can make its node report refused log-ins, so what one node may write between
//! two ticks (about a second) is bounded; what is beyond is counted and told in one event.

use dwell_core::clock::Timestamp;
use dwell_core::id::NodeName;
use dwell_core::quantity::Millis;
use dwell_core::session::SshEvents;
use dwell_core::ssh::{SshEvent, SshEventKind};

use super::object::{SessionId, Severity, Subject};
use super::{Model, Refusal};

/// How many log-ins and the like of one node are written down between two ticks.
pub(super) const KEPT_MAX: u64 = 100;

/// What one node has told of since the last tick.
#[derive(Debug, Default)]
pub(super) struct SshBudget {
    kept: u64,
    dropped: u64,
}

impl Model {
    pub(super) fn ssh_events(
        &mut self,
        node: &NodeName,
        session: SessionId,
        SshEvents { events, dropped }: SshEvents,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.hear(node, session, now)?;
        let mut budget = self.ssh_budgets.remove(node).unwrap_or_default();
        budget.dropped = budget.dropped.saturating_add(dropped);
        let events = if self.volatile_only {
            budget.dropped = budget.dropped.saturating_add(events.len() as u64);
            Vec::new()
        } else {
            events
        };
        for event in events {
            let instance = self.tables.instances().get(&event.instance);
            if instance.and_then(|instance| instance.node.as_ref()) != Some(node) {
                // A node speaks for its own instances only.
                continue;
            }
            if budget.kept >= KEPT_MAX {
                budget.dropped = budget.dropped.saturating_add(1);
                continue;
            }
            budget.kept += 1;
            let (severity, reason, message) = told(&event);
            self.event(now, severity, Subject::Instance(event.instance), reason, message);
        }
        self.ssh_budgets.insert(node.clone(), budget);
        Ok(())
    }

    /// Gives every node a new budget, and says what was lost.
    pub(super) fn renew_ssh_budgets(&mut self, now: Timestamp) {
        for (node, budget) in std::mem::take(&mut self.ssh_budgets) {
            if budget.dropped > 0 {
                let message = format!(
                    "{} log-ins and the like on its instances were not kept",
                    budget.dropped
                );
                let subject = Subject::Node(node);
                self.event(now, Severity::Warning, subject, "ssh-events-dropped", message);
            }
        }
    }
}

fn told(event: &SshEvent) -> (Severity, &'static str, String) {
    let SshEvent { login, from, .. } = event;
    let with = if event.key.is_empty() { String::new() } else { format!(" with {}", event.key) };
    match event.what {
        SshEventKind::Opened => {
            (Severity::Info, "ssh-opened", format!("{login} logged in from {from}{with}"))
        }
        SshEventKind::Closed { duration_ms } => (
            Severity::Info,
            "ssh-closed",
            format!("{login} from {from}{with} left after {}", Millis(duration_ms)),
        ),
        SshEventKind::Refused { count } => {
            let times = if count > 1 { format!(", {count} times") } else { String::new() };
            let message = format!("{login} was refused from {from}{with}{times}");
            (Severity::Warning, "ssh-refused", message)
        }
    }
}
