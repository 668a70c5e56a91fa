//! Trust: the cluster's own CA, the certificates it gives out, and what they say.
//!
//! The CA is made at the first start and kept in `data_dir/pki` (`ca.pem`, and `ca.key` for the
//! controller's user only). It can be replaced while everything runs, with both trusted in between: see
//! [rotation]. The server's certificate is made anew at each start,
//! and while the controller runs when two thirds of its life are over. Whoever is to speak has
//! a certificate for TLS clients with one identity in it:
//!
//! | subject alternative name | whose | valid |
//! |---|---|---|
//! | `dwell://CLUSTER/node/NAME`, and `dwell://CLUSTER/enrolment/DIGEST` | an agent's | 7 days |
//! | `dwell://CLUSTER/client/NAME`, and `dwell://CLUSTER/role/ROLE` | a person's or a program's | 30 days |
//! | `controller.dwell` and the advertised addresses (TLS server) | the controller's | 1 year |
//!
//! The *enrolment* is the digest of the key with which a host joined; it stays the same over renewals,
//! with whatever key, and differs when a host joins again under the same name. The model keeps each
//! node's; a certificate of an earlier enrolment is worth nothing. A lost answer to a renewal therefore
//! locks nobody out, and neither does a long absence: the key of an expired certificate still proves whose
//! enrolment it is, without a limit of age, and whether that counts is the model's to say.
//!
//! Beside the CA lie the [SSH](SshAuthority) CAs, which sign the host keys of instances and the keys of people.
//!
//! Invariant: nothing that a requester writes into a certificate request is taken over but its key.

mod authority;
mod identity;
pub mod rotation;
mod server;
mod signer;
mod ssh;
mod token;

pub use authority::{Authority, By, Certified, IssuedClient, Request, Trusted};
pub use identity::{Enrolment, Identity};
pub use server::Tls;
pub use ssh::{SshAuthority, UserCertificate};
pub use token::{NewToken, ShownToken};

use std::path::PathBuf;

/// Why a certificate cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the CA cannot be used.
    #[error("cannot use {} ({reason}); restore it from a backup, or correct its permissions", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// A file of the CA is there and does not make sense.
    #[error("{} is not the CA of a cluster ({problem}); restore both files of this directory from a backup", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file with a key for SSH is there and does not make sense.
    #[error(
        "{} cannot be used ({problem}); restore it from a backup, or move it away to have a new one made",
        path.display()
    )]
    SshFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A key or a certificate for SSH could not be made.
    #[error("cannot make an SSH key or certificate ({0})")]
    Ssh(#[from] ssh_key::Error),
    /// A certificate could not be made.
    #[error("cannot make a certificate ({0})")]
    Issue(#[from] rcgen::Error),
    /// What was sent is no usable request for a certificate.
    #[error(
        "the certificate request is not usable: it has to be PKCS#10 (DER), at most {REQUEST_MAX} \
         bytes, with an ECDSA P-256, P-384 or Ed25519 key"
    )]
    Request,
    /// A certificate without an identity of this cluster.
    #[error("the certificate has no identity of this cluster")]
    NoIdentity,
    /// A certificate by an authority that was retired.
    #[error(
        "the certificate is from an authority of this cluster that was retired; a node joins again with a new token, a          person needs another context"
    )]
    Retired,
    /// A renewal that the key of the expired certificate did not sign, or a certificate that this CA did not.
    #[error(
        "the certificate is not from this cluster's CA, or its key did not sign the request; join again with a new token"
    )]
    Unproven,
    /// The TLS library refuses the configuration.
    #[error("cannot set up TLS ({0})")]
    Tls(String),
}

/// The largest certificate request, in bytes.
pub const REQUEST_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests;
