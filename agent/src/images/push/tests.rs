use dwell_engine::fake::control::TokioClock;
use dwell_engine::fake::{FakeEngine, Operation};
use dwell_engine::{Engine as _, SharedEngine};
use tokio::sync::watch;

use super::*;
use crate::images::Scope;

fn images(engine: &FakeEngine) -> Images {
    let shared: SharedEngine = Arc::new(engine.clone());
    let (assignment, statuses) = (watch::Sender::new(None), watch::Sender::new(None));
    Images::of_test(shared, assignment.subscribe(), statuses.subscribe())
}

fn node() -> (FakeEngine, Images) {
    let engine = FakeEngine::new(Arc::new(TokioClock::new()));
    engine.forget_image("web:1");
    let images = images(&engine);
    (engine, images)
}

fn layer(n: u8) -> ImageDigest {
    ImageDigest::new([n; 32])
}

fn offer() -> Vec<Offered> {
    let layers = [1, 2, 3].map(|n| (layer(n), 1 << 20)).into();
    vec![Offered { id: layer(9), names: vec!["web:1".to_owned()], layers }]
}

async fn push(images: &Images, parts: Vec<Part>) -> Result<(), ImagesError> {
    let push = Push::begin(images, &offer(), false).await?;
    let (sender, receiver) = mpsc::channel(1);
    let (loaded, ()) = tokio::join!(push.load(receiver), async move {
        for part in parts {
            sender.send(part).await.ok();
        }
    });
    loaded
}

fn data(bytes: &[u8]) -> Part {
    Part::Data(Piece::copy_from_slice(bytes))
}

#[tokio::test]
async fn what_was_pushed_is_there_and_ours() {
    let (engine, images) = node();
    let archive = FakeEngine::archive("web:1");
    let (one, other) = archive.split_at(5);
    push(&images, vec![data(one), data(other), Part::End]).await.unwrap();
    let id = engine.find_image("web:1").await.unwrap().unwrap();
    let own = images.ledger.own();
    assert_eq!(own[&id].via, Via::Push);
    // It travels no more.
    let again = vec![Offered { id, ..offer().remove(0) }];
    assert_eq!(Push::begin(&images, &again, false).await.unwrap().wanted, Wanted::Nothing);
    assert_ne!(Push::begin(&images, &again, true).await.unwrap().wanted, Wanted::Nothing);
}

#[tokio::test]
async fn layers_that_are_there_need_not_come_unless_all_are_asked_for() {
    let (engine, images) = node();
    engine.hold_layers([layer(1), layer(2), layer(7)]);
    let wanted = async |whole| Push::begin(&images, &offer(), whole).await.unwrap().wanted;
    assert_eq!(wanted(false).await, Wanted::Archive(vec![2]));
    assert_eq!(wanted(true).await, Wanted::Archive(vec![0]));
}

#[tokio::test]
async fn an_archive_that_does_not_end_as_it_should_was_never_there() {
    let (engine, images) = node();
    let whole = FakeEngine::archive("web:1");
    let too_much = || data(&vec![0; 80 << 20]);
    for (parts, problem) in [
        (vec![data(&whole)], "ends too early"),
        (vec![], "ends too early"),
        (vec![data(&whole), too_much(), Part::End], "more comes"),
        (vec![data(&whole[..whole.len() - 1]), Part::End], "cut off"),
    ] {
        let failed = push(&images, parts).await.unwrap_err().to_string();
        assert!(failed.contains(problem), "{failed}");
        assert_eq!(engine.find_image("web:1").await.unwrap(), None);
    }
    assert!(images.ledger.own().is_empty());
    let other = FakeEngine::archive("other:1");
    let failed = push(&images, vec![data(&other), Part::End]).await.unwrap_err().to_string();
    assert!(failed.contains("has no image web:1"), "{failed}");
}

/// What an engine would unpack by itself is as large as its sender likes, whatever was offered.
#[tokio::test]
async fn only_a_plain_archive_is_passed_on() {
    let (engine, images) = node();
    let whole = FakeEngine::archive("web:1");
    let compressed = [&[0x1f, 0x8b, 8, 0], &whole[..]].concat();
    for parts in [
        vec![data(&compressed), Part::End],
        vec![data(&compressed[..2]), data(&compressed[2..]), Part::End],
        vec![data(&[0; 1024]), Part::End],
        vec![data(&whole[..261]), Part::End],
        vec![Part::End],
    ] {
        let failed = push(&images, parts).await.unwrap_err().to_string();
        assert!(failed.contains("not a plain tar"), "{failed}");
        assert_eq!(engine.find_image("web:1").await.unwrap(), None);
    }
    // Wherever it is cut.
    let bytes = whole.chunks(1).map(data).chain([Part::End]).collect();
    push(&images, bytes).await.unwrap();
}

#[tokio::test]
async fn offers_that_make_no_sense_are_refused() {
    let (_engine, images) = node();
    let one = offer().remove(0);
    let named = |names: &[&str]| Offered {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        ..one.clone()
    };
    for (offer, problem) in [
        (vec![], "0 images"),
        (vec![one.clone(); IMAGES_MAX + 1], "33 images"),
        (vec![named(&[])], "0 names"),
        (vec![named(&["web@sha256:00"])], "not NAME:TAG"),
        (vec![Offered { layers: vec![(layer(1), 1); 1_001], ..one.clone() }], "1000 layers"),
        (vec![Offered { layers: vec![(layer(1), u64::MAX)], ..one.clone() }], "at most"),
    ] {
        let refused = Push::begin(&images, &offer, false).await.map(drop).unwrap_err().to_string();
        assert!(refused.contains(problem), "{refused}");
    }
}

/// Layers that were said to be there stay there, and pushes do not add up on the disk.
#[tokio::test(start_paused = true)]
async fn nothing_is_removed_and_nothing_else_pushed_meanwhile() {
    let (engine, images) = node();
    let under_way = Push::begin(&images, &offer(), false).await.unwrap();
    let refused = images.prune(Scope::Own, false).await.unwrap_err();
    assert!(matches!(refused, ImagesError::Busy), "{refused}");
    let refused = Push::begin(&images, &offer(), false).await.map(drop).unwrap_err();
    assert!(matches!(refused, ImagesError::Busy), "{refused}");
    assert_eq!(engine.count(Operation::RemoveImage), 0);
    drop(under_way);
    assert!(Push::begin(&images, &offer(), false).await.is_ok());
}
