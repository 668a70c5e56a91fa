//! What a node answers about its images.

use dwell_core::registry::RegistryLogins;
use dwell_engine::fake::Operation;
use dwell_proto::v1::image_use::Role;
use dwell_proto::v1::images_answer::Says;
use dwell_proto::v1::images_order::What;

use super::*;
use crate::images::Images;

impl Fixture {
    /// A node on which `web-0` runs `web` and has another image and one to fall back to before it.
    async fn with_images(wanted: &str, fallback: &str) -> (Self, FakeEngine) {
        let mut node = Self::start().await;
        let engine = node.engine.clone();
        let id = engine.inspect(&node.container).await.unwrap().details.unwrap().image;
        let mut running = status("web-0", Phase::Running, node.container.as_str());
        running.image = id;
        let instances = [(running.instance.clone(), running)].into();
        let statuses = Statuses { revision: Revision(1), complete: true, instances };
        let mut web = assigned("web-0");
        web.template = Template::of_image(wanted);
        web.fallback = Some(Template::of_image(fallback));
        let assignment = Assignment {
            revision: Revision(1),
            instances: [(web.instance.clone(), web)].into(),
            ..Assignment::empty(network())
        };
        let images = Images::of_test(
            Arc::new(engine.clone()),
            watch::Sender::new(Some(Arc::new(assignment))).subscribe(),
            watch::Sender::new(Some(Arc::new(statuses))).subscribe(),
        );
        node.tunnels.node.images = Some(images);
        (node, engine)
    }
}

fn list() -> Option<Purpose> {
    Some(Purpose::Images(v1::ImagesOrder { what: Some(What::List(true)) }))
}

