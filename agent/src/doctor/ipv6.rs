//! Whether instances of this host can have IPv6 beside IPv4, where the cluster has a prefix for it.

use std::collections::BTreeSet;
use std::path::Path;

use dwell_core::net::Ipv6Range;

use super::{Finding, reading};

const CHECK: &str = "ipv6";
/// What a link has to carry that has IPv6, in bytes.
const MTU_MIN: u64 = 1280;
const OVERLAY: &str = "dwell-vxlan";

/// What was seen.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// `None` of a kernel without IPv6.
    forwarding: Option<String>,
    /// Uplinks on which it is switched off.
    off: Vec<String>,
    /// Links of instances' packets that carry less than it takes, and how much.
    small: Vec<(String, u64)>,
    /// Whether the agent has yet to see to it.
    is_settling: bool,
}

/// Nothing without a prefix.
pub(super) fn finding(
    range: Option<Ipv6Range>,
    uplinks: &BTreeSet<String>,
    is_settling: bool,
) -> Option<Finding> {
    let range = range?;
    let setting = |name: &str| reading::line(format!("/proc/sys/net/ipv6/conf/{name}"));
    let is_off = |name: &&String| setting(&format!("{name}/disable_ipv6")).as_deref() == Some("1");
    let mtu = |name: &str| reading::number(Path::new("/sys/class/net").join(name).join("mtu"));
    let links = uplinks.iter().map(String::as_str).chain([OVERLAY]);
    let facts = Facts {
        forwarding: setting("all/forwarding"),
        off: uplinks.iter().filter(is_off).cloned().collect(),
        small: links
            .filter_map(|name| Some((name.to_owned(), mtu(name).filter(|mtu| *mtu < MTU_MIN)?)))
            .collect(),
        is_settling,
    };
    Some(facts.judge(range))
}

impl Facts {
    fn judge(&self, range: Ipv6Range) -> Finding {
        let problem = |message: String, fix: String| {
            let message = format!(
                "{message}: instances here are not reached by IPv6, which the cluster has in {range}"
            );
            Finding::problem(CHECK, message, fix)
        };
        let Some(forwarding) = &self.forwarding else {
            let fix = "boot the kernel without `ipv6.disable=1`";
            return problem("this kernel has no IPv6".to_owned(), fix.to_owned());
        };
        if !self.off.is_empty() {
            let names = self.off.join(", ");
            let fixes: Vec<_> = self
                .off
                .iter()
                .map(|name| format!("net.ipv6.conf.{name}.disable_ipv6=0"))
                .collect();
            let fix = format!("sysctl -w {}", fixes.join(" "));
            return problem(format!("IPv6 is switched off on {names}"), fix);
        }
        if let Some((name, mtu)) = self.small.first() {
            // What is in the overlay is 50 bytes smaller than what it is in.
            let (link, least) = match name.as_str() {
                OVERLAY => ("the uplink", MTU_MIN + 50),
                name => (name, MTU_MIN),
            };
            let fix = format!("give {link} an MTU of {least} or more");
            return problem(format!("{name} carries {mtu} bytes, and IPv6 takes {MTU_MIN}"), fix);
        }
        match forwarding.as_str() {
            "1" => Finding::ok(CHECK, format!("instances have IPv6 addresses in {range}")),
            value if self.is_settling => Finding::unknown(
                CHECK,
                format!(
                    "net.ipv6.conf.all.forwarding is {value} yet; the agent sets it with net.ipv4.ip_forward"
                ),
            ),
            value => problem(
                format!("net.ipv6.conf.all.forwarding is {value}"),
                "sysctl -w net.ipv6.conf.all.forwarding=1".to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn what_is_in_the_way_is_named_with_what_to_do() {
        let fine = || Facts { forwarding: Some("1".to_owned()), ..Facts::default() };
        let closed = || Facts { forwarding: Some("0".to_owned()), ..Facts::default() };
        let small = |name: &str, mtu| Facts { small: vec![(name.to_owned(), mtu)], ..fine() };
        for (facts, outcome, fix) in [
            (fine(), Outcome::Ok, ""),
            (closed(), Outcome::Problem, "sysctl -w net.ipv6.conf.all.forwarding=1"),
            (Facts { is_settling: true, ..closed() }, Outcome::Unknown, ""),
            (Facts::default(), Outcome::Problem, "boot the kernel without `ipv6.disable=1`"),
            (
                Facts { off: vec!["eth0".to_owned(), "eth1".to_owned()], ..fine() },
                Outcome::Problem,
                "sysctl -w net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.eth1.disable_ipv6=0",
            ),
            (small("eth0", 1270), Outcome::Problem, "give eth0 an MTU of 1280 or more"),
            (small(OVERLAY, 1250), Outcome::Problem, "give the uplink an MTU of 1330 or more"),
        ] {
            let found = facts.judge("fd00:5::/64".parse().unwrap());
            assert_eq!((found.outcome, found.fix.as_str()), (outcome, fix), "{facts:?}");
            assert!(found.message.contains("fd00:5::/64") || outcome == Outcome::Unknown);
        }
        assert_eq!(finding(None, &BTreeSet::new(), false), None, "nobody has asked for it");
    }
}
