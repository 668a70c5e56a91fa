//! How long the main process of a container is missed after it was killed.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bollard::{
    Docker,
    query_parameters::{EventsOptions, ListContainersOptions},
};
use futures_util::StreamExt;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::timeout;

use crate::lab::Host;

/// How long a replacement may take to start.
const LIMIT: Duration = Duration::from_secs(60);

/// Kills the main process of the one container with `label` and waits until the engine says that a
/// container with it was started.
pub(super) async fn time(host: &Host, label: &str) -> Result<Duration> {
    let docker = host.docker()?.negotiate_version().await.context("no Docker answers")?;
    let filters = HashMap::from([
        ("label".to_owned(), vec![label.to_owned()]),
        ("event".to_owned(), vec!["start".to_owned()]),
    ]);
    let options = EventsOptions { filters: Some(filters), ..EventsOptions::default() };
    let mut starts = Box::pin(docker.events(Some(options)));
    // The subscription is made by the first poll: without it a fast start could be missed.
    if let Ok(early) = timeout(Duration::from_millis(300), starts.next()).await {
        bail!("{label} was started before it was killed: {early:?}");
    }
    let pid = main_process(&docker, label).await?;
    let killed = Instant::now();
    kill(pid, Signal::SIGKILL).context("cannot kill the main process")?;
    let start = timeout(LIMIT, starts.next()).await;
    start.context("nothing was started again")?.context("the engine's events ended")??;
    Ok(killed.elapsed())
}

async fn main_process(docker: &Docker, label: &str) -> Result<Pid> {
    let filters = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
    let options = ListContainersOptions { filters: Some(filters), ..Default::default() };
    let containers = docker.list_containers(Some(options)).await?;
    let [container] = containers.as_slice() else {
        bail!("{} containers with {label} run, not one", containers.len());
    };
    let id = container.id.as_deref().context("a container without an id")?;
    let state = docker.inspect_container(id, None).await?.state.context("no state")?;
    let pid = state.pid.filter(|pid| *pid > 1).context("no main process")?;
    Ok(Pid::from_raw(i32::try_from(pid)?))
}
