//! The controller's own certificate, which is never older than two thirds of its life however long the controller runs.
//!
//! It is made when a connection asks for it and the last one is due, so there is nothing that could forget to renew it.
//! Connections that are open stay open.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Authority, PkiError};

/// How long a certificate is valid.
pub(super) const VALID: Duration = Duration::from_secs(366 * 24 * 3600);

/// Makes the controller's certificate anew when it is due.
pub(super) struct ServerCertificate {
    authority: Arc<Authority>,
    hosts: Vec<String>,
    current: Mutex<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    made_at: SystemTime,
}

impl ServerCertificate {
    /// With a certificate for these hosts.
    pub(super) fn new(
        authority: Arc<Authority>,
        hosts: Vec<String>,
        now: SystemTime,
    ) -> Result<Self, PkiError> {
        let key = Arc::new(authority.issue_server(&hosts, now)?);
        let current = Mutex::new(Current { key, made_at: now });
        Ok(Self { authority, hosts, current })
    }

    /// The certificate to show now.
    fn at(&self, now: SystemTime) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back makes it one of the future, which nobody would take.
        let is_due = now.duration_since(current.made_at).map_or(true, |age| age >= VALID * 2 / 3);
        if is_due {
            match self.authority.issue_server(&self.hosts, now) {
                Ok(key) => {
                    tracing::info!("made the controller's certificate anew");
                    *current = Current { key: Arc::new(key), made_at: now };
                }
                Err(error) => tracing::error!(%error, "cannot renew the controller's certificate"),
            }
        }
        Arc::clone(&current.key)
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.at(SystemTime::now()))
    }
}

impl fmt::Debug for ServerCertificate {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerCertificate({:?})", self.hosts)
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer as _;
    use x509_parser::time::ASN1Time;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_controller_that_runs_for_years_always_shows_a_valid_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(directory.path()).unwrap());
        let start = SystemTime::now();
        let shown = ServerCertificate::new(authority, vec!["c.example".into()], start).unwrap();
        let first = shown.at(start);
        assert!(Arc::ptr_eq(&first, &shown.at(start + 200 * DAY)), "made anew without need");
        let mut made = 1;
        let mut last = first;
        for day in 0..5 * 366 {
            let now = start + day * DAY;
            let key = shown.at(now);
            let (_, certificate) = X509Certificate::from_der(&key.cert[0]).unwrap();
            let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            let time = ASN1Time::from_timestamp(seconds.try_into().unwrap()).unwrap();
            assert!(certificate.validity().is_valid_at(time), "on day {day}");
            made += u32::from(!Arc::ptr_eq(&last, &key));
            last = key;
        }
        assert_eq!(made, 8);
        // A clock that was years ahead and is set right.
        let key = shown.at(start);
        let (_, certificate) = X509Certificate::from_der(&key.cert[0]).unwrap();
        assert!(certificate.validity().is_valid());
    }
}
