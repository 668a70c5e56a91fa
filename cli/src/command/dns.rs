//! `dwell dns-config`: what a resolver's configuration needs to find the cluster's names.

mod probe;

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use dwell_core::net::Ranges;
use dwell_proto::v1;
use ipnet::Ipv4Net;
use tokio::task::JoinSet;

use super::Fleet;
use super::info::ranges_of;
use crate::failure::Failure;
use crate::lists;
use crate::output::{print, say};

/// How many nodes a resolver is told of unless others are named: one that answers is enough.
const NODES_MAX: usize = 3;
/// How many nodes are asked whether they answer.
const ASKED_MAX: usize = 32;
const PORT: u16 = 53;

/// Print what this machine's resolver needs to find instances by their names
///
/// With it `web-0.dwell` and `web.dwell` resolve on a machine that is no node, and addresses of instances
/// have names. Nodes answer other machines only at the addresses of `dns.listen` in their /etc/dwell/agent.yaml,
/// of which there are none by default. Unless servers are named, ready nodes are asked at port 53 of their
/// addresses, and up to three that answer this machine are taken.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell dns-config | sudo tee /etc/systemd/resolved.conf.d/dwell.conf
  dwell dns-config --server 192.168.1.11 --server 192.168.1.12:5353 dnsmasq
  dwell dns-config unbound")]
pub(crate) struct DnsConfig {
    /// What looks up names on this machine
    #[arg(value_enum, default_value_t = Resolver::SystemdResolved)]
    resolver: Resolver,
    /// A node's DNS server; may be given several times
    #[arg(long = "server", value_name = "ADDRESS[:PORT]")]
    servers: Vec<Server>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Resolver {
    SystemdResolved,
    Dnsmasq,
    Unbound,
}

/// An address, and a port if it is not that of DNS.
#[derive(Clone, Copy, Debug)]
struct Server(SocketAddr);

impl FromStr for Server {
    type Err = std::net::AddrParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let alone = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT));
        alone.or_else(|_| text.parse()).map(Self)
    }
}

impl Server {
    /// As `1.2.3.4#53`: with what stands between address and port, unless it is the usual port.
    fn with(self, separator: char) -> String {
        let (address, port) = (self.0.ip(), self.0.port());
        if port == PORT { address.to_string() } else { format!("{address}{separator}{port}") }
    }
}

impl DnsConfig {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let info = fleet.client.get_info(v1::GetInfoRequest {}).await?.into_inner();
        let cluster = ranges_of(&info)?;
        let servers = if self.servers.is_empty() {
            answering(&mut fleet, &info.zone).await?
        } else {
            for server in &self.servers {
                if !probe::answers(server.0, &info.zone).await {
                    // This machine may not be the one that it is for.
                    say(&format!(
                        "dwell: {} does not answer this machine for zone {}; {LISTEN}",
                        server.0, info.zone
                    ));
                }
            }
            self.servers
        };
        print(&snippet(self.resolver, &info.zone, &cluster, &servers))
    }
}

/// How a node comes to answer.
const LISTEN: &str = "a node answers where `dns: {listen: [ADDRESS:53]}` in its /etc/dwell/agent.yaml says so, after \
     `systemctl restart dwell-agent`";

/// Ready nodes whose DNS server answers this machine.
async fn answering(fleet: &mut Fleet, zone: &str) -> Result<Vec<Server>, Failure> {
    let (all, _) = lists::nodes(&mut fleet.client, "").await?;
    let ready = all.iter().filter(|node| node.state() == v1::NodeState::Ready);
    let ready = ready.filter_map(|node| node.address.parse::<Server>().ok()).take(ASKED_MAX);
    let ready: Vec<Server> = ready.collect();
    if ready.is_empty() {
        return Err(Failure::NotFound("no node is ready; name a DNS server with --server".into()));
    }
    let mut asking = JoinSet::new();
    for (order, server) in ready.iter().copied().enumerate() {
        let zone = zone.to_owned();
        asking.spawn(async move { (probe::answers(server.0, &zone).await, order, server) });
    }
    let mut found: Vec<(usize, Server)> = Vec::new();
    while let Some(asked) = asking.join_next().await {
        if let Ok((true, order, server)) = asked {
            found.push((order, server));
        }
    }
    found.sort_by_key(|(order, _)| *order);
    found.truncate(NODES_MAX);
    if found.is_empty() {
        return Err(Failure::Refused(format!(
            "none of {} ready nodes answers DNS questions of this machine at port {PORT}: {LISTEN}. Or name a server \
             with --server",
            ready.len()
        )));
    }
    Ok(found.into_iter().map(|(_, server)| server).collect())
}

