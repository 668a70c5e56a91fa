use std::collections::BTreeMap;

use dwell_core::session::NodePeer;

use super::*;

/// As `iptables -S` prints them: a host with Docker, with ufw, and with both.
const DOCKERS: &str = include_str!("fixtures/docker.txt");
const UFW: &str = include_str!("fixtures/ufw.txt");
const UFW_OPENED: &str = include_str!("fixtures/ufw-opened.txt");
/// As `nft -j list table inet firewalld` prints them: as it is installed, and after what the doctor says.
const FIREWALLD: &str = include_str!("fixtures/firewalld.json");
const FIREWALLD_OPENED: &str = include_str!("fixtures/firewalld-opened.json");

const OURS: &str = "-A DWELL-IN -i dw-+ -j DWELL-OUT\n-A DWELL-IN -i eth0 -j DWELL-OUT\n\
                    -A DWELL-OUT -s 10.80.0.0/16 -o dw-+ -j ACCEPT\n-A DWELL-OUT -d 10.80.0.0/16 -o dw-+ -j ACCEPT\n\
                    -A DWELL-OUT -s 10.80.0.0/16 -o eth0 -j ACCEPT\n-A DWELL-OUT -d 10.80.0.0/16 -o eth0 -j ACCEPT\n";
const JUMP: &str = "-m comment --comment dwell -j DWELL-IN";
const FIX: &str = "iptables -w -I FORWARD -s 10.80.0.0/16 -j ACCEPT && \
                   iptables -w -I FORWARD -d 10.80.0.0/16 -j ACCEPT";
const FIREWALLD_FIX: &str = "firewall-cmd --permanent --zone=trusted --add-source=10.80.0.0/16 && \
    firewall-cmd --permanent --new-policy=dwell && \
    firewall-cmd --permanent --policy=dwell --add-ingress-zone=ANY && \
    firewall-cmd --permanent --policy=dwell --add-egress-zone=trusted && \
    firewall-cmd --permanent --policy=dwell --set-target=ACCEPT && firewall-cmd --reload";

fn tables(program: &'static str, listing: &str) -> Tables {
    Tables { program, lines: listing.lines().map(str::to_owned).collect() }
}

fn ways() -> Ways {
    let peer = NodePeer {
        address: Ipv4Addr::new(192, 0, 2, 12),
        block: Some("10.80.2.0/24".parse().unwrap()),
        more_blocks: Vec::new(),
    };
    let network = NodeNetwork {
        block: Some("10.80.1.0/24".parse().unwrap()),
        peers: BTreeMap::from([("h2".parse().unwrap(), peer)]),
        ..NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap())
    };
    Ways::of(&network, "eth0", true, true)
}

/// What is wrong, and the commands.
fn problems(facts: &Facts) -> Vec<(&'static str, String)> {
    let found = judge(facts, Some(&ways()));
    let problems = found.into_iter().filter(|one| one.outcome != crate::doctor::Outcome::Ok);
    problems.map(|one| (one.check, one.fix)).collect()
}

fn of_iptables(listing: &str) -> Vec<(&'static str, String)> {
    problems(&Facts { iptables: Some(tables("iptables", listing)), ..Facts::default() })
}

fn of_nft(table: &str) -> Vec<(&'static str, String)> {
    let table: Listing = serde_json::from_str(table).unwrap();
    let chains = table.chains().filter(|chain| chain.is_of_interest());
    let chains = chains.map(|chain| (chain.clone(), table.clone())).collect();
    problems(&Facts { chains, ..Facts::default() })
}

