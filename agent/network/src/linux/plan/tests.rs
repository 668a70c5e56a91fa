use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::Exception;

const UPLINK: u32 = 2;

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn peer(name: &str, block: &str, via: &str) -> Peer {
    Peer { node: name.parse().unwrap(), blocks: vec![net(block)], via: via.parse().unwrap() }
}

fn exception(address: &str, node: &str) -> Exception {
    Exception { address: address.parse().unwrap(), node: node.parse().unwrap() }
}

fn empty_kernel() -> Kernel {
    let addresses = vec![Address { link: UPLINK, net: net("192.0.2.1/24"), scope: 0 }];
    Kernel { addresses, ..Kernel::default() }
}

fn foreign(prefix: &str, metric: u32) -> Route {
    let prefix = net(prefix);
    let table = libc::RT_TABLE_MAIN;
    let (links, via, nexthop, source) = (Vec::new(), None, None, None);
    let (family, link) = (Family::V4, Some(9));
    Route { family, table, prefix, protocol: 2, kind: 1, metric, link, links, via, nexthop, source }
}

/// What the kernel shows after `plan` has been carried out.
fn carry_out(plan: &Plan<'_>, kernel: &Kernel) -> Kernel {
    let Kernel { mut nexthops, mut routes, mut overlay_routes, .. } = kernel.clone();
    for (_, nexthop, mode) in &plan.nexthops {
        let existed = nexthops.len();
        nexthops.retain(|existing| existing.id != nexthop.id);
        assert_eq!(*mode == Mode::Replace, existed > nexthops.len());
        nexthops.push(*nexthop);
    }
    let added = plan.add.iter().chain(&plan.change).map(ours);
    let (main, beside): (Vec<_>, Vec<_>) =
        added.partition(|route| route.table == libc::RT_TABLE_MAIN);
    routes.extend(main);
    overlay_routes.extend(beside);
    for routes in [&mut routes, &mut overlay_routes] {
        routes.retain(|route| !plan.replaced.contains(&route) && !plan.remove.contains(&route));
    }
    nexthops.retain(|nexthop| !plan.remove_nexthops.contains(nexthop));
    Kernel { nexthops, routes, overlay_routes, ..kernel.clone() }
}

fn ours(route: &PeerRoute<'_>) -> Route {
    Route {
        family: route.family,
        table: route.table,
        prefix: route.prefix,
        protocol: ROUTE_PROTOCOL,
        kind: 1,
        metric: METRIC_PEER,
        link: None,
        links: Vec::new(),
        via: None,
        nexthop: Some(route.nexthop),
        source: route.source,
    }
}

fn is_fixpoint(plan: &Plan<'_>) -> bool {
    plan.nexthops.is_empty()
        && plan.add.is_empty()
        && plan.change.is_empty()
        && plan.replaced.is_empty()
        && plan.remove.is_empty()
        && plan.remove_nexthops.is_empty()
}

#[test]
fn a_new_table_is_added_and_then_in_place() {
    let table = RouteTable {
        peers: vec![
            peer("a", "10.80.1.0/24", "192.0.2.11"),
            peer("b", "10.80.2.0/24", "192.0.2.12"),
        ],
        exceptions: vec![exception("10.80.1.7", "b")],
        ..RouteTable::default()
    };
    let kernel = empty_kernel();
    let first = plan(&table, &kernel);
    assert_eq!((first.nexthops.len(), first.add.len()), (2, 3));
    let kernel = carry_out(&first, &kernel);
    let second = plan(&table, &kernel);
    assert!(is_fixpoint(&second));
    assert_eq!(second.in_place, 3);
}

#[test]
fn a_readdressed_peer_costs_one_nexthop_and_no_route() {
    let old = RouteTable {
        peers: vec![peer("a", "10.80.1.0/24", "192.0.2.11")],
        ..RouteTable::default()
    };
    let kernel = carry_out(&plan(&old, &empty_kernel()), &empty_kernel());
    let new = RouteTable {
        peers: vec![peer("a", "10.80.1.0/24", "192.0.2.99")],
        ..RouteTable::default()
    };
    let plan = plan(&new, &kernel);
    assert_eq!(plan.nexthops.len(), 1);
    assert_eq!((plan.add.len(), plan.change.len(), plan.in_place), (0, 0, 1));
}

