//! TLS as the listener speaks it: the controller's own certificate, which is never older than two thirds of its life however
//! long the controller runs, and whose certificates are taken.
//!
//! The oldest authority that counts signs it, since everybody knows that one. It is made when a connection asks for it and the last one is due, so there is nothing that could forget to renew it.
//! Connections that are open stay open.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::authority::{Trusted, tls};
use super::signer::Signer;
use super::{Authority, PkiError};

/// How long a certificate is valid.
pub(super) const VALID: Duration = Duration::from_secs(366 * 24 * 3600);

/// TLS for the listener, by whatever authorities count at the moment.
pub struct Tls {
    authority: Arc<Authority>,
    hosts: Vec<String>,
    current: Mutex<(Arc<Trusted>, Arc<rustls::ServerConfig>)>,
}

impl Tls {
    /// With a certificate for these hosts that is always fresh. Clients may come without a certificate; what they may do
    /// then is not decided here.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn new(authority: Arc<Authority>, hosts: &[&str]) -> Result<Self, PkiError> {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let trusted = authority.trusted();
        let config = Arc::new(config(&trusted, hosts.clone())?);
        Ok(Self { authority, hosts, current: Mutex::new((trusted, config)) })
    }

    /// For the next connection.
    pub fn config(&self) -> Arc<rustls::ServerConfig> {
        let trusted = self.authority.trusted();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current.0, &trusted) {
            match config(&trusted, self.hosts.clone()) {
                Ok(config) => *current = (trusted, Arc::new(config)),
                Err(error) => tracing::error!(%error, "cannot take over whom to trust"),
            }
        }
        Arc::clone(&current.1)
    }
}

fn config(trusted: &Trusted, hosts: Vec<String>) -> Result<rustls::ServerConfig, PkiError> {
    let signer = Arc::clone(trusted.oldest());
    let shown = ServerCertificate::new(signer, hosts, SystemTime::now())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| tls(&error))?
        .with_client_cert_verifier(trusted.client_verifier()?)
        .with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would carry on with a certificate that has expired since.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Makes the controller's certificate anew when it is due.
pub(super) struct ServerCertificate {
    signer: Arc<Signer>,
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
        signer: Arc<Signer>,
        hosts: Vec<String>,
        now: SystemTime,
    ) -> Result<Self, PkiError> {
        let key = Arc::new(signer.issue_server(&hosts, now)?);
        let current = Mutex::new(Current { key, made_at: now });
        Ok(Self { signer, hosts, current })
    }

    /// The certificate to show now.
    fn at(&self, now: SystemTime) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back makes it one of the future, which nobody would take.
        let is_due = now.duration_since(current.made_at).map_or(true, |age| age >= VALID * 2 / 3);
        if is_due {
            match self.signer.issue_server(&self.hosts, now) {
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
        let authority = Authority::open(directory.path()).unwrap();
        let signer = Arc::clone(authority.trusted().oldest());
        let start = SystemTime::now();
        let shown = ServerCertificate::new(signer, vec!["c.example".into()], start).unwrap();
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
