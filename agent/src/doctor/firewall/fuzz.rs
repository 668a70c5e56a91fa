//! What must hold of what `nft` and `iptables` say, whose rules anybody on the host may have made.

use std::net::Ipv4Addr;

use dwell_core::workload::Protocol;

use super::iptables::Tables;
use super::nft::Listing;
use super::walk::{Leaves, Packet, State, walk};

fn packets() -> [Packet; 2] {
    let packet = |leaves| Packet {
        from: Ipv4Addr::new(10, 80, 1, 2),
        to: Ipv4Addr::new(10, 80, 2, 3),
        enters: "eth0".to_owned(),
        leaves,
        protocol: Protocol::Tcp,
        port: 22,
        state: State::New,
    };
    [packet(Leaves::Never), packet(Leaves::By("dw-1-2".to_owned()))]
}

/// `nft -j list ruleset`.
pub(crate) fn nft(bytes: &[u8]) {
    let Ok(listing) = serde_json::from_slice::<Listing>(bytes) else { return };
    for packet in packets() {
        let steps = listing.steps(&packet);
        for chain in listing.chains() {
            let _ = walk(&steps, &chain.name);
        }
    }
}

/// `iptables -S`.
pub(crate) fn iptables(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let lines = text.lines().map(str::to_owned).collect();
    let tables = Tables { program: "iptables", lines };
    for packet in packets() {
        let steps = tables.steps(&packet);
        for chain in ["FORWARD", "INPUT"] {
            let _ = walk(&steps, chain);
        }
    }
}
