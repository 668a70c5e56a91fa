//! Whether the firewalls of this host let through what instances live by: packets to them and from them, and their questions
//! for names.
//!
//! An accept in one table cannot override a drop in another. So each base chain is looked at by itself: the packets that have to
//! get through it go through its rules (`walk.rs`), and whoever drops them all is told with the commands that help. In iptables'
//! FORWARD the agent sees to that (its jump to `DWELL-IN`); elsewhere it is the operator's matter, in the words of whatever
//! keeps the rules: firewalld and ufw would undo what is done behind their back.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod iptables;
mod nft;
mod walk;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use dwell_core::net::Ranges;
use dwell_core::session::{NodeNetwork, NodePeer};
use dwell_core::workload::Protocol;
use ipnet::Ipv4Net;
use tokio::time::timeout;

use super::reading;
use super::{Finding, Host};
use dwell_network::{GATEWAY, INTERFACE_PREFIX};
use iptables::Tables;
use nft::{Chain, Listing};
use walk::{Ends, Leaves, Packet, State};

const FORWARD: &str = "forward-policy";
const NAMES: &str = "firewall-names";
/// What only a firewall drops that decides by the state of connections.
const UNTRACKED: &str = "what instances say to each other, as it lets through what it knows the connection of, and that \
                         goes without connection tracking; let it through by address, or set `untracked: false` in \
                         agent.yaml and restart dwell-agent";
/// How long the programs of one firewall may take to list its rules; `iptables` waits for a lock that others may hold.
const LIST_LIMIT: Duration = Duration::from_secs(5);
/// How many tables of nftables are looked at.
const TABLES_MAX: usize = 16;
/// Somebody anywhere, as in documents.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The port of DNS, and one of an instance's own.
const DNS: u16 = 53;
const SERVICE: u16 = 47_808;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Whether the agent may be about to open iptables' FORWARD.
    is_settling: bool,
    /// Programs that did not list their rules in time.
    late: Vec<&'static str>,
    iptables: Option<Tables>,
    /// The tables that the other iptables keeps, if it keeps any.
    legacy: Option<Tables>,
    /// Base chains of nftables, other than iptables' own and dwell's, with all of their table.
    chains: Vec<(Chain, Listing)>,
}

/// What has to get through.
#[derive(Clone, Debug)]
struct Ways {
    cluster: Ranges,
    /// Of one instance for each range of which this node has addresses, and so on.
    from_instances: Vec<Packet>,
    to_instances: Vec<Packet>,
    /// Questions for names; none if instances do not ask this node.
    names: Vec<Packet>,
    /// What instances say to each other without being tracked; none if all of it is.
    untracked: Vec<Packet>,
}

/// Who keeps the rules of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    Firewalld,
    Ufw,
    Nobody,
}

/// A base chain, and how what has to get through it ends.
struct Gate<'a> {
    /// Such as `the FORWARD chain of iptables`.
    chain: String,
    keeper: Keeper,
    place: Place<'a>,
    is_input: bool,
    drops_by_policy: bool,
}

/// Where an accept goes if nobody but the operator keeps the rules.
enum Place<'a> {
    Iptables { program: &'a str, chain: &'a str },
    Nft { chain: &'a Chain },
}

/// `uplink` is the interface to the other nodes; empty if it is not known. What the agent sees to is no problem yet while
/// `is_settling`.
pub(super) fn findings(host: &Host, facts: Facts, uplink: &str, is_settling: bool) -> Vec<Finding> {
    let names = host.config.dns.enabled && !host.config.routes_only;
    let untracked = host.config.untracked;
    let ways = host
        .assignment
        .as_ref()
        .map(|assignment| Ways::of(&assignment.network, uplink, names, untracked));
    judge(&Facts { is_settling, ..facts }, ways.as_ref())
}

