//! The host afterwards is the host before.

use dwell_network::{Exception, Network as _, RouteTable};

use dwell_network::world::{NEIGHBOUR, World, db, dump, host, peer, run, until_silent, web};

fn table() -> RouteTable {
    RouteTable {
        peers: vec![peer("b", "10.80.2.0/24", NEIGHBOUR)],
        exceptions: vec![Exception { address: [10, 80, 2, 9].into(), node: "b".parse().unwrap() }],
        ..RouteTable::default()
    }
}

/// Everything, with the settings, without what changes by itself.
fn everything() -> String {
    let settings =
        run("sysctl -a 2>/dev/null | grep '^net.ipv[46]' | grep -v 'fib_multipath_hash_seed'");
    // The directory of names is there from the start, to be watched.
    dump() + &run("find /run -not -path '/run/dwell/*'; iptables -S") + &settings
}

#[tokio::test]
async fn cleanup_leaves_no_trace() {
    let world = World::bare();
    run("sysctl -q -w net.ipv4.conf.all.rp_filter=1; iptables -P FORWARD DROP");
    let before = everything();
    world.network.ensure_host(&host()).await.unwrap();
    world.network.ensure_sandbox(&web()).await.unwrap();
    world.network.ensure_sandbox(&db()).await.unwrap();
    world.network.sync_routes(&table()).await.unwrap();
    assert_ne!(everything(), before);
    world.network.cleanup().await.unwrap();
    until_silent("ip -o link | grep dw- || true");
    assert_eq!(run("ls /run/dwell"), "");
    assert_eq!(everything(), before);
    world.network.cleanup().await.unwrap();
    assert_eq!(everything(), before, "a second time");
}

#[tokio::test]
async fn a_setting_that_somebody_else_has_changed_since_is_theirs() {
    let world = World::ready().await;
    run("sysctl -q -w net.ipv4.conf.all.send_redirects=0 net.ipv4.ip_forward=0");
    world.network.cleanup().await.unwrap();
    assert_eq!(run("sysctl -n net.ipv4.ip_forward").trim(), "0");
}

#[tokio::test]
async fn docker_keeps_the_forwarding_it_needs() {
    let world = World::ready().await;
    run("iptables -N DOCKER-USER");
    world.network.cleanup().await.unwrap();
    assert_eq!(run("sysctl -n net.ipv4.ip_forward").trim(), "1");
}
