//! Instances: what a node is told to run, and what it saw.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::foreign::Adoption;
use crate::health::Health;
use crate::id::{Generation, InstanceName, Revision, VolumeName};
use crate::image::{self, ContainerImage, ImageDigest};
use crate::job::{Task, TaskReport};
use crate::net::Mac;
use crate::quantity::Millis;
use crate::ssh::HostKey;
use crate::workload::{Fingerprint, Lease, Template, UpdatePolicy};

/// A number of instances in words: `1 instance`, `3 instances`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted(pub usize);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 instance"),
            count => write!(f, "{count} instances"),
        }
    }
}

/// Whether an instance is to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// It runs.
    #[default]
    Running,
    /// It keeps its identity and its container, but no process.
    Stopped,
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        })
    }
}

/// What a node is told to run: one instance with its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// Its name.
    pub instance: InstanceName,
    /// Its address, which is its own for life.
    pub address: Ipv4Addr,
    /// Its hardware address, likewise.
    pub mac: Mac,
    /// Its fencing token: of two claims, the higher is right.
    pub generation: Generation,
    /// Whether it is to run.
    pub run: RunState,
    /// How often a restart was asked for; the node restarts it when this grows.
    pub restarts_asked: u64,
    /// Whether a new container may be tried beside the one that serves: the node was given a second share for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub beside: bool,
    /// How long a new container may take to hold, from the pull of its image on, before what served is put back.
    pub update_deadline: Millis,
    /// How long a new container without a health check has to run to hold.
    #[serde(default = "UpdatePolicy::default_monitor")]
    pub monitor: Millis,
    /// Tells this life of the instance from an earlier one under the same name: the revision at which it was
    /// made. 0 from a controller that does not say.
    #[serde(default)]
    pub life: Revision,
    /// Of which edition its container is: the generation at which somebody asked for it to be made anew, 0 if nobody has.
    #[serde(default, skip_serializing_if = "Generation::is_zero")]
    pub edition: Generation,
    /// When somebody asked for the root of the machine that it is to be made anew last; zero if nobody has.
    #[serde(default, skip_serializing_if = "Timestamp::is_zero")]
    pub rebuilt: Timestamp,
    /// What it is.
    pub template: Template,
    /// Which image its template's reference means; `None` while nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<ImageDigest>,
    /// What is put up instead if that does not hold: what the instance last held with or, of one that never did, what
    /// its workload is known to work with. `None` if it holds already, or nothing is known to work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Template>,
    /// Which image the fallback's reference means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback_image_digest: Option<ImageDigest>,
    /// An image that the node is to have before the instance gets its turn to be made from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_ahead: Option<String>,
    /// Limits below what its container uses are set all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force_limits: bool,
    /// For how long the node may let it be reached without an answer of the controller; `None` for however long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// What it is to complete; `None` of what is to run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Whether its container is let go of, and when it was last taken back.
    #[serde(default, skip_serializing_if = "Custody::is_usual")]
    pub custody: Custody,
    /// The volumes of it that its node has had already: none of them is made anew, whatever becomes of it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kept_volumes: BTreeSet<VolumeName>,
    /// The container in whose place it is to be put, until it has held there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopts: Option<Adoption>,
    /// Its SSH host key, which is its own for life; none from a controller that makes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<HostKey>,
}

/// Whether a node looks after an instance's container, or lets it be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Custody {
    /// It looks after it. What was let go by an order that is not known any more stays let go.
    #[default]
    Usual,
    /// It was told to let go of it, at this generation.
    LetGo(Generation),
    /// It looks after it again: it was told to take it back at this generation.
    Adopted(Generation),
}

impl Custody {
    /// Whether nobody has ever let go of it.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::Usual
    }

    /// Whether a container is to be let be that was let go at a generation.
    #[must_use]
    pub fn leaves(self, let_go: Generation) -> bool {
        match self {
            Self::Usual => true,
            Self::LetGo(at) => let_go >= at,
            Self::Adopted(at) => let_go > at,
        }
    }
}

