//! Hooks: what is done in an instance right after its main process was started, and before it is asked to end.

use serde::{Deserialize, Serialize};

use crate::health::Probe;
use crate::quantity::Millis;

/// The hooks of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    /// What has to succeed before an instance counts as started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_start: Option<Hook>,
    /// What is done before its main process is asked to end, whenever dwell ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_stop: Option<Hook>,
}

impl Hooks {
    /// Whether there are none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Something that is done in an instance, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// What.
    pub action: HookAction,
    /// How long it may take.
    #[serde(default = "Hook::default_timeout")]
    pub timeout: Millis,
}

/// What a hook does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookAction {
    /// Runs a command inside, which succeeds if it exits with 0.
    Exec {
        /// The command and its arguments.
        command: Vec<String>,
    },
    /// Sends the instance an HTTP GET, which succeeds if the answer has a status from 200 to 399.
    Http {
        /// Port number.
        port: u16,
        /// Path and query, beginning with `/`.
        path: String,
    },
}

impl Hook {
    /// How long a hook may take where nobody says.
    #[must_use]
    pub fn default_timeout() -> Millis {
        Millis::seconds(30)
    }

    /// The probe that does the same.
    #[must_use]
    pub fn probe(&self) -> Probe {
        match &self.action {
            HookAction::Exec { command } => Probe::Exec { command: command.clone() },
            HookAction::Http { port, path } => Probe::Http { port: *port, path: path.clone() },
        }
    }
}
