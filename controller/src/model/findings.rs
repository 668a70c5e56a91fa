//! How the fleet is: all that is not as declared, the worst first, each with its reason and the next step.
//!
//! A *finding* is one thing that a person would want to know, so what follows from something else has none of its own: the
//! instances of a node that is not heard of belong to the finding of that node, and what ails several instances of one
//! workload alike is one finding. What is as somebody asked for is none: a stopped instance, a volume without an instance.
//!
//! Pure: [`Model::fleet_status`] is a function of the model and of what its caller knows besides ([`Surroundings`]). The
//! API looks at it in pieces, so that no look is long.
//!
//! | file | findings about |
//! |---|---|
//! | `findings/cluster.rs` | the controller, its certificates |
//! | `findings/nodes.rs` | nodes |
//! | `findings/workloads.rs` | workloads and their instances |

mod cluster;
mod nodes;
mod workloads;

use dwell_core::clock::Timestamp;
use dwell_core::id::WorkloadName;

use super::Model;
use super::object::{Event, Subject};

/// The most findings that are kept; the rest is counted.
pub(super) const FINDINGS_MAX: usize = 500;
/// How many instances are looked at in one piece, but for the last workload's.
pub(super) const PIECE_INSTANCES: usize = 10_000;

/// What is not as declared, and how much is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetStatus {
    /// The worst first; at most [`FINDINGS_MAX`] once it is [whole](Self::whole).
    pub found: Vec<FleetFinding>,
    /// How many findings were left out.
    pub left_out: usize,
    /// How much there is.
    pub counts: FleetCounts,
}

/// How much there is, and how much of it is as declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FleetCounts {
    /// Nodes that were not removed.
    pub nodes: usize,
    /// Nodes that are heard of.
    pub nodes_ready: usize,
    /// Workloads that were not removed.
    pub workloads: usize,
    /// Workloads of which every instance is as declared.
    pub workloads_as_declared: usize,
    /// Instances, without those that go.
    pub instances: usize,
    /// Instances that run and do well, or have done their work.
    pub instances_well: usize,
    /// Instances that do not run, as somebody asked.
    pub instances_stopped: usize,
}

/// One thing that is not as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetFinding {
    /// What it is about.
    pub subject: Subject,
    /// What it is.
    pub kind: FindingKind,
    /// The reason, a sentence for people.
    pub message: String,
    /// The next step: a command, with where to run it if that is not where `dwell` runs.
    pub next: String,
    /// Since when, if that is known.
    pub since: Option<Timestamp>,
    /// When it will be worse, if that is known.
    pub until: Option<Timestamp>,
}

/// How bad a finding is; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gravity {
    /// Something that was declared is not there, and will not be without somebody's doing.
    Problem,
    /// What is there is not what was declared, or may not stay as it is, unless somebody does something.
    Warning,
    /// It is on its way, and nobody has to do anything.
    Progress,
}