/// The images of a list, and how many messages it took.
async fn listed(node: &mut Fixture) -> (Vec<v1::NodeImage>, usize) {
    let mut tunnel = node.open(list()).await;
    let (mut images, mut pages) = (Vec::new(), 0);
    loop {
        match next(&mut tunnel).await {
            Some(Message::Images(v1::ImagesAnswer { says: Some(Says::Page(page)) })) => {
                images.extend(page.images);
                pages += 1;
            }
            Some(Message::Images(v1::ImagesAnswer { says: Some(Says::Done(true)) })) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(next(&mut tunnel).await, None);
    (images, pages)
}

#[tokio::test]
async fn images_are_listed_with_what_needs_them() {
    let (mut node, engine) = Fixture::with_images("next", "before").await;
    let progress = watch::Sender::default();
    for image in ["next", "before", "other"] {
        engine.pull(image, &RegistryLogins::new(), &progress).await.unwrap();
    }
    let (images, _) = listed(&mut node).await;
    let told = |name: &str| {
        let image = images.iter().find(|image| image.names == [name]).unwrap();
        let uses = image.uses.iter().map(|need| (need.instance.as_str(), need.role()));
        (uses.collect::<Vec<_>>(), image.containers)
    };
    assert_eq!(told("web"), (vec![("web-0", Role::Runs)], 1));
    assert_eq!(told("next"), (vec![("web-0", Role::Next)], 0));
    assert_eq!(told("before"), (vec![("web-0", Role::FallBack)], 0));
    assert_eq!(told("other"), (vec![], 0));

    // What it runs already is nothing that is still to come.
    let (mut node, _) = Fixture::with_images("web", "web").await;
    let (images, _) = listed(&mut node).await;
    assert_eq!(images[0].uses.len(), 1);
    assert_eq!(images[0].uses[0].role(), Role::Runs);
}

#[tokio::test]
async fn a_long_list_comes_in_pages() {
    let (mut node, engine) = Fixture::with_images("web", "web").await;
    let progress = watch::Sender::default();
    for number in 0..1_200 {
        engine.pull(&format!("image-{number}"), &RegistryLogins::new(), &progress).await.unwrap();
    }
    let (images, pages) = listed(&mut node).await;
    assert_eq!((images.len(), pages), (1_201, 3));
}

#[tokio::test]
async fn an_engine_that_is_gone_is_told() {
    let (mut node, engine) = Fixture::with_images("web", "web").await;
    engine.down();
    match next(&mut node.open(list()).await).await {
        Some(Message::Error(error)) => assert_eq!(error.code, i32::from(Code::Unavailable)),
        other => panic!("{other:?}"),
    }
}

fn offer() -> Option<Purpose> {
    let image = v1::OfferedImage {
        id: format!("sha256:{}", "09".repeat(32)),
        names: vec!["pushed:1".to_owned()],
        layers: vec![v1::OfferedLayer {
            digest: format!("sha256:{}", "01".repeat(32)),
            size_bytes: 9,
        }],
    };
    let offer = v1::ImageOffer { images: vec![image], ..Default::default() };
    Some(Purpose::Images(v1::ImagesOrder { what: Some(What::Push(offer)) }))
}

async fn wanted(node: &mut Fixture) -> Carried {
    let mut tunnel = node.open(offer()).await;
    let wanted = v1::ImagesWanted { nothing: false, layers_held: vec![0] };
    let expected = v1::ImagesAnswer { says: Some(Says::Wanted(wanted)) };
    assert_eq!(next(&mut tunnel).await, Some(Message::Images(expected)));
    tunnel
}

async fn send(tunnel: &Carried, input: v1::image_input::Input) {
    let image = Some(v1::ImageInput { input: Some(input) });
    tunnel.down.send(Ok(v1::TunnelDown { image, ..Default::default() })).await.unwrap();
}

#[tokio::test]
async fn an_archive_is_taken_in_once_it_has_ended() {
    use v1::image_input::Input as Piece;
    let (mut node, engine) = Fixture::with_images("web", "web").await;
    engine.forget_image("pushed:1");
    let tunnel = wanted(&mut node).await;
    let archive = FakeEngine::archive("pushed:1");
    send(&tunnel, Piece::Data(archive.clone().into())).await;
    // The operator's machine goes away before it has said that this was all.
    drop(tunnel);
    let mut tunnel = wanted(&mut node).await;
    assert_eq!(engine.find_image("pushed:1").await.unwrap(), None);
    send(&tunnel, Piece::Data(archive.into())).await;
    send(&tunnel, Piece::End(true)).await;
    let done = Message::Images(v1::ImagesAnswer { says: Some(Says::Done(true)) });
    assert_eq!(next(&mut tunnel).await, Some(done));
    assert!(engine.find_image("pushed:1").await.unwrap().is_some());
}

#[tokio::test]
async fn an_image_that_is_needed_is_not_removed_by_order() {
    let (mut node, _) = Fixture::with_images("web", "web").await;
    let what = Some(What::Remove("web".to_owned()));
    let order = Some(Purpose::Images(v1::ImagesOrder { what }));
    match next(&mut node.open(order).await).await {
        Some(Message::Error(error)) => {
            assert_eq!(error.code, i32::from(Code::FailedPrecondition));
            assert!(error.message.contains("needed by web-0"), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_image_is_fetched_before_anybody_needs_it() {
    let (mut node, engine) = Fixture::with_images("web", "web").await;
    engine.forget_image("later:1");
    engine.break_image("none:1", true);
    let order = |image: &str| v1::PullImage { image: image.to_owned(), ..Default::default() };
    let pull = |image: &str| {
        Some(Purpose::Images(v1::ImagesOrder { what: Some(What::Pull(order(image))) }))
    };
    let ensure = |image: &str| {
        Some(Purpose::Images(v1::ImagesOrder { what: Some(What::Ensure(order(image))) }))
    };
    // What is here will do, whether a registry has it or not.
    let pulls = engine.count(Operation::Pull);
    let done = Some(Message::Images(v1::ImagesAnswer { says: Some(Says::Done(true)) }));
    assert_eq!(next(&mut node.open(ensure("web")).await).await, done);
    assert_eq!(engine.count(Operation::Pull), pulls);
    let mut tunnel = node.open(ensure("later:1")).await;
    let done = loop {
        match next(&mut tunnel).await {
            Some(Message::Images(v1::ImagesAnswer { says: Some(Says::Progress(_)) })) => {}
            other => break other,
        }
    };
    assert_eq!(done, Some(Message::Images(v1::ImagesAnswer { says: Some(Says::Done(true)) })));
    assert!(engine.find_image("later:1").await.unwrap().is_some());
    match next(&mut node.open(pull("none:1")).await).await {
        Some(Message::Error(error)) => assert!(error.message.contains("none:1"), "{error:?}"),
        other => panic!("{other:?}"),
    }
}
