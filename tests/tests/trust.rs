//! Who is not who he says, or may not do what he asks, gets a clear refusal and changes nothing.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use dwell_core::node::NodeState;
use dwell_proto::{
    trust::CONTROLLER_NAME,
    v1::{self, agent_message::Message, fleet_client::FleetClient, session_client::SessionClient},
};
use dwell_tests::lab::{
    Host, Image, Lab, LabConfig, Signal, ensure_untouched, hold_for, wait_until,
};
use serde::Deserialize;
use serde_json::json;
use tokio_stream::{StreamExt as _, iter, pending};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

const SOON: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test]
async fn join_tokens() -> Result<()> {
    Lab::test(LabConfig::new("tokens").hosts(3).images(&[]), async |lab| {
        let [one, two, three] = lab.hosts() else { unreachable!("it has three hosts") };
        lab.start_nodes(std::slice::from_ref(one)).await?;
        // Writes their configuration as well.
        for host in [two, three] {
            host.configure_agent()?;
        }
        let used = lab.join_token(&[]).await?;
        two.join_with(&used).await?.ok()?;
        refused(three, &used, "not valid").await?;
        let expired = lab.join_token(&["--valid", "1s"]).await?;
        // Time is what this waits for, and trying too early would use the token.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        refused(three, &expired, "not valid").await?;
        refused(three, "dwell1.nonsense", "not a join token").await?;
        // Somebody in the middle has another CA than the token says.
        let good = lab.join_token(&[]).await?;
        let (secret, digest) = good.rsplit_once('.').context("it is no token")?;
        let other: String = digest.chars().rev().collect();
        refused(three, &format!("{secret}.{other}"), "").await?;
        // A host that has joined does not lose its identity by mistake.
        refused(two, &good, "already").await?;
        three.join_with(&good).await?.ok()?;
        let names: Vec<_> = lab.nodes().await?.nodes.into_iter().map(|node| node.name).collect();
        ensure!(names == ["h1", "h2", "h3"], "the nodes are {names:?}");
        Ok(())
    })
    .await
}

/// Whether `host` is refused with `token`, and the message says `word` and not the token's secret.
async fn refused(host: &Host, token: &str, word: &str) -> Result<()> {
    let said = host.join_with(token).await?;
    ensure!(!said.status.success(), "{} joined with a bad token", host.name());
    ensure!(said.stderr.contains(word), "no {word:?} in {}", said.stderr);
    let secret = token.split('.').nth(1).unwrap_or(token);
    ensure!(!(said.stdout + &said.stderr).contains(secret), "the secret is shown");
    Ok(())
}

#[tokio::test]
async fn certificates_and_messages() -> Result<()> {
    Lab::test(LabConfig::new("trust").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply("workloads: {web: {image: hello, replicas: 2}}").await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        nobody_gets_in_without_the_right_certificate(lab).await.context("certificates")?;
        a_node_speaks_for_itself_alone(lab).await.context("for another")?;
        messages_have_a_bound(lab).await.context("oversized")?;
        // After all that, the fleet is as it was.
        lab.wait_exactly("web", 2, LIMIT).await?;
        Ok(())
    })
    .await
}

/// Certificates expire while the controller is away: the nodes come back by themselves, and nothing was touched.
#[tokio::test]
async fn a_fleet_whose_certificates_expired_comes_back_by_itself() -> Result<()> {
    let config = LabConfig::new("expired").hosts(2).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        let nodes = json!({"heartbeat": "1s", "unreachable_after": "5s", "certificate": "60s"});
        lab.set_controller(&json!({ "nodes": nodes }))?;
        lab.start_fleet().await?;
        lab.apply("workloads: {web: {image: hello, replicas: 2}}").await?.ok()?;
        let before = lab.wait_exactly("web", 2, LIMIT).await?;
        let old = NodeIdentity::of(lab.host(1))?;
        lab.stop_controller(Signal::SIGTERM).await?;
        // Time is what this waits for: until no certificate that was given out is valid any more.
        tokio::time::sleep(Duration::from_secs(65)).await;
        lab.start_controller().await?;
        wait_until("the nodes to renew and attach", LIMIT, async || {
            let nodes = lab.nodes().await?.nodes;
            ensure!(nodes.iter().all(|node| node.state == NodeState::Ready), "{nodes:?}");
            Ok(())
        })
        .await?;
        ensure_untouched(&before, &lab.wait_exactly("web", 2, LIMIT).await?)?;
        ensure!(NodeIdentity::of(lab.host(1))?.certificate_pem != old.certificate_pem);
        Ok(())
    })
    .await
}

/// What an agent keeps of its identity.
#[derive(Deserialize)]
struct NodeIdentity {
    controller: String,
    ca_pem: String,
    certificate_pem: String,
    key_pem: String,
}