macro_rules! kinds {
    ($($gravity:ident { $($(#[$doc:meta])* $kind:ident = $word:literal,)* })*) => {
        /// What a finding is; of one gravity, the worst first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FindingKind {
            $($($(#[$doc])* $kind,)*)*
        }

        impl FindingKind {
            /// A stable word for programs.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $($(Self::$kind => $word,)*)*
                }
            }

            /// How bad it is.
            #[must_use]
            pub fn gravity(self) -> Gravity {
                match self {
                    $($(Self::$kind)|* => Gravity::$gravity,)*
                }
            }
        }
    };
}

kinds! {
    Problem {
        /// The controller cannot write its store.
        StoreFailing = "store-failing",
        /// It was restored, and nobody has confirmed that.
        RestoreUnconfirmed = "restore-unconfirmed",
        /// The certificate of the cluster's authority has ended.
        AuthorityExpired = "authority-expired",
        /// Two hosts have a node's identity, and neither is served.
        NodeContested = "node-contested",
        /// A node with instances has not been heard of for long.
        NodeDown = "node-down",
        /// A node cannot be told what it is to do.
        NodeUnserved = "node-unserved",
        /// No engine of a node answers.
        NodeNoEngine = "node-no-engine",
        /// Two nodes run one instance.
        InstanceTwice = "instance-twice",
        /// The newest version did not hold, and the rollout has ended with that.
        RolloutFailed = "rollout-failed",
        /// An instance has no place.
        InstancePending = "instance-pending",
        /// An instance does not run and is not tried again.
        InstanceFailed = "instance-failed",
        /// An instance ends, or cannot be started, again and again.
        InstanceBackoff = "instance-backoff",
        /// An instance does not hold as it is to be, and there is nothing to put up again.
        InstanceFailing = "instance-failing",
        /// The health check of an instance fails.
        InstanceUnhealthy = "instance-unhealthy",
        /// The readiness check of an instance fails.
        InstanceUnready = "instance-unready",
    }
    Warning {
        /// A node has not been heard of for a while, or for long and has no instances.
        NodeSilent = "node-silent",
        /// Another machine has a node's identity, and is not served.
        NodeElsewhere = "node-elsewhere",
        /// A node cannot look at some of its instances.
        NodeInDoubt = "node-in-doubt",
        /// A node has no room for images.
        NodeDiskPressure = "node-disk-pressure",
        /// What runs on a node has to wait for memory.
        NodeMemoryPressure = "node-memory-pressure",
        /// A node says that it has another address than it is known by.
        NodeClaimsAddress = "node-claims-address",
        /// Instances should leave a node, and cannot.
        DrainStuck = "drain-stuck",
        /// A node was not rebooted as was asked, or is not back.
        RebootFailed = "reboot-failed",
        /// A drain came to its deadline, and instances are left.
        DrainFailed = "drain-failed",
        /// A main process ended badly and is not started again.
        InstanceEnded = "instance-ended",
        /// An instance is not brought to what was declared, since it can neither grow nor leave where it is.
        InstanceHeldBack = "instance-held-back",
        /// An update waits for something that does not pass by itself.
        RolloutStuck = "rollout-stuck",
        /// Somebody paused a rollout that is not done.
        RolloutPaused = "rollout-paused",
        /// The certificate of the cluster's authority ends soon.
        AuthorityExpiring = "authority-expiring",
        /// A context that is used ends soon.
        ContextExpiring = "context-expiring",
        /// A node has been closed to new instances for long.
        NodeCordoned = "node-cordoned",
    }
    Progress {
        /// The cluster has two authorities.
        AuthorityRotating = "authority-rotating",
        /// A node reboots, as somebody asked.
        NodeRebooting = "node-rebooting",
        /// Instances leave a node.
        NodeDraining = "node-draining",
        /// A new version is given to one instance after the other.
        RollingOut = "rolling-out",
        /// A workload goes.
        WorkloadRemoving = "workload-removing",
        /// An instance goes to another node.
        InstanceMoving = "instance-moving",
        /// An instance goes to another node with its volumes.
        VolumesMoving = "volumes-moving",
        /// An instance is made, or has not shown that it works.
        InstanceStarting = "instance-starting",
        /// An instance ends, as somebody asked.
        InstanceStopping = "instance-stopping",
        /// An instance was let go, as somebody asked: nobody starts it again when it ends.
        InstanceLetGo = "instance-let-go",
        /// An instance goes.
        InstanceRemoving = "instance-removing",
    }
}

/// What the model does not know of itself.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The present.
    pub now: Timestamp,
    /// The cluster's authorities that are trusted, by number, and when their certificates end; the newest last.
    pub authorities: Vec<(u32, Timestamp)>,
    /// Why the store cannot be written; `None` if it can.
    pub store_fails: Option<String>,
}

impl FleetFinding {
    fn new(subject: Subject, kind: FindingKind, message: String, next: String) -> Self {
        Self { subject, kind, message, next, since: None, until: None }
    }
}

impl FleetStatus {
    fn find(&mut self, finding: FleetFinding) {
        self.found.push(finding);
        if self.found.len() >= FINDINGS_MAX * 2 {
            self.shorten();
        }
    }

    /// Takes in another piece.
    pub fn join(&mut self, piece: Self) {
        piece.found.into_iter().for_each(|finding| self.find(finding));
        self.left_out += piece.left_out;
        let (counts, more) = (&mut self.counts, piece.counts);
        counts.nodes += more.nodes;
        counts.nodes_ready += more.nodes_ready;
        counts.workloads += more.workloads;
        counts.workloads_as_declared += more.workloads_as_declared;
        counts.instances += more.instances;
        counts.instances_well += more.instances_well;
        counts.instances_stopped += more.instances_stopped;
    }

    /// The worst first, once all pieces are in.
    #[must_use]
    pub fn whole(mut self) -> Self {
        self.shorten();
        self
    }

    fn shorten(&mut self) {
        // A stable sort: alike ones stay in the order of their names.
        self.found.sort_by_key(|one| (one.kind.gravity(), one.kind));
        self.left_out += self.found.len().saturating_sub(FINDINGS_MAX);
        self.found.truncate(FINDINGS_MAX);
    }
}

impl Model {
    /// How the fleet is.
    #[must_use]
    pub fn fleet_status(&self, around: &Surroundings) -> FleetStatus {
        let mut status = self.status_of_nodes(around);
        let mut after = None;
        loop {
            let (piece, next) = self.status_of_workloads(after.as_ref());
            status.join(piece);
            match next {
                Some(_) => after = next,
                None => return status.whole(),
            }
        }
    }

    /// The first piece: the cluster and its nodes.
    #[must_use]
    pub fn status_of_nodes(&self, around: &Surroundings) -> FleetStatus {
        let mut status = FleetStatus::default();
        self.find_of_cluster(around, &mut status);
        for node in self.tables.nodes().values().filter(|node| !node.removed) {
            self.find_of_node(node, around.now, &mut status);
        }
        status
    }

    /// A further piece: workloads from the one after `after` on, with about [`PIECE_INSTANCES`] instances; and the
    /// last of them, if there are more.
    #[must_use]
    pub fn status_of_workloads(
        &self,
        after: Option<&WorkloadName>,
    ) -> (FleetStatus, Option<WorkloadName>) {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut status = FleetStatus::default();
        let mut seen = 0;
        let mut workloads = self
            .tables
            .workloads()
            .range::<WorkloadName, _>((from, Bound::Unbounded))
            .map(|(_, workload)| workload)
            .peekable();
        while let Some(workload) = workloads.next() {
            seen += self.find_of_workload(workload, &mut status) + 1;
            if seen >= PIECE_INSTANCES && workloads.peek().is_some() {
                return (status, Some(workload.spec.name.clone()));
            }
        }
        (status, None)
    }

    /// The newest event about something that has one of these reasons.
    pub(super) fn newest_event(&self, subject: &Subject, reasons: &[&str]) -> Option<&Event> {
        let newest = reasons.iter().filter_map(|reason| {
            self.tables.events_of(reason).rev().find(|event| event.subject == *subject)
        });
        newest.max_by_key(|event| event.revision).map(AsRef::as_ref)
    }
}
