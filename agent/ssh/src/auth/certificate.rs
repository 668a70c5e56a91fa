//! What a user certificate claims, whoever signed it.

use std::time::SystemTime;

use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate};

use super::Asking;
use crate::authorized_keys::{Forced, KeyOptions, check_key};
use crate::pattern::AddressList;
use crate::permit::Permit;

/// A certificate that is sound in itself.
pub(super) struct Claims<'a> {
    /// Whom it is for; never empty.
    pub(super) principals: &'a [String],
    options: KeyOptions,
}

/// Reads a certificate; nothing if it is not one for users, not for now, not for the client's address, or says
/// something critical that we do not know.
pub(super) fn read<'a>(certificate: &'a Certificate, asking: Asking<'_>) -> Option<Claims<'a>> {
    let sound = certificate.cert_type() == CertType::User
        && !certificate.valid_principals().is_empty()
        && valid_at(certificate, asking.now)
        && check_key(certificate.public_key()).is_ok()
        && check_key(certificate.signature_key()).is_ok()
        // A signature with SHA-1.
        && certificate.signature().algorithm() != Algorithm::Rsa { hash: None };
    if !sound {
        return None;
    }
    let permits = |extension: &str| certificate.extensions().contains_key(extension);
    let mut options = KeyOptions {
        terminal: permits("permit-pty"),
        forwarding: permits("permit-port-forwarding"),
        agent: permits("permit-agent-forwarding"),
        ..KeyOptions::default()
    };
    for (name, value) in certificate.critical_options().iter() {
        match name.as_str() {
            "force-command" => options.command = Some(Forced::parse(value)?),
            "source-address" => options.from = Some(AddressList::networks(value)?),
            _ => return None,
        }
    }
    options
        .applies(asking.from, asking.now)
        .then_some(Claims { principals: certificate.valid_principals(), options })
}

impl Claims<'_> {
    /// What the certificate and the options of its authority's line permit together; nothing if both force a
    /// command, and not the same.
    pub(super) fn permit(self, whose: String, line: Option<&KeyOptions>) -> Option<Permit> {
        let mut options = self.options;
        if let Some(line) = line {
            options.terminal &= line.terminal;
            options.forwarding &= line.forwarding;
            options.agent &= line.agent;
            options.open.clone_from(&line.open);
            options.listen.clone_from(&line.listen);
            options.command = match (options.command, line.command.clone()) {
                (Some(mine), Some(theirs)) if mine != theirs => return None,
                (mine, theirs) => mine.or(theirs),
            };
        }
        Some(Permit::new(whose, &options))
    }
}

/// The end is excluded, and the greatest number means for ever.
fn valid_at(certificate: &Certificate, now: SystemTime) -> bool {
    let Ok(now) = now.duration_since(SystemTime::UNIX_EPOCH) else { return false };
    certificate.valid_after() <= now.as_secs() && now.as_secs() < certificate.valid_before()
}
