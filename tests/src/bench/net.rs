//! Between instances on two hosts: dwell, Docker's bridge with routes made by hand, Docker's overlay.
//!
//! Hosts 1 and 2 are nodes; hosts 3 and 4 have a Docker engine each, with a bridge network whose range is
//! routed to the other host and not translated, and form a Swarm with an overlay network. Everything
//! goes over the same switch.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, Ipam, IpamConfig, NetworkCreateRequest,
    NetworkingConfig, SwarmInitRequest, SwarmJoinRequest,
};
use bollard::query_parameters::CreateContainerOptions;

use super::{
    report::{Report, Samples, against},
    runner::Runner,
    wire::Pair,
};
use crate::lab::{Host, Image, Lab, LabConfig, wait_until};

/// Many short turns: what disturbs the machine for a while disturbs all alike.
const RUNS: usize = 45;
const LIMIT: Duration = Duration::from_secs(60);

const NAMES: [&str; 3] = ["net-throughput", "net-connections", "net-rtt"];

/// Runs those that are wanted.
pub(super) async fn run(runner: &Runner<'_>) {
    if !runner.wants_any(&NAMES) {
        return;
    }
    let config = LabConfig::new("benchnet").hosts(4).images(&[Image::Hello]);
    let ran = Lab::test(config, async |lab| {
        let ours = dwell(lab).await.context("dwell's pair")?;
        let (left, right) = (lab.host(3), lab.host(4));
        let bridge = bridge(left, right).await.context("the pair on bridges")?;
        let overlay = overlay(left, right).await.context("the pair on an overlay")?;
        let sides = Sides { ours, bridge, overlay };
        let throughput = async {
            let [bridge, overlay] = sides.compare(Pair::throughput).await?;
            Ok([
                against(bridge.rates("net-throughput", "GiB/s", 1.0), "bridge"),
                against(overlay.rates("net-throughput", "GiB/s", 1.15), "overlay"),
            ])
        };
        runner.take("net-throughput", throughput).await;
        let connections = async {
            let [bridge, overlay] = sides.compare(Pair::connections).await?;
            Ok([
                against(bridge.rates("net-connections", "1/s", 1.0), "bridge"),
                against(overlay.rates("net-connections", "1/s", 1.3), "overlay"),
            ])
        };
        runner.take("net-connections", connections).await;
        let round_trips = async {
            let [bridge, overlay] =
                sides.compare(|pair| pair.round_trip().map(|seconds| seconds * 1e6)).await?;
            Ok([
                against(Report { unit: "us", ..bridge.report("net-rtt", 1.0) }, "bridge"),
                against(Report { unit: "us", ..overlay.report("net-rtt", 0.8) }, "overlay"),
            ])
        };
        runner.take("net-rtt", round_trips).await;
        Ok(())
    });
    runner.note(&NAMES, ran.await);
}

struct Sides {
    ours: Pair,
    bridge: Pair,
    overlay: Pair,
}

impl Sides {
    /// The same measurement of each in turns: ours against the bridge, and against the overlay.
    async fn compare(&self, measure: fn(&Pair) -> Result<f64>) -> Result<[Samples; 2]> {
        let [mut bridge, mut overlay] = [Samples::default(), Samples::default()];
        let take = async |pair: &Pair| {
            let pair = pair.clone();
            #[expect(clippy::disallowed_methods, reason = "nothing else blocks meanwhile")]
            let measuring = tokio::task::spawn_blocking(move || measure(&pair));
            measuring.await?
        };
        for turn in 0..=RUNS {
            let ours = take(&self.ours).await.context("dwell")?;
            bridge.add_values(turn, ours, take(&self.bridge).await.context("bridge")?);
            overlay.add_values(turn, ours, take(&self.overlay).await.context("overlay")?);
        }
        Ok([bridge, overlay])
    }
}

/// An instance on each of two nodes.
async fn dwell(lab: &Lab) -> Result<Pair> {
    lab.start_nodes(&lab.hosts()[..2]).await?;
    lab.apply("workloads:\n  net:\n    image: hello\n    replicas: 2\n").await?.ok()?;
    let rows = lab.wait_well("net", 2, LIMIT).await?;
    let namespace = |row: &crate::lab::InstanceRow| -> Result<PathBuf> {
        let host = lab.hosts().iter().find(|host| host.name() == row.node);
        Ok(host.context("it is on no host of the lab")?.sandbox(&row.name))
    };
    let address: Ipv4Addr = rows[1].address.parse().context("it has no address")?;
    Ok(Pair { from: namespace(&rows[0])?, to: namespace(&rows[1])?, address })
}

