//! A registry of images on each host, all with the same images in them.
//!
//! An engine trusts what listens on its own loopback without TLS, so every host has a registry there; they share one
//! directory. The program is Debian's, taken from its package: nothing is installed.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result};

use super::{Lab, images, process::Process};

/// Where each host finds its registry.
const ADDRESS: &str = "127.0.0.1:5000";

/// How long a registry may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);

impl Lab {
    /// Starts the registries. Returns what references of images in them begin with.
    ///
    /// # Errors
    /// If the program cannot be had, or a registry does not answer within half a minute.
    pub async fn start_registries(&self) -> Result<&'static str> {
        let program = images::program("docker-registry", &self.image_cache()).await?;
        let to: SocketAddr = ADDRESS.parse()?;
        let config = self.registry_config()?;
        for host in self.hosts() {
            let netns = Some(host.netns());
            let process = Process::new(self.layout(), &host.dir(), "registry", netns);
            process.start(&program, &["serve", &config]).await?;
            process.ready(START_LIMIT, async || host.get(to).await.map(drop)).await?;
        }
        Ok(ADDRESS)
    }

    /// Writes the configuration of all registries, and returns its path.
    fn registry_config(&self) -> Result<String> {
        let dir: PathBuf = self.layout().dir().join("registry");
        fs::create_dir_all(&dir).context("cannot make the registry's directory")?;
        let config = serde_json::json!({
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": dir}},
            "http": {"addr": ADDRESS},
        });
        let path = dir.join("config.yml");
        fs::write(&path, config.to_string())
            .context("cannot write the registry's configuration")?;
        path.into_os_string().into_string().ok().context("the lab's path is not UTF-8")
    }
}
