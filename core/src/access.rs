//! What people and programs may do: roles, and the names of the contexts that give them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Timestamp;
use crate::id::ClientName;

/// What a context may do; each role may do what the ones before it may.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look at everything that lists and logs show, environments included.
    Viewer,
    /// Declare, change and remove workloads, and get into their instances.
    Developer,
    /// Everything: nodes, tokens, keys, registries, volumes, contexts.
    #[default]
    Admin,
}

impl Role {
    /// All of them, from the least on.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Developer, Self::Admin];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Developer => "developer",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such role; use viewer, developer or admin")]
pub struct NoRole;

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(text: &str) -> Result<Self, NoRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(NoRole)
    }
}

/// Names an issued context: the serial number of its certificate, shown as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(pub u64);

impl fmt::Display for ContextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that is no name of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a context's serial has 16 hexadecimal digits")]
pub struct NoContextId;

impl FromStr for ContextId {
    type Err = NoContextId;

    fn from_str(text: &str) -> Result<Self, NoContextId> {
        let is_plain = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_plain);
        number.map(Self).ok_or(NoContextId)
    }
}

impl Serialize for ContextId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContextId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which of the cluster's authorities signed a certificate. They are numbered from 1 on; each rotation makes the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Issuer(pub u32);

impl Default for Issuer {
    /// The one that every cluster begins with, and that signed whatever does not say who did.
    fn default() -> Self {
        Self(1)
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A person or a program, by a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Whom the context was made for.
    pub name: ClientName,
    /// What it may do.
    pub role: Role,
    /// Which of the contexts of that name.
    pub context: ContextId,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// Who signed it.
    pub issuer: Issuer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_in_order_and_have_names() {
        assert!(Role::Viewer < Role::Developer && Role::Developer < Role::Admin);
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
            assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{role}\""));
        }
        assert_eq!("root".parse::<Role>(), Err(NoRole));
    }

    #[test]
    fn serials_are_read_as_they_are_shown() {
        for number in [0, 7, u64::MAX] {
            let id = ContextId(number);
            assert_eq!(id.to_string().parse(), Ok(id));
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(serde_json::from_str::<ContextId>(&json).unwrap(), id);
        }
        for wrong in ["", "7", "+00000000000000f", "00000000000000zz", "00000000000000071"] {
            assert_eq!(wrong.parse::<ContextId>(), Err(NoContextId), "{wrong}");
        }
    }
}
