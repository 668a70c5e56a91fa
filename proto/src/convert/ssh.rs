//! Keys and log-ins of instances.

use dwell_core::clock::Timestamp;
use dwell_core::instance::sanitize;
use dwell_core::ssh::{HostKey, SshEvent, SshEventKind, SshTrust};

use super::{FromWireError, parse};
use crate::v1;

/// The longest text of an event, in bytes.
const TEXT_MAX: usize = 256;

impl From<&HostKey> for v1::HostKey {
    fn from(key: &HostKey) -> Self {
        Self { private_key: key.private_key.clone(), certificate: key.certificate.clone() }
    }
}

impl From<v1::HostKey> for HostKey {
    fn from(wire: v1::HostKey) -> Self {
        Self { private_key: wire.private_key, certificate: wire.certificate }
    }
}

/// The zone is the network's.
impl From<&SshTrust> for v1::SshTrust {
    fn from(trust: &SshTrust) -> Self {
        let key_sets = trust
            .key_sets
            .iter()
            .map(|(name, keys)| v1::KeySet { name: name.to_string(), keys: keys.clone() });
        Self {
            user_authority: trust.user_authority.clone(),
            host_authority: trust.host_authority.clone(),
            more_user_authorities: trust.more_user_authorities.clone(),
            key_sets: key_sets.collect(),
        }
    }
}

/// The zone is the network's, and empty here.
impl TryFrom<v1::SshTrust> for SshTrust {
    type Error = FromWireError;

    fn try_from(wire: v1::SshTrust) -> Result<Self, FromWireError> {
        let key_sets =
            wire.key_sets.into_iter().map(|set| Ok((parse("key_set.name", &set.name)?, set.keys)));
        Ok(Self {
            user_authority: wire.user_authority,
            host_authority: wire.host_authority,
            more_user_authorities: wire.more_user_authorities,
            zone: String::new(),
            key_sets: key_sets.collect::<Result<_, FromWireError>>()?,
        })
    }
}

impl From<&SshEvent> for v1::SshEvent {
    fn from(event: &SshEvent) -> Self {
        use v1::ssh_event::Kind;
        let (kind, duration_ms, count) = match event.what {
            SshEventKind::Opened => (Kind::Opened, 0, 0),
            SshEventKind::Closed { duration_ms } => (Kind::Closed, duration_ms, 0),
            SshEventKind::Refused { count } => (Kind::Refused, 0, count),
        };
        Self {
            at_ms: event.at.0,
            instance: event.instance.to_string(),
            from: event.from.to_string(),
            login: event.login.clone(),
            key: event.key.clone(),
            kind: kind.into(),
            duration_ms,
            count,
        }
    }
}

impl TryFrom<v1::SshEvent> for SshEvent {
    type Error = FromWireError;

    /// Texts are cut and cleaned, since they end up on terminals and in logs.
    fn try_from(wire: v1::SshEvent) -> Result<Self, FromWireError> {
        use v1::ssh_event::Kind;
        let what = match wire.kind() {
            Kind::Opened => SshEventKind::Opened,
            Kind::Closed => SshEventKind::Closed { duration_ms: wire.duration_ms },
            Kind::Refused => SshEventKind::Refused { count: wire.count },
            Kind::Unspecified => return Err(FromWireError::new("ssh_event.kind", "is missing")),
        };
        Ok(Self {
            at: Timestamp(wire.at_ms),
            instance: parse("ssh_event.instance", &wire.instance)?,
            from: parse("ssh_event.from", &wire.from)?,
            login: sanitize(&wire.login, TEXT_MAX),
            key: sanitize(&wire.key, TEXT_MAX),
            what,
        })
    }
}
