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
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use dwell_engine::ContainerId;

/// How the programs of shims are called, whatever their version.
const SHIM: &[u8] = b"containerd-shim";
/// How long the ids of containers are, in characters.
const ID_LEN: usize = 64;
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

/// The containers, by the names of their control groups, of which there is a process in the network namespace at `path`. It
/// need not exist.
///
/// # Errors
/// If processes cannot be listed.
pub(super) async fn inside(path: &Path) -> io::Result<BTreeSet<ContainerId>> {
    let path = path.to_owned();
    #[expect(
        clippy::disallowed_methods,
        reason = "it reads /proc, and only this instance waits for it"
    )]
    let looking = tokio::task::spawn_blocking(move || {
        let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
        let Ok(namespace) = identity(&path) else { return Ok(BTreeSet::new()) };
        let is_inside = |pid: &Pid| {
            let own = format!("/proc/{}/ns/net", pid.as_raw_nonzero());
            identity(Path::new(&own)).is_ok_and(|own| own == namespace)
        };
        let groups = pids()?.filter(is_inside).filter_map(|pid| {
            fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).ok()
        });
        let own = fs::read_to_string("/proc/self/cgroup")?;
        Ok(groups.filter_map(|groups| container_of(&groups, &own)).collect())
    });
    looking.await.map_err(io::Error::other)?
}

/// The container that a process is of by its control groups, `/docker/ID` or `/system.slice/docker-ID.scope`. The agent, of
/// which `own` are the control groups, may be in a container itself, with all that is on the host.
fn container_of(groups: &str, own: &str) -> Option<ContainerId> {
    let mut words = groups.split(|c: char| !c.is_ascii_alphanumeric());
    let is_hex = |word: &str| word.bytes().all(|c| c.is_ascii_hexdigit());
    let is_id = |word: &&str| word.len() == ID_LEN && is_hex(word) && !own.contains(word);
    words.find(is_id).map(|id| ContainerId(id.to_owned()))
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

/// All processes.
fn pids() -> io::Result<impl Iterator<Item = Pid>> {
    let entries = fs::read_dir("/proc")?.flatten();
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(pid).filter_map(Pid::from_raw))
}

/// The processes and shims of containers.
fn processes(ids: &BTreeSet<ContainerId>) -> io::Result<Vec<(Pid, ContainerId)>> {
    let mut found = Vec::new();
    for pid in pids()? {
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
    for pid in pids()? {
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
    fn a_container_is_known_by_its_control_group() {
        let id = "5d20aa5f2f4b3b44fa9b4d1ea0e3f0e0b9a5c1d6e7f8091a2b3c4d5e6f708192";
        for groups in [
            format!("12:pids:/docker/{id}\n0::/docker/{id}\n"),
            format!("0::/system.slice/docker-{id}.scope\n"),
            format!("0::/../docker-{id}.scope/init\n"),
        ] {
            assert_eq!(
                container_of(&groups, "0::/\n"),
                Some(ContainerId(id.to_owned())),
                "{groups}"
            );
        }
        let host = id.replace('5', "6");
        let nested = format!("0::/docker/{host}/docker/{id}\n");
        let own = format!("0::/docker/{host}/dwell-agent\n");
        assert_eq!(container_of(&nested, &own), Some(ContainerId(id.to_owned())));
        assert_eq!(container_of(&own, &own), None);
        for groups in
            ["", "0::/\n", "0::/system.slice/dwell-agent.service\n", &format!("0::/{id}0")]
        {
            assert_eq!(container_of(groups, "0::/\n"), None, "{groups}");
        }
    }

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
