//! How many tracked connections an instance may have of those that it begins.
//!
//! The rules are part of the table, and there only where a limit is set and the kernel can count.

use std::num::NonZeroU32;

use dwell_core::net::{Ipv6Range, Ranges};

use super::script::lines;
use super::{Firewall, TABLE};
use crate::linux::family::Family;
use crate::linux::program;
use crate::{HostNetwork, NetworkError};

/// What packets from instances come by that begin a tracked connection, and how many each instance has.
const CONNECTING: &str = "connecting";
const CONNECTIONS: &str = "connections";

/// How many instances' connections are counted at most. Those of others are not limited.
const COUNTED_MAX: u32 = 65_536;

impl Firewall {
    /// How many connections each instance may have, as far as this kernel and this `nft` can count them: a host on which they
    /// cannot has its table without that limit.
    pub(super) fn limit_connections(
        &mut self,
        host: &HostNetwork,
    ) -> Result<Option<NonZeroU32>, NetworkError> {
        let Some(limit) = host.connections_max else { return Ok(None) };
        if self.connections_max == Some(Some(limit)) {
            return Ok(Some(limit));
        }
        // By a table that is checked by the kernel, but never there.
        let trial = rules(&host.cluster, host.ipv6, Some(limit), true);
        let trial = format!("add table inet {TABLE}\n{trial}");
        let tried = program::feed(self.program(), &["--check", "-f", "-"], &trial);
        let Some(complaint) = refusal(tried)? else { return Ok(Some(limit)) };
        if !std::mem::replace(&mut self.warned_of_counting, true) {
            tracing::warn!(
                complaint,
                "this kernel cannot count connections (nft_connlimit): `connections_max` does not hold here, and one instance \
                 can fill the host's table of them"
            );
        }
        Ok(None)
    }
}

/// Why what was tried cannot be had here, if so. A program that is missing or hangs has said nothing of that.
fn refusal(tried: Result<String, NetworkError>) -> Result<Option<String>, NetworkError> {
    match tried {
        Ok(_) => Ok(None),
        Err(NetworkError::ProgramFailed { complaint, .. }) => Ok(Some(complaint)),
        Err(error) => Err(error),
    }
}

/// How many tracked connections each instance may begin, in place of what was said of it before.
///
/// They are counted at their first packet, right after tracking has looked at it: one that is dropped there is not tracked.
/// Whose connections they are is known, since the guard has looked at their sources. What goes untracked is not new. A
/// connection that is tracked already goes on, also as long as nobody has answered it and it counts as new.
///
/// An element keeps the limit with which it was made, so with another `limit` than before the counting begins anew
/// (`is_other`).
pub(super) fn rules(
    cluster: &Ranges,
    range: Option<Ipv6Range>,
    limit: Option<NonZeroU32>,
    is_other: bool,
) -> String {
    let families = || Family::all(range).map(|family| (family, family.set(CONNECTIONS)));
    let mut script: String = families()
        .map(|(family, set)| {
            let of = family.address_type();
            format!(
                "add set inet {TABLE} {set} {{ type {of}; size {COUNTED_MAX}; flags dynamic; }}\n"
            )
        })
        .collect();
    // Right after tracking, which is at -200, and before anything is translated.
    script += &format!(
        "add chain inet {TABLE} {CONNECTING} {{ type filter hook prerouting priority -150; policy accept; }}\n\
         flush chain inet {TABLE} {CONNECTING}\n"
    );
    let Some(limit) = limit else {
        script += &format!("delete chain inet {TABLE} {CONNECTING}\n");
        script.extend(families().map(|(_, set)| format!("delete set inet {TABLE} {set}\n")));
        return script;
    };
    if is_other {
        script.extend(families().map(|(_, set)| format!("flush set inet {TABLE} {set}\n")));
    }
    let limits = families().map(|(family, set)| {
        let (ip, instances) = (family.word(), family.any_of(cluster));
        format!(
            "{ip} saddr {instances} ct state new ct status & confirmed != confirmed \
             add @{set} {{ {ip} saddr ct count over {limit} }} counter drop"
        )
    });
    script +=
        &format!("table inet {TABLE} {{\n  chain {CONNECTING} {{\n{}  }}\n}}\n", lines(limits));
    script
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_the_kernel_refuses_is_done_without() {
        let (program, complaint) = ("nft", "No such file or directory".to_owned());
        let refused = NetworkError::ProgramFailed { program, complaint: complaint.clone() };
        assert_eq!(refusal(Err(refused)).unwrap(), Some(complaint));
        assert_eq!(refusal(Ok(String::new())).unwrap(), None);
        let limit = Duration::from_secs(10);
        refusal(Err(NetworkError::ProgramHung { program, limit })).unwrap_err();
    }

    #[test]
    fn connections_are_counted_for_each_address_and_anew_with_another_limit() {
        let of = |limit, is_other| {
            let range: Option<Ipv6Range> = Some("fd00:5::/64".parse().unwrap());
            rules(&"10.80.0.0/16".parse().unwrap(), range, NonZeroU32::new(limit), is_other)
        };
        let limited = of(7, false);
        for counted in [
            "ip saddr 10.80.0.0/16 ct state new ct status & confirmed != confirmed add @connections { ip saddr ct count over 7 }",
            "ip6 saddr fd00:5::a50:0/112 ct state new ct status & confirmed != confirmed add @ip6_connections { ip6 saddr ct count over 7 }",
        ] {
            assert!(limited.contains(&format!("    {counted} counter drop\n")), "{limited}");
        }
        assert!(!limited.contains("flush set") && of(7, true).contains("flush set"));
        let unlimited = of(0, true);
        assert!(!unlimited.contains("ct count"), "{unlimited}");
        for gone in ["chain inet dwell connecting", "set inet dwell connections"] {
            assert!(unlimited.contains(&format!("delete {gone}\n")), "{unlimited}");
        }
    }
}
