//! dwell's own processes in a lab: the controller, the joining of nodes, and the command line.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use dwell_core::node::NodeState;
use futures_util::future::try_join_all;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::process::Command;

use super::{
    Lab,
    command::{Output, finish},
    dwell::{self, Audit, AuditRow, InstanceRow, Nodes, Ps, Routes},
    host::Host,
    process::MARK,
    wait::wait_until,
};

/// How long a controller or an agent may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(30);

impl Lab {
    /// Starts the controller, makes every host a node, starts the agents and the SSH
    /// servers, and waits until all nodes
    /// are ready. What is done already is left as it is.
    ///
    /// # Errors
    /// If something does not start, or a node is not ready in time.
    pub async fn start_fleet(&self) -> Result<()> {
        self.start_nodes(self.hosts()).await
    }

    /// The same for some of the hosts; the others are left out of the fleet.
    ///
    /// # Errors
    /// If something does not start, or a node is not ready in time.
    pub async fn start_nodes(&self, hosts: &[Host]) -> Result<()> {
        if !self.controller().is_running() {
            self.start_controller().await?;
        }
        let nodes = self.nodes().await?.nodes;
        try_join_all(hosts.iter().map(async |host| {
            if !nodes.iter().any(|node| node.name == host.name()) {
                self.join(host).await?;
            }
            if !host.agent().is_running() {
                host.start_agent().await?;
            }
            if host.ssh().is_running() { Ok(()) } else { host.start_ssh().await }
        }))
        .await?;
        wait_until("all nodes to be ready", READY_LIMIT, async || {
            let nodes = self.nodes().await?.nodes;
            let ready = nodes.iter().filter(|node| node.state == NodeState::Ready).count();
            ensure!(ready == hosts.len(), "{ready} are, of {nodes:?}");
            Ok(())
        })
        .await
    }

    /// Starts the controller on the machine and waits until it answers.
    ///
    /// # Errors
    /// If it is not built, runs already, ends, or does not answer in time.
    pub async fn start_controller(&self) -> Result<()> {
        let config = dwell::write_controller_config(self.layout())?;
        let config = config.to_str().context("the lab's path is not UTF-8")?;
        let program = self.program("dwell-controller")?;
        self.controller().start(&program, &["--config", config]).await?;
        let answers = async || self.nodes().await;
        self.controller().ready(READY_LIMIT, answers).await?;
        Ok(())
    }

    /// Has keys of the controller's configuration be otherwise than the lab has them, from its next start on.
    ///
    /// # Errors
    /// If that cannot be written down.
    pub fn set_controller(&self, settings: &Value) -> Result<()> {
        dwell::set_controller(self.layout(), settings)
    }

    /// Ends the controller with `signal` and waits until it is gone.
    ///
    /// # Errors
    /// If it is still there after a minute.
    pub async fn stop_controller(&self, signal: Signal) -> Result<()> {
        self.controller().stop(signal).await
    }

    /// Makes `host` a node of the fleet, as an operator would, without starting its agent.
    ///
    /// # Errors
    /// If the controller gives no token or the agent cannot join with it.
    pub async fn join(&self, host: &Host) -> Result<()> {
        host.configure_agent()?;
        let token = self.join_token(&[]).await?;
        let joined = host.join_with(&token).await?;
        // Not `ok`: the command line in its message has the token.
        ensure!(joined.status.success(), "{} cannot join: {}", host.name(), joined.stderr.trim());
        Ok(())
    }

    /// A token with which one host can join; `options` are those of `dwell node token`.
    ///
    /// # Errors
    /// If the controller gives none.
    pub async fn join_token(&self, options: &[&str]) -> Result<String> {
        let words = [&["node", "token", "-o", "json"], options].concat();
        let token: dwell::JoinToken = self.cli(&words).await?.json()?;
        Ok(token.token)
    }

    /// Declares what is in `manifest`, as a file that an operator applies; a refusal is no error here,
    /// see [`Output::ok`].
    ///
    /// # Errors
    /// As [`Lab::cli`].
    pub async fn apply(&self, manifest: &str) -> Result<Output> {
        finish(self.cli_command(&["apply", "-f", "-"])?, manifest).await
    }

