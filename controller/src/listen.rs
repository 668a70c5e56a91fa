//! Who connects, and how: TCP with mutual TLS, and a unix socket for root. Both hand [`Connection`]s over to the
//! servers for their kind ([`Entrances`]); every request carries its connection's [`Peer`].
//!
//! | what | in all | of one source |
//! |---|---|---|
//! | connections that are not through TLS | 1024 | 256 |
//! | handshakes of those that go on, 5 s each | 128 | 32 |
//! | connections without a certificate, for one [`Visit`] each | 64 | 8 |
//! | connections of one node; a new one ends the oldest | | 4 |
//!
//! A [`Source`] is an address, or a network of IPv6. Whoever has its share waits for itself, or is refused, while others
//! get in. A connection ends when its certificate does, so that no stream outlives the right to it.

mod connection;
mod node_connections;
mod places;
mod source;
mod tls;
mod unix;
mod visit;

use std::path::PathBuf;

use tokio::sync::mpsc;

pub use connection::{Connection, Peer};
pub use source::Source;
pub use tls::TlsListener;
pub use unix::UnixListener;
pub use visit::{Unanswered, Visit};

use crate::pki::Identity;

/// Where connections go, by who is at their other end: each kind has a server with settings of its own.
#[derive(Clone, Debug)]
pub struct Entrances {
    /// For people and programs with a certificate, and for the unix socket.
    pub people: mpsc::Sender<Connection>,
    /// For the agents of nodes.
    pub nodes: mpsc::Sender<Connection>,
    /// For those without a certificate.
    pub anonymous: mpsc::Sender<Connection>,
}

impl Entrances {
    /// Hands a connection over; `false` if its server has ended.
    async fn hand_over(&self, connection: Connection) -> bool {
        let entrance = match connection.peer() {
            Peer::Local => &self.people,
            Peer::Anonymous(_) => &self.anonymous,
            Peer::Certified { identity, .. } => match identity.as_ref() {
                Identity::Node { .. } => &self.nodes,
                Identity::Client(_) => &self.people,
            },
        };
        entrance.send(connection).await.is_ok()
    }
}

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
