//! Findings about nodes. What ails a node may be the reason for much else, which then has no finding of its own.

use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::instance::Counted;
use dwell_core::node::NodeState;
use dwell_scheduler::Closed;

use super::{FindingKind, FleetFinding, FleetStatus};
use crate::model::object::{Node, Subject};
use crate::model::placement::unfit;
use crate::model::{Model, NodeView, RebootState};

/// How long a node may be closed to new instances before that is a finding: nobody thinks of it any more.
const CORDONED_LONG: Duration = Duration::from_secs(24 * 3600);

impl Model {
    pub(super) fn find_of_node(&self, node: &Arc<Node>, now: Timestamp, status: &mut FleetStatus) {
        let view = self.view_node(node);
        status.counts.nodes += 1;
        status.counts.nodes_ready += usize::from(view.state == NodeState::Ready);
        if node.undecided().is_some() && !node.contested {
            let (kind, next) =
                (FindingKind::NodeElsewhere, format!("dwell node admit {}", node.name));
            let subject = Subject::Node(node.name.clone());
            status.find(FleetFinding::new(subject, kind, view.message.clone(), next));
        }
        let finding = match view.state {
            _ if node.contested => Some(self.contested(&view)),
            NodeState::Down | NodeState::Unreachable => {
                Some(rebooting(&view).unwrap_or_else(|| self.silent(&view)))
            }
            NodeState::Ready => self.find_of_ready(&view),
        };
        if let Some(finding) = finding {
            status.find(finding);
        }
        if view.state == NodeState::Ready
            && node.cordoned
            && view.instances == view.staying + view.own
        {
            status.found.extend(self.cordoned(&view, now));
        }
    }

    fn contested(&self, view: &NodeView) -> FleetFinding {
        let next = format!("dwell node admit {}", view.node.name);
        FleetFinding::new(subject(view), FindingKind::NodeContested, view.message.clone(), next)
    }

    /// One that is not heard of; its instances are unknown.
    fn silent(&self, view: &NodeView) -> FleetFinding {
        let (node, count) = (&view.node, view.instances);
        let is_down = view.state == NodeState::Down;
        let kind = match count {
            1.. if is_down => FindingKind::NodeDown,
            _ => FindingKind::NodeSilent,
        };
        let long = if is_down { "long" } else { "a while" };
        let whose = match count {
            0 => String::new(),
            1 => "; its instance is unknown and may well be running".to_owned(),
            _ => format!("; its {} are unknown and may well be running", Counted(count)),
        };
        let mut message = format!("has not been heard of for {long}{whose}");
        if is_down {
            message += &format!(
                ". Only if its host is switched off or destroyed: `dwell node rm --force {}`",
                node.name
            );
        }
        let next = format!("on {}: systemctl status dwell-agent", node.name);
        let finding = FleetFinding::new(subject(view), kind, message, next);
        // Of one that was not heard of since the controller's start, the diary knows when it fell silent.
        let told = self.newest_event(&finding.subject, &["node-unreachable", "node-ready"]);
        let told = told.filter(|event| event.reason == "node-unreachable").map(|event| event.at);
        FleetFinding { since: view.last_seen.or(told), ..finding }
    }

