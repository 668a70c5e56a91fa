//! What a daemon is, and whether instances can be started with it.

use std::path::PathBuf;
use std::sync::PoisonError;

use dwell_core::node::EngineInfo;
use dwell_core::workload::Enforced;
use dwell_engine::{Engine as _, EngineError, EngineReport};

use super::client::{NAME, QUICK, limited, meaning};
use super::{DockerEngine, Runtime, unfit};

pub(super) async fn info(engine: &DockerEngine) -> Result<EngineReport, EngineError> {
    const OPERATION: &str = "describe itself";
    let docker = engine.client.negotiate().await?;
    let seen = limited(QUICK, docker.info()).await;
    let seen = seen.map_err(|error| meaning(error, OPERATION, ""))?;
    let runtimes = seen.runtimes.unwrap_or_default();
    let knows =
        engine.config.runtime == Runtime::WithoutNetwork || runtimes.contains_key(Runtime::NAME);
    let options = seen.security_options.unwrap_or_default();
    let unfit = unfit::reason(&options);
    let filters_calls = unfit::filters_calls(&options);
    *engine.filters_calls.lock().unwrap_or_else(PoisonError::into_inner) = Some(filters_calls);
    *engine.unfit.lock().unwrap_or_else(PoisonError::into_inner) = unfit;
    let enforced = Enforced {
        cpu: seen.cpu_cfs_quota.unwrap_or(true) && seen.cpu_cfs_period.unwrap_or(true),
        memory: seen.memory_limit.unwrap_or(true),
        pids: seen.pids_limit.unwrap_or(true),
    };
    *engine.enforced.lock().unwrap_or_else(PoisonError::into_inner) = Some(enforced);
    let ready = unfit.is_none() && knows;
    let message = match unfit {
        Some(why) => format!("{NAME} cannot run instances: {why}"),
        None if knows => enforced.lacking().map_or_else(String::new, |lacking| {
            format!("{NAME} cannot limit: {lacking}; `dwell doctor` says what the kernel lacks")
        }),
        None => engine.runtime_missing().to_string(),
    };
    Ok(EngineReport {
        info: EngineInfo {
            version: seen.server_version.unwrap_or_default(),
            api_version: docker.client_version().to_string(),
            ready,
            message,
        },
        unfit,
        enforced,
        data_root: seen.docker_root_dir.map(PathBuf::from),
        distrusted: engine.distrusted.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    })
}

impl DockerEngine {
    /// After a failure that has this for a possible reason: whether the runtime is missing.
    pub(super) async fn unless_runtime_missing(&self, error: EngineError) -> EngineError {
        let failed = matches!(error, EngineError::Refused { .. } | EngineError::Other { .. });
        match (failed, self.info().await) {
            (true, Ok(report)) if !report.info.ready => self.runtime_missing(),
            _ => error,
        }
    }

    fn runtime_missing(&self) -> EngineError {
        EngineError::RuntimeMissing {
            engine: NAME,
            runtime: Runtime::NAME.to_owned(),
            fix: "run `dwell-agent install-runtime` on its host",
        }
    }

    /// The limits that the daemon can enforce. It is asked once: that changes only with the kernel.
    pub(super) async fn enforced(&self) -> Result<Enforced, EngineError> {
        let known = *self.enforced.lock().unwrap_or_else(PoisonError::into_inner);
        match known {
            Some(enforced) => Ok(enforced),
            None => Ok(self.info().await?.enforced),
        }
    }

    /// Whether the daemon keeps dangerous system calls from containers. It is asked once: that changes only with its configuration, for
    /// which it is restarted, and then it is asked what it is.
    pub(super) async fn filters_calls(&self) -> Result<bool, EngineError> {
        let known = *self.filters_calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known {
            return Ok(known);
        }
        self.info().await?;
        let known = *self.filters_calls.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.unwrap_or_default())
    }

    /// Why the daemon, as it said of itself last, cannot run a container in its sandbox.
    pub(super) fn unfit(&self) -> Option<EngineError> {
        let reason = (*self.unfit.lock().unwrap_or_else(PoisonError::into_inner))?;
        let reason = reason.to_owned();
        Some(EngineError::Other { engine: NAME, operation: "create a container", reason })
    }
}
