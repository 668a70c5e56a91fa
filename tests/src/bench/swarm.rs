//! The alternative that keeps what it started: a Swarm of one node.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bollard::{
    Docker,
    models::{
        EndpointPortConfig, EndpointPortConfigProtocolEnum, EndpointPortConfigPublishModeEnum,
        EndpointSpec, NodeSpec, NodeSpecAvailabilityEnum, NodeSpecRoleEnum, ServiceSpec,
        ServiceSpecMode, ServiceSpecModeReplicated, ServiceSpecUpdateConfig,
        ServiceUpdateStatusStateEnum, SwarmInitRequest, SwarmJoinRequest, TaskSpec,
        TaskSpecContainerSpec, TaskSpecRestartPolicy, TaskSpecRestartPolicyConditionEnum,
        TaskState,
    },
    query_parameters::{
        ListContainersOptions, ListTasksOptions, UpdateNodeOptions, UpdateServiceOptions,
    },
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

    /// A Swarm of several hosts, of which the first gives orders and runs nothing.
    pub(super) async fn of(hosts: &[Host]) -> Result<Self> {
        let [manager, workers @ ..] = hosts else { bail!("a Swarm without hosts") };
        let swarm = Self::init(manager).await?;
        let tokens = swarm.docker.inspect_swarm().await?.join_tokens.context("no token")?;
        for worker in workers {
            let request = SwarmJoinRequest {
                listen_addr: Some(format!("{}:2377", worker.address())),
                advertise_addr: Some(worker.address().to_string()),
                remote_addrs: Some(vec![format!("{}:2377", manager.address())]),
                join_token: tokens.worker.clone(),
                ..SwarmJoinRequest::default()
            };
            worker.docker()?.join_swarm(request).await.context("a host does not join")?;
        }
        for node in swarm.docker.list_nodes(None).await? {
            let (Some(id), Some(spec)) = (node.id, node.spec) else { continue };
            if spec.role == Some(NodeSpecRoleEnum::MANAGER) {
                let version =
                    node.version.and_then(|version| version.index).context("no version")?;
                let availability = Some(NodeSpecAvailabilityEnum::DRAIN);
                let options = UpdateNodeOptions { version: i64::try_from(version)? };
                let spec = NodeSpec { availability, ..spec };
                swarm.docker.update_node(&id, spec, options).await?;
            }
        }
        Ok(swarm)
    }

    /// The host, by its address, on which the newest task of a service of one runs.
    pub(super) async fn home(&self, name: &str) -> Result<String> {
        let filters = HashMap::from([("service".to_owned(), vec![name.to_owned()])]);
        let options = ListTasksOptions { filters: Some(filters) };
        let mut tasks =
            self.docker.list_tasks(Some(options)).await.context("Swarm lists no tasks")?;
        tasks.retain(|task| {
            task.status.as_ref().and_then(|status| status.state) == Some(TaskState::RUNNING)
                && task.desired_state == Some(TaskState::RUNNING)
        });
        let node = tasks.pop().and_then(|task| task.node_id).context("no task runs")?;
        let node = self.docker.inspect_node(&node).await.context("its node is not known")?;
        let address = node.status.and_then(|status| status.addr).context("no address")?;
        Ok(address)
    }

    /// From asking for a service of `count` to all its tasks running.
    pub(super) async fn deploy(&self, name: &str, count: usize) -> Result<Duration> {
        let spec = spec(name, count)?;
        let started = Instant::now();
        self.docker.create_service(spec, None).await.context("Swarm refuses a service")?;
        self.wait_running(name, count).await?;
        Ok(started.elapsed())
    }

    /// Makes a service of one whose port 8080 its node publishes as `port`, in mode `host`: the task's own node lets
    /// in whoever connects, without the routing mesh. That one needs IPVS, which not every kernel has, and would be
    /// a hop more in the alternative's way.
    pub(super) async fn publish(&self, name: &str, port: u16) -> Result<()> {
        let published = EndpointPortConfig {
            protocol: Some(EndpointPortConfigProtocolEnum::TCP),
            target_port: Some(8080),
            published_port: Some(port.into()),
            publish_mode: Some(EndpointPortConfigPublishModeEnum::HOST),
            ..EndpointPortConfig::default()
        };
        let ports = Some(vec![published]);
        let endpoint_spec = Some(EndpointSpec { ports, ..EndpointSpec::default() });
        let spec = ServiceSpec { endpoint_spec, ..spec(name, 1)? };
        self.docker.create_service(spec, None).await.context("Swarm refuses a service")?;
        self.wait_running(name, 1).await
    }

    /// Has Swarm replace the task of a service of one, and waits until the new one runs.
    pub(super) async fn update(&self, name: &str) -> Result<()> {
        self.update_by(name, 1).await
    }

    /// Has Swarm replace all tasks of a service, so many at a time, without a pause or a time for which they are watched.
    pub(super) async fn update_by(&self, name: &str, parallelism: usize) -> Result<()> {
        let service = self.docker.inspect_service(name, None).await.context("no such service")?;
        let version = service.version.and_then(|version| version.index).context("no version")?;
        let mut spec = service.spec.context("a service without a specification")?;
        let task = spec.task_template.get_or_insert_default();
        let forced = task.force_update.unwrap_or(0) + 1;
        task.force_update = Some(forced);
        spec.update_config = Some(ServiceSpecUpdateConfig {
            parallelism: Some(i64::try_from(parallelism).context("too many at a time")?),
            delay: Some(0),
            monitor: Some(1_000_000),
            ..ServiceSpecUpdateConfig::default()
        });
        let options = UpdateServiceOptions {
            version: i32::try_from(version).context("too many versions")?,
            ..UpdateServiceOptions::default()
        };
        self.docker.update_service(name, spec, options, None).await.context("Swarm refuses it")?;
        wait_until("the service to be updated", LIMIT, async || {
            let service = self.docker.inspect_service(name, None).await?;
            let state = service.update_status.and_then(|status| status.state);
            ensure!(
                state == Some(ServiceUpdateStatusStateEnum::COMPLETED),
                "its update is {state:?}"
            );
            Ok(())
        })
        .await
    }

    async fn wait_running(&self, name: &str, count: usize) -> Result<()> {
        wait_until("all tasks to run", LIMIT, async || {
            let running = self.running_tasks(name).await?;
            ensure!(running == count, "{running} of {count} run");
            Ok(())
        })
        .await
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

/// A service of `count` tasks that are started again at once.
fn spec(name: &str, count: usize) -> Result<ServiceSpec> {
    let replicas = i64::try_from(count).context("too many replicas")?;
    Ok(ServiceSpec {
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
    })
}
