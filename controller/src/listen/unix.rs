//! The unix socket: for root and the controller's own user, whoever else can reach the file.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::{ACCEPT_PAUSE, Connection, Entrances, ListenError};

/// Listens on a unix socket; its file goes away with it.
#[derive(Debug)]
pub struct UnixListener {
    path: PathBuf,
    listener: tokio::net::UnixListener,
}

impl UnixListener {
    /// Makes the socket, with its directory if need be; one that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let refuse = |reason| ListenError::Unix { path: path.to_owned(), reason };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(refuse)?;
        }
        if StdUnixStream::connect(path).is_ok() {
            return Err(ListenError::InUse { path: path.to_owned() });
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(refuse(error)),
            _ => {}
        }
        let listener = tokio::net::UnixListener::bind(path).map_err(refuse)?;
        // Until this is done, the check of every connection's user holds alone.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(refuse)?;
        Ok(Self { path: path.to_owned(), listener })
    }

    /// Hands connections over until `stop` is cancelled.
    pub async fn run(self, entrances: Entrances, stop: CancellationToken) {
        loop {
            // Cancel-safe: accepting loses no connection when dropped.
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) if is_allowed(&stream) => {
                    if !entrances.hand_over(Connection::local(stream)).await {
                        return;
                    }
                }
                Ok(_) => tracing::warn!("refused a connection on the unix socket: not root"),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the unix socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for UnixListener {
    fn drop(&mut self) {
        // It may be gone already; a stale one is replaced at the next start.
        drop(fs::remove_file(&self.path));
    }
}

fn is_allowed(stream: &UnixStream) -> bool {
    let own = nix::unistd::Uid::effective().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}
