//! Our table as the `nft` program reads it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dwell_core::workload::Protocol;
use ipnet::Ipv4Net;

use super::tunnel::Rules;
use super::{
    CONFINEMENT, HOST, INBOUND, ISOLATION, NODES, Peers, SENT, SOURCES, Source, TABLE, TUNNELLED,
};
use crate::linux::isolation::{self, Set};
use crate::{GATEWAY, HostNetwork, INTERFACE_PREFIX, PortRange};

/// Addresses of one link, where clouds have their metadata: whoever asks there gets what the host is trusted with.
const LINK_LOCAL: &str = "169.254.0.0/16";

/// Removes the table. `delete` fails on one that does not exist, and `destroy` is younger than Debian 12's nft.
pub(super) const DELETE: &str = "add table inet dwell\ndelete table inet dwell\n";

/// The table and the sets of isolation, where they are missing.
pub(super) fn sets(isolation: &BTreeSet<Set>) -> String {
    let mut script = format!("add table inet {TABLE}\n");
    for set in isolation {
        script += &format!("add set inet {TABLE} {} {{ type {}; }}\n", set.name(), set.key_type());
    }
    script
}

/// Everything but the elements of isolation's sets, in place of what there is of it. Without `isolation`,
/// what an earlier agent has isolated is left as it is.
pub(super) fn table(
    host: &HostNetwork,
    sources: &[Source],
    peers: &Peers,
    isolation: Option<&BTreeSet<Set>>,
) -> String {
    let cluster = host.cluster.trunc();
    let overlay = peers.overlay.as_ref().map(Rules::of).unwrap_or_default();
    let masquerade = if host.masquerade {
        let Rules { masquerade, .. } = &overlay;
        format!(
            "{masquerade}\n    iifname \"{INTERFACE_PREFIX}*\" ip saddr {cluster} ip daddr != {cluster} ip daddr != @{NODES} \
             oifname != \"{INTERFACE_PREFIX}*\" masquerade"
        )
    } else {
        String::new()
    };
    let to_host = to_host(host, &overlay);
    let (isolated, isolated_type) = (Set::Isolated.name(), Set::Isolated.key_type());
    let (confined, confined_type) = (Set::Confined.name(), Set::Confined.key_type());
    let (sent, guard) = (sent(host, &overlay), guard(host, &overlay));
    let overlay_chains = &overlay.chains;
    let mut script = format!(
        r#"add table inet {TABLE}
add set inet {TABLE} {SOURCES} {{ type ifname . ipv4_addr; }}
add set inet {TABLE} {NODES} {{ type ipv4_addr; }}
add set inet {TABLE} {TUNNELLED} {{ type ipv4_addr; }}
add set inet {TABLE} {isolated} {{ type {isolated_type}; }}
add set inet {TABLE} {confined} {{ type {confined_type}; }}
add chain inet {TABLE} {CONFINEMENT}
add chain inet {TABLE} {SENT}
add chain inet {TABLE} guard {{ type filter hook prerouting priority raw; policy accept; }}
add chain inet {TABLE} {HOST} {{ type filter hook input priority filter; policy accept; }}
add chain inet {TABLE} outbound {{ type nat hook postrouting priority srcnat; policy accept; }}
flush chain inet {TABLE} guard
flush chain inet {TABLE} {SENT}
flush chain inet {TABLE} {HOST}
flush chain inet {TABLE} outbound
flush set inet {TABLE} {SOURCES}
flush set inet {TABLE} {NODES}
flush set inet {TABLE} {TUNNELLED}
{overlay_chains}table inet {TABLE} {{
  chain {SENT} {{
{sent}  }}
  chain guard {{
{guard}  }}
  chain {HOST} {{
{to_host}  }}
  chain outbound {{{masquerade}
  }}
}}
"#
    );
    let pairs = sources.iter().map(|(veth, address)| format!("\"{veth}\" . {address}"));
    add_elements(&mut script, SOURCES, pairs);
    for (set, addresses) in [(NODES, &peers.nodes), (TUNNELLED, &peers.tunnelled)] {
        add_elements(&mut script, set, addresses.iter().map(Ipv4Addr::to_string));
    }
    if let Some(isolation) = isolation {
        add_isolation(&mut script, isolation, cluster);
    }
    script
}

