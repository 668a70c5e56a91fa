//! Who connects, and how: TCP with mutual TLS, and a unix socket for root. Both end in one stream of
//! [`Connection`]s for the one gRPC server; every request carries its connection's [`Peer`].
//!
//! Bounds: so many handshakes at once, each with a time-out; so many connections without a certificate at
//! once, each for a short time (enough to join). A connection ends when its certificate does, so that
//! no stream outlives the right to it.

mod connection;
mod tls;
mod unix;

use std::path::PathBuf;

pub use connection::{Connection, Peer};
pub use tls::TlsListener;
pub use unix::UnixListener;

/// Why nothing can be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The TCP address cannot be had.
    #[error(
        "cannot listen on {address} ({reason}); stop what uses it, or set another listen address"
    )]
    Tcp {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        reason: std::io::Error,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {} ({reason}); correct the directory's permissions, or set socket", path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// Somebody answers on the socket.
    #[error("another controller listens on {}; stop it, or set another socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
}

/// How long to wait when a connection cannot be accepted, for example for lack of file descriptors.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