fn judge(facts: &Facts, ways: Option<&Ways>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let tables = || [&facts.iptables, &facts.legacy].into_iter().flatten();
    findings.extend(tables().filter_map(without_docker));
    if facts.iptables.is_some() && facts.legacy.is_some() {
        findings.push(Finding::warning(
            "iptables-mix",
            "there are rules in both iptables-nft and iptables-legacy, and a packet has to pass both",
            "update-alternatives --set iptables /usr/sbin/iptables-nft",
        ));
    }
    findings.extend(facts.late.iter().map(|program| {
        let seconds = LIST_LIMIT.as_secs();
        let message = format!(
            "`{program}` did not list its rules within {seconds} s: this host is busy, or another program holds its lock; look \
             again"
        );
        Finding::unknown(FORWARD, message)
    }));
    let Some(ways) = ways else {
        // The agent opens its part when it knows the range.
        findings.push(Finding::unknown(
            FORWARD,
            "the cluster's range is not known here yet: firewalls are looked at after this node's first assignment",
        ));
        return findings;
    };
    let closed: Vec<Finding> = tables()
        .flat_map(|tables| {
            // Without a way to its chains there is no telling what is missing in them.
            let forward = without_docker(tables).is_none().then(|| tables.judge("FORWARD", ways));
            let forward = forward.map(|found| found.map(|found| facts.not_yet(found)));
            [tables.judge("INPUT", ways), forward.flatten()]
        })
        .chain(facts.chains.iter().map(|(chain, table)| chain.judge(table, ways)))
        .flatten()
        .collect();
    let is_open =
        |check: &str| facts.late.is_empty() && closed.iter().all(|finding| finding.check != check);
    if is_open(FORWARD) && tables().all(|tables| without_docker(tables).is_none()) {
        let message = format!("no firewall drops what {} sends or is sent", ways.cluster);
        findings.push(Finding::ok(FORWARD, message));
    }
    if !ways.names.is_empty() && is_open(NAMES) {
        let message = format!("no firewall keeps instances from asking {GATEWAY} for names");
        findings.push(Finding::ok(NAMES, message));
    }
    findings.extend(closed);
    findings
}

/// Docker's own rules, half removed.
fn without_docker(tables: &Tables) -> Option<Finding> {
    let is_broken = tables.has_chain("DOCKER-USER") && !tables.has("-A FORWARD -j DOCKER-USER");
    is_broken.then(|| {
        Finding::problem(
            "docker-rules",
            format!(
                "Docker's chains are there in {}, but FORWARD no longer leads to them",
                tables.program
            ),
            "systemctl restart docker",
        )
    })
}

impl Ways {
    fn of(network: &NodeNetwork, uplink: &str, names: bool, untracked: bool) -> Self {
        let cluster = network.cluster.clone();
        let own = one_of_each(&cluster, network.blocks());
        let theirs = one_of_each(&cluster, network.peers.values().flat_map(NodePeer::blocks));
        let peer = network.peers.values().next();
        let veth = format!("{INTERFACE_PREFIX}0");
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let sent = |from: Ipv4Addr| Packet {
            from,
            to: OUTSIDE,
            enters: veth.clone(),
            leaves: Leaves::By(uplink.to_owned()),
            protocol: tcp,
            port: SERVICE,
            state: State::New,
        };
        let received = |to: Ipv4Addr| Packet {
            from: peer.map_or(OUTSIDE, |peer| peer.address),
            to,
            enters: uplink.to_owned(),
            leaves: Leaves::By(veth.clone()),
            protocol: tcp,
            port: SERVICE,
            state: State::New,
        };
        let state = State::Untracked;
        let between = |own: Ipv4Addr, theirs: Ipv4Addr| {
            [
                Packet { to: theirs, state, ..sent(own) },
                Packet { from: theirs, state, ..received(own) },
            ]
        };
        let pairs = own.iter().flat_map(|own| theirs.iter().map(|theirs| (*own, *theirs)));
        // Where all are closed, all that is about a local instance is tracked.
        let untracked = match untracked && !network.closed {
            true => pairs.flat_map(|(own, theirs)| between(own, theirs)).collect(),
            false => Vec::new(),
        };
        let question = |from: Ipv4Addr, protocol| Packet {
            to: GATEWAY,
            leaves: Leaves::Never,
            protocol,
            port: DNS,
            ..sent(from)
        };
        let names = match names {
            true => own.iter().flat_map(|from| [udp, tcp].map(|it| question(*from, it))).collect(),
            false => Vec::new(),
        };
        let from_instances = own.iter().copied().map(sent).collect();
        let to_instances = own.iter().copied().map(received).collect();
        Self { cluster, from_instances, to_instances, names, untracked }
    }
}

/// An address of an instance in each range that one of these blocks is in; one of the first range if none is.
fn one_of_each(cluster: &Ranges, blocks: impl Iterator<Item = Ipv4Net>) -> Vec<Ipv4Addr> {
    let first = |net: Ipv4Net| net.hosts().next().unwrap_or(net.network());
    let mut found = BTreeMap::new();
    for block in blocks {
        if let Some(range) = cluster.range_of(block.network()) {
            found.entry(range).or_insert_with(|| first(block));
        }
    }
    match found.is_empty() {
        true => vec![first(cluster.first())],
        false => found.into_values().collect(),
    }
}

