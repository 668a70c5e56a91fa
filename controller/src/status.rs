//! What goes wrong, as gRPC says it: the one place where errors become status codes.

use dwell_core::id::NameError;
use dwell_proto::FromWireError;
use tonic::Status;

use crate::model::{Compacted, Refusal, RefusalClass};
use crate::owner::{CommandError, Stopped};
use crate::pki::PkiError;
use crate::pki::rotation::RotationError;
use crate::tunnel::TunnelError;

/// An error with its gRPC status. (A trait of our own, since both sides of `From` are others'.)
pub(crate) trait IntoStatus {
    /// The status with the code that clients act upon, and the message that people read.
    fn into_status(self) -> Status;
}

/// `map_err(into_status)`.
pub(crate) fn into_status(error: impl IntoStatus) -> Status {
    error.into_status()
}

impl IntoStatus for Refusal {
    fn into_status(self) -> Status {
        let message = self.to_string();
        match self.class() {
            RefusalClass::NotFound => Status::not_found(message),
            RefusalClass::AlreadyExists => Status::already_exists(message),
            RefusalClass::Invalid => Status::invalid_argument(message),
            RefusalClass::FailedPrecondition => Status::failed_precondition(message),
            RefusalClass::Exhausted => Status::resource_exhausted(message),
            RefusalClass::Denied => Status::permission_denied(message),
        }
    }
}

impl IntoStatus for CommandError {
    fn into_status(self) -> Status {
        match self {
            Self::Refused(refusal) => refusal.into_status(),
            Self::NotStored(_) | Self::NotKnown(_) | Self::Stopped(_) => {
                Status::unavailable(self.to_string())
            }
        }
    }
}

impl IntoStatus for Stopped {
    fn into_status(self) -> Status {
        Status::unavailable(self.to_string())
    }
}

impl IntoStatus for FromWireError {
    fn into_status(self) -> Status {
        Status::invalid_argument(self.to_string())
    }
}

impl IntoStatus for NameError {
    fn into_status(self) -> Status {
        Status::invalid_argument(self.to_string())
    }
}

impl IntoStatus for Compacted {
    fn into_status(self) -> Status {
        Status::out_of_range(self.to_string())
    }
}

impl IntoStatus for PkiError {
    fn into_status(self) -> Status {
        match self {
            Self::Request => Status::invalid_argument(self.to_string()),
            Self::NoIdentity | Self::Retired | Self::Unproven => {
                Status::unauthenticated(self.to_string())
            }
            Self::File { .. }
            | Self::Authority { .. }
            | Self::SshFile { .. }
            | Self::Ssh(_)
            | Self::Issue(_)
            | Self::Tls(_) => Status::internal(self.to_string()),
        }
    }
}

impl IntoStatus for RotationError {
    fn into_status(self) -> Status {
        match self {
            Self::GoesOn(_) | Self::None => Status::failed_precondition(self.to_string()),
            Self::Pki(error) => error.into_status(),
        }
    }
}

impl IntoStatus for TunnelError {
    fn into_status(self) -> Status {
        match self {
            Self::NoSession(_) | Self::NoAnswer(_) => Status::unavailable(self.to_string()),
            Self::Busy(_) => Status::resource_exhausted(self.to_string()),
            Self::Unknown => Status::not_found(self.to_string()),
        }
    }
}
