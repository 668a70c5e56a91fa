//! What of the fleet is not as declared. The model finds it; it is looked at in pieces, so that no look is long.

use dwell_core::clock::Timestamp;
use dwell_core::id::WorkloadName;
use dwell_proto::v1;
use tonic::Status;

use super::Api;
use crate::model::{FleetFinding, FleetStatus, Gravity, Model, Surroundings};

impl Api {
    pub(super) async fn fleet_status(&self) -> Result<v1::GetStatusResponse, Status> {
        let around = self.surroundings();
        let (mut status, revision) =
            self.read(move |model: &Model| model.status_of_nodes(&around)).await?;
        let mut after: Option<WorkloadName> = None;
        loop {
            let look = move |model: &Model| model.status_of_workloads(after.as_ref());
            let ((piece, next), _) = self.read(look).await?;
            status.join(piece);
            match next {
                Some(_) => after = next,
                None => return Ok(answer(status.whole(), revision.0)),
            }
        }
    }

    /// What the model does not know of itself.
    fn surroundings(&self) -> Surroundings {
        let trusted = self.authority.trusted();
        let authorities = trusted.views().map(|one| (one.number, Timestamp(one.expires_at_ms)));
        Surroundings {
            now: self.clock.wall(),
            authorities: authorities.collect(),
            store_fails: self.owner.ailing().map(|error| error.to_string()),
        }
    }
}

fn answer(status: FleetStatus, revision: u64) -> v1::GetStatusResponse {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let counts = status.counts;
    v1::GetStatusResponse {
        found: status.found.into_iter().map(in_wire).collect(),
        left_out: count(status.left_out),
        counts: Some(v1::FleetCounts {
            nodes: count(counts.nodes),
            nodes_ready: count(counts.nodes_ready),
            workloads: count(counts.workloads),
            workloads_as_declared: count(counts.workloads_as_declared),
            instances: count(counts.instances),
            instances_well: count(counts.instances_well),
            instances_stopped: count(counts.instances_stopped),
        }),
        revision,
    }
}

fn in_wire(found: FleetFinding) -> v1::FleetFinding {
    let gravity = match found.kind.gravity() {
        Gravity::Problem => v1::fleet_finding::Gravity::Problem,
        Gravity::Warning => v1::fleet_finding::Gravity::Warning,
        Gravity::Progress => v1::fleet_finding::Gravity::Progress,
    };
    v1::FleetFinding {
        gravity: gravity.into(),
        subject: found.subject.to_string(),
        kind: found.kind.as_str().to_owned(),
        message: found.message,
        next: found.next,
        since_ms: found.since.map(|at| at.0),
        until_ms: found.until.map(|at| at.0),
    }
}
