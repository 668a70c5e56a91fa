//! The end of all instances when the host shuts down: each gets its own grace, while the network is up.
//!
//! The agent leaves instances alone when it stops, so that it can be restarted and upgraded. What ends
//! them when the host does is `dwell-agent stop-instances`, which systemd calls after the agent has
//! stopped and before Docker and the network do (`dwell-instances.service`); their hooks before the stop are called. That they did not end by themselves
//! is written down first: after the boot the agent starts them again, whatever their restart policy says.

use std::io;
use std::path::Path;
use std::time::Duration;

use dwell_core::id::InstanceName;
use dwell_planner::Journal;
use futures_util::StreamExt;

use crate::config::Config;
use crate::daemon;
use crate::hooks::{self, Called};
use crate::identity::{Identity, IdentityError};
use crate::lock::{DataDirLock, LockError};
use crate::reconciler::Journals;
use dwell_docker::credentials::Registries;
use dwell_engine::{Container, ContainerId, ContainerState, Engine, EngineError};

/// How long a main process may take to end, if nobody wrote it down: that of a container made by an earlier version.
const GRACE: Duration = Duration::from_secs(10);
/// How many containers are stopped side by side: each may take its whole grace.
const STOPS_MAX: usize = 32;

/// Why instances could not be stopped.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    /// The agent runs, and would start them again.
    #[error("cannot stop the instances while the agent runs: stop it first")]
    Lock(#[from] LockError),
    /// Nobody can tell which containers are this cluster's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Docker does not answer.
    #[error("cannot find out which instances run")]
    Engine(#[from] EngineError),
    /// What was ordered cannot be written down.
    #[error("cannot read the journals of the instances")]
    Journals(#[source] io::Error),
    /// One could not be stopped; the others were.
    #[error("cannot stop {instance}")]
    Instance {
        /// Which one.
        instance: InstanceName,
        /// Why.
        source: EngineError,
    },
}

/// Stops all instances of this host; how many there were. The agent must not be running.
///
/// # Errors
/// Everything that could not be done; the rest was.
pub async fn run(config: &Config) -> Result<usize, Vec<ShutdownError>> {
    let _lock = DataDirLock::take(&config.data_dir).map_err(|error| vec![error.into()])?;
    let identity = match Identity::load(&config.data_dir) {
        Ok(_) if config.routes_only => return Ok(0),
        Ok(identity) => identity,
        Err(IdentityError::Missing { .. }) => return Ok(0),
        Err(error) => return Err(vec![error.into()]),
    };
    let engine = daemon::docker(config, &identity, Registries::default(), None);
    stop_all(&engine, &config.data_dir).await
}

async fn stop_all(engine: &dyn Engine, data_dir: &Path) -> Result<usize, Vec<ShutdownError>> {
    let listed = engine.list().await.map_err(|error| vec![error.into()])?;
    let graces = Graces::read(data_dir).map_err(|error| vec![ShutdownError::Journals(error)])?;
    let running = listed.into_iter().filter(|one| one.state == ContainerState::Running);
    let mut stops = futures_util::stream::iter(running)
        .map(|container| {
            let graces = &graces;
            async move {
                let stopped = graces.stop(engine, &container).await;
                stopped.map_err(|source| ShutdownError::Instance {
                    instance: container.instance.clone(),
                    source,
                })
            }
        })
        .buffer_unordered(STOPS_MAX);
    let (mut count, mut failures) = (0, Vec::new());
    while let Some(stopped) = stops.next().await {
        match stopped {
            Ok(()) => count += 1,
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() { Ok(count) } else { Err(failures) }
}

/// How long the main process of each container may take to end, without the agent.
pub(crate) struct Graces {
    journals: Journals,
    known: std::collections::BTreeMap<InstanceName, Journal>,
}

impl Graces {
    /// Reads what the agent wrote down. Blocks.
    pub(crate) fn read(data_dir: &Path) -> io::Result<Self> {
        let journals = Journals::new(data_dir.join("journals"));
        let known = journals.read_all()?;
        Ok(Self { journals, known })
    }

    /// Stops a running container with its own grace, having written down that this was ordered.
    pub(crate) async fn stop(
        &self,
        engine: &dyn Engine,
        container: &Container,
    ) -> Result<(), EngineError> {
        let stopped = self.order_and_stop(engine, &container.id, &container.instance).await;
        match stopped {
            Err(EngineError::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    async fn order_and_stop(
        &self,
        engine: &dyn Engine,
        id: &ContainerId,
        instance: &InstanceName,
    ) -> Result<(), EngineError> {
        let details = engine.inspect(id).await?.details.unwrap_or_default();
        let journal = self.known.get(instance).cloned().unwrap_or_default();
        let grace = journal.stop_grace.or(details.stop_grace);
        if let Some(run) = details.started_at {
            let ordered = journal.with_ordered_end(id, run);
            // Without it the restart policy decides after the boot, which is no reason to let it be killed.
            if let Err(error) = self.journals.write(instance, &ordered).await {
                tracing::warn!(%instance, %error, "cannot write down that its end was ordered");
            }
        }
        if let Some(call) = journal.before_stop.get(id)
            && let Called::Failed(reason) = hooks::before_stop(engine, id, call).await
        {
            tracing::warn!(%instance, reason, "its hook before_stop failed");
        }
        engine.stop(id, grace.map_or(GRACE, dwell_core::quantity::Millis::as_duration)).await
    }
}

#[cfg(test)]
mod tests {
    use dwell_core::hook::{Hook, HookAction};
    use dwell_core::quantity::Millis;
    use dwell_core::workload::Template;
    use dwell_planner::HookCall;

    use super::*;
    use dwell_engine::fake::control::TokioClock;
    use dwell_engine::fake::{self, FakeEngine};

    #[tokio::test]
    async fn instances_end_with_their_own_grace_and_start_again_after_the_boot() {
        let directory = tempfile::tempdir().unwrap();
        let engine = FakeEngine::new(std::sync::Arc::new(TokioClock::new()));
        let mut template = Template::of_image("image");
        template.stop_grace = Millis::seconds(60);
        let mut ids = Vec::new();
        for name in ["web-0", "db-0"] {
            let id = engine.create(&fake::assigned(name, 1, template.clone())).await.unwrap();
            engine.start(&id).await.unwrap();
            ids.push(id);
        }
        let journals = Journals::new(directory.path().join("journals"));
        journals.read_all().unwrap();
        let action = HookAction::Exec { command: vec!["bye".into()] };
        let hook = Hook { action, timeout: Hook::default_timeout() };
        let call = HookCall {
            address: std::net::Ipv4Addr::LOCALHOST,
            slot: dwell_core::sandbox::Slot::A,
            hook,
        };
        let live = Journal {
            stop_grace: Some(Millis::seconds(90)),
            before_stop: [(ids[1].clone(), call)].into(),
            ..Journal::default()
        };
        journals.write(&"db-0".parse().unwrap(), &live).await.unwrap();

        assert_eq!(stop_all(&engine, directory.path()).await.unwrap(), 2);
        assert_eq!(engine.count(fake::Operation::Exec), 1, "the hook of the one that has one");
        let known = journals.read_all().unwrap();
        for (id, name, grace) in [(&ids[0], "web-0", 60), (&ids[1], "db-0", 90)] {
            assert_eq!(engine.grace_of(id), Some(Duration::from_secs(grace)), "{name}");
            let seen = engine.inspect(id).await.unwrap();
            assert_eq!(seen.state, ContainerState::Exited);
            let run = seen.details.unwrap().started_at.unwrap();
            let journal = &known[&name.parse::<InstanceName>().unwrap()];
            assert_eq!(journal.ordered_ends.get(id), Some(&run), "it is owed a start");
        }
        assert_eq!(stop_all(&engine, directory.path()).await.unwrap(), 0);
    }
}
