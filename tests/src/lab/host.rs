//! One host of a lab: its link, its Docker engine and its agent.

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use bollard::Docker;
use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use super::{
    client,
    command::{Output, run_in},
    docker::Engine,
    dwell,
    layout::Layout,
    network::{self, Cut},
    process::Process,
};

/// What says which capabilities agent and keeper have.
const AGENT_UNIT: &str = include_str!("../../../systemd/dwell-agent.service");
const KEEPER_UNIT: &str = include_str!("../../../systemd/dwell-sandboxes.service");

/// A host: a handle to what may or may not run on it, cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    layout: Layout,
    number: usize,
    engine: Engine,
    agent: Process,
    keeper: Process,
    ssh: Process,
    programs: PathBuf,
}

impl Host {
    pub(crate) fn new(layout: &Layout, number: usize, programs: &Path) -> Self {
        let dir = layout.host_dir(number);
        let netns = Some(layout.host_netns(number));
        Self {
            layout: layout.clone(),
            number,
            engine: Engine::new(layout, number),
            agent: Process::new(layout, &dir, "agent", netns.clone()),
            keeper: Process::new(layout, &dir, "keeper", netns.clone()),
            ssh: Process::new(layout, &dir, "ssh", netns),
            programs: programs.to_owned(),
        }
    }

    /// Its name and the name of its node: `h1`, `h2`, ...
    #[must_use]
    pub fn name(&self) -> String {
        format!("h{}", self.number)
    }

