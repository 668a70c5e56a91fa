//! What a node answers about its images.

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
        let images = Images {
            engine: Arc::new(engine.clone()),
            assignment: watch::Sender::new(Some(Arc::new(assignment))).subscribe(),
            statuses: watch::Sender::new(Some(Arc::new(statuses))).subscribe(),
        };
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
        engine.pull(image, &progress).await.unwrap();
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
        engine.pull(&format!("image-{number}"), &progress).await.unwrap();
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
