//! Names and counters, one type each, checked where they enter.
//!
//! Every name is a DNS label (RFC 1123: lower-case letters, digits and `-`, at most 63 bytes), because
//! every name ends up in a hostname, a file name and a label of a container. What is checked once
//! here needs no escaping anywhere else.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Longest DNS label, in bytes.
pub const LABEL_MAX: usize = 63;
/// Longest workload name, in bytes: leaves room for `-` and an ordinal within a DNS label.
pub const WORKLOAD_NAME_MAX: usize = 52;
/// The highest ordinal an instance can have.
pub const ORDINAL_MAX: u32 = 99_999;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("{kind} name is empty; use 1 to {max} lower-case letters, digits and '-'")]
    Empty {
        /// What was to be named.
        kind: &'static str,
        /// Longest allowed, in bytes.
        max: usize,
    },
    /// Too many bytes.
    #[error("{kind} name of {length} bytes is too long; use at most {max}")]
    TooLong {
        /// What was to be named.
        kind: &'static str,
        /// Its length, in bytes.
        length: usize,
        /// Longest allowed, in bytes.
        max: usize,
    },
    /// A character that has no place in a DNS label.
    #[error(
        "{kind} name {name:?} has {character:?} at byte {at}; use lower-case letters, digits and '-', \
         beginning and ending with a letter or digit{}",
        instead(name)
    )]
    Character {
        /// What was to be named.
        kind: &'static str,
        /// The text, escaped when shown.
        name: String,
        /// The first wrong character.
        character: char,
        /// Where it stands.
        at: usize,
    },
    /// Not `WORKLOAD-ORDINAL`.
    #[error(
        "instance name {name:?} has no ordinal; write it as WORKLOAD-NUMBER, for example web-0"
    )]
    NoOrdinal {
        /// The text, escaped when shown.
        name: String,
    },
}

/// A name that would do in place of one whose only fault are capitals and underscores.
fn instead(name: &str) -> String {
    let plain = name.to_ascii_lowercase().replace('_', "-");
    match check_label("", &plain, LABEL_MAX, "") {
        Ok(()) => format!(", such as {plain}"),
        Err(_) => String::new(),
    }
}

/// `inside` has what else may stand between the first character and the last.
fn check_label(kind: &'static str, name: &str, max: usize, inside: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { kind, max });
    }
    if name.len() > max {
        return Err(NameError::TooLong { kind, length: name.len(), max });
    }
    let wrong = name.char_indices().find(|&(at, character)| {
        let edge = at == 0 || at + character.len_utf8() == name.len();
        let plain = character.is_ascii_lowercase() || character.is_ascii_digit();
        !(plain || (!edge && (character == '-' || inside.contains(character))))
    });
    match wrong {
        Some((at, character)) => {
            Err(NameError::Character { kind, name: name.to_owned(), character, at })
        }
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:expr) => {
        name_type!($(#[$doc])* $name, $kind, $max, "");
    };
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:expr, $inside:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`NameError`] if it is not a DNS label of the allowed length.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                check_label($kind, &name, $max, $inside)?;
                Ok(Self(name))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "minLength": 1,
                    "maxLength": $max,
                    "pattern": concat!("^[a-z0-9]([a-z0-9", $inside, "-]*[a-z0-9])?$"),
                })
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name_type!(
    /// The name of a host that runs the agent.
    NodeName, "node", LABEL_MAX
);
name_type!(
    /// The name of a group of nodes.
    PoolName, "pool", LABEL_MAX
);
name_type!(
    /// The name of a workload.
    WorkloadName, "workload", WORKLOAD_NAME_MAX
);
name_type!(
    /// The name of a person or a program that uses the API.
    ClientName, "client", LABEL_MAX
);
name_type!(
    /// The name of a set of public keys.
    KeySetName, "key set", LABEL_MAX
);
name_type!(
    /// The name of a volume, unique within its workload. It is in no hostname, and may have `_` as Compose files do.
    VolumeName, "volume", LABEL_MAX, "_"
);

/// The name of an instance: its workload and its ordinal, written `web-0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceName {
    workload: WorkloadName,
    ordinal: u32,
}

impl InstanceName {
    /// The instance `ordinal` of `workload`; an ordinal beyond [`ORDINAL_MAX`] is held to it.
    #[must_use]
    pub fn new(workload: WorkloadName, ordinal: u32) -> Self {
        Self { workload, ordinal: ordinal.min(ORDINAL_MAX) }
    }

    /// Whose copy it is.
    #[must_use]
    pub fn workload(&self) -> &WorkloadName {
        &self.workload
    }

    /// Which copy it is, from 0.
    #[must_use]
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }
}

impl FromStr for InstanceName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        check_label("instance", name, LABEL_MAX, "")?;
        let no_ordinal = || NameError::NoOrdinal { name: name.to_owned() };
        let (workload, digits) = name.rsplit_once('-').ok_or_else(no_ordinal)?;
        let ordinal: u32 = digits.parse().map_err(|_| no_ordinal())?;
        // `web-007` and `web-+7` would be second spellings of one instance.
        if ordinal > ORDINAL_MAX || ordinal.to_string() != digits {
            return Err(no_ordinal());
        }
        Ok(Self { workload: WorkloadName::new(workload)?, ordinal })
    }
}

impl TryFrom<String> for InstanceName {
    type Error = NameError;
    fn try_from(name: String) -> Result<Self, NameError> {
        name.parse()
    }
}

impl From<InstanceName> for String {
    fn from(name: InstanceName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.workload, self.ordinal))
    }
}

impl fmt::Debug for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

macro_rules! counter_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// Whether nothing was counted yet.
            #[must_use]
            pub fn is_zero(&self) -> bool {
                self.0 == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter_type!(
    /// Counts the changes to one workload; an instance carries the one it was last changed at as its
    /// fencing token: of two claims to one instance, the higher generation is right.
    Generation
);
counter_type!(
    /// Counts the versions of one workload's declaration, from 1.
    VersionNumber
);
counter_type!(
    /// Counts the changes to the whole model of a controller; never goes back, not even over a restart.
    Revision
);
counter_type!(
    /// Counts the starts of a controller within one [`Incarnation`]: of two controllers, the one with the higher term
    /// is right. 0 is one that says nothing of terms.
    Term
);

/// Names one history of a controller; chosen at random when the history begins.
///
/// A controller that was restored from a backup goes on from an earlier state and forgets what came after it: that is
/// another history, with an incarnation of its own, and nothing that was numbered in the first means anything in the
/// second. [`Incarnation::UNKNOWN`] is said by programs that know of no incarnations, and fits every history.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// Of a program that knows of no incarnations.
    pub const UNKNOWN: Self = Self(0);

    /// Whether both may be of one history: they are the same, or one of them is unknown.
    #[must_use]
    pub fn fits(self, other: Self) -> bool {
        self == other || self == Self::UNKNOWN || other == Self::UNKNOWN
    }

    /// Whether a program said that it knows of none.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::UNKNOWN
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A place in the history of a controller. Two of them can be compared only within one incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Which history.
    pub incarnation: Incarnation,
    /// Where in it.
    pub revision: Revision,
}

impl Position {
    /// Where in a history this is: 0 if it belongs to another one.
    #[must_use]
    pub fn within(self, incarnation: Incarnation) -> Revision {
        if self.incarnation.fits(incarnation) { self.revision } else { Revision(0) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.revision, self.incarnation)
    }
}

#[cfg(test)]
mod tests;
