//! The `Fleet` API: from the wire to commands and back. No rules live here; the model has them, and it
//! is asked again whatever a client has checked.
//!
//! | file | what |
//! |---|---|
//! | `api/request.rs` | from requests to commands, with the bounds of what is taken |
//! | `api/view.rs` | from the model's views to messages |
//! | `api/watch.rs` | the stream of changes |
//! | `api/instance.rs` | logs and exec, through [tunnels](crate::tunnel) |
//! | `api/connect.rs` | connections to ports, likewise |
//! | `api/authority.rs` | the authority that signs certificates, and its rotation |
//! | `api/audit.rs` | what all layers claim, compared |
//! | `api/contexts.rs` | contexts: made, listed, revoked |
//! | `api/diagnose.rs` | what nodes find out about routes and themselves, likewise |
//! | `api/images.rs` | the images of nodes, likewise |
//! | `api/keys.rs` | public keys: sets of them, and certificates for people |
//! | `api/registries.rs` | logins at registries of images |
//! | `api/explain.rs` | why something is where and what it is |
//! | `api/fleet_status.rs` | what of the fleet is not as declared |

mod adopt;
mod audit;
mod authority;
mod connect;
mod contexts;
mod diagnose;
mod explain;
mod fleet_status;
pub(crate) mod hearing;
mod images;
mod instance;
mod keys;
mod pages;
mod registries;
mod request;
mod view;
mod watch;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::Clock;
use dwell_core::id::Revision;
use dwell_proto::v1;
use dwell_proto::v1::fleet_server::Fleet;
use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::access;
use crate::model::{Command, Model, Refusal, Reply};
use crate::owner::{Done, Handle};
use crate::pki::{Authority, NewToken, SshAuthority};
use crate::status::into_status;
use crate::tunnel::Tunnels;

/// How long a token is valid if nobody says, and at most.
const TOKEN_VALID: Duration = Duration::from_secs(3600);
const TOKEN_VALID_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many events are listed if nobody says, and at most.
const EVENTS: u32 = 1_000;
const EVENTS_MAX: u32 = 10_000;

type Answer<T> = Result<Response<T>, Status>;
type ServerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The `Fleet` service.
pub struct Api {
    /// The model.
    pub owner: Handle,
    /// The way to the instances.
    pub tunnels: Tunnels,
    /// Makes tokens and certificates.
    pub authority: Arc<Authority>,
    /// Certifies people's keys for SSH.
    pub ssh: Arc<SshAuthority>,
    /// For expiries.
    pub clock: Arc<dyn Clock>,
    /// Where agents and clients reach this controller, HOST:PORT.
    pub advertised: String,
    /// Ends the streams.
    pub stop: CancellationToken,
}

impl Api {
    /// For whoever made the call.
    async fn command(&self, command: Command) -> Result<Done, Status> {
        self.owner.command_for(access::acting(), command).await.map_err(into_status)
    }

    /// Looks at the model, and says at which revision.
    async fn read<T, F>(&self, look: F) -> Result<(T, Revision), Status>
    where
        T: Send + 'static,
        F: FnOnce(&Model) -> T + Send + 'static,
    {
        self.owner.read(|model| (look(model), model.revision())).await.map_err(into_status)
    }
}

#[tonic::async_trait]
impl Fleet for Api {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Answer<v1::ApplyResponse> {
        let by = access::acting();
        let done = self.command(request::apply(request.into_inner(), by)?).await?;
        let Reply::Plans(plans) = done.reply else {
            return Err(Status::internal("the model gave no plans for a declaration"));
        };
        let plans = view::plans(&plans);
        Ok(Response::new(v1::ApplyResponse { plans, revision: done.revision.0 }))
    }

    async fn list_workloads(
        &self,
        request: Request<v1::ListWorkloadsRequest>,
    ) -> Answer<v1::ListWorkloadsResponse> {
        self.workloads_in_pages(request.into_inner()).await.map(Response::new)
    }

