//! Whether this host forwards packets, and whether its reverse-path filters let them in.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use super::{Finding, GROUP_LIMIT, Host, Outcome, firewall, ipv6, reading};

/// What was seen.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// Whether the agent has yet to see to it.
    is_settling: bool,
    ip_forward: Option<String>,
    rp_filter_all: Option<String>,
    /// Uplinks and their own value.
    rp_filter: Vec<(String, String)>,
}

/// How long something may be wrong while a firewall is read again, or until the agent has repaired its part.
const MOMENT: Duration = Duration::from_secs(2);

/// How long a new agent may take until it has prepared the host; a busy one takes many seconds.
const SETTLED: Duration = Duration::from_secs(120);

/// What is said of forwarding, and of the firewalls on the way.
pub(super) async fn findings(host: &Host) -> Vec<Finding> {
    let start = Instant::now();
    let first = look(host).await;
    if first.findings.iter().all(|finding| finding.outcome != Outcome::Problem) {
        return first.findings;
    }
    let again = async {
        sleep(MOMENT).await;
        look(host).await
    };
    // A host that is too slow for a second look is judged by the first one.
    let left = GROUP_LIMIT.saturating_sub(start.elapsed() + MOMENT / 4);
    settled(first, timeout(left, Box::pin(again)).await.ok())
}

/// What was found at a time.
struct Look {
    findings: Vec<Finding>,
    /// Whether a firewall did not answer in time.
    is_late: bool,
}

/// A second look counts only if it has seen everything: what it has not seen is no better than it was.
fn settled(first: Look, again: Option<Look>) -> Vec<Finding> {
    again.filter(|again| !again.is_late).unwrap_or(first).findings
}

