//! The main job: containers that live at addresses, on hosts that stay as they were otherwise.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use bollard::{
    models::{ContainerCreateBody, HostConfig},
    query_parameters::CreateContainerOptionsBuilder,
};
use dwell_tests::{
    demo,
    lab::{Host, Image, Lab, LabConfig, Signal, ensure_untouched, wait_until},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(90);

/// One instance on each of two hosts.
const PAIR: &str = "
workloads:
  web:
    image: hello
    replicas: 2
    healthcheck: {http: ':8080/', interval: 1s}
";

#[tokio::test]
async fn six_instances_over_three_hosts_live_at_their_addresses() -> Result<()> {
    Lab::test(LabConfig::new("main").hosts(3), async |lab| {
        // From the machine and from other nodes, sources kept; and ssh to an image's own sshd.
        demo::show(lab, |_| {}).await?;
        they_are_spread_over_the_nodes_and_their_blocks(lab).await?;
        they_know_their_names(lab).await?;
        // A second time finds everything done.
        let before = lab.wait_exactly("hello", 6, SOON).await?;
        demo::show(lab, |_| {}).await?;
        ensure_untouched(&before, &lab.containers().await?)
    })
    .await
}

async fn they_are_spread_over_the_nodes_and_their_blocks(lab: &Lab) -> Result<()> {
    let mut count = BTreeMap::new();
    for instance in lab.ps().await?.of("hello") {
        let nodes = lab.nodes().await?.nodes;
        let node = nodes.into_iter().find(|node| node.name == instance.node);
        let block = node.context("it is on no node")?.block;
        let prefix = block.strip_suffix(".0/24").context("the block is no /24")?.to_owned();
        ensure!(instance.address.starts_with(&(prefix + ".")), "{instance:?} is not of {block}");
        *count.entry(instance.node).or_insert(0) += 1;
    }
    ensure!(count.values().eq(&[2, 2, 2]), "they are spread so: {count:?}");
    Ok(())
}

async fn they_know_their_names(lab: &Lab) -> Result<()> {
    let hello = lab.ps().await?.of("hello").swap_remove(0);
    let hostname = lab.exec(&hello.name, &["hostname"]).await?.ok()?;
    ensure!(hostname.trim() == hello.name, "the hostname is {hostname}");
    let full = lab.exec(&hello.name, &["hostname", "-f"]).await?.ok()?;
    ensure!(full.trim() == format!("{}.dwell", hello.name), "hostname -f says {full}");
    let hosts = lab.exec(&hello.name, &["cat", "/etc/hosts"]).await?.ok()?;
    let own = hosts.lines().find(|line| line.starts_with(&hello.address));
    ensure!(own.is_some_and(|line| line.contains(&hello.name)), "/etc/hosts is {hosts}");
    ensure!(hosts.contains("localhost"), "/etc/hosts is {hosts}");
    let resolver = lab.exec(&hello.name, &["cat", "/etc/resolv.conf"]).await?.ok()?;
    ensure!(resolver.contains("nameserver"), "/etc/resolv.conf is {resolver}");
    Ok(())
}

#[tokio::test]
async fn an_instance_keeps_its_address_through_docker_restart() -> Result<()> {
    Lab::test(LabConfig::new("byhand").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.route_machine().await?;
        lab.apply(PAIR).await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        restarted_by_hand(lab).await.context("with its agent")?;
        lab.host(1).stop_agent(Signal::SIGKILL).await?;
        restarted_by_hand(lab).await.context("without its agent")?;
        lab.host(1).start_agent().await?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        Ok(())
    })
    .await
}

