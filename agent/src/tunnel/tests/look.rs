//! What a node answers about a route and about itself.

use std::net::Ipv4Addr;

use super::*;
use crate::identity::wall_clock;
use dwell_core::net::Mac;
use dwell_network::fake::Operation;
use dwell_network::{Sandbox, fixtures};

fn probe(address: &str) -> Option<Purpose> {
    Some(Purpose::Probe(v1::ProbeRequest { address: address.to_owned() }))
}

async fn refusal(node: &mut Fixture, purpose: Option<Purpose>) -> v1::TunnelError {
    match next(&mut node.open(purpose).await).await {
        Some(Message::Error(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_route_is_looked_up_and_tried() {
    let mut node = Fixture::start().await;
    let network = FakeNetwork::default();
    node.tunnels.node.network = Arc::new(network.clone());
    network.ensure_host(&fixtures::host()).await.unwrap();
    let address = Ipv4Addr::new(10, 80, 1, 5);
    let instance = "web-0".parse().unwrap();
    network
        .ensure_sandbox(&Sandbox::only(instance, address, Mac::of_address(address)))
        .await
        .unwrap();

    let mut tunnel = node.open(probe("10.80.1.5")).await;
    let expected = v1::RouteProbe {
        prefix: "10.80.1.5/32".to_owned(),
        device: "dw-fake".to_owned(),
        own: true,
        local: true,
        round_trip_us: Some(0),
        mtu: 1500,
        full_size_passes: Some(true),
        ..v1::RouteProbe::default()
    };
    assert_eq!(next(&mut tunnel).await, Some(Message::Probe(expected)));
    assert_eq!(next(&mut tunnel).await, None);
    let mut tunnel = node.open(probe("10.80.1.6")).await;
    assert_eq!(next(&mut tunnel).await, Some(Message::Probe(v1::RouteProbe::default())));

    assert_eq!(refusal(&mut node, probe("web-0")).await.code, i32::from(Code::InvalidArgument));
    network.fail(Operation::Probe, 1);
    let error = refusal(&mut node, probe("10.80.1.5")).await;
    assert_eq!(
        (error.code, error.message.as_str()),
        (Code::Unavailable.into(), "probe was made to fail")
    );
}

#[tokio::test]
async fn a_host_is_looked_over() {
    let mut node = Fixture::start().await;
    let before = wall_clock().0;
    let mut tunnel = node.open(Some(Purpose::Diagnose(v1::DiagnoseRequest::default()))).await;
    let Some(Message::Diagnosis(diagnosis)) = next(&mut tunnel).await else {
        panic!("no diagnosis")
    };
    assert!((before..=wall_clock().0).contains(&diagnosis.at_ms));
    for check in ["ip-forward", "docker", "kernel", "certificate"] {
        assert!(diagnosis.findings.iter().any(|one| one.check == check), "{check}: {diagnosis:?}");
    }
    assert_eq!(next(&mut tunnel).await, None);
}
