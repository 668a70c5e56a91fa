//! What an answer of a node means, in words.

use std::net::Ipv4Addr;

use dwell_core::id::{InstanceName, NodeName};
use dwell_proto::v1;
use dwell_proto::v1::finding::Outcome;

/// How far a clock may be off before it is worth a word, in milliseconds.
const CLOCK_NOTICED_MS: u64 = 1_000;
/// From where on certificates that were just made are not valid yet, in milliseconds.
const CLOCK_HARMFUL_MS: u64 = 60_000;

/// The instance that routes are to lead to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) instance: InstanceName,
    pub(super) address: Ipv4Addr,
    /// Where it is.
    pub(super) node: NodeName,
    /// That node's address in the underlay.
    pub(super) via: Ipv4Addr,
}

/// What is wrong with the way from a node to the target; `None` if it is right and works.
pub(super) fn route_problem(
    target: &Target,
    from: &NodeName,
    probe: &v1::RouteProbe,
) -> Option<String> {
    let Target { instance, address, node, via } = target;
    let is_home = from == node;
    let route = match probe.via.as_str() {
        "" => format!("{} dev {}", probe.prefix, probe.device),
        via => format!("{} via {via} dev {}", probe.prefix, probe.device),
    };
    if probe.prefix.is_empty() {
        return Some(format!("no route to {address}; `dwell-agent doctor` on {from} says why"));
    }
    if is_home && !probe.local {
        return Some(format!(
            "{instance} is to be here, but its address leads away: {route}; `dwell inspect {instance}` says how \
             far it is"
        ));
    }
    if !is_home && probe.local {
        return Some(format!(
            "{instance} is on {node}, but this node has a sandbox with its address ({}); `dwell-agent doctor` on \
             {from} says more",
            probe.device
        ));
    }
    if !probe.own {
        return Some(format!(
            "the route {route} is not dwell's and takes the traffic; `ip route del {route}` on {from} removes it"
        ));
    }
    if !is_home && probe.via != via.to_string() {
        return Some(format!(
            "the route {route} leads elsewhere than to {node} ({via}); if it stays so, look at the log of the \
             agent of {from}"
        ));
    }
    if probe.round_trip_us.is_none() {
        return Some(if is_home {
            format!(
                "the sandbox of {instance} does not answer; `dwell restart {instance}` makes it anew"
            )
        } else {
            format!(
                "no echo from {address} over {route}; `dwell-agent doctor` on {from} and on {node} says what \
                 is in the way"
            )
        });
    }
    (probe.full_size_passes == Some(false)).then(|| {
        format!(
            "packets of {mtu} bytes get lost on the way, small ones do not; `ip link set dev {} mtu SIZE` with \
             what the network carries puts it right",
            probe.device,
            mtu = probe.mtu
        )
    })
}

/// What a clock that is `ahead_ms` ahead of the controller's means.
pub(super) fn clock_finding(ahead_ms: i64) -> v1::Finding {
    let off_ms = ahead_ms.unsigned_abs();
    let (outcome, fix) = match off_ms {
        0..CLOCK_NOTICED_MS => (Outcome::Ok, ""),
        CLOCK_NOTICED_MS..CLOCK_HARMFUL_MS => (Outcome::Warning, "timedatectl set-ntp true"),
        _ => (Outcome::Problem, "timedatectl set-ntp true"),
    };
    let message = match ahead_ms {
        0.. => format!("the clock is {off_ms} ms ahead of the controller's"),
        _ => format!("the clock is {off_ms} ms behind the controller's"),
    };
    v1::Finding {
        check: "clock-skew".to_owned(),
        outcome: outcome.into(),
        message,
        fix: fix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target {
            instance: "web-0".parse().unwrap(),
            address: Ipv4Addr::new(10, 80, 1, 5),
            node: "h1".parse().unwrap(),
            via: Ipv4Addr::new(192, 0, 2, 1),
        }
    }

    fn good() -> v1::RouteProbe {
        v1::RouteProbe {
            prefix: "10.80.1.0/24".to_owned(),
            via: "192.0.2.1".to_owned(),
            device: "eth0".to_owned(),
            own: true,
            local: false,
            round_trip_us: Some(300),
            mtu: 1500,
            full_size_passes: Some(true),
        }
    }

    fn at_home() -> v1::RouteProbe {
        let prefix = "10.80.1.5/32".to_owned();
        v1::RouteProbe { prefix, via: String::new(), device: "dw-1".into(), local: true, ..good() }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("h1", at_home(), None),
            ("h2", good(), None),
            ("h2", v1::RouteProbe::default(), Some("no route to 10.80.1.5")),
            ("h1", good(), Some("leads away: 10.80.1.0/24 via 192.0.2.1 dev eth0")),
            ("h2", at_home(), Some("web-0 is on h1, but this node")),
            ("h2", v1::RouteProbe { own: false, ..good() }, Some("is not dwell's")),
            (
                "h2",
                v1::RouteProbe { own: false, via: String::new(), ..good() },
                Some("`ip route del 10.80.1.0/24 dev eth0`"),
            ),
            ("h2", v1::RouteProbe { via: "192.0.2.9".into(), ..good() }, Some("to h1 (192.0.2.1)")),
            (
                "h1",
                v1::RouteProbe { round_trip_us: None, ..at_home() },
                Some("the sandbox of web-0"),
            ),
            (
                "h2",
                v1::RouteProbe { round_trip_us: None, ..good() },
                Some("no echo from 10.80.1.5"),
            ),
            ("h2", v1::RouteProbe { full_size_passes: Some(false), ..good() }, Some("1500 bytes")),
        ];
        for (from, probe, expected) in table {
            let said = route_problem(&target(), &from.parse().unwrap(), &probe);
            match (&said, expected) {
                (None, None) => {}
                (Some(said), Some(expected)) if said.contains(expected) => {}
                _ => panic!("{from} {probe:?}: {said:?}"),
            }
        }
    }

    #[test]
    fn clocks_that_differ_little_do_not_matter() {
        for (ahead_ms, outcome, said) in [
            (-999, Outcome::Ok, "999 ms behind"),
            (0, Outcome::Ok, "0 ms ahead"),
            (1_000, Outcome::Warning, "1000 ms ahead"),
            (-60_000, Outcome::Problem, "60000 ms behind"),
            (i64::MIN, Outcome::Problem, "behind"),
        ] {
            let finding = clock_finding(ahead_ms);
            assert_eq!(finding.outcome(), outcome, "{ahead_ms}");
            assert!(finding.message.contains(said), "{}", finding.message);
            assert_eq!(finding.fix.is_empty(), outcome == Outcome::Ok);
        }
    }
}
