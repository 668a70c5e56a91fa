//! The rules of the overlay: who may send into it, and what goes by it.

use super::script::Side;
use super::{TABLE, TUNNELLED};
use crate::linux::overlay::{DEVICE, MARK, VNI};
use crate::{INTERFACE_PREFIX, Overlay};

/// What the packets between hosts come by that are on their way out.
const CHAIN: &str = "tunnel";
/// What instances' packets come by on their way into the device.
const ENTRANCE: &str = "entrance";

/// What the chains of the table say in addition, where there is an overlay.
pub(super) struct Rules {
    /// To what comes out of sandboxes.
    pub(super) sent: Vec<String>,
    /// To what comes to the host itself. These are the first.
    pub(super) to_host: Vec<String>,
    /// Before anything is masqueraded.
    pub(super) masquerade: String,
    /// Makes, or removes, the chains that only the overlay has.
    pub(super) chains: String,
    /// What tells packets between hosts from others.
    packets: Option<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            sent: Vec::new(),
            to_host: Vec::new(),
            masquerade: String::new(),
            chains: format!(
                "{}delete chain inet {TABLE} {CHAIN}\ndelete chain inet {TABLE} {ENTRANCE}\n",
                empty_chains()
            ),
            packets: None,
        }
    }
}

impl Rules {
    pub(super) fn of(overlay: &Overlay) -> Self {
        let Overlay { local, port, .. } = overlay;
        // The number of the overlay is 12 bytes behind the beginning of the UDP header. Others may use the port, too.
        let packets = format!("udp dport {port} @th,96,24 {VNI}");
        let unmarked = !MARK;
        Self {
            // No router between the hosts knows instances.
            sent: vec![format!("ip daddr @{TUNNELLED} meta mark set meta mark | {MARK:#x}")],
            to_host: vec![
                format!("{packets} ip saddr != @{TUNNELLED} counter drop"),
                // What instances send to other addresses of this host comes under their own host's.
                format!("{packets} ip daddr != {local} counter drop"),
            ],
            // Under their host's address, instances could speak for it in the overlay.
            masquerade: format!("\n    iifname \"{INTERFACE_PREFIX}*\" udp dport {port} accept"),
            // Both packets have one mark, and the outer one would be led into the overlay again.
            chains: format!(
                "{}flush chain inet {TABLE} {CHAIN}\nflush chain inet {TABLE} {ENTRANCE}\n\
                 add rule inet {TABLE} {CHAIN} {packets} notrack\n\
                 add rule inet {TABLE} {ENTRANCE} oifname \"{DEVICE}\" meta mark set meta mark & {unmarked:#x}\n",
                empty_chains()
            ),
            packets: Some(packets),
        }
    }

    /// To what comes into the host from elsewhere than a sandbox.
    pub(super) fn guard(&self, sides: impl Iterator<Item = Side>) -> Vec<String> {
        let Some(packets) = &self.packets else { return Vec::new() };
        let mut rules = vec![format!("{packets} notrack")];
        // Instances whose node is in the overlay come through it, and nobody comes for them by another way.
        rules.extend(sides.map(|(family, cluster)| {
            let ip = family.word();
            format!(
                "iifname != \"{DEVICE}\" {ip} saddr {cluster} fib saddr oifname \"{DEVICE}\" counter drop"
            )
        }));
        rules
    }
}

/// Makes the chains, if they are missing.
fn empty_chains() -> String {
    let chain = |name, hook, priority| {
        format!(
            "add chain inet {TABLE} {name} {{ type filter hook {hook} priority {priority}; policy accept; }}\n"
        )
    };
    chain(CHAIN, "output", "raw") + &chain(ENTRANCE, "postrouting", "mangle")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::linux::family::Family;

    fn side() -> std::iter::Once<Side> {
        std::iter::once((Family::V4, "10.80.0.0/16".parse().unwrap()))
    }

    #[test]
    fn only_what_peers_send_to_the_nodes_address_is_received() {
        let local = Ipv4Addr::new(192, 0, 2, 1);
        let rules = Rules::of(&Overlay { local, port: 8472, always: false });
        assert_eq!(
            rules.to_host,
            [
                "udp dport 8472 @th,96,24 157 ip saddr != @tunnelled counter drop",
                "udp dport 8472 @th,96,24 157 ip daddr != 192.0.2.1 counter drop",
            ]
        );
        let guard = rules.guard(side());
        assert!(guard[1].contains(r#"fib saddr oifname "dwell-vxlan" counter drop"#));
    }

    #[test]
    fn without_an_overlay_there_is_nothing_of_it() {
        let rules = Rules::default();
        assert!(rules.chains.ends_with("delete chain inet dwell entrance\n"));
        assert!(rules.guard(side()).is_empty());
    }
}