    async fn list_versions(
        &self,
        request: Request<v1::ListVersionsRequest>,
    ) -> Answer<v1::ListVersionsResponse> {
        let workload: dwell_core::id::WorkloadName = request::name(&request.into_inner().workload)?;
        let asked = workload.clone();
        let (found, revision) = self.read(move |model| model.versions(&asked)).await?;
        let found = found.ok_or_else(|| into_status(Refusal::NoWorkload(workload)))?;
        let versions = found.iter().map(view::version).collect();
        Ok(Response::new(v1::ListVersionsResponse { versions, revision: revision.0 }))
    }

    async fn roll_back(
        &self,
        request: Request<v1::RollBackRequest>,
    ) -> Answer<v1::RollBackResponse> {
        let by = access::acting();
        let done = self.command(request::roll_back(&request.into_inner(), by)?).await?;
        let Reply::Plans(plans) = done.reply else {
            return Err(Status::internal("the model gave no plan for going back"));
        };
        let plan = view::plans(&plans).pop();
        Ok(Response::new(v1::RollBackResponse { plan, revision: done.revision.0 }))
    }

    async fn resize(&self, request: Request<v1::ResizeRequest>) -> Answer<v1::ResizeResponse> {
        let by = access::acting();
        let done = self.command(request::resize(&request.into_inner(), by)?).await?;
        let Reply::Plans(plans) = done.reply else {
            return Err(Status::internal("the model gave no plan for other limits"));
        };
        let plan = view::plans(&plans).pop();
        Ok(Response::new(v1::ResizeResponse { plan, revision: done.revision.0 }))
    }

    async fn resize_instance(
        &self,
        request: Request<v1::ResizeInstanceRequest>,
    ) -> Answer<v1::ResizeResponse> {
        let done = self.command(request::resize_instance(&request.into_inner())?).await?;
        let Reply::Plans(plans) = done.reply else {
            return Err(Status::internal("the model gave no plan for other limits"));
        };
        let plan = view::plans(&plans).pop();
        Ok(Response::new(v1::ResizeResponse { plan, revision: done.revision.0 }))
    }

    async fn set_paused(
        &self,
        request: Request<v1::SetPausedRequest>,
    ) -> Answer<v1::SetPausedResponse> {
        let by = access::acting();
        let request = request.into_inner();
        let workload = request::name(&request.workload)?;
        let command = if request.paused {
            Command::Pause { workload, by }
        } else {
            Command::Resume(workload)
        };
        let done = self.command(command).await?;
        Ok(Response::new(v1::SetPausedResponse { revision: done.revision.0 }))
    }