impl Tables {
    fn judge(&self, base: &'static str, ways: &Ways) -> Option<Finding> {
        let keeper = if self.has_chain("ufw-before-input") {
            Keeper::Ufw
        } else if self.has_chain("FORWARD_direct") || self.has_chain("INPUT_ZONES") {
            Keeper::Firewalld
        } else {
            Keeper::Nobody
        };
        // Docker rewrites FORWARD, and leaves this one alone.
        let has_docker = base == "FORWARD" && self.has_chain("DOCKER-USER");
        let chain = if has_docker { "DOCKER-USER" } else { base };
        let gate = Gate {
            chain: format!("the {base} chain of {}", self.program),
            keeper,
            place: Place::Iptables { program: self.program, chain },
            is_input: base == "INPUT",
            drops_by_policy: self.has(&format!("-P {base} DROP")),
        };
        gate.judge(ways, |packet| walk::walk(&self.steps(packet), base))
    }
}

impl Chain {
    fn judge(&self, table: &Listing, ways: &Ways) -> Option<Finding> {
        let Self { family, table: name, name: chain, hook, policy } = self;
        let is_firewalld = name.starts_with("firewalld");
        let gate = Gate {
            chain: format!("the chain {family} {name} {chain} of nftables"),
            keeper: if is_firewalld { Keeper::Firewalld } else { Keeper::Nobody },
            place: Place::Nft { chain: self },
            is_input: hook == "input",
            drops_by_policy: policy == "drop",
        };
        gate.judge(ways, |packet| walk::walk(&table.steps(packet), chain))
    }

    /// Whether what it drops concerns us, and is seen nowhere else.
    fn is_of_interest(&self) -> bool {
        let is_iptables = self.family == "ip"
            && self.table == "filter"
            && matches!(self.name.as_str(), "INPUT" | "FORWARD");
        let is_own = self.family == "inet" && self.table == "dwell";
        let is_ipv4 = matches!(self.family.as_str(), "ip" | "inet");
        matches!(self.hook.as_str(), "forward" | "input") && is_ipv4 && !is_iptables && !is_own
    }
}

impl Gate<'_> {
    fn judge(&self, ways: &Ways, walk: impl Fn(&Packet) -> Ends) -> Option<Finding> {
        let is_closed = |packet: &Packet| {
            let ends = walk(packet);
            !ends.accepted && (!ends.returned || self.drops_by_policy)
        };
        let (check, what) = if self.is_input {
            let what = format!("what instances ask {GATEWAY} for names");
            (NAMES, ways.names.iter().any(is_closed).then_some(what)?)
        } else {
            let is_any_closed = |packets: &[Packet]| packets.iter().any(is_closed);
            let closed = [&ways.from_instances, &ways.to_instances].map(|ways| is_any_closed(ways));
            let what = match closed.into() {
                (true, true) => "what instances send and what is sent to them",
                (true, false) => "what instances send",
                (false, true) => "what is sent to instances",
                (false, false) if ways.untracked.iter().any(is_closed) => UNTRACKED,
                (false, false) => return None,
            };
            (FORWARD, what.to_owned())
        };
        let keeper = match self.keeper {
            Keeper::Firewalld => ", which firewalld keeps,",
            Keeper::Ufw => ", which ufw keeps,",
            Keeper::Nobody => "",
        };
        let how = if self.drops_by_policy { "drops by policy" } else { "drops or rejects" };
        let message = format!("{}{keeper} {how} {what}", self.chain);
        Some(Finding::problem(check, message, self.fix(&ways.cluster)))
    }

    fn fix(&self, cluster: &Ranges) -> String {
        let mut commands: Vec<String> = cluster.iter().flat_map(|it| self.open(it)).collect();
        if self.keeper == Keeper::Firewalld {
            let permanent = "firewall-cmd --permanent";
            commands.extend([
                format!("{permanent} --new-policy=dwell"),
                format!("{permanent} --policy=dwell --add-ingress-zone=ANY"),
                format!("{permanent} --policy=dwell --add-egress-zone=trusted"),
                format!("{permanent} --policy=dwell --set-target=ACCEPT"),
                "firewall-cmd --reload".to_owned(),
            ]);
        }
        commands.join(" && ")
    }

    /// What opens it for one range.
    fn open(&self, cluster: Ipv4Net) -> Vec<String> {
        match (self.keeper, &self.place) {
            // A zone's sources are trusted to send, and by the policy everybody may send to them.
            (Keeper::Firewalld, _) => {
                vec![format!("firewall-cmd --permanent --zone=trusted --add-source={cluster}")]
            }
            (Keeper::Ufw, _) if self.is_input => {
                vec![format!("ufw allow in from {cluster} to {GATEWAY} port {DNS}")]
            }
            (Keeper::Ufw, _) => {
                vec![
                    format!("ufw route allow from {cluster}"),
                    format!("ufw route allow to {cluster}"),
                ]
            }
            (Keeper::Nobody, Place::Iptables { program, chain }) if self.is_input => ["udp", "tcp"]
                .map(|protocol| {
                    format!(
                        "{program} -w -I {chain} -s {cluster} -d {GATEWAY} -p {protocol} --dport {DNS} -j ACCEPT"
                    )
                })
                .to_vec(),
            (Keeper::Nobody, Place::Iptables { program, chain }) => ["-s", "-d"]
                .map(|side| format!("{program} -w -I {chain} {side} {cluster} -j ACCEPT"))
                .to_vec(),
            (Keeper::Nobody, Place::Nft { chain: Chain { family, table, name, .. } }) => {
                let insert = format!("nft insert rule {family} {table} {name}");
                if self.is_input {
                    let question = format!("ip saddr {cluster} ip daddr {GATEWAY}");
                    ["udp", "tcp"]
                        .map(|protocol| format!("{insert} {question} {protocol} dport {DNS} accept"))
                        .to_vec()
                } else {
                    ["saddr", "daddr"]
                        .map(|side| format!("{insert} ip {side} {cluster} accept"))
                        .to_vec()
                }
            }
        }
    }
}

