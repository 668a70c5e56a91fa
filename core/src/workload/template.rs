//! What one instance is: image, process, environment, resources, volumes, health.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    AllowRule, Init, Limits, Machine, OnImageChange, PIDS_DEFAULT, Process, Resources,
    ToldFromInside,
};
use crate::health::HealthCheck;
use crate::hook::Hooks;
use crate::id::{Generation, KeySetName, VolumeName};
use crate::quantity::{Bytes, Millis};
use crate::skill::Skills;

/// What every instance of a workload is.
///
/// Two kinds of fields: those that an engine can only set when it makes a container (they are in the
/// [`Fingerprint`]; changing one replaces the container), and the *live* ones, which are applied to a
/// running container or concern the agent alone: `image_policy`, `resources`, `restart`, `healthcheck`, `readiness`,
/// `stop_grace`, `hooks.before_stop`, `expose`, `ssh`, `allow_from`, `allow_to`, `pids`, `carry` and
/// `machine.on_image_change`.
///
/// Invariant: a field added later is left out of the serialized form at its default; else every
/// container of every fleet would be replaced by an upgrade of dwell. A test pins this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Image reference, as the engine understands it.
    pub image: String,
    /// When a node asks the registry for the image.
    #[serde(default, skip_serializing_if = "ImagePolicy::is_default")]
    pub image_policy: ImagePolicy,
    /// Replaces the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Replaces the image's command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment variables beside the image's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// User, or `user:group`, by name or number; the image's if empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Working directory, absolute; the image's if empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Hostname inside; the instance's name if empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Labels put on the container, beside dwell's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What is mounted where.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Its root file system is its own, and outlives every container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// Files and directories, absolute paths inside, that a container takes over from the one in whose place it is put on the
    /// same node; at most [`CARRY_MAX`](super::CARRY_MAX).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carry: Vec<String>,
    /// Size of `/dev/shm`; the engine's default, 64 MiB, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<Bytes>,
    /// Whether the main process has an input. That of a job's instance is of whoever attaches to it, and ends with them, or when nobody
    /// has for a while; any other stays open.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// Whether the main process has a terminal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// How its processes are held.
    #[serde(default, skip_serializing_if = "Process::is_usual")]
    pub process: Process,
    /// Signal that asks the main process to end, such as `SIGTERM`; the image's if empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// How long the main process may take to end before it is killed.
    #[serde(default = "default_stop_grace")]
    pub stop_grace: Millis,
    /// Shares and limits.
    #[serde(default)]
    pub resources: Resources,
    /// How many processes and threads it may have; [`PIDS_DEFAULT`] if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// What happens when the main process ends.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How it shows that it works; without one, a running process counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthCheck>,
    /// How it shows that others can use it, beside that it works; without one, they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<HealthCheck>,
    /// What is done in it after a start and before a stop.
    #[serde(default, skip_serializing_if = "Hooks::is_none")]
    pub hooks: Hooks,
    /// Ports it listens on. A statement for names, checks and people: nothing is mapped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<ServicePort>,
    /// Who answers on port 22.
    #[serde(default)]
    pub ssh: Ssh,
    /// Who may reach it; without a list, what the cluster says: everybody, or nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_from: Option<Vec<AllowRule>>,
    /// Whom it may reach; without a list, everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_to: Option<Vec<AllowRule>>,
}

fn default_stop_grace() -> Millis {
    Millis::seconds(10)
}

impl Template {
    /// A template of nothing but an image.
    #[must_use]
    pub fn of_image(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            image_policy: ImagePolicy::default(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            environment: BTreeMap::new(),
            user: String::new(),
            working_dir: String::new(),
            hostname: String::new(),
            labels: BTreeMap::new(),
            mounts: Vec::new(),
            machine: None,
            carry: Vec::new(),
            shm_size: None,
            stdin: false,
            tty: false,
            process: Process::default(),
            stop_signal: String::new(),
            stop_grace: default_stop_grace(),
            resources: Resources::default(),
            pids: None,
            restart: RestartPolicy::default(),
            healthcheck: None,
            readiness: None,
            hooks: Hooks::default(),
            expose: Vec::new(),
            ssh: Ssh::default(),
            allow_from: None,
            allow_to: None,
        }
    }

    /// What a container of this template is recognised by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        // The live fields at fixed values: a change of theirs leaves the fingerprint alone.
        let fixed = Self {
            image_policy: ImagePolicy::default(),
            machine: self
                .machine
                .clone()
                .map(|machine| Machine { on_image_change: OnImageChange::default(), ..machine }),
            carry: Vec::new(),
            stop_grace: default_stop_grace(),
            resources: Resources::default(),
            pids: None,
            restart: RestartPolicy::default(),
            healthcheck: None,
            readiness: None,
            hooks: Hooks { before_stop: None, ..self.hooks.clone() },
            expose: Vec::new(),
            ssh: Ssh::default(),
            allow_from: None,
            allow_to: None,
            ..self.clone()
        };
        // Maps with text keys always serialize; an empty text would only merge fingerprints.
        let text = serde_json::to_string(&fixed).unwrap_or_default();
        let digest = Sha256::digest(text.as_bytes());
        Fingerprint(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// What a container of it is held to.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { share: self.resources, pids: self.pids.unwrap_or(PIDS_DEFAULT) }
    }