/// A container on each of two bridges, with routes to each other.
async fn bridge(left: &Host, right: &Host) -> Result<Pair> {
    let mut ends = Vec::new();
    for (host, number, other, other_number) in [(left, 1, right, 2), (right, 2, left, 1)] {
        let docker = host.docker()?;
        let range =
            IpamConfig { subnet: Some(format!("172.29.{number}.0/24")), ..IpamConfig::default() };
        let options = [("com.docker.network.bridge.enable_ip_masquerade", "false")];
        docker
            .create_network(NetworkCreateRequest {
                name: "routed".to_owned(),
                driver: Some("bridge".to_owned()),
                ipam: Some(Ipam { config: Some(vec![range]), ..Ipam::default() }),
                options: Some(options.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
                ..NetworkCreateRequest::default()
            })
            .await?;
        let far = format!("172.29.{other_number}.0/24");
        let via = other.address().to_string();
        host.exec(&["ip", "route", "add", &far, "via", &via]).await?.ok()?;
        host.exec(&["iptables", "-I", "DOCKER-USER", "-j", "ACCEPT"]).await?.ok()?;
        ends.push(container(host, "routed").await?);
    }
    let [(from, _), (to, address)] = ends.try_into().ok().context("two ends")?;
    Ok(Pair { from, to, address })
}

/// A container on each of two hosts of a Swarm, on one overlay network.
async fn overlay(left: &Host, right: &Host) -> Result<Pair> {
    let docker = left.docker()?;
    let address = |host: &Host| Some(host.address().to_string());
    docker
        .init_swarm(SwarmInitRequest {
            listen_addr: Some(format!("{}:2377", left.address())),
            advertise_addr: address(left),
            ..SwarmInitRequest::default()
        })
        .await?;
    let tokens = docker.inspect_swarm().await?.join_tokens.context("no token")?;
    right
        .docker()?
        .join_swarm(SwarmJoinRequest {
            listen_addr: Some(format!("{}:2377", right.address())),
            advertise_addr: address(right),
            remote_addrs: Some(vec![format!("{}:2377", left.address())]),
            join_token: tokens.worker,
            ..SwarmJoinRequest::default()
        })
        .await?;
    docker
        .create_network(NetworkCreateRequest {
            name: "mesh".to_owned(),
            driver: Some("overlay".to_owned()),
            attachable: Some(true),
            ..NetworkCreateRequest::default()
        })
        .await?;
    let (from, _) = container(left, "mesh").await?;
    // A worker hears of the network a moment later.
    let (to, address) =
        wait_until("the overlay on the other host", LIMIT, async || container(right, "mesh").await)
            .await?;
    Ok(Pair { from, to, address })
}

/// Starts a container on a network: its namespace and its address.
async fn container(host: &Host, network: &str) -> Result<(PathBuf, Ipv4Addr)> {
    let docker = host.docker()?;
    let endpoints = [(network.to_owned(), EndpointSettings::default())];
    let body = ContainerCreateBody {
        image: Some(Image::Hello.name().to_owned()),
        host_config: Some(HostConfig {
            network_mode: Some(network.to_owned()),
            ..HostConfig::default()
        }),
        networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoints.into()) }),
        ..ContainerCreateBody::default()
    };
    let id = docker.create_container(None::<CreateContainerOptions>, body).await?.id;
    if let Err(error) = docker.start_container(&id, None).await {
        docker.remove_container(&id, None).await?;
        return Err(error.into());
    }
    let found = docker.inspect_container(&id, None).await?;
    let pid = found.state.and_then(|state| state.pid).context("it does not run")?;
    let networks = found.network_settings.and_then(|settings| settings.networks);
    let address = networks.and_then(|mut networks| networks.remove(network)?.ip_address);
    let address = address.and_then(|address| address.parse().ok()).context("it has no address")?;
    Ok((format!("/proc/{pid}/ns/net").into(), address))
}
