//! Archives of images from a client to a node, through a [tunnel](crate::tunnel), piece by piece: nothing is kept here.

use dwell_proto::v1;
use dwell_proto::v1::image_input::Input as Down;
use dwell_proto::v1::images_answer::Says;
use dwell_proto::v1::images_order::What;
use dwell_proto::v1::push_image_input::Input;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

use super::super::hearing::{Asked, Hearing};
use super::{Api, ServerStream, open};
use crate::tunnel::Tunnel;

/// The largest piece that is passed on at once, in bytes; larger ones are cut.
const PIECE_MAX: usize = 64 * 1024;
/// How many names of what is pushed are told in its event.
const NAMES_TOLD: usize = 8;

impl Api {
    pub(in crate::api) async fn open_push(
        &self,
        mut input: Streaming<v1::PushImageInput>,
    ) -> Result<ServerStream<v1::ImagesAnswer>, Status> {
        let first = input.message().await?.and_then(|message| message.input);
        let Some(Input::Offer(offer)) = first else {
            return Err(Status::invalid_argument(
                "the first message of a push has to be the offer",
            ));
        };
        if offer.node.is_empty() {
            return Err(Status::invalid_argument("a push is for one node; name it"));
        }
        let nodes = self.selected(&offer.node, "").await?;
        let view = nodes.first().ok_or_else(|| Status::not_found("there is no such node"))?;
        let names = offer.images.iter().flat_map(|image| &image.names).take(NAMES_TOLD);
        let names: Vec<&str> = names.map(String::as_str).collect();
        self.note_images(&nodes, "images-pushed", &format!("pushed: {}", names.join(" "))).await;
        let hearing = Hearing::new(view.node.name.clone(), Asked::Push);
        let tunnel = open(&self.tunnels, view, What::Push(offer)).await?;
        let sending = AbortOnDropHandle::new(tokio::spawn(send_input(input, tunnel.down.clone())));
        let state = Push { tunnel, hearing, sending, ended: false };
        Ok(Box::pin(stream::try_unfold(state, |mut push: Push| async move {
            if push.ended {
                return Ok(None);
            }
            let said = push.hearing.next(&mut push.tunnel).await?;
            push.ended = matches!(said.says, Some(Says::Done(_)));
            Ok(Some((said, push)))
        })))
    }
}

/// A push, for as long as its client listens. When the client goes, the tunnel does, and the node takes in nothing.
struct Push {
    tunnel: Tunnel,
    hearing: Hearing,
    #[expect(dead_code, reason = "ends the task when dropped")]
    sending: AbortOnDropHandle<()>,
    ended: bool,
}

/// Passes the archive on. Only its end is told as such: a client that goes away has not ended it.
async fn send_input(mut input: Streaming<v1::PushImageInput>, down: mpsc::Sender<v1::TunnelDown>) {
    let wrap = |input| v1::TunnelDown {
        image: Some(v1::ImageInput { input: Some(input) }),
        ..Default::default()
    };
    while let Ok(Some(message)) = input.message().await {
        match message.input {
            Some(Input::Data(mut data)) => {
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(PIECE_MAX));
                    if down.send(wrap(Down::Data(piece))).await.is_err() {
                        return;
                    }
                }
            }
            Some(Input::End(true)) => {
                // If the tunnel has ended too, there is nobody to tell.
                drop(down.send(wrap(Down::End(true))).await);
                return;
            }
            // A second offer and an empty message mean nothing.
            Some(Input::End(false) | Input::Offer(_)) | None => {}
        }
    }
}
