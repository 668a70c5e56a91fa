//! Whether instances have tried to reach what is closed to them: services of hosts, and addresses of the link.
//!
//! Silence is all that an instance sees of it, so whoever wonders why it cannot connect is told here, and what to do.

use super::reading::{self, Printed};
use super::{Finding, Host, Outcome};

const CHECK: &str = "host-access";
/// Where each drop is counted, by nftables' names of the chain, and what its rule has in it.
const TO_HOST: (&str, &str) = ("host", "drop");
const LINK_LOCAL: (&str, &str) = ("sent", "169.254.0.0/16");

pub(super) async fn findings(host: &Host) -> Vec<Finding> {
    // Without an assignment there is neither an instance nor a table of ours yet.
    if host.config.routes_only || host.assignment.is_none() {
        return Vec::new();
    }
    let (to_host, link_local) = tokio::join!(dropped(TO_HOST), dropped(LINK_LOCAL));
    judge(to_host, link_local)
}

/// How many packets a rule of ours has dropped since it was written; `None` if there is no such rule.
async fn dropped((chain, word): (&str, &str)) -> Option<u64> {
    match reading::run("nft", &["list", "chain", "inet", "dwell", chain]).await {
        Printed::Text(text) => packets(&text, word),
        Printed::Missing | Printed::Failed(_) => None,
    }
}

/// What the last rule with this word counts, as in `counter packets 3 bytes 180 drop`.
fn packets(chain: &str, word: &str) -> Option<u64> {
    let line = chain.lines().rfind(|line| line.contains(word) && line.contains("packets"))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1)?.parse().ok()
}

fn judge(to_host: Option<u64>, link_local: Option<u64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match to_host {
        None => findings.push(Finding::unknown(
            CHECK,
            "dwell's chain `inet dwell host` cannot be read: instances may reach every service of this host",
        )),
        Some(0) => {}
        Some(count) => findings.push(Finding::warning(
            CHECK,
            format!(
                "{count} packets of instances to services of this host itself were dropped: what an instance reaches of its \
                 node, such as a registry, a proxy or the controller, has to be named"
            ),
            "add its port to `host_access` in agent.yaml, as in `host_access: [5000, 123/udp]`, and restart dwell-agent",
        )),
    }
    if let Some(count @ 1..) = link_local {
        findings.push(Finding {
            check: CHECK,
            outcome: Outcome::Warning,
            message: format!(
                "{count} packets of instances to 169.254.0.0/16 were dropped: the cloud's metadata there is this host's own, \
                 and no instance is told"
            ),
            fix: String::new(),
        });
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            "no instance has tried to reach a service of this host that is closed",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: &str = r#"table inet dwell {
	chain host {
		type filter hook input priority filter; policy accept;
		iifname "lo" accept
		ct state established,related accept
		tcp dport 5000 counter packets 9 bytes 9 accept
		counter packets 3 bytes 180 drop
	}
}"#;

    #[test]
    fn drops_are_told_with_the_key_that_opens() {
        assert_eq!(packets(CHAIN, TO_HOST.1), Some(3));
        assert_eq!(packets("", TO_HOST.1), None);
        let findings = judge(packets(CHAIN, TO_HOST.1), Some(0));
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!(finding.outcome, Outcome::Warning);
        assert!(finding.message.starts_with("3 packets of instances"), "{finding:?}");
        assert!(finding.fix.contains("`host_access`"), "{finding:?}");
    }

    #[test]
    fn silence_is_well_and_a_missing_chain_is_not() {
        assert_eq!(judge(Some(0), Some(0))[0].outcome, Outcome::Ok);
        assert_eq!(judge(None, None)[0].outcome, Outcome::Unknown);
        let metadata = judge(Some(0), Some(2));
        assert!(metadata[0].message.contains("metadata"), "{metadata:?}");
    }
}
