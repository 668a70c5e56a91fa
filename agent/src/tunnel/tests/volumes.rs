//! The data of a volume comes from one node to another.

use dwell_engine::{CopyPlace, VolumeCopy};
use dwell_proto::v1::volume_order::What;
use dwell_proto::v1::volume_part::Part;

use super::*;

fn copy(name: &str) -> VolumeCopy {
    VolumeCopy {
        instance: "db-0".parse().unwrap(),
        name: name.parse().unwrap(),
        image_path: None,
        of_move: 7,
    }
}

fn order(name: &str, what: What) -> Option<Purpose> {
    Some(Purpose::Volume(v1::VolumeOrder {
        instance: "db-0".to_owned(),
        volume: name.to_owned(),
        copy: 7,
        image_path: String::new(),
        is_final: true,
        what: Some(what),
    }))
}

/// A node that has a volume with one file.
async fn with_volume(name: &str, content: &str) -> Fixture {
    let node = Fixture::start().await;
    let CopyPlace::Open(place) = node.engine.begin_copy(&copy(name)).await.unwrap() else {
        panic!("it has one already")
    };
    std::fs::write(place.join("file"), content).unwrap();
    node.engine.adopt_copy(&copy(name)).await.unwrap();
    node
}

fn part(message: Option<Message>) -> Part {
    match message {
        Some(Message::Volume(v1::VolumePart { part: Some(part) })) => part,
        other => panic!("{other:?}"),
    }
}

async fn pass_on(tunnel: &Carried, part: Part) {
    let volume = Some(v1::VolumePart { part: Some(part) });
    tunnel.down.send(Ok(v1::TunnelDown { volume, ..Default::default() })).await.unwrap();
}

/// Passes on what both say, until the one that receives has all of it.
async fn copied(sender: &mut Carried, receiver: &mut Carried) {
    loop {
        tokio::select! {
            message = next(receiver) => match part(message) {
                Part::Done(true) => return,
                part => pass_on(sender, part).await,
            },
            message = next(sender) => pass_on(receiver, part(message)).await,
        }
    }
}

#[tokio::test]
async fn a_volume_comes_to_another_node() {
    let mut from = with_volume("data", "content").await;
    let mut to = Fixture::start().await;
    let mut receiver = to.open(order("data", What::Receive(true))).await;
    let mut sender = from.open(order("data", What::Send(true))).await;
    copied(&mut sender, &mut receiver).await;
    drop((sender, receiver));
    // As often as it is asked.
    for _ in 0..2 {
        let mut adoption = to.open(order("data", What::Adopt(true))).await;
        assert_eq!(part(next(&mut adoption).await), Part::Adopted(true));
        let mut again = to.open(order("data", What::Receive(true))).await;
        assert_eq!(part(next(&mut again).await), Part::Adopted(true));
    }
    let data = to.engine.volume_data(&copy("data").instance, &copy("data").name).await.unwrap();
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "content");
}

#[tokio::test]
async fn a_copy_waits_for_the_last_one_of_the_same_volume_and_for_no_other() {
    let mut to = Fixture::start().await;
    let mut first = to.open(order("data", What::Receive(true))).await;
    assert!(matches!(part(next(&mut first).await), Part::Held(_)));
    let mut other = to.open(order("other", What::Receive(true))).await;
    assert!(matches!(part(next(&mut other).await), Part::Held(_)));
    let mut second = to.open(order("data", What::Receive(true))).await;
    // It would have said so at once, as the other did.
    let said = timeout(Duration::from_millis(500), next(&mut second)).await;
    assert!(said.is_err(), "two are at work: {said:?}");
    drop(first);
    assert!(matches!(part(next(&mut second).await), Part::Held(_)));
}

#[tokio::test]
async fn what_is_not_there_is_not_sent_and_becomes_nothing() {
    let mut node = Fixture::start().await;
    for what in [What::Send(true), What::Adopt(true)] {
        let mut tunnel = node.open(order("data", what)).await;
        match next(&mut tunnel).await {
            Some(Message::Error(error)) => assert_eq!(Code::from(error.code), Code::NotFound),
            other => panic!("{other:?}"),
        }
    }
}