#[test]
fn chains_of_iptables_that_drop_the_clusters_traffic_are_told_from_those_that_do_not() {
    let dockers = format!(
        "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n-N DWELL-IN\n-N DWELL-OUT\n-A FORWARD -j DOCKER-USER\n{OURS}"
    );
    let dockers_fix = FIX.replace("FORWARD", "DOCKER-USER");
    for (listing, check, fix) in [
        ("-P FORWARD ACCEPT\n".to_owned(), "forward-policy", ""),
        ("-P FORWARD DROP\n".to_owned(), "forward-policy", FIX),
        (format!("{dockers}-A DOCKER-USER {JUMP}\n-A DOCKER-USER -j RETURN"), "forward-policy", ""),
        // Too late, or leading nowhere.
        (format!("{dockers}-A DOCKER-USER -j RETURN\n-A DOCKER-USER {JUMP}"), "forward-policy", &dockers_fix),
        (dockers.clone(), "forward-policy", &dockers_fix),
        (format!("-P FORWARD DROP\n-N DWELL-IN\n-A FORWARD {JUMP}"), "forward-policy", FIX),
        (format!("-P FORWARD DROP\n-N DWELL-IN\n-N DWELL-OUT\n-A FORWARD {JUMP}\n{OURS}"), "forward-policy", ""),
        // What the fix does.
        (
            "-P FORWARD DROP\n-A FORWARD -d 10.80.0.0/16 -j ACCEPT\n-A FORWARD -s 10.80.0.0/16 -j ACCEPT".to_owned(),
            "forward-policy",
            "",
        ),
        ("-P FORWARD DROP\n-A FORWARD -d 10.80.0.0/16 -j ACCEPT".to_owned(), "forward-policy", FIX),
        // As firewalld's older rules end.
        (
            "-P FORWARD ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited".to_owned(),
            "forward-policy",
            FIX,
        ),
        ("-P FORWARD DROP\n-N DOCKER-USER\n".to_owned(), "docker-rules", "systemctl restart docker"),
        (
            "-P INPUT DROP\n-P FORWARD ACCEPT\n".to_owned(),
            "firewall-names",
            "iptables -w -I INPUT -s 10.80.0.0/16 -d 169.254.1.1 -p udp --dport 53 -j ACCEPT && \
             iptables -w -I INPUT -s 10.80.0.0/16 -d 169.254.1.1 -p tcp --dport 53 -j ACCEPT",
        ),
    ] {
        let expected: Vec<_> =
            (!fix.is_empty()).then(|| (check, fix.to_owned())).into_iter().collect();
        assert_eq!(of_iptables(&listing), expected, "{listing}");
    }
}

#[test]
fn a_direction_that_is_closed_is_named() {
    for (rules, said) in [
        ("", "no firewall drops what 10.80.0.0/16 sends or is sent"),
        (
            "-A FORWARD -i eth0 -j DROP",
            "the FORWARD chain of iptables drops or rejects what is sent to instances",
        ),
        (
            "-A FORWARD -o eth0 -j DROP",
            "the FORWARD chain of iptables drops or rejects what instances send",
        ),
        (
            "-A FORWARD -j DROP",
            "the FORWARD chain of iptables drops or rejects what instances send and what is sent to them",
        ),
    ] {
        let iptables = Some(tables("iptables", &format!("-P FORWARD ACCEPT\n{rules}")));
        let found = judge(&Facts { iptables, ..Facts::default() }, Some(&ways()));
        let message = found.iter().find(|one| one.check == FORWARD).map(|one| one.message.as_str());
        assert_eq!(message, Some(said), "{rules}");
    }
}

#[test]
fn docker_alone_is_no_trouble_once_the_agent_has_been_there() {
    assert_eq!(of_iptables(DOCKERS), []);
    let without: Vec<&str> = DOCKERS.lines().filter(|line| !line.contains("DWELL")).collect();
    let found = of_iptables(&without.join("\n"));
    assert_eq!(found, [(FORWARD, FIX.replace("FORWARD", "DOCKER-USER"))]);
}

#[test]
fn ufw_is_named_with_its_own_commands() {
    let forward = "ufw route allow from 10.80.0.0/16 && ufw route allow to 10.80.0.0/16";
    let names = "ufw allow in from 10.80.0.0/16 to 169.254.1.1 port 53";
    let expected = [(NAMES, names.to_owned()), (FORWARD, forward.to_owned())];
    assert_eq!(of_iptables(UFW), expected);
    assert_eq!(of_iptables(UFW_OPENED), []);
}

#[test]
fn firewalld_is_named_with_its_own_commands() {
    let found = of_nft(FIREWALLD);
    let checks: std::collections::BTreeSet<_> = found.iter().map(|(check, _)| *check).collect();
    assert_eq!(checks, [FORWARD, NAMES].into());
    assert!(found.iter().all(|(_, fix)| fix == FIREWALLD_FIX), "{found:?}");
    assert_eq!(of_nft(FIREWALLD_OPENED), []);
}