#[test]
fn a_moved_exception_is_changed_not_removed() {
    let peers =
        vec![peer("a", "10.80.1.0/24", "192.0.2.11"), peer("b", "10.80.2.0/24", "192.0.2.12")];
    let old = RouteTable {
        peers: peers.clone(),
        exceptions: vec![exception("10.80.3.7", "a")],
        ..RouteTable::default()
    };
    let kernel = carry_out(&plan(&old, &empty_kernel()), &empty_kernel());
    let new = RouteTable {
        peers,
        exceptions: vec![exception("10.80.3.7", "b")],
        ..RouteTable::default()
    };
    let plan = plan(&new, &kernel);
    assert_eq!(plan.change.len(), 1);
    assert_eq!(plan.replaced.len(), 1);
    assert!(plan.remove.is_empty() && plan.add.is_empty());
}

#[test]
fn of_a_change_that_was_cut_short_the_old_route_goes() {
    let peers =
        vec![peer("a", "10.80.1.0/24", "192.0.2.11"), peer("b", "10.80.2.0/24", "192.0.2.12")];
    let old = RouteTable {
        peers: peers.clone(),
        exceptions: vec![exception("10.80.3.7", "a")],
        ..RouteTable::default()
    };
    let mut kernel = carry_out(&plan(&old, &empty_kernel()), &empty_kernel());
    let new = RouteTable {
        peers,
        exceptions: vec![exception("10.80.3.7", "b")],
        ..RouteTable::default()
    };
    let before = kernel.clone();
    kernel.routes.extend(plan(&new, &before).change.iter().map(ours));
    let plan = plan(&new, &kernel);
    assert_eq!((plan.in_place, plan.remove.len()), (3, 1));
    assert!(is_fixpoint(&super::plan(&new, &carry_out(&plan, &kernel))));
}

#[test]
fn foreign_routes_are_reported_by_where_they_take_traffic() {
    // (foreign prefix, its metric, whether it is in the way, whether ours is added beside it)
    let cases = [
        ("10.80.1.0/24", METRIC_PEER, true, false),
        ("10.80.1.0/24", 0, true, true),
        ("10.80.1.0/24", METRIC_PEER + 1, false, true),
        ("10.80.1.128/25", METRIC_PEER + 1, true, true),
        ("10.80.0.0/16", 0, false, true),
        ("0.0.0.0/0", 0, false, true),
    ];
    let table = RouteTable {
        peers: vec![peer("a", "10.80.1.0/24", "192.0.2.11")],
        ..RouteTable::default()
    };
    for (prefix, metric, in_the_way, added) in cases {
        let mut kernel = empty_kernel();
        kernel.routes.push(foreign(prefix, metric));
        let plan = plan(&table, &kernel);
        assert_eq!(!plan.conflicts.is_empty(), in_the_way, "{prefix} metric {metric}");
        assert_eq!(!plan.add.is_empty(), added, "{prefix} metric {metric}");
        assert!(plan.remove.is_empty() && plan.change.is_empty());
    }
}

#[test]
fn a_peer_out_of_reach_does_not_hold_up_the_others() {
    let table = RouteTable {
        peers: vec![
            peer("far", "10.80.1.0/24", "198.51.100.1"),
            peer("own", "10.80.2.0/24", "192.0.2.1"),
            peer("near", "10.80.3.0/24", "192.0.2.13"),
        ],
        exceptions: vec![exception("10.80.9.9", "unknown")],
        ..RouteTable::default()
    };
    let kernel = empty_kernel();
    let plan = plan(&table, &kernel);
    assert_eq!(plan.add.len(), 1);
    let failed: Vec<_> = plan.failures.iter().map(|failure| failure.node.as_str()).collect();
    assert_eq!(failed, ["far", "own", "unknown"]);
}

#[test]
fn foreign_nexthops_keep_their_numbers() {
    let node: NodeName = "a".parse().unwrap();
    let id = nexthop::id_for(&node, false, &BTreeSet::new());
    let mut kernel = empty_kernel();
    kernel.nexthops.push(Nexthop {
        id,
        protocol: 4,
        is_ipv6: false,
        link: Some(UPLINK),
        gateway: Some(Ipv4Addr::new(192, 0, 2, 11)),
        is_onlink: false,
    });
    let table = RouteTable {
        peers: vec![peer("a", "10.80.1.0/24", "192.0.2.11")],
        ..RouteTable::default()
    };
    let plan = plan(&table, &kernel);
    assert_ne!(plan.nexthops[0].1.id, id);
    assert!(plan.remove_nexthops.is_empty());
}

