//! Which servers know the names that are not the cluster's.
//!
//! The operator's, or else those of the host's `/etc/resolv.conf`, where a local resolver such as
//! `127.0.0.53` is as good as any, and behind that those of systemd's resolver. Never ourselves.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dwell_network::GATEWAY;

/// How many servers are asked at most.
const SERVERS_MAX: usize = 3;
/// How long what the files said is good for.
const FRESH: Duration = Duration::from_secs(2);
/// A longer file is not read to its end, in bytes.
const FILE_MAX_BYTES: u64 = 64 * 1024;
const PORT: u16 = 53;

/// The servers to ask, in the order in which to ask them.
#[derive(Debug)]
pub(super) struct Upstreams {
    configured: Arc<[SocketAddr]>,
    /// Files of the host, the first with a server counts.
    files: Vec<PathBuf>,
    /// Our own addresses.
    ourselves: Vec<SocketAddr>,
    read: Mutex<Option<(Instant, Arc<[SocketAddr]>)>>,
    /// The one that answered last.
    preferred: AtomicUsize,
}

impl Upstreams {
    pub(super) fn new(
        configured: &[SocketAddr],
        files: Vec<PathBuf>,
        ourselves: Vec<SocketAddr>,
    ) -> Self {
        let configured = configured.iter().take(SERVERS_MAX).copied().collect();
        let (read, preferred) = (Mutex::new(None), AtomicUsize::new(0));
        Self { configured, files, ourselves, read, preferred }
    }

    /// Whether they are the operator's choice, and not the host's resolvers.
    pub(super) fn are_configured(&self) -> bool {
        !self.configured.is_empty()
    }

    /// The servers, the one that answered last first, with their numbers for [`Upstreams::prefer`].
    pub(super) fn in_order(&self) -> impl Iterator<Item = (usize, SocketAddr)> + use<> {
        let servers = self.servers();
        let count = servers.len();
        let first = self.preferred.load(Ordering::Relaxed);
        (0..count).filter_map(move |step| {
            let number = (first + step) % count;
            Some((number, *servers.get(number)?))
        })
    }

    /// Remembers who answered, so that a dead server is not waited for each time.
    pub(super) fn prefer(&self, number: usize) {
        self.preferred.store(number, Ordering::Relaxed);
    }

    fn servers(&self) -> Arc<[SocketAddr]> {
        if !self.configured.is_empty() {
            return Arc::clone(&self.configured);
        }
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((at, servers)) if at.elapsed() < FRESH => Arc::clone(servers),
            _ => {
                let servers = self.read_files();
                *read = Some((Instant::now(), Arc::clone(&servers)));
                servers
            }
        }
    }

    fn read_files(&self) -> Arc<[SocketAddr]> {
        let mut lists = self.files.iter().map(|path| {
            let mut text = String::new();
            // A file that cannot be read names no server.
            drop(
                File::open(path)
                    .and_then(|file| file.take(FILE_MAX_BYTES).read_to_string(&mut text)),
            );
            let others = servers_in(&text).filter(|server| !self.is_ourselves(*server));
            others.take(SERVERS_MAX).collect::<Arc<[_]>>()
        });
        lists.find(|servers| !servers.is_empty()).unwrap_or_default()
    }

    fn is_ourselves(&self, server: SocketAddr) -> bool {
        server.ip() == IpAddr::V4(GATEWAY) || self.ourselves.contains(&server)
    }
}

/// The servers that a `resolv.conf` names.
pub(crate) fn servers_in(text: &str) -> impl Iterator<Item = SocketAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let server = (words.next() == Some("nameserver")).then(|| words.next())??;
        match server.split_once('%') {
            None => Some(SocketAddr::new(server.parse().ok()?, PORT)),
            Some((address, link)) => {
                let link = nix::net::if_::if_nametoindex(link).ok()?;
                Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, link).into())
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstreams(text: &str, ourselves: &[&str]) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let files = vec!["/nonexistent".into(), file.path().to_owned()];
        let ourselves = ourselves.iter().map(|address| address.parse().unwrap()).collect();
        let upstreams = Upstreams::new(&[], files, ourselves);
        upstreams.in_order().map(|(_, server)| server.to_string()).collect()
    }

    #[test]
    fn the_hosts_resolvers_but_never_ourselves() {
        for (text, expected) in [
            ("", &[][..]),
            ("nameserver 192.0.2.9\nsearch x\n", &["192.0.2.9:53"]),
            ("nameserver 127.0.0.53\n", &["127.0.0.53:53"]),
            ("nameserver 127.0.0.1\nnameserver 192.0.2.9\n", &["192.0.2.9:53"]),
            ("nameserver 169.254.1.1\n", &[]),
            ("nameserver ::1\nnameserver nonsense\nnameserver\n", &["[::1]:53"]),
            ("nameserver fe80::1%lo\n", &["[fe80::1%1]:53"]),
            ("#nameserver 1.1.1.1\n", &[]),
            (
                "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n",
                &["10.0.0.1:53", "10.0.0.2:53", "10.0.0.3:53"],
            ),
        ] {
            assert_eq!(upstreams(text, &["127.0.0.1:53"]), expected, "{text:?}");
        }
    }

    #[test]
    fn who_answered_is_asked_first() {
        let configured: Vec<SocketAddr> =
            ["192.0.2.1:53", "192.0.2.2:53"].iter().map(|it| it.parse().unwrap()).collect();
        let upstreams = Upstreams::new(&configured, Vec::new(), Vec::new());
        upstreams.prefer(1);
        let order: Vec<_> = upstreams.in_order().map(|(_, server)| server).collect();
        assert_eq!(order, [configured[1], configured[0]]);
    }
}
