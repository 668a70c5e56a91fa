//! What is of ours in the kernel is seen as it is, and what belongs to no sandbox is found and removed.

use dwell_network::world::{
    NEIGHBOUR, Place, World, db, host, inside, namespace_of, peer, reaches, run, web,
};
use dwell_network::{Allow, Direction, Network as _, Policy, RouteTable};

const VETHS: &str = "ip -o link show group default | grep -c ' dw-' || true";

#[tokio::test]
async fn what_is_as_declared_is_seen_so() {
    let (web, db) = (web(), db());
    let world = World::with([&web, &db]).await;
    let table =
        RouteTable { peers: vec![peer("h2", "10.80.2.0/24", NEIGHBOUR)], ..RouteTable::default() };
    assert!(!world.network.look(&table).await.unwrap().routes.is_empty(), "nothing was made yet");
    world.network.sync_routes(&table).await.unwrap();
    let seen = world.network.look(&table).await.unwrap();
    assert_eq!((&seen.routes, &seen.strays), (&Vec::new(), &[].into()));
    assert_eq!(seen.sandboxes.len(), 2);
    let found = &seen.sandboxes[&web.id()];
    let inode =
        std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(namespace_of(&web)).unwrap());
    assert_eq!((found.namespace, found.mac, found.is_running), (Some(inode), Some(web.mac), true));
    let only = [web.address].into();
    assert_eq!((&found.addresses, &found.routed, &found.sources), (&only, &only, &only));

    let difference = async |table: RouteTable| world.network.look(&table).await.unwrap().routes;
    let gone = difference(RouteTable::default()).await;
    assert!(gone.iter().any(|one| one.subject == "route 10.80.2.0/24" && one.is_own), "{gone:?}");
    run("ip route add 10.80.2.128/25 via 192.0.2.2");
    let taken = difference(table.clone()).await;
    assert!(
        taken.iter().any(|one| !one.is_own && one.found.contains("10.80.2.128/25")),
        "{taken:?}"
    );
    run(&format!("ip route del unreachable {}", host().blocks[0]));
    let open = difference(table).await;
    assert!(open.iter().any(|one| one.subject == "route 10.80.1.0/24"), "{open:?}");
}

#[tokio::test]
async fn a_sandbox_that_lacks_something_is_seen_so() {
    let web = web();
    let world = World::with([&web]).await;
    let look = async || {
        let seen = world.network.look(&RouteTable::default()).await.unwrap();
        seen.sandboxes[&web.id()].clone()
    };
    run(&format!("ip route del {}", web.address));
    assert!(look().await.routed.is_empty());
    run("nft flush set inet dwell sources");
    assert!(look().await.sources.is_empty());
    inside(&web, "ip address add 10.80.1.99/32 dev eth0");
    assert_eq!(look().await.addresses.len(), 2);
    inside(&web, "ip link set eth0 down");
    assert!(!look().await.is_running);
    inside(&web, "ip link del eth0");
    let bare = look().await;
    assert!(bare.namespace.is_some() && bare.link.is_none());
}

#[tokio::test]
async fn isolation_that_is_not_as_it_was_set_is_seen_so() {
    let (web, db) = (web(), db());
    let world = World::with([&web, &db]).await;
    let look = async || world.network.look(&RouteTable::default()).await.unwrap().isolation;
    assert_eq!(look().await, [], "nobody has set anything");
    let allow = |source: &str| Allow { source: source.parse().unwrap(), ports: Vec::new() };
    let policies = vec![
        Policy {
            address: web.address,
            direction: Direction::In,
            allowed: vec![allow("192.0.2.2/32"), allow("192.0.2.3/32")],
        },
        Policy {
            address: db.address,
            direction: Direction::In,
            allowed: vec![allow("192.0.2.3/32")],
        },
    ];
    world.network.sync_policies(&policies).await.unwrap();
    assert_eq!(look().await, []);
    let damages = [
        (
            format!("nft delete element inet dwell from_32 {{ {} . 192.0.2.2 }}", web.address),
            "1 of their elements are missing, 0 ",
        ),
        (
            format!("nft add element inet dwell from_32 {{ {} . 198.51.100.7 }}", web.address),
            "0 of their elements are missing, 1 ",
        ),
        (
            format!("nft delete element inet dwell isolated {{ {} }}", web.address),
            "1 of their elements are missing, 0 ",
        ),
    ];
    for (damage, says) in damages {
        run(&damage);
        let found = look().await;
        let [one] = found.as_slice() else { panic!("after `{damage}`: {found:?}") };
        assert_eq!(one.address, Some(web.address), "after `{damage}`");
        assert!(one.found.starts_with(says), "after `{damage}`: {}", one.found);
        world.network.ensure_host(&host()).await.unwrap();
        assert_eq!(look().await, [], "after `{damage}` and a repair");
    }
    for chain in ["inbound", "isolation", "confinement"] {
        run(&format!("nft flush chain inet dwell {chain}"));
        let found = look().await;
        let [one] = found.as_slice() else { panic!("without rules in {chain}: {found:?}") };
        assert_eq!((one.address, one.found.as_str()), (None, "it has 0"));
        world.network.ensure_host(&host()).await.unwrap();
    }
    run("nft flush ruleset");
    assert_eq!(look().await.len(), 5, "both instances and all chains");
}

#[tokio::test]
async fn what_belongs_to_no_sandbox_is_swept_and_nothing_else() {
    let (web, db) = (web(), db());
    let world = World::with([&web, &db]).await;
    // One namespace has lost its name and lives, the other one died with it.
    let file = namespace_of(&web).display().to_string();
    let mut lives = std::process::Command::new("nsenter")
        .args([&format!("--net={file}"), "sleep", "600"])
        .spawn()
        .unwrap();
    let arrived = format!("test /proc/{}/ns/net -ef {file}", lives.id());
    while !std::process::Command::new("sh").args(["-c", &arrived]).status().unwrap().success() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    run("ip link add dw-0123456789ab type veth peer name stray0
         nft add element inet dwell sources '{ \"dw-ffffffffffff\" . 10.80.1.77 }'
         ip route add 10.80.1.78 dev uplink proto 157 metric 57
         ip link add mine type veth peer name mine0");
    let seen = world.network.look(&RouteTable::default()).await.unwrap();
    assert_eq!(seen.strays.len(), 3, "{:?}", seen.strays);
    run(&format!("umount {file} && rm {file}"));
    world.network.sweep().await.unwrap();
    let seen = world.network.look(&RouteTable::default()).await.unwrap();
    assert_eq!(seen.strays.len(), 1, "the one that lives: {:?}", seen.strays);
    world.network.repair_sandbox(&web).await.unwrap();
    let seen = world.network.look(&RouteTable::default()).await.unwrap();
    assert!(seen.strays.is_empty() && seen.sandboxes.len() == 2, "{seen:?}");
    assert_eq!(run(VETHS).trim(), "2");
    assert!(run("ip -o link show mine").contains("mine"), "what is not ours stays");
    assert!(reaches(Place::Inside(&db), NEIGHBOUR) && reaches(Place::Inside(&web), NEIGHBOUR));
    lives.kill().unwrap();
    lives.wait().unwrap();
}
