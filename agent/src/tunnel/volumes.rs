//! The data of a volume on its way to another node.
//!
//! ```text
//!   volume ─▶ Sender ── VolumePart ─▶ controller ── VolumePart ─▶ Receiver ─▶ copy ── adopt ─▶ volume
//!                    ◀── what is held ──────────────────────────
//! ```
//!
//! Each side reads and writes files on a thread of its own, which ends with its tunnel: what hangs there hangs alone. Between the
//! thread and the tunnel a few messages may wait, so that each side is read only as fast as the other takes it.
//!
//! Invariants:
//! - no path leads out of the volume: each is opened beneath its root and through no symbolic link;
//! - a node has one thread at work on a copy: the next one waits until the last has ended; copies of other volumes do not wait;
//! - what the receiver says is done is on its disk, and the last pass is only done if the copy is the same as the volume.

mod attributes;
mod digest;
mod here;
mod receive;
mod send;
#[cfg(test)]
mod tests;
mod tree;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dwell_daemon::Lane;
use dwell_engine::{CopyPlace, SharedEngine, VolumeCopy, VolumeTurns};
use dwell_proto::v1;
use dwell_proto::v1::tunnel_up::Message;
use dwell_proto::v1::volume_order::What;
use dwell_proto::v1::volume_part::Part;
use tokio::sync::{OwnedMutexGuard, mpsc};

use self::digest::Digests;
use super::{Ends, TunnelError, send as say};

/// How many messages may wait between the tunnel and the thread.
const WAITING_MAX: usize = 4;
/// The size of the pieces in which files are read and compared, in bytes.
const PIECE: usize = 64 * 1024;
/// How many files a volume that moves may have: both sides keep the list of them in memory.
const FILES_MAX: usize = 500_000;
/// How many files are told in one message.
const HELD_PAGE: usize = 100;

/// What there is to copy of a directory, in bytes, as its files take it on the disk.
pub(super) fn size_of(root: &Path) -> Result<u64, CopyError> {
    Ok(tree::walk(&tree::open_root(root)?)?.bytes)
}

/// Why a volume could not be copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// Reading or writing failed.
    #[error("{path:?}: {error}")]
    Io {
        /// Relative to the volume.
        path: String,
        /// How.
        #[source]
        error: io::Error,
    },
    /// It cannot be copied, however often it is tried.
    #[error("{0}")]
    Refused(String),
    /// There is not enough room where it goes.
    #[error("its disk has {free} MiB of room, and {need} MiB are needed")]
    NoRoom {
        /// In MiB.
        need: u64,
        /// In MiB.
        free: u64,
    },
    /// The other end has gone.
    #[error("the other end has gone away")]
    Gone,
}

impl CopyError {
    /// Whether trying again is pointless.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::NoRoom { .. })
    }

    fn at(path: &[u8]) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = String::from_utf8_lossy(path).into_owned();
        move |error| Self::Io { path, error }
    }
}

/// What both sides of a copy share on a node.
#[derive(Clone, Default)]
pub(crate) struct Copies {
    digests: Arc<Digests>,
    turns: VolumeTurns,
}

impl Copies {
    /// Does what is ordered.
    pub(super) async fn carry(
        &self,
        engine: &SharedEngine,
        order: v1::VolumeOrder,
        ends: &mut Ends,
    ) -> Result<(), TunnelError> {
        let bad = |error| TunnelError::BadRequest(format!("{error}"));
        let copy = VolumeCopy {
            instance: order.instance.parse().map_err(bad)?,
            name: order.volume.parse().map_err(bad)?,
            image_path: Some(order.image_path).filter(|path| !path.is_empty()),
            of_move: order.copy,
        };
        let (is_final, digests) = (order.is_final, Arc::clone(&self.digests));
        match order.what {
            Some(What::Send(_)) => {
                let root = engine.volume_data(&copy.instance, &copy.name).await?;
                let work = move |root: PathBuf, inbox, outbox| {
                    send::send(&root, &digests, is_final, inbox, &outbox)
                };
                run(root, None, work, ends).await
            }
            Some(What::Receive(_)) => {
                // Cancel-safe: both branches end the tunnel, or the first one is done.
                let turn = tokio::select! {
                    turn = self.turns.take(&copy.instance, &copy.name) => turn,
                    _ = ends.down.message() => return Err(TunnelError::Gone),
                };
                let CopyPlace::Open(root) = engine.begin_copy(&copy).await? else {
                    return tell(ends, Part::Adopted(true)).await;
                };
                let work = move |root: PathBuf, inbox, outbox| {
                    receive::receive(&root, &digests, is_final, inbox, &outbox)
                };
                run(root, Some(turn), work, ends).await
            }
            Some(What::Adopt(_)) => {
                let turn = self.turns.take(&copy.instance, &copy.name).await;
                let engine = SharedEngine::clone(engine);
                // A task of its own: who asked may go away, but it is not left half done.
                let adopting = tokio::spawn(async move {
                    let _turn = turn;
                    engine.adopt_copy(&copy).await
                });
                let adopted = adopting.await.map_err(|error| failed(io::Error::other(error)))?;
                adopted?;
                tell(ends, Part::Adopted(true)).await
            }
            None => Err(TunnelError::BadRequest(
                "this agent knows nothing of what is asked of its volumes; upgrade it".to_owned(),
            )),
        }
    }
}

async fn tell(ends: &Ends, part: Part) -> Result<(), TunnelError> {
    say(&ends.up, Message::Volume(v1::VolumePart { part: Some(part) })).await
}

/// Has the work done on a thread, and passes on what comes and goes. `turn` is kept until the thread has ended, also if the
/// tunnel ends before.
async fn run(
    root: PathBuf,
    turn: Option<OwnedMutexGuard<()>>,
    work: impl FnOnce(PathBuf, mpsc::Receiver<Part>, mpsc::Sender<Part>) -> Result<(), CopyError>
    + Send
    + 'static,
    ends: &mut Ends,
) -> Result<(), TunnelError> {
    let (inbound, inbox) = mpsc::channel(WAITING_MAX);
    let (outbox, mut outbound) = mpsc::channel(WAITING_MAX);
    let job = move || {
        let _turn = turn;
        Ok(work(root, inbox, outbox))
    };
    // A task of its own, so that the thread begins before anybody waits for its end.
    let working = tokio::spawn(async move { Lane::new("volume").run(job).await });
    let mut inbound = Some(inbound);
    let mut room = None;
    loop {
        // Cancel-safe: receiving loses nothing when dropped; room in the inbox is had before a message is read for it.
        tokio::select! {
            biased;
            part = outbound.recv() => match part {
                Some(part) => tell(ends, part).await?,
                // The thread is done with its end, and says what came of it.
                None => break,
            },
            permit = reserve(inbound.as_ref()), if room.is_none() && inbound.is_some() => match permit {
                Some(permit) => room = Some(permit),
                None => inbound = None,
            },
            message = ends.down.message(), if room.is_some() || inbound.is_none() => {
                let Ok(Some(message)) = message else { return Err(TunnelError::Gone) };
                if let (Some(room), Some(part)) =
                    (room.take(), message.volume.and_then(|message| message.part))
                {
                    let _sender: mpsc::Sender<Part> = room.send(part);
                }
            },
        }
    }
    let done = working.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(failed)?.map_err(TunnelError::Copy)
}

fn failed(error: io::Error) -> TunnelError {
    TunnelError::Copy(CopyError::at(b"")(error))
}

async fn reserve(inbound: Option<&mpsc::Sender<Part>>) -> Option<mpsc::OwnedPermit<Part>> {
    inbound?.clone().reserve_owned().await.ok()
}
