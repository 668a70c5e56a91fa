//! Nodes that images are pushed to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;
use dwell_proto::v1::push_image_input::Input;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::State;

/// Wants what the script says, notes how much came of it, and is content. Of a node that is not in the script nothing is
/// good but everything.
pub(super) async fn play(
    mut input: Streaming<v1::PushImageInput>,
    script: BTreeMap<String, v1::ImagesWanted>,
    state: Arc<Mutex<State>>,
    answers: mpsc::Sender<Result<v1::ImagesAnswer, Status>>,
) {
    let Ok(Some(v1::PushImageInput { input: Some(Input::Offer(offer)) })) = input.message().await
    else {
        return;
    };
    let say = async |says| {
        answers.send(Ok(v1::ImagesAnswer { says: Some(says) })).await.ok();
    };
    let is_picky = !script.contains_key(&offer.node);
    let held = if offer.whole { 0 } else { 1 };
    let of_picky = v1::ImagesWanted { nothing: false, layers_held: vec![held] };
    let wanted = script.get(&offer.node).cloned().unwrap_or(of_picky);
    say(Says::Wanted(wanted.clone())).await;
    let (mut came, mut ended) = (0, wanted.nothing);
    while !ended {
        match input.message().await {
            Ok(Some(v1::PushImageInput { input: Some(Input::Data(data)) })) => came += data.len(),
            Ok(Some(v1::PushImageInput { input: Some(Input::End(true)) })) => ended = true,
            _ => break,
        }
    }
    let names: Vec<&str> =
        offer.images.iter().flat_map(|image| &image.names).map(String::as_str).collect();
    let note = format!(
        "push {} to {} whole={} bytes={came} ended={ended}",
        names.join(","),
        offer.node,
        offer.whole
    );
    state.lock().unwrap().asked.push(note);
    if is_picky && !offer.whole {
        answers.send(Err(Status::unavailable("a layer is missing"))).await.ok();
        return;
    }
    say(Says::Done(true)).await;
}