impl NodeIdentity {
    fn of(host: &Host) -> Result<Self> {
        let path = host.dir().join("agent/identity.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// A connection to its controller with a certificate and its key, or without.
    async fn connect(&self, pair: Option<(&str, &str)>) -> Result<Channel> {
        let trust = Certificate::from_pem(&self.ca_pem);
        let mut tls = ClientTlsConfig::new().ca_certificate(trust).domain_name(CONTROLLER_NAME);
        if let Some((certificate, key)) = pair {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.controller))?;
        Ok(endpoint.tls_config(tls)?.connect().await?)
    }

    async fn session(&self) -> Result<SessionClient<Channel>> {
        let own = (&*self.certificate_pem, &*self.key_pem);
        Ok(SessionClient::new(self.connect(Some(own)).await?))
    }
}

async fn nobody_gets_in_without_the_right_certificate(lab: &Lab) -> Result<()> {
    let node = NodeIdentity::of(lab.host(1))?;
    let own = rcgen::generate_simple_self_signed(vec!["h1".to_owned()])?;
    let own = (own.cert.pem(), own.signing_key.serialize_pem());
    let issued = lab.cli(&["context", "issue", "tester"]).await?.ok()?;
    let context: ClientContext = serde_saphyr::from_str(&issued)?;
    let node_pair = (&*node.certificate_pem, &*node.key_pem);
    let client_pair = (&*context.certificate, &*context.key);

    for (who, pair, fleet, session) in [
        ("nobody", None, false, false),
        ("a stranger", Some((&*own.0, &*own.1)), false, false),
        ("a node", Some(node_pair), false, true),
        ("a client", Some(client_pair), true, false),
    ] {
        let listed = async {
            let mut fleet = FleetClient::new(node.connect(pair).await?);
            anyhow::Ok(fleet.list_nodes(v1::ListNodesRequest::default()).await?)
        };
        let listed = listed.await;
        ensure!(listed.is_ok() == fleet, "{who} asks for nodes and gets {listed:?}");
        let attached = async {
            let mut session = SessionClient::new(node.connect(pair).await?);
            anyhow::Ok(session.attach(pending::<v1::AgentMessage>()).await?)
        };
        // A node is let in and waited for: it has not said a word.
        let attached = tokio::time::timeout(Duration::from_secs(2), attached).await;
        let refused = matches!(attached, Ok(Err(_)));
        ensure!(refused != session, "{who} attaches and gets {attached:?}");
    }
    let mut fleet = FleetClient::new(node.connect(Some(client_pair)).await?);
    let issue = v1::IssueClientRequest { name: "another".into(), valid_ms: 0, role: String::new() };
    let issued = fleet.issue_client(issue).await;
    let denied = issued.as_ref().err().map(tonic::Status::code) == Some(Code::PermissionDenied);
    ensure!(denied, "a client makes clients: {issued:?}");
    Ok(())
}

/// The file that `dwell context issue` prints, as far as a certificate is concerned.
#[derive(Deserialize)]
struct ClientContext {
    certificate: String,
    key: String,
}

/// With the certificate of h1, somebody tells that an instance of h2 is gone, and one that never was is
/// there.
async fn a_node_speaks_for_itself_alone(lab: &Lab) -> Result<()> {
    let of_two = lab.ps().await?.of("web").into_iter().find(|web| web.node == "h2");
    let of_two = of_two.context("h2 has none")?;
    lab.host(1).stop_agent(Signal::SIGTERM).await?;
    let identity = NodeIdentity::of(lab.host(1))?;
    let mut session = identity.session().await?;
    let lie = |name: &str| v1::InstanceStatus {
        instance: name.to_owned(),
        phase: v1::Phase::Failed.into(),
        message: "a lie".to_owned(),
        observed_at_ms: u64::MAX,
        ..v1::InstanceStatus::default()
    };
    let report = v1::StatusReport {
        complete: true,
        instances: vec![lie(&of_two.name), lie("made-0"), lie("../up")],
        gone: vec![of_two.name.clone()],
        revision: u64::MAX,
        ..v1::StatusReport::default()
    };
    let hello = v1::Hello {
        protocol: 1,
        address: lab.host(2).address().to_string(),
        status: Some(report.clone()),
        ..v1::Hello::default()
    };
    let messages = [Message::Hello(hello), Message::Status(report)];
    let messages = messages.map(|message| v1::AgentMessage { message: Some(message) });
    // Kept open, as a patient liar would.
    let messages = iter(messages).chain(pending());
    let _answers = session.attach(messages).await;
    hold_for("the truth about h2", Duration::from_secs(3), async || {
        let now = lab.ps().await?;
        let unchanged = now.instances.iter().any(|one| {
            one.name == of_two.name
                && one.phase == of_two.phase
                && one.container_id == of_two.container_id
        });
        ensure!(unchanged && now.instances.len() == 2, "{now:#?}");
        Ok(())
    })
    .await?;
    lab.host(1).start_agent().await?;
    wait_until("the true agent to be heard", SOON, async || {
        let nodes = lab.nodes().await?.nodes;
        ensure!(nodes.iter().all(|node| node.state == NodeState::Ready), "{nodes:?}");
        let routes = lab.routes().await?.routes;
        let via = lab.host(1).address().to_string();
        ensure!(routes.iter().any(|route| route.node == "h1" && route.via == via), "{routes:?}");
        Ok(())
    })
    .await
}

async fn messages_have_a_bound(lab: &Lab) -> Result<()> {
    let controller = lab.controller().pid();
    let before = lab.controller().resident_mib()?;
    let identity = NodeIdentity::of(lab.host(2))?;
    let huge = "x".repeat(64 << 20);
    let hello = v1::Hello { protocol: 1, address: huge.clone(), ..v1::Hello::default() };
    let hello = v1::AgentMessage { message: Some(Message::Hello(hello)) };
    let mut session = identity.session().await?;
    let answers = async {
        let mut answers = session.attach(iter([hello]).chain(pending())).await?.into_inner();
        answers.message().await
    };
    let answer = tokio::time::timeout(SOON, answers).await.context("it is not refused")?;
    ensure!(answer.is_err(), "a huge hello is answered with {answer:?}");

    let join = v1::JoinRequest { token: huge, ..v1::JoinRequest::default() };
    let stranger = identity.connect(None).await?;
    let joined = v1::enrollment_client::EnrollmentClient::new(stranger).join(join).await;
    ensure!(joined.is_err(), "a huge token is answered with {joined:?}");
    ensure!(lab.controller().pid() == controller, "the controller was restarted");
    let grown = lab.controller().resident_mib()? - before;
    ensure!(grown < 32.0, "the controller has grown by {grown} MiB");
    Ok(())
}
