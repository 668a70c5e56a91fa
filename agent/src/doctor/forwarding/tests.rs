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
