//! One change of one object: what the store writes, what watchers see, and how it is taken back.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::access::ContextId;
use dwell_core::id::{InstanceName, KeySetName, NodeName, Revision, VersionNumber, WorkloadName};
use dwell_core::registry::RegistryHost;
use serde::de::DeserializeOwned;

use super::contexts::Context;
use super::object::{
    Demand, Event, History, Instance, JoinToken, KeySet, Link, Node, Observed, Quarantine,
    Registry, Reserved, Stored, TokenId, Unmet, Waiting, Workload,
};
use super::versions::Version;
use super::volumes::{Volume, VolumeKey};

/// A change of one object. Applying a command yields a list of them, in order of their revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place in the order of all changes.
    pub revision: Revision,
    /// Which object.
    pub key: Key,
    /// What it was; `None` if it is new.
    pub old: Option<Record>,
    /// What it is; `None` if it is deleted.
    pub new: Option<Record>,
}

impl Change {
    /// Whether it belongs into the store.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.key.table().is_some()
    }
}

/// Names an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Durable.
    Workload(WorkloadName),
    /// Durable.
    Version(WorkloadName, VersionNumber),
    /// Durable.
    Instance(InstanceName),
    /// Durable.
    Node(NodeName),
    /// Durable.
    Token(TokenId),
    /// Durable.
    KeySet(KeySetName),
    /// Durable.
    Registry(RegistryHost),
    /// Durable.
    Context(ContextId),
    /// Durable.
    Event(Revision),
    /// Durable.
    Volume(VolumeKey),
    /// Durable.
    Quarantine(Ipv4Addr),
    /// Durable; there is one.
    Reserved,
    /// Durable; there is one.
    History,
    /// Durable; there is one.
    Stored,
    /// Volatile.
    Link(NodeName),
    /// Volatile.
    Observed(InstanceName),
    /// Volatile.
    Waiting(InstanceName),
    /// Volatile.
    Unmet(Demand),
}

impl Key {
    /// The object that looks otherwise to watchers when this one changes; none if they see nothing of it.
    pub(super) fn shown_as(&self) -> Option<Self> {
        match self {
            Self::Workload(_) | Self::Event(_) => Some(self.clone()),
            Self::Version(name, _) => Some(Self::Workload(name.clone())),
            Self::Instance(name) | Self::Observed(name) | Self::Waiting(name) => {
                Some(Self::Instance(name.clone()))
            }
            Self::Node(name) | Self::Link(name) => Some(Self::Node(name.clone())),
            Self::Token(_)
            | Self::KeySet(_)
            | Self::Registry(_)
            | Self::Context(_)
            | Self::Volume(_)
            | Self::Quarantine(_)
            | Self::Reserved
            | Self::History
            | Self::Stored
            | Self::Unmet(_) => None,
        }
    }

    /// The table of the store that such objects are kept in; `None` for volatile ones.
    #[must_use]
    pub fn table(&self) -> Option<&'static str> {
        Some(match self {
            Self::Workload(_) => "workload",
            Self::Version(..) => "version",
            Self::Instance(_) => "instance",
            Self::Node(_) => "node",
            Self::Token(_) => "token",
            Self::KeySet(_) => "key-set",
            Self::Registry(_) => "registry",
            Self::Context(_) => "context",
            Self::Event(_) => "event",
            Self::Volume(_) => "volume",
            Self::Quarantine(_) => "quarantine",
            Self::Reserved => "reserved",
            Self::History => "history",
            Self::Stored => "stored",
            Self::Link(_) | Self::Observed(_) | Self::Waiting(_) | Self::Unmet(_) => return None,
        })
    }

    /// The object's name, unique within its table.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Workload(name) => name.to_string(),
            Self::Version(name, number) => format!("{name}/{number}"),
            Self::Instance(name) | Self::Observed(name) | Self::Waiting(name) => name.to_string(),
            Self::Node(name) | Self::Link(name) => name.to_string(),
            Self::Token(id) => id.0.clone(),
            Self::KeySet(name) => name.to_string(),
            Self::Registry(host) => host.to_string(),
            Self::Context(id) => id.to_string(),
            Self::Event(revision) => revision.to_string(),
            Self::Volume(key) => key.to_string(),
            Self::Quarantine(address) => address.to_string(),
            Self::Reserved => "revision".to_owned(),
            Self::History => "history".to_owned(),
            Self::Stored => "stored".to_owned(),
            Self::Unmet(demand) => format!("{demand:?}"),
        }
    }
}

/// An object, cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Durable.
    Workload(Arc<Workload>),
    /// Durable.
    Version(Arc<Version>),
    /// Durable.
    Instance(Arc<Instance>),
    /// Durable.
    Node(Arc<Node>),
    /// Durable.
    Token(Arc<JoinToken>),
    /// Durable.
    KeySet(Arc<KeySet>),
    /// Durable.
    Registry(Arc<Registry>),
    /// Durable.
    Context(Arc<Context>),
    /// Durable.
    Event(Arc<Event>),
    /// Durable.
    Volume(Arc<Volume>),
    /// Durable.
    Quarantine(Arc<Quarantine>),
    /// Durable.
    Reserved(Reserved),
    /// Durable.
    History(Arc<History>),
    /// Durable.
    Stored(Stored),
    /// Volatile.
    Link(Arc<Link>),
    /// Volatile.
    Observed(Arc<Observed>),
    /// Volatile.
    Waiting(Arc<Waiting>),
    /// Volatile.
    Unmet(Arc<Unmet>),
}

