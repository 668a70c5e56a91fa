//! What really runs: the view of all engines, to be compared with what the controller says.
//!
//! A container is dwell's if it bears dwell's label, on whichever host, running or not. So a container
//! that exists twice, in the wrong place, or without its controller's knowledge cannot hide.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, ensure};
use bollard::{errors::Error, query_parameters::ListContainersOptionsBuilder};
use futures_util::future::try_join_all;
use nix::unistd::Pid;

use super::{Host, InstanceRow, Lab, wait_until};

/// The label by which an engine knows that a container is an instance's, and of which.
const INSTANCE_LABEL: &str = "dwell.instance";

/// A container of dwell's, as its engine shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    /// The instance it is of.
    pub instance: String,
    /// The host whose engine has it.
    pub host: String,
    /// The engine's id of it.
    pub id: String,
    /// When its main process was last started, in the engine's words.
    pub started_at: String,
    /// Its main process, if it runs.
    pub pid: Option<i32>,
}

impl Container {
    /// The main process.
    ///
    /// # Errors
    /// If it does not run.
    pub fn main_process(&self) -> Result<Pid> {
        self.pid.map(Pid::from_raw).with_context(|| format!("{} does not run", self.instance))
    }
}

impl Host {
    /// All containers of dwell on this host, running or not, in order of their instances.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn containers(&self) -> Result<Vec<Container>> {
        let docker = self.docker()?;
        let filters = HashMap::from([("label", vec![INSTANCE_LABEL])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listed = docker.list_containers(Some(options)).await?;
        let ids = listed.into_iter().filter_map(|container| container.id);
        let inspected = try_join_all(ids.map(async |id| {
            let container = match docker.inspect_container(&id, None).await {
                // Removed since it was listed.
                Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
                container => container?,
            };
            let labels = container.config.and_then(|config| config.labels).unwrap_or_default();
            let state = container.state.unwrap_or_default();
            let running = state.running.unwrap_or_default();
            let pid = state.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|_| running);
            anyhow::Ok(Some(Container {
                instance: labels.get(INSTANCE_LABEL).cloned().unwrap_or_default(),
                host: self.name(),
                id,
                started_at: state.started_at.unwrap_or_default(),
                pid,
            }))
        }))
        .await?;
        let mut containers: Vec<_> = inspected.into_iter().flatten().collect();
        containers.sort();
        Ok(containers)
    }
}

impl Lab {
    /// All containers of dwell on all hosts, running or not, in order of their instances.
    ///
    /// # Errors
    /// If an engine does not answer.
    pub async fn containers(&self) -> Result<Vec<Container>> {
        let of_hosts = self.hosts().iter().map(Host::containers);
        let mut containers = try_join_all(of_hosts).await?.concat();
        containers.sort();
        Ok(containers)
    }

    /// Waits until controller and engines agree that exactly `count` instances of `workload` are
    /// there, all well, each in one running container on the node it is placed on; the containers.
    ///
    /// # Errors
    /// If it is not so within `limit`; the message has what is different.
    pub async fn wait_exactly(
        &self,
        workload: &str,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<Container>> {
        let what = format!("exactly {count} of {workload} to run");
        wait_until(&what, limit, async || self.look_exactly(workload, count).await).await
    }

    /// One look for the same.
    ///
    /// # Errors
    /// What is different.
    pub async fn look_exactly(&self, workload: &str, count: usize) -> Result<Vec<Container>> {
        let said = self.ps().await?.of(workload);
        let ill = said.iter().find(|instance| !instance.is_well());
        ensure!(ill.is_none(), "{ill:?} is not well");
        ensure!(said.len() == count, "the controller has {} of {count}", said.len());
        let mut containers = self.containers().await?;
        containers.retain(|container| workload_of(&container.instance) == workload);
        ensure!(containers.len() == count, "engines have {} of {count}", containers.len());
        for instance in &said {
            let is_it = |container: &&Container| is_container_of(container, instance);
            let found = containers.iter().find(is_it);
            ensure!(found.is_some(), "no engine has {instance:?}, but {containers:?}");
        }
        Ok(containers)
    }
}

/// Checks that all containers of `before` are still there and were not restarted.
///
/// # Errors
/// If one is not in `after` as it was.
pub fn ensure_untouched(before: &[Container], after: &[Container]) -> Result<()> {
    let touched: Vec<_> = before.iter().filter(|container| !after.contains(container)).collect();
    ensure!(touched.is_empty(), "{touched:#?} were touched; now there are {after:#?}");
    Ok(())
}

fn is_container_of(container: &Container, instance: &InstanceRow) -> bool {
    container.instance == instance.name
        && container.host == instance.node
        && container.id == instance.container_id
        && container.pid.is_some()
}

/// The workload whose instance this is: `web` of `web-0`.
fn workload_of(instance: &str) -> &str {
    instance.rsplit_once('-').map_or(instance, |(workload, _)| workload)
}
