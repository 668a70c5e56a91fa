//! What this node makes of an address: the route to it, and whether it works.

use std::net::Ipv4Addr;

use dwell_proto::v1;
use dwell_proto::v1::tunnel_up::Message;

use super::{Ends, TunnelError, send};
use dwell_network::{Network, Probe};

/// Looks the route up, tries it, and tells.
pub(super) async fn carry(
    network: &dyn Network,
    address: Ipv4Addr,
    ends: &Ends,
) -> Result<(), TunnelError> {
    let found = network.probe(address).await?;
    send(&ends.up, Message::Probe(to_wire(found))).await
}

fn to_wire(probe: Probe) -> v1::RouteProbe {
    let mut wire = v1::RouteProbe {
        round_trip_us: probe
            .round_trip
            .map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        mtu: probe.mtu,
        full_size_passes: probe.full_size_passes,
        ..v1::RouteProbe::default()
    };
    if let Some(route) = probe.route {
        wire.own = route.is_ours();
        wire.prefix = route.prefix.to_string();
        wire.via = route.via.map(|via| via.to_string()).unwrap_or_default();
        wire.device = route.device;
        wire.local = route.local;
    }
    wire
}
