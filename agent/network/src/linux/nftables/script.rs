//! Our table as the `nft` program reads it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dwell_core::net::Ipv6Range;
use dwell_core::workload::Protocol;
use ipnet::Ipv4Net;

use super::tunnel::Rules;
use super::{
    CONFINEMENT, HOST, INBOUND, ISOLATION, NODES, Peers, SENT, SOURCES, Source, TABLE, TUNNELLED,
};
use crate::linux::family::Family;
use crate::linux::isolation::{self, Set};
use crate::{GATEWAY, HostNetwork, INTERFACE_PREFIX, PortRange};

/// Addresses of one link, where clouds have their metadata: whoever asks there gets what the host is trusted with.
const LINK_LOCAL: &str = "169.254.0.0/16";
/// The same in IPv6, with two addresses that are of a site and not of a link, and what has no one receiver.
const LINK_LOCAL6: &str = "{ fe80::/10, fd00:ec2::254, fd20:ce::254, ff00::/8 }";

/// Removes the table. `delete` fails on one that does not exist, and `destroy` is younger than Debian 12's nft.
pub(super) const DELETE: &str = "add table inet dwell\ndelete table inet dwell\n";

/// The table and the sets of isolation, where they are missing.
pub(super) fn sets(isolation: &BTreeSet<Set>, range: Option<Ipv6Range>) -> String {
    let mut script = format!("add table inet {TABLE}\n");
    for set in isolation {
        script.extend(Family::all(range).map(|family| {
            let (name, of) = (family.set(&set.name()), set.key_type(family));
            format!("add set inet {TABLE} {name} {{ type {of}; }}\n")
        }));
    }
    script
}

/// A protocol, and what an address of an instance is in it, as rules compare with it.
pub(super) type Side = (Family, String);

fn sides(host: &HostNetwork) -> impl Iterator<Item = Side> + Clone {
    Family::all(host.ipv6).map(|family| (family, family.any_of(&host.cluster)))
}

