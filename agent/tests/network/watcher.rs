//! Noticing what others do, and not what we do ourselves.

use std::time::{Duration, Instant};

use dwell_agent::network::{Disturbances, Network as _, RouteTable};

use crate::world::{NEIGHBOUR, World, db, host, peer, run, web};

fn table() -> RouteTable {
    RouteTable { peers: vec![peer("b", "10.80.2.0/24", NEIGHBOUR)], ..RouteTable::default() }
}

#[tokio::test]
async fn what_others_disturb_is_counted_for_who_repairs_it() {
    // The damage, and what to look at again: the host, the sandboxes, the routes.
    let damages = [
        ("ip route del 10.80.2.0/24", [false, false, true]),
        ("ip route replace 10.80.2.0/24 via 192.0.2.3 metric 157", [false, false, true]),
        ("ip route del 10.80.1.5", [false, true, false]),
        ("ip route del unreachable 10.80.1.0/24", [true, false, false]),
        ("ip link set $(ip -o link | grep -o 'dw-[0-9a-f]*') down", [false, true, false]),
        ("ip link del $(ip -o link | grep -o 'dw-[0-9a-f]*')", [false, true, false]),
        ("ip nexthop flush proto 157", [false, false, true]),
        ("ip link set uplink down", [true, false, true]),
        ("ip address del 192.0.2.1/24 dev uplink", [true, false, true]),
        ("nft flush ruleset", [true, true, false]),
    ];
    for (damage, expected) in damages {
        let world = World::with([&web()]).await;
        world.network.sync_routes(&table()).await.unwrap();
        let mut disturbances = world.network.disturbances();
        let before = *disturbances.borrow_and_update();
        let rose = |now: &Disturbances| {
            [now.host > before.host, now.sandboxes > before.sandboxes, now.routes > before.routes]
        };
        run(damage);
        let seen = disturbances
            .wait_for(|now| rose(now).iter().zip(expected).all(|(rose, due)| *rose || !due));
        let seen = tokio::time::timeout(Duration::from_secs(10), seen).await;
        assert!(seen.is_ok(), "`{damage}` is not noticed");
    }
}

#[tokio::test]
async fn our_own_work_disturbs_nobody() {
    let world = World::ready().await;
    world.network.sync_routes(&table()).await.unwrap();
    for _ in 0..3 {
        world.network.ensure_host(&host()).await.unwrap();
        world.network.ensure_sandbox(&web()).await.unwrap();
        world.network.ensure_sandbox(&db()).await.unwrap();
        world.network.sync_routes(&RouteTable::default()).await.unwrap();
        world.network.sync_routes(&table()).await.unwrap();
        world.network.remove_sandbox(&web().instance).await.unwrap();
    }
    // Notifications come in order: this one comes after all of ours.
    let mut disturbances = world.network.disturbances();
    run("ip route del 10.80.2.0/24");
    let first = tokio::time::timeout(Duration::from_secs(10), disturbances.changed()).await;
    first.unwrap().unwrap();
    let counts = *disturbances.borrow();
    assert_eq!(counts, Disturbances { routes: 1, ..Disturbances::default() });
}

#[tokio::test]
async fn a_flood_of_foreign_changes_hides_nothing() {
    let world = World::ready().await;
    world.network.sync_routes(&table()).await.unwrap();
    let mut disturbances = world.network.disturbances();
    // Foreign routes are no disturbance, unless so many that notifications got lost, which is one.
    let mut batch: String = (0..60_000_u32)
        .map(|n| {
            format!("route add 100.{}.{}.{}/32 dev uplink\n", 64 + (n >> 16), n >> 8 & 255, n & 255)
        })
        .collect();
    batch += "route del 10.80.2.0/24\n";
    std::fs::write("/run/batch", batch).unwrap();
    run("ip -batch /run/batch");
    let seen = disturbances.wait_for(|now| now.routes > 0);
    tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_deleted_route_is_back_within_milliseconds() {
    const GENEROUS: Duration = Duration::from_millis(500);
    let world = World::ready().await;
    world.network.sync_routes(&table()).await.unwrap();
    let mut disturbances = world.network.disturbances();
    let mut times = Vec::new();
    for _ in 0..20 {
        disturbances.mark_unchanged();
        run("ip route del 10.80.2.0/24");
        let start = Instant::now();
        disturbances.changed().await.unwrap();
        let report = world.network.sync_routes(&table()).await.unwrap();
        times.push(start.elapsed());
        assert_eq!(report.added, 1);
    }
    times.sort_unstable();
    println!("from the deletion to the route's return: median {:?}", times[times.len() / 2]);
    assert!(times[times.len() / 2] < GENEROUS);
}
