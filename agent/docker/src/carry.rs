//! Files that go from a container that has ended into its successor, as tar archives that the daemon packs and unpacks.
//!
//! Each path is one archive, which streams through: nothing of it is kept. The daemon resolves both ends within the root of the
//! container, so no link in one leads out of it. It tells owners by their numbers, times in whole seconds, and of extended attributes
//! the capabilities of programs alone. Of a program with several names it forgets that it is run as its owner (the set-user-ID bit).
//!
//! What is mounted into the new container is none of its own: a copy into it is refused, whether the template mounts it or the
//! image declares it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, DownloadFromContainerOptions, UploadToContainerOptions,
};
use dwell_core::quantity::Bytes;
use dwell_core::workload::CARRIED_MAX;
use dwell_engine::{Carried, ContainerId, ContainerState, Engine as _, EngineError};
use futures_util::{StreamExt, stream};

use super::DockerEngine;
use super::client::{NAME, QUICK, limited, meaning, reason, status};

const OPERATION: &str = "carry files over";
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn carry(
    engine: &DockerEngine,
    from: &ContainerId,
    into: &ContainerId,
    paths: &[String],
) -> Result<Carried, EngineError> {
    if engine.inspect(from).await?.state == ContainerState::Running {
        return Err(other("the old container runs".to_owned()));
    }
    if engine.inspect(into).await?.state != ContainerState::Created {
        return Err(other("the new container was started already".to_owned()));
    }
    let docker = engine.client.docker().await?;
    check_mounts(&docker, into, paths).await?;
    let copying = async {
        let mut carried = Carried::default();
        for path in paths {
            let left = CARRIED_MAX.0.saturating_sub(carried.size.0);
            match copy(&docker, from, into, path, left).await? {
                Some(size) => carried.size = Bytes(carried.size.0.saturating_add(size)),
                None => carried.missing.push(path.clone()),
            }
        }
        Ok(carried)
    };
    let late = || other(format!("it took longer than {} s", LIMIT.as_secs()));
    tokio::time::timeout(LIMIT, copying).await.unwrap_or_else(|_| Err(late()))
}

/// A path that lies in what is mounted at another one, or contains it.
pub(super) fn mounted<'a>(
    paths: &'a [String],
    mounts: impl IntoIterator<Item = &'a str>,
) -> Option<(&'a str, &'a str)> {
    let is_within = |path: &str, outer: &str| {
        path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    mounts.into_iter().find_map(|mount| {
        let mount = mount.trim_end_matches('/');
        let mut met = paths.iter().filter(|path| is_within(path, mount) || is_within(mount, path));
        met.next().map(|path| (path.as_str(), mount))
    })
}

/// That a path cannot be carried over because of what is mounted.
pub(super) fn refused_for(path: &str, mount: &str) -> EngineError {
    refused(format!(
        "{path} meets {mount}, which is mounted and kept anyway; leave it out of \"carry\", or name what is beside it"
    ))
}

async fn check_mounts(
    docker: &Docker,
    into: &ContainerId,
    paths: &[String],
) -> Result<(), EngineError> {
    let seen = limited(QUICK, docker.inspect_container(into.as_str(), None)).await;
    let seen = seen.map_err(|error| meaning(error, OPERATION, into))?;
    let mounts = seen.mounts.unwrap_or_default();
    let targets = mounts.iter().filter_map(|mount| mount.destination.as_deref());
    match mounted(paths, targets) {
        Some((path, mount)) => Err(refused_for(path, mount)),
        None => Ok(()),
    }
}

/// Copies what is at one path, if that is at most `left` bytes; how much it was, or `None` if nothing is there.
async fn copy(
    docker: &Docker,
    from: &ContainerId,
    into: &ContainerId,
    path: &str,
    left: u64,
) -> Result<Option<u64>, EngineError> {
    let options = DownloadFromContainerOptions { path: path.to_owned() };
    let mut archive = Box::pin(docker.download_from_container(from.as_str(), Some(options)));
    let first = match archive.next().await {
        Some(Err(error)) if status(&error) == Some(404) => return Ok(None),
        first => first,
    };
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    make_parents(docker, into, parent).await?;

    let size = Arc::new(AtomicU64::new(0));
    let broken: Arc<Mutex<Option<Error>>> = Arc::default();
    let (counted, noted) = (Arc::clone(&size), Arc::clone(&broken));
    let pieces = stream::iter(first).chain(archive).map(move |piece| match piece {
        Ok(piece) => {
            let more = piece.len() as u64;
            let sum = counted.fetch_add(more, Ordering::Relaxed).saturating_add(more);
            if sum > left { Err(io::Error::other("too much")) } else { Ok(piece) }
        }
        Err(error) => {
            *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            Err(io::Error::other("the archive ended with an error"))
        }
    });
    let archive = bollard::body_try_stream(pieces);
    let done = docker.upload_to_container(into.as_str(), Some(within(parent)), archive).await;
    let size = size.load(Ordering::Relaxed);
    if size > left {
        return Err(refused(format!(
            "with {path} it is more than {CARRIED_MAX}; keep what is that big in a volume"
        )));
    }
    if let Some(error) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(told(error, path, from));
    }
    done.map_err(|error| told(error, path, into))?;
    Ok(Some(size))
}