/// Why a stored record cannot be read, or a record not be stored.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The store has a table that this version does not know.
    #[error("the store has a record of unknown kind {0:?}; was it written by a newer version?")]
    UnknownTable(String),
    /// The record's text makes no sense.
    #[error(
        "a stored record of kind {table} cannot be read; was the store damaged or written by a newer version?"
    )]
    Json {
        /// Its table.
        table: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Volatile records have no stored form.
    #[error("a volatile record cannot be stored")]
    Volatile,
}

impl Record {
    /// The name of this object.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Workload(value) => Key::Workload(value.spec.name.clone()),
            Self::Version(value) => Key::Version(value.workload.clone(), value.form.number),
            Self::Instance(value) => Key::Instance(value.name.clone()),
            Self::Node(value) => Key::Node(value.name.clone()),
            Self::Token(value) => Key::Token(value.id.clone()),
            Self::KeySet(value) => Key::KeySet(value.name.clone()),
            Self::Registry(value) => Key::Registry(value.host.clone()),
            Self::Context(value) => Key::Context(value.id),
            Self::Event(value) => Key::Event(value.revision),
            Self::Volume(value) => Key::Volume(value.key.clone()),
            Self::Quarantine(value) => Key::Quarantine(value.address),
            Self::Reserved(_) => Key::Reserved,
            Self::History(_) => Key::History,
            Self::Stored(_) => Key::Stored,
            Self::Link(value) => Key::Link(value.node.clone()),
            Self::Observed(value) => Key::Observed(value.status.instance.clone()),
            Self::Waiting(value) => Key::Waiting(value.instance.clone()),
            Self::Unmet(value) => Key::Unmet(value.demand.clone()),
        }
    }

    /// The stored form of a durable record: JSON.
    ///
    /// # Errors
    /// [`RecordError::Volatile`] for a volatile one.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let (table, json) = match self {
            Self::Workload(value) => ("workload", serde_json::to_vec(value.as_ref())),
            Self::Version(value) => ("version", serde_json::to_vec(value.as_ref())),
            Self::Instance(value) => ("instance", serde_json::to_vec(value.as_ref())),
            Self::Node(value) => ("node", serde_json::to_vec(value.as_ref())),
            Self::Token(value) => ("token", serde_json::to_vec(value.as_ref())),
            Self::KeySet(value) => ("key-set", serde_json::to_vec(value.as_ref())),
            Self::Registry(value) => ("registry", serde_json::to_vec(value.as_ref())),
            Self::Context(value) => ("context", serde_json::to_vec(value.as_ref())),
            Self::Event(value) => ("event", serde_json::to_vec(value.as_ref())),
            Self::Volume(value) => ("volume", serde_json::to_vec(value.as_ref())),
            Self::Quarantine(value) => ("quarantine", serde_json::to_vec(value.as_ref())),
            Self::Reserved(value) => ("reserved", serde_json::to_vec(value)),
            Self::History(value) => ("history", serde_json::to_vec(value.as_ref())),
            Self::Stored(value) => ("stored", serde_json::to_vec(value)),
            Self::Link(_) | Self::Observed(_) | Self::Waiting(_) | Self::Unmet(_) => {
                return Err(RecordError::Volatile);
            }
        };
        json.map_err(|source| RecordError::Json { table: table.to_owned(), source })
    }

    /// Reads a record of a [`Key::table`].
    ///
    /// # Errors
    /// [`RecordError`] if the table is unknown or the text is not such a record.
    pub fn decode(table: &str, json: &[u8]) -> Result<Self, RecordError> {
        fn read<T: DeserializeOwned>(table: &str, json: &[u8]) -> Result<Arc<T>, RecordError> {
            serde_json::from_slice(json)
                .map(Arc::new)
                .map_err(|source| RecordError::Json { table: table.to_owned(), source })
        }
        Ok(match table {
            "workload" => Self::Workload(read(table, json)?),
            "version" => Self::Version(read(table, json)?),
            "instance" => Self::Instance(read(table, json)?),
            "node" => Self::Node(read(table, json)?),
            "token" => Self::Token(read(table, json)?),
            "key-set" => Self::KeySet(read(table, json)?),
            "registry" => Self::Registry(read(table, json)?),
            "context" => Self::Context(read(table, json)?),
            "event" => Self::Event(read(table, json)?),
            "volume" => Self::Volume(read(table, json)?),
            "quarantine" => Self::Quarantine(read(table, json)?),
            "reserved" => Self::Reserved(*read(table, json)?),
            "history" => Self::History(read(table, json)?),
            "stored" => Self::Stored(*read(table, json)?),
            unknown => return Err(RecordError::UnknownTable(unknown.to_owned())),
        })
    }
}
