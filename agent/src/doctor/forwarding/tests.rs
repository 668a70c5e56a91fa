use super::*;

#[test]
fn forwarding_is_on_or_not() {
    for (value, is_settling, outcome) in [
        (Some("1"), false, Outcome::Ok),
        (Some("0"), false, Outcome::Problem),
        (None, false, Outcome::Unknown),
        (Some("1"), true, Outcome::Ok),
        // The agent is about to see to it.
        (Some("0"), true, Outcome::Unknown),
    ] {
        let facts = Facts { is_settling, ip_forward: value.map(str::to_owned), ..Facts::default() };
        assert_eq!(facts.ip_forward().outcome, outcome, "{value:?} {is_settling}");
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
        let found = facts.rp_filter();
        let fix = if strict { "sysctl -w net.ipv4.conf.eth0.rp_filter=2" } else { "" };
        assert_eq!(found.fix, fix, "{all} {own}");
    }
}

#[test]
fn a_second_look_that_was_late_does_not_hide_what_the_first_one_found() {
    let problem = || Look {
        findings: vec![Finding::problem("forward-policy", "drops", "iptables -P FORWARD ACCEPT")],
        is_late: false,
    };
    let again = |finding: Finding, is_late| Some(Look { findings: vec![finding], is_late });
    let unknown = Finding::unknown("forward-policy", "`iptables` did not list its rules");
    for (again, outcome) in [
        (None, Outcome::Problem),
        (again(unknown, true), Outcome::Problem),
        (again(Finding::ok("forward-policy", "no firewall drops"), false), Outcome::Ok),
    ] {
        let found = settled(problem(), again);
        assert_eq!(found.iter().map(|one| one.outcome).collect::<Vec<_>>(), [outcome]);
    }
}

#[test]
fn uplinks_are_found_behind_nexthop_objects() {
    // As `ip` says it with `nexthop_compat_mode` 0.
    let objects = r#"[
        {"id":30,"gateway":"192.0.2.1","dev":"eth9","scope":"link","flags":[]},
        {"id":31,"gateway":"198.51.100.1","dev":"eth8","scope":"link","flags":[]},
        {"id":40,"group":[{"id":30},{"id":31,"weight":2}],"flags":[]},
        {"id":50,"blackhole":true,"flags":[]}
    ]"#;
    let objects: Vec<Object> = serde_json::from_str(objects).unwrap();
    for (route, names) in [
        (r#"{"dst":"default","nhid":40,"flags":[]}"#, &["eth8", "eth9"][..]),
        (r#"{"dst":"default","nhid":30,"metric":5,"flags":[]}"#, &["eth9"]),
        (r#"{"dst":"default","nhid":50,"flags":[]}"#, &[]),
        (r#"{"dst":"default","nhid":60,"flags":[]}"#, &[]),
        (r#"{"dst":"default","gateway":"192.0.2.1","dev":"eth1","flags":[]}"#, &["eth1"]),
        (
            r#"{"dst":"default","nexthops":[{"dev":"eth1","weight":1},{"dev":"eth2","weight":1}]}"#,
            &["eth1", "eth2"],
        ),
    ] {
        let routes = vec![serde_json::from_str(route).unwrap()];
        let mut found = leading(routes, &objects);
        found.retain(|name| !name.is_empty());
        found.sort();
        assert_eq!(found, names, "{route}");
    }
}