/// What sandboxes may send at all: everything else that comes out of them is dropped before it is looked at.
fn sent(host: &HostNetwork, overlay: &Rules) -> String {
    let cluster = host.cluster.trunc();
    let mut rules = vec![
        "meta nfproto ipv6 drop".to_owned(),
        format!("iifname . ip saddr != @{SOURCES} counter drop"),
    ];
    if host.untracked {
        // First what there is most of. It is not sent to a link, and nobody else's rules follow in this chain.
        rules.push(format!("ip daddr {cluster} {} notrack accept", unpoliced()));
    }
    if host.foreign_names {
        rules.push(format!("ip daddr {LINK_LOCAL} meta l4proto {{ tcp, udp }} th dport 53 accept"));
    }
    rules.push(format!("ip daddr {LINK_LOCAL} ip daddr != {GATEWAY} counter drop"));
    rules.extend(overlay.sent.clone());
    lines(rules)
}

/// What all else may claim that comes into the host.
fn guard(host: &HostNetwork, overlay: &Rules) -> String {
    let cluster = host.cluster.trunc();
    let mut rules = vec![
        format!("iifname \"{INTERFACE_PREFIX}*\" goto {SENT}"),
        format!("ip saddr {cluster} fib saddr oifname \"{INTERFACE_PREFIX}*\" counter drop"),
    ];
    if host.untracked {
        rules.push(format!("ip saddr {cluster} ip daddr {cluster} {} notrack", unpoliced()));
    }
    rules.extend(overlay.guard(cluster));
    lines(rules)
}

/// Neither side is an instance of this node that is not open to all or does not reach all. Of those the state of each
/// connection matters: whether a packet answers.
fn unpoliced() -> String {
    let sets = [Set::Isolated.name(), Set::Confined.name()];
    let sides = ["saddr", "daddr"];
    let each = sets.iter().flat_map(|set| sides.map(|side| format!("ip {side} != @{set}")));
    each.collect::<Vec<_>>().join(" ")
}

fn lines(rules: impl IntoIterator<Item = String>) -> String {
    rules.into_iter().map(|rule| format!("    {rule}\n")).collect()
}

/// What instances may send to the host itself, of this node or, over an uplink, of another. A routes-only node has none, and
/// decides by itself whom it serves.
fn to_host(host: &HostNetwork, overlay: &Rules) -> String {
    let cluster = host.cluster.trunc();
    let mut rules = overlay.to_host.clone();
    rules.extend([
        "iifname \"lo\" accept".to_owned(),
        // Whoever else asks here, such as a container of Docker's that has the host's list of resolvers, is told at once
        // to ask the next one.
        format!("iifname != \"{INTERFACE_PREFIX}*\" ip daddr {GATEWAY} counter reject"),
    ]);
    if host.block.is_some() {
        rules.push(format!("iifname != \"{INTERFACE_PREFIX}*\" meta nfproto ipv6 accept"));
        rules.push(format!("iifname != \"{INTERFACE_PREFIX}*\" ip saddr != {cluster} accept"));
    } else {
        rules.push(format!("iifname != \"{INTERFACE_PREFIX}*\" accept"));
    }
    rules.push("ct state established,related accept".to_owned());
    rules.push(format!("ip daddr {GATEWAY} meta l4proto {{ tcp, udp }} th dport 53 accept"));
    rules.push("icmp type echo-request accept".to_owned());
    // Names and echoes of its own node are everybody's; the rest is what it reaches like anything else.
    rules.push(isolation::confine());
    let allowed = host.host_access.iter().filter(|range| range.first <= range.last);
    rules.extend(allowed.map(|PortRange { protocol, first, last }| {
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        // An nft before 1.0.3 takes a range of one port for a range of none, and refuses the whole table.
        let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
        format!("{protocol} dport {ports} accept")
    }));
    rules.push("counter drop".to_owned());
    lines(rules)
}

