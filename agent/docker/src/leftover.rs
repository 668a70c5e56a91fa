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
use std::num::NonZeroI32;
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
/// If processes cannot be listed, or it cannot be seen where the process of a container is.
pub(super) async fn inside(path: &Path) -> io::Result<BTreeSet<ContainerId>> {
    let path = path.to_owned();
    #[expect(
        clippy::disallowed_methods,
        reason = "it reads /proc, and only this instance waits for it"
    )]
    let looking = tokio::task::spawn_blocking(move || {
        let namespace = match identity(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            found => found?,
        };
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let mut found = BTreeSet::new();
        for pid in pids()? {
            let groups = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()));
            let Some(id) = groups.ok().and_then(|groups| container_of(&groups, &own)) else {
                continue;
            };
            if !found.contains(&id) && is_inside(pid, namespace)? {
                found.insert(id);
            }
        }
        Ok(found)
    });
    looking.await.map_err(io::Error::other)?
}

/// Which file it is, wherever it is seen.
type Identity = (u64, u64);

fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Whether a process that lives is in a network namespace. The kernel shows it to those who may trace the process: without
/// `CAP_SYS_PTRACE`, to nobody who has fewer capabilities than it. A refusal is no answer.
fn is_inside(pid: Pid, namespace: Identity) -> io::Result<bool> {
    let pid = pid.as_raw_nonzero();
    match identity(Path::new(&format!("/proc/{pid}/ns/net"))) {
        Ok(own) => Ok(own == namespace),
        // It refuses so, too, if the process ends at this moment.
        Err(_) if has_ended(pid) => Ok(false),
        Err(error) => {
            let what = format!("cannot see in which network namespace process {pid} is: {error}");
            Err(io::Error::new(error.kind(), what))
        }
    }
}

/// Whether a process is gone, or only waits to be reaped; `proc_pid_stat(5)`.
fn has_ended(pid: NonZeroI32) -> bool {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The program's name, in parentheses, may have any bytes.
    let name_end = stat.iter().rposition(|byte| *byte == b')');
    let state = name_end.and_then(|end| stat.get(end + 2));
    matches!(state, None | Some(b'Z' | b'X'))
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
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

    use super::*;

    /// An agent without `CAP_SYS_PTRACE` would take what runs in a sandbox for something that runs elsewhere.
    #[test]
    fn that_the_kernel_shows_no_namespace_is_no_answer() {
        let mut process = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_child(&process);
        let here = identity(Path::new("/proc/thread-self/ns/net")).unwrap();
        assert!(is_inside(pid, here).unwrap());
        let refused = std::thread::spawn(move || {
            let none = CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            };
            // Of this thread alone.
            set_capabilities(None, none).unwrap();
            is_inside(pid, here)
        });
        let refused = refused.join().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(!is_inside(pid, here).unwrap(), "a process that has ended is nowhere");
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
    }

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
