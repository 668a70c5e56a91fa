//! What this node's `dwell-ssh` is told, and what it tells: the agent's side of [`dwell_core::ssh`].
//!
//! ```text
//!   assignment: keys ────────┐
//!                            ├──▶ serving() ──▶ keep ──▶ <run>/ssh/trust.json, instances/*.json ──▶ dwell-ssh
//!   sightings: what runs ────┘                                                                        │
//!   session ◀── EventQueue ◀── events::listen ◀── <run>/ssh/events.sock ◀──────────────────────────────┘
//! ```
//!
//! Whether an instance is served: its specification leaves port 22 to dwell, its image brings no SSH server, the
//! controller gave it a host key, and its sandbox is there. Whatever is not known yet, after a restart of the agent or while
//! the engine is away, stays as the files have it, so that nothing flaps.
//!
//! Invariants: nothing is taken away before the assignment and a first complete look are there; a file
//! is written only when its content is another one.

pub mod events;
mod files;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dwell_core::instance::Assigned;
use dwell_core::net::Ipv6Range;
use dwell_core::sandbox::{SandboxId, Slot};
use dwell_core::session::Assignment;
use dwell_core::ssh::{SshInstance, SshTrust};
use dwell_core::workload::{Protocol, Ssh, Template};
use dwell_network::sandbox_path;
use tokio::sync::watch;
use tokio::time::sleep;

use self::files::{Files, Written};
use crate::reconciler::{Sighting, Sightings};
use dwell_daemon::{Causes, Lane};

/// The port of SSH.
const PORT: u16 = 22;
/// How long to wait after a file could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// Who keeps the files of `dwell-ssh`.
pub struct SshFiles {
    /// The agent's files until the next reboot.
    pub run_dir: PathBuf,
    /// What the node is to do.
    pub assignment: watch::Receiver<Option<Arc<Assignment>>>,
    /// What was seen of the instances; `None` until the node was looked at.
    pub sightings: watch::Receiver<Option<Arc<Sightings>>>,
}

/// What the files are made from.
#[derive(Clone)]
struct Input {
    assignment: Arc<Assignment>,
    sightings: Option<Arc<Sightings>>,
}

impl SshFiles {
    /// Keeps them until the task is dropped.
    pub async fn keep(mut self) {
        let files = Arc::new(Mutex::new(Files::new(&self.run_dir)));
        let lane = Lane::new("ssh-files");
        let mut done: Option<Input> = None;
        loop {
            let assignment = self.assignment.borrow_and_update().clone();
            let sightings = self.sightings.borrow_and_update().clone();
            if let Some(assignment) = assignment {
                let input = Input { assignment, sightings };
                let (before, now, run_dir) = (done.take(), input.clone(), self.run_dir.clone());
                let files = Arc::clone(&files);
                let writing = lane.run(move || {
                    let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
                    bring_about(&mut files, &now, before.as_ref(), &run_dir)
                });
                if let Err(error) = writing.await {
                    tracing::error!(
                        error = %Causes(&error), run_dir = %self.run_dir.display(),
                        "cannot write the files of dwell-ssh; trying again"
                    );
                    sleep(RETRY).await;
                    continue;
                }
                done = Some(input);
            }
            // Cancel-safe: all that is lost is a wait.
            tokio::select! {
                Ok(()) = self.assignment.changed() => {}
                Ok(()) = self.sightings.changed() => {}
                else => return,
            }
        }
    }
}

/// Makes the files fit the input; what fails keeps nothing else from being done. What is the same as `before` is not
/// looked at. Blocks for the file system.
fn bring_about(
    files: &mut Files,
    now: &Input,
    before: Option<&Input>,
    run_dir: &Path,
) -> io::Result<()> {
    files.prepare()?;
    let zone = now.assignment.network.zone.clone();
    let mut first_failure =
        files.write_trust(&SshTrust { zone, ..now.assignment.ssh_trust.clone() });
    let ipv6 = now.assignment.network.ipv6;
    for assigned in now.assignment.instances.values() {
        for slot in Slot::ALL {
            let sandbox = SandboxId { instance: assigned.instance.clone(), slot };
            let sighting = now.sighting(&sandbox);
            if before.is_some_and(|before| before.is_same(&sandbox, assigned, sighting, ipv6)) {
                continue;
            }
            let is_there = slot.is_usual() || sighting.is_some();
            let written = files.written(&sandbox);
            let served = if is_there {
                serving(&sandbox, assigned, sighting, written, run_dir)
            } else {
                None
            };
            let at = ipv6.map(|range| range.address(assigned.address));
            let done = match served.map(|served| SshInstance { ipv6: at, ..served }) {
                Some(instance) => files.write(&sandbox, &instance),
                None if now.sightings.is_some() => files.remove(&sandbox),
                None => Ok(()),
            };
            first_failure = first_failure.and(done);
        }
    }
    if now.sightings.is_some() {
        let done = files.retain(|sandbox| now.assignment.instances.contains_key(&sandbox.instance));
        first_failure = first_failure.and(done);
    }
    first_failure
}

impl Input {
    fn sighting(&self, sandbox: &SandboxId) -> Option<&Sighting> {
        self.sightings.as_ref().and_then(|all| all.get(sandbox))
    }

    /// Whether it said the same of an instance and its sandbox.
    fn is_same(
        &self,
        sandbox: &SandboxId,
        assigned: &Assigned,
        sighting: Option<&Sighting>,
        ipv6: Option<Ipv6Range>,
    ) -> bool {
        let name = &assigned.instance;
        self.assignment.network.ipv6 == ipv6
            && self.assignment.instances.get(name) == Some(assigned)
            && self.sighting(sandbox) == sighting
    }
}

/// What is served in a sandbox of an instance, if it is; `before` is what its file has now.
fn serving(
    sandbox: &SandboxId,
    assigned: &Assigned,
    sighting: Option<&Sighting>,
    before: Option<&Written>,
    run_dir: &Path,
) -> Option<SshInstance> {
    let Ssh::Dwell { authorized_keys, key_sets, users, login_as, account_keys } =
        &assigned.template.ssh
    else {
        return None;
    };
    let host_key = assigned.host_key.clone()?;
    let was_served = before.is_some();
    let unknown = Sighting::default();
    let seen = sighting.unwrap_or(&unknown);
    let has_sandbox = seen.sandbox.unwrap_or(was_served);
    let own_ssh = seen.own_ssh.unwrap_or(!was_served);
    if exposes_ssh(&assigned.template) || !has_sandbox || own_ssh {
        return None;
    }
    let container = match sighting {
        Some(seen) => seen.container.as_deref(),
        None => before.and_then(|before| before.container.as_ref()),
    };
    Some(SshInstance {
        instance: assigned.instance.clone(),
        address: assigned.address,
        ipv6: None,
        netns: sandbox_path(run_dir, sandbox).display().to_string(),
        host_key,
        authorized_keys: authorized_keys.clone(),
        key_sets: key_sets.clone(),
        users: users.clone(),
        login_as: login_as.clone(),
        // Elsewhere such a file is the image's or was left behind by the program; in a machine people write it.
        account_keys: account_keys.unwrap_or(assigned.template.machine.is_some()),
        container: container.cloned(),
    })
}

/// Whether the specification says that somebody else listens on the port.
fn exposes_ssh(template: &Template) -> bool {
    template.expose.iter().any(|port| port.port == PORT && port.protocol == Protocol::Tcp)
}

#[cfg(test)]
mod tests;
