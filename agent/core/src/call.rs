//! What goes into the core and what comes out of it.

use dwell_core::container::ContainerId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::health::{Health, HealthCheck};
use dwell_core::id::InstanceName;
use dwell_core::instance::Assigned;
use dwell_core::sandbox::{SandboxId, Slot};
use dwell_core::session::Statuses;
use dwell_planner::{Check, Desired, EngineState, Failure, HookCall, Journal, Leases, Step};

use crate::sights::{Run, Sights};
use dwell_core::container::{Container, Event};

/// Something that has happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A complete desired state; nothing is touched before the first.
    Desired(Arc<Desired>),
    /// What of the instances is lent to the node from now on.
    Leases(Leases),
    /// The engine's events arrive from now on.
    Connected,
    /// They do not any more.
    Lost {
        /// Why, for people.
        reason: String,
    },
    /// Something happened to a container.
    Event(Event),
    /// The kernel says that the main process of a run has ended (or that the process which the engine named
    /// is none of the container).
    Ended {
        /// Whose.
        instance: InstanceName,
        /// Of which container.
        container: ContainerId,
        /// Which run.
        started_at: Timestamp,
    },
    /// The health of a run has changed.
    Health {
        /// Whose.
        instance: InstanceName,
        /// Of which container.
        container: ContainerId,
        /// Which run.
        started_at: Timestamp,
        /// By which check.
        check: Check,
        /// What it is now.
        health: Health,
        /// What the last probe failed with, for people; empty if it passed.
        complaint: String,
    },
    /// A pull has come further.
    Progress {
        /// Of which image.
        image: String,
        /// How far, for people.
        text: String,
    },
    /// Others may have changed sandboxes.
    SandboxesDisturbed,
    /// Somebody wants everything to be looked at now.
    Recheck,
    /// A call has ended.
    Done {
        /// Which.
        id: CallId,
        /// How.
        outcome: Outcome,
    },
}

/// Something to do, or to tell others.
#[derive(Clone, Debug)]
pub enum Output {
    /// Make this call, and tell its end.
    Begin {
        /// What its end is told by.
        id: CallId,
        /// What to do.
        call: Call,
    },
    /// Give up a call: nobody waits for it any more.
    Abandon {
        /// Which.
        id: CallId,
    },
    /// Watch a run of a container, in place of any watch of that container before.
    Watch(Watch),
    /// Watch a container no more.
    Unwatch(ContainerId),
    /// What is to be reported of the instances, whenever that says something new.
    Statuses(Arc<Statuses>),
    /// Whether the engine answers, whenever that changes.
    Engine(EngineState),
    /// What SSH needs to know, whenever that changes. Nothing is told while the engine does not answer: what
    /// was seen last may well still be true.
    Sights(Arc<Sights>),
}

/// Names one call; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Something that takes time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Ask the engine for a sign of life; ends with [`Outcome::Done`].
    Ping,
    /// List the engine's containers of this cluster; ends with [`Outcome::Listed`].
    List,
    /// List the sandboxes; ends with [`Outcome::Sandboxes`].
    Sandboxes,
    /// Remove what the node keeps for containers that are gone, and see which journals there are; ends with
    /// [`Outcome::Journals`].
    Sweep,
    /// Look at a container; ends with [`Outcome::Found`] or [`Outcome::Gone`].
    Inspect {
        /// Whose it is.
        instance: InstanceName,
        /// Which.
        container: ContainerId,
    },
    /// End what runs of an instance in containers that the engine does not know; ends with [`Outcome::Done`].
    EndUnlisted {
        /// Whose.
        instance: InstanceName,
    },
    /// Fetch an image; ends with [`Outcome::Done`].
    Pull {
        /// Which.
        image: String,
        /// Whether nothing is to be fetched if the node has an image of that name.
        unless_here: bool,
    },
    /// Take a step of an instance; ends with [`Outcome::Created`] if it makes a container, with
    /// [`Outcome::Recorded`] if it writes something else than it was told, else with [`Outcome::Done`].
    Step {
        /// Whose.
        instance: InstanceName,
        /// What.
        step: Step,
        /// What the instance is to be; `None` if it is not to be, and then the step is one that needs none.
        assigned: Option<Box<Assigned>>,
        /// For [`Step::Start`] and [`Step::Carry`]: other containers of the instance of which a process may be left, because
        /// nobody saw the end of the last one. It has to be gone before.
        remains: BTreeSet<ContainerId>,
        /// For [`Step::Record`]: the container that the journal says did not hold. What it printed last is added to
        /// the reason.
        failed: Option<Box<ContainerId>>,
    },
}