impl Assigned {
    /// All that it may be made from: its template and its fallback.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        std::iter::once(&self.template).chain(&self.fallback)
    }

    /// What its container is recognised by: what it is made from, and its edition.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.template.fingerprint().of_edition(self.edition)
    }

    /// The same of its fallback.
    #[must_use]
    pub fn fallback_fingerprint(&self) -> Option<Fingerprint> {
        Some(self.fallback.as_ref()?.fingerprint().of_edition(self.edition))
    }

    /// The generation that a container of the fallback is made for: the one before. Whatever else was told at that
    /// generation is out of date.
    #[must_use]
    pub fn fallback_generation(&self) -> Generation {
        Generation(self.generation.0.saturating_sub(1))
    }

    /// What a container of a generation is made from: the same, if it is of the assigned generation; for the
    /// [fallback](Self::fallback_generation)'s the same instance with the fallback's template. `None` for any other.
    #[must_use]
    pub fn of_generation(&self, generation: Generation) -> Option<Cow<'_, Self>> {
        if generation == self.generation {
            return Some(Cow::Borrowed(self));
        }
        let template = self.fallback.clone()?;
        (generation == self.fallback_generation()).then(|| {
            let image_digest = self.fallback_image_digest;
            let (fallback, fallback_image_digest) = (None, None);
            let owned = Self { generation, template, image_digest, fallback, ..self.clone() };
            Cow::Owned(Self { fallback_image_digest, ..owned })
        })
    }

    /// The reference that its container is made from: its template's, which means one image for good once that is known.
    #[must_use]
    pub fn image(&self) -> Cow<'_, str> {
        image::pinned(&self.template.image, self.image_digest)
    }

    /// The same of its fallback.
    #[must_use]
    pub fn fallback_image(&self) -> Option<Cow<'_, str>> {
        let fallback = self.fallback.as_ref()?;
        Some(image::pinned(&fallback.image, self.fallback_image_digest))
    }

    /// Its hostname: the template's, or its own name.
    #[must_use]
    pub fn hostname(&self) -> String {
        if self.template.hostname.is_empty() {
            self.instance.to_string()
        } else {
            self.template.hostname.clone()
        }
    }
}

/// Where an instance is in its life.
///
/// ```text
///   Pending ─▶ Preparing ─▶ Running ─▶ Stopping ─▶ Stopped
///                  ▲           │ ends by itself
///                  │           ▼
///                  └─────── Backoff ─▶ Failed (policy gave up, or it cannot be prepared)
///                              of a job ─▶ Completed (ended with 0, for good)
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// No node has taken it up yet; the message says why.
    #[default]
    Pending,
    /// Its node pulls the image, makes the sandbox or the container.
    Preparing,
    /// Its main process runs.
    Running,
    /// It was asked to end and has not yet.
    Stopping,
    /// It is not to run and does not, or it ended and its restart policy does not start it again.
    Stopped,
    /// It ended or could not be started and will be tried again; the message says when.
    Backoff,
    /// It will not be tried again until something changes; the message says why.
    Failed,
    /// It is of a job and has done its work: it does not run again.
    Completed,
    /// Its node has not been heard of; what was seen last may no longer be true.
    Unknown,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
            Self::Completed => "completed",
            Self::Unknown => "unknown",
        })
    }
}

/// What a node saw of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Whose.
    pub instance: InstanceName,
    /// The generation that the running (or newest) container is of.
    pub generation: Generation,
    /// Where it is in its life.
    pub phase: Phase,
    /// What its health check says.
    pub health: Health,
    /// What its readiness check says; [`Health::None`] without one, or from a node that does not know of them.
    #[serde(default)]
    pub readiness: Health,
    /// The engine's name for its container; empty without one.
    pub container_id: String,
    /// The address that it was made for; `None` without a container, or if that is not written on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// What that container was made from.
    #[serde(default, skip_serializing_if = "ContainerImage::is_unknown")]
    pub image: ContainerImage,
    /// When the main process was started.
    pub started_at: Option<Timestamp>,
    /// How often its main process has been started again after ending by itself, or because it did not work.
    pub restarts: u64,
    /// How the main process last ended: its exit code.
    pub exit_code: Option<i32>,
    /// The last times that it ended by itself or did not work, newest last; at most [`ENDS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<ProcessEnd>,
    /// The last hook before a stop that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook_failed: Option<HookFailed>,
    /// Up to which request for a restart it has been restarted.
    pub restarts_done: u64,
    /// A sentence for people: progress, or the reason of a failure. At most [`MESSAGE_MAX`] bytes.
    pub message: String,
    /// When the node saw this, by its clock.
    pub observed_at: Timestamp,
    /// What the node decided about the generation it was told last; `None` from a node that decides nothing,
    /// because it is of an older version or does not run the instance any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What the node has on its disk about its task; `None` of what is of no job, or while there is nothing to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskReport>,
    /// How far the node is with the image that it is to have before the instance's turn; `None` if it is told of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_ahead: Option<ImageAhead>,
    /// The generation at which the node let go of its container, as is on the node's disk; `None` if it looks after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub let_go: Option<Generation>,
}