impl Facts {
    /// Whether a firewall did not list its rules in time, so that less is known than could be.
    pub(super) fn is_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// What is wrong in iptables' FORWARD, unless it is too early to say so.
    fn not_yet(&self, found: Finding) -> Finding {
        if !self.is_settling {
            return found;
        }
        Finding::unknown(
            found.check,
            format!("{} yet; the agent, which has just started, sees to it", found.message),
        )
    }

    /// Each firewall by itself, so that one that is slow hides nothing of the other.
    pub(super) async fn collect() -> Self {
        Self::of(tables(), chains()).await
    }

    async fn of(
        tables: impl Future<Output = (Option<Tables>, Option<Tables>)>,
        chains: impl Future<Output = Vec<(Chain, Listing)>>,
    ) -> Self {
        let (tables, chains) =
            tokio::join!(timeout(LIST_LIMIT, tables), timeout(LIST_LIMIT, chains));
        let mut late = Vec::new();
        let (iptables, legacy) = tables.unwrap_or_else(|_| {
            late.push("iptables");
            (None, None)
        });
        let chains = chains.unwrap_or_else(|_| {
            late.push("nft");
            Vec::new()
        });
        Self { is_settling: false, late, iptables, legacy, chains }
    }
}

/// What `iptables` keeps, and what the legacy one keeps beside it.
async fn tables() -> (Option<Tables>, Option<Tables>) {
    let version = reading::run("iptables", &["-V"]);
    let (current, version) = tokio::join!(list("iptables"), version);
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

/// The base chains of nftables that forwarded packets and those to this host go through, with their tables.
async fn chains() -> Vec<(Chain, Listing)> {
    let Ok(all) = reading::ask::<Listing>("nft", &["-j", "list", "chains"]).await else {
        return Vec::new();
    };
    let mut found: Vec<(Chain, Listing)> = Vec::new();
    for chain in all.chains().filter(|chain| chain.is_of_interest()) {
        let is_same = |(seen, _): &&(Chain, Listing)| {
            (&seen.family, &seen.table) == (&chain.family, &chain.table)
        };
        let known = found.iter().find(is_same).map(|(_, table)| table.clone());
        let table = match known {
            Some(table) => table,
            None if found.len() == TABLES_MAX => continue,
            None => {
                // Terse: what is in sets can be much, and is not looked at.
                let words = ["-j", "-t", "list", "table", &chain.family, &chain.table];
                // A table that has gone meanwhile drops nothing.
                reading::ask("nft", &words).await.unwrap_or_default()
            }
        };
        found.push((chain.clone(), table));
    }
    found
}

#[cfg(test)]
mod tests;
