//! A host's own `dockerd`: its configuration, its start, and what a crash of it leaves behind.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use bollard::{API_DEFAULT_VERSION, Docker};
use serde_json::{Value, json};

use super::{
    command::run, layout::Layout, prerequisites::tool, process::Process, wait::wait_until,
};

/// How long an engine may take until it answers; 3 to 6 s on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Longest time for one request to the engine, in seconds.
const REQUEST_LIMIT_S: u64 = 120;

/// The Docker engine of one host.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    dir: PathBuf,
    cgroup: String,
    process: Process,
}

impl Engine {
    pub(crate) fn new(layout: &Layout, host: usize) -> Self {
        let dir = layout.host_dir(host);
        let netns = Some(layout.host_netns(host));
        Self {
            process: Process::new(layout, &dir, "dockerd", netns),
            cgroup: format!("/{}/h{host}", layout.cgroup()),
            dir,
        }
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    fn config(&self) -> PathBuf {
        self.dir.join("daemon.json")
    }

    /// Writes `daemon.json`; `runtime` is the path of `dwell-oci` and its arguments.
    pub(crate) async fn configure(
        &self,
        live_restore: bool,
        runtime: (PathBuf, Vec<String>),
    ) -> Result<()> {
        let mut config = json!({
            "data-root": self.dir.join("data"),
            "exec-root": self.dir.join("exec"),
            "pidfile": self.dir.join("docker.pid"),
            "hosts": [format!("unix://{}", self.socket().display())],
            "live-restore": live_restore,
            // A failed test shows the end of each log, and there is not to be only chatter in it.
            "log-level": "warn",
            // The lab's own cgroup, with or without systemd: found and removed by its name.
            "cgroup-parent": self.cgroup,
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "runtimes": { "dwell": { "path": runtime.0, "runtimeArgs": runtime.1 } },
        });
        if major_version().await? < 24 {
            // Otherwise it leaves /etc/docker/key.json behind; later ones do not know the option.
            config["deprecated-key-path"] = Value::from(self.dir.join("key.json").to_str());
        }
        fs::write(self.config(), serde_json::to_vec_pretty(&config)?)
            .with_context(|| format!("cannot write {}", self.config().display()))
    }

    pub(crate) async fn start(&self) -> Result<()> {
        if !self.process.is_running() {
            self.forget_crashed().await?;
        }
        let config = self.config();
        let config = config.to_str().context("the lab's path is not UTF-8")?;
        self.process.start(&tool("dockerd")?, &["--config-file", config]).await?;
        self.process
            .ready(START_LIMIT, async || {
                self.client()?.ping().await?;
                Ok(())
            })
            .await
    }

    pub(crate) fn client(&self) -> Result<Docker> {
        let socket = self.socket();
        let path = socket.to_str().context("the lab's path is not UTF-8")?;
        Docker::connect_with_unix(path, REQUEST_LIMIT_S, API_DEFAULT_VERSION)
            .with_context(|| format!("cannot use the engine at {path}"))
    }

    /// Removes pid files that a killed engine left, once the containerd that dies with it is gone.
    ///
    /// With them it would refuse to start, or wait forever for a containerd that is not there.
    async fn forget_crashed(&self) -> Result<()> {
        let containerd = self.dir.join("exec/containerd/containerd.pid");
        let own = self.dir.to_string_lossy().into_owned();
        wait_until("the containerd of a killed engine to be gone", START_LIMIT, async || {
            let pid = fs::read_to_string(&containerd).unwrap_or_default();
            let command = fs::read(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
            ensure!(!String::from_utf8_lossy(&command).contains(&own), "process {pid} is there");
            Ok(())
        })
        .await?;
        for path in [self.dir.join("docker.pid"), containerd].iter().filter(|path| path.exists()) {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

/// The major version of the machine's `dockerd`.
async fn major_version() -> Result<u32> {
    // "Docker version 20.10.24+dfsg1, build 5d6db84"
    let said = run(tool("dockerd")?, &["--version"]).await?.ok()?;
    let version = said.split_ascii_whitespace().nth(2);
    version
        .and_then(|version| version.split('.').next()?.parse().ok())
        .with_context(|| format!("cannot read the version of dockerd in {said:?}"))
}