#[test]
fn chains_of_nftables_that_drop_are_told_with_the_rules_they_lack() {
    let table = |hook: &str, rules: serde_json::Value| {
        let chain = serde_json::json!({
            "family": "inet", "table": "walls", "name": "gate", "hook": hook, "policy": "drop"
        });
        let mut items = vec![serde_json::json!({ "chain": chain })];
        items.extend(
            rules
                .as_array()
                .unwrap()
                .iter()
                .map(|expr| serde_json::json!({ "rule": {"chain": "gate", "expr": expr} })),
        );
        serde_json::json!({ "nftables": items }).to_string()
    };
    let accept = |side: &str| {
        serde_json::json!([
            {"match": {
                "op": "==",
                "left": {"payload": {"protocol": "ip", "field": side}},
                "right": {"prefix": {"addr": "10.80.0.0", "len": 16}},
            }},
            {"counter": {"packets": 0, "bytes": 0}},
            {"accept": null},
        ])
    };
    let both = serde_json::json!([accept("saddr"), accept("daddr")]);
    assert_eq!(of_nft(&table("forward", both)), []);
    let forward = "nft insert rule inet walls gate ip saddr 10.80.0.0/16 accept && \
                   nft insert rule inet walls gate ip daddr 10.80.0.0/16 accept";
    let one = serde_json::json!([accept("saddr")]);
    assert_eq!(of_nft(&table("forward", one)), [(FORWARD, forward.to_owned())]);
    let names = "nft insert rule inet walls gate ip saddr 10.80.0.0/16 ip daddr 169.254.1.1 udp dport 53 accept && \
                 nft insert rule inet walls gate ip saddr 10.80.0.0/16 ip daddr 169.254.1.1 tcp dport 53 accept";
    assert_eq!(of_nft(&table("input", serde_json::json!([]))), [(NAMES, names.to_owned())]);
    assert_eq!(of_nft(&table("output", serde_json::json!([]))), []);
}

#[test]
fn what_the_agent_sees_to_is_no_problem_while_it_starts() {
    let iptables = Some(tables("iptables", "-P INPUT DROP\n-P FORWARD DROP"));
    let outcomes = |is_settling| {
        let found = judge(
            &Facts { is_settling, iptables: iptables.clone(), ..Facts::default() },
            Some(&ways()),
        );
        found.into_iter().map(|one| (one.check, one.outcome)).collect::<Vec<_>>()
    };
    use crate::doctor::Outcome::{Problem, Unknown};
    assert_eq!(outcomes(false), [(NAMES, Problem), (FORWARD, Problem)]);
    // Nobody but the operator opens the other one.
    assert_eq!(outcomes(true), [(NAMES, Problem), (FORWARD, Unknown)]);
}

#[test]
fn a_node_without_an_assignment_has_nothing_to_open_yet() {
    let facts = Facts { iptables: Some(tables("iptables", "-P FORWARD DROP")), ..Facts::default() };
    let found = judge(&facts, None);
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!((finding.check, finding.outcome), (FORWARD, crate::doctor::Outcome::Unknown));
}

#[test]
fn who_asks_nobody_here_for_names_needs_no_way_there() {
    let ways = Ways { names: Vec::new(), ..ways() };
    let facts = Facts { iptables: Some(tables("iptables", "-P INPUT DROP")), ..Facts::default() };
    assert!(judge(&facts, Some(&ways)).iter().all(|finding| finding.check == FORWARD));
}

#[test]
fn rules_in_both_kinds_of_iptables_are_a_warning() {
    let facts = Facts {
        iptables: Some(tables("iptables", "-P FORWARD ACCEPT")),
        legacy: Some(tables("iptables-legacy", "-P FORWARD DROP")),
        ..Facts::default()
    };
    let found = problems(&facts);
    let checks: Vec<_> = found.iter().map(|(check, _)| *check).collect();
    assert_eq!(checks, ["iptables-mix", "forward-policy"]);
    assert!(found[1].1.starts_with("iptables-legacy -w -I FORWARD"), "{found:?}");
}

