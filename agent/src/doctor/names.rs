//! Who has port 53 where this node's DNS server wants it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Finding, Host, reading};
use dwell_network::GATEWAY;

const CHECK: &str = "port-53";
/// The port of DNS.
const DNS: u16 = 53;
/// The names of processes that are dwell's own.
const OWN: &str = "dwell-agent";
/// How an IPv4 socket that listens, or one of UDP that is bound, is marked in `/proc/net`.
const LISTENING: [&str; 2] = ["0A", "07"];

/// A socket that somebody listens at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listener {
    address: Ipv4Addr,
    port: u16,
    /// Process id and name, if they could be found out.
    holder: Option<(u32, String)>,
    /// The systemd unit of that process.
    unit: Option<String>,
}

pub(super) async fn findings(host: &Host) -> Vec<Finding> {
    if !host.config.dns.enabled || host.config.routes_only {
        return vec![Finding::ok(CHECK, "this node serves no names")];
    }
    let mut wanted = vec![SocketAddr::from((GATEWAY, DNS))];
    wanted.extend(&host.config.dns.listen);
    let ports: Vec<u16> = wanted.iter().map(SocketAddr::port).collect();
    let listeners = reading::blocking(move || listeners(&ports)).await.unwrap_or_default();
    wanted.into_iter().map(|address| judge(address, &listeners)).collect()
}

fn judge(wanted: SocketAddr, listeners: &[Listener]) -> Finding {
    let is_in_the_way = |listener: &&Listener| {
        let same =
            IpAddr::from(listener.address) == wanted.ip() || listener.address.is_unspecified();
        listener.port == wanted.port() && same
    };
    let is_own =
        |listener: &Listener| listener.holder.as_ref().is_some_and(|(_, name)| name == OWN);
    let mut there = listeners.iter().filter(is_in_the_way).peekable();
    if there.peek().is_none() {
        return Finding::ok(CHECK, format!("{wanted} is free"));
    }
    let Some(other) = there.find(|listener| !is_own(listener)) else {
        return Finding::ok(CHECK, format!("dwell-agent listens at {wanted}"));
    };
    let at = SocketAddr::from((other.address, other.port));
    match (&other.holder, &other.unit) {
        (Some((id, name)), unit) => Finding::problem(
            CHECK,
            format!(
                "{name} (process {id}) listens at {at}, where this node's DNS server wants {wanted}; have it listen \
                 at other addresses, or stop it"
            ),
            match unit {
                Some(unit) => format!("systemctl disable --now {unit}"),
                None => format!("kill {id}"),
            },
        ),
        // Who may look at all processes knows; an agent under systemd may not.
        (None, _) => Finding::unknown(
            CHECK,
            format!(
                "somebody listens at {at}; `ss -lnup sport = :{}` says whether it is dwell-agent",
                at.port()
            ),
        ),
    }
}

/// Who listens at these ports.
fn listeners(ports: &[u16]) -> Vec<Listener> {
    let mut sockets = Vec::new();
    for table in ["tcp", "udp"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        sockets.extend(text.lines().skip(1).filter_map(socket));
    }
    sockets.retain(|(_, port, _)| ports.contains(port));
    let inodes: Vec<u64> = sockets.iter().map(|(_, _, inode)| *inode).collect();
    let holders = holders(&inodes);
    let listener = |(address, port, inode)| {
        let holder: Option<(u32, String)> = holders.get(&inode).cloned();
        let unit = holder.as_ref().and_then(|(id, _)| unit(*id));
        Listener { address, port, holder, unit }
    };
    sockets.into_iter().map(listener).collect()
}

/// Address, port and inode of a line such as
/// `0: 3500007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000 101 0 20113 …`.
fn socket(line: &str) -> Option<(Ipv4Addr, u16, u64)> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, port) = words.get(1)?.split_once(':')?;
    // The bytes are in the order in which they lie in memory.
    let address = Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes());
    let port = u16::from_str_radix(port, 16).ok()?;
    let inode = words.get(9)?.parse().ok()?;
    LISTENING.contains(words.get(3)?).then_some((address, port, inode))
}

/// The processes that hold sockets, by inode.
fn holders(inodes: &[u64]) -> BTreeMap<u64, (u32, String)> {
    let mut holders = BTreeMap::new();
    for (id, name) in reading::processes() {
        let open = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        for target in open.filter_map(|entry| fs::read_link(entry.path()).ok()) {
            let inode = target.to_str().and_then(|text| {
                text.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
            });
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                holders.insert(inode, (id, name.clone()));
            }
        }
    }
    holders
}

/// The systemd service that a process is of.
fn unit(id: u32) -> Option<String> {
    let groups = reading::line(format!("/proc/{id}/cgroup"))?;
    let mut parts = groups.lines().flat_map(|line| line.rsplit('/'));
    parts.find(|part| part.ends_with(".service")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    fn listener(address: [u8; 4], name: &str) -> Listener {
        let holder = (!name.is_empty()).then(|| (812, name.to_owned()));
        Listener { address: address.into(), port: DNS, holder, unit: None }
    }

    #[test]
    fn who_has_the_port_is_named() {
        let wanted = SocketAddr::from((GATEWAY, DNS));
        let unit = Some("named.service".to_owned());
        for (listeners, outcome, fix) in [
            (vec![], Outcome::Ok, ""),
            (vec![listener([127, 0, 0, 53], "systemd-resolve")], Outcome::Ok, ""),
            (vec![listener(GATEWAY.octets(), "dwell-agent")], Outcome::Ok, ""),
            (vec![Listener { port: 54, ..listener([0; 4], "dnsmasq") }], Outcome::Ok, ""),
            (vec![listener([0; 4], "dnsmasq")], Outcome::Problem, "kill 812"),
            (
                vec![Listener { unit, ..listener(GATEWAY.octets(), "named") }],
                Outcome::Problem,
                "systemctl disable --now named.service",
            ),
            (vec![listener([0; 4], "")], Outcome::Unknown, ""),
        ] {
            let found = judge(wanted, &listeners);
            assert_eq!((found.outcome, found.fix.as_str()), (outcome, fix), "{listeners:?}");
        }
    }

    #[test]
    fn lines_of_proc_are_understood() {
        let address = if cfg!(target_endian = "little") { "3500007F" } else { "7F000035" };
        let line = |state: &str| {
            format!("  0: {address}:0035 00000000:0000 {state} 0:0 00:0 0 101 0 20113 1 x")
        };
        let expected = (Ipv4Addr::new(127, 0, 0, 53), 53, 20113);
        assert_eq!(socket(&line("0A")), Some(expected));
        assert_eq!(socket(&line("07")), Some(expected));
        assert_eq!(socket(&line("01")), None, "a connection");
        for broken in ["", "0:", "0: x:y z 0A", "0: 3500007F:0035 00000000:0000 0A"] {
            assert_eq!(socket(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_socket_of_our_own_is_found_with_its_process() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let found = listeners(&[port]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].holder.as_ref().map(|(id, _)| *id), Some(std::process::id()));
    }
}
