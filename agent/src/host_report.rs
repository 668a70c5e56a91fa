//! Keeps the report of what the host has: read once a minute, whenever the engine comes or goes, and whenever a disk is full or has
//! room again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::node::{Capacity, DiskPressure, EngineInfo};
use dwell_docker::Allowed;
use dwell_planner::EngineState;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::{capacity, disk_pressure};
use dwell_engine::SharedEngine;

/// The name of the one engine there is, in reports.
const ENGINE: &str = "docker";
/// How long a report is good.
const PAUSE: Duration = Duration::from_secs(60);
/// How long it is good when it says that no instance can be started.
const PAUSE_NOT_READY: Duration = Duration::from_secs(5);
/// How often disks are looked at: one can fill up in less than a minute.
const DISKS_EVERY: Duration = Duration::from_secs(5);

/// Who reads the report.
pub struct HostReport {
    /// The engine; a routes-only node has none.
    engine: Option<SharedEngine>,
    /// Where the agent's own data is.
    data_dir: PathBuf,
    /// Where the engine's is, once it has said so.
    data_root: Option<PathBuf>,
    /// What of this host instances may have.
    allowed: Allowed,
    /// What the last report said of disks, and of memory.
    disks: Vec<DiskPressure>,
    memory_pressed: bool,
}

impl HostReport {
    /// Of an engine, if the host has one, of the agent's data, and of what instances may have.
    #[must_use]
    pub fn new(engine: Option<SharedEngine>, data_dir: PathBuf, allowed: Allowed) -> Self {
        let (data_root, disks, memory_pressed) = (None, Vec::new(), false);
        Self { engine, data_dir, data_root, allowed, disks, memory_pressed }
    }

    /// Keeps `report` fresh until the task is dropped.
    pub async fn keep(
        mut self,
        mut state: watch::Receiver<EngineState>,
        report: watch::Sender<Arc<Capacity>>,
    ) {
        loop {
            let capacity = self.read(PAUSE).await;
            let ready = capacity.engines.values().all(|engine| engine.ready);
            report.send_if_modified(|reported| {
                let changed = **reported != capacity;
                *reported = Arc::new(capacity);
                changed
            });
            // Cancel-safe: all that is lost is a wait.
            tokio::select! {
                () = self.wait(if ready { PAUSE } else { PAUSE_NOT_READY }) => {}
                Ok(()) = state.changed() => {}
            }
        }
    }

    /// Waits, until a disk is full or has room again at the latest.
    async fn wait(&self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            sleep_until(until.min(Instant::now() + DISKS_EVERY)).await;
            if Instant::now() >= until || !disk_pressure::are_same(&self.look().await, &self.disks)
            {
                return;
            }
        }
    }

    /// How disks are now.
    async fn look(&self) -> Vec<DiskPressure> {
        let (paths, before) = (self.paths(), self.disks.clone());
        #[expect(clippy::disallowed_methods, reason = "a report of disks can be late")]
        let looking = tokio::task::spawn_blocking(move || {
            let paths: Vec<_> = paths.iter().map(PathBuf::as_path).collect();
            disk_pressure::look(&paths, &before)
        });
        looking.await.unwrap_or_else(|_| self.disks.clone())
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.data_root.iter().chain([&self.data_dir]).cloned().collect()
    }

    /// Reads it once. An engine that has not answered after `limit` is reported as one that is not ready, and all else as
    /// ever.
    pub async fn read(&mut self, limit: Duration) -> Capacity {
        let mut engines = BTreeMap::new();
        if let Some(engine) = &self.engine {
            let away = |message| EngineInfo { message, ..EngineInfo::default() };
            let info = match timeout(limit, engine.info()).await {
                Ok(Ok(report)) => {
                    self.data_root = report.data_root.or(self.data_root.take());
                    report.info
                }
                Ok(Err(error)) => away(error.to_string()),
                Err(_) => away("does not answer yet".to_owned()),
            };
            engines.insert(ENGINE.to_owned(), info);
        }
        let data = self.data_root.clone().unwrap_or_else(|| self.data_dir.clone());
        let (allowed, was_pressed) = (self.allowed.clone(), self.memory_pressed);
        #[expect(clippy::disallowed_methods, reason = "a report of capacity can be late")]
        let reading = tokio::task::spawn_blocking(move || {
            capacity::read(&data, &allowed, engines, was_pressed)
        });
        // It fails only while the runtime ends.
        let mut capacity = reading.await.unwrap_or_default();
        self.memory_pressed = capacity.memory_pressed;
        let disks = self.look().await;
        self.tell(&disks);
        self.disks.clone_from(&disks);
        capacity.disk_pressures = disks;
        capacity
    }

    /// Says in the log what has changed.
    fn tell(&self, disks: &[DiskPressure]) {
        if disk_pressure::are_same(disks, &self.disks) {
            return;
        }
        if disks.is_empty() {
            tracing::info!("all disks of this node have room again");
        }
        for disk in disks {
            tracing::warn!(%disk, "a disk of this node has no room left; nothing new is placed here until it has");
        }
    }
}

#[cfg(test)]
mod tests {
    use dwell_engine::fake::control::TokioClock;
    use dwell_engine::fake::{FakeEngine, Operation};

    use super::*;

    fn allowed() -> Allowed {
        let (capabilities, devices) = (vec!["SYS_PTRACE".to_owned()], vec!["/dev/fuse".into()]);
        Allowed { binds: vec!["/srv".into()], capabilities, devices }
    }

    #[tokio::test]
    async fn the_report_of_a_host_without_an_engine_has_its_disk() {
        let mut report = HostReport::new(None, "/".into(), allowed());
        let capacity = report.read(Duration::from_secs(2)).await;
        assert!(capacity.disk.0 > 0 && capacity.engines.is_empty());
        assert_eq!(capacity.allow_binds, ["/srv"]);
        assert_eq!(capacity.allow_capabilities, ["SYS_PTRACE"]);
        assert_eq!(capacity.allow_devices, ["/dev/fuse"]);
        assert_eq!(report.paths(), [PathBuf::from("/")]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_host_whose_engine_does_not_answer_yet_all_else_is_reported() {
        let engine = FakeEngine::new(Arc::new(TokioClock::new()));
        engine.stall(Operation::Info);
        let mut report = HostReport::new(Some(Arc::new(engine.clone())), "/".into(), allowed());
        let early = report.read(Duration::from_secs(2)).await;
        assert!(!early.has_engine());
        assert_eq!(early.engines[ENGINE].message, "does not answer yet");
        engine.release(Operation::Info);
        let later = report.read(Duration::from_secs(2)).await;
        assert!(later.has_engine());
        for capacity in [early, later] {
            assert!(capacity.cpu.0 > 0 && !capacity.arch.is_empty(), "{capacity:?}");
            assert_eq!(capacity.allow_binds, ["/srv"]);
        }
    }
}
