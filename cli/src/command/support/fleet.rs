//! What the controller says: lists as `-o json` has them, and what it finds out from its nodes.

use dwell_proto::v1;
use serde::Serialize;
use tokio_stream::StreamExt as _;
use tonic::{Status, Streaming};

use super::{PATIENCE, Part};
use crate::client::Client;
use crate::command::{Fleet, ps};
use crate::failure::Failure;
use crate::lists;
use crate::output::view::{
    AuditView, DoctorView, EventsView, NodesView, PsView, RegistriesView, VolumesView,
};
use crate::output::{Format, serialized};

/// How many of the newest events are taken along.
const EVENTS: u32 = 10_000;

/// All parts; if there is no controller, one that says why.
pub(super) async fn parts(fleet: impl Future<Output = Result<Fleet, Failure>>) -> Vec<Part> {
    let connected = tokio::time::timeout(PATIENCE, fleet).await;
    let connected = connected.map_err(|_| "no answer in a minute".to_owned());
    let mut fleet = match connected.and_then(|fleet| fleet.map_err(|error| error.to_string())) {
        Ok(fleet) => fleet,
        Err(reason) => return vec![Part::new("fleet/controller.json", Err(reason))],
    };
    let mut parts = Vec::new();
    let client = &mut fleet.client.clone();
    parts.push(part("controller", super::super::info::asked(client)).await);
    parts.push(part("status", super::super::status::asked(client)).await);
    parts.push(part("restore", super::super::restore::asked(client)).await);
    let listed = async {
        let (workloads, instances) = ps::fetch(&mut fleet, String::new()).await?;
        Ok(PsView::new(workloads, instances))
    };
    parts.push(part("instances", listed).await);
    let nodes = async { Ok(NodesView::new(lists::nodes(client, "").await?.0)) };
    parts.push(part("nodes", nodes).await);
    parts.push(part("volumes", volumes(client)).await);
    parts.push(part("registries", registries(client)).await);
    parts.push(part("events", events(client)).await);
    let doctor = async {
        let request = v1::DiagnoseRequest { node: String::new() };
        Ok(DoctorView::new(all(client.diagnose(request).await?.into_inner()).await?))
    };
    parts.push(part("doctor", doctor).await);
    let audit = async {
        let request = v1::AuditRequest { repair: false };
        Ok(AuditView::new(all(client.audit(request).await?.into_inner()).await?))
    };
    parts.push(part("audit", audit).await);
    parts
}

async fn part<T: Serialize>(name: &str, asked: impl Future<Output = Result<T, Failure>>) -> Part {
    let found = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(found) => found.and_then(|view| serialized(&view, Format::Json)),
        Err(_) => Err(Failure::TimedOut("no answer in a minute".to_owned())),
    };
    let found = found.map(String::into_bytes).map_err(|error| error.to_string());
    Part::new(format!("fleet/{name}.json"), found)
}

async fn all<T>(answers: Streaming<T>) -> Result<Vec<T>, Status> {
    answers.collect::<Result<Vec<T>, Status>>().await
}

async fn volumes(client: &mut Client) -> Result<VolumesView, Failure> {
    let volumes = lists::volumes(client, v1::ListVolumesRequest::default()).await?;
    Ok(VolumesView::new(volumes))
}

async fn registries(client: &mut Client) -> Result<RegistriesView, Failure> {
    let found = client.list_registries(v1::ListRegistriesRequest {}).await?.into_inner();
    Ok(RegistriesView::new(found.registries))
}

async fn events(client: &mut Client) -> Result<EventsView, Failure> {
    let request = v1::ListEventsRequest { subject: String::new(), limit: EVENTS };
    let found = client.list_events(request).await?.into_inner();
    Ok(EventsView { events: found.events.into_iter().map(Into::into).collect() })
}
