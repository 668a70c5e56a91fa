//! The agent's end of a tunnel, played by a test.

use dwell_proto::v1;
use dwell_proto::v1::controller_message::Message as FromController;
use dwell_proto::v1::tunnel_up::Message as Up;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::fixture::{Agent, Fixture, SOON, apply, workload};

/// One node, `h1`, with one running instance, `web-0`.
pub(crate) async fn with_instance() -> (Fixture, Agent) {
    let fixture = Fixture::start().await;
    let mut agent = fixture.agent("h1", "192.0.2.1").await;
    fixture.fleet().await.apply(apply(vec![workload("web", 1)])).await.unwrap();
    let assigned = agent.assigned().await;
    agent.report_running(&assigned).await;
    (fixture, agent)
}

/// The next tunnel that the controller asks an agent for.
pub(crate) async fn asked(agent: &mut Agent) -> v1::OpenTunnel {
    loop {
        if let FromController::OpenTunnel(open) = agent.next().await.unwrap() {
            return open;
        }
    }
}

/// The agent's end of a tunnel.
pub(crate) struct AgentEnd {
    pub(crate) up: mpsc::Sender<v1::TunnelUp>,
    pub(crate) down: Streaming<v1::TunnelDown>,
}

impl AgentEnd {
    pub(crate) async fn carry(agent: &mut Agent, id: &str) -> Result<Self, Status> {
        let (up, messages) = mpsc::channel(4);
        up.send(v1::TunnelUp { message: Some(Up::Tunnel(id.to_owned())) }).await.unwrap();
        let down = agent.client.carry(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Self { up, down })
    }

    pub(crate) async fn send(&self, message: Up) {
        self.up.send(v1::TunnelUp { message: Some(message) }).await.unwrap();
    }

    /// What comes from the client; `None` when the tunnel has ended.
    pub(crate) async fn input(&mut self) -> Option<v1::TunnelDown> {
        let message = tokio::time::timeout(SOON, self.down.message()).await.unwrap();
        message.ok().flatten()
    }

    /// Says no more, and waits until that has arrived.
    pub(crate) async fn finish(self) {
        let Self { up, mut down } = self;
        drop(up);
        let ending = async { while let Ok(Some(_)) = down.message().await {} };
        tokio::time::timeout(SOON, ending).await.unwrap();
    }
}
