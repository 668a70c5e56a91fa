//! Logins at registries of images: taken, listed without what is secret in them, and forgotten.

use dwell_core::registry::RegistryLogin;
use dwell_proto::v1;
use tonic::Status;

use super::{Api, request};
use crate::model::{Command, Model, Registry};

impl Api {
    pub(super) async fn registries(&self) -> Result<v1::ListRegistriesResponse, Status> {
        let (found, revision) = self.read(Model::registries).await?;
        let registries = found.iter().map(|one| view(one)).collect();
        Ok(v1::ListRegistriesResponse { registries, revision: revision.0 })
    }

    pub(super) async fn log_in(
        &self,
        request: v1::SetRegistryLoginRequest,
        by: String,
    ) -> Result<v1::SetRegistryLoginResponse, Status> {
        let host = request::name(&request.host)?;
        let login = RegistryLogin::new(request.username, request.password)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let done = self.command(Command::SetRegistryLogin { host, login, by }).await?;
        Ok(v1::SetRegistryLoginResponse { revision: done.revision.0 })
    }
}

/// The password has no place in what is shown.
fn view(registry: &Registry) -> v1::Registry {
    v1::Registry {
        host: registry.host.to_string(),
        username: registry.login.username.clone(),
        changed_at_ms: registry.changed_at.0,
        by: registry.by.clone(),
    }
}