/// What the host itself sends does not come by here. Of a connection, each packet to the instance is looked up,
/// so that who loses the right to it loses it at once; and so is each that a confined instance sends on one of its own.
///
/// Who began a connection shows in its first packet. In the middle of one from before an instance was isolated, an
/// instance that speaks first would look like the one who began it, and be answered for ever; and to one that was
/// confined, whoever speaks first would.
fn add_isolation(script: &mut String, sets: &BTreeSet<Set>, cluster: Ipv4Net) {
    let midway = "ct state new tcp flags & (syn | ack) != syn counter reject with tcp reset";
    let mut inbound = Vec::new();
    // First what may leave: what gets through the other chain is through.
    if sets.contains(&Set::Confined) {
        let to = format!("ip saddr {cluster} ip daddr @{}", Set::Confined.name());
        let to = format!("oifname \"{INTERFACE_PREFIX}*\" {to}");
        inbound.extend([Set::Confined.rule(), format!("{to} {midway}")]);
    }
    if sets.contains(&Set::Isolated) {
        let from = format!("ip saddr @{} ip daddr {cluster}", Set::Isolated.name());
        let from = format!("iifname \"{INTERFACE_PREFIX}*\" {from}");
        inbound.extend([Set::Isolated.rule(), format!("{from} {midway}")]);
    }
    let allowing = |out: bool| {
        let sets = sets.iter().filter(|set| set.is_out() == out);
        let sets = sets.filter(|set| !matches!(set, Set::Isolated | Set::Confined));
        lines(sets.map(|set| set.rule()))
    };
    let (inbound, incoming, outgoing) = (lines(inbound), allowing(false), allowing(true));
    *script += &format!(
        r#"add chain inet {TABLE} {INBOUND} {{ type filter hook forward priority filter; policy accept; }}
add chain inet {TABLE} {ISOLATION}
flush chain inet {TABLE} {INBOUND}
flush chain inet {TABLE} {ISOLATION}
flush chain inet {TABLE} {CONFINEMENT}
table inet {TABLE} {{
  chain {INBOUND} {{
{inbound}  }}
  chain {ISOLATION} {{
    ct direction reply accept
    ct state related accept
{incoming}    counter drop
  }}
  chain {CONFINEMENT} {{
    ct direction reply return
    ct state related return
{outgoing}    counter drop
  }}
}}
"#
    );
}

