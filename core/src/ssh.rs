//! What passes between a node's agent and `dwell-ssh`, the SSH server of its instances.
//!
//! The two are separate processes, so that a restart or an upgrade of the agent cuts no session. The agent writes
//! what there is to serve into files that outlive it; `dwell-ssh` watches them and reports what
//! happens over a socket of the agent's:
//!
//! ```text
//!   <run>/ssh/trust.json               SshTrust: who may log in, everywhere
//!   <run>/ssh/instances/web-0.json     SshInstance: one that is served, gone when it is not; `web-0.b.json` in a second sandbox
//!   <run>/ssh/events.sock              the agent listens; one SshEvent per line, JSON, no answer
//!   <run>/bundles/<container id>       a symbolic link to the OCI bundle, made by dwell-oci
//! ```
//!
//! Invariants: the directory `<run>/ssh` is root's alone (mode 0700), since host keys lie in it; a file is complete or
//! absent (written beside its place, then renamed); unknown fields are passed over, because
//! the two are upgraded one after the other.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{InstanceName, KeySetName};

/// The name under which somebody logs in as the container's own user, the one that the workload's `user` or its image
/// says. Any other name is the user of that name in the container, and nobody else.
pub const CONTAINERS_USER: &str = "@container";
/// The name of those who chose none: whom the workload's `ssh.login_as` names, and [`CONTAINERS_USER`] if it names nobody.
pub const DEFAULT_USER: &str = "@default";

/// Who may log in to instances, and by which names hosts are known; the same on every node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshTrust {
    /// The cluster's user CA, a public key as in OpenSSH's `authorized_keys`: whom it certified may log in under the
    /// names (principals) that the certificate lists. Empty: no such CA.
    #[serde(default)]
    pub user_authority: String,
    /// Further user CAs of the cluster, likewise: the earlier one while the cluster's authority is rotated. A `dwell-ssh`
    /// that does not know of them takes certificates of the newest only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_user_authorities: Vec<String>,
    /// The cluster's host CA, likewise; it signs the host keys of all instances. Empty: no such CA.
    #[serde(default)]
    pub host_authority: String,
    /// The DNS zone of the instances' names, such as `dwell`.
    #[serde(default)]
    pub zone: String,
    /// Public keys by the name of their set, each a line as in `authorized_keys`. A line with the
    /// option `cert-authority` is a user CA of somebody else's.
    #[serde(default)]
    pub key_sets: BTreeMap<KeySetName, Vec<String>>,
}

/// The host key of an instance, which belongs to its identity.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    /// The private key, Ed25519, in OpenSSH's PEM format, not encrypted.
    pub private_key: String,
    /// Its certificate by the host CA, one line in OpenSSH's format.
    pub certificate: String,
}

/// Shows that there is a key and never which.
impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKey").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// An instance that `dwell-ssh` serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshInstance {
    /// Its name.
    pub instance: InstanceName,
    /// Its address; port 22 is listened on here.
    pub address: Ipv4Addr,
    /// Its IPv6 address, if it has one: port 22 is listened on here as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Absolute path of its network namespace.
    pub netns: String,
    /// What it proves itself with.
    pub host_key: HostKey,
    /// Keys of its own: lines as in `authorized_keys`.
    #[serde(default)]
    pub authorized_keys: Vec<String>,
    /// Names of the key sets that count here; absent: all of them.
    #[serde(default)]
    pub key_sets: Option<Vec<KeySetName>>,
    /// The names that may be logged in as; absent: any.
    #[serde(default)]
    pub users: Option<Vec<String>>,
    /// Who somebody is that logs in as [`DEFAULT_USER`]; absent: [`CONTAINERS_USER`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_as: Option<String>,
    /// Whether an account of the container may let others in as itself, by its `~/.ssh/authorized_keys`.
    #[serde(default)]
    pub account_keys: bool,
    /// The container that runs in the sandbox; absent while none does. Log-ins are answered all the same, and
    /// say that nothing runs.
    #[serde(default)]
    pub container: Option<SshContainer>,
}

/// A running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshContainer {
    /// The engine's id for it.
    pub id: String,
    /// The process id of its main process, in the host's namespace.
    pub pid: u32,
    /// When that process started, field 22 of `/proc/PID/stat`: tells it from a later one with the same id.
    pub start_ticks: u64,
}

/// Something that `dwell-ssh` reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshEvent {
    /// When, by the node's clock.
    pub at: Timestamp,
    /// Whose port 22.
    pub instance: InstanceName,
    /// The client's address.
    pub from: SocketAddr,
    /// The name it logged in with, cleaned and cut.
    pub login: String,
    /// What it logged in with, such as `SHA256:…`, and after a space the key's comment or the certificate's key id;
    /// empty if it never showed a key.
    pub key: String,
    /// What happened.
    pub what: SshEventKind,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SshEventKind {
    /// Somebody logged in.
    Opened,
    /// A connection that had logged in ended.
    Closed {
        /// How long it lasted, in milliseconds.
        duration_ms: u64,
    },
    /// Somebody was refused; several refusals of one address within a minute are reported as one.
    Refused {
        /// How many.
        count: u64,
    },
}
