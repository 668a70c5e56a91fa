//! What a user declares: a workload, which is a template for its instances and rules for keeping them.
//!
//! A [`WorkloadSpec`] says how many instances there are, where they may run and how they are changed;
//! its [`Template`] says what each of them is. The split matters: a change outside the template
//! touches no instance that exists.
//!
//! These types are complete and canonical. The file a person writes, with Compose's shorthands, is
//! read by the command line and ends here; [`WorkloadSpec::check`] holds the rules that types alone
//! cannot, and the controller checks them again whoever asks.

mod access;
mod check;
mod lost;
mod machine;
mod portion;
mod process;
mod resources;
mod template;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

pub use access::{AllowRule, AllowSource, PortRange};
pub use check::SpecError;
pub use lost::{Lease, OnLost, OnLostError};
pub use machine::{Machine, OnImageChange, ToldFromInside};
pub use portion::{Portion, PortionError};
pub use process::{
    Device, Init, InitError, Most, MostError, Process, Tmpfs, USUAL_CAPABILITIES, Ulimit,
};
pub use resources::{Enforced, Limits, PIDS_DEFAULT, Resources};
pub use template::{
    Fingerprint, ImagePolicy, Mount, MountSource, Protocol, RestartPolicy, ServicePort, Ssh,
    Template,
};

use crate::health::HealthCheck;
use crate::id::{PoolName, WorkloadName};
use crate::instance::RunState;
use crate::job::Job;
use crate::quantity::{Bytes, Millis};

/// The most instances one workload may have.
pub const REPLICAS_MAX: u32 = 10_000;

/// How many files and directories a workload may have carried over.
pub const CARRY_MAX: usize = 32;

/// How much all that is carried over into one container may take together, as a tar archive has it.
pub const CARRIED_MAX: Bytes = Bytes::mebi(64);

/// A declared workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSpec {
    /// Its name, unique in the cluster.
    pub name: WorkloadName,
    /// How many instances, 0 to [`REPLICAS_MAX`].
    pub replicas: u32,
    /// Whether its instances are to run. `None` leaves open what `dwell stop` and `dwell start` have made of it, and has
    /// those of a new workload run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunState>,
    /// What each instance is.
    pub template: Template,
    /// Addresses asked for: the first is `NAME-0`'s, the second `NAME-1`'s and so on. Instances
    /// beyond the list get one from their node's block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Ipv4Addr>,
    /// What becomes of the address of an instance that comes to another node, unless it was asked for.
    #[serde(default, skip_serializing_if = "OnMove::is_default")]
    pub on_move: OnMove,
    /// Where instances may run.
    #[serde(default, skip_serializing_if = "Placement::is_anywhere")]
    pub placement: Placement,
    /// How changes reach the instances.
    #[serde(default)]
    pub update: UpdatePolicy,
    /// What becomes of an instance whose node is lost.
    #[serde(default, skip_serializing_if = "OnLost::is_keep")]
    pub on_lost: OnLost,
    /// The rules by which its instances run to completion; `None` for those that are to run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
    /// Free words for people and programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What becomes of the address of an instance that comes to another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnMove {
    /// It goes along. Every node has a route of its own to it for as long as it is outside of its node's block.
    #[default]
    KeepAddress,
    /// The instance gets one of its new node's block, if one is free, and no node needs a route to it.
    NewAddress,
}

impl OnMove {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where instances may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Only on nodes of this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// Only on nodes of which all of these hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// One instance on every node of which that holds, for as long as it does. How many there are follows from the nodes then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_per_node: bool,
}

impl Placement {
    /// Whether every node will do.
    #[must_use]
    pub fn is_anywhere(&self) -> bool {
        *self == Self::default()
    }
}

/// A condition on a node, written `KEY==VALUE` or `KEY!=VALUE`, where `KEY` is a node's label,
/// `node.name` or `node.arch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Constraint {
    /// A label, `node.name` or `node.arch`.
    pub key: String,
    /// Whether the values have to be equal, or have to differ.
    pub equal: bool,
    /// The value to compare with.
    pub value: String,
}

/// A text is not a constraint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a constraint; write LABEL==VALUE or LABEL!=VALUE, for example disk==ssd")]
pub struct ConstraintError {
    text: String,
}

impl std::str::FromStr for Constraint {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        let parts = match (text.split_once("=="), text.split_once("!=")) {
            (Some((key, value)), _) => Some((key, true, value)),
            (None, Some((key, value))) => Some((key, false, value)),
            (None, None) => None,
        };
        let refused = || ConstraintError { text: text.chars().take(80).collect() };
        match parts.map(|(key, equal, value)| (key.trim(), equal, value.trim())) {
            // `a= == b` and `a != =b` would read otherwise once they were shown.
            Some((key, true, _)) if key.ends_with('=') => Err(refused()),
            Some((_, false, value)) if value.starts_with('=') => Err(refused()),
            Some((key, equal, value)) if !key.is_empty() && !value.is_empty() => {
                Ok(Self { key: key.to_owned(), equal, value: value.to_owned() })
            }
            _ => Err(refused()),
        }
    }
}

