//! What the doctor says of a host that somebody broke, and whether the command that it prints repairs it.

use std::sync::Arc;

use dwell_agent::config::Config;
use dwell_agent::doctor::{self, Finding, Host, Outcome};
use dwell_core::id::Revision;
use dwell_core::session::{Assignment, NodeNetwork};

use dwell_network::world::{HOST, Place, World, reaches, run, web};

fn host_of(world: &World) -> Host {
    let network = NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap());
    let assignment = Assignment { revision: Revision(1), ..Assignment::empty(network) };
    Host {
        config: Arc::new(Config { address: Some(HOST), ..Config::default() }),
        engine: None,
        network: Some(Arc::new(world.network.clone())),
        assignment: Some(Arc::new(assignment)),
        is_agent: false,
    }
}

/// What the network's own checks find wrong.
async fn problems(host: &Host) -> Vec<Finding> {
    const CHECKS: [&str; 6] =
        ["ip-forward", "rp-filter", "forward-policy", "firewall-names", "overlap", "mtu"];
    let mut findings = doctor::examine(host).await;
    findings.retain(|one| one.outcome != Outcome::Ok && CHECKS.contains(&one.check));
    findings
}

#[tokio::test]
async fn the_printed_command_repairs_what_was_broken() {
    let world = World::with([&web()]).await;
    let host = host_of(&world);
    assert_eq!(problems(&host).await, []);
    for (check, breaking, cuts_off) in [
        ("ip-forward", "sysctl -q -w net.ipv4.ip_forward=0", true),
        ("rp-filter", "sysctl -q -w net.ipv4.conf.uplink.rp_filter=1", false),
        ("forward-policy", "iptables -w -P FORWARD DROP", true),
        (
            "forward-policy",
            "iptables -w -F FORWARD; iptables -w -P FORWARD ACCEPT
             iptables -w -A FORWARD -j REJECT --reject-with icmp-host-prohibited",
            true,
        ),
        (
            "forward-policy",
            "iptables -w -F FORWARD
             nft 'table inet walls { chain every { type filter hook forward priority 5; policy drop; }; }'",
            true,
        ),
        (
            "firewall-names",
            "iptables -w -P INPUT DROP; iptables -w -A INPUT -p icmp -j ACCEPT",
            false,
        ),
        (
            "firewall-names",
            "iptables -w -P INPUT ACCEPT
             nft 'table inet walls { chain own { type filter hook input priority 5; iifname lo accept; reject; }; }'",
            false,
        ),
        ("overlap", "ip route add 10.80.3.0/24 via 192.0.2.3", false),
        ("overlap", "ip link add tun9 up type veth peer name tun8; ip address add 10.80.9.1/24 dev tun9", false),
    ] {
        run(breaking);
        let found = problems(&host).await;
        let [finding] = &found[..] else { panic!("{breaking}: {found:?}") };
        assert_eq!((finding.check, finding.outcome), (check, Outcome::Problem), "{breaking}");
        assert_eq!(reaches(Place::Lan, web().address), !cuts_off, "{breaking}");
        run(&finding.fix);
        assert_eq!(problems(&host).await, [], "{}", finding.fix);
        assert!(reaches(Place::Lan, web().address), "{}", finding.fix);
    }
}

#[tokio::test]
async fn the_command_needs_no_agent_and_says_with_its_code_whether_there_is_a_problem() {
    let _world = World::ready().await;
    std::fs::write(
        "/run/agent.yaml",
        "{data_dir: /run/data, routes_only: true, address: 192.0.2.1}",
    )
    .unwrap();
    let program = env!("CARGO_BIN_EXE_dwell-agent");
    let output = run(&format!("{program} --config /run/agent.yaml doctor -o json || [ $? = 1 ]"));
    let findings: serde_json::Value = serde_json::from_str(&output).unwrap();
    let outcome = |check: &str| {
        let mut all = findings.as_array().unwrap().iter();
        all.find(|one| one["check"] == check).unwrap()["outcome"].clone()
    };
    assert_eq!(outcome("ip-forward"), "ok");
    assert_eq!(outcome("certificate"), "problem", "this host has not joined");
    let text = run(&format!("{program} --config /run/agent.yaml doctor || [ $? = 1 ]"));
    assert!(text.starts_with("problem "), "{text}");
    run(&format!("{program} doctor --unknown 2>&1 >/dev/null || [ $? = 2 ]"));
}