impl Call {
    /// How long the call may take before the core gives it up; `None` for as long as it takes. A lost write of
    /// a journal cannot be told from a late one, a pull has limits of its own, and a copy of volumes is given up with its instance.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        const SECOND: Duration = Duration::from_secs(1);
        match self {
            Self::Ping => Some(3 * SECOND),
            Self::List | Self::Sweep => Some(30 * SECOND),
            Self::Sandboxes | Self::EndUnlisted { .. } => Some(10 * SECOND),
            Self::Inspect { .. } => Some(10 * SECOND),
            Self::Pull { .. } => None,
            Self::Step { step, .. } => match step {
                Step::Create { .. }
                | Step::Carry { .. }
                | Step::Start { .. }
                | Step::Remove { .. } => Some(130 * SECOND),
                Step::Stop { grace, before, .. } => {
                    let hook = before.as_ref().map_or(Duration::ZERO, hook_limit);
                    Some(grace.as_duration().saturating_add(130 * SECOND).saturating_add(hook))
                }
                Step::StopForeign(adoption) | Step::StartForeign(adoption) => {
                    Some(adoption.grace.as_duration().saturating_add(260 * SECOND))
                }
                // As long as its volumes take to be copied.
                Step::KeepForeign(_) => None,
                Step::AfterStart { call, .. } => Some(hook_limit(call)),
                Step::UpdateLimits { .. } => Some(40 * SECOND),
                Step::EnsureSandbox { .. }
                | Step::RepairSandbox { .. }
                | Step::RemoveSandbox { .. } => Some(60 * SECOND),
                Step::Record(_) | Step::Forget => None,
            },
        }
    }
}

/// How long a hook may take, and what runs it.
fn hook_limit(call: &HookCall) -> Duration {
    call.hook.timeout.as_duration().saturating_add(Duration::from_secs(30))
}

/// How a call ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It did what it was to do.
    Done,
    /// A container was made.
    Created(ContainerId),
    /// This journal was written: the one of the step, with more in it.
    Recorded(Box<Journal>),
    /// The hook of the step failed, and why: after a start it is as good as not started, and a stop was done all the same.
    HookFailed(String),
    /// All containers of the cluster, in no order.
    Listed(Vec<Listed>),
    /// All sandboxes, whole or half-made.
    Sandboxes(BTreeSet<SandboxId>),
    /// All journals on disk.
    Journals(BTreeMap<InstanceName, Journal>),
    /// A container as it is, with its details.
    Found(Box<Container>),
    /// There is no such container.
    Gone,
    /// It did not do what it was to do, or is not known to have done it.
    Failed(CallFailure),
}

/// A container in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name with the engine.
    pub id: ContainerId,
    /// The instance it is of.
    pub instance: InstanceName,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFailure {
    /// What it means for trying again, and the reason for people.
    pub failure: Failure,
    /// Who failed.
    pub cause: Cause,
}

/// Who failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The engine, which said so: what is known of the instance may be wrong.
    Engine,
    /// The engine did not answer: what was asked may have been done.
    NoAnswer,
    /// The network, the disk, or the agent itself: the containers are as they were.
    Other,
}

/// A run that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Whose.
    pub instance: InstanceName,
    /// Which run. Its end is to be told ([`Input::Ended`]), if it has a process id.
    pub run: Run,
    /// When the run was first seen, by the agent's clock.
    pub since: Timestamp,
    /// How to probe it ([`Input::Health`]), for each check that it has.
    pub probed: BTreeMap<Check, Probed>,
}

/// How a run is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Where it is reached.
    pub address: Ipv4Addr,
    /// In which of the sandboxes with this address.
    pub slot: Slot,
    /// How.
    pub check: HealthCheck,
}