fn add_elements(script: &mut String, set: &str, elements: impl Iterator<Item = String>) {
    let elements = elements.collect::<Vec<_>>().join(", ");
    if !elements.is_empty() {
        script.push_str(&format!("add element inet {TABLE} {set} {{ {elements} }}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn host(masquerade: bool) -> HostNetwork {
        HostNetwork { masquerade, ..fixtures::host() }
    }

    #[test]
    fn the_resolvers_of_a_cloud_are_open_where_nobody_else_answers() {
        let open = "ip daddr 169.254.0.0/16 meta l4proto { tcp, udp } th dport 53 accept\n    ip daddr 169.254.0.0/16 \
                    ip daddr != 169.254.1.1 counter drop";
        let without = HostNetwork { foreign_names: true, ..host(true) };
        assert!(table(&without, &[], &Peers::default(), None).contains(open));
        assert!(!table(&host(true), &[], &Peers::default(), None).contains(open));
    }

    #[test]
    fn masquerading_is_a_switch() {
        assert!(table(&host(true), &[], &Peers::default(), None).contains("ip daddr != @nodes"));
        assert!(!table(&host(false), &[], &Peers::default(), None).contains("masquerade"));
    }

    #[test]
    fn going_without_tracking_is_a_switch_and_not_for_instances_with_rules() {
        let rules = table(&host(true), &[], &Peers::default(), None);
        let without = rules.lines().filter(|rule| rule.contains("notrack"));
        let without: Vec<_> = without.collect();
        assert_eq!(without.len(), 2, "from a sandbox, and from elsewhere");
        for rule in without {
            assert!(rule.contains("ip daddr 10.80.0.0/16"), "{rule}");
            for set in ["isolated", "confined"] {
                let neither = format!("ip saddr != @{set} ip daddr != @{set}");
                assert!(rule.contains(&neither), "{rule}");
            }
        }
        let tracked = HostNetwork { untracked: false, ..host(true) };
        assert!(!table(&tracked, &[], &Peers::default(), None).contains("notrack"));
    }

    #[test]
    fn ports_of_the_host_are_opened_one_by_one() {
        let range = |protocol, first, last| PortRange { protocol, first, last };
        let open = HostNetwork {
            host_access: vec![range(Protocol::Tcp, 5000, 5000), range(Protocol::Udp, 1, 9)],
            ..host(true)
        };
        let script = table(&open, &[], &Peers::default(), None);
        assert!(
            script.contains(
                "    iifname \"dw-*\" ip saddr @confined jump confinement\n    tcp dport 5000 accept\n    \
                 udp dport 1-9 accept\n    counter drop\n"
            )
        );
        assert!(!table(&host(true), &[], &Peers::default(), None).contains("tcp dport 5"));
    }

    #[test]
    fn the_gateway_refuses_others_before_it_lets_anything_in() {
        let block = Some("10.80.1.0/24".parse().unwrap());
        for host in [host(true), HostNetwork { block, ..host(true) }] {
            let script = table(&host, &[], &Peers::default(), None);
            let rules = "    iifname \"lo\" accept\n    iifname != \"dw-*\" ip daddr 169.254.1.1 counter reject\n";
            assert!(script.contains(rules), "{script}");
        }
    }

    #[test]
    fn elements_come_in_the_same_transaction() {
        let sources = [("dw-0123456789ab".to_owned(), Ipv4Addr::new(10, 80, 1, 5))];
        let peers = Peers { nodes: vec![Ipv4Addr::new(192, 0, 2, 7)], ..Peers::default() };
        let script = table(&host(true), &sources, &peers, None);
        assert!(script.contains(r#"sources { "dw-0123456789ab" . 10.80.1.5 }"#));
        assert!(script.contains("nodes { 192.0.2.7 }"));
    }

    /// What gets through the chain of isolation is through, so that what may not leave has to be dropped before it.
    #[test]
    fn what_may_leave_comes_before_who_may_get_in() {
        let sets = [Set::Isolated, Set::Sources(32), Set::Confined, Set::Destinations(24)];
        let script = table(&host(true), &[], &Peers::default(), Some(&sets.into()));
        let at = |rule: &str| script.find(rule).unwrap_or_else(|| panic!("no {rule}: {script}"));
        let chain = at("  chain inbound {");
        let first = chain + script[chain..].find("jump confinement").unwrap();
        assert!(first < at("jump isolation"));
        let confinement = &script[at("  chain confinement {")..];
        assert!(
            confinement
                .contains("ip saddr . ip daddr & 255.255.255.0 @to_24 return\n    counter drop")
        );
        assert!(!confinement.contains("accept"), "it would be in, whoever may get in there");
    }

    #[test]
    fn what_an_earlier_agent_isolated_stays_until_policies_are_known() {
        let nothing_known = table(&host(true), &[], &Peers::default(), None);
        assert!(!nothing_known.contains("inbound"));
        assert!(!nothing_known.contains("flush chain inet dwell confinement"));
        let nobody = table(&host(true), &[], &Peers::default(), Some(&BTreeSet::new()));
        assert!(nobody.contains("flush chain inet dwell inbound"), "{nobody}");
        assert!(!nobody.contains("jump isolation"), "{nobody}");
    }
}
