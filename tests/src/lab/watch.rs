//! What becomes of a host's routes, as the kernel tells it: every change, in order, with its time.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};

use super::{Host, process::MARK, wait::wait_until};

/// How long the machine's `ip` may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Listens to one host until it is dropped.
#[derive(Debug)]
pub struct RouteWatch {
    log: PathBuf,
    _listener: Child,
}

/// A change of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// When, in UTC, so written that it can be compared with an engine's times as text.
    pub at: String,
    /// Whether the route is gone; otherwise it is new, or different.
    pub removed: bool,
    /// The route, as `ip route` shows it.
    pub route: String,
}

impl RouteChange {
    /// Whether it is a route of dwell's.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        format!("{} ", self.route).contains(" proto 157 ")
    }

    /// Whether it is a route to `address` alone.
    #[must_use]
    pub fn is_to(&self, address: &str) -> bool {
        self.route.split_ascii_whitespace().next() == Some(address)
    }

    /// Whether it leads to another node, not into a sandbox here.
    #[must_use]
    pub fn is_by_a_node(&self) -> bool {
        self.route.contains(" nhid ")
    }

    fn parse(line: &str) -> Option<Self> {
        let (at, rest) = line.strip_prefix('[')?.split_once("] ")?;
        let removed = rest.strip_prefix("Deleted ");
        let route = removed.unwrap_or(rest).trim().to_owned();
        Some(Self { at: at.to_owned(), removed: removed.is_some(), route })
    }
}

impl Host {
    /// Listens to what becomes of its routes from now on.
    ///
    /// # Errors
    /// If the machine's `ip` does not listen.
    pub async fn watch_routes(&self) -> Result<RouteWatch> {
        let log = self.dir().join("routes.log");
        let netns = format!("--net=/run/netns/{}", self.netns());
        let mut command = Command::new("nsenter");
        command
            .args([&netns, "--", "ip", "-4", "-tshort", "monitor", "route", "nexthop"])
            .env("TZ", "UTC")
            .env(MARK, self.layout().name())
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log)?)
            .kill_on_drop(true);
        let listener = command.spawn().context("cannot start nsenter")?;
        let pid = listener.id().context("it has ended")?.to_string();
        wait_until("ip to listen", START_LIMIT, async || {
            // The third column is who a socket belongs to, the fourth what it listens to.
            let sockets = fs::read_to_string(format!("/proc/{pid}/net/netlink"))?;
            let listens = sockets.lines().any(|line| {
                let words: Vec<_> = line.split_ascii_whitespace().collect();
                words.get(2) == Some(&pid.as_str()) && words.get(3) != Some(&"00000000")
            });
            ensure!(listens, "it does not");
            Ok(())
        })
        .await?;
        Ok(RouteWatch { log, _listener: listener })
    }
}

impl RouteWatch {
    /// What has happened so far to dwell's routes.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn changes(&self) -> Result<Vec<RouteChange>> {
        let text = fs::read_to_string(&self.log)
            .with_context(|| format!("cannot read {}", self.log.display()))?;
        let changes = text.lines().filter_map(RouteChange::parse);
        Ok(changes.filter(RouteChange::is_ours).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ip_says_is_understood() {
        let read = |line| RouteChange::parse(line).unwrap();
        let gone = read(
            "[2026-11-22T18:00:00.123456] Deleted 10.80.1.5 dev dw-0123456789ab proto 157 scope link metric 57 ",
        );
        assert!(gone.removed && gone.is_ours() && gone.is_to("10.80.1.5") && !gone.is_by_a_node());
        assert!(gone.at.as_str() < "2026-11-22T18:00:00.123456789Z");
        let made = read(
            "[2026-11-22T18:00:00.123456] 10.80.1.5 nhid 1612 via 10.99.0.12 dev eth0 proto 157 metric 157",
        );
        assert!(!made.removed && made.is_by_a_node() && !made.is_to("10.80.1.50"));
        assert!(!read("[2026-11-22T18:00:00.1] 10.0.0.0/8 dev eth0 proto 1570").is_ours());
        assert_eq!(RouteChange::parse("Timestamp: Sun Nov 22"), None);
    }
}
