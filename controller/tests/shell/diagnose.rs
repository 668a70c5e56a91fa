//! Route checks and diagnoses of a fleet, with agents that are played here.

use std::collections::BTreeMap;

use dwell_proto::v1;
use dwell_proto::v1::open_tunnel::Purpose;
use dwell_proto::v1::tunnel_up::Message as Up;
use tonic::{Code, Streaming};

use crate::fixture::{Agent, SOON};
use crate::tunnel_end::{AgentEnd, asked, with_instance};

/// Answers the next request; what was asked.
async fn answer(mut agent: Agent, message: Up) -> (Agent, Purpose) {
    let open = asked(&mut agent).await;
    let end = AgentEnd::carry(&mut agent, &open.tunnel).await.unwrap();
    end.send(message).await;
    end.finish().await;
    (agent, open.purpose.unwrap())
}

async fn all<T>(mut answers: Streaming<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(answer) = tokio::time::timeout(SOON, answers.message()).await.unwrap().unwrap() {
        all.push(answer);
    }
    all
}

#[tokio::test]
async fn every_node_is_asked_for_its_route() {
    let (fixture, h1) = with_instance().await;
    let h2 = fixture.agent("h2", "192.0.2.2").await;
    let h3 = fixture.agent("h3", "192.0.2.3").await;
    // Known, and without an agent.
    fixture.node("h4", "192.0.2.4").await;
    let shown = fixture.until_instance("web-0", |found| !found.address.is_empty()).await;

    let good = v1::RouteProbe {
        prefix: "10.80.0.0/24".to_owned(),
        via: "192.0.2.1".to_owned(),
        device: "eth0".to_owned(),
        own: true,
        round_trip_us: Some(250),
        mtu: 1500,
        full_size_passes: Some(true),
        ..Default::default()
    };
    let home = v1::RouteProbe { local: true, via: String::new(), ..good.clone() };
    let refused =
        v1::TunnelError { code: Code::Unavailable.into(), message: "no echo\u{7}".into() };
    let agents = tokio::spawn(async move {
        tokio::join!(
            answer(h1, Up::Probe(home)),
            answer(h2, Up::Probe(v1::RouteProbe { round_trip_us: None, ..good })),
            answer(h3, Up::Error(refused)),
        )
    });
    let request = v1::CheckRoutesRequest { instance: "web-0".to_owned() };
    let answers = fixture.fleet().await.check_routes(request).await.unwrap().into_inner();
    let checks: BTreeMap<_, _> =
        all(answers).await.into_iter().map(|check| (check.node.clone(), check)).collect();
    let (h1, h2, h3) = agents.await.unwrap();
    for (_, purpose) in [h1, h2, h3] {
        assert_eq!(purpose, Purpose::Probe(v1::ProbeRequest { address: shown.address.clone() }));
    }
    assert_eq!(checks.len(), 4);
    assert_eq!(checks["h1"].problem, "");
    assert!(checks["h2"].problem.starts_with("no echo from"), "{:?}", checks["h2"]);
    assert!(checks["h2"].probe.is_some());
    assert_eq!((checks["h3"].problem.as_str(), &checks["h3"].probe), ("no echo ", &None));
    assert!(checks["h4"].problem.contains("h4"), "{:?}", checks["h4"]);
    assert_eq!(checks["h4"].probe, None);

    let missing = v1::CheckRoutesRequest { instance: "web-7".to_owned() };
    let status = fixture.fleet().await.check_routes(missing).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn nodes_are_diagnosed_and_their_clocks_compared() {
    let (fixture, h1) = with_instance().await;
    fixture.node("h2", "192.0.2.2").await;
    let finding = v1::Finding { check: "ip-forward".to_owned(), ..Default::default() };
    let diagnosis = v1::Diagnosis { at_ms: 0, findings: vec![finding.clone()] };
    let agent = tokio::spawn(answer(h1, Up::Diagnosis(diagnosis)));
    let answers = fixture.fleet().await.diagnose(v1::DiagnoseRequest::default()).await;
    let mut found = all(answers.unwrap().into_inner()).await;
    agent.await.unwrap();
    found.sort_by(|a, b| a.node.cmp(&b.node));
    let [h1, h2] = &found[..] else { panic!("{found:?}") };
    assert!(h1.clock_ahead_ms < -1_000_000_000, "its clock stands at 1970");
    let findings = &h1.diagnosis.as_ref().unwrap().findings;
    assert_eq!(findings[0], finding);
    assert_eq!(findings[1].check, "clock-skew");
    assert_eq!(findings[1].outcome(), v1::finding::Outcome::Problem);
    assert!(h2.diagnosis.is_none() && !h2.problem.is_empty());

    let unknown = v1::DiagnoseRequest { node: "h9".to_owned() };
    let status = fixture.fleet().await.diagnose(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn every_node_is_audited_and_one_that_is_silent_is_a_finding() {
    let (fixture, h1) = with_instance().await;
    fixture.node("h2", "192.0.2.2").await;
    let claim = |by: &str| v1::AuditClaim { by: by.to_owned(), says: "so\u{7}".to_owned() };
    let finding = v1::AuditFinding {
        kind: "mapping".to_owned(),
        subject: "instance web-0".to_owned(),
        // A node speaks for itself.
        node: "h2".to_owned(),
        claims: vec![claim("engine"), claim("files")],
        remedy: v1::audit_finding::Remedy::Repair.into(),
        ..Default::default()
    };
    let audit = v1::NodeAudit { findings: vec![finding.clone()], ..Default::default() };
    let agent = tokio::spawn(answer(h1, Up::Audit(audit)));
    let answers = fixture.fleet().await.audit(v1::AuditRequest { repair: true }).await;
    let mut found = all(answers.unwrap().into_inner()).await;
    let (_, purpose) = agent.await.unwrap();
    assert_eq!(purpose, Purpose::Audit(v1::AuditRequest { repair: true }));
    found.sort_by(|a, b| a.node.cmp(&b.node));
    let [own, h1, h2] = &found[..] else { panic!("{found:?}") };
    assert_eq!((own.node.as_str(), own.findings.len()), ("", 0), "{own:?}");
    let [told] = &h1.findings[..] else { panic!("{h1:?}") };
    assert_eq!((told.kind.as_str(), told.node.as_str()), ("mapping", "h1"));
    assert_eq!(told.claims[0].says, "so ");
    let [silent] = &h2.findings[..] else { panic!("{h2:?}") };
    assert_eq!((silent.kind.as_str(), silent.node.as_str()), ("node-silent", "h2"));
    assert_eq!(silent.remedy(), v1::audit_finding::Remedy::Person);
}
