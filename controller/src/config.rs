//! The controller's configuration: one strict YAML file, every key optional.
//!
//! This page is where every default is documented; `dwell-controller --check` says what is wrong with
//! a file without starting anything.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use dwell_core::net::{ClusterRange, Ipv6Range};
use dwell_core::quantity::Millis;
use dwell_daemon::config::ConfigError;
use ipnet::Ipv4Net;
use serde::Deserialize;

use crate::model::INSTANCES_MAX;

/// Where the file is looked for when none is named.
pub const DEFAULT_PATH: &str = "/etc/dwell/controller.yaml";

/// The longest path a unix socket can have, in bytes.
const SOCKET_PATH_MAX: usize = 107;

/// Everything an operator can choose.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of the store, the CA and the lock. Default `/var/lib/dwell/controller`.
    pub data_dir: PathBuf,
    /// Where agents and clients connect, with mutual TLS. Default `0.0.0.0:7400`.
    pub listen: SocketAddr,
    /// Where agents and clients reach this controller, `HOST:PORT` each, the preferred one first; they
    /// are named in its certificate. Default: `listen`, or if that is every address, the one
    /// that this host's default route leaves from.
    pub advertise: Vec<String>,
    /// The unix socket for root. Default `/run/dwell/controller.sock`.
    pub socket: PathBuf,
    /// The ranges of the instances' addresses, `{cidr: 10.80.0.0/16, node_prefix: 24, more: []}`. Blocks are given out of `cidr`
    /// first, and then of those in `more`. Ranges may be added and widened, and left out again once nobody has an address
    /// of them; `node_prefix` is fixed by the first start. A change reaches the nodes when the controller is started again.
    /// Default as shown.
    pub cluster: ClusterRange,
    /// A prefix of /64 or shorter, such as `fd00:5::/64`, in which instances have an IPv6 address beside their IPv4 address,
    /// whose 32 bits it ends in. It is dwell's alone. A change reaches the nodes when the controller is started again.
    /// Default none.
    pub ipv6_prefix: Option<Ipv6Range>,
    /// The DNS zone of the instances' names. Default `dwell`.
    pub zone: String,
    /// Whether instances whose workload has no `allow_from` can be reached by everybody (`open`) or by nobody
    /// (`closed`). A change reaches the nodes when the controller is started again. Default `open`.
    pub isolation: Isolation,
    /// How nodes are watched.
    pub nodes: NodeTimes,
    /// Addresses within one of the ranges of `cluster`, such as `10.80.255.0/24`, that only instances get that ask for them
    /// (`network.ip`): no node gets a block in it, so that what is declared never meets what was given out. Default none.
    pub static_range: Option<Ipv4Net>,
    /// How many instances all workloads together may declare. Default 1000000.
    pub instances_max: u32,
    /// How long the address of a removed instance is not given to another. Default `10m`.
    pub quarantine: Millis,
}

/// Who reaches an instance whose workload does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Everybody.
    #[default]
    Open,
    /// Nobody.
    Closed,
}

/// How nodes are watched.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeTimes {
    /// How often an agent is asked to report. Default `2s`.
    pub heartbeat: Millis,
    /// After this silence nothing new is placed on a node. Default `10s`.
    pub unreachable_after: Millis,
    /// After this silence a node counts as gone. Default `60s`.
    pub down_after: Millis,
    /// How long a node's certificate is valid; agents renew after two thirds of it, or when they come back after
    /// an absence. Default `168h`.
    pub certificate: Millis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/dwell/controller".into(),
            listen: SocketAddr::from(([0, 0, 0, 0], 7400)),
            advertise: Vec::new(),
            socket: "/run/dwell/controller.sock".into(),
            cluster: default_cluster(),
            ipv6_prefix: None,
            zone: "dwell".into(),
            isolation: Isolation::Open,
            nodes: NodeTimes::default(),
            static_range: None,
            instances_max: INSTANCES_MAX,
            quarantine: Millis::seconds(600),
        }
    }
}

impl Default for NodeTimes {
    fn default() -> Self {
        Self {
            heartbeat: Millis::seconds(2),
            unreachable_after: Millis::seconds(10),
            down_after: Millis::seconds(60),
            certificate: Millis::seconds(7 * 24 * 3600),
        }
    }
}

#[expect(clippy::expect_used, reason = "a constant, which a test reads")]
fn default_cluster() -> ClusterRange {
    let cidr = Ipv4Net::new_assert([10, 80, 0, 0].into(), 16);
    ClusterRange::new(cidr, 24).expect("the default range is a range")
}