/// As a firewall that decides by the state of connections does, and lets new ones through.
#[test]
fn a_firewall_that_wants_to_know_the_connection_is_named_with_the_way_out() {
    let by_state = "-P FORWARD DROP\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                    -A FORWARD -m conntrack --ctstate INVALID -j DROP\n-A FORWARD -m conntrack --ctstate NEW -j ACCEPT";
    let found = |listing: &str, ways: &Ways| {
        let iptables = Some(tables("iptables", listing));
        let found = judge(&Facts { iptables, ..Facts::default() }, Some(ways));
        found.into_iter().find(|one| one.check == FORWARD).unwrap()
    };
    let dropped = found(by_state, &ways());
    assert_eq!((dropped.outcome, dropped.fix.as_str()), (crate::doctor::Outcome::Problem, FIX));
    assert!(dropped.message.contains("`untracked: false` in agent.yaml"), "{}", dropped.message);
    let is_ok =
        |listing: &str, ways: &Ways| found(listing, ways).outcome == crate::doctor::Outcome::Ok;
    assert!(is_ok(by_state, &Ways { untracked: Vec::new(), ..ways() }), "where all is tracked");
    assert!(is_ok(
        &format!("{by_state}\n-A FORWARD -m conntrack --ctstate UNTRACKED -j ACCEPT"),
        &ways()
    ));
    let opened = by_state.replace(
        "-A FORWARD -m conntrack --ctstate INV",
        "-A FORWARD -s 10.80.0.0/16 -j ACCEPT\n-A FORWARD -m conntrack --ctstate INV",
    );
    assert!(is_ok(&opened, &ways()), "what is sent has an instance's address");
    // What is invalid is something else.
    assert!(is_ok("-P FORWARD ACCEPT\n-A FORWARD -m conntrack --ctstate INVALID -j DROP", &ways()));

    let state = |names: &[&str], verdict: &str| {
        serde_json::json!({"rule": {"chain": "gate", "expr": [
            {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": names}},
            {verdict: null},
        ]}})
    };
    let chain = serde_json::json!({"chain": {
        "family": "inet", "table": "walls", "name": "gate", "hook": "forward", "policy": "drop"
    }});
    let of_nft = |rules: &[serde_json::Value]| {
        let items = [std::slice::from_ref(&chain), rules].concat();
        of_nft(&serde_json::json!({ "nftables": items }).to_string())
    };
    let known = state(&["established", "related", "new"], "accept");
    let fix = FIX.replace("iptables -w -I FORWARD -", "nft insert rule inet walls gate ip ");
    let fix = fix
        .replace("ip s ", "ip saddr ")
        .replace("ip d ", "ip daddr ")
        .replace("-j ACCEPT", "accept");
    assert_eq!(of_nft(std::slice::from_ref(&known)), [(FORWARD, fix)]);
    assert_eq!(of_nft(&[known, state(&["untracked"], "accept")]), []);
}

#[tokio::test(start_paused = true)]
async fn a_firewall_that_is_slow_hides_nothing_of_the_other() {
    let table: Listing = serde_json::from_str(FIREWALLD).unwrap();
    let chains = table.chains().filter(|chain| chain.is_of_interest());
    let chains = chains.map(|chain| (chain.clone(), table.clone())).collect();
    let facts = Facts::of(std::future::pending(), std::future::ready(chains)).await;
    let found = judge(&facts, Some(&ways()));
    use crate::doctor::Outcome::{Ok, Problem, Unknown};
    let of = |outcome| found.iter().filter(move |one| one.outcome == outcome);
    assert_eq!(of(Ok).count(), 0, "of what was not seen nothing is said to be open: {found:?}");
    assert!(of(Problem).any(|one| one.check == FORWARD), "{found:?}");
    assert!(of(Unknown).any(|one| one.message.contains("`iptables`")), "{found:?}");
    let facts = Facts::of(std::future::ready((None, None)), std::future::pending()).await;
    assert_eq!(facts.late, ["nft"]);
    assert!(LIST_LIMIT < crate::doctor::GROUP_LIMIT);
}

#[test]
fn on_a_closed_cluster_nothing_goes_without_tracking() {
    for (closed, untracked, ways) in [(false, true, 2), (false, false, 0), (true, true, 0)] {
        let network =
            NodeNetwork { closed, ..NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap()) };
        let found = Ways::of(&network, "eth0", true, untracked).untracked;
        assert_eq!(found.len(), ways, "{closed} {untracked}");
    }
}
