//! Addresses and routes of others within the cluster's range: networks of Docker, of the host, of a VPN.
//!
//! A more specific route wins, whoever made it; what is less specific than a block does no harm.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Deserialize;

use super::{Finding, Host, reading};
use dwell_network::{INTERFACE_PREFIX, ROUTE_PROTOCOL};

const CHECK: &str = "overlap";

/// An interface as `ip -j address` shows it.
#[derive(Clone, Debug, Deserialize)]
struct Link {
    ifname: String,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Clone, Debug, Deserialize)]
struct Address {
    local: Ipv4Addr,
    prefixlen: u8,
}

/// A route as `ip -j route` shows it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Route {
    dst: String,
    gateway: String,
    dev: String,
    protocol: String,
}

pub(super) async fn findings(host: &Host) -> Vec<Finding> {
    let Some(assignment) = &host.assignment else {
        return vec![Finding::unknown(CHECK, "the cluster's range is not known here yet")];
    };
    let links = match reading::ask::<Vec<Link>>("ip", &["-4", "-j", "address", "show"]).await {
        Ok(links) => links,
        Err(why) => return vec![Finding::unknown(CHECK, why)],
    };
    let mut findings = Vec::new();
    for range in assignment.network.cluster.iter() {
        let text = range.to_string();
        let within = ["-N", "-4", "-j", "route", "show", "root", &text];
        match reading::ask::<Vec<Route>>("ip", &within).await {
            Ok(routes) => findings.extend(judge(range, &links, &routes)),
            Err(why) => findings.push(Finding::unknown(CHECK, why)),
        }
    }
    findings
}

fn judge(cluster: Ipv4Net, links: &[Link], routes: &[Route]) -> Vec<Finding> {
    let addresses = links.iter().flat_map(|link| {
        let nets = link
            .addr_info
            .iter()
            .filter_map(|address| Ipv4Net::new(address.local, address.prefixlen).ok());
        nets.filter(|net| overlaps(cluster, *net)).map(|net| taken(cluster, &link.ifname, net))
    });
    let routes = routes.iter().filter(|route| is_foreign(route)).map(|route| {
        let Route { dst, dev, .. } = route;
        let via = match route.gateway.as_str() {
            "" => String::new(),
            gateway => format!(" via {gateway}"),
        };
        let dev = if dev.is_empty() { String::new() } else { format!(" dev {dev}") };
        Finding::problem(
            CHECK,
            format!(
                "the route {dst}{via}{dev} is not dwell's and takes a part of the cluster's range {cluster}"
            ),
            format!("ip route del {dst}{via}{dev}"),
        )
    });
    let mut findings: Vec<_> = addresses.chain(routes).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("nobody else uses addresses of {cluster}")));
    }
    findings
}

fn overlaps(cluster: Ipv4Net, net: Ipv4Net) -> bool {
    cluster.contains(&net.addr()) || net.trunc().contains(&cluster.network())
}

/// Neither ours nor what the kernel makes for an address.
fn is_foreign(route: &Route) -> bool {
    const KERNEL: &str = "2";
    route.protocol != ROUTE_PROTOCOL.to_string()
        && route.protocol != KERNEL
        && !route.dev.starts_with(INTERFACE_PREFIX)
}

fn taken(cluster: Ipv4Net, link: &str, net: Ipv4Net) -> Finding {
    let (whose, fix) = match link.strip_prefix("br-") {
        Some(id) => (format!("the Docker network {id}"), format!("docker network rm {id}")),
        None if link == "docker0" => (
            "Docker's default bridge (set another `bip` in /etc/docker/daemon.json and restart Docker)".to_owned(),
            String::new(),
        ),
        None => (format!("the interface {link}"), format!("ip address del {net} dev {link}")),
    };
    let message = format!("{whose} has {net}, which overlaps the cluster's range {cluster}");
    Finding::problem(CHECK, message, fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, local: [u8; 4], prefixlen: u8) -> Link {
        let addr_info = vec![Address { local: local.into(), prefixlen }];
        Link { ifname: name.to_owned(), addr_info }
    }

    fn route(dst: &str, gateway: &str, dev: &str, protocol: &str) -> Route {
        let [dst, gateway, dev, protocol] = [dst, gateway, dev, protocol].map(str::to_owned);
        Route { dst, gateway, dev, protocol }
    }

    #[test]
    fn who_takes_the_clusters_range_is_named() {
        let cluster = "10.80.0.0/16".parse().unwrap();
        for (links, routes, fix) in [
            (vec![link("eth0", [192, 0, 2, 1], 24)], vec![], None),
            (vec![], vec![route("10.80.2.0/24", "192.0.2.2", "eth0", "157")], None),
            (vec![], vec![route("10.80.1.5", "", "dw-00", "157")], None),
            (vec![link("br-1a2b", [10, 80, 9, 1], 24)], vec![], Some("docker network rm 1a2b")),
            (vec![link("docker0", [10, 80, 0, 1], 16)], vec![], Some("")),
            (
                vec![link("eth1", [10, 1, 0, 1], 8)],
                vec![],
                Some("ip address del 10.1.0.1/8 dev eth1"),
            ),
            (
                vec![],
                vec![route("10.80.3.0/24", "192.0.2.9", "eth0", "3")],
                Some("ip route del 10.80.3.0/24 via 192.0.2.9 dev eth0"),
            ),
            (
                vec![],
                vec![route("10.80.3.0/25", "", "tun0", "4")],
                Some("ip route del 10.80.3.0/25 dev tun0"),
            ),
            // The kernel's own route is told with its address.
            (
                vec![link("eth1", [10, 80, 4, 1], 24)],
                vec![route("10.80.4.0/24", "", "eth1", "2")],
                Some("ip address del 10.80.4.1/24 dev eth1"),
            ),
        ] {
            let found = judge(cluster, &links, &routes);
            assert_eq!(found.len(), 1, "{found:?}");
            let is_problem = found[0].outcome == super::super::Outcome::Problem;
            assert_eq!(is_problem.then_some(found[0].fix.as_str()), fix, "{found:?}");
        }
    }
}
