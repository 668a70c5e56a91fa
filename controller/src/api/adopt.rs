//! Containers that dwell did not make: their node says what they are, and the model declares what takes their place.

use std::time::Duration;

use dwell_core::foreign::{ADOPTED_IMAGES, Adoption, Foreign};
use dwell_core::id::{NodeName, WorkloadName};
use dwell_core::workload::{Constraint, Placement, WorkloadSpec};
use dwell_proto::v1;
use dwell_proto::v1::open_tunnel::Purpose;
use dwell_proto::v1::tunnel_up::Message;
use tokio::time::timeout;
use tonic::Status;

use super::instance::{next, unexpected};
use super::{Api, request};
use crate::access;
use crate::model::{Command, Model};
use crate::status::into_status;

/// How long a node may take to look at a container and to measure its volumes.
const LOOK_TIME: Duration = Duration::from_secs(120);
/// The longest name or id of a container, in bytes.
const CONTAINER_MAX: usize = 256;

impl Api {
    /// Has an instance put in the place of a container, or says what that would be.
    pub(super) async fn adopt(
        &self,
        request: v1::AdoptContainerRequest,
    ) -> Result<v1::AdoptContainerResponse, Status> {
        let v1::AdoptContainerRequest { node, container, workload, dry_run } = request;
        let node: NodeName = request::name(&node)?;
        let workload = request::optional::<WorkloadName>(&workload)?;
        if container.is_empty() || container.len() > CONTAINER_MAX {
            return Err(Status::invalid_argument(
                "name the container, as `docker ps` on its node shows it",
            ));
        }
        let asked = node.clone();
        let checked = self.read(move |model: &Model| model.check_takes_over(&asked)).await?.0;
        checked.map_err(into_status)?;
        let mut found = self.look_at(&node, container).await?;
        let workload = match workload {
            Some(workload) => workload,
            None => WorkloadName::new(found.name.as_str()).map_err(|error| {
                Status::invalid_argument(format!("{error}; name the workload with `--as NAME`"))
            })?,
        };
        let (spec, adoption) = declared(&node, workload, &found);
        let image = adoption.image.clone().unwrap_or_default();
        if !found.obstacles.is_empty() && !dry_run {
            return Err(Status::failed_precondition(format!(
                "container {} cannot be adopted: {}",
                found.name,
                found.obstacles.join("; ")
            )));
        }
        let command = Command::AdoptContainer {
            spec: Box::new(spec.clone()),
            node,
            adoption: Box::new(adoption),
            dry_run,
            by: access::acting(),
        };
        let revision = match self.command(command).await {
            Ok(done) => done.revision.0,
            // What is only asked for is answered as a whole.
            Err(status) if dry_run => {
                found.obstacles.push(status.message().to_owned());
                0
            }
            Err(status) => return Err(status),
        };
        let (container, workload) = (Some((&found).into()), Some((&spec).into()));
        Ok(v1::AdoptContainerResponse { container, workload, image, revision })
    }

    async fn look_at(&self, node: &NodeName, container: String) -> Result<Foreign, Status> {
        let purpose = Purpose::Foreign(v1::ForeignRequest { container });
        let looking = async {
            let mut tunnel = self.tunnels.open(node, purpose).await.map_err(into_status)?;
            next(&mut tunnel.up).await
        };
        let late = |_| {
            let limit = LOOK_TIME.as_secs();
            Status::deadline_exceeded(format!("node {node} did not answer within {limit} s"))
        };
        match timeout(LOOK_TIME, looking).await.map_err(late)?? {
            Some(Message::Foreign(found)) => Foreign::try_from(found)
                .map_err(|error| Status::internal(format!("what node {node} says: {error}"))),
            Some(_) => Err(unexpected()),
            None => Err(Status::unavailable(format!(
                "the agent of node {node} went away without an answer; try again"
            ))),
        }
    }
}

/// What is declared for a container, and what its node is to do. What is made of its own files is an image that only its node has; and
/// its volumes are there.
fn declared(node: &NodeName, name: WorkloadName, found: &Foreign) -> (WorkloadSpec, Adoption) {
    let short: String = found.id.as_str().chars().take(12).collect();
    let image = found.own_files.map(|_| format!("{ADOPTED_IMAGES}/{name}:{short}"));
    let mut template = found.template.clone();
    if let Some(image) = &image {
        template.image = image.clone();
    }
    let adoption = Adoption {
        container: found.id.clone(),
        name: found.name.clone(),
        grace: template.stop_grace,
        restart: found.restart,
        image,
        volumes: found.volumes.iter().map(|one| (one.name.clone(), one.source.clone())).collect(),
    };
    let here = Constraint { key: "node.name".to_owned(), equal: true, value: node.to_string() };
    let placement = Placement { constraints: vec![here], ..Placement::default() };
    let spec = WorkloadSpec {
        name,
        replicas: 1,
        run: None,
        template,
        addresses: Vec::new(),
        on_move: dwell_core::workload::OnMove::default(),
        placement,
        update: dwell_core::workload::UpdatePolicy::default(),
        on_lost: dwell_core::workload::OnLost::default(),
        job: None,
        labels: std::collections::BTreeMap::new(),
    };
    (spec, adoption)
}
