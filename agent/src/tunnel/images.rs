//! What is asked about the images of this node.

use dwell_core::instance::sanitize;
use dwell_engine::Image;
use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;
use dwell_proto::v1::images_order::What;
use dwell_proto::v1::tunnel_up::Message;

use super::{Ends, TunnelError, send};
use crate::images::{Images, Role, Uses};

/// How many images are told in one message.
const PAGE: usize = 500;
/// How many names of an image are told, and of what length, in bytes.
const NAMES_MAX: usize = 64;
const NAME_MAX: usize = 512;
/// How many of those who need an image are told.
const USES_MAX: usize = 200;

/// Does what is asked, and tells.
pub(super) async fn carry(
    images: &Images,
    order: v1::ImagesOrder,
    ends: &mut Ends,
) -> Result<(), TunnelError> {
    match order.what {
        Some(What::List(_)) => list(images, ends).await,
        None => Err(TunnelError::BadRequest("nothing that is known is asked of images".to_owned())),
    }
}

async fn list(images: &Images, ends: &mut Ends) -> Result<(), TunnelError> {
    // Cancel-safe: both branches end the tunnel, or the first one is done. Nothing is changed by looking.
    let (found, uses) = tokio::select! {
        found = images.list() => found?,
        _ = ends.down.message() => return Err(TunnelError::Gone),
    };
    for page in found.chunks(PAGE) {
        let images = page.iter().map(|image| wire(image, &uses)).collect();
        say(ends, Says::Page(v1::ImagePage { images })).await?;
    }
    say(ends, Says::Done(true)).await
}

async fn say(ends: &Ends, says: Says) -> Result<(), TunnelError> {
    send(&ends.up, Message::Images(v1::ImagesAnswer { says: Some(says) })).await
}

fn wire(image: &Image, uses: &Uses) -> v1::NodeImage {
    let mut needs = uses.of(image.id);
    let told = needs.by_ref().take(USES_MAX).map(|need| v1::ImageUse {
        instance: need.instance.to_string(),
        role: role(need.role).into(),
    });
    let told = told.collect();
    v1::NodeImage {
        id: image.id.to_string(),
        names: image.names.iter().take(NAMES_MAX).map(|name| sanitize(name, NAME_MAX)).collect(),
        size_bytes: image.size.0,
        created_at_ms: image.created_at.0,
        containers: image.containers,
        uses: told,
        further_uses: u32::try_from(needs.count()).unwrap_or(u32::MAX),
    }
}

fn role(role: Role) -> v1::image_use::Role {
    match role {
        Role::Runs => v1::image_use::Role::Runs,
        Role::Next => v1::image_use::Role::Next,
        Role::FallBack => v1::image_use::Role::FallBack,
    }
}
