//! The images of nodes: each node is asked through a [tunnel](crate::tunnel) of its own, so many at a time, and what it says
//! is passed on as it comes. A node that cannot be asked is an answer, too.

use std::time::Duration;

use dwell_core::id::{NodeName, PoolName};
use dwell_core::node::NodeState;
use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;
use dwell_proto::v1::images_order::What;
use dwell_proto::v1::open_tunnel::Purpose;
use dwell_proto::v1::tunnel_up::Message;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use super::instance::next;
use super::{Api, ServerStream, request};
use crate::model::{Model, NodeView, Refusal};
use crate::status::into_status;
use crate::tunnel::{Tunnel, Tunnels};

/// How many nodes are asked at a time.
const ASKED_MAX: usize = 32;
/// How long a node may take to say something more: its engine adds up the sizes of all layers.
const LIST_SILENCE: Duration = Duration::from_secs(150);
/// How many messages may wait for the client.
const WAITING_MAX: usize = 8;

impl Api {
    pub(super) async fn open_images(
        &self,
        request: &v1::ListImagesRequest,
    ) -> Result<ServerStream<v1::NodeImages>, Status> {
        let nodes = self.selected(&request.node, &request.pool).await?;
        let order = v1::ImagesOrder { what: Some(What::List(true)) };
        Ok(self.of_each(nodes, order, LIST_SILENCE))
    }

    /// The nodes that are meant: one, those of a pool, or all.
    async fn selected(&self, node: &str, pool: &str) -> Result<Vec<NodeView>, Status> {
        let (node, pool) =
            (request::optional::<NodeName>(node)?, request::optional::<PoolName>(pool)?);
        let is_meant = |view: &NodeView| {
            node.as_ref().is_none_or(|node| *node == view.node.name)
                && pool.as_ref().is_none_or(|pool| Some(pool) == view.node.pool.as_ref())
        };
        let mut nodes = self.read(Model::nodes).await?.0;
        nodes.retain(is_meant);
        match (node, pool) {
            (Some(node), _) if nodes.is_empty() => Err(into_status(Refusal::NoNode(node))),
            (None, Some(pool)) if nodes.is_empty() => {
                Err(Status::not_found(format!("no node is in pool {pool}; see `dwell node ls`")))
            }
            _ => Ok(nodes),
        }
    }

    /// Gives nodes an order, and passes on what they say.
    fn of_each(
        &self,
        nodes: Vec<NodeView>,
        order: v1::ImagesOrder,
        silence: Duration,
    ) -> ServerStream<v1::NodeImages> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let tunnels = self.tunnels.clone();
        let asking = stream::iter(nodes).for_each_concurrent(ASKED_MAX, move |view| {
            let (tunnels, order, sender) = (tunnels.clone(), order.clone(), sender.clone());
            async move {
                Asked { node: view.node.name.clone(), sender }
                    .ask(&tunnels, &view, order, silence)
                    .await
            }
        });
        let asking = AbortOnDropHandle::new(tokio::spawn(asking));
        let answers = ReceiverStream::new(receiver).map(move |answer| {
            // It asks for as long as somebody wants to know.
            let _asking = &asking;
            Ok(answer)
        });
        Box::pin(answers)
    }
}

/// A node that is asked.
struct Asked {
    node: NodeName,
    sender: mpsc::Sender<v1::NodeImages>,
}

impl Asked {
    async fn ask(
        self,
        tunnels: &Tunnels,
        view: &NodeView,
        order: v1::ImagesOrder,
        silence: Duration,
    ) {
        if let Err(problem) = self.hear(tunnels, view, order, silence).await {
            self.pass_on(None, problem).await.ok();
        }
    }

    async fn hear(
        &self,
        tunnels: &Tunnels,
        view: &NodeView,
        order: v1::ImagesOrder,
        silence: Duration,
    ) -> Result<(), String> {
        let node = &self.node;
        if view.state != NodeState::Ready {
            return Err(format!("{node} {}", view.message));
        }
        let opened = tunnels.open(node, Purpose::Images(order)).await;
        let mut tunnel = opened.map_err(|error| error.to_string())?;
        loop {
            let answer = answer(&mut tunnel, node, silence).await?;
            let is_last = matches!(answer.says, Some(Says::Done(_)));
            // If nobody wants it, this is dropped in a moment.
            self.pass_on(Some(answer), String::new()).await.ok();
            if is_last {
                return Ok(());
            }
        }
    }

    async fn pass_on(
        &self,
        answer: Option<v1::ImagesAnswer>,
        problem: String,
    ) -> Result<(), mpsc::error::SendError<v1::NodeImages>> {
        let node = self.node.to_string();
        self.sender.send(v1::NodeImages { node, answer, problem }).await
    }
}

/// What a node says next, or why it says nothing.
async fn answer(
    tunnel: &mut Tunnel,
    node: &NodeName,
    silence: Duration,
) -> Result<v1::ImagesAnswer, String> {
    let said = timeout(silence, next(&mut tunnel.up)).await;
    match said.map_err(|_| format!("node {node} has said nothing for {} s", silence.as_secs()))? {
        Ok(Some(Message::Images(answer))) => Ok(answer),
        Ok(Some(_)) => Err(format!("node {node} said something else than it was asked")),
        Ok(None) => Err(format!("the agent of node {node} went away without an answer")),
        Err(status) if is_unknown(&status) => Err(format!(
            "the agent of node {node} is of an earlier version, which knows nothing of this; upgrade it"
        )),
        Err(status) => Err(status.message().to_owned()),
    }
}

/// Whether this is what an agent says that does not know the purpose of a tunnel.
fn is_unknown(status: &Status) -> bool {
    status.code() == Code::InvalidArgument && status.message().contains("unknown purpose")
}
