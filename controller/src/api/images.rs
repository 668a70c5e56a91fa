//! The images of nodes: each node is asked through a [tunnel](crate::tunnel) of its own, so many at a time, and what it says
//! is passed on as it comes. A node that cannot be asked is an answer, too.

mod push;

use dwell_core::id::{NodeName, PoolName};
use dwell_core::instance::{MESSAGE_MAX, sanitize};
use dwell_core::node::NodeState;
use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;
use dwell_proto::v1::images_order::What;
use dwell_proto::v1::open_tunnel::Purpose;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::hearing::{Asked, Hearing};
use super::{Api, ServerStream, request};
use crate::access;
use crate::model::{Command, Model, NodeView, Refusal, Subject};
use crate::status::into_status;
use crate::tunnel::{Tunnel, Tunnels};

/// How many nodes are asked at a time.
const ASKED_MAX: usize = 32;
/// The longest reference of an image, in bytes.
const REFERENCE_MAX: usize = 1024;
/// How many messages may wait for the client.
const WAITING_MAX: usize = 8;

impl Api {
    pub(super) async fn open_images(
        &self,
        request: &v1::ListImagesRequest,
    ) -> Result<ServerStream<v1::NodeImages>, Status> {
        let nodes = self.selected(&request.node, &request.pool).await?;
        Ok(self.of_each(nodes, What::List(true)))
    }

    /// Whether an instance of a node needs the image or not, the node gets the login for its registry with the order, and for
    /// that alone.
    pub(super) async fn open_pulls(
        &self,
        request: v1::PullImageRequest,
    ) -> Result<ServerStream<v1::NodeImages>, Status> {
        let v1::PullImageRequest { node, pool, image } = request;
        check(&image)?;
        if image.is_empty() {
            return Err(Status::invalid_argument("no image is named"));
        }
        let mut nodes = self.selected(&node, &pool).await?;
        if node.is_empty() {
            // Those that run no instances need no images.
            nodes.retain(|view| view.node.block.is_some());
        }
        let asked = image.clone();
        let (logins, _) = self.read(move |model: &Model| model.logins_for(&asked)).await?;
        let logins = (!logins.is_empty()).then(|| (&logins).into());
        self.note_images(&nodes, "images-pulled", &format!("{image} is pulled")).await;
        Ok(self.of_each(nodes, What::Pull(v1::PullImage { image, logins })))
    }

    pub(super) async fn remove_images_of(
        &self,
        request: v1::RemoveImagesRequest,
    ) -> Result<ServerStream<v1::NodeImages>, Status> {
        let v1::RemoveImagesRequest { node, pool, image, all, dry_run } = request;
        let nodes = self.selected(&node, &pool).await?;
        let what = if image.is_empty() {
            What::Prune(v1::PruneImages { all, dry_run })
        } else {
            check(&image)?;
            What::Remove(image.clone())
        };
        if !dry_run {
            let removed = match (image.is_empty(), all) {
                (false, _) => format!("{image} is removed"),
                (true, false) => "images that nothing needs are removed".to_owned(),
                (true, true) => {
                    "images that nothing needs are removed, whoever fetched them".to_owned()
                }
            };
            self.note_images(&nodes, "images-removed", &removed).await;
        }
        Ok(self.of_each(nodes, what))
    }

    /// Says in the events what is done with images: on a node, or on several. What cannot be written down is in the log.
    async fn note_images(&self, nodes: &[NodeView], reason: &'static str, done: &str) {
        let (subject, message) = match nodes {
            [one] => (Subject::Node(one.node.name.clone()), done.to_owned()),
            several => (Subject::Cluster, format!("{done}, on {} nodes", several.len())),
        };
        let message = sanitize(&message, MESSAGE_MAX);
        let note = Command::Note { subject, reason, message: message.clone() };
        if let Err(error) = self.owner.command_for(access::acting(), note).await {
            tracing::warn!(%error, by = access::acting(), reason, message, "what is done with images is not in the events");
        }
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
    fn of_each(&self, nodes: Vec<NodeView>, order: What) -> ServerStream<v1::NodeImages> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let tunnels = self.tunnels.clone();
        let asking = stream::iter(nodes).for_each_concurrent(ASKED_MAX, move |view| {
            let (tunnels, order, sender) = (tunnels.clone(), order.clone(), sender.clone());
            async move {
                ask(&tunnels, &view, order, &sender).await;
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

fn check(image: &str) -> Result<(), Status> {
    if image.len() > REFERENCE_MAX {
        return Err(Status::invalid_argument(format!(
            "no image has a name of more than {REFERENCE_MAX} bytes"
        )));
    }
    Ok(())
}

/// Asks one node, and passes on what it says, or why it says nothing.
async fn ask(
    tunnels: &Tunnels,
    view: &NodeView,
    order: What,
    sender: &mpsc::Sender<v1::NodeImages>,
) {
    if let Err(status) = hear(tunnels, view, order, sender).await {
        let (code, problem) = (status.code().into(), status.message().to_owned());
        let node = view.node.name.to_string();
        let message = v1::NodeImages { node, answer: None, problem, code };
        sender.send(message).await.ok();
    }
}

async fn hear(
    tunnels: &Tunnels,
    view: &NodeView,
    order: What,
    sender: &mpsc::Sender<v1::NodeImages>,
) -> Result<(), Status> {
    let mut hearing = Hearing::new(view.node.name.clone(), Asked::of(&order));
    let mut tunnel = open(tunnels, view, order).await?;
    loop {
        let answer = hearing.next(&mut tunnel).await?;
        let is_last = matches!(answer.says, Some(Says::Done(_)));
        let node = view.node.name.to_string();
        let message = v1::NodeImages { node, answer: Some(answer), ..Default::default() };
        // If nobody wants it, this is dropped in a moment.
        sender.send(message).await.ok();
        if is_last {
            return Ok(());
        }
    }
}

/// A tunnel to a node that answers.
async fn open(tunnels: &Tunnels, view: &NodeView, order: What) -> Result<Tunnel, Status> {
    let node = &view.node.name;
    if view.state != NodeState::Ready {
        return Err(Status::unavailable(format!("{node} {}", view.message)));
    }
    let order = v1::ImagesOrder { what: Some(order) };
    tunnels.open(node, Purpose::Images(order)).await.map_err(into_status)
}
