//! How the processes of an instance are held, and what they find beside their image.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::quantity::Bytes;

/// How the processes of an instance are held, and what they find beside their image. All of it is the engine's to set when it makes a
/// container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Process {
    /// What process 1 is; without a word, what [`Init`] says of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// Nothing can be written but to what is mounted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Directories in memory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<Tmpfs>,
    /// Limits of each process, by their names in setrlimit(2) without `RLIMIT_`, in small letters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Capabilities that it has not, of those that the engine gives; `ALL` for none. By their names in capabilities(7) without `CAP_`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub cap_drop: BTreeSet<String>,
    /// Groups that its main process is in beside its user's, by name or number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub group_add: Vec<String>,
    /// Names that it finds in its `/etc/hosts`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_hosts: BTreeMap<String, IpAddr>,
    /// Settings of the kernel that each instance has for itself, by their names in sysctl(8).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Capabilities that it has beside, or in spite of `cap_drop`. Those that an engine does not give by itself, its node's
    /// operator has to have allowed.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub cap_add: BTreeSet<String>,
    /// Devices of its node, which the node's operator has to have allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Domains that it searches for names after the cluster's zone, in place of those of its node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_search: Vec<String>,
    /// Options of its resolver, as in resolv.conf(5), in place of those of its node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_options: Vec<String>,
}

/// The capabilities that an engine gives by itself, of which some can be taken away.
pub const USUAL_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

impl Process {
    /// Whether it is as an engine has it.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// The capabilities that its node's operator has to have allowed.
    pub fn granted_capabilities(&self) -> impl Iterator<Item = &str> {
        let added = self.cap_add.iter().map(String::as_str);
        added.filter(|name| !USUAL_CAPABILITIES.contains(name))
    }

    /// Whether it says something that [`Skill::Compose`](crate::skill::Skill::Compose) is about.
    #[must_use]
    pub fn needs_compose(&self) -> bool {
        !(self.sysctls.is_empty()
            && self.cap_add.is_empty()
            && self.devices.is_empty()
            && self.dns_search.is_empty()
            && self.dns_options.is_empty())
    }
}

/// A device of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its path on the node, beneath `/dev`.
    pub source: String,
    /// Its path inside.
    pub target: String,
    /// What may be done with it: some of `r` (read), `w` (write) and `m` (make a file of it).
    pub permissions: String,
}

/// What process 1 of an instance is. If nothing is said, it is [`Init::Engine`] for a machine and for what runs a plain shell or
/// `sleep`, which reap nothing, and [`Init::None`] for all else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "InitForm", into = "InitForm")]
pub enum Init {
    /// The engine's own small init, which reaps what nobody waits for, passes signals on and starts the main process.
    Engine,
    /// The main process itself.
    None,
    /// The image's own systemd, which the main process is: it finds what it needs to manage the instance's services.
    Systemd,
}

/// How [`Init`] is written: as Compose does, or by name.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum InitForm {
    Flag(bool),
    Name(String),
}

/// What is no [`Init`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no init; use true, false or systemd")]
pub struct InitError(String);

impl FromStr for Init {
    type Err = InitError;
    fn from_str(text: &str) -> Result<Self, InitError> {
        match text {
            "true" => Ok(Self::Engine),
            "false" => Ok(Self::None),
            "systemd" => Ok(Self::Systemd),
            other => Err(InitError(other.to_owned())),
        }
    }
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Engine => "true",
            Self::None => "false",
            Self::Systemd => "systemd",
        })
    }
}

impl TryFrom<InitForm> for Init {
    type Error = InitError;
    fn try_from(form: InitForm) -> Result<Self, InitError> {
        match form {
            InitForm::Flag(true) => Ok(Self::Engine),
            InitForm::Flag(false) => Ok(Self::None),
            InitForm::Name(name) => name.parse(),
        }
    }
}

impl From<Init> for InitForm {
    fn from(init: Init) -> Self {
        match init {
            Init::Engine => Self::Flag(true),
            Init::None => Self::Flag(false),
            Init::Systemd => Self::Name(init.to_string()),
        }
    }
}

/// A directory in memory, which is empty whenever a container starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Where, as an absolute path.
    pub target: String,
    /// The most that it holds; it counts for the memory of the instance. Half of the host's memory if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// Its permissions; `1777` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// A limit of a process: what it is held to, and to what it may raise that itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// What it is held to.
    pub soft: Most,
    /// To what it may raise that.
    pub hard: Most,
}

impl Ulimit {
    /// One for both.
    #[must_use]
    pub fn of(most: Most) -> Self {
        Self { soft: most, hard: most }
    }
}

/// The most of something: a number, or any number, which is written -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub enum Most {
    /// No more than that.
    Number(u64),
    /// Any number.
    Unlimited,
}

/// What is neither a number nor -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no limit; use a number, or -1 for none")]
pub struct MostError(i64);

impl TryFrom<i64> for Most {
    type Error = MostError;
    fn try_from(number: i64) -> Result<Self, MostError> {
        match u64::try_from(number) {
            Ok(number) => Ok(Self::Number(number)),
            Err(_) if number == -1 => Ok(Self::Unlimited),
            Err(_) => Err(MostError(number)),
        }
    }
}

impl From<Most> for i64 {
    fn from(most: Most) -> Self {
        match most {
            Most::Number(number) => Self::try_from(number).unwrap_or(Self::MAX),
            Most::Unlimited => -1,
        }
    }
}

impl fmt::Display for Most {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", i64::from(*self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_written_as_in_compose() {
        assert!(Most::Number(u64::MAX) < Most::Unlimited);
        for (number, most) in [(0, Most::Number(0)), (-1, Most::Unlimited)] {
            assert_eq!(Most::try_from(number), Ok(most));
            assert_eq!(i64::from(most), number);
        }
        assert_eq!(Most::try_from(-2), Err(MostError(-2)));
    }

    #[test]
    fn what_is_usual_is_not_written() {
        assert!(Process::default().is_usual());
        assert_eq!(serde_json::to_string(&Process::default()).unwrap(), "{}");
    }

    #[test]
    fn an_init_is_written_as_in_compose_or_by_name() {
        for (init, written) in
            [(Init::Engine, "true"), (Init::None, "false"), (Init::Systemd, "\"systemd\"")]
        {
            assert_eq!(serde_json::to_string(&init).unwrap(), written);
            assert_eq!(serde_json::from_str::<Init>(written).unwrap(), init);
            assert_eq!(init.to_string().parse(), Ok(init));
        }
        assert!(serde_json::from_str::<Init>("\"upstart\"").is_err());
    }
}