    /// Its number in the lab, from 1.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Its address in the hosts' network.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.layout.host_address(self.number)
    }

    /// The name of its network namespace.
    #[must_use]
    pub fn netns(&self) -> String {
        self.layout.host_netns(self.number)
    }

    /// The directory of its files: what `/var/lib`, `/run` and `/etc` are to a real host.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.layout.host_dir(self.number)
    }

    /// The file that names the network namespace of one of its instances.
    #[must_use]
    pub fn sandbox(&self, instance: &str) -> PathBuf {
        dwell::run_dir(self).join("netns").join(instance)
    }

    /// The lab it is a host of.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where dwell's programs are.
    pub(crate) fn programs(&self) -> &Path {
        &self.programs
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Runs a command in its network namespace; a failing exit status is no error here.
    ///
    /// # Errors
    /// If it cannot be started or takes longer than five minutes.
    pub async fn exec<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output> {
        run_in(&self.netns(), args).await
    }

    /// A TCP connection from this host to `to`.
    ///
    /// # Errors
    /// If it is refused, or not made within two seconds.
    pub async fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        client::connect(Some(self.netns()), to).await
    }

    /// What `to` answers to an HTTP request for `/` from this host.
    ///
    /// # Errors
    /// If it cannot be connected, does not answer within two seconds, or not with success.
    pub async fn get(&self, to: SocketAddr) -> Result<String> {
        client::get(self.connect(to).await?).await
    }

    /// A client of its Docker engine.
    ///
    /// # Errors
    /// If the engine's socket does not exist, that is if it never ran.
    pub fn docker(&self) -> Result<Docker> {
        self.engine.client()
    }

    /// The socket of its Docker engine.
    #[must_use]
    pub fn docker_socket(&self) -> PathBuf {
        self.engine.socket()
    }

    /// Has keys of the agent's configuration be otherwise than the lab has them, from its next start on.
    ///
    /// # Errors
    /// If that cannot be written down.
    pub fn set_agent(&self, settings: &serde_json::Value) -> Result<()> {
        dwell::set_agent(self, settings)
    }

    /// Where something can listen in the engine's place: an agent that joins while this socket exists
    /// uses it and not the engine's.
    #[must_use]
    pub fn tap_socket(&self) -> PathBuf {
        self.dir().join("tap.sock")
    }

    /// The one directory of this host that instances may mount; it has to be made.
    #[must_use]
    pub fn shared_dir(&self) -> PathBuf {
        self.dir().join("shared")
    }

    /// The process of its Docker engine, `dockerd`.
    #[must_use]
    pub fn dockerd(&self) -> &Process {
        self.engine.process()
    }

    /// Starts its Docker engine and waits until it answers.
    ///
    /// # Errors
    /// If it runs already, ends, or does not answer within a minute.
    pub async fn start_docker(&self) -> Result<()> {
        self.engine.start().await
    }

    /// Ends its Docker engine with `signal` and waits until it is gone; its containers live on if
    /// the signal gives it no chance to stop them, or if the lab has live-restore.
    ///
    /// # Errors
    /// If it is still there after a minute.
    pub async fn stop_docker(&self, signal: Signal) -> Result<()> {
        self.engine.process().stop(signal).await
    }

    /// The process of its agent.
    #[must_use]
    pub fn agent(&self) -> &Process {
        &self.agent
    }

    /// The process that makes and keeps sandboxes for its agent.
    #[must_use]
    pub fn keeper(&self) -> &Process {
        &self.keeper
    }

    /// Starts what makes and keeps sandboxes for its agent.
    ///
    /// # Errors
    /// If it runs already or ends at once.
    pub async fn start_keeper(&self) -> Result<()> {
        self.start_of_agent(&self.keeper, KEEPER_UNIT, &["keep-sandboxes"]).await
    }

    /// Starts its agent, which must have joined the fleet before, and beside it what makes sandboxes, unless that runs.
    ///
    /// # Errors
    /// If it runs already or ends at once.
    pub async fn start_agent(&self) -> Result<()> {
        if !self.keeper.is_running() {
            self.start_keeper().await?;
        }
        self.start_of_agent(&self.agent, AGENT_UNIT, &[]).await
    }

    /// It has the capabilities that it has under systemd, so that one that it lacks is missed here as well.
    async fn start_of_agent(&self, process: &Process, unit: &str, words: &[&str]) -> Result<()> {
        let config = dwell::agent_config(self);
        let config = config.to_str().context("the lab's path is not UTF-8")?;
        let program = dwell::program(&self.programs, "dwell-agent")?;
        process.start_as_unit(unit, &program, &[words, &["--config", config]].concat()).await
    }

    /// The process of the SSH server of its instances.
    #[must_use]
    pub fn ssh(&self) -> &Process {
        &self.ssh
    }

    /// Starts the SSH server of its instances.
    ///
    /// # Errors
    /// If it runs already or ends at once.
    pub async fn start_ssh(&self) -> Result<()> {
        let run_dir = dwell::run_dir(self);
        let run_dir = run_dir.to_str().context("the lab's path is not UTF-8")?;
        let program = dwell::program(&self.programs, "dwell-ssh")?;
        self.ssh.start(&program, &["--run-dir", run_dir]).await
    }

    /// Runs a subcommand of `dwell-agent`, such as `cleanup`, on this host with its agent's
    /// configuration; a failing exit status is no error here.
    ///
    /// # Errors
    /// If it is not built, cannot be started, or takes longer than five minutes.
    pub async fn run_agent(&self, words: &[&str]) -> Result<Output> {
        let program = dwell::program(&self.programs, "dwell-agent")?;
        let config = dwell::agent_config(self);
        let mut args = vec![program.as_os_str()];
        args.extend(words.iter().map(OsStr::new));
        args.extend([OsStr::new("--config"), config.as_os_str()]);
        self.exec(&args).await
    }

    /// Writes its agent's configuration, as [`super::Lab::join`] does.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn configure_agent(&self) -> Result<()> {
        dwell::write_agent_config(self).map(drop)
    }

    /// Lets its agent join the fleet with `token`; a failing exit status is no error here.
    ///
    /// # Errors
    /// As [`Host::run_agent`].
    pub async fn join_with(&self, token: &str) -> Result<Output> {
        let controller = dwell::controller_address(&self.layout);
        self.run_agent(&["join", "--controller", &controller, "--token", token]).await
    }

    /// Ends its agent with `signal` and waits until it is gone; instances live on.
    ///
    /// # Errors
    /// If it is still there after a minute.
    pub async fn stop_agent(&self, signal: Signal) -> Result<()> {
        self.agent.stop(signal).await
    }

    /// Breaks its link to the other hosts; faults add up until [`Host::restore_link`].
    ///
    /// # Errors
    /// If the lab is down.
    pub async fn cut_link(&self, cut: Cut) -> Result<()> {
        network::cut(&self.layout, self.number, cut).await
    }

    /// Ends all faults of its link; nothing to do if there are none.
    ///
    /// # Errors
    /// If the lab is down.
    pub async fn restore_link(&self) -> Result<()> {
        network::restore(&self.layout, self.number).await
    }
}
