//! An archive of images on its way to this node's engine.

use std::time::Duration;

use dwell_core::image::ImageDigest;
use dwell_proto::v1;
use dwell_proto::v1::image_input::Input;
use dwell_proto::v1::images_answer::Says;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Streaming;

use super::{Ends, TunnelError, say};
use crate::images::{Images, Offered, Part, Push, Wanted};

/// How long the sender may send nothing, before its end.
const SILENCE: Duration = Duration::from_secs(60);
/// How many pieces may wait for the engine.
const WAITING_MAX: usize = 2;

/// Says what is wanted, and takes it in.
pub(super) async fn carry(
    images: &Images,
    offer: v1::ImageOffer,
    ends: &mut Ends,
) -> Result<(), TunnelError> {
    let offered = offer.images.into_iter().map(offered).collect::<Result<Vec<_>, _>>()?;
    // Cancel-safe: both branches end the tunnel, or the first one is done. Nothing has been taken in.
    let push = tokio::select! {
        push = Push::begin(images, &offered, offer.whole) => push?,
        _ = ends.down.message() => return Err(TunnelError::Gone),
    };
    let wanted = match &push.wanted {
        Wanted::Nothing => v1::ImagesWanted { nothing: true, layers_held: Vec::new() },
        Wanted::Archive(held) => v1::ImagesWanted {
            nothing: false,
            layers_held: held.iter().map(|&held| u32::try_from(held).unwrap_or(0)).collect(),
        },
    };
    let is_done = wanted.nothing;
    say(ends, Says::Wanted(wanted)).await?;
    if is_done {
        return say(ends, Says::Done(true)).await;
    }
    let (parts, receiver) = mpsc::channel(WAITING_MAX);
    // Cancel-safe: feeding ends only if there is nothing more to wait for, and what was taken in by then is dropped.
    tokio::select! {
        loaded = push.load(receiver) => loaded?,
        problem = feed(&mut ends.down, parts) => return Err(problem),
    }
    say(ends, Says::Done(true)).await
}

/// Passes on what comes, until its sender is gone or silent.
async fn feed(down: &mut Streaming<v1::TunnelDown>, parts: mpsc::Sender<Part>) -> TunnelError {
    let mut parts = Some(parts);
    loop {
        let limit = if parts.is_some() { SILENCE } else { Duration::MAX };
        let Ok(message) = timeout(limit, down.message()).await else {
            return TunnelError::Silent(SILENCE.as_secs());
        };
        let Ok(Some(message)) = message else { return TunnelError::Gone };
        let part = match message.image.and_then(|message| message.input) {
            Some(Input::Data(data)) => Part::Data(data),
            Some(Input::End(true)) => Part::End,
            Some(Input::End(false)) | None => continue,
        };
        let is_last = matches!(part, Part::End);
        if let Some(open) = &parts {
            // An engine that reads no more says why in a moment.
            open.send(part).await.ok();
        }
        if is_last {
            parts = None;
        }
    }
}

fn offered(wire: v1::OfferedImage) -> Result<Offered, TunnelError> {
    let digest = |text: &str| {
        text.parse::<ImageDigest>()
            .map_err(|error| TunnelError::BadRequest(format!("{text:?} {error}")))
    };
    let layers = wire.layers.iter().map(|one| Ok((digest(&one.digest)?, one.size_bytes)));
    let layers = layers.collect::<Result<Vec<_>, TunnelError>>()?;
    Ok(Offered { id: digest(&wire.id)?, names: wire.names, layers })
}
