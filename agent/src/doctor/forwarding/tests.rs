use super::*;
use crate::doctor::Outcome;

fn tables(listing: &str) -> Tables {
    Tables { program: "iptables", lines: listing.lines().map(str::to_owned).collect() }
}

fn cluster() -> Ipv4Net {
    "10.80.0.0/16".parse().unwrap()
}

const DOCKERS: &str = "-P FORWARD DROP\n-N DOCKER-USER\n-N DWELL-IN\n-N DWELL-OUT\n\
                       -A FORWARD -j DOCKER-USER\n-A DWELL-OUT -s 10.80.0.0/16 -o eth0 -j ACCEPT\n";
const JUMP: &str = "-m comment --comment dwell -j DWELL-IN";
const FIX: &str = "iptables -w -I FORWARD -s 10.80.0.0/16 -j ACCEPT && \
                   iptables -w -I FORWARD -d 10.80.0.0/16 -j ACCEPT";

#[test]
fn chains_of_iptables_that_drop_the_clusters_traffic_are_told_from_those_that_do_not() {
    let dockers_fix = FIX.replace("FORWARD", "DOCKER-USER");
    for (listing, check, fix) in [
        ("-P FORWARD ACCEPT\n".to_owned(), "forward-policy", ""),
        ("-P FORWARD DROP\n".to_owned(), "forward-policy", FIX),
        (format!("{DOCKERS}-A DOCKER-USER {JUMP}\n-A DOCKER-USER -j RETURN"), "forward-policy", ""),
        // Too late, or leading nowhere.
        (format!("{DOCKERS}-A DOCKER-USER -j RETURN\n-A DOCKER-USER {JUMP}"), "forward-policy", &dockers_fix),
        (DOCKERS.to_owned(), "forward-policy", &dockers_fix),
        (format!("-P FORWARD DROP\n-N DWELL-IN\n-A FORWARD {JUMP}"), "forward-policy", FIX),
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
    ] {
        let found = tables(&listing).judge(Some(cluster()));
        assert_eq!((found.check, found.fix.as_str()), (check, fix), "{listing}\n{found:?}");
        assert_eq!(found.outcome == Outcome::Problem, !fix.is_empty(), "{listing}");
    }
}

#[test]
fn chains_of_nftables_that_drop_are_told_with_the_rules_they_lack() {
    let chain =
        |rules: &str| Chain { path: "inet filter forward".to_owned(), text: rules.to_owned() };
    let both = "\tip saddr 10.80.0.0/16 accept\n\t\tip daddr 10.80.0.0/16 counter packets 0 bytes 0 accept\n";
    assert_eq!(chain(both).judge(Some(cluster())).outcome, Outcome::Ok);
    assert_eq!(chain("").judge(None).outcome, Outcome::Unknown);
    let found = chain("ip saddr 10.80.0.0/16 accept").judge(Some(cluster()));
    assert_eq!(found.outcome, Outcome::Problem);
    assert_eq!(
        found.fix,
        "nft insert rule inet filter forward ip saddr 10.80.0.0/16 accept && \
         nft insert rule inet filter forward ip daddr 10.80.0.0/16 accept"
    );
}

#[test]
fn forwarding_is_on_or_not() {
    for (value, outcome) in
        [(Some("1"), Outcome::Ok), (Some("0"), Outcome::Problem), (None, Outcome::Unknown)]
    {
        assert_eq!(ip_forward(value).outcome, outcome);
    }
}

#[test]
fn the_stricter_of_two_filters_counts_and_loose_is_above_strict() {
    for (all, own, strict) in [
        ("0", "0", false),
        ("0", "1", true),
        ("1", "0", true),
        ("1", "1", true),
        ("2", "1", false),
        ("1", "2", false),
    ] {
        let facts = Facts {
            rp_filter_all: Some(all.to_owned()),
            rp_filter: vec![("eth0".to_owned(), own.to_owned())],
            ..Facts::default()
        };
        let found = rp_filter(&facts);
        let fix = if strict { "sysctl -w net.ipv4.conf.eth0.rp_filter=2" } else { "" };
        assert_eq!(found.fix, fix, "{all} {own}");
    }
}

#[test]
fn rules_in_both_kinds_of_iptables_are_a_warning() {
    let legacy = Tables { program: "iptables-legacy", ..tables("-P FORWARD DROP") };
    let facts = Facts {
        cluster: Some(cluster()),
        ip_forward: Some("1".to_owned()),
        iptables: Some(tables("-P FORWARD ACCEPT")),
        legacy: Some(legacy),
        ..Facts::default()
    };
    let found = judge(&facts);
    let bad = |one: &&Finding| one.outcome != Outcome::Ok;
    let bad: Vec<_> = found.iter().filter(bad).map(|one| one.check).collect();
    assert_eq!(bad, ["forward-policy", "iptables-mix"]);
    assert!(found.iter().any(|one| one.fix.starts_with("iptables-legacy -w -I FORWARD")));
}
