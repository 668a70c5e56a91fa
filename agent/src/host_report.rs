//! Keeps the report of what the host has: read once a minute, and whenever the engine comes or goes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::node::{Capacity, EngineInfo};
use dwell_planner::EngineState;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::capacity;
use dwell_engine::SharedEngine;

/// The name of the one engine there is, in reports.
const ENGINE: &str = "docker";
/// How long a report is good.
const PAUSE: Duration = Duration::from_secs(60);
/// How long it is good when it says that no instance can be started.
const PAUSE_NOT_READY: Duration = Duration::from_secs(5);

/// Who reads the report.
pub struct HostReport {
    /// The engine; a routes-only node has none.
    pub engine: Option<SharedEngine>,
    /// Where the agent's own data is, for want of an engine's.
    pub data_dir: PathBuf,
    /// Paths of this host that instances may mount.
    pub allow_binds: Vec<PathBuf>,
}

impl HostReport {
    /// Keeps `report` fresh until the task is dropped.
    pub async fn keep(
        self,
        mut state: watch::Receiver<EngineState>,
        report: watch::Sender<Arc<Capacity>>,
    ) {
        loop {
            let capacity = self.read().await;
            let ready = capacity.engines.values().all(|engine| engine.ready);
            report.send_if_modified(|reported| {
                let changed = **reported != capacity;
                *reported = Arc::new(capacity);
                changed
            });
            // Cancel-safe: all that is lost is a wait.
            tokio::select! {
                () = sleep(if ready { PAUSE } else { PAUSE_NOT_READY }) => {}
                Ok(()) = state.changed() => {}
            }
        }
    }

    /// Reads it once. Takes as long as the engine takes to answer or to be given up.
    pub async fn read(&self) -> Capacity {
        let mut data = self.data_dir.clone();
        let mut engines = BTreeMap::new();
        if let Some(engine) = &self.engine {
            let info = match engine.info().await {
                Ok(report) => {
                    data = report.data_root.unwrap_or(data);
                    report.info
                }
                Err(error) => EngineInfo { message: error.to_string(), ..EngineInfo::default() },
            };
            engines.insert(ENGINE.to_owned(), info);
        }
        let binds = self.allow_binds.clone();
        #[expect(clippy::disallowed_methods, reason = "a report of capacity can be late")]
        let reading = tokio::task::spawn_blocking(move || capacity::read(&data, &binds, engines));
        // It fails only while the runtime ends.
        reading.await.unwrap_or_default()
    }
}
