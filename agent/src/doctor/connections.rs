//! Whether an instance has more connections than it may, or no limit holds although one is declared.

use super::reading::{self, Printed};
use super::{Finding, Host};

const CHECK: &str = "connections";

pub(super) async fn findings(host: &Host) -> Vec<Finding> {
    let limit = host.config.connections_max;
    // Without an assignment there is no table of ours yet.
    if limit == 0 || host.assignment.is_none() {
        return Vec::new();
    }
    let chain = reading::run("nft", &["list", "chain", "inet", "dwell", "connecting"]).await;
    let chain = match chain {
        Printed::Text(text) => Some(text),
        Printed::Missing | Printed::Failed(_) => None,
    };
    vec![judge(limit, chain.as_deref().and_then(dropped))]
}

/// How many packets the rules dropped since they were written, of all protocols; `None` if there is no such rule.
fn dropped(chain: &str) -> Option<u64> {
    let counts = chain.lines().filter(|line| line.contains("ct count over")).map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1)?.parse::<u64>().ok()
    });
    counts.reduce(|one, next| Some(one?.saturating_add(next?))).flatten()
}

fn judge(limit: u32, dropped: Option<u64>) -> Finding {
    match dropped {
        None => Finding::warning(
            CHECK,
            format!(
                "no instance is held to {limit} connections (`connections_max` in agent.yaml): one that begins very many can \
                 fill this host's table of them, and then nobody here gets another one"
            ),
            "run a kernel with nft_connlimit, such as a distribution's own, and restart dwell-agent",
        ),
        Some(0) => {
            Finding::ok(CHECK, format!("no instance has begun more than {limit} connections"))
        }
        Some(count) => Finding::warning(
            CHECK,
            format!(
                "{count} packets were dropped that would have begun a connection of an instance which had {limit} already; \
                 `nft list set inet dwell connections` shows the addresses"
            ),
            "look after that instance; if it needs so many, raise `connections_max` in agent.yaml, \
             and net.netfilter.nf_conntrack_max with it, and restart dwell-agent",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    const CHAIN: &str = r"table inet dwell {
	chain connecting {
		type filter hook prerouting priority mangle; policy accept;
		ip saddr 10.80.0.0/16 ct state new add @connections { ip saddr ct count over 5 } counter packets 3 bytes 90 drop
		ip6 saddr fd00:5::a50:0/112 ct state new add @ip6_connections { ip6 saddr ct count over 5 } counter packets 4 bytes 9 drop
	}
}";

    #[test]
    fn what_was_dropped_is_told_with_the_key_that_allows_more() {
        assert_eq!(dropped(CHAIN), Some(7));
        let finding = judge(5, dropped(CHAIN));
        assert_eq!(finding.outcome, Outcome::Warning);
        assert!(finding.message.starts_with("7 packets were dropped"), "{finding:?}");
        assert!(finding.fix.contains("`connections_max`"), "{finding:?}");
        assert_eq!(judge(5, Some(0)).outcome, Outcome::Ok);
    }

    #[test]
    fn a_limit_that_does_not_hold_is_told() {
        assert_eq!(dropped("table inet dwell {\n\tchain connecting {\n\t}\n}"), None);
        let finding = judge(5, None);
        assert_eq!(finding.outcome, Outcome::Warning);
        assert!(finding.message.contains("no instance is held to 5"), "{finding:?}");
    }
}
