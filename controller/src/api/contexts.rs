//! Contexts: made for people and programs, listed without what is secret in them, and revoked.

use std::time::Duration;

use dwell_core::access::Role;
use dwell_proto::v1;
use tonic::Status;

use super::{Api, request};
use crate::model::{Command, Context, Model, Reply};
use crate::status::into_status;

/// How long a context is good if nobody says, and at most.
const VALID: Duration = Duration::from_secs(30 * 24 * 3600);
const VALID_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

impl Api {
    /// Makes a context. It is given out once it is on the list, so that there is none that cannot be revoked.
    pub(super) async fn issue_context(
        &self,
        request: v1::IssueClientRequest,
    ) -> Result<v1::IssueClientResponse, Status> {
        let name = request::name(&request.name)?;
        let role = request::optional::<Role>(&request.role)?.unwrap_or_default();
        let valid = request::duration("valid_ms", request.valid_ms, VALID, VALID_MAX)?;
        let issued = self.authority.issue_client(name, role, valid).map_err(into_status)?;
        self.command(Command::IssueContext(issued.client.clone())).await?;
        Ok(v1::IssueClientResponse {
            certificate_pem: issued.certificate_pem,
            private_key_pem: issued.private_key_pem,
            ca_pem: self.authority.certificates_pem(),
            expires_at_ms: issued.client.expires_at.0,
            controller: self.advertised.clone(),
            serial: issued.client.context.to_string(),
        })
    }

    pub(super) async fn contexts(&self) -> Result<v1::ListContextsResponse, Status> {
        let (found, revision) = self.read(Model::contexts).await?;
        let contexts = found.iter().map(|one| view(one)).collect();
        Ok(v1::ListContextsResponse { contexts, revision: revision.0 })
    }

    pub(super) async fn revoke_contexts(
        &self,
        request: v1::RevokeContextRequest,
    ) -> Result<v1::RevokeContextResponse, Status> {
        let done = self.command(Command::RevokeContext(request.context)).await?;
        let Reply::Contexts(revoked) = done.reply else {
            return Err(Status::internal("the model did not say what is revoked"));
        };
        let contexts = revoked.iter().map(|one| view(one)).collect();
        Ok(v1::RevokeContextResponse { contexts, revision: done.revision.0 })
    }
}

fn view(context: &Context) -> v1::Context {
    v1::Context {
        serial: context.id.to_string(),
        name: context.name.to_string(),
        role: context.role.to_string(),
        issued_at_ms: context.issued_at.map(|at| at.0),
        issued_by: context.issued_by.clone(),
        expires_at_ms: context.expires_at.0,
        used_at_ms: context.used_at.map(|at| at.0),
        revoked_at_ms: context.revoked_at.map(|at| at.0),
        revoked_by: context.revoked_by.clone(),
    }
}