fn snippet(resolver: Resolver, zone: &str, cluster: &Ranges, servers: &[Server]) -> String {
    match resolver {
        Resolver::SystemdResolved => systemd_resolved(zone, cluster, servers),
        Resolver::Dnsmasq => dnsmasq(zone, cluster, servers),
        Resolver::Unbound => unbound(zone, cluster, servers),
    }
}

fn systemd_resolved(zone: &str, cluster: &Ranges, servers: &[Server]) -> String {
    let servers: Vec<String> = servers
        .iter()
        .map(|server| match server.0 {
            SocketAddr::V6(address) if address.port() != PORT => address.to_string(),
            _ => server.with(':'),
        })
        .collect();
    let zones: String = reverse_zones(cluster).map(|zone| format!(" ~{zone}")).collect();
    format!(
        "\
# /etc/systemd/resolved.conf.d/dwell.conf; then: systemctl restart systemd-resolved
# Since systemd 258 better in /etc/systemd/dns-delegate.d/dwell.dns-delegate, with [Delegate] for [Resolve]:
# then these servers are not asked for other names at all, which they refuse.
[Resolve]
DNS={}
Domains=~{zone}{zones}
",
        servers.join(" ")
    )
}

fn dnsmasq(zone: &str, cluster: &Ranges, servers: &[Server]) -> String {
    let servers: String = servers
        .iter()
        .map(|server| server.with('#'))
        .map(|server| {
            let reverse = cluster.iter().map(|range| format!("rev-server={range},{server}\n"));
            format!("server=/{zone}/{server}\n{}", reverse.collect::<String>())
        })
        .collect();
    format!(
        "\
# /etc/dnsmasq.d/dwell.conf; then: systemctl restart dnsmasq
{servers}# Private addresses are right here, also where `stop-dns-rebind` is set.
rebind-domain-ok=/{zone}/
"
    )
}

fn unbound(zone: &str, cluster: &Ranges, servers: &[Server]) -> String {
    let servers: String =
        servers.iter().map(|server| format!("    forward-addr: {}\n", server.with('@'))).collect();
    let zones: Vec<String> =
        std::iter::once(zone.to_owned()).chain(reverse_zones(cluster)).collect();
    let mut text = "\
# /etc/unbound/unbound.conf.d/dwell.conf; then: unbound-checkconf && systemctl reload unbound
server:
    # Nobody signs these zones, and their addresses are private.
"
    .to_owned();
    text += &format!("    private-domain: \"{zone}\"\n");
    for zone in &zones {
        text +=
            &format!("    domain-insecure: \"{zone}\"\n    local-zone: \"{zone}.\" transparent\n");
    }
    for zone in &zones {
        text += &format!("forward-zone:\n    name: \"{zone}\"\n{servers}");
    }
    text
}

/// The zones of the addresses' names. A range that ends within an octet has one for each value of that octet.
fn reverse_zones(cluster: &Ranges) -> impl Iterator<Item = String> + '_ {
    cluster.iter().flat_map(reverse_zones_of)
}