    /// Runs a command in an instance; a failing exit status is no error here.
    ///
    /// # Errors
    /// As [`Lab::cli`].
    pub async fn exec(&self, instance: &str, command: &[&str]) -> Result<Output> {
        self.cli(&[&["exec", instance, "--"], command].concat()).await
    }

    /// Runs the `dwell` command line against the lab's controller; a failing exit status is no error
    /// here, see [`Output::ok`].
    ///
    /// # Errors
    /// If it is not built, or does not end within five minutes.
    pub async fn cli(&self, args: &[&str]) -> Result<Output> {
        finish(self.cli_command(args)?, "").await
    }

    /// The same with what the command reads from its standard input, and a limit of time.
    ///
    /// # Errors
    /// If it is not built, or does not end within `limit`; it is killed then.
    pub async fn cli_with(&self, args: &[&str], input: &str, limit: Duration) -> Result<Output> {
        let mut command = self.cli_command(args)?;
        command.kill_on_drop(true);
        tokio::time::timeout(limit, finish(command, input))
            .await
            .with_context(|| format!("`dwell {}` does not end", args.join(" ")))?
    }

    /// The `dwell` command line against the lab's controller, for tests that need its pipes or its
    /// process; it carries the lab's mark and goes with the lab.
    ///
    /// # Errors
    /// If it is not built.
    pub fn cli_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(self.program("dwell")?);
        command
            .arg("--socket")
            .arg(self.controller_socket())
            .args(args)
            .env(MARK, self.layout().name());
        Ok(command)
    }

    /// The socket of the controller that the command line uses, `DWELL_SOCKET`.
    #[must_use]
    pub fn controller_socket(&self) -> PathBuf {
        dwell::controller_socket(self.layout())
    }

    /// The path of one of dwell's programs, as the lab uses it.
    ///
    /// # Errors
    /// If it is not built.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        dwell::program(&self.description.programs, name)
    }

    /// What `dwell ps` says.
    ///
    /// # Errors
    /// If the controller does not answer.
    pub async fn ps(&self) -> Result<Ps> {
        self.cli(&["ps", "-o", "json"]).await?.json()
    }

    /// What `dwell audit` finds, or what it makes of that with `--fix`.
    ///
    /// # Errors
    /// If the controller does not answer, or the exit code says something else than the answer.
    pub async fn audit(&self, fix: bool) -> Result<Vec<AuditRow>> {
        let words = ["audit", "-o", "json", "--fix"];
        let words = if fix { &words[..] } else { &words[..3] };
        let said = self.cli(words).await?;
        let found: Audit =
            serde_json::from_str(&said.stdout).with_context(|| format!("{said:?}"))?;
        let remains = found.findings.iter().any(|finding| finding.remedy != "repaired");
        ensure!(said.code() == i32::from(remains), "{said:?}");
        Ok(found.findings)
    }

    /// What `dwell node ls` says.
    ///
    /// # Errors
    /// If the controller does not answer.
    pub async fn nodes(&self) -> Result<Nodes> {
        self.cli(&["node", "ls", "-o", "json"]).await?.json()
    }

    /// What `dwell route ls` says.
    ///
    /// # Errors
    /// If the controller does not answer.
    pub async fn routes(&self) -> Result<Routes> {
        self.cli(&["route", "ls", "-o", "json"]).await?.json()
    }

    /// Waits until `workload` has exactly `count` instances, all running, and healthy if they have a
    /// check; the instances in order.
    ///
    /// # Errors
    /// If it has not within `limit`; the message has what they are like.
    pub async fn wait_well(
        &self,
        workload: &str,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<InstanceRow>> {
        wait_until(&format!("{count} of {workload} to be well"), limit, async || {
            let instances = self.ps().await?.of(workload);
            let well = instances.iter().filter(|instance| instance.is_well()).count();
            ensure!(well == count && instances.len() == count, "{well} are, of {instances:#?}");
            Ok(instances)
        })
        .await
    }
}
