//! Instances that are reached only for as long as they are lent to the host: real packets, and a kernel that needs nobody.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dwell_network::linux::{LinuxConfig, LinuxNetwork};
use dwell_network::world::{
    NEIGHBOUR, Place, World, datagram, db, host, peer, reaches, run, sandbox, web,
};
use dwell_network::{Network as _, Reach, RouteTable, Sandbox, Until};

const LONG: Duration = Duration::from_secs(600);

fn reach(sandbox: &Sandbox, until: Until) -> Reach {
    Reach { address: sandbox.address, until }
}

fn for_so_long(sandbox: &Sandbox, time: Duration) -> Vec<Reach> {
    vec![reach(sandbox, Until::At(Instant::now() + time))]
}

fn over(sandbox: &Sandbox) -> Vec<Reach> {
    vec![reach(sandbox, Until::At(Instant::now()))]
}

/// From where an instance is reached: the host, its neighbour, and another instance.
fn reached(web: &Sandbox, db: &Sandbox) -> [bool; 3] {
    let from = [Place::Host, Place::Lan, Place::Inside(db)];
    from.map(|from| reaches(from, web.address))
}

async fn world(web: &Sandbox, db: &Sandbox) -> World {
    let world = World::with([web, db]).await;
    let peers = vec![peer("b", "10.80.2.0/24", NEIGHBOUR)];
    world.network.sync_routes(&RouteTable { peers, ..RouteTable::default() }).await.unwrap();

    world
}

#[tokio::test]
async fn what_is_lent_is_reached_until_its_time_is_up_and_nobody_is_needed_for_that() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    assert_eq!(reached(&web, &db), [true; 3]);
    world.network.sync_leases(&for_so_long(&web, Duration::from_secs(2))).await.unwrap();
    assert_eq!(reached(&web, &db), [true; 3]);
    // The agent is gone.
    drop(world);
    std::thread::sleep(Duration::from_millis(2_100));
    assert_eq!(reached(&web, &db), [false; 3]);
    assert!(reaches(Place::Lan, db.address), "what has no lease is not concerned");
    let out = datagram((Place::Inside(&web), web.address), (Place::Lan, NEIGHBOUR));
    assert_eq!(out, None, "nor does it reach anybody");
    let host = Ipv4Addr::new(192, 0, 2, 1);
    let out = datagram((Place::Inside(&web), web.address), (Place::Host, host));
    assert_eq!(out, None, "not the host either");
}

#[tokio::test]
async fn what_is_lent_anew_goes_on_or_is_reached_again() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    world.network.sync_leases(&for_so_long(&web, Duration::from_millis(700))).await.unwrap();
    world.network.sync_leases(&for_so_long(&web, LONG)).await.unwrap();
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(reached(&web, &db), [true; 3]);
    // Shorter than before.
    world.network.sync_leases(&for_so_long(&web, Duration::from_millis(300))).await.unwrap();
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(reached(&web, &db), [false; 3]);
    world.network.sync_leases(&for_so_long(&web, LONG)).await.unwrap();
    assert_eq!(reached(&web, &db), [true; 3]);
    world.network.sync_leases(&[reach(&web, Until::Ever)]).await.unwrap();
    assert_eq!(reached(&web, &db), [true; 3]);
}

#[tokio::test]
async fn an_agent_that_starts_leaves_what_was_said_and_shortens_it_at_most() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    world.network.sync_leases(&for_so_long(&web, LONG)).await.unwrap();
    let next = LinuxNetwork::new(&LinuxConfig::default()).unwrap();
    next.ensure_host(&host()).await.unwrap();
    assert_eq!(reached(&web, &db), [true; 3]);
    next.sync_leases(&[reach(&web, Until::AsSaid { most: LONG * 2 })]).await.unwrap();
    assert_eq!(reached(&web, &db), [true; 3]);
    let most = Duration::from_millis(300);
    next.sync_leases(&[reach(&web, Until::AsSaid { most })]).await.unwrap();
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(reached(&web, &db), [false; 3]);
    next.sync_leases(&[reach(&web, Until::AsSaid { most: LONG })]).await.unwrap();
    assert_eq!(reached(&web, &db), [false; 3], "what nobody has lent is not lent");
}

#[tokio::test]
async fn what_is_no_longer_spoken_of_stays_shut_until_its_sandbox_is_gone() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    world.network.sync_leases(&over(&web)).await.unwrap();
    world.network.sync_leases(&[reach(&db, Until::Ever)]).await.unwrap();
    assert_eq!(reached(&web, &db), [false; 3]);
    world.network.remove_sandbox(&web.id()).await.unwrap();
    // The address is another instance's now, which is nobody's but this host's.
    let other = sandbox("other-0", web.address.octets());
    world.network.ensure_sandbox(&other).await.unwrap();
    assert_eq!(reached(&other, &db), [true; 3]);
}

#[tokio::test]
async fn what_others_take_away_of_it_comes_back() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    world.network.sync_leases(&over(&web)).await.unwrap();
    for damage in [
        "nft flush table inet dwell_leases",
        "nft delete table inet dwell_leases",
        "nft flush ruleset",
    ] {
        let mut disturbed = world.network.disturbances();
        disturbed.mark_unchanged();
        run(damage);
        tokio::time::timeout(Duration::from_secs(5), disturbed.changed()).await.unwrap().unwrap();
        world.network.ensure_host(&host()).await.unwrap();
        world.network.sync_leases(&over(&web)).await.unwrap();
        assert_eq!(reached(&web, &db), [false; 3], "{damage}");
    }
}

#[tokio::test]
async fn many_are_lent_at_once() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    let at = Until::At(Instant::now() + LONG);
    let address = |number: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 80, 16, 0)) + number);
    let mut all: Vec<Reach> =
        (0..2_500).map(|number| Reach { address: address(number), until: at }).collect();
    all.push(reach(&web, at));
    for _ in 0..2 {
        world.network.sync_leases(&all).await.unwrap();
        assert_eq!(reached(&web, &db), [true; 3]);
    }
    let elements = run("nft -j list set inet dwell_leases lent");
    assert_eq!(elements.matches("\"timeout\"").count(), 2_501 + 1, "with the set's own flag");
}
