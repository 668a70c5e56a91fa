//! Who logged in, and what that lets them do.

use crate::authorized_keys::{Forced, KeyOptions};
use crate::pattern::Target;

/// What a log-in may do. What it may not is refused when it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Whose: the key's fingerprint, and after a space its comment or the certificate's key id.
    pub key: String,
    /// Have a terminal.
    pub terminal: bool,
    /// Forward ports, either way.
    pub forwarding: bool,
    /// Forward its agent.
    pub agent: bool,
    /// Runs instead of whatever is asked for.
    pub command: Option<Forced>,
    open: Option<Vec<Target>>,
    listen: Option<Vec<Target>>,
}

impl Permit {
    /// What `options` of an `authorized_keys` line give to whom `key` names.
    pub fn new(key: String, options: &KeyOptions) -> Self {
        Self {
            key,
            terminal: options.terminal,
            forwarding: options.forwarding,
            agent: options.agent,
            command: options.command.clone(),
            open: options.open.clone(),
            listen: options.listen.clone(),
        }
    }

    /// Whether a connection may be forwarded to `host` at `port`.
    pub fn may_open(&self, host: &str, port: u16) -> bool {
        self.forwarding && among(self.open.as_deref(), host, port)
    }

    /// Whether a connection may be forwarded to a Unix socket. A list of hosts and ports has none.
    pub fn may_open_sockets(&self) -> bool {
        self.forwarding && self.open.is_none()
    }

    /// Whether a Unix socket may be listened on, likewise.
    pub fn may_listen_on_sockets(&self) -> bool {
        self.forwarding && self.listen.is_none()
    }

    /// Whether `port` may be listened on at `host`.
    pub fn may_listen(&self, host: &str, port: u16) -> bool {
        self.forwarding && among(self.listen.as_deref(), host, port)
    }
}

fn among(targets: Option<&[Target]>, host: &str, port: u16) -> bool {
    targets.is_none_or(|targets| targets.iter().any(|target| target.matches(host, port)))
}
