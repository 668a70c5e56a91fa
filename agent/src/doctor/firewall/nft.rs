//! Chains of nftables, as `nft -j` lists them, compared with a packet.

use std::net::Ipv4Addr;

use dwell_core::workload::Protocol;
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::Value;

use super::walk::{Chains, Fits, Leaves, Packet, SOURCE_PORT, Step, Target};

/// What `nft -j list chains` and `nft -j list table` print, without sets and maps.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Listing {
    nftables: Vec<Item>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Item {
    chain: Option<Chain>,
    rule: Option<Rule>,
}

/// A chain; one of the firewall's own makes no use of the rest, and has no hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Chain {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) name: String,
    pub(super) hook: String,
    pub(super) policy: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Rule {
    chain: String,
    expr: Vec<Value>,
}

impl Listing {
    /// All chains.
    pub(super) fn chains(&self) -> impl Iterator<Item = &Chain> {
        self.nftables.iter().filter_map(|item| item.chain.as_ref())
    }

    /// The rules, of one table, for a packet.
    pub(super) fn steps(&self, packet: &Packet) -> Chains {
        let mut chains: Chains =
            self.chains().map(|chain| (chain.name.clone(), Vec::new())).collect();
        for rule in self.nftables.iter().filter_map(|item| item.rule.as_ref()) {
            chains.entry(rule.chain.clone()).or_default().push(step(&rule.expr, packet));
        }
        chains
    }
}

fn step(statements: &[Value], packet: &Packet) -> Step {
    let mut fits = Fits::Yes;
    for statement in statements {
        let Some((name, value)) = statement.as_object().and_then(|object| object.iter().next())
        else {
            continue;
        };
        let chain = || value["target"].as_str().unwrap_or_default().to_owned();
        let target = match name.as_str() {
            "match" => {
                fits = fits.and(compare(value, packet));
                continue;
            }
            "accept" => Target::Accept,
            "drop" | "reject" => Target::Drop,
            "return" => Target::Return,
            "jump" => Target::Jump(chain()),
            "goto" => Target::Goto(chain()),
            "counter" | "log" | "mangle" | "notrack" | "ct helper" | "ct timeout" | "comment" => {
                continue;
            }
            // Rates, and matches of iptables that nftables does not understand.
            "limit" | "quota" | "xt" | "meter" | "set" | "ct count" => {
                fits = fits.and(Fits::Perhaps);
                continue;
            }
            // A map of verdicts, a queue, and whatever there will be.
            _ => Target::Unknown,
        };
        return Step { fits, target };
    }
    Step { fits, target: Target::Next }
}

/// Whether a packet fits a comparison, such as
/// `{"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "192.0.2.1"}`.
fn compare(comparison: &Value, packet: &Packet) -> Fits {
    let is_negated = match comparison["op"].as_str() {
        Some("==" | "in") => false,
        Some("!=") => true,
        _ => return Fits::Perhaps,
    };
    let (left, right) = (&comparison["left"], &comparison["right"]);
    let any = |fits: &dyn Fn(&Value) -> Fits| any_of(right, fits).unless(is_negated);
    if let Some(key) = left["meta"]["key"].as_str() {
        return match key {
            "iif" | "iifname" => any(&|value| interface(value, &packet.enters)),
            "oif" | "oifname" => match &packet.leaves {
                Leaves::Never => Fits::No,
                Leaves::By(name) => any(&|value| interface(value, name)),
            },
            "l4proto" => any(&|value| protocol(value, packet.protocol)),
            "nfproto" => {
                any(&|value| value.as_str().map_or(Fits::Perhaps, |one| (one == "ipv4").into()))
            }
            "protocol" => {
                any(&|value| value.as_str().map_or(Fits::Perhaps, |one| (one == "ip").into()))
            }
            _ => Fits::Perhaps,
        };
    }
    if let Some(key) = left["ct"]["key"].as_str() {
        return match key {
            "state" => {
                let own = packet.state.name();
                any(&|value| value.as_str().map_or(Fits::Perhaps, |one| (one == own).into()))
            }
            // Nobody has translated its addresses.
            "status" => any(&|value| match value.as_str() {
                Some("dnat" | "snat") => Fits::No,
                _ => Fits::Perhaps,
            }),
            _ => Fits::Perhaps,
        };
    }
    let payload = &left["payload"];
    match (payload["protocol"].as_str(), payload["field"].as_str()) {
        (Some("ip"), Some("saddr")) => any(&|value| address(value, packet.from)),
        (Some("ip"), Some("daddr")) => any(&|value| address(value, packet.to)),
        (Some("ip"), Some("protocol")) => any(&|value| protocol(value, packet.protocol)),
        (Some(of @ ("tcp" | "udp" | "th")), Some(field @ ("dport" | "sport"))) => {
            // That it is a packet of this protocol is a comparison of its own, which no `!=` turns round.
            let is_of = of == "th" || of == name(packet.protocol);
            let port = if field == "dport" { packet.port } else { SOURCE_PORT };
            any(&|value| number(value, port)).and(is_of.into())
        }
        (Some("ip" | "tcp" | "udp" | "th" | "ether" | "vlan"), _) | (None, _) => Fits::Perhaps,
        // IPv6, ICMP, and other protocols that it is not of.
        (Some(_), _) => Fits::No,
    }
}

