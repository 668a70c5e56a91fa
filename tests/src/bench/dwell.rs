//! dwell's side: what a user does with the command line, and what the API shows of it.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use dwell_proto::v1::{self, ApplyRequest, ListInstancesRequest, fleet_client::FleetClient};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::lab::{Image, Lab, wait_until};

/// How long a workload may take to run or to be gone.
const LIMIT: Duration = Duration::from_secs(180);

/// The API of the controller that listens on a socket.
pub(super) fn api(socket: PathBuf) -> FleetClient<Channel> {
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://controller");
    FleetClient::new(endpoint.connect_with_connector_lazy(connect))
}

/// A fleet of one node.
pub(super) struct Dwell<'a> {
    lab: &'a Lab,
    api: FleetClient<Channel>,
    dir: PathBuf,
}

impl<'a> Dwell<'a> {
    pub(super) fn new(lab: &'a Lab) -> Result<Self> {
        Ok(Self { lab, api: api(lab.controller_socket()), dir: lab.layout().dir() })
    }

    /// From the start of `dwell apply --wait` to its end, with a file that has to be read. What runs has to hold for no
    /// time: the others do not look whether it does.
    pub(super) async fn deploy(&self, name: &str, count: usize) -> Result<Duration> {
        let path = self.dir.join("bench.yaml");
        let text = format!(
            "workloads:\n  {name}:\n    image: {}\n    replicas: {count}\n    update: {{monitor: 1ms}}\n",
            Image::Hello.name()
        );
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let path = path.to_str().context("the lab's path is not UTF-8")?;
        let started = Instant::now();
        self.lab.cli(&["apply", "-f", path, "--wait"]).await?.ok()?;
        Ok(started.elapsed())
    }

    pub(super) async fn remove(&self, name: &str) -> Result<()> {
        self.lab.cli(&["rm", name, "--wait"]).await?.ok()?;
        Ok(())
    }

    /// Declares one instance without a command line in between.
    pub(super) async fn apply_directly(&self, name: &str) -> Result<()> {
        let template =
            v1::Template { image: Image::Hello.name().to_owned(), ..v1::Template::default() };
        let workload = v1::WorkloadSpec {
            name: name.to_owned(),
            replicas: 1,
            template: Some(template),
            ..v1::WorkloadSpec::default()
        };
        let request = ApplyRequest { workloads: vec![workload], ..ApplyRequest::default() };
        self.api.clone().apply(request).await.context("the controller refuses a workload")?;
        Ok(())
    }

    async fn instances(&self, workload: &str) -> Result<Vec<v1::Instance>> {
        let request = ListInstancesRequest {
            workload: workload.to_owned(),
            ..ListInstancesRequest::default()
        };
        let answer = self.api.clone().list_instances(request).await;
        Ok(answer.context("the controller does not list instances")?.into_inner().instances)
    }

    pub(super) async fn all_running(&self, workload: &str, count: usize) -> Result<()> {
        self.seen(workload, count, 0).await
    }

    /// Waits until all instances were seen running by their node at or after `since_ms`.
    pub(super) async fn seen_since(
        &self,
        workload: &str,
        count: usize,
        since_ms: u64,
    ) -> Result<()> {
        wait_until("all instances to be seen again", LIMIT, async || {
            self.seen(workload, count, since_ms).await
        })
        .await
    }

    async fn seen(&self, workload: &str, count: usize, since_ms: u64) -> Result<()> {
        let instances = self.instances(workload).await?;
        let statuses = instances.iter().filter_map(|instance| instance.status.as_ref());
        let running = statuses
            .filter(|status| {
                status.phase() == v1::Phase::Running && status.observed_at_ms >= since_ms
            })
            .count();
        ensure!(running == count, "{running} of {count} run");
        Ok(())
    }

    /// Every instance's container and when it was started: what must not change.
    pub(super) async fn containers(
        &self,
        workload: &str,
    ) -> Result<Vec<(String, String, Option<u64>)>> {
        let instances = self.instances(workload).await?.into_iter();
        let mut containers: Vec<_> = instances
            .filter_map(|instance| instance.status)
            .map(|status| (status.instance, status.container_id, status.started_at_ms))
            .collect();
        containers.sort();
        Ok(containers)
    }
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    dwell_core::clock::millis(since)
}
