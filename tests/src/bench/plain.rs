//! The alternative without dwell: containers through Docker's API, on its default bridge.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bollard::{
    Docker,
    models::{ContainerCreateBody, HostConfig, PortBinding},
    query_parameters::{CreateContainerOptions, RemoveContainerOptions, RenameContainerOptions},
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

    /// Replaces the container `plain-replaced`, or makes it if there is none, in the steps of
    /// `docker compose up --force-recreate`: the new one is created beside the old one, which is then stopped and
    /// removed, and takes over its name and its published port.
    pub(super) async fn recreate(&self, port: u16) -> Result<()> {
        const NAME: &str = "plain-replaced";
        const BESIDE: &str = "plain-replacing";
        let options =
            CreateContainerOptions { name: Some(BESIDE.to_owned()), ..Default::default() };
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
        // There is none before the first time.
        if self.docker.stop_container(NAME, None).await.is_ok() {
            self.docker.remove_container(NAME, None).await.context("Docker does not remove")?;
        }
        let rename = RenameContainerOptions { name: NAME.to_owned() };
        self.docker.rename_container(BESIDE, rename).await.context("Docker does not rename")?;
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
