//! Under which address this host is reached by others, as its routing table has it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, RouteMessageBuilder};

/// The source address of packets that take the best default route: the one the route names, or else the
/// first of its interface.
///
/// This asks at the start and seldom after that, where the time that a question takes does not count; the many
/// and frequent questions go through the [owner](super::owner)'s sockets.
///
/// # Errors
/// If there is no default route, its interface has no IPv4 address, or the kernel does not answer.
pub async fn underlay_address() -> io::Result<Ipv4Addr> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let address = ask(&handle).await;
    connection.abort();
    address
}

async fn ask(handle: &Handle) -> io::Result<Ipv4Addr> {
    let everything = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<RouteMessage> =
        handle.route().get(everything).execute().try_collect().await.map_err(io::Error::other)?;
    let is_default = |route: &&RouteMessage| route.header.destination_prefix_length == 0;
    let best = routes.iter().filter(is_default).filter_map(Default::of).min_by_key(|it| it.metric);
    let best = best.ok_or_else(|| io::Error::other("there is no default route"))?;
    match best.source {
        Some(address) => Ok(address),
        None => first_address(handle, best.link).await,
    }
}

/// What matters of a default route.
struct Default {
    metric: u32,
    link: u32,
    source: Option<Ipv4Addr>,
}

impl Default {
    fn of(route: &RouteMessage) -> Option<Self> {
        let mut found = Self { metric: 0, link: 0, source: None };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Priority(metric) => found.metric = *metric,
                RouteAttribute::Oif(link) => found.link = *link,
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => {
                    found.source = Some(*address);
                }
                _ => {}
            }
        }
        (found.link != 0).then_some(found)
    }
}

async fn first_address(handle: &Handle, link: u32) -> io::Result<Ipv4Addr> {
    let addresses = handle.address().get().set_link_index_filter(link).execute();
    let addresses: Vec<_> = addresses.try_collect().await.map_err(io::Error::other)?;
    let mut attributes = addresses.iter().flat_map(|address| &address.attributes);
    attributes
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("the default route's interface has no IPv4 address"))
}
