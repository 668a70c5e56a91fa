//! Machines: instances whose root file system is their own.

use serde::{Deserialize, Serialize};

use crate::id::VolumeName;

/// What makes an instance a machine: its root file system is a volume of its own, which outlives every container.
///
/// The volume has what differs from the image that it was born from, so it is of use with that image alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The volume that has its root.
    pub volume: VolumeName,
    /// What becomes of its root when another image is declared.
    #[serde(default, skip_serializing_if = "OnImageChange::is_default")]
    pub on_image_change: OnImageChange,
}

/// How a machine's main process ended, if it was told to from inside.
///
/// The kernel ends process 1 of a container in which somebody calls reboot(2) by the signals 1 and 2. A small init in its place passes
/// on what its own `halt` and `poweroff` send it, the signals 10 and 12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToldFromInside {
    /// To start again.
    Reboot,
    /// To stay off.
    ShutDown,
}

impl ToldFromInside {
    /// What an exit code of a machine's main process means.
    #[must_use]
    pub fn by_code(code: i32) -> Option<Self> {
        match code {
            129 => Some(Self::Reboot),
            130 | 138 | 140 => Some(Self::ShutDown),
            _ => None,
        }
    }
}

/// What becomes of a machine's root when another image is declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnImageChange {
    /// It stays, and with it the image that it was born from, until somebody asks for a new one.
    #[default]
    Keep,
    /// It begins anew, from the new image.
    Rebuild,
}

impl OnImageChange {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