/// How far a node is with an image that it is to have before an instance gets its turn to be made from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageAhead {
    /// Which image, as the node was told; at most [`IMAGE_MAX`] bytes.
    pub image: String,
    /// How far.
    pub state: AheadState,
}

/// See [`ImageAhead`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AheadState {
    /// It is being fetched; the text says how far that is, for people, at most [`REASON_MAX`] bytes.
    Fetching(String),
    /// It is on the node.
    Here,
    /// It could not be fetched, for that reason, at most [`REASON_MAX`] bytes. The node tries on.
    Failed(String),
}

/// The longest reference of an image with a digest, in bytes.
pub const IMAGE_MAX: usize = 640;

impl InstanceStatus {
    /// Whether it is of use to others: its main process runs, and every check that it has passes.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running && self.health.is_good() && self.readiness.is_good()
    }

    /// What the node decided about a generation, if it did.
    #[must_use]
    pub fn verdict_on(&self, generation: Generation) -> Option<&Outcome> {
        self.verdict
            .as_ref()
            .filter(|verdict| verdict.generation == generation)
            .map(|verdict| &verdict.outcome)
    }
}

/// What a node decided about one generation of an instance.
///
/// ```text
///   Open ─┬─ ran for the monitor time, or a health check passed ─▶ Held
///         ├─ did not, and something served before ───────────────▶ RolledBack
///         └─ did not, and nothing served before ─────────────────▶ Failing ─▶ Held
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// About which generation.
    pub generation: Generation,
    /// What was decided.
    pub outcome: Outcome,
}

/// See [`Verdict`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing yet.
    Open,
    /// It works. That stays true of the generation, whatever becomes of its container later.
    Held,
    /// It did not work; what served before was put back.
    RolledBack {
        /// Why, for people.
        reason: String,
    },
    /// It has not worked within its deadline, or cannot; there is nothing to put back, so it is tried on.
    Failing {
        /// Why, for people.
        reason: String,
    },
}

/// The most ends of a main process that are remembered.
pub const ENDS_MAX: usize = 8;

/// A main process that ended by itself, or that its node ended because it did not work. All that are remembered are told
/// with every status, so that none is missed when a report is lost; whoever reads them knows by number and start which
/// are news.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEnd {
    /// Counts the ends that one node has seen of an instance.
    pub number: u64,
    /// When, by the engine's clock.
    pub at: Timestamp,
    /// How long it had run.
    pub ran_for: Millis,
    /// Its exit code; 128 and the signal, if one ended it.
    pub code: i32,
    /// Whether the kernel ended it because it used more memory than its limit.
    #[serde(default)]
    pub out_of_memory: bool,
    /// Why its node ended it, for people, at most [`REASON_MAX`] bytes; `None` if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<String>,
}

impl ProcessEnd {
    /// When it was started, by the engine's clock: this tells one run of an instance from all others.
    #[must_use]
    pub fn started_at(&self) -> Timestamp {
        Timestamp(self.at.0.saturating_sub(self.ran_for.0))
    }
}

/// A hook that failed, and held nothing up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookFailed {
    /// When, by the node's clock; tells it from others.
    pub at: Timestamp,
    /// What failed and why, for people, at most [`REASON_MAX`] bytes.
    pub reason: String,
}

/// The longest reason of an end, in bytes.
pub const REASON_MAX: usize = 512;

/// The longest message of a status, in bytes.
pub const MESSAGE_MAX: usize = 1024;

/// Cuts a text to `max` bytes at a character's end, and takes out what commands a terminal or turns
/// the direction of writing, so that it is safe to log and to print.
#[must_use]
pub fn sanitize(text: &str, max: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(max));
    for character in text.trim().chars() {
        let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let character = if character.is_control() || turns { ' ' } else { character };
        if clean.len() + character.len_utf8() > max {
            break;
        }
        clean.push(character);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded_and_plain() {
        assert_eq!(sanitize("a\u{1b}[31mb\r\nc", 100), "a [31mb  c");
        assert_eq!(sanitize("ééé", 5), "éé");
        assert_eq!(sanitize("a\u{202e}b", 5), "a b");
        assert_eq!(sanitize("", 5), "");
    }
}
