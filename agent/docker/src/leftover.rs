//! What a killed daemon leaves: shims of containers that it does not know to run.
//!
//! A daemon that is killed between the start of a shim and its own note of it says, when it is back
//! (with live-restore), that the container does not run. It refuses to start it, since a task of that
//! name exists, and would remove it without ending it. Meanwhile the main process may well run, in its
//! instance's sandbox, and nobody but the kernel knows.
//!
//! Ending the shim makes containerd end what is left and forget it, and the next start succeeds.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use dwell_engine::ContainerId;

/// How the programs of shims are called, whatever their version.
const SHIM: &[u8] = b"containerd-shim";
/// How often is looked whether what was killed is gone.
const END_TRIES: usize = 50;
/// The pause between two such looks.
const END_PAUSE: Duration = Duration::from_millis(100);

/// Ends the shim of a container that, by its daemon, does not run; says whether there was one.
///
/// # Errors
/// If processes cannot be listed, or there is a shim and the kernel does not let it be ended.
pub(super) async fn end(id: &ContainerId) -> io::Result<bool> {
    let id = id.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "it reads /proc, and only this instance waits for it"
    )]
    let ending = tokio::task::spawn_blocking(move || end_now(&id));
    ending.await.map_err(io::Error::other)?
}

/// The containers of `ids` of which there is a process or a shim.
///
/// # Errors
/// If processes cannot be listed.
pub(super) async fn of(ids: &BTreeSet<ContainerId>) -> io::Result<BTreeSet<ContainerId>> {
    if ids.is_empty() {
        return Ok(BTreeSet::new());
    }
    let ids = ids.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "it reads /proc, and only these instances wait for it"
    )]
    let looking = tokio::task::spawn_blocking(move || {
        Ok(processes(&ids)?.into_iter().map(|(_, id)| id).collect())
    });
    looking.await.map_err(io::Error::other)?
}

/// Ends every process and shim of `ids`, none of which is to run, and waits until they are gone; whether they are.
///
/// # Errors
/// If processes cannot be listed, or the kernel does not let one be ended.
pub(super) async fn end_all(ids: &BTreeSet<ContainerId>) -> io::Result<bool> {
    for _ in 0..END_TRIES {
        let these = ids.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "it reads /proc, and only these instances wait for it"
        )]
        let ending = tokio::task::spawn_blocking(move || {
            let left = processes(&these)?;
            for (pid, id) in &left {
                let Ok(descriptor) = pidfd_open(*pid, PidfdFlags::empty()) else { continue };
                // Looked at again, now that its id cannot become another's.
                if is_process_of(*pid, id) {
                    match pidfd_send_signal(descriptor, Signal::KILL) {
                        Err(error) if error != rustix::io::Errno::SRCH => return Err(error.into()),
                        _ => {}
                    }
                }
            }
            Ok::<_, io::Error>(left.is_empty())
        });
        if ending.await.map_err(io::Error::other)?? {
            return Ok(true);
        }
        tokio::time::sleep(END_PAUSE).await;
    }
    Ok(false)
}

/// The processes and shims of containers.
fn processes(ids: &BTreeSet<ContainerId>) -> io::Result<Vec<(Pid, ContainerId)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        found.extend(ids.iter().filter(|id| is_process_of(pid, id)).map(|id| (pid, id.clone())));
    }
    Ok(found)
}

/// Whether a process that lives is in the control group of a container, or is its shim.
fn is_process_of(pid: Pid, id: &ContainerId) -> bool {
    let path = |file: &str| format!("/proc/{}/{file}", pid.as_raw_nonzero());
    let words = fs::read(path("cmdline")).unwrap_or_default();
    // A zombie has no command line, and is no harm.
    let is_in_group = || {
        !words.is_empty()
            && fs::read_to_string(path("cgroup")).is_ok_and(|groups| groups.contains(id.as_str()))
    };
    is_shim_of(&words, id) || is_in_group()
}

fn end_now(id: &ContainerId) -> io::Result<bool> {
    let mut ended = false;
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        let is_its_shim = || {
            let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
            fs::read(path).is_ok_and(|words| is_shim_of(&words, id))
        };
        if !is_its_shim() {
            continue;
        }
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // Looked at again, now that its id cannot become another's.
        if is_its_shim() {
            pidfd_send_signal(descriptor, Signal::KILL)?;
            ended = true;
        }
    }
    Ok(ended)
}

/// Whether a command line, its words ended by NUL, is that of a container's shim.
fn is_shim_of(words: &[u8], id: &ContainerId) -> bool {
    let mut words = words.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.starts_with(SHIM)
        && words.by_ref().any(|word| word == b"-id")
        && words.next() == Some(id.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_own_shim_is_meant() {
        let id = ContainerId("c5656caccbee".to_owned());
        for (line, is_it) in [
            ("/usr/bin/containerd-shim-runc-v2 -namespace moby -id c5656caccbee -address /x", true),
            ("containerd-shim -namespace moby -id c5656caccbee", true),
            (
                "/usr/bin/containerd-shim-runc-v2 -namespace moby -id c5656caccbeef -address /x",
                false,
            ),
            ("/usr/bin/containerd-shim-runc-v2 -namespace moby -address c5656caccbee -id", false),
            ("/bin/sleep -id c5656caccbee", false),
            ("", false),
        ] {
            let words = line.replace(' ', "\0");
            assert_eq!(is_shim_of(words.as_bytes(), &id), is_it, "{line}");
        }
    }
}
