//! Who a certificate speaks for.

use dwell_core::access::{Client, ContextId, Issuer, Role};
use dwell_core::clock::Timestamp;
use dwell_core::id::NodeName;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::PkiError;

/// Who a certificate speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The agent of a node.
    Node {
        /// Which node.
        name: NodeName,
        /// Which of the hosts that joined under this name.
        enrolment: Enrolment,
        /// Who signed the certificate.
        issuer: Issuer,
    },
    /// A person or a program.
    Client(Client),
}

/// SHA-256 over the key (its subject public key info) with which a host joined, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Enrolment(pub String);

impl Enrolment {
    /// The enrolment that joining with this key makes.
    pub(super) fn of_key(public_key_info: &[u8]) -> Self {
        Self(hex(&Sha256::digest(public_key_info)))
    }
}

impl Identity {
    /// The names to put into a certificate.
    pub(super) fn uris(&self, cluster: &str) -> Vec<String> {
        match self {
            Self::Node { name, enrolment, .. } => vec![
                format!("dwell://{cluster}/node/{name}"),
                format!("dwell://{cluster}/enrolment/{}", enrolment.0),
            ],
            Self::Client(Client { name, role, .. }) => vec![
                format!("dwell://{cluster}/client/{name}"),
                format!("dwell://{cluster}/role/{role}"),
            ],
        }
    }

    /// Reads the names of a certificate whose signature has been verified.
    ///
    /// # Errors
    /// [`PkiError::NoIdentity`] unless it has exactly one identity, of this cluster.
    pub(super) fn read(certificate: &X509Certificate<'_>, cluster: &str) -> Result<Self, PkiError> {
        let names =
            certificate.subject_alternative_name().ok().flatten().ok_or(PkiError::NoIdentity)?;
        let prefix = format!("dwell://{cluster}/");
        let mut found = Vec::new();
        for name in &names.value.general_names {
            let GeneralName::URI(uri) = name else { return Err(PkiError::NoIdentity) };
            let path = uri.strip_prefix(&prefix).ok_or(PkiError::NoIdentity)?;
            found.push(path.split_once('/').ok_or(PkiError::NoIdentity)?);
        }
        match found[..] {
            [("node", name), ("enrolment", enrolment)] => Ok(Self::Node {
                name: name.parse().map_err(|_| PkiError::NoIdentity)?,
                enrolment: Enrolment(enrolment.to_owned()),
                issuer: issuer(certificate)?,
            }),
            // Those that were made before there were roles may do everything.
            [("client", name)] => client(certificate, name, Role::Admin),
            [("client", name), ("role", role)] => {
                let role = role.parse().map_err(|_| PkiError::NoIdentity)?;
                client(certificate, name, role)
            }
            _ => Err(PkiError::NoIdentity),
        }
    }
}

fn client(certificate: &X509Certificate<'_>, name: &str, role: Role) -> Result<Identity, PkiError> {
    let name = name.parse().map_err(|_| PkiError::NoIdentity)?;
    // All that we have signed have serial numbers of at most eight bytes.
    let serial = certificate
        .raw_serial()
        .iter()
        .try_fold(0_u64, |number, byte| Some(number.checked_mul(256)? | u64::from(*byte)));
    let context = ContextId(serial.ok_or(PkiError::NoIdentity)?);
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let expires_at = Timestamp(seconds.saturating_mul(1000));
    let issuer = issuer(certificate)?;
    Ok(Identity::Client(Client { name, role, context, expires_at, issuer }))
}

/// The word before the number of an authority, in its name. The first has neither.
const AUTHORITY: &str = "authority ";

/// What an authority has in its name beside the cluster's, so that no two have the same.
pub(super) fn unit(issuer: Issuer) -> Option<String> {
    (issuer != Issuer::default()).then(|| format!("{AUTHORITY}{issuer}"))
}

/// Which authority signed a certificate whose signature has been verified: a chain ends in the CA of that name.
pub(super) fn issuer(certificate: &X509Certificate<'_>) -> Result<Issuer, PkiError> {
    let Some(unit) = certificate.issuer().iter_organizational_unit().next() else {
        return Ok(Issuer::default());
    };
    let number = unit.as_str().ok().and_then(|unit| unit.strip_prefix(AUTHORITY)?.parse().ok());
    number.map(Issuer).ok_or(PkiError::NoIdentity)
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
