//! Somebody at a workstation: the stock OpenSSH tools with a key, a configuration and known hosts of their own.
//!
//! The workstation is the machine, which has the fleet's routes. What DNS would say is in the
//! configuration, instance by instance; the only known host is the fleet's host CA, and a host that it did
//! not certify is refused.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use tokio::process::Command;

use super::{
    Lab,
    command::{Output, finish, run},
    process::MARK,
};

/// A person with a key.
#[derive(Clone, Debug)]
pub struct Person {
    dir: PathBuf,
    lab: String,
}

impl Lab {
    /// The person called `name`, made at the first call; every call writes anew which instances there are.
    ///
    /// # Errors
    /// If the controller does not answer or a file cannot be written.
    pub async fn person(&self, name: &str) -> Result<Person> {
        let dir = self.layout().dir().join("people").join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let person = Person { dir, lab: self.layout().name().to_owned() };
        let key = person.key();
        if !key.exists() {
            let path = key.to_str().context("the lab's path is not UTF-8")?;
            let words = ["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path];
            run("ssh-keygen", &words).await?.ok()?;
        }
        let authority = self.cli(&["key", "ca"]).await?.ok()?;
        fs::write(person.dir.join("known_hosts"), authority)?;
        let mut config = String::new();
        for row in self.ps().await?.instances {
            let (name, address) = (row.name, row.address);
            writeln!(
                config,
                "Host {name}.dwell\n  HostName {address}\n  HostKeyAlias {name}.dwell"
            )?;
        }
        let dir = person.dir.display();
        write!(
            config,
            "Host *\n  User @default\n  IdentityFile {dir}/key\n  IdentitiesOnly yes\n  BatchMode yes\n  ConnectTimeout 5\n  \
             UserKnownHostsFile {dir}/known_hosts\n  GlobalKnownHostsFile /dev/null\n  \
             StrictHostKeyChecking yes\n  LogLevel ERROR\n"
        )?;
        fs::write(person.config(), config)?;
        Ok(person)
    }
}

impl Person {
    /// The private key; the public half is beside it, with the extension `pub`.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    /// The public key, one line without a line end.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn public_key(&self) -> Result<String> {
        let text = fs::read_to_string(self.key().with_extension("pub"))?;
        Ok(text.trim().to_owned())
    }

    /// The configuration for `ssh -F`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }

    /// A directory for files of the person's own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `ssh` with these arguments, for tests that need its pipes or its process; it goes with the lab.
    pub fn command<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Command {
        let mut command = Command::new(program);
        // Every one of OpenSSH's programs takes this first.
        if ["ssh", "scp", "sftp"].contains(&program) {
            command.arg("-F").arg(self.config());
        }
        let ssh = format!("ssh -F {}", self.config().display());
        command
            .args(args)
            .env_remove("SSH_AUTH_SOCK")
            .env("GIT_SSH_COMMAND", &ssh)
            .env("RSYNC_RSH", &ssh)
            .env("HOME", &self.dir)
            .env(MARK, &self.lab)
            .current_dir(&self.dir);
        command
    }

    /// Runs `ssh` to its end; a failing exit status is no error here.
    ///
    /// # Errors
    /// If it cannot be started or takes longer than five minutes.
    pub async fn ssh(&self, args: &[&str]) -> Result<Output> {
        self.run("ssh", args, "").await
    }

    /// Runs one of the tools with `input`; a failing exit status is no error here.
    ///
    /// # Errors
    /// As [`Person::ssh`].
    pub async fn run(&self, program: &str, args: &[&str], input: &str) -> Result<Output> {
        finish(self.command(program, args), input).await
    }
}