fn reverse_zones_of(cluster: Ipv4Net) -> impl Iterator<Item = String> {
    let octets = cluster.prefix_len().div_ceil(8);
    // No range is longer than its own length rounded up.
    let zones = cluster.trunc().subnets(8 * octets).into_iter().flatten();
    zones.map(move |zone| {
        let known = zone.addr().octets().into_iter().take(octets.into());
        let labels: Vec<String> = known.map(|octet| format!("{octet}.")).collect();
        labels.into_iter().rev().collect::<String>() + "in-addr.arpa"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> [Server; 2] {
        ["192.0.2.11", "192.0.2.12:5353"].map(|server| server.parse().unwrap())
    }

    fn cluster() -> Ranges {
        "10.80.0.0/15".parse().unwrap()
    }

    #[test]
    fn servers_are_addresses() {
        for (text, shown) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:53", Some("192.0.2.1")),
            ("192.0.2.1:54", Some("192.0.2.1#54")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]:54", Some("2001:db8::1#54")),
            ("h1", None),
            ("h1:53", None),
        ] {
            let server = text.parse::<Server>().ok().map(|server| server.with('#'));
            assert_eq!(server.as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn reverse_zones_cover_the_range() {
        let zones = |cluster: &str| reverse_zones(&cluster.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(zones("10.80.0.0/16"), ["80.10.in-addr.arpa"]);
        assert_eq!(zones("10.80.0.0/15"), ["80.10.in-addr.arpa", "81.10.in-addr.arpa"]);
        assert_eq!(zones("10.80.0.0/9").len(), 128);
        assert_eq!(zones("10.80.3.128/25").len(), 128);
        let both = ["80.10.in-addr.arpa", "20.172.in-addr.arpa"];
        assert_eq!(zones("10.80.0.0/16, 172.20.0.0/16"), both);
    }

    #[test]
    fn for_systemd_resolved() {
        insta::assert_snapshot!(snippet(Resolver::SystemdResolved, "dwell", &cluster(), &servers()), @r#"
        # /etc/systemd/resolved.conf.d/dwell.conf; then: systemctl restart systemd-resolved
        # Since systemd 258 better in /etc/systemd/dns-delegate.d/dwell.dns-delegate, with [Delegate] for [Resolve]:
        # then these servers are not asked for other names at all, which they refuse.
        [Resolve]
        DNS=192.0.2.11 192.0.2.12:5353
        Domains=~dwell ~80.10.in-addr.arpa ~81.10.in-addr.arpa
        "#);
    }

    #[test]
    fn for_dnsmasq() {
        insta::assert_snapshot!(snippet(Resolver::Dnsmasq, "dwell", &cluster(), &servers()), @r#"
        # /etc/dnsmasq.d/dwell.conf; then: systemctl restart dnsmasq
        server=/dwell/192.0.2.11
        rev-server=10.80.0.0/15,192.0.2.11
        server=/dwell/192.0.2.12#5353
        rev-server=10.80.0.0/15,192.0.2.12#5353
        # Private addresses are right here, also where `stop-dns-rebind` is set.
        rebind-domain-ok=/dwell/
        "#);
    }

    #[test]
    fn for_unbound() {
        insta::assert_snapshot!(snippet(Resolver::Unbound, "dwell", &cluster(), &servers()), @r#"
        # /etc/unbound/unbound.conf.d/dwell.conf; then: unbound-checkconf && systemctl reload unbound
        server:
            # Nobody signs these zones, and their addresses are private.
            private-domain: "dwell"
            domain-insecure: "dwell"
            local-zone: "dwell." transparent
            domain-insecure: "80.10.in-addr.arpa"
            local-zone: "80.10.in-addr.arpa." transparent
            domain-insecure: "81.10.in-addr.arpa"
            local-zone: "81.10.in-addr.arpa." transparent
        forward-zone:
            name: "dwell"
            forward-addr: 192.0.2.11
            forward-addr: 192.0.2.12@5353
        forward-zone:
            name: "80.10.in-addr.arpa"
            forward-addr: 192.0.2.11
            forward-addr: 192.0.2.12@5353
        forward-zone:
            name: "81.10.in-addr.arpa"
            forward-addr: 192.0.2.11
            forward-addr: 192.0.2.12@5353
        "#);
    }
}
