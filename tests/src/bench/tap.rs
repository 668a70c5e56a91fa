//! A tap on the way from an agent to its engine: notes when the next request passes.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
};

use crate::lab::Host;

/// Listens in the place of a host's engine and passes everything on.
pub(super) struct Tap {
    shared: Arc<Shared>,
    noted: watch::Receiver<Option<Instant>>,
}

struct Shared {
    armed: Mutex<bool>,
    note: watch::Sender<Option<Instant>>,
}

impl Tap {
    /// Puts a tap before the engine of `host`, for an agent that is started later.
    pub(super) fn before(host: &Host) -> Result<Self> {
        let (note, noted) = watch::channel(None);
        let shared = Arc::new(Shared { armed: Mutex::new(false), note });
        let listener = listen(&host.tap_socket())?;
        tokio::spawn(accept(listener, host.docker_socket(), Arc::clone(&shared)));
        Ok(Self { shared, noted })
    }

    /// Forgets what was noted; the next request is.
    pub(super) fn arm(&self) {
        self.shared.note.send_replace(None);
        *self.shared.armed.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// When the first request since [`Tap::arm`] passed.
    pub(super) async fn first_call(&self, limit: Duration) -> Result<Instant> {
        let mut noted = self.noted.clone();
        let seen = tokio::time::timeout(limit, noted.wait_for(Option::is_some)).await;
        let seen = seen.context("the agent called no engine")?.context("the tap is gone")?;
        seen.context("nothing was noted")
    }
}

fn listen(path: &Path) -> Result<UnixListener> {
    UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))
}

async fn accept(listener: UnixListener, engine: std::path::PathBuf, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let (engine, shared) = (engine.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            // A connection that breaks is the client's to notice.
            drop(pass(client, &engine, &shared).await);
        });
    }
}

async fn pass(client: UnixStream, engine: &Path, shared: &Shared) -> Result<()> {
    let (mut from_engine, mut to_engine) = UnixStream::connect(engine).await?.into_split();
    let (mut from_client, mut to_client) = client.into_split();
    let requests = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = from_client.read(&mut buffer).await?;
            if length == 0 {
                return to_engine.shutdown().await;
            }
            shared.note();
            to_engine.write_all(&buffer[..length]).await?;
        }
    };
    let answers = async {
        tokio::io::copy(&mut from_engine, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(requests, answers)?;
    Ok(())
}

impl Shared {
    fn note(&self) {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *armed) {
            self.note.send_replace(Some(Instant::now()));
        }
    }
}
