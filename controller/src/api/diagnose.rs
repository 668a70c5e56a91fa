//! What nodes find out: about the way to an instance, and about themselves. Each node is asked through a
//! [tunnel](crate::tunnel) of its own, so many at a time, and answers are passed on as they come. A node
//! that cannot be asked is an answer, too.

mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dwell_core::clock::Clock;
use dwell_core::id::NodeName;
use dwell_core::node::NodeState;
use dwell_proto::v1;
use dwell_proto::v1::open_tunnel::Purpose;
use dwell_proto::v1::tunnel_up::Message;
use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use tonic::Status;

use self::verdict::{Target, clock_finding, route_problem};
use super::instance::{next, unexpected};
use super::{Api, ServerStream, request};
use crate::model::{Model, NodeView, Refusal};
use crate::status::into_status;
use crate::tunnel::Tunnels;

/// How many nodes are asked at a time.
pub(super) const ASKED_MAX: usize = 64;
/// How long a node may take to try a route.
const PROBE_TIME: Duration = Duration::from_secs(5);
/// How long a node may take to look itself over.
const DIAGNOSIS_TIME: Duration = Duration::from_secs(15);

impl Api {
    pub(super) async fn open_check(
        &self,
        request: &v1::CheckRoutesRequest,
    ) -> Result<ServerStream<v1::RouteCheck>, Status> {
        let (instance, home) = self.located(&request.instance).await?;
        let (nodes, _) = self.read(Model::nodes).await?;
        let identity = instance.identity.ok_or_else(|| {
            Status::failed_precondition(format!("{} has no address yet", instance.name))
        })?;
        let home = nodes.iter().find(|view| view.node.name == home).ok_or_else(|| {
            Status::unavailable(format!("{} is being moved; try again", instance.name))
        })?;
        let target = Arc::new(Target {
            instance: instance.name.clone(),
            address: identity.address,
            node: home.node.name.clone(),
            via: home.node.address,
        });
        let tunnels = self.tunnels.clone();
        let answers = stream::iter(nodes).map(move |view| {
            let (tunnels, target) = (tunnels.clone(), Arc::clone(&target));
            async move { check(&tunnels, &view, &target).await }
        });
        Ok(Box::pin(answers.buffer_unordered(ASKED_MAX)))
    }

    pub(super) async fn open_diagnoses(
        &self,
        request: &v1::DiagnoseRequest,
    ) -> Result<ServerStream<v1::NodeDiagnosis>, Status> {
        let nodes = match request::optional::<NodeName>(&request.node)? {
            None => self.read(Model::nodes).await?.0,
            Some(name) => {
                let asked = name.clone();
                let (found, _) = self.read(move |model| model.node(&asked)).await?;
                let found = found.filter(|view| !view.node.removed);
                vec![found.ok_or_else(|| into_status(Refusal::NoNode(name)))?]
            }
        };
        let (tunnels, clock) = (self.tunnels.clone(), Arc::clone(&self.clock));
        let answers = stream::iter(nodes).map(move |view| {
            let (tunnels, clock) = (tunnels.clone(), Arc::clone(&clock));
            async move { diagnose(&tunnels, clock.as_ref(), &view).await }
        });
        Ok(Box::pin(answers.buffer_unordered(ASKED_MAX)))
    }
}

async fn check(
    tunnels: &Tunnels,
    view: &NodeView,
    target: &Target,
) -> Result<v1::RouteCheck, Status> {
    let node = view.node.name.clone();
    let purpose = Purpose::Probe(v1::ProbeRequest { address: target.address.to_string() });
    let (probe, problem) = match ask(tunnels, view, purpose, PROBE_TIME).await {
        Ok(Answer { message: Message::Probe(probe), .. }) => {
            let problem = route_problem(target, &node, &probe).unwrap_or_default();
            (Some(probe), problem)
        }
        Ok(_) => return Err(unexpected()),
        Err(problem) => (None, problem),
    };
    Ok(v1::RouteCheck { node: node.to_string(), probe, problem })
}

async fn diagnose(
    tunnels: &Tunnels,
    clock: &dyn Clock,
    view: &NodeView,
) -> Result<v1::NodeDiagnosis, Status> {
    let mut found = v1::NodeDiagnosis { node: view.node.name.to_string(), ..Default::default() };
    match ask(tunnels, view, Purpose::Diagnose(v1::DiagnoseRequest::default()), DIAGNOSIS_TIME)
        .await
    {
        Ok(Answer { message: Message::Diagnosis(mut diagnosis), round_trip }) => {
            let half = u64::try_from(round_trip.as_millis() / 2).unwrap_or(u64::MAX);
            let sent = clock.wall().0.saturating_sub(half);
            found.clock_ahead_ms =
                i64::try_from(i128::from(diagnosis.at_ms) - i128::from(sent)).unwrap_or(i64::MAX);
            diagnosis.findings.push(clock_finding(found.clock_ahead_ms));
            found.diagnosis = Some(diagnosis);
        }
        Ok(_) => return Err(unexpected()),
        Err(problem) => found.problem = problem,
    }
    Ok(found)
}

/// What a node says.
pub(super) struct Answer {
    pub(super) message: Message,
    /// From asking for the tunnel to having it, which takes the node no thought.
    round_trip: Duration,
}

/// Asks a node for one message, or says why there is none.
pub(super) async fn ask(
    tunnels: &Tunnels,
    view: &NodeView,
    purpose: Purpose,
    limit: Duration,
) -> Result<Answer, String> {
    let node = &view.node.name;
    if view.state != NodeState::Ready {
        return Err(format!("{node} {}", view.message));
    }
    let asking = async {
        let asked = Instant::now();
        let mut tunnel = tunnels.open(node, purpose).await.map_err(|error| error.to_string())?;
        let round_trip = asked.elapsed();
        match next(&mut tunnel.up).await {
            Ok(Some(message)) => Ok(Answer { message, round_trip }),
            Ok(None) => Err(format!("the agent of node {node} went away without an answer")),
            Err(status) => Err(status.message().to_owned()),
        }
    };
    let late = |_| format!("node {node} did not answer within {} s", limit.as_secs());
    timeout(limit, asking).await.map_err(late)?
}