    async fn promote(&self, request: Request<v1::PromoteRequest>) -> Answer<v1::PromoteResponse> {
        let workload = request::name(&request.into_inner().workload)?;
        let done = self.command(Command::Promote(workload)).await?;
        Ok(Response::new(v1::PromoteResponse { revision: done.revision.0 }))
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> Answer<v1::AbortResponse> {
        let by = access::acting();
        let workload = request::name(&request.into_inner().workload)?;
        let done = self.command(Command::Abort { workload, by }).await?;
        let Reply::Plans(plans) = done.reply else {
            return Err(Status::internal("the model gave no plan for going back"));
        };
        let plan = view::plans(&plans).pop();
        Ok(Response::new(v1::AbortResponse { plan, revision: done.revision.0 }))
    }

    async fn remove_workload(
        &self,
        request: Request<v1::RemoveWorkloadRequest>,
    ) -> Answer<v1::RemoveWorkloadResponse> {
        let name = request::name(&request.into_inner().name)?;
        let done = self.command(Command::RemoveWorkload(name)).await?;
        Ok(Response::new(v1::RemoveWorkloadResponse { revision: done.revision.0 }))
    }

    async fn scale_workload(
        &self,
        request: Request<v1::ScaleWorkloadRequest>,
    ) -> Answer<v1::ScaleWorkloadResponse> {
        let request = request.into_inner();
        let workload = request::name(&request.name)?;
        let done = self.command(Command::Scale { workload, replicas: request.replicas }).await?;
        Ok(Response::new(v1::ScaleWorkloadResponse { revision: done.revision.0 }))
    }

    async fn scale_workloads(
        &self,
        request: Request<v1::ScaleWorkloadsRequest>,
    ) -> Answer<v1::ScaleWorkloadsResponse> {
        let done = self.command(request::scale_all(request.into_inner())?).await?;
        Ok(Response::new(v1::ScaleWorkloadsResponse { revision: done.revision.0 }))
    }

    async fn set_run_state(
        &self,
        request: Request<v1::SetRunStateRequest>,
    ) -> Answer<v1::SetRunStateResponse> {
        let request = request.into_inner();
        let run = request.run().into();
        let target = self.target(&request.name).await?;
        let done = self.command(Command::SetRun { target, run }).await?;
        Ok(Response::new(v1::SetRunStateResponse { revision: done.revision.0 }))
    }

    async fn restart(&self, request: Request<v1::RestartRequest>) -> Answer<v1::RestartResponse> {
        let target = self.target(&request.into_inner().name).await?;
        let done = self.command(Command::Restart(target)).await?;
        Ok(Response::new(v1::RestartResponse { revision: done.revision.0 }))
    }

    async fn move_instances(
        &self,
        request: Request<v1::MoveInstancesRequest>,
    ) -> Answer<v1::MoveInstancesResponse> {
        let done = self.command(request::move_instances(&request.into_inner())?).await?;
        let Reply::Moves(moves) = done.reply else {
            return Err(Status::internal("the model did not say where the instances go"));
        };
        let moves = moves.iter().map(view::moved).collect();
        Ok(Response::new(v1::MoveInstancesResponse { moves, revision: done.revision.0 }))
    }

    async fn replace_instances(
        &self,
        request: Request<v1::ReplaceInstancesRequest>,
    ) -> Answer<v1::ReplaceInstancesResponse> {
        let request = request.into_inner();
        let names = request::instances(&request.names)?;
        let command = match request.new_address {
            true => Command::ReaddressInstances(names),
            false => Command::ReplaceInstances(names),
        };
        let done = self.command(command).await?;
        Ok(Response::new(v1::ReplaceInstancesResponse { revision: done.revision.0 }))
    }

    async fn rebuild_instances(
        &self,
        request: Request<v1::RebuildInstancesRequest>,
    ) -> Answer<v1::RebuildInstancesResponse> {
        let names = request::instances(&request.into_inner().names)?;
        let done = self.command(Command::RebuildInstances(names)).await?;
        Ok(Response::new(v1::RebuildInstancesResponse { revision: done.revision.0 }))
    }

    async fn dissociate_instances(
        &self,
        request: Request<v1::DissociateInstancesRequest>,
    ) -> Answer<v1::DissociateInstancesResponse> {
        let names = request::instances(&request.into_inner().names)?;
        let done = self.command(Command::DissociateInstances(names)).await?;
        Ok(Response::new(v1::DissociateInstancesResponse { revision: done.revision.0 }))
    }

    async fn adopt_instances(
        &self,
        request: Request<v1::AdoptInstancesRequest>,
    ) -> Answer<v1::AdoptInstancesResponse> {
        let names = request::instances(&request.into_inner().names)?;
        let done = self.command(Command::AdoptInstances(names)).await?;
        Ok(Response::new(v1::AdoptInstancesResponse { revision: done.revision.0 }))
    }

    async fn adopt_container(
        &self,
        request: Request<v1::AdoptContainerRequest>,
    ) -> Answer<v1::AdoptContainerResponse> {
        self.adopt(request.into_inner()).await.map(Response::new)
    }

    async fn remove_instances(
        &self,
        request: Request<v1::RemoveInstancesRequest>,
    ) -> Answer<v1::RemoveInstancesResponse> {
        let names = request::instances(&request.into_inner().names)?;
        let done = self.command(Command::RemoveInstances(names)).await?;
        Ok(Response::new(v1::RemoveInstancesResponse { revision: done.revision.0 }))
    }

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Answer<v1::ListInstancesResponse> {
        self.instances_in_pages(request.into_inner()).await.map(Response::new)
    }

    type LogsStream = ServerStream<v1::LogsChunk>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Answer<Self::LogsStream> {
        self.open_logs(request.into_inner()).await.map(Response::new)
    }

    type ExecStream = ServerStream<v1::ExecOutput>;

    async fn exec(&self, request: Request<Streaming<v1::ExecInput>>) -> Answer<Self::ExecStream> {
        self.open_exec(request.into_inner()).await.map(Response::new)
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Answer<v1::ListNodesResponse> {
        self.nodes_in_pages(request.into_inner()).await.map(Response::new)
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Answer<v1::CreateJoinTokenResponse> {
        let valid = request::duration(
            "valid_ms",
            request.into_inner().valid_ms,
            TOKEN_VALID,
            TOKEN_VALID_MAX,
        )?;
        let expires_at = self.clock.wall().after(valid);
        let NewToken { token, shown } = NewToken::mint(&self.authority).map_err(into_status)?;
        let command = Command::MintToken { id: shown.id, digest: shown.digest, expires_at };
        self.command(command).await?;
        Ok(Response::new(v1::CreateJoinTokenResponse {
            token: token.to_string(),
            expires_at_ms: expires_at.0,
            controller: self.advertised.clone(),
        }))
    }

    async fn change_node_blocks(
        &self,
        request: Request<v1::ChangeNodeBlocksRequest>,
    ) -> Answer<v1::ChangeNodeBlocksResponse> {
        let done = self.command(request::change_blocks(&request.into_inner())?).await?;
        let Reply::Block(block) = done.reply else {
            return Err(Status::internal("the model did not say which block it was"));
        };
        let (revision, block) = (done.revision.0, block.to_string());
        Ok(Response::new(v1::ChangeNodeBlocksResponse { revision, block }))
    }

    async fn update_node(
        &self,
        request: Request<v1::UpdateNodeRequest>,
    ) -> Answer<v1::UpdateNodeResponse> {
        let done =
            self.command(request::update_node(request.into_inner(), self.clock.wall())?).await?;
        Ok(Response::new(v1::UpdateNodeResponse { revision: done.revision.0 }))
    }

    async fn reboot_nodes(
        &self,
        request: Request<v1::RebootNodesRequest>,
    ) -> Answer<v1::RebootNodesResponse> {
        let done = self.command(request::reboot_nodes(&request.into_inner())?).await?;
        let Reply::Reboot(run) = done.reply else {
            return Err(Status::internal("the model gave no number for a reboot"));
        };
        Ok(Response::new(v1::RebootNodesResponse { revision: done.revision.0, run }))
    }

    async fn cancel_reboot(
        &self,
        _: Request<v1::CancelRebootRequest>,
    ) -> Answer<v1::CancelRebootResponse> {
        let done = self.command(Command::CancelReboot).await?;
        let Reply::Rebooting(nodes) = done.reply else {
            return Err(Status::internal("the model named no nodes for a reboot"));
        };
        let rebooting = nodes.iter().map(ToString::to_string).collect();
        Ok(Response::new(v1::CancelRebootResponse { revision: done.revision.0, rebooting }))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Answer<v1::RemoveNodeResponse> {
        let request = request.into_inner();
        let node: dwell_core::id::NodeName = request::name(&request.name)?;
        let remove = Command::RemoveNode { node: node.clone(), force: request.force };
        let done = self.command(remove).await?;
        self.tunnels.expel(&node);
        let left = self.read(move |model: &Model| model.left_on_removed(&node)).await?.0;
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        Ok(Response::new(v1::RemoveNodeResponse { revision: done.revision.0, left }))
    }

    async fn get_restore(
        &self,
        _: Request<v1::GetRestoreRequest>,
    ) -> Answer<v1::GetRestoreResponse> {
        let (found, _) = self.read(Model::restore_view).await?;
        Ok(Response::new(view::restore(&found)))
    }

    async fn confirm_restore(
        &self,
        request: Request<v1::ConfirmRestoreRequest>,
    ) -> Answer<v1::ConfirmRestoreResponse> {
        let force = request.into_inner().force;
        let done = self.command(Command::ConfirmRestore { force }).await?;
        Ok(Response::new(v1::ConfirmRestoreResponse { revision: done.revision.0 }))
    }

    async fn list_volumes(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Answer<v1::ListVolumesResponse> {
        self.volumes_in_pages(request.into_inner()).await.map(Response::new)
    }

    async fn remove_volume(
        &self,
        request: Request<v1::RemoveVolumeRequest>,
    ) -> Answer<v1::RemoveVolumeResponse> {
        let request = request.into_inner();
        let command = Command::RemoveVolume {
            instance: request::name(&request.instance)?,
            volume: request::name(&request.name)?,
            node: request::optional(&request.node)?,
        };
        let done = self.command(command).await?;
        Ok(Response::new(v1::RemoveVolumeResponse { revision: done.revision.0 }))
    }

    async fn list_routes(
        &self,
        _: Request<v1::ListRoutesRequest>,
    ) -> Answer<v1::ListRoutesResponse> {
        let (routes, revision) = self.read(Model::routes).await?;
        let routes = routes.iter().map(view::route).collect();
        Ok(Response::new(v1::ListRoutesResponse { routes, revision: revision.0 }))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Answer<v1::ListEventsResponse> {
        let v1::ListEventsRequest { subject, limit } = request.into_inner();
        let limit = if limit == 0 { EVENTS } else { limit.min(EVENTS_MAX) } as usize;
        let look = move |model: &Model| {
            model.events(Some(&*subject).filter(|text| !text.is_empty()), limit)
        };
        let (events, revision) = self.read(look).await?;
        let events = events.iter().map(|event| view::event(event)).collect();
        Ok(Response::new(v1::ListEventsResponse { events, revision: revision.0 }))
    }

    type WatchStream = ServerStream<v1::WatchResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        self.open_watch(request.into_inner()).await.map(Response::new)
    }

    async fn issue_client(
        &self,
        request: Request<v1::IssueClientRequest>,
    ) -> Answer<v1::IssueClientResponse> {
        self.issue_context(request.into_inner()).await.map(Response::new)
    }

    async fn list_contexts(
        &self,
        _: Request<v1::ListContextsRequest>,
    ) -> Answer<v1::ListContextsResponse> {
        self.contexts().await.map(Response::new)
    }

    async fn revoke_context(
        &self,
        request: Request<v1::RevokeContextRequest>,
    ) -> Answer<v1::RevokeContextResponse> {
        self.revoke_contexts(request.into_inner()).await.map(Response::new)
    }

    async fn get_authority(
        &self,
        _: Request<v1::GetAuthorityRequest>,
    ) -> Answer<v1::GetAuthorityResponse> {
        self.authority_now().await.map(Response::new)
    }

    async fn rotate_authority(
        &self,
        _: Request<v1::RotateAuthorityRequest>,
    ) -> Answer<v1::RotateAuthorityResponse> {
        self.rotate().await.map(Response::new)
    }

    async fn finish_rotation(
        &self,
        request: Request<v1::FinishRotationRequest>,
    ) -> Answer<v1::FinishRotationResponse> {
        self.finish(request.into_inner().force).await.map(Response::new)
    }

    type ConnectStream = ServerStream<v1::ConnectOutput>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::ConnectInput>>,
    ) -> Answer<Self::ConnectStream> {
        self.open_connect(request.into_inner()).await.map(Response::new)
    }

    type AuditStream = ServerStream<v1::AuditAnswer>;

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Answer<Self::AuditStream> {
        self.open_audit(&request.into_inner()).await.map(Response::new)
    }

    type CheckRoutesStream = ServerStream<v1::RouteCheck>;

    async fn check_routes(
        &self,
        request: Request<v1::CheckRoutesRequest>,
    ) -> Answer<Self::CheckRoutesStream> {
        self.open_check(&request.into_inner()).await.map(Response::new)
    }

    type DiagnoseStream = ServerStream<v1::NodeDiagnosis>;

    async fn diagnose(
        &self,
        request: Request<v1::DiagnoseRequest>,
    ) -> Answer<Self::DiagnoseStream> {
        self.open_diagnoses(&request.into_inner()).await.map(Response::new)
    }

    async fn list_key_sets(
        &self,
        request: Request<v1::ListKeySetsRequest>,
    ) -> Answer<v1::ListKeySetsResponse> {
        self.key_sets(request.into_inner()).await.map(Response::new)
    }

    async fn update_key_set(
        &self,
        request: Request<v1::UpdateKeySetRequest>,
    ) -> Answer<v1::UpdateKeySetResponse> {
        self.change_key_set(request.into_inner()).await.map(Response::new)
    }

    async fn remove_key_set(
        &self,
        request: Request<v1::RemoveKeySetRequest>,
    ) -> Answer<v1::RemoveKeySetResponse> {
        let name = request::name(&request.into_inner().name)?;
        let done = self.command(Command::RemoveKeySet(name)).await?;
        Ok(Response::new(v1::RemoveKeySetResponse { revision: done.revision.0 }))
    }

    async fn list_registries(
        &self,
        _: Request<v1::ListRegistriesRequest>,
    ) -> Answer<v1::ListRegistriesResponse> {
        self.registries().await.map(Response::new)
    }

    async fn set_registry_login(
        &self,
        request: Request<v1::SetRegistryLoginRequest>,
    ) -> Answer<v1::SetRegistryLoginResponse> {
        let by = access::acting();
        self.log_in(request.into_inner(), by).await.map(Response::new)
    }

    async fn remove_registry_login(
        &self,
        request: Request<v1::RemoveRegistryLoginRequest>,
    ) -> Answer<v1::RemoveRegistryLoginResponse> {
        let by = access::acting();
        let host = request::name(&request.into_inner().host)?;
        let done = self.command(Command::RemoveRegistryLogin { host, by }).await?;
        Ok(Response::new(v1::RemoveRegistryLoginResponse { revision: done.revision.0 }))
    }

    type ListImagesStream = ServerStream<v1::NodeImages>;

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Answer<Self::ListImagesStream> {
        self.open_images(&request.into_inner()).await.map(Response::new)
    }

    type RemoveImagesStream = ServerStream<v1::NodeImages>;

    async fn remove_images(
        &self,
        request: Request<v1::RemoveImagesRequest>,
    ) -> Answer<Self::RemoveImagesStream> {
        self.remove_images_of(request.into_inner()).await.map(Response::new)
    }

    type PullImageStream = ServerStream<v1::NodeImages>;

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Answer<Self::PullImageStream> {
        self.open_pulls(request.into_inner()).await.map(Response::new)
    }

    type PushImageStream = ServerStream<v1::ImagesAnswer>;

    async fn push_image(
        &self,
        request: Request<Streaming<v1::PushImageInput>>,
    ) -> Answer<Self::PushImageStream> {
        self.open_push(request.into_inner()).await.map(Response::new)
    }

    async fn certify_user(
        &self,
        request: Request<v1::CertifyUserRequest>,
    ) -> Answer<v1::CertifyUserResponse> {
        self.certify(request.into_inner()).await.map(Response::new)
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        self.explanation(request.into_inner()).await.map(Response::new)
    }

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Answer<v1::GetStatusResponse> {
        self.fleet_status().await.map(Response::new)
    }

    async fn get_info(&self, _: Request<v1::GetInfoRequest>) -> Answer<v1::GetInfoResponse> {
        let (settings, revision) = self.read(|model| model.settings().clone()).await?;
        let (hosts, users) = (self.ssh.host_authorities(), self.ssh.user_authorities());
        Ok(Response::new(v1::GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: self.authority.cluster_id().to_owned(),
            cluster_cidr: settings.range.ranges().first().to_string(),
            more_ranges: settings.range.ranges().more().iter().map(ToString::to_string).collect(),
            zone: settings.zone,
            revision: revision.0,
            host_authority: hosts.first().cloned().unwrap_or_default(),
            user_authority: users.first().cloned().unwrap_or_default(),
            host_authorities: hosts,
            user_authorities: users,
            closed: settings.closed,
            ipv6_prefix: settings.ipv6.map(|range| range.to_string()).unwrap_or_default(),
        }))
    }
}