async fn look(host: &Host) -> Look {
    let address = host.config.underlay_address().await.ok();
    let is_agent = host.is_agent;
    let is_settling = reading::blocking(move || agent_has_just_started(is_agent));
    // Side by side: each of them starts programs, which takes a busy host its time.
    let (uplinks, is_settling, firewalls) =
        tokio::join!(uplinks(address), is_settling, firewall::Facts::collect());
    let is_settling = is_settling.unwrap_or_default();
    let rp_filter = |name: &str| reading::line(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"));
    let facts = Facts {
        is_settling: host.assignment.is_none() || is_settling || is_engine_away(host).await,
        ip_forward: reading::line("/proc/sys/net/ipv4/ip_forward"),
        rp_filter_all: rp_filter("all"),
        rp_filter: uplinks
            .iter()
            .filter_map(|name| Some((name.clone(), rp_filter(name)?)))
            .collect(),
    };
    let mut findings = vec![facts.ip_forward(), facts.rp_filter()];
    let range = host.assignment.as_ref().and_then(|assignment| assignment.network.ipv6);
    let second_address = ipv6::finding(range, &uplinks, facts.is_settling);
    findings.extend(second_address);
    let uplink = uplinks.first().map(String::as_str).unwrap_or_default();
    let is_late = firewalls.is_late();
    findings.extend(firewall::findings(host, firewalls, uplink, is_settling));
    Look { findings, is_late }
}

/// Whether the agent waits for the engine before it has the host forward. A daemon that hangs is another finding.
async fn is_engine_away(host: &Host) -> bool {
    match &host.engine {
        Some(engine) => !timeout(MOMENT, engine.ping()).await.is_ok_and(|answer| answer.is_ok()),
        None => false,
    }
}

/// Whether the agent of this host, which this process may be, is about to prepare it.
fn agent_has_just_started(is_agent: bool) -> bool {
    let own = std::process::id();
    let network = |id: u32| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
    let here = network(own);
    let is_it = |(id, name): &(u32, String)| {
        // A command that looks has the agent's name, too; an agent of another network prepares another host.
        name == "dwell-agent" && (is_agent || *id != own) && network(*id) == here
    };
    let agents = reading::processes().into_iter().filter(is_it);
    agents.filter_map(|(id, _)| reading::age(id)).any(|age| age < SETTLED)
}

impl Facts {
    fn ip_forward(&self) -> Finding {
        const CHECK: &str = "ip-forward";
        match self.ip_forward.as_deref() {
            Some("1") => Finding::ok(CHECK, "net.ipv4.ip_forward is 1"),
            Some(value) if self.is_settling => Finding::unknown(
                CHECK,
                format!(
                    "net.ipv4.ip_forward is {value} yet; the agent sets it once it has an assignment and Docker has answered"
                ),
            ),
            Some(value) => Finding::problem(
                CHECK,
                format!(
                    "net.ipv4.ip_forward is {value}: this host forwards nothing to or from its instances"
                ),
                "sysctl -w net.ipv4.ip_forward=1",
            ),
            None => Finding::unknown(CHECK, "net.ipv4.ip_forward cannot be read"),
        }
    }

    /// The higher of `all` and the interface's own counts: 1 is strict, 2 is loose, 0 is off.
    fn rp_filter(&self) -> Finding {
        const CHECK: &str = "rp-filter";
        let all = self.rp_filter_all.as_deref().unwrap_or("0");
        let strict: Vec<&str> = self
            .rp_filter
            .iter()
            .filter(|(_, own)| all.max(own) == "1")
            .map(|(name, _)| name.as_str())
            .collect();
        if strict.is_empty() {
            return Finding::ok(CHECK, "no uplink filters strictly by reverse path");
        }
        let fixes: Vec<String> =
            strict.iter().map(|name| format!("net.ipv4.conf.{name}.rp_filter=2")).collect();
        Finding::problem(
            CHECK,
            format!(
                "rp_filter of {} is 1 (strict): packets of nodes that come in by another uplink than answers leave by \
             are dropped",
                strict.join(", ")
            ),
            format!("sysctl -w {}", fixes.join(" ")),
        )
    }
}

#[derive(Deserialize)]
struct Addressed {
    ifname: String,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    local: std::net::Ipv4Addr,
}

#[derive(Deserialize)]
struct DefaultRoute {
    #[serde(default)]
    dev: String,
    /// Of a route with several.
    #[serde(default)]
    nexthops: Vec<NextHop>,
    /// The nexthop object that it leads by. With `nexthop_compat_mode` 0, as on every node, the route says nothing else of its way.
    nhid: Option<u32>,
}

#[derive(Deserialize)]
struct NextHop {
    #[serde(default)]
    dev: String,
}

/// A nexthop object: one that has an interface, or a group of such.
#[derive(Deserialize)]
struct Object {
    id: u32,
    #[serde(default)]
    dev: String,
    #[serde(default)]
    group: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    id: u32,
}

/// Interfaces with the node's address or a default route.
async fn uplinks(address: Option<std::net::Ipv4Addr>) -> BTreeSet<String> {
    let links = reading::ask::<Vec<Addressed>>("ip", &["-4", "-j", "address", "show"]);
    let routes = reading::ask::<Vec<DefaultRoute>>("ip", &["-4", "-j", "route", "show", "default"]);
    let (links, routes) = tokio::join!(links, routes);
    let routes = routes.unwrap_or_default();
    let objects = if routes.iter().any(|route| route.nhid.is_some()) {
        reading::ask::<Vec<Object>>("ip", &["-j", "nexthop", "show"]).await.unwrap_or_default()
    } else {
        Vec::new()
    };
    let has_address =
        |link: &Addressed| link.addr_info.iter().any(|one| Some(one.local) == address);
    let addressed = links.unwrap_or_default().into_iter().filter(has_address);
    let all = addressed.map(|link| link.ifname).chain(leading(routes, &objects));
    // On `lo` is the address of a node that has several.
    all.filter(|name| !name.is_empty() && name != "lo").collect()
}

/// The interfaces of default routes, also of those that lead by nexthop objects. A name may be empty.
fn leading(routes: Vec<DefaultRoute>, objects: &[Object]) -> Vec<String> {
    let find = |id: u32| objects.iter().find(move |object| object.id == id);
    let mut names = Vec::new();
    for route in routes {
        if let Some(object) = route.nhid.and_then(find) {
            // The kernel has no groups of groups.
            let members = object.group.iter().filter_map(|member| find(member.id));
            names.extend(members.chain([object]).map(|object| object.dev.clone()));
        }
        names.extend(route.nexthops.into_iter().map(|hop| hop.dev));
        names.push(route.dev);
    }
    names
}

#[cfg(test)]
mod tests;