/// Restarts the container on the first host as somebody with a Docker client would.
async fn restarted_by_hand(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    let [before] = host.containers().await?.try_into().ok().context("it is not alone")?;
    let row = lab.ps().await?.of("web").into_iter().find(|web| web.name == before.instance);
    let address = row.context("the controller does not know it")?.at(8080)?;
    host.docker()?.restart_container(&before.id, None).await?;
    wait_until("the container to answer again", SOON, async || {
        let answer = lab.get(address).await?;
        ensure!(answer.contains(&before.instance), "another answers: {answer}");
        let now = host.containers().await?;
        ensure!(now.len() == 1 && now[0].id == before.id, "it was {before:?}, now {now:?}");
        ensure!(now[0].started_at != before.started_at, "it was not restarted");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn outside_the_cluster_an_instance_goes_by_its_hosts_address() -> Result<()> {
    Lab::test(LabConfig::new("beyond").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(PAIR).await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        // The machine is no node, so to the instances it is the world.
        let world = TcpListener::bind((lab.layout().machine_address(), 0)).await?;
        let url = format!("http://{}/", world.local_addr()?);
        for web in lab.ps().await?.of("web") {
            let ask = ["timeout", "10", "wget", "-q", "-O", "-", &url];
            let (said, caller) = tokio::try_join!(lab.exec(&web.name, &ask), answer_once(&world))?;
            ensure!(said.clone().ok()? == "world", "{} was told {said:?}", web.name);
            let host = lab.hosts().iter().find(|host| host.name() == web.node);
            let host = host.context("it is on no host")?.address();
            ensure!(caller == host, "{} on {host} came as {caller}", web.name);
        }
        Ok(())
    })
    .await
}

/// Answers one HTTP request; where it came from.
async fn answer_once(listener: &TcpListener) -> Result<Ipv4Addr> {
    let (mut stream, from) = timeout(SOON, listener.accept()).await.context("nobody came")??;
    let mut request = [0; 4096];
    let _request = stream.read(&mut request).await?;
    stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nworld").await?;
    match from.ip() {
        std::net::IpAddr::V4(from) => Ok(from),
        std::net::IpAddr::V6(from) => anyhow::bail!("it came from {from}"),
    }
}

#[tokio::test]
async fn dockers_own_networks_stay_as_closed_as_they_were() -> Result<()> {
    Lab::test(LabConfig::new("closed").hosts(2).images(&[Image::Hello]), async |lab| {
        let [one, two] = lab.hosts() else { unreachable!("it has two hosts") };
        let container = start_on_bridge(one).await?;
        // Otherwise a neighbour would not even find the way.
        let via = one.address().to_string();
        two.exec(&["ip", "route", "add", &format!("{container}/32"), "via", &via]).await?.ok()?;
        let at = (container, 8080).into();
        ensure!(two.get(at).await.is_err(), "Docker itself lets neighbours in; nothing is shown");

        lab.start_fleet().await?;
        lab.apply(PAIR).await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        one.get(at).await.context("its own host is to reach it still")?;
        ensure!(two.get(at).await.is_err(), "another host reaches into Docker's network");
        let url = format!("http://{container}:8080/");
        for web in lab.ps().await?.of("web") {
            let reached =
                lab.exec(&web.name, &["timeout", "2", "wget", "-q", "-O", "-", &url]).await?;
            ensure!(
                !reached.status.success(),
                "{} reaches into Docker's network: {reached:?}",
                web.name
            );
        }
        Ok(())
    })
    .await
}

/// Starts a web server in Docker's default network, without dwell; its address there.
async fn start_on_bridge(host: &Host) -> Result<Ipv4Addr> {
    let docker = host.docker()?;
    let options = CreateContainerOptionsBuilder::default().name("other").build();
    let body = ContainerCreateBody {
        image: Some(Image::Hello.name().to_owned()),
        host_config: Some(HostConfig::default()),
        ..ContainerCreateBody::default()
    };
    docker.create_container(Some(options), body).await?;
    docker.start_container("other", None).await?;
    let settings = docker.inspect_container("other", None).await?.network_settings;
    let networks = settings.and_then(|settings| settings.networks).unwrap_or_default();
    let bridge = networks.get("bridge").context("it is not on the bridge")?;
    let address: Ipv4Addr = bridge.ip_address.clone().unwrap_or_default().parse()?;
    wait_until("its own host to reach it", SOON, async || host.get((address, 8080).into()).await)
        .await?;
    Ok(address)
}

#[tokio::test]
async fn cleanup_leaves_the_host_as_it_was() -> Result<()> {
    Lab::test(LabConfig::new("cleanup").hosts(2).images(&[Image::Hello]), async |lab| {
        let host = lab.host(1);
        let before = everything(host).await?;
        lab.start_fleet().await?;
        lab.apply(PAIR).await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        ensure!(everything(host).await? != before, "dwell leaves no trace even while it works");

        lab.cli(&["rm", "web"]).await?.ok()?;
        wait_until("the last instance to be gone", SOON, async || {
            ensure!(lab.ps().await?.instances.is_empty(), "the controller has some left");
            ensure!(lab.containers().await?.is_empty(), "engines have some left");
            let links = host.exec(&["ip", "-o", "link"]).await?.ok()?;
            ensure!(!links.contains("dw-"), "links are left: {links}");
            Ok(())
        })
        .await?;
        host.stop_agent(Signal::SIGTERM).await?;
        host.run_agent(&["cleanup", "--yes"]).await?.ok()?;
        wait_until("the host to be as it was", SOON, async || {
            let after = everything(host).await?;
            for (what, before) in &before {
                ensure!(after[what] == *before, "{what} was {before}\nand is {}", after[what]);
            }
            Ok(())
        })
        .await?;
        host.run_agent(&["cleanup", "--yes"]).await?.ok().context("a second time")?;
        Ok(())
    })
    .await
}

/// All of the host that dwell has its hands in, without what changes by itself.
async fn everything(host: &Host) -> Result<BTreeMap<&'static str, String>> {
    const LOOKS: [(&str, &str); 7] = [
        ("links", "ip -o link | sed 's/ state [A-Z]*//'"),
        ("routes", "ip -4 route show table all"),
        ("rules", "ip rule"),
        ("nexthops", "ip nexthop"),
        ("nftables", "nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*//'"),
        ("iptables", "iptables-save | sed '/^#/d; s/\\[[0-9:]*\\]//'"),
        ("settings", "sysctl -a 2>/dev/null | grep '^net.ipv[46]' | grep -v hash_seed"),
    ];
    let mut seen = BTreeMap::new();
    for (what, script) in LOOKS {
        seen.insert(what, host.exec(&["sh", "-c", script]).await?.stdout);
    }
    Ok(seen)
}
