//! What is asked about the images of this node.

mod pull;
mod push;

use dwell_core::instance::{MESSAGE_MAX, sanitize};
use dwell_daemon::Causes;
use dwell_engine::Image;
use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;
use dwell_proto::v1::images_order::What;
use dwell_proto::v1::tunnel_up::Message;

use super::{Ends, TunnelError, send};
use crate::images::{Images, Own, Removal, Role, Scope, Uses};

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
    let order = match order.what {
        Some(What::Push(offer)) => return push::carry(images, offer, ends).await,
        Some(What::Pull(order)) => return pull::carry(images, order, ends).await,
        Some(What::Ensure(order)) => return pull::ensure(images, order, ends).await,
        what => v1::ImagesOrder { what },
    };
    // Cancel-safe: both branches end the tunnel, or the first one is done. What is cut short is a part of what was asked.
    let answers = tokio::select! {
        answers = answers(images, order) => answers?,
        _ = ends.down.message() => return Err(TunnelError::Gone),
    };
    for says in answers.into_iter().chain([Says::Done(true)]) {
        say(ends, says).await?;
    }
    Ok(())
}

async fn say(ends: &Ends, says: Says) -> Result<(), TunnelError> {
    send(&ends.up, Message::Images(v1::ImagesAnswer { says: Some(says) })).await
}

async fn answers(images: &Images, order: v1::ImagesOrder) -> Result<Vec<Says>, TunnelError> {
    match order.what {
        Some(What::List(_)) => {
            let (found, own, uses) = images.list().await?;
            let page = |page: &[Image]| {
                let images = page.iter().map(|image| wire(image, &own, &uses)).collect();
                Says::Page(v1::ImagePage { images })
            };
            Ok(found.chunks(PAGE).map(page).collect())
        }
        Some(What::Remove(image)) => {
            let removal = images.remove(&image).await?;
            Ok(vec![removed(&removal, "")])
        }
        Some(What::Prune(v1::PruneImages { all, dry_run })) => {
            let scope = if all { Scope::All } else { Scope::Own };
            let (gone, failed) = images.prune(scope, dry_run).await?;
            let gone = gone.iter().map(|removal| removed(removal, ""));
            let failed =
                failed.iter().map(|(removal, error)| removed(removal, &Causes(error).to_string()));
            Ok(gone.chain(failed).collect())
        }
        Some(What::Push(_) | What::Pull(_) | What::Ensure(_)) | None => {
            Err(TunnelError::BadRequest(
                "this agent knows nothing of what is asked of its images; upgrade it".to_owned(),
            ))
        }
    }
}

fn wire(image: &Image, own: &Own, uses: &Uses) -> v1::NodeImage {
    let mut needs = uses.of(image.id);
    let told = needs.by_ref().take(USES_MAX).map(|need| v1::ImageUse {
        instance: need.instance.to_string(),
        role: role(need.role).into(),
    });
    let told = told.collect();
    let fetched = own.get(&image.id);
    v1::NodeImage {
        id: image.id.to_string(),
        names: names(image.names.iter()),
        size_bytes: image.size.0,
        created_at_ms: image.created_at.0,
        containers: image.containers,
        uses: told,
        further_uses: u32::try_from(needs.count()).unwrap_or(u32::MAX),
        fetched: fetched.is_some(),
        unused_ms: fetched.map_or(0, |fetched| fetched.unused.0),
    }
}

fn removed(removal: &Removal, problem: &str) -> Says {
    Says::Removal(v1::ImageRemoval {
        id: removal.image.to_string(),
        names: names(removal.names.iter()),
        whole: removal.whole,
        size_bytes: removal.size.0,
        problem: sanitize(problem, MESSAGE_MAX),
    })
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    names.take(NAMES_MAX).map(|name| sanitize(name, NAME_MAX)).collect()
}

fn role(role: Role) -> v1::image_use::Role {
    match role {
        Role::Runs => v1::image_use::Role::Runs,
        Role::Next => v1::image_use::Role::Next,
        Role::FallBack => v1::image_use::Role::FallBack,
    }
}
