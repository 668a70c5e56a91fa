//! The alternative that keeps what it started: a Swarm of one node.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bollard::{
    Docker,
    models::{
        ServiceSpec, ServiceSpecMode, ServiceSpecModeReplicated, SwarmInitRequest, TaskSpec,
        TaskSpecContainerSpec, TaskSpecRestartPolicy, TaskSpecRestartPolicyConditionEnum,
        TaskState,
    },
    query_parameters::{ListContainersOptions, ListTasksOptions},
};

use crate::lab::{Host, Image, wait_until};

const LIMIT: Duration = Duration::from_secs(180);

pub(super) struct Swarm {
    docker: Docker,
}

impl Swarm {
    pub(super) async fn init(host: &Host) -> Result<Self> {
        let docker = host.docker()?.negotiate_version().await.context("no Docker answers")?;
        let request = SwarmInitRequest {
            listen_addr: Some(format!("{}:2377", host.address())),
            advertise_addr: Some(host.address().to_string()),
            ..SwarmInitRequest::default()
        };
        docker.init_swarm(request).await.context("Docker does not become a Swarm")?;
        Ok(Self { docker })
    }

    /// From asking for a service of `count` to all its tasks running.
    pub(super) async fn deploy(&self, name: &str, count: usize) -> Result<Duration> {
        let replicas = i64::try_from(count).context("too many replicas")?;
        let spec = ServiceSpec {
            name: Some(name.to_owned()),
            mode: Some(ServiceSpecMode {
                replicated: Some(ServiceSpecModeReplicated { replicas: Some(replicas) }),
                ..ServiceSpecMode::default()
            }),
            task_template: Some(TaskSpec {
                container_spec: Some(TaskSpecContainerSpec {
                    image: Some(Image::Hello.name().to_owned()),
                    ..TaskSpecContainerSpec::default()
                }),
                restart_policy: Some(TaskSpecRestartPolicy {
                    condition: Some(TaskSpecRestartPolicyConditionEnum::ANY),
                    delay: Some(0),
                    ..TaskSpecRestartPolicy::default()
                }),
                ..TaskSpec::default()
            }),
            ..ServiceSpec::default()
        };
        let started = Instant::now();
        self.docker.create_service(spec, None).await.context("Swarm refuses a service")?;
        wait_until("all tasks to run", LIMIT, async || {
            let running = self.running_tasks(name).await?;
            ensure!(running == count, "{running} of {count} run");
            Ok(())
        })
        .await?;
        Ok(started.elapsed())
    }

    async fn running_tasks(&self, name: &str) -> Result<usize> {
        let filters = HashMap::from([("service".to_owned(), vec![name.to_owned()])]);
        let options = ListTasksOptions { filters: Some(filters) };
        let tasks = self.docker.list_tasks(Some(options)).await.context("Swarm lists no tasks")?;
        let states = tasks.iter().filter_map(|task| task.status.as_ref()?.state);
        Ok(states.filter(|state| *state == TaskState::RUNNING).count())
    }

    /// Removes a service and waits until its containers are gone.
    pub(super) async fn remove(&self, name: &str) -> Result<()> {
        self.docker.delete_service(name).await.context("Swarm does not remove a service")?;
        wait_until("the service's containers to be gone", LIMIT, async || {
            let label = format!("com.docker.swarm.service.name={name}");
            let filters = HashMap::from([("label".to_owned(), vec![label])]);
            let options =
                ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
            let left = self.docker.list_containers(Some(options)).await?.len();
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await
    }
}