impl TryFrom<String> for Constraint {
    type Error = ConstraintError;
    fn try_from(text: String) -> Result<Self, ConstraintError> {
        text.parse()
    }
}

impl std::fmt::Display for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}{}", self.key, if self.equal { "==" } else { "!=" }, self.value)
    }
}

impl From<Constraint> for String {
    fn from(constraint: Constraint) -> Self {
        constraint.to_string()
    }
}

/// How changes reach the instances of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdatePolicy {
    /// How many instances may be changing at once, at least 1.
    #[serde(default = "UpdatePolicy::default_parallelism")]
    pub parallelism: Portion,
    /// How many instances try a new version out before somebody promotes it to the others; none to go on by itself.
    #[serde(default = "UpdatePolicy::no_canary", skip_serializing_if = "Portion::is_none")]
    pub canary: Portion,
    /// How long a changed instance may take, from the pull of its image on, to hold before its old container is
    /// put back. What holds is [`UpdatePolicy::deadline_for`].
    #[serde(default = "UpdatePolicy::default_deadline")]
    pub deadline: Millis,
    /// How long a new container without any check has to run before it counts as holding. Checks that pass end this
    /// early.
    #[serde(default = "UpdatePolicy::default_monitor")]
    pub monitor: Millis,
    /// How many instances may fail with a new version before `on_failure` holds: none for the first one. While canaries try
    /// a version out nothing is tolerated.
    #[serde(default = "UpdatePolicy::no_failures", skip_serializing_if = "Portion::is_none")]
    pub max_failures: Portion,
    /// What is done about a version with which more instances failed than may.
    #[serde(default, skip_serializing_if = "OnFailure::is_default")]
    pub on_failure: OnFailure,
    /// Whether an old container ends before or after its successor has shown that it works.
    #[serde(default, skip_serializing_if = "UpdateOrder::is_default")]
    pub order: UpdateOrder,
}

/// In which order a container is replaced on its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The old one is stopped, then the new one is started in its place: there is one share, and a moment without any.
    #[default]
    StopFirst,
    /// The new one is started beside the old one, which is stopped when the new one holds: for a second share, and
    /// without a moment in which nobody answers.
    StartFirst,
}

impl UpdateOrder {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What is done about a version with which more instances failed than [`UpdatePolicy::max_failures`]. Whatever it is, an instance
/// that failed goes back to what it held with before, and is not given that version again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// No other instance is given the version, and the rollout waits for an operator; instances that hold with it keep it.
    #[default]
    Pause,
    /// All instances go back to the version that is good, if there is one.
    Rollback,
    /// The others are given the version all the same, however many fail.
    Continue,
}

impl OnFailure {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl UpdatePolicy {
    /// The deadline that holds for instances of a template: at least what its checks need to call it unhealthy, or the
    /// time it is monitored for without any, and what its hook may take before. A shorter one would put back what is only slow.
    #[must_use]
    pub fn deadline_for(&self, template: &Template) -> Millis {
        let hook = template.hooks.after_start.as_ref().map_or(Millis(0), |hook| hook.timeout);
        let least = template.checks().map(HealthCheck::patience).max();
        let least = least.unwrap_or(self.monitor).0.saturating_add(hook.0);
        self.deadline.max(Millis(least))
    }

    fn default_parallelism() -> Portion {
        Portion::Count(1)
    }

    /// How many of so many instances may fail with a new version before no other is given it; `None` for any number.
    #[must_use]
    pub fn failures_allowed(&self, replicas: u32) -> Option<u32> {
        match self.on_failure {
            OnFailure::Continue => None,
            OnFailure::Pause | OnFailure::Rollback => Some(self.max_failures.of(replicas)),
        }
    }

    fn no_canary() -> Portion {
        Portion::Count(0)
    }

    fn no_failures() -> Portion {
        Portion::Count(0)
    }

    fn default_deadline() -> Millis {
        Millis::seconds(60)
    }

    /// As it is where nobody says otherwise, and with a controller that does not know of it.
    #[must_use]
    pub fn default_monitor() -> Millis {
        Millis::seconds(10)
    }
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self {
            parallelism: Self::default_parallelism(),
            canary: Self::no_canary(),
            deadline: Self::default_deadline(),
            monitor: Self::default_monitor(),
            max_failures: Self::no_failures(),
            on_failure: OnFailure::default(),
            order: UpdateOrder::default(),
        }
    }
}

#[cfg(test)]
mod tests;
