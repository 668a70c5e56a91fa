//! The way to an address, as the kernel would take it now.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::libc;

use super::echo::Echo;
use super::observe::{Link, attributes, ipv4, u32_at};
use super::owner::Owner;
use super::{refused, request, veth};
use crate::{FoundRoute, NetworkError, Probe};

const HEADER_BYTES: usize = 12;

impl Owner {
    /// The way to `address` of packets with this mark, and a socket to try it with; `None` if there is no way.
    pub(super) fn way_to(
        &mut self,
        address: Ipv4Addr,
        mark: Option<u32>,
    ) -> Result<Option<Way>, NetworkError> {
        let action = || format!("look up the route to {address}");
        let hop = self.route.get(request::resolve_route(address, mark), Hop::parse);
        let hop = match hop.map_err(refused(action))? {
            Err(refusal) if is_no_way(refusal.errno) => return Ok(None),
            hop => hop.map_err(|refusal| refused(action)(refusal.into()))?,
        };
        let entry = self.route.get(request::match_route(address, mark), Entry::parse);
        let entry = entry.map_err(refused(action))?;
        // Between two questions, either answer may have gone.
        let (Some(hop), Ok(Some(entry))) = (hop, entry) else { return Ok(None) };
        let link = self.route.get(request::get_link(hop.link), Link::parse);
        let Ok(Some(link)) = link.map_err(refused(action))? else { return Ok(None) };
        let is_own_address = entry.kind == libc::RTN_LOCAL;
        let route = FoundRoute {
            prefix: entry.prefix,
            via: hop.via,
            protocol: entry.protocol,
            local: is_own_address || veth::is_ours(&link),
            device: link.name,
        };
        let echo = Echo::open(address, mark)
            .map_err(refused(|| format!("open a socket for an ICMP echo to {address}")))?;
        Ok(Some(Way { route, mtu: hop.mtu.unwrap_or(link.mtu), echo }))
    }
}

/// A way to an address, and a socket to try it with.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) route: FoundRoute,
    /// In bytes.
    mtu: u32,
    echo: Echo,
}

impl Way {
    /// Tries it. Not by the owner, who has other things to do than to wait.
    pub(super) async fn probe(self, address: Ipv4Addr) -> Result<Probe, NetworkError> {
        let Self { route, mtu, echo } = self;
        let (round_trip, full_size_passes) = echo
            .measure(mtu)
            .await
            .map_err(refused(|| format!("send an ICMP echo to {address}")))?;
        Ok(Probe { route: Some(route), round_trip, mtu, full_size_passes })
    }
}

/// How the kernel says that it would not send a packet there.
fn is_no_way(errno: Errno) -> bool {
    matches!(errno, Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL)
}

/// Where the next packet goes.
pub(super) struct Hop {
    link: u32,
    via: Option<Ipv4Addr>,
    /// If the route or what was learnt of the path has one.
    mtu: Option<u32>,
}

impl Hop {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        const RTAX_MTU: u16 = 2;
        let mut link = None;
        let mut via = None;
        let mut mtu = None;
        for attribute in attributes(payload, HEADER_BYTES) {
            match attribute.kind {
                libc::RTA_OIF => link = u32_at(attribute.value, 0),
                libc::RTA_GATEWAY => via = ipv4(attribute.value),
                libc::RTA_METRICS => {
                    let mut metrics = attributes(attribute.value, 0);
                    mtu = metrics
                        .find(|metric| metric.kind == RTAX_MTU)
                        .and_then(|metric| u32_at(metric.value, 0));
                }
                _ => {}
            }
        }
        Some(Self { link: link?, via, mtu })
    }
}

/// The entry of the table that decides, of any table.
pub(super) struct Entry {
    prefix: Ipv4Net,
    protocol: u8,
    kind: u8,
}

impl Entry {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let &[_, prefix_length, _, _, _, protocol, _, kind, ..] = payload else { return None };
        let mut attributes = attributes(payload, HEADER_BYTES);
        let address = attributes
            .find(|attribute| attribute.kind == libc::RTA_DST)
            .map_or(Some(Ipv4Addr::UNSPECIFIED), |attribute| ipv4(attribute.value))?;
        Some(Self { prefix: Ipv4Net::new(address, prefix_length).ok()?, protocol, kind })
    }
}
