//! Names: the node's DNS server.
//!
//! ```text
//!   instances ──▶ 169.254.1.1:53 ──┐                ┌──▶ directory: names of the zone, reverse names
//!                                  ├──▶ answer() ───┤
//!   others ─────▶ dns.listen ──────┘                └──▶ the host's resolvers, for instances
//! ```
//!
//! It answers from what the node holds on disk, so it does without the controller. Nothing is cached and nothing
//! is owned here but sockets: the [directory](crate::directory) and the assignment, which has zone and range, are
//! the session's. [`answer`] is pure; [`serve`] is the shell.
//!
//! Invariants:
//! - what is asked within the zone or the range is never passed on, whether the name exists or not;
//! - who is neither an instance nor this host gets no other names than the cluster's, and this host not from its
//!   own resolvers: a resolver of the host that asks here for everything would go in circles;
//! - a directory that has not arrived is a failure, not a name that does not exist.

pub mod answer;
mod forward;
pub(crate) mod holder;
mod places;
mod serve;
pub(crate) mod upstream;
pub mod zone;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dwell_core::session::Assignment;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::holder::holder_of;
use self::serve::Server;
use self::upstream::Upstreams;
pub use self::zone::Names;
use crate::directory::Directories;
use dwell_network::linux::gateway;
use dwell_network::{GATEWAY, RESOLV_CONF};

/// The port of DNS.
pub const PORT: u16 = 53;

/// The DNS server of a node.
#[derive(Debug)]
pub struct Dns {
    /// Whether there are instances to answer, at [`GATEWAY`].
    pub serves_instances: bool,
    /// Further addresses to answer at.
    pub listen: Vec<SocketAddr>,
    /// Who knows other names; the host's resolvers if empty.
    pub upstream: Vec<SocketAddr>,
    /// What has the zone and the range.
    pub assignment: watch::Receiver<Option<Arc<Assignment>>>,
    /// Who is where.
    pub directories: Directories,
}

impl Dns {
    /// Serves until the task is dropped.
    pub async fn keep(self) {
        let files = RESOLV_CONF.iter().map(Into::into).collect();
        let mut addresses = self.listen;
        let upstreams = Upstreams::new(&self.upstream, files, addresses.clone());
        let server = Arc::new(Server::new(self.assignment, self.directories, upstreams));
        let mut parts = JoinSet::new();
        if self.serves_instances {
            if let Err(error) = gateway::ensure().await {
                tracing::debug!(error = %error, "the gateway address is not there yet");
            }
            parts.spawn(gateway::keep());
            addresses.push(SocketAddr::new(IpAddr::V4(GATEWAY), PORT));
        }
        for address in addresses {
            parts.spawn(Arc::clone(&server).keep(address));
        }
        // None of them ends, but there may be none.
        while parts.join_next().await.is_some() {}
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
