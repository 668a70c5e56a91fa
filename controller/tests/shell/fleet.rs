//! The `Fleet` API: durability, watching, bad input, a second controller.

use dwell_controller::controller::StartError;
use dwell_controller::listen::ListenError;
use dwell_controller::store::StoreError;
use dwell_core::net::{ClusterRange, Ranges};
use dwell_proto::v1;
use dwell_proto::v1::watch_response::Change;
use tonic::Code;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::fixture::{Fixture, apply, workload};

#[tokio::test]
async fn what_was_accepted_is_there_after_a_restart() {
    let mut fixture = Fixture::start().await;
    let mut fleet = fixture.fleet().await;
    let applied = fleet.apply(apply(vec![workload("web", 2)])).await.unwrap().into_inner();
    assert_eq!(applied.plans[0].created, ["web-0", "web-1"]);
    fixture.node("h1", "192.0.2.1").await;
    let before = fleet.get_info(v1::GetInfoRequest {}).await.unwrap().into_inner();

    fixture.restart().await;

    let mut fleet = fixture.fleet().await;
    let workloads =
        fleet.list_workloads(v1::ListWorkloadsRequest::default()).await.unwrap().into_inner();
    assert_eq!(
        workloads.workloads[0].spec,
        Some(v1::WorkloadSpec {
            update: Some(v1::UpdatePolicy {
                parallelism: 1,
                deadline_ms: 60_000,
                monitor_ms: Some(10_000),
                on_failure: v1::OnFailure::Pause.into(),
                order: v1::UpdateOrder::StopFirst.into(),
                ..v1::UpdatePolicy::default()
            }),
            template: workloads.workloads[0].spec.clone().unwrap().template,
            ..workload("web", 2)
        })
    );
    let instances =
        fleet.list_instances(v1::ListInstancesRequest::default()).await.unwrap().into_inner();
    let names: Vec<_> = instances.instances.iter().map(|instance| instance.name.as_str()).collect();
    assert_eq!(names, ["web-0", "web-1"]);
    let nodes = fleet.list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner();
    assert_eq!(nodes.nodes[0].block, "10.80.0.0/24");
    let after = fleet.get_info(v1::GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(after.cluster_id, before.cluster_id);
    assert!(after.revision >= before.revision);
}

#[tokio::test]
async fn bad_input_is_refused_with_a_reason_and_changes_nothing() {
    let fixture = Fixture::start().await;
    let mut fleet = fixture.fleet().await;
    let revision = |fleet: &mut v1::fleet_client::FleetClient<_>| {
        let mut fleet = fleet.clone();
        async move { fleet.get_info(v1::GetInfoRequest {}).await.unwrap().into_inner().revision }
    };
    let before = revision(&mut fleet).await;

    let mut no_image = workload("web", 1);
    no_image.template = Some(v1::Template::default());
    let mut outside = workload("web", 1);
    outside.addresses = vec!["192.0.2.1".to_owned()];
    for (spec, words) in [
        (workload("../etc", 1), "workload name"),
        (workload("web\u{202e}", 1), "workload name"),
        (workload("web", 1_000_000_000), "replicas"),
        (v1::WorkloadSpec { template: None, ..workload("web", 1) }, "template"),
        (no_image, "image"),
        (outside, "192.0.2.1"),
    ] {
        let status = fleet.apply(apply(vec![spec])).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(words), "{status}");
    }
    let many = (0..1001).map(|number| workload(&format!("w{number}"), 0)).collect();
    assert_eq!(fleet.apply(apply(many)).await.unwrap_err().code(), Code::InvalidArgument);
    let gone = v1::RemoveWorkloadRequest { name: "nothing".to_owned() };
    assert_eq!(fleet.remove_workload(gone).await.unwrap_err().code(), Code::NotFound);
    let long = v1::CreateJoinTokenRequest { valid_ms: u64::MAX };
    assert_eq!(fleet.create_join_token(long).await.unwrap_err().code(), Code::InvalidArgument);
    let nobody =
        v1::IssueClientRequest { name: "a\nb".to_owned(), valid_ms: 0, role: String::new() };
    assert_eq!(fleet.issue_client(nobody).await.unwrap_err().code(), Code::InvalidArgument);

    assert_eq!(revision(&mut fleet).await, before);
}

