//! Whether packets get through this host: forwarding, reverse-path filters, and firewalls whose policy is
//! to drop.
//!
//! An accept in one table cannot override a drop in another. So each chain that drops forwarded packets
//! by policy, in whatever table, has to have an accept of its own for the cluster's range. In iptables' chains
//! that is dwell's jump to `DWELL-IN`, which the agent makes; elsewhere it is the operator's matter.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;
use serde::Deserialize;

use super::reading::{self, Printed};
use super::{Finding, Host};

/// What was seen.
#[derive(Clone, Debug, Default)]
struct Facts {
    cluster: Option<Ipv4Net>,
    ip_forward: Option<String>,
    rp_filter_all: Option<String>,
    /// Uplinks and their own value.
    rp_filter: Vec<(String, String)>,
    iptables: Option<Tables>,
    /// The tables that the other iptables keeps, if it keeps any.
    legacy: Option<Tables>,
    /// Of nftables, other than iptables' own, which drop forwarded packets by policy.
    dropping: Vec<Chain>,
}

/// The `filter` table as `iptables -S` prints it.
#[derive(Clone, Debug, Default)]
struct Tables {
    /// The program that knows them.
    program: &'static str,
    lines: Vec<String>,
}

/// A base chain of nftables.
#[derive(Clone, Debug, Default)]
struct Chain {
    /// Family, table and name, such as `inet filter forward`.
    path: String,
    /// As `nft list chain` prints it.
    text: String,
}

