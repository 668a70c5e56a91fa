//! The last words of a container that is removed: `<data>/previous/<instance>.log`, for `dwell logs --previous`.
//!
//! One file for each instance, of its newest container that has printed anything and is gone: the one that an update
//! replaced, or that failed and was taken back. Bounded in size, number and age. Nothing depends on it: what
//! cannot be kept is lost, and the container goes all the same.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dwell_core::id::{Generation, InstanceName};
use futures_util::StreamExt;

use super::DockerEngine;
use super::client::{NAME, QUICK};
use dwell_engine::{ContainerId, Engine, EngineError, LogOptions, Output};

/// How many of the last lines are kept, and how many bytes of them.
const LINES_MAX: u32 = 1_000;
const BYTES_MAX: usize = 64 * 1024;
/// How many files are kept, and for how long.
const FILES_MAX: usize = 1_000;
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

impl DockerEngine {
    /// Keeps what a container printed last, if it printed anything.
    pub(super) async fn keep_output(
        &self,
        id: &ContainerId,
        instance: &InstanceName,
        generation: Generation,
    ) {
        let kept = tokio::time::timeout(QUICK, self.last_output(id)).await;
        let output = match kept {
            Ok(Ok(output)) if output.is_empty() => return,
            Ok(Ok(output)) => output,
            Ok(Err(EngineError::NotFound { .. })) => return,
            Ok(Err(error)) => {
                return tracing::debug!(%instance, %error, "what its container printed is not kept");
            }
            Err(_) => return,
        };
        let (data, name) = (self.config.data_dir.clone(), instance.clone());
        let head = format!("--- container {id} of generation {generation}\n");
        let text = [head.as_bytes(), &output].concat();
        let written = self.lane.run(move || write(&data, &name, &text)).await;
        if let Err(error) = written {
            tracing::debug!(%instance, %error, "what its container printed is not kept");
        }
    }

    async fn last_output(&self, id: &ContainerId) -> Result<Vec<u8>, EngineError> {
        let options = LogOptions { tail: Some(LINES_MAX), ..LogOptions::default() };
        let mut pieces = self.logs(id, &options).await?;
        let mut output = Vec::new();
        while let Some(piece) = pieces.next().await {
            let (Output::Stdout(bytes) | Output::Stderr(bytes)) = piece?;
            output.extend_from_slice(&bytes);
            let excess = output.len().saturating_sub(BYTES_MAX);
            output.drain(..excess);
        }
        Ok(output)
    }
}

pub(super) async fn output(
    engine: &DockerEngine,
    instance: &InstanceName,
) -> Result<Option<Vec<u8>>, EngineError> {
    let (data, instance) = (engine.config.data_dir.clone(), instance.clone());
    let read = engine.lane.run(move || read(&data, &instance)).await;
    read.map_err(|error| EngineError::Other {
        engine: NAME,
        operation: "read what was kept of an earlier container",
        reason: error.to_string(),
    })
}

fn directory(data: &Path) -> PathBuf {
    data.join("previous")
}

/// What the newest container of an instance that is gone printed last. Blocks.
fn read(data: &Path, instance: &InstanceName) -> io::Result<Option<Vec<u8>>> {
    match fs::read(directory(data).join(format!("{instance}.log"))) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(data: &Path, instance: &InstanceName, text: &[u8]) -> io::Result<()> {
    let directory = directory(data);
    fs::create_dir_all(&directory)?;
    dwell_daemon::durable::replace_volatile(
        &directory.join(format!("{instance}.log")),
        text,
        0o600,
    )?;
    prune(&directory, SystemTime::now())
}

/// Removes what is too old, and the oldest of what is too much.
fn prune(directory: &Path, now: SystemTime) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    let excess = files.len().saturating_sub(FILES_MAX);
    for (index, (written_at, path)) in files.into_iter().enumerate() {
        let is_old = now.duration_since(written_at).is_ok_and(|age| age > KEPT_FOR);
        if index < excess || is_old {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dwell_core::workload::Template;

    use super::*;

    #[test]
    fn what_a_start_needs_is_written_while_the_blocking_pool_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let engine = DockerEngine::new(crate::DockerConfig {
            socket: "/nonexistent".into(),
            cluster: "lab".to_owned(),
            data_dir: directory.path().to_owned(),
            run_dir: directory.path().to_owned(),
            allowed: crate::Allowed::default(),
            runtime: crate::Runtime::Dwell,
            registries: crate::credentials::Registries::default(),
            names: None,
        });
        let web = dwell_engine::fake::assigned("web-0", 1, Template::of_image("a"));
        write(directory.path(), &web.instance, b"last").unwrap();
        dwell_daemon::hung_pool::run(async || {
            let files = engine.write_files(&web, web.generation).await.unwrap();
            assert!(files.join("hosts").exists());
            assert_eq!(output(&engine, &web.instance).await.unwrap().unwrap(), b"last");
        });
    }

    #[test]
    fn last_words_are_kept_for_a_while() {
        let data = tempfile::tempdir().unwrap();
        let web: InstanceName = "web-0".parse().unwrap();
        assert_eq!(read(data.path(), &web).unwrap(), None);
        write(data.path(), &web, b"first").unwrap();
        write(data.path(), &web, b"FATAL: no config file").unwrap();
        let kept = read(data.path(), &web).unwrap();
        assert_eq!(kept.as_deref(), Some(&b"FATAL: no config file"[..]));
        let folder = directory(data.path());
        prune(&folder, SystemTime::now() + KEPT_FOR / 2).unwrap();
        assert!(read(data.path(), &web).unwrap().is_some());
        prune(&folder, SystemTime::now() + KEPT_FOR * 2).unwrap();
        assert_eq!(read(data.path(), &web).unwrap(), None);
    }

    #[test]
    fn there_are_not_too_many() {
        let data = tempfile::tempdir().unwrap();
        let folder = directory(data.path());
        fs::create_dir_all(&folder).unwrap();
        for number in 0..FILES_MAX + 20 {
            fs::write(folder.join(format!("web-{number}.log")), b"x").unwrap();
        }
        write(data.path(), &"db-0".parse().unwrap(), b"y").unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), FILES_MAX);
    }
}