/// Everything but the elements of isolation's sets, in place of what there is of it. Without `isolation`,
/// what an earlier agent has isolated is left as it is.
pub(super) fn table(
    host: &HostNetwork,
    sources: &[Source],
    peers: &Peers,
    isolation: Option<&BTreeSet<Set>>,
) -> String {
    let cluster = Family::V4.any_of(&host.cluster);
    let overlay = peers.overlay.as_ref().map(Rules::of).unwrap_or_default();
    let masquerade = if host.masquerade {
        let Rules { masquerade, .. } = &overlay;
        let ipv6 = host.ipv6.map(|range| {
            // Nodes have addresses in it, too.
            let from = Family::of(range).any_of(&host.cluster);
            let within = range.net(Ipv4Net::default());
            format!(
                "\n    iifname \"{INTERFACE_PREFIX}*\" ip6 saddr {from} ip6 daddr != {within} \
                 oifname != \"{INTERFACE_PREFIX}*\" masquerade"
            )
        });
        let ipv6 = ipv6.unwrap_or_default();
        format!(
            "{masquerade}\n    iifname \"{INTERFACE_PREFIX}*\" ip saddr {cluster} ip daddr != {cluster} ip daddr != @{NODES} \
             oifname != \"{INTERFACE_PREFIX}*\" masquerade{ipv6}"
        )
    } else {
        String::new()
    };
    let to_host = to_host(host, &overlay);
    let sets: String = sides(host).map(|(family, _)| always_there(family)).collect();
    let (sent, guard) = (sent(host, &overlay), guard(host, &overlay));
    let overlay_chains = &overlay.chains;
    let mut script = format!(
        r#"add table inet {TABLE}
add set inet {TABLE} {NODES} {{ type ipv4_addr; }}
add set inet {TABLE} {TUNNELLED} {{ type ipv4_addr; }}
{sets}add chain inet {TABLE} {CONFINEMENT}
add chain inet {TABLE} {SENT}
add chain inet {TABLE} guard {{ type filter hook prerouting priority raw; policy accept; }}
add chain inet {TABLE} {HOST} {{ type filter hook input priority filter; policy accept; }}
add chain inet {TABLE} outbound {{ type nat hook postrouting priority srcnat; policy accept; }}
flush chain inet {TABLE} guard
flush chain inet {TABLE} {SENT}
flush chain inet {TABLE} {HOST}
flush chain inet {TABLE} outbound
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
    for (family, _) in sides(host) {
        let pairs = sources.iter();
        let pairs = pairs.map(|(veth, it)| format!("\"{veth}\" . {}", family.address(*it)));
        add_elements(&mut script, &family.set(SOURCES), pairs);
    }
    for (set, addresses) in [(NODES, &peers.nodes), (TUNNELLED, &peers.tunnelled)] {
        add_elements(&mut script, set, addresses.iter().map(Ipv4Addr::to_string));
    }
    if let Some(isolation) = isolation {
        add_isolation(&mut script, isolation, host);
    }
    script
}

/// The sets that the table speaks of whoever is in them, and that of those who may send empty.
fn always_there(family: Family) -> String {
    let (sources, address) = (family.set(SOURCES), family.address_type());
    let policed = [Set::Isolated, Set::Confined].map(|set| {
        let (name, of) = (family.set(&set.name()), set.key_type(family));
        format!("add set inet {TABLE} {name} {{ type {of}; }}\n")
    });
    format!("add set inet {TABLE} {sources} {{ type ifname . {address}; }}\n{}", policed.concat())
        + &format!("flush set inet {TABLE} {sources}\n")
}

/// What sandboxes may send at all: everything else that comes out of them is dropped before it is looked at.
fn sent(host: &HostNetwork, overlay: &Rules) -> String {
    let mut rules = Vec::new();
    if host.ipv6.is_none() {
        rules.push("meta nfproto ipv6 drop".to_owned());
    }
    rules.extend(sides(host).map(|(family, _)| {
        let (ip, sources) = (family.word(), family.set(SOURCES));
        format!("iifname . {ip} saddr != @{sources} counter drop")
    }));
    if host.untracked {
        // First what there is most of. It is not sent to a link, and nobody else's rules follow in this chain.
        rules.extend(sides(host).map(|(family, cluster)| {
            let (ip, unpoliced) = (family.word(), unpoliced(family));
            format!("{ip} daddr {cluster} {unpoliced} notrack accept")
        }));
    }
    if host.foreign_names {
        rules.push(format!("ip daddr {LINK_LOCAL} meta l4proto {{ tcp, udp }} th dport 53 accept"));
    }
    rules.push(format!("ip daddr {LINK_LOCAL} ip daddr != {GATEWAY} counter drop"));
    rules.extend(host.ipv6.map(|_| format!("ip6 daddr {LINK_LOCAL6} counter drop")));
    rules.extend(overlay.sent.clone());
    lines(rules)
}

/// What all else may claim that comes into the host.
fn guard(host: &HostNetwork, overlay: &Rules) -> String {
    let mut rules = vec![format!("iifname \"{INTERFACE_PREFIX}*\" goto {SENT}")];
    rules.extend(sides(host).map(|(family, cluster)| {
        let ip = family.word();
        format!("{ip} saddr {cluster} fib saddr oifname \"{INTERFACE_PREFIX}*\" counter drop")
    }));
    if host.untracked {
        rules.extend(sides(host).map(|(family, cluster)| {
            let (ip, unpoliced) = (family.word(), unpoliced(family));
            format!("{ip} saddr {cluster} {ip} daddr {cluster} {unpoliced} notrack")
        }));
    }
    rules.extend(overlay.guard(sides(host)));
    lines(rules)
}

/// Neither side is an instance of this node that is not open to all or does not reach all. Of those the state of each
/// connection matters: whether a packet answers.
fn unpoliced(family: Family) -> String {
    let ip = family.word();
    let sets = [Set::Isolated, Set::Confined].map(|set| family.set(&set.name()));
    let sides = ["saddr", "daddr"];
    let each = sets.iter().flat_map(|set| sides.map(|side| format!("{ip} {side} != @{set}")));
    each.collect::<Vec<_>>().join(" ")
}

pub(super) fn lines(rules: impl IntoIterator<Item = String>) -> String {
    rules.into_iter().map(|rule| format!("    {rule}\n")).collect()
}

/// What instances may send to the host itself, of this node or, over an uplink, of another. A routes-only node has none, and
/// decides by itself whom it serves.
fn to_host(host: &HostNetwork, overlay: &Rules) -> String {
    let mut rules = overlay.to_host.clone();
    rules.extend([
        "iifname \"lo\" accept".to_owned(),
        // Whoever else asks here, such as a container of Docker's that has the host's list of resolvers, is told at once
        // to ask the next one.
        format!("iifname != \"{INTERFACE_PREFIX}*\" ip daddr {GATEWAY} counter reject"),
    ]);
    if !host.blocks.is_empty() {
        if host.ipv6.is_none() {
            rules.push(format!("iifname != \"{INTERFACE_PREFIX}*\" meta nfproto ipv6 accept"));
        }
        rules.extend(sides(host).map(|(family, cluster)| {
            let ip = family.word();
            format!("iifname != \"{INTERFACE_PREFIX}*\" {ip} saddr != {cluster} accept")
        }));
    } else {
        rules.push(format!("iifname != \"{INTERFACE_PREFIX}*\" accept"));
    }
    rules.push("ct state established,related accept".to_owned());
    rules.push(format!("ip daddr {GATEWAY} meta l4proto {{ tcp, udp }} th dport 53 accept"));
    rules.push("icmp type echo-request accept".to_owned());
    rules.extend(host.ipv6.map(|_| "icmpv6 type echo-request accept".to_owned()));
    // Names and echoes of its own node are everybody's; the rest is what it reaches like anything else.
    rules.extend(sides(host).map(|(family, _)| isolation::confine(family)));
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
fn add_isolation(script: &mut String, sets: &BTreeSet<Set>, host: &HostNetwork) {
    let midway = "ct state new tcp flags & (syn | ack) != syn counter reject with tcp reset";
    let mut inbound = Vec::new();
    // First what may leave: what gets through the other chain is through.
    for (set, side) in [(Set::Confined, "oifname"), (Set::Isolated, "iifname")] {
        if sets.contains(&set) {
            inbound.extend(sides(host).flat_map(|(family, cluster)| {
                let (ip, name) = (family.word(), family.set(&set.name()));
                let (from, to) = match set.is_out() {
                    true => (cluster, format!("@{name}")),
                    false => (format!("@{name}"), cluster),
                };
                let late =
                    format!("{side} \"{INTERFACE_PREFIX}*\" {ip} saddr {from} {ip} daddr {to}");
                [set.rule(family), format!("{late} {midway}")]
            }));
        }
    }
    let allowing = |out: bool| {
        let sets = sets.iter().filter(|set| set.is_out() == out);
        let sets = sets.filter(|set| !matches!(set, Set::Isolated | Set::Confined));
        lines(sets.flat_map(|set| sides(host).map(|(family, _)| set.rule(family))))
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
        let blocks = vec!["10.80.1.0/24".parse().unwrap()];
        for host in [host(true), HostNetwork { blocks, ..host(true) }] {
            let script = table(&host, &[], &Peers::default(), None);
            let rules = "    iifname \"lo\" accept\n    iifname != \"dw-*\" ip daddr 169.254.1.1 counter reject\n";
            assert!(script.contains(rules), "{script}");
        }
    }

    fn dual() -> HostNetwork {
        let blocks = vec!["10.80.1.0/24".parse().unwrap()];
        HostNetwork { ipv6: Some("fd00:5::/64".parse().unwrap()), blocks, ..host(true) }
    }

    /// What a rule says of IPv4, in the words of IPv6.
    fn in_ipv6(rule: &str) -> String {
        let word = |word: &str| match word {
            "ip" => "ip6".to_owned(),
            "icmp" => "icmpv6".to_owned(),
            "10.80.0.0/16" => "fd00:5::a50:0/112".to_owned(),
            "255.255.255.0" => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00".to_owned(),
            "0.0.0.0" => "::".to_owned(),
            _ if word.starts_with('@') => word.replacen('@', "@ip6_", 1),
            _ => word.to_owned(),
        };
        rule.split(' ').map(word).collect::<Vec<_>>().join(" ")
    }

    /// Instances that are policed in every way, and peers in the overlay.
    fn everything(host: &HostNetwork) -> Vec<String> {
        let of = [
            [Set::Isolated, Set::Confined],
            [Set::Sources(24), Set::Destinations(24)],
            [Set::Sources(0), Set::Destinations(0)],
            [Set::Ports(24, 4), Set::DestinationPorts(24, 4)],
        ];
        let sets: BTreeSet<Set> = of.into_iter().flatten().collect();
        let local = [192, 0, 2, 1].into();
        let overlay = Some(crate::Overlay { local, port: 4789, always: false });
        let peers = Peers { overlay, ..Peers::default() };
        let script = table(host, &[], &peers, Some(&sets));
        let rules: Vec<_> = script.lines().filter(|line| line.starts_with("    ")).collect();
        for set in sets {
            let asks = |rule: &&str| rule.contains(&format!("@{} ", set.name()));
            assert!(rules.iter().any(asks), "nobody asks {}: {script}", set.name());
        }
        rules.iter().map(|rule| rule.trim_start().to_owned()).collect()
    }

    #[test]
    fn every_rule_about_instances_addresses_has_a_twin() {
        let blocks = dual().blocks;
        let without = everything(&HostNetwork { blocks, ..host(true) });
        let with = everything(&dual());
        // Of nodes, of what is of a link, and what is behind the header of UDP.
        let about_others = [" @nodes", "@tunnelled", "169.254.", "udp dport 4789 @th"];
        let is_of = |rule: &str, protocol: &[&str]| {
            rule.split(' ').any(|word| protocol.contains(&word))
                && !about_others.iter().any(|other| rule.contains(other))
        };
        for rule in without.iter().filter(|rule| is_of(rule, &["ip", "icmp"])) {
            // In each chain that has it.
            let count =
                |rules: &[String], rule: &str| rules.iter().filter(|it| *it == rule).count();
            let (twin, wanted) = (in_ipv6(rule), count(&without, rule));
            assert_eq!(count(&with, &twin), wanted, "{twin} in {with:#?}");
        }
        // And what is not of IPv6 is what there is without it, but for what keeps it out.
        let is_of_ipv6 =
            |rule: &&String| rule.split(' ').any(|word| ["ip6", "icmpv6"].contains(&word));
        let of_ipv4: Vec<_> = with.iter().filter(|rule| !is_of_ipv6(rule)).collect();
        let shuts_out = |rule: &&String| rule.contains("meta nfproto ipv6");
        let as_before: Vec<_> = without.iter().filter(|rule| !shuts_out(rule)).collect();
        assert_eq!(of_ipv4, as_before);
        let twins: Vec<_> = without.iter().map(|rule| in_ipv6(rule)).collect();
        let alone: Vec<_> =
            with.iter().filter(|rule| is_of_ipv6(rule) && !twins.contains(rule)).collect();
        let [closed, masquerade] = alone.as_slice() else { panic!("{alone:#?}") };
        assert!(closed.starts_with("ip6 daddr { fe80::/10, ") && closed.ends_with(" drop"));
        assert!(masquerade.ends_with(" masquerade"));
    }

    #[test]
    fn of_ipv6_there_is_nothing_without_a_prefix_and_all_at_once_with_one() {
        let without = table(&host(true), &[], &Peers::default(), Some(&[Set::Isolated].into()));
        let lines: Vec<_> = without.lines().filter(|line| line.contains("ip6")).collect();
        assert!(lines.is_empty() && without.contains("meta nfproto ipv6 drop"), "{lines:?}");
        let sources = [("dw-0123456789ab".to_owned(), Ipv4Addr::new(10, 80, 1, 5))];
        let with = table(&dual(), &sources, &Peers::default(), None);
        assert!(!with.contains("meta nfproto ipv6"), "{with}");
        assert!(with.contains(r#"ip6_sources { "dw-0123456789ab" . fd00:5::a50:105 }"#), "{with}");
        assert!(with.contains("ip6 saddr fd00:5::a50:0/112 ip6 daddr != fd00:5::/96"), "{with}");
        assert!(with.contains("ip6 daddr { fe80::/10,"), "{with}");
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
