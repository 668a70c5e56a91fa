//! The alternative without dwell: containers through Docker's API, on its default bridge.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bollard::{
    Docker,
    models::{ContainerCreateBody, HostConfig, PortBinding},
    query_parameters::{CreateContainerOptions, RemoveContainerOptions},
};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::lab::{Host, Image};

/// What is tried in search of the best concurrency.
const CONCURRENCIES: [usize; 4] = [2, 4, 8, 16];

/// How many containers the search starts with each.
const TRIAL: usize = 16;

/// The most containers that are removed at a time.
const REMOVALS: usize = 8;

pub(super) struct Plain {
    docker: Docker,
}

impl Plain {
    pub(super) async fn new(host: &Host) -> Result<Self> {
        let docker = host.docker()?.negotiate_version().await.context("no Docker answers")?;
        Ok(Self { docker })
    }

    /// Creates and starts `count` containers, `concurrency` at a time.
    pub(super) async fn start(&self, count: usize, concurrency: usize) -> Result<Duration> {
        let started = Instant::now();
        stream::iter(0..count)
            .map(|number| self.create_and_start(number))
            .buffer_unordered(concurrency)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(started.elapsed())
    }

    async fn create_and_start(&self, number: usize) -> Result<()> {
        let name = name(number);
        let options = CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
        let body = ContainerCreateBody {
            image: Some(Image::Hello.name().to_owned()),
            ..ContainerCreateBody::default()
        };
        self.docker
            .create_container(Some(options), body)
            .await
            .context("Docker does not create")?;
        self.docker.start_container(&name, None).await.context("Docker does not start")
    }

    /// Removes what [`Plain::start`] made.
    pub(super) async fn remove(&self) -> Result<()> {
        let containers = self.docker.list_containers(None).await.context("Docker does not list")?;
        let names =
            containers.into_iter().flat_map(|container| container.names.unwrap_or_default());
        let own = names.filter(|name| name.starts_with("/plain-"));
        stream::iter(own)
            .map(|name| async move {
                let options = RemoveContainerOptions { force: true, ..Default::default() };
                let name = name.trim_start_matches('/');
                self.docker.remove_container(name, Some(options)).await
            })
            .buffer_unordered(REMOVALS)
            .try_collect::<Vec<()>>()
            .await
            .context("Docker does not remove")?;
        Ok(())
    }

    /// Removes the container `plain-replaced`, if it is there, and runs it again with its port published: what
    /// `docker rm -f` and `docker run` do.
    pub(super) async fn recreate(&self, port: u16) -> Result<()> {
        const NAME: &str = "plain-replaced";
        let force = RemoveContainerOptions { force: true, ..Default::default() };
        // There is none before the first time.
        self.docker.remove_container(NAME, Some(force)).await.ok();
        let options = CreateContainerOptions { name: Some(NAME.to_owned()), ..Default::default() };
        let published = PortBinding { host_port: Some(port.to_string()), host_ip: None };
        let body = ContainerCreateBody {
            image: Some(Image::Hello.name().to_owned()),
            host_config: Some(HostConfig {
                port_bindings: Some([("8080/tcp".to_owned(), Some(vec![published]))].into()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let created = self.docker.create_container(Some(options), body).await;
        created.context("Docker does not create")?;
        self.docker.start_container(NAME, None).await.context("Docker does not start")
    }

    /// The concurrency at which Docker starts containers fastest on this machine.
    pub(super) async fn best_concurrency(&self) -> Result<usize> {
        let mut best = (Duration::MAX, 1);
        for concurrency in CONCURRENCIES {
            best = best.min((self.start(TRIAL, concurrency).await?, concurrency));
            self.remove().await?;
        }
        Ok(best.1)
    }
}

fn name(number: usize) -> String {
    format!("plain-{number}")
}
