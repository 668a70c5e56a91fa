//! An image that this node is to have before an instance needs it.

use std::time::Duration;

use dwell_core::registry::RegistryLogins;
use dwell_engine::PullProgress;
use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::super::send;
use super::{Ends, Message, TunnelError, say};
use crate::images::Images;

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Fetches it, and tells how far that is.
pub(super) async fn carry(
    images: &Images,
    order: v1::PullImage,
    ends: &mut Ends,
) -> Result<(), TunnelError> {
    let logins = RegistryLogins::try_from(order.logins.unwrap_or_default())
        .map_err(|error| TunnelError::BadRequest(error.to_string()))?;
    let (progress, seen) = watch::channel(PullProgress::default());
    let up = ends.up.clone();
    // Cancel-safe: every branch but the first ends the tunnel, and what was fetched by then is the engine's to keep or not.
    tokio::select! {
        pulled = images.ledger.pull(&order.image, &logins, &progress) => pulled?,
        gone = tell(seen, up) => return Err(gone),
        _ = ends.down.message() => return Err(TunnelError::Gone),
    }
    say(ends, Says::Done(true)).await
}

/// Fetches it if there is none of that reference.
pub(super) async fn ensure(
    images: &Images,
    order: v1::PullImage,
    ends: &mut Ends,
) -> Result<(), TunnelError> {
    if images.ledger.has(&order.image).await? {
        return say(ends, Says::Done(true)).await;
    }
    carry(images, order, ends).await
}

/// Tells of progress until nobody listens.
async fn tell(
    mut seen: watch::Receiver<PullProgress>,
    up: mpsc::Sender<v1::TunnelUp>,
) -> TunnelError {
    while seen.changed().await.is_ok() {
        let PullProgress { layers_done, layers, bytes_done, bytes } = *seen.borrow_and_update();
        let progress = v1::ImageProgress { layers_done, layers, bytes_done, bytes };
        let says = Some(Says::Progress(progress));
        if send(&up, Message::Images(v1::ImagesAnswer { says })).await.is_err() {
            return TunnelError::Gone;
        }
        sleep(PROGRESS_EVERY).await;
    }
    std::future::pending().await
}