impl Config {
    /// Reads and checks a file; without one named, [`DEFAULT_PATH`] if it is there, else the defaults.
    ///
    /// # Errors
    /// [`ConfigError`] if the file cannot be read or is not valid.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let config: Self = dwell_daemon::config::load(path, Path::new(DEFAULT_PATH))?;
        config.check()?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, problem: String| Err(ConfigError::Value { key, problem });
        if self.socket.as_os_str().len() > SOCKET_PATH_MAX {
            return refuse(
                "socket",
                format!("a path of more than {SOCKET_PATH_MAX} bytes; use a shorter one"),
            );
        }
        for address in &self.advertise {
            if split_address(address).is_none() {
                return refuse("advertise", format!("{address:?} is not HOST:PORT"));
            }
        }
        let labels = self.zone.split('.').all(|label| dwell_core::id::NodeName::new(label).is_ok());
        if !labels || self.zone.len() > 200 {
            return refuse(
                "zone",
                format!("{:?} is not a DNS name such as dwell or fleet.internal", self.zone),
            );
        }
        let ranges = self.cluster.ranges();
        if let Some(range) = self.static_range
            && (!ranges.iter().any(|all| all.contains(&range) && all != range)
                || range != range.trunc())
        {
            return refuse(
                "static_range",
                format!(
                    "{range} is not a part of the cluster's range {ranges}; write one such as {}",
                    last_of(&self.cluster)
                ),
            );
        }
        let nodes = &self.nodes;
        if nodes.heartbeat.0 < 100 {
            return refuse(
                "nodes.heartbeat",
                format!("{} is too often; use at least 100ms", nodes.heartbeat),
            );
        }
        if nodes.unreachable_after.0 < 2 * nodes.heartbeat.0 {
            return refuse(
                "nodes.unreachable_after",
                format!(
                    "{} is less than two heartbeats of {}",
                    nodes.unreachable_after, nodes.heartbeat
                ),
            );
        }
        if nodes.down_after < nodes.unreachable_after {
            return refuse("nodes.down_after", "is less than nodes.unreachable_after".into());
        }
        if nodes.certificate < Millis::seconds(60) {
            return refuse(
                "nodes.certificate",
                format!("{} is too short; use at least 60s", nodes.certificate),
            );
        }
        Ok(())
    }

    /// Where agents and clients reach this controller, never empty. `bound` is where it listens.
    #[must_use]
    pub fn advertised(&self, bound: SocketAddr) -> Vec<String> {
        if !self.advertise.is_empty() {
            return self.advertise.clone();
        }
        let ip = if bound.ip().is_unspecified() { outgoing_address() } else { bound.ip() };
        vec![SocketAddr::new(ip, bound.port()).to_string()]
    }
}

/// The last block of a range, as an example.
fn last_of(range: &ClusterRange) -> Ipv4Net {
    let first = range.ranges().first();
    range.block_of(first.broadcast()).unwrap_or(first)
}

/// The host of an advertised address, without the brackets of IPv6.
#[must_use]
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let fits =
        !host.is_empty() && host.len() < 254 && host.is_ascii() && !host.contains(['/', ' ']);
    Some((host, port.parse().ok()?)).filter(|_| fits)
}

/// The address that the default route leaves from. Connecting a datagram socket sends nothing.
fn outgoing_address() -> IpAddr {
    let local = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect(("192.0.2.1", 9))?;
        Ok(socket.local_addr()?.ip())
    };
    local().unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let config: Config = dwell_daemon::config::parse(text)?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn an_empty_file_is_all_defaults() {
        assert_eq!(parse(""), Ok(Config::default()));
        assert_eq!(parse("# nothing\n\n"), Ok(Config::default()));
    }

    #[test]
    fn a_full_file_is_read() {
        let config = parse(
            "data_dir: /d\nlisten: 127.0.0.1:1\nadvertise: ['c:1', '[fd00::1]:2']\nsocket: /s\n\
             cluster: {cidr: 10.9.0.0/20, node_prefix: 26}\nipv6_prefix: fd00:5::/64\nzone: fleet.internal\nisolation: closed\n\
             nodes: {heartbeat: 1s, unreachable_after: 3s, down_after: 9s, certificate: 1h}\n\
             quarantine: 1m",
        )
        .unwrap();
        assert_eq!(config.isolation, Isolation::Closed);
        assert_eq!(config.cluster.node_prefix(), 26);
        assert_eq!(config.ipv6_prefix, "fd00:5::/64".parse().ok());
        assert_eq!(config.nodes.certificate, Millis::seconds(3600));
        assert_eq!(config.advertised(config.listen), ["c:1", "[fd00::1]:2"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (text, word) in [
            ("nonsense: 1", "nonsense"),
            ("nodes: {heartbeats: 1s}", "heartbeats"),
            ("listen: here", "listen"),
            ("cluster: {cidr: 0.0.0.0/0}", "0.0.0.0/0"),
            ("nodes: {heartbeat: 1ms}", "nodes.heartbeat"),
            ("nodes: {heartbeat: 9s}", "nodes.unreachable_after"),
            ("nodes: {down_after: 1s}", "nodes.down_after"),
            ("nodes: {certificate: 1s}", "nodes.certificate"),
            ("static_range: 10.81.0.0/24", "such as 10.80.255.0/24"),
            ("static_range: 10.80.1.9/24", "static_range"),
            ("static_range: 10.80.0.0/16", "static_range"),
            ("zone: 'a b'", "zone"),
            ("ipv6_prefix: fd00:5::/80", "fd00:5::/80"),
            ("ipv6_prefix: 10.80.0.0/16", "ipv6_prefix"),
            ("isolation: shut", "shut"),
            ("advertise: [nowhere]", "advertise"),
            ("quarantine: -1s", "quarantine"),
            ("data_dir: [", ""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn an_unspecified_address_is_not_advertised() {
        let advertised = Config::default().advertised("0.0.0.0:7400".parse().unwrap());
        assert!(!advertised.is_empty());
        assert!(!advertised[0].starts_with("0.0.0.0"), "{advertised:?}");
    }
}