fn within(directory: &str) -> UploadToContainerOptions {
    UploadToContainerOptions {
        path: format!("{directory}/"),
        // A directory does not take the place of a file, nor a file that of a directory.
        no_overwrite_dir_non_dir: Some("true".to_owned()),
        copy_uidgid: None,
    }
}

/// Makes the directories that lead to a path and are not there.
async fn make_parents(
    docker: &Docker,
    into: &ContainerId,
    parent: &str,
) -> Result<(), EngineError> {
    let mut missing: Vec<&str> = Vec::new();
    let mut there = parent;
    while !there.is_empty() {
        let options = ContainerArchiveInfoOptions { path: there.to_owned() };
        match docker.get_container_archive_info(into.as_str(), Some(options)).await {
            Err(error) if status(&error) == Some(404) => missing.push(there),
            Err(error) if status(&error).is_some() => return Err(told(error, there, into)),
            Err(error @ (Error::RequestTimeoutError | Error::HyperLegacyError { .. })) => {
                return Err(told(error, there, into));
            }
            // It is there, whatever bollard makes of what it is.
            _ => break,
        }
        there = there.rsplit_once('/').map_or("", |(above, _)| above);
    }
    let Some(last) = missing.last() else { return Ok(()) };
    let mut archive = tar::Builder::new(Vec::new());
    for directory in missing.iter().rev() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        let name = directory.strip_prefix(there).unwrap_or(directory).trim_start_matches('/');
        let added = archive.append_data(&mut header, name, io::empty());
        added.map_err(|error| refused(format!("{directory}: {error}")))?;
    }
    let archive = archive.into_inner().map_err(|error| other(format!("{last}: {error}")))?;
    let archive = bollard::body_full(archive.into());
    let done = docker.upload_to_container(into.as_str(), Some(within(there)), archive).await;
    done.map_err(|error| told(error, last, into))
}

/// What the daemon said of a path. One that does not answer is told as such.
fn told(error: Error, path: &str, id: &ContainerId) -> EngineError {
    match status(&error) {
        Some(400 | 403) => refused(format!("{path}: {}", reason(&error))),
        Some(_) => other(format!("{path}: {}", reason(&error))),
        None => meaning(error, OPERATION, id),
    }
}

fn refused(reason: String) -> EngineError {
    EngineError::Refused { engine: NAME, operation: OPERATION, reason }
}

fn other(reason: String) -> EngineError {
    EngineError::Other { engine: NAME, operation: OPERATION, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_meets_a_mount_is_found() {
        let paths = ["/var/lib/app".to_owned(), "/etc/id".to_owned()];
        let met = |mount| mounted(&paths, [mount]).map(|(path, _)| path);
        assert_eq!(met("/var/lib/app/data/"), Some("/var/lib/app"));
        assert_eq!(met("/var"), Some("/var/lib/app"));
        assert_eq!(met("/etc/id"), Some("/etc/id"));
        assert_eq!((met("/etc/hosts"), met("/var/lib/application")), (None, None));
    }
}