    /// What an agent has to know of to run it.
    #[must_use]
    pub fn needs(&self) -> Skills {
        Skills {
            process: !self.process.is_usual(),
            machine: self.machine.is_some()
                || matches!(self.process.init, Some(Init::None | Init::Systemd)),
            compose: self.process.needs_compose(),
        }
    }

    /// What its main process was told from inside by ending so, if it may be told: it is a machine, or systemd.
    #[must_use]
    pub fn told_from_inside(&self, code: i32) -> Option<ToldFromInside> {
        let may_be = self.machine.is_some() || self.process.init == Some(Init::Systemd);
        ToldFromInside::by_code(code).filter(|_| may_be)
    }

    /// The checks that it has.
    pub fn checks(&self) -> impl Iterator<Item = &HealthCheck> {
        self.healthcheck.iter().chain(&self.readiness)
    }

    /// The paths of its node that it mounts.
    pub fn binds(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Volume(_) => None,
            MountSource::Bind(path) => Some(path.as_str()),
        })
    }

    /// The volumes it uses, which live on one node; a machine's root first.
    pub fn volumes(&self) -> impl Iterator<Item = &VolumeName> {
        let mounted = self.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Volume(name) => Some(name),
            MountSource::Bind(_) => None,
        });
        self.machine.iter().map(|machine| &machine.volume).chain(mounted)
    }
}

impl Template {
    /// SHA-256 over all of it: two templates have the same one if they are equal.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        // Maps are sorted, and JSON is the form that it is stored in, so this cannot fail.
        Sha256::digest(serde_json::to_vec(self).unwrap_or_default()).into()
    }
}

/// A digest over the fields of a [`Template`] that need a new container: 16 hexadecimal digits. After it, its edition, if there was more
/// than one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub String);

impl Fingerprint {
    /// What a container of this edition is recognised by: where nobody has asked for another one, by what it is made from alone.
    #[must_use]
    pub fn of_edition(self, edition: Generation) -> Self {
        if edition.is_zero() { self } else { Self(format!("{self}-{edition}")) }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// When a node asks the registry for an image. Once a version is pinned, all of them mean the image that it is pinned to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImagePolicy {
    /// When it has none of that reference.
    #[default]
    Missing,
    /// Also when it has one, before the first container of a version: a tag may have moved.
    Newest,
    /// When it has none; and the reference has to name the digest, so that it can mean only one image.
    Pinned,
}

impl ImagePolicy {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What happens when the main process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// It is started again, with growing pauses while it keeps ending soon.
    #[default]
    Always,
    /// The same, unless it ended with exit code 0.
    OnFailure {
        /// Give up after this many restarts in a row; `None` never gives up.
        max_retries: Option<u32>,
    },
    /// It stays ended.
    Never,
}

/// Something mounted into an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// What.
    pub source: MountSource,
    /// Where, an absolute path inside.
    pub target: String,
    /// Whether writing is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// Where mounted data lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountSource {
    /// A volume of the instance's own, kept on its node through replacement and removal of containers.
    Volume(VolumeName),
    /// A path of the node, absolute, which the node's operator has to have allowed.
    Bind(String),
}

/// A port an instance listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePort {
    /// The port number, not 0.
    pub port: u16,
    /// Its transport.
    #[serde(default)]
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// Who answers on an instance's port 22.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ssh {
    /// dwell does, for these public keys (lines as in OpenSSH's `authorized_keys`).
    Dwell {
        /// Public keys, one line each.
        authorized_keys: Vec<String>,
        /// The controller's key sets that count here; all of them if there is no list.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_sets: Option<Vec<KeySetName>>,
        /// The names that may be logged in as, by whatever key or certificate; any if there is no list.
        /// [`CONTAINERS_USER`](crate::ssh::CONTAINERS_USER) is such a name, too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        users: Option<Vec<String>>,
        /// Who somebody is that logs in without choosing a name; absent: the container's own user.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        login_as: Option<String>,
        /// Whether accounts of the container let others in as themselves, by their `~/.ssh/authorized_keys`; absent: those of
        /// a machine do.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account_keys: Option<bool>,
    },
    /// The image brings a server of its own.
    Image,
    /// Nobody.
    Off,
}

impl Default for Ssh {
    fn default() -> Self {
        Self::Dwell {
            authorized_keys: Vec::new(),
            key_sets: None,
            users: None,
            login_as: None,
            account_keys: None,
        }
    }
}