#[tokio::test]
async fn messages_over_the_limit_are_refused() {
    let fixture = Fixture::start().await;
    let mut spec = workload("web", 1);
    spec.labels.insert("huge".to_owned(), "x".repeat(dwell_proto::MESSAGE_MAX_BYTES));
    let mut fleet = fixture.fleet().await.max_encoding_message_size(usize::MAX);
    let status = fleet.apply(apply(vec![spec])).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert!(status.message().contains("too large"), "{status}");
}

#[tokio::test]
async fn a_watch_resumes_where_it_was() {
    let fixture = Fixture::start().await;
    let mut fleet = fixture.fleet().await;
    let start = fleet.apply(apply(vec![workload("web", 1)])).await.unwrap().into_inner().revision;
    fleet.apply(apply(vec![workload("db", 1)])).await.unwrap();
    let gone = v1::RemoveWorkloadRequest { name: "web".to_owned() };
    let end = fleet.remove_workload(gone).await.unwrap().into_inner().revision;

    let kinds = vec![v1::Kind::Workload.into()];
    let request = v1::WatchRequest { after_revision: Some(start), kinds };
    let mut stream = fleet.watch(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    let mut last = start;
    while !seen.contains(&"-web".to_owned()) {
        let response = stream.message().await.unwrap().unwrap();
        assert!(response.revision >= last, "revisions do not go back");
        last = response.revision;
        match response.change.unwrap() {
            Change::Workload(workload) => seen.push(format!("+{}", workload.spec.unwrap().name)),
            Change::Deleted(deleted) => seen.push(format!("-{}", deleted.name)),
            Change::Bookmark(_) => {}
            other => panic!("not asked for: {other:?}"),
        }
    }
    assert!(seen.contains(&"+db".to_owned()), "{seen:?}");
    assert!(last <= end);

    let request = v1::WatchRequest { after_revision: Some(end + 1_000_000), kinds: Vec::new() };
    assert_eq!(fleet.watch(request).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_second_controller_does_not_start() {
    let mut fixture = Fixture::start().await;
    let error = fixture.begin().await.unwrap_err();
    assert!(matches!(error, StartError::Store(StoreError::InUse { .. })), "{error}");
    fixture.config.data_dir = fixture.config.data_dir.join("other");
    fixture.config.listen.set_port(0);
    let error = fixture.begin().await.unwrap_err();
    assert!(matches!(error, StartError::Listen(ListenError::InUse { .. })), "{error}");
    // The first one is as it was.
    fixture.fleet().await.get_info(v1::GetInfoRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_range_that_does_not_fit_the_nodes_is_refused() {
    let mut fixture = Fixture::start().await;
    fixture.node("h1", "192.0.2.1").await;
    fixture.stop().await;
    let before = fixture.config.cluster.clone();
    for (cidr, prefix) in [("10.90.0.0/16", 24), ("10.80.0.0/16", 25)] {
        fixture.config.cluster = ClusterRange::new(cidr.parse().unwrap(), prefix).unwrap();
        let error = fixture.begin().await.unwrap_err();
        assert!(error.to_string().contains("node h1 has the block 10.80.0.0/24"), "{error}");
    }
    let ranges = |all: &str| ClusterRange::of(all.parse::<Ranges>().unwrap().iter(), 24).unwrap();
    fixture.config.cluster = ranges("10.80.0.0/16, 192.0.2.0/24");
    let error = fixture.begin().await.unwrap_err().to_string();
    assert!(error.contains("node h1 is at 192.0.2.1, which is of range 192.0.2.0/24"), "{error}");

    // A range that is added is there from then on, and stays as long as one address of it is somebody's.
    fixture.config.cluster = ranges("10.80.0.0/16, 172.20.0.0/16");
    fixture.begin().await.unwrap();
    let mut fleet = fixture.fleet().await;
    let info = fleet.get_info(v1::GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.more_ranges, ["172.20.0.0/16"]);
    let fixed = v1::WorkloadSpec { addresses: vec!["172.20.0.9".into()], ..workload("db", 1) };
    fleet.apply(apply(vec![fixed])).await.unwrap();
    fixture.stop().await;
    fixture.config.cluster = before;
    let error = fixture.begin().await.unwrap_err().to_string();
    assert!(error.contains("instance db-0 has the address 172.20.0.9"), "{error}");
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let fixture = Fixture::start().await;
    let client = fixture.client("ann").await;
    let channel = fixture.tcp(Some(&client)).await.unwrap();
    let service = "dwell.v1.Fleet".to_owned();
    let request = tonic_health::pb::HealthCheckRequest { service };
    let health = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
    assert_eq!(health.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);

    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    let mut reflection = ServerReflectionClient::new(channel);
    let answers = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for service in ["dwell.v1.Fleet", "dwell.v1.Session", "dwell.v1.Enrollment"] {
        assert!(names.contains(&service.to_owned()), "{names:?}");
    }
}

#[tokio::test]
async fn lists_come_in_pages_for_those_who_ask_for_them() {
    let fixture = Fixture::start().await;
    let mut fleet = fixture.fleet().await;
    fleet.apply(apply(vec![workload("a", 3), workload("b", 2), workload("c", 0)])).await.unwrap();
    let mut request = v1::ListInstancesRequest { page_size: 2, ..Default::default() };
    let mut names = Vec::new();
    let mut pages = 0;
    loop {
        let page = fleet.list_instances(request.clone()).await.unwrap().into_inner();
        assert!(page.instances.len() <= 2 && page.revision > 0);
        names.extend(page.instances.into_iter().map(|instance| instance.name));
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((pages, names.join(" ").as_str()), (3, "a-0 a-1 a-2 b-0 b-1"));
    let all = fleet.list_instances(v1::ListInstancesRequest::default()).await.unwrap().into_inner();
    assert_eq!((all.instances.len(), all.next_page_token.as_str()), (5, ""));

    let request = v1::ListWorkloadsRequest { page_size: 2, ..Default::default() };
    let page = fleet.list_workloads(request.clone()).await.unwrap().into_inner();
    assert_eq!((page.workloads.len(), page.next_page_token.as_str()), (2, "b"));
    let request = v1::ListWorkloadsRequest { page_token: page.next_page_token, ..request };
    let page = fleet.list_workloads(request).await.unwrap().into_inner();
    assert_eq!((page.workloads.len(), page.next_page_token.as_str()), (1, ""));

    let request = v1::ListNodesRequest { page_size: 1, ..Default::default() };
    let page = fleet.list_nodes(request).await.unwrap().into_inner();
    assert_eq!((page.nodes.len(), page.next_page_token.as_str()), (0, ""));
    let request = v1::ListVolumesRequest { page_token: "a-0/data".into(), ..Default::default() };
    let refused = fleet.list_volumes(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

#[tokio::test]
async fn the_status_says_what_is_not_as_declared_and_what_to_do() {
    use v1::fleet_finding::Gravity;
    let fixture = Fixture::start().await;
    let mut fleet = fixture.fleet().await;
    let status = async |fleet: &mut v1::fleet_client::FleetClient<_>| {
        fleet.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner()
    };
    let empty = status(&mut fleet).await;
    assert_eq!((empty.found, empty.counts), (vec![], Some(v1::FleetCounts::default())));
    let applied = fleet.apply(apply(vec![workload("web", 2)])).await.unwrap().into_inner();
    let told = status(&mut fleet).await;
    assert!(told.revision >= applied.revision);
    let counts = told.counts.unwrap();
    assert_eq!((counts.workloads, counts.workloads_as_declared, counts.instances), (1, 0, 2));
    let [found] = &told.found[..] else { panic!("{:?}", told.found) };
    assert_eq!((found.gravity(), found.kind.as_str()), (Gravity::Problem, "instance-pending"));
    assert_eq!((found.subject.as_str(), found.next.as_str()), ("workload/web", "dwell node ls"));
    assert_eq!(
        found.message,
        "web-0, web-1: there are no nodes yet; `dwell node token` lets one join"
    );
}