/// Whether a value fits, or one of a list or an unnamed set. What a named set has in it is not known here.
fn any_of(value: &Value, fits: &dyn Fn(&Value) -> Fits) -> Fits {
    let all = match value {
        Value::Array(all) => all,
        Value::Object(object) => match object.get("set") {
            Some(Value::Array(all)) => all,
            Some(one) => return any_of(one, fits),
            None => return fits(value),
        },
        Value::String(name) if name.starts_with('@') => return Fits::Perhaps,
        one => return fits(one),
    };
    let mut found = Fits::No;
    for one in all {
        match fits(one) {
            Fits::Yes => return Fits::Yes,
            Fits::Perhaps => found = Fits::Perhaps,
            Fits::No => {}
        }
    }
    found
}

fn interface(value: &Value, name: &str) -> Fits {
    value.as_str().map_or(Fits::Perhaps, |pattern| Fits::interface(name, pattern, '*'))
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn protocol(value: &Value, wanted: Protocol) -> Fits {
    let in_numbers = match wanted {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    match (value.as_str(), value.as_u64()) {
        (Some(one), _) => (one == name(wanted)).into(),
        (None, Some(number)) => (number == in_numbers).into(),
        (None, None) => Fits::Perhaps,
    }
}

/// Of an address, a prefix or a range.
fn address(value: &Value, wanted: Ipv4Addr) -> Fits {
    let parse = |value: &Value| value.as_str().and_then(|text| text.parse::<Ipv4Addr>().ok());
    if let Some(one) = parse(value) {
        return (one == wanted).into();
    }
    let prefix = &value["prefix"];
    let length = prefix["len"].as_u64().and_then(|length| u8::try_from(length).ok());
    if let (Some(start), Some(length)) = (parse(&prefix["addr"]), length) {
        return Ipv4Net::new(start, length)
            .map_or(Fits::Perhaps, |net| net.contains(&wanted).into());
    }
    match (parse(&value["range"][0]), parse(&value["range"][1])) {
        (Some(first), Some(last)) => (first..=last).contains(&wanted).into(),
        _ => Fits::Perhaps,
    }
}

/// Of a number or a range.
fn number(value: &Value, wanted: u16) -> Fits {
    let wanted = u64::from(wanted);
    if let Some(one) = value.as_u64() {
        return (one == wanted).into();
    }
    match (value["range"][0].as_u64(), value["range"][1].as_u64()) {
        (Some(first), Some(last)) => (first..=last).contains(&wanted).into(),
        _ => Fits::Perhaps,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn packet() -> Packet {
        Packet::question(Leaves::By("eth0".to_owned()))
    }

    #[test]
    fn comparisons_are_the_kernels() {
        let meta = |key: &str| json!({"meta": {"key": key}});
        let field = |of: &str, field: &str| json!({"payload": {"protocol": of, "field": field}});
        let ct = |key: &str| json!({"ct": {"key": key}});
        use Fits::{No, Perhaps, Yes};
        for (op, left, right, expected) in [
            ("==", meta("iifname"), json!("dw-*"), Yes),
            ("!=", meta("iifname"), json!("dw-*"), No),
            ("==", meta("iifname"), json!({"set": ["lo", "eth0"]}), No),
            ("==", meta("oif"), json!("eth0"), Yes),
            ("==", meta("l4proto"), json!({"set": ["icmp", "ipv6-icmp"]}), No),
            ("==", meta("l4proto"), json!(17), Yes),
            ("==", meta("nfproto"), json!("ipv6"), No),
            ("==", meta("mark"), json!(1), Perhaps),
            ("in", ct("state"), json!(["established", "related"]), No),
            ("in", ct("state"), json!({"set": ["new", "untracked"]}), Yes),
            ("in", ct("state"), json!("invalid"), No),
            ("in", ct("status"), json!("dnat"), No),
            ("==", field("ip", "saddr"), json!({"prefix": {"addr": "10.80.0.0", "len": 16}}), Yes),
            ("!=", field("ip", "saddr"), json!({"prefix": {"addr": "10.80.0.0", "len": 16}}), No),
            ("==", field("ip", "daddr"), json!({"range": ["169.254.0.0", "169.254.1.0"]}), No),
            ("==", field("ip", "daddr"), json!({"set": ["192.0.2.1", "169.254.1.1"]}), Yes),
            ("==", field("ip", "daddr"), json!("@friends"), Perhaps),
            ("!=", field("ip", "daddr"), json!("@friends"), Perhaps),
            ("==", field("udp", "dport"), json!(53), Yes),
            ("==", field("udp", "dport"), json!({"range": [1, 52]}), No),
            ("!=", field("tcp", "dport"), json!(22), No),
            ("==", field("th", "dport"), json!({"set": [53, {"range": [100, 200]}]}), Yes),
            ("==", field("icmp", "type"), json!("echo-request"), No),
            ("==", field("ip6", "daddr"), json!("::1"), No),
            ("<", field("udp", "dport"), json!(60), Perhaps),
            ("==", json!({"fib": {"result": "type", "flags": "daddr"}}), json!("local"), Perhaps),
            ("==", json!({"concat": []}), json!("@pairs"), Perhaps),
        ] {
            let comparison = json!({"op": op, "left": left, "right": right});
            assert_eq!(compare(&comparison, &packet()), expected, "{comparison}");
        }
    }

    #[test]
    fn a_packet_for_the_host_leaves_by_no_interface() {
        let comparison = json!({"op": "!=", "left": {"meta": {"key": "oifname"}}, "right": "eth0"});
        let packet = Packet { leaves: Leaves::Never, ..packet() };
        assert_eq!(compare(&comparison, &packet), Fits::No);
    }

    #[test]
    fn the_first_verdict_of_a_rule_counts() {
        for (statements, fits, target) in [
            (json!([{"counter": {}}, {"accept": null}]), Fits::Yes, Target::Accept),
            (json!([{"limit": {"rate": 3}}, {"log": null}]), Fits::Perhaps, Target::Next),
            (json!([{"reject": {"type": "icmpx"}}]), Fits::Yes, Target::Drop),
            (json!([{"jump": {"target": "zones"}}]), Fits::Yes, Target::Jump("zones".to_owned())),
            (json!([{"vmap": {"key": 1, "data": {}}}]), Fits::Yes, Target::Unknown),
            (json!([]), Fits::Yes, Target::Next),
            (json!([3, "x", {}]), Fits::Yes, Target::Next),
        ] {
            let found = step(statements.as_array().unwrap(), &packet());
            assert_eq!(found, Step { fits, target }, "{statements}");
        }
    }
}
