//! Whom an instance reaches that may not reach all: real packets, to several addresses.

use std::io::{ErrorKind, Read as _};
use std::net::Ipv4Addr;

use dwell_core::workload::Protocol::{self, Tcp, Udp};
use dwell_network::world::{
    HOST, NEIGHBOUR, OUTSIDE, Place, World, datagram, db, host, inside, run, web,
};
use dwell_network::{
    Allow, Direction, GATEWAY, HostNetwork, Network as _, Policy, PortRange, Sandbox,
};

use super::tracking::{PORT, THERE, connection, passes, talks, world};

fn rule(to: &str, ports: &[(Protocol, u16, u16)]) -> Allow {
    let ports = ports.iter().map(|&(protocol, first, last)| PortRange { protocol, first, last });
    Allow { source: to.parse().unwrap(), ports: ports.collect() }
}

fn policy(sandbox: &Sandbox, direction: Direction, allowed: Vec<Allow>) -> Policy {
    Policy { address: sandbox.address, direction, allowed }
}

async fn confine(world: &World, sandbox: &Sandbox, allowed: Vec<Allow>) {
    let policies = [policy(sandbox, Direction::Out, allowed)];
    world.network.sync_policies(&policies).await.unwrap();
}

fn at(sandbox: &Sandbox) -> (Place<'_>, Ipv4Addr) {
    (Place::Inside(sandbox), sandbox.address)
}

#[tokio::test]
async fn only_whom_the_rules_name_is_reached_and_whoever_calls_is_answered() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    let confined = at(&web);
    // Of this node, of another one, a node, and what is beyond under the host's address.
    let others = [at(&db), (Place::Lan, THERE), (Place::Lan, NEIGHBOUR), (Place::Lan, OUTSIDE)];
    assert!(others.iter().all(|&other| talks(confined, other)), "it reaches all");
    confine(&world, &web, vec![]).await;
    for other in others {
        assert!(!talks(confined, other), "{other:?} is reached");
        assert_eq!(datagram(confined, other), None);
    }
    for other in &others[..3] {
        assert!(talks(*other, confined), "{other:?} is not answered");
        assert_eq!(datagram(*other, confined), Some(other.1));
    }
    assert!(talks(at(&db), others[1]), "others are as they were");

    for other in others {
        confine(&world, &web, vec![rule(&format!("{}/32", other.1), &[])]).await;
        for one in others {
            assert_eq!(talks(confined, one), one.1 == other.1, "{one:?} with only {other:?}");
        }
    }
    confine(&world, &web, vec![rule("10.80.0.0/16", &[(Tcp, PORT, PORT), (Udp, 1, 9)])]).await;
    assert!(talks(confined, at(&db)) && talks(confined, others[1]) && !talks(confined, others[3]));
    assert!(connection(confined, at(&db), PORT + 1).is_none(), "another port");
    assert_eq!(datagram(confined, at(&db)), None, "another protocol");
    world.network.sync_policies(&[]).await.unwrap();
    assert!(talks(confined, others[3]));
}

/// Of its node it keeps names and echoes. What `host_access` opens takes a rule like everything else.
#[tokio::test]
async fn names_at_the_gateway_stay() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    let open = PortRange { protocol: Tcp, first: PORT, last: PORT };
    let host = HostNetwork { host_access: vec![open], ..host() };
    world.network.ensure_host(&host).await.unwrap();
    run(&format!("ip address add {GATEWAY}/32 dev lo scope link"));
    assert!(talks(at(&web), (Place::Host, HOST)));
    confine(&world, &web, vec![]).await;
    let names = connection(at(&web), (Place::Host, GATEWAY), 53);
    assert!(names.is_some_and(|(client, server)| passes(&server, &client).is_ok()));
    inside(&web, &format!("busybox ping -c 1 -W 1 {GATEWAY}"));
    assert!(!talks(at(&web), (Place::Host, HOST)), "the host's own services");
    assert!(talks((Place::Host, HOST), at(&web)), "probes, and tunnels that end here");
    confine(&world, &web, vec![rule(&format!("{HOST}/32"), &[(Tcp, PORT, PORT)])]).await;
    assert!(talks(at(&web), (Place::Host, HOST)));
}

/// The one who may be reached and the one who may reach are asked both.
#[tokio::test]
async fn what_may_leave_gets_in_only_where_it_may() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    let (to_db, from_web) = (rule("10.80.1.6/32", &[]), rule("10.80.1.5/32", &[]));
    for (out, into, expected) in [
        (vec![], vec![], false),
        (vec![to_db.clone()], vec![], false),
        (vec![], vec![from_web.clone()], false),
        (vec![to_db], vec![from_web], true),
    ] {
        let policies = [policy(&web, Direction::Out, out), policy(&db, Direction::In, into)];
        world.network.sync_policies(&policies).await.unwrap();
        assert_eq!(talks(at(&web), at(&db)), expected, "{policies:?}");
    }
}

#[tokio::test]
async fn it_is_confined_before_it_is_there() {
    let web = web();
    let world = World::bare();
    confine(&world, &web, vec![]).await;
    world.network.ensure_host(&host()).await.unwrap();
    world.network.ensure_sandbox(&web).await.unwrap();
    assert!(!talks(at(&web), (Place::Lan, NEIGHBOUR)));
    assert!(talks((Place::Lan, NEIGHBOUR), at(&web)));
    run("nft flush ruleset");
    world.network.ensure_host(&host()).await.unwrap();
    world.network.ensure_sandbox(&web).await.unwrap();
    assert!(!talks(at(&web), (Place::Lan, NEIGHBOUR)), "what others flush comes back");
    let found = world.network.look(&Default::default()).await.unwrap().isolation;
    assert_eq!(found, []);
    run("nft flush chain inet dwell confinement");
    let found = world.network.look(&Default::default()).await.unwrap().isolation;
    assert!(found.iter().any(|one| one.declared.contains("chain confinement")), "{found:?}");
}

/// Of a connection within the cluster that was there before nobody has seen who began it. Whoever speaks first on it would be
/// taken for that, and the confined one's packets for answers.
#[tokio::test]
async fn what_it_had_begun_before_it_was_confined_does_not_go_on() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    for other in [at(&db), (Place::Lan, THERE)] {
        world.network.sync_policies(&[]).await.unwrap();
        let (client, server) = connection(at(&web), other, PORT).unwrap();
        passes(&client, &server).unwrap();
        confine(&world, &web, vec![]).await;
        passes(&server, &client).expect_err("nothing gets in");
        let told = (&server).read(&mut [0]).unwrap_err().kind();
        assert_eq!(told, ErrorKind::ConnectionReset, "and it is told at once");
        passes(&client, &server).expect_err("nothing gets out");
    }
}