pub(super) async fn findings(host: &Host) -> Vec<Finding> {
    let cluster = host.assignment.as_ref().map(|assignment| assignment.network.cluster);
    let address = host.config.underlay_address().await.ok();
    let uplinks = uplinks(address).await;
    let mut facts = Facts { cluster, dropping: dropping_chains().await, ..Facts::default() };
    (facts.iptables, facts.legacy) = iptables().await;
    facts.ip_forward = reading::line("/proc/sys/net/ipv4/ip_forward");
    let rp_filter = |name: &str| reading::line(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"));
    facts.rp_filter_all = rp_filter("all");
    facts.rp_filter = uplinks
        .into_iter()
        .filter_map(|name| Some((rp_filter(&name)?, name)))
        .map(|(v, n)| (n, v))
        .collect();
    judge(&facts)
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![ip_forward(facts.ip_forward.as_deref()), rp_filter(facts)];
    let tables = [&facts.iptables, &facts.legacy].into_iter().flatten();
    findings.extend(tables.map(|tables| tables.judge(facts.cluster)));
    if facts.iptables.is_some() && facts.legacy.is_some() {
        findings.push(Finding::warning(
            "iptables-mix",
            "there are rules in both iptables-nft and iptables-legacy, and a packet has to pass both",
            "update-alternatives --set iptables /usr/sbin/iptables-nft",
        ));
    }
    findings.extend(facts.dropping.iter().map(|chain| chain.judge(facts.cluster)));
    if findings.iter().all(|finding| finding.check != "forward-policy") {
        findings
            .push(Finding::ok("forward-policy", "no firewall drops what is forwarded by policy"));
    }
    findings
}

fn ip_forward(value: Option<&str>) -> Finding {
    const CHECK: &str = "ip-forward";
    match value {
        Some("1") => Finding::ok(CHECK, "net.ipv4.ip_forward is 1"),
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
fn rp_filter(facts: &Facts) -> Finding {
    const CHECK: &str = "rp-filter";
    let all = facts.rp_filter_all.as_deref().unwrap_or("0");
    let strict: Vec<&str> = facts
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

impl Tables {
    fn has(&self, line: &str) -> bool {
        self.lines.iter().any(|seen| seen == line)
    }

    fn judge(&self, cluster: Option<Ipv4Net>) -> Finding {
        const CHECK: &str = "forward-policy";
        let program = self.program;
        let has_docker = self.has("-N DOCKER-USER");
        if has_docker && !self.has("-A FORWARD -j DOCKER-USER") {
            return Finding::problem(
                "docker-rules",
                format!(
                    "Docker's chains are there in {program}, but FORWARD no longer leads to them"
                ),
                "systemctl restart docker",
            );
        }
        let gate = if has_docker { "DOCKER-USER" } else { "FORWARD" };
        let drops = self.has("-P FORWARD DROP");
        let refuses = self.lines.iter().find(|line| {
            let rest = line.strip_prefix("-A FORWARD -j ");
            rest.is_some_and(|rest| rest.starts_with("DROP") || rest.starts_with("REJECT"))
        });
        let what = match (drops, refuses) {
            (false, None) => {
                return Finding::ok(
                    CHECK,
                    format!("the FORWARD chain of {program} accepts by policy"),
                );
            }
            (true, _) => format!("the FORWARD chain of {program} drops by policy"),
            (false, Some(rule)) => format!("the FORWARD chain of {program} ends in `{rule}`"),
        };
        if self.lets_pass(gate, cluster) {
            return Finding::ok(
                CHECK,
                format!("{what}, and lets the cluster's traffic pass before that"),
            );
        }
        let fix = cluster.map(|cluster| {
            ["-s", "-d"]
                .map(|side| format!("{program} -w -I {gate} {side} {cluster} -j ACCEPT"))
                .join(" && ")
        });
        Finding::problem(
            CHECK,
            format!("{what} and does not let the cluster's traffic pass"),
            fix.unwrap_or_else(|| "systemctl restart dwell-agent".to_owned()),
        )
    }

    /// Whether a chain accepts the cluster's traffic before it drops everything.
    fn lets_pass(&self, gate: &str, cluster: Option<Ipv4Net>) -> bool {
        let start = format!("-A {gate} ");
        let mut open = BTreeSet::new();
        for line in self.lines.iter().filter_map(|line| line.strip_prefix(&start)) {
            if line.ends_with("-j DWELL-IN") {
                return self.lines.iter().any(|line| line.starts_with("-A DWELL-OUT "));
            }
            for side in
                cluster.into_iter().flat_map(|net| ["-s", "-d"].map(|s| format!("{s} {net}")))
            {
                if line == format!("{side} -j ACCEPT") {
                    open.insert(side);
                }
            }
            if open.len() == 2 {
                return true;
            }
            if ["-j DROP", "-j REJECT", "-j RETURN"].iter().any(|end| line.starts_with(end)) {
                return false;
            }
        }
        false
    }
}

impl Chain {
    fn judge(&self, cluster: Option<Ipv4Net>) -> Finding {
        const CHECK: &str = "forward-policy";
        let path = &self.path;
        let Some(cluster) = cluster else {
            return Finding::unknown(
                CHECK,
                format!("the chain {path} of nftables drops by policy"),
            );
        };
        let accepts = |side: &str| {
            let start = format!("ip {side} {cluster} ");
            self.text.lines().any(|line| {
                line.trim().strip_prefix(&start).is_some_and(|rest| rest.ends_with("accept"))
            })
        };
        if accepts("saddr") && accepts("daddr") {
            return Finding::ok(
                CHECK,
                format!(
                    "the chain {path} of nftables drops by policy, and accepts {cluster} before that"
                ),
            );
        }
        Finding::problem(
            CHECK,
            format!("the chain {path} of nftables drops by policy and does not accept {cluster}"),
            ["saddr", "daddr"]
                .map(|side| format!("nft insert rule {path} ip {side} {cluster} accept"))
                .join(" && "),
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
}

/// Interfaces with the node's address or a default route.
async fn uplinks(address: Option<std::net::Ipv4Addr>) -> BTreeSet<String> {
    let links = reading::ask::<Vec<Addressed>>("ip", &["-4", "-j", "address", "show"]);
    let routes = reading::ask::<Vec<DefaultRoute>>("ip", &["-4", "-j", "route", "show", "default"]);
    let (links, routes) = tokio::join!(links, routes);
    let has_address =
        |link: &Addressed| link.addr_info.iter().any(|one| Some(one.local) == address);
    let addressed = links.unwrap_or_default().into_iter().filter(has_address);
    let leading = routes.unwrap_or_default().into_iter().map(|route| route.dev);
    let all = addressed.map(|link| link.ifname).chain(leading);
    all.filter(|name| !name.is_empty()).collect()
}

/// What `iptables` keeps, and what the legacy one keeps beside it.
async fn iptables() -> (Option<Tables>, Option<Tables>) {
    let current = list("iptables").await;
    let version = reading::run("iptables", &["-V"]).await;
    let is_nft = version.text().is_some_and(|text| text.contains("nf_tables"));
    // Merely asking would load the legacy tables, so they are asked only if they are loaded.
    let loaded = reading::line("/proc/thread-self/net/ip_tables_names");
    let is_mixed = is_nft && loaded.is_some_and(|names| names.lines().any(|name| name == "filter"));
    (current, if is_mixed { list("iptables-legacy").await } else { None })
}

async fn list(program: &'static str) -> Option<Tables> {
    let listing = reading::run(program, &["-w", "-t", "filter", "-S"]).await;
    Some(Tables { program, lines: listing.text()?.lines().map(str::to_owned).collect() })
}

#[derive(Deserialize)]
struct Ruleset {
    nftables: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    chain: Option<BaseChain>,
}

#[derive(Deserialize)]
struct BaseChain {
    family: String,
    table: String,
    name: String,
    #[serde(default)]
    hook: String,
    #[serde(default)]
    policy: String,
}

/// Chains of nftables that drop forwarded packets by policy. Those of iptables are seen through `iptables`.
async fn dropping_chains() -> Vec<Chain> {
    let Ok(all) = reading::ask::<Ruleset>("nft", &["-j", "list", "chains"]).await else {
        return Vec::new();
    };
    let mut dropping = Vec::new();
    for chain in all.nftables.into_iter().filter_map(|item| item.chain) {
        let is_iptables = (chain.table.as_str(), chain.name.as_str()) == ("filter", "FORWARD")
            && chain.family == "ip";
        let is_ipv4 = matches!(chain.family.as_str(), "ip" | "inet");
        if chain.hook != "forward" || chain.policy != "drop" || is_iptables || !is_ipv4 {
            continue;
        }
        let BaseChain { family, table, name, .. } = &chain;
        let text = match reading::run("nft", &["list", "chain", family, table, name]).await {
            Printed::Text(text) => text,
            Printed::Missing | Printed::Failed(_) => String::new(),
        };
        dropping.push(Chain { path: format!("{family} {table} {name}"), text });
    }
    dropping
}

#[cfg(test)]
mod tests;
