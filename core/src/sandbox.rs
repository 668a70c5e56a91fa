//! Which of its sandboxes an instance's container is in.
//!
//! Usually an instance has one sandbox. While a new container is tried beside the one that serves, there are two with the
//! same address, and the address leads to one of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::InstanceName;

/// One of the two sandboxes that an instance can have. A container is in the same one for as long as it exists.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// That of an instance which has only ever had one.
    #[default]
    A,
    /// The other one.
    B,
}

impl Slot {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Whether it is the usual one, of which nothing needs to be said.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::A
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// Not `a`, nor `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no sandbox of an instance is called so")]
pub struct UnknownSlot;

impl FromStr for Slot {
    type Err = UnknownSlot;

    fn from_str(text: &str) -> Result<Self, UnknownSlot> {
        Self::ALL.into_iter().find(|slot| slot.as_str() == text).ok_or(UnknownSlot)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One sandbox of a node: whose it is, and which of the two.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxId {
    /// Whose.
    pub instance: InstanceName,
    /// Which.
    pub slot: Slot,
}

impl SandboxId {
    /// The instance's other one.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { instance: self.instance.clone(), slot: self.slot.other() }
    }
}

/// The usual one.
impl From<InstanceName> for SandboxId {
    fn from(instance: InstanceName) -> Self {
        Self { instance, slot: Slot::A }
    }
}

impl fmt::Display for SandboxId {
    /// `web-0`, or `web-0.b`: no instance's name has a dot in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot {
            Slot::A => self.instance.fmt(f),
            Slot::B => write!(f, "{}.{}", self.instance, self.slot),
        }
    }
}

impl FromStr for SandboxId {
    type Err = UnknownSlot;

    fn from_str(text: &str) -> Result<Self, UnknownSlot> {
        let (instance, slot) = text.split_once('.').unwrap_or((text, "a"));
        let instance = instance.parse().map_err(|_| UnknownSlot)?;
        let found = Self { instance, slot: slot.parse()? };
        if found.to_string() == text { Ok(found) } else { Err(UnknownSlot) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_read_as_it_is_written() {
        let web: SandboxId = "web-0".parse().unwrap();
        assert_eq!((web.slot, web.beside().to_string().as_str()), (Slot::A, "web-0.b"));
        assert_eq!("web-0.b".parse(), Ok(web.beside()));
        for wrong in ["web-0.a", "web-0.c", "web-0.", "web-0.b.b", ".b", "web"] {
            assert_eq!(wrong.parse::<SandboxId>(), Err(UnknownSlot), "{wrong}");
        }
    }
}
