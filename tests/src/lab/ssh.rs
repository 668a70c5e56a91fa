//! Logging in to instances with the machine's stock OpenSSH client.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, Result};

use super::{
    Lab,
    command::{Output, run},
};

impl Lab {
    /// The public half of the lab's own key, made at its first use; one line without a line end.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn ssh_public_key(&self) -> Result<String> {
        let key = self.ssh_key();
        let public = key.with_extension("pub");
        if !public.exists() {
            let path = key.to_str().context("the lab's path is not UTF-8")?;
            let words = ["-q", "-t", "ed25519", "-N", "", "-C", "dwell-lab", "-f", path];
            run("ssh-keygen", &words).await?.ok()?;
        }
        let text = std::fs::read_to_string(&public)
            .with_context(|| format!("cannot read {}", public.display()))?;
        Ok(text.trim().to_owned())
    }

    /// The words of the command line that logs in to root at `address`: nothing of the caller's own
    /// configuration, keys or known hosts plays a part.
    #[must_use]
    pub fn ssh_command(&self, address: IpAddr) -> Vec<String> {
        let known_hosts = self.layout().dir().join("known_hosts");
        [
            "ssh",
            "-F",
            "none",
            "-i",
            &self.ssh_key().to_string_lossy(),
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            &format!("UserKnownHostsFile={}", known_hosts.display()),
            "-o",
            "StrictHostKeyChecking=accept-new",
            &format!("root@{address}"),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Runs `command` as root at `address` over ssh; a failing exit status is no error here.
    ///
    /// # Errors
    /// If the client cannot be started, or does not end within five minutes.
    pub async fn ssh(&self, address: IpAddr, command: &str) -> Result<Output> {
        let mut words = self.ssh_command(address);
        let program = words.remove(0);
        for option in ["BatchMode=yes", "ConnectTimeout=5"] {
            words.splice(0..0, ["-o".to_owned(), option.to_owned()]);
        }
        words.push(command.to_owned());
        run(program, &words).await
    }

    fn ssh_key(&self) -> PathBuf {
        self.layout().dir().join("ssh_key")
    }
}
