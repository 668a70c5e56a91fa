//! What the certificate of a node is worth: the CA's signature says whose it was, the model whether it still counts.

use std::net::IpAddr;

use dwell_core::access::Issuer;
use dwell_core::id::NodeName;
use tonic::{Request, Status};

use crate::listen::Peer;
use crate::model::Refusal;
use crate::owner::Handle;
use crate::pki::{Enrolment, Identity};
use crate::status::into_status;

/// The node that a request comes from, by its certificate.
pub(crate) struct Caller {
    pub(crate) node: NodeName,
    pub(crate) enrolment: Enrolment,
    /// Who signed its certificate.
    pub(crate) issuer: Issuer,
    /// Where it calls from, if that is known.
    pub(crate) from: Option<IpAddr>,
}

/// What a caller's enrolment is worth.
pub(super) enum Standing {
    /// It is the node's present one.
    Member,
    /// It is the present one, but two hosts have it.
    Contested,
    /// It is the last one of a node that was removed.
    Removed,
    /// Another host has joined under the name since.
    Superseded,
    /// There is no such node.
    Unknown,
}

impl Caller {
    /// Who is at the other end of the connection that a request came over.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        match request.extensions().get::<Peer>() {
            Some(Peer::Certified { identity, from }) => {
                Ok(Self { from: Some(*from), ..identity.as_ref().try_into()? })
            }
            _ => Err(Status::unauthenticated("this needs the certificate of a node")),
        }
    }

    pub(super) fn standing(&self, owner: &Handle) -> Standing {
        match owner.roster().node(&self.node) {
            None => Standing::Unknown,
            Some(found) if found.enrolment != self.enrolment.0 => Standing::Superseded,
            Some(found) if found.removed => Standing::Removed,
            Some(found) if found.contested => Standing::Contested,
            Some(_) => Standing::Member,
        }
    }

    /// Refuses a caller that is out: whose node was removed, is another host by now, or is two hosts.
    pub(crate) fn check_member(&self, owner: &Handle) -> Result<(), Status> {
        let node = &self.node;
        match self.standing(owner) {
            Standing::Member => Ok(()),
            Standing::Contested => Err(into_status(Refusal::NodeContested(node.clone()))),
            Standing::Unknown => Err(into_status(Refusal::NotANode(node.clone()))),
            Standing::Removed => Err(Status::permission_denied(format!(
                "node {node} was removed; end what still runs on this host with `dwell-agent cleanup`, and join again \
                 with a new token"
            ))),
            Standing::Superseded => Err(Status::permission_denied(format!(
                "another host has joined as node {node} since; end what still runs on this host with `dwell-agent \
                 cleanup`, and join again under another name with a new token"
            ))),
        }
    }
}

impl TryFrom<&Identity> for Caller {
    type Error = Status;

    fn try_from(identity: &Identity) -> Result<Self, Status> {
        match identity {
            Identity::Node { name, enrolment, issuer } => Ok(Self {
                node: name.clone(),
                enrolment: enrolment.clone(),
                issuer: *issuer,
                from: None,
            }),
            Identity::Client(_) => {
                Err(Status::permission_denied("this needs the certificate of a node"))
            }
        }
    }
}

impl From<Caller> for Identity {
    fn from(caller: Caller) -> Self {
        Self::Node { name: caller.node, enrolment: caller.enrolment, issuer: caller.issuer }
    }
}
