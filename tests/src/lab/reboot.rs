//! A host that loses its power, and has it again.
//!
//! What a real host loses is lost here: every process, the network namespace with all that is in it (links, routes,
//! nexthops, rules, settings), mounts, cgroups, and the directories that stand for those of `/run`. The
//! directories that stand for those of `/var/lib` and `/etc` stay. Nobody is asked to end in good order.

use std::fs;

use anyhow::Result;

use super::{Host, network, sweep};

/// What stands for files in `/run`, in a host's directory.
const VOLATILE: [&str; 4] = ["run", "exec", "docker.sock", "docker.pid"];

impl Host {
    /// Takes its power away, and gives it again: its engine, its agent and its SSH server are started as a boot
    /// would start them, all at once.
    ///
    /// # Errors
    /// If something of it is left or does not start.
    pub async fn reboot(&self) -> Result<()> {
        sweep::halt_host(self.layout(), self.number()).await?;
        network::remove_host(self.layout(), self.number()).await?;
        for name in VOLATILE {
            let path = self.dir().join(name);
            let remove = if path.is_dir() { fs::remove_dir_all } else { fs::remove_file };
            sweep::remove_if_there(remove(&path), &path)?;
        }
        network::add_host(self.layout(), self.number()).await?;
        tokio::try_join!(self.start_docker(), self.start_agent(), self.start_ssh())?;
        Ok(())
    }
}