    fn find_of_ready(&self, view: &NodeView) -> Option<FleetFinding> {
        let node = &view.node;
        let link = self.tables.links().get(&node.name)?;
        let capacity = view.capacity.as_deref();
        let doctor = || format!("dwell doctor {}", node.name);
        let (kind, next) = if !link.unserved.is_empty() {
            (FindingKind::NodeUnserved, doctor())
        } else if let Some(claimed) = link.claimed {
            let next = format!("dwell node address {} {claimed}", node.name);
            (FindingKind::NodeClaimsAddress, next)
        } else if node.draining && view.instances > 0 {
            self.draining(view)
        } else if let Some(found) = rebooting(view) {
            return Some(found);
        } else if node.given_up().is_some() {
            (FindingKind::DrainFailed, format!("dwell node drain {}", node.name))
        } else {
            match capacity.and_then(unfit) {
                Some(Closed::NoEngine) => (FindingKind::NodeNoEngine, doctor()),
                Some(Closed::DiskFull) => {
                    let next = format!("dwell image prune --node {}", node.name);
                    (FindingKind::NodeDiskPressure, next)
                }
                Some(_) => {
                    let next = format!("dwell ps --node {}", node.name);
                    (FindingKind::NodeMemoryPressure, next)
                }
                None if node.draining || view.message.is_empty() => return None,
                // That it waits to reboot, or was spared that, is what its message says.
                None if node.reboot.as_ref().is_some_and(|one| one.state != RebootState::Done) => {
                    return None;
                }
                None => (FindingKind::NodeInDoubt, doctor()),
            }
        };
        let finding = FleetFinding::new(subject(view), kind, view.message.clone(), next);
        let since = match kind {
            FindingKind::NodeDraining | FindingKind::DrainStuck => Some("node-draining"),
            FindingKind::DrainFailed => Some("drain-failed"),
            FindingKind::NodeDiskPressure | FindingKind::NodeMemoryPressure => {
                Some("node-pressure")
            }
            FindingKind::NodeUnserved => Some("node-unserved"),
            FindingKind::NodeClaimsAddress => Some("node-claims-address"),
            _ => None,
        };
        let since = since.and_then(|reason| self.newest_event(&finding.subject, &[reason]));
        Some(FleetFinding { since: since.map(|event| event.at), ..finding })
    }

    /// Whether what is left on a draining node comes away by itself.
    fn draining(&self, view: &NodeView) -> (FindingKind, String) {
        let node = &view.node.name;
        let mut here = view.obstacles.iter();
        let stuck = here.find(|one| self.tables.waiting().contains_key(&one.instance));
        match (stuck, view.obstacles.first()) {
            (Some(stuck), _) => (FindingKind::DrainStuck, stuck.next.clone()),
            (None, Some(first)) => (FindingKind::NodeDraining, first.next.clone()),
            (None, None) => (FindingKind::NodeDraining, format!("dwell ps --node {node}")),
        }
    }

    /// One that has taken nothing new for long, and from which nothing has to go any more.
    fn cordoned(&self, view: &NodeView, now: Timestamp) -> Option<FleetFinding> {
        let subject = subject(view);
        if view.node.until.is_some() || view.node.given_up().is_some() {
            // It ends by itself, or has a finding of its own.
            return None;
        }
        // What the diary does not know any more was longer ago than what it knows.
        let event = self.newest_event(&subject, &["node-cordoned", "node-draining"]);
        let since = event.map(|event| event.at);
        if since.is_some_and(|since| now.since(since) < CORDONED_LONG) {
            return None;
        }
        let by = event.map(|event| event.by.as_str()).filter(|by| !by.is_empty());
        let by = by.map(|by| format!(" ({by} asked for it)")).unwrap_or_default();
        let name = &view.node.name;
        let message = match (view.node.draining, view.instances) {
            (true, 0) => format!(
                "is drained and takes nothing new{by}; if it is not to come back, `dwell node rm {name}`"
            ),
            _ => format!("takes no new instances{by}"),
        };
        let next = format!("dwell node uncordon {name}");
        let finding = FleetFinding::new(subject, FindingKind::NodeCordoned, message, next);
        Some(FleetFinding { since, ..finding })
    }
}

/// A reboot of a node, unless that is done or was not begun.
fn rebooting(view: &NodeView) -> Option<FleetFinding> {
    let reboot = view.node.reboot.as_ref()?;
    let kind = match reboot.state {
        RebootState::Rebooting { .. } => FindingKind::NodeRebooting,
        RebootState::Failed(_) => FindingKind::RebootFailed,
        _ => return None,
    };
    let message = reboot.message(&view.node.name);
    let next = match kind {
        FindingKind::RebootFailed => format!("dwell events node/{}", view.node.name),
        _ => "dwell node ls".to_owned(),
    };
    let finding = FleetFinding::new(subject(view), kind, message, next);
    Some(FleetFinding { since: Some(reboot.since), ..finding })
}

fn subject(view: &NodeView) -> Subject {
    Subject::Node(view.node.name.clone())
}