/// Peers on this host's segment and on others, with and without an overlay.
fn any_table() -> impl Strategy<Value = RouteTable> {
    let peers = prop::collection::btree_map(0_u8..40, (0_u8..20, 2_u8..250, 2_u8..4), 0..20);
    let exceptions = prop::collection::btree_map(any::<u8>(), 0_u8..40, 0..20);
    let overlay = prop::option::of(any::<bool>());
    (peers, exceptions, overlay).prop_map(|(peers, exceptions, overlay)| RouteTable {
        peers: peers
            .into_iter()
            .map(|(name, (block, host, segment))| {
                let via = format!("192.0.{segment}.{host}");
                peer(&format!("n{name}"), &format!("10.80.{block}.0/24"), &via)
            })
            .collect(),
        exceptions: exceptions
            .into_iter()
            .map(|(host, node)| exception(&format!("10.80.30.{host}"), &format!("n{node}")))
            .collect(),
        overlay: overlay.map(|always| Overlay { always, ..overlay_of() }),
        ipv6: None,
    })
}

const DEVICE: u32 = 9;

fn overlay_of() -> Overlay {
    Overlay { local: Ipv4Addr::new(192, 0, 2, 1), port: 4789, always: false }
}

/// It knows this host by one address, and cannot answer by a network that only another address of this host is on.
#[test]
fn a_peer_is_reached_directly_only_by_the_network_of_the_hosts_own_address() {
    let peers = vec![peer("other", "10.80.1.0/24", "198.51.100.7")];
    let second = Address { net: net("198.51.100.1/24"), ..empty_kernel().addresses[0] };
    let mut kernel = empty_kernel();
    kernel.addresses.push(second);
    let mut table = RouteTable { peers, overlay: Some(overlay_of()), ..RouteTable::default() };
    assert_eq!(tunnelled(&table, &kernel.addresses).len(), 1);
    // Where there is no overlay, a way that works one way is all there is.
    table.overlay = None;
    assert!(tunnelled(&table, &kernel.addresses).is_empty());
    assert!(plan(&table, &kernel).failures.is_empty());
}

/// What is on `lo` is on no segment, whatever the length of its prefix.
#[test]
fn a_node_whose_address_is_on_lo_reaches_its_peers_through_the_overlay() {
    let peers = vec![peer("other", "10.80.1.0/24", "203.0.113.7")];
    let local = Ipv4Addr::new(203, 0, 113, 1);
    let overlay = Some(Overlay { local, ..overlay_of() });
    let table = RouteTable { peers, overlay, ..RouteTable::default() };
    for length in [24, 32] {
        let net = Ipv4Net::new_assert(local, length);
        let mut kernel = empty_kernel();
        kernel.addresses.push(Address { link: LOOPBACK, net, scope: 0 });
        assert_eq!(tunnelled(&table, &kernel.addresses).len(), 1, "/{length}");
    }
}

#[test]
fn an_overlay_from_an_address_that_is_not_here_says_what_to_do() {
    let peers = vec![
        peer("near", "10.80.1.0/24", "192.0.2.11"),
        peer("far", "10.80.2.0/24", "198.51.100.7"),
    ];
    let overlay = Some(Overlay { local: Ipv4Addr::new(192, 0, 2, 77), ..overlay_of() });
    let table = RouteTable { peers, overlay, ..RouteTable::default() };
    let kernel = empty_kernel();
    assert!(tunnelled(&table, &kernel.addresses).is_empty());
    let planned = plan(&table, &kernel);
    let [failure] = planned.failures.as_slice() else { panic!("{:?}", planned.failures) };
    assert_eq!(failure.node.as_str(), "far");
    for word in ["192.0.2.77", "`dwell node address`"] {
        assert!(failure.reason.contains(word), "{}", failure.reason);
    }
    assert_eq!(planned.add.len(), 1, "a peer on the segment of that address is reached as before");
}

