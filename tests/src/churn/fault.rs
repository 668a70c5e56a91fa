//! What goes wrong, and how it is mended.

use std::fs;

use anyhow::Result;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::lab::{Cut, Host, Lab, Signal};

/// Something that goes wrong, on a host counted from 1.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Killed, and started again when it is mended.
    AgentKilled(usize),
    /// Killed.
    ControllerKilled,
    /// Killed; containers live on.
    EngineKilled(usize),
    /// Told to end, and started again.
    EngineStopped(usize),
    /// Killed; sandboxes stay as they are, and none is made.
    KeeperKilled(usize),
    /// Killed; sessions go with it.
    SshKilled(usize),
    /// One shim is killed, whose container lives on without it.
    ShimKilled(usize),
    /// Does not run on until it is mended.
    AgentFrozen(usize),
    /// Does not run on.
    ControllerFrozen,
    /// Does not run on.
    EngineFrozen(usize),
    /// Packets vanish, or there is no carrier.
    Link(usize, Cut),
}

impl Fault {
    pub(super) fn random(random: &mut StdRng, hosts: usize) -> Self {
        let host = random.random_range(1..=hosts);
        match random.random_range(0..12) {
            0 => Self::AgentKilled(host),
            1 => Self::ControllerKilled,
            2 => Self::EngineKilled(host),
            3 => Self::EngineStopped(host),
            4 => Self::SshKilled(host),
            5 => Self::ShimKilled(host),
            6 => Self::AgentFrozen(host),
            7 => Self::ControllerFrozen,
            8 => Self::EngineFrozen(host),
            9 => Self::Link(host, Cut::BlackHole),
            10 => Self::KeeperKilled(host),
            _ => Self::Link(host, Cut::Unplugged),
        }
    }

    pub(super) async fn bring(self, lab: &Lab) -> Result<()> {
        match self {
            Self::AgentKilled(host) => {
                if lab.host(host).agent().is_running() {
                    lab.host(host).agent().signal(Signal::SIGCONT)?;
                    lab.host(host).stop_agent(Signal::SIGKILL).await?;
                }
            }
            Self::ControllerKilled => {
                if lab.controller().is_running() {
                    lab.stop_controller(Signal::SIGKILL).await?;
                }
            }
            Self::EngineKilled(host) => stop_engine(lab.host(host), Signal::SIGKILL).await?,
            Self::EngineStopped(host) => stop_engine(lab.host(host), Signal::SIGTERM).await?,
            Self::KeeperKilled(host) => {
                if lab.host(host).keeper().is_running() {
                    lab.host(host).keeper().stop(Signal::SIGKILL).await?;
                }
            }
            Self::SshKilled(host) => {
                if lab.host(host).ssh().is_running() {
                    lab.host(host).ssh().stop(Signal::SIGKILL).await?;
                }
            }
            Self::ShimKilled(host) => kill_a_shim(lab.host(host)),
            Self::AgentFrozen(host) => signal_if_running(lab.host(host).agent(), Signal::SIGSTOP)?,
            Self::ControllerFrozen => signal_if_running(lab.controller(), Signal::SIGSTOP)?,
            Self::EngineFrozen(host) => {
                signal_if_running(lab.host(host).dockerd(), Signal::SIGSTOP)?;
            }
            Self::Link(host, cut) => lab.host(host).cut_link(cut).await?,
        }
        Ok(())
    }

    /// Takes the cause away, not what it has done.
    pub(super) async fn mend(self, lab: &Lab) -> Result<()> {
        match self {
            Self::AgentKilled(host) => {
                if !lab.host(host).agent().is_running() {
                    lab.host(host).start_agent().await?;
                }
            }
            Self::ControllerKilled => {
                if !lab.controller().is_running() {
                    lab.start_controller().await?;
                }
            }
            Self::EngineKilled(host) | Self::EngineStopped(host) => {
                if !lab.host(host).dockerd().is_running() {
                    lab.host(host).start_docker().await?;
                }
            }
            Self::KeeperKilled(host) => {
                if !lab.host(host).keeper().is_running() {
                    lab.host(host).start_keeper().await?;
                }
            }
            Self::SshKilled(host) => {
                if !lab.host(host).ssh().is_running() {
                    lab.host(host).start_ssh().await?;
                }
            }
            Self::ShimKilled(_) => {}
            Self::AgentFrozen(host) => signal_if_running(lab.host(host).agent(), Signal::SIGCONT)?,
            Self::ControllerFrozen => signal_if_running(lab.controller(), Signal::SIGCONT)?,
            Self::EngineFrozen(host) => {
                signal_if_running(lab.host(host).dockerd(), Signal::SIGCONT)?;
            }
            Self::Link(host, _) => lab.host(host).restore_link().await?,
        }
        Ok(())
    }
}

fn signal_if_running(process: &crate::lab::Process, signal: Signal) -> Result<()> {
    if process.is_running() { process.signal(signal) } else { Ok(()) }
}

async fn stop_engine(host: &Host, signal: Signal) -> Result<()> {
    if !host.dockerd().is_running() {
        return Ok(());
    }
    // One that is frozen could not end.
    host.dockerd().signal(Signal::SIGCONT)?;
    host.stop_docker(signal).await
}

/// Kills the first shim of the host's engine that is found. Which one it is, no seed decides.
fn kill_a_shim(host: &Host) {
    let own = host.dir().join("exec").display().to_string();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_shim = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        words.contains("containerd-shim") && words.contains(&own)
    };
    if let Some(pid) = pids.into_iter().find(is_shim) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
}