#[test]
fn a_peer_on_another_segment_is_reached_through_the_overlay() {
    let peers = vec![
        peer("near", "10.80.1.0/24", "192.0.2.11"),
        peer("far", "10.80.2.0/24", "198.51.100.7"),
    ];
    let exceptions = vec![exception("10.80.1.7", "far")];
    let table = RouteTable { peers, exceptions, overlay: Some(overlay_of()), ipv6: None };
    let without = empty_kernel();
    let plan_without = plan(&table, &without);
    assert_eq!(plan_without.failures[0].reason, NO_DEVICE);
    assert_eq!(plan_without.add.len(), 1, "the others are served");

    let kernel = Kernel { overlay: Some(DEVICE), ..without };
    let first = plan(&table, &kernel);
    let far: Vec<_> = first.add.iter().filter(|route| route.node.as_str() == "far").collect();
    let seen: Vec<_> =
        far.iter().map(|route| (route.table, route.prefix.to_string(), route.source)).collect();
    let (main, local) = (libc::RT_TABLE_MAIN, Some(overlay_of().local));
    let expected = [
        (main, "10.80.1.7/32".to_owned(), local),
        (main, "10.80.2.0/24".to_owned(), local),
        (OVERLAY_TABLE, "198.51.100.7/32".to_owned(), None),
    ];
    assert_eq!(seen, expected);
    assert!(first.nexthops.iter().all(|(node, nexthop, _)| {
        nexthop.is_onlink == (node.as_str() == "far")
            && nexthop.is_onlink == (nexthop.link == Some(DEVICE))
    }));
    let kernel = carry_out(&first, &kernel);
    assert!(is_fixpoint(&plan(&table, &kernel)));

    // On the same segment by now: its next hop and its routes change, and nothing else.
    let moved =
        [peer("near", "10.80.1.0/24", "192.0.2.11"), peer("far", "10.80.2.0/24", "192.0.2.12")];
    let table = RouteTable { peers: moved.into(), ..table.clone() };
    let second = plan(&table, &kernel);
    assert_eq!((second.nexthops.len(), second.change.len(), second.remove.len()), (1, 2, 1));
}

/// The same table leads to the same routes in IPv6, by next hops of its own.
#[test]
fn ipv6_is_planned_as_ipv4_is() {
    let table = RouteTable {
        peers: vec![
            peer("a", "10.80.1.0/24", "192.0.2.11"),
            peer("b", "10.80.2.0/24", "192.0.2.12"),
        ],
        exceptions: vec![exception("10.80.1.7", "b")],
        ..RouteTable::default()
    };
    let family = Family::of("fd00:5::/64".parse().unwrap());
    let source = Some(Ipv4Addr::new(192, 0, 2, 1));
    let kernel = Kernel { family, source, ..empty_kernel() };
    let of_ipv4 = empty_kernel();
    let (first, second) = (plan(&table, &of_ipv4), plan(&table, &kernel));
    let prefixes = |plan: &Plan<'_>| plan.add.iter().map(|it| it.prefix).collect::<Vec<_>>();
    assert_eq!(prefixes(&first), prefixes(&second));
    assert!(second.add.iter().all(|route| route.family == family && route.source == source));
    let numbers = |plan: &Plan<'_>| plan.nexthops.iter().map(|it| it.1.id).collect::<BTreeSet<_>>();
    assert!(numbers(&first).is_disjoint(&numbers(&second)));
    assert!(second.nexthops.iter().all(|(_, nexthop, _)| nexthop.is_ipv6));
    assert!(is_fixpoint(&plan(&table, &carry_out(&second, &kernel))));
}

proptest! {
    /// From any table to any other in one step, with the routes of others where they were.
    #[test]
    fn one_pass_reaches_the_fixpoint(old in any_table(), new in any_table(), metric in 0_u32..400) {
        let mut start = Kernel { overlay: Some(DEVICE), ..empty_kernel() };
        start.routes.push(foreign("10.80.3.0/24", metric));
        let kernel = carry_out(&plan(&old, &start), &start);
        let kernel = carry_out(&plan(&new, &kernel), &kernel);
        let again = plan(&new, &kernel);
        prop_assert!(is_fixpoint(&again), "{again:?}");
        prop_assert!(kernel.routes.contains(&foreign("10.80.3.0/24", metric)));
        let ours = kernel.routes.len() - 1 + kernel.overlay_routes.len();
        prop_assert_eq!(again.in_place, ours);
    }
}
