//! The images of a fleet, with agents that are played here.

use std::collections::BTreeMap;

use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;
use dwell_proto::v1::images_order::What;
use dwell_proto::v1::open_tunnel::Purpose;
use dwell_proto::v1::tunnel_up::Message as Up;
use tonic::{Code, Streaming};

use dwell_proto::v1::image_input::Input as Piece;
use dwell_proto::v1::push_image_input::Input;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::fixture::{Agent, Fixture, SOON};
use crate::tunnel_end::{AgentEnd, asked};

fn page(name: &str) -> Says {
    let image = v1::NodeImage { names: vec![name.to_owned()], ..Default::default() };
    Says::Page(v1::ImagePage { images: vec![image] })
}

/// Says all this to what is asked next; what was asked.
async fn says(mut agent: Agent, all: Vec<Up>) -> (Agent, Purpose) {
    let open = asked(&mut agent).await;
    let end = AgentEnd::carry(&mut agent, &open.tunnel).await.unwrap();
    for message in all {
        end.send(message).await;
    }
    end.finish().await;
    (agent, open.purpose.unwrap())
}

fn up(says: Says) -> Up {
    Up::Images(v1::ImagesAnswer { says: Some(says) })
}

async fn all(mut answers: Streaming<v1::NodeImages>) -> BTreeMap<String, Vec<v1::NodeImages>> {
    let mut all: BTreeMap<String, Vec<_>> = BTreeMap::new();
    while let Some(answer) = tokio::time::timeout(SOON, answers.message()).await.unwrap().unwrap() {
        all.entry(answer.node.clone()).or_default().push(answer);
    }
    all
}

#[tokio::test]
async fn every_node_is_asked_for_its_images_and_one_that_cannot_be_is_an_answer() {
    let fixture = Fixture::start().await;
    let h1 = fixture.agent("h1", "192.0.2.1").await;
    let h2 = fixture.agent("h2", "192.0.2.2").await;
    // Known, and without an agent.
    fixture.node("h3", "192.0.2.3").await;
    let unknown = "a tunnel for an unknown purpose".to_owned();
    let older = v1::TunnelError { code: Code::InvalidArgument.into(), message: unknown };
    let agents = tokio::spawn(async move {
        let pages = vec![up(page("a:1")), up(page("b:1")), up(Says::Done(true))];
        tokio::join!(says(h1, pages), says(h2, vec![Up::Error(older)]))
    });
    let request = v1::ListImagesRequest::default();
    let answers = fixture.fleet().await.list_images(request).await.unwrap().into_inner();
    let found = all(answers).await;
    let ((_h1, purpose), _) = agents.await.unwrap();
    assert_eq!(purpose, Purpose::Images(v1::ImagesOrder { what: Some(What::List(true)) }));
    let [first, second, last] = &found["h1"][..] else { panic!("{found:?}") };
    assert_eq!(first.answer, Some(v1::ImagesAnswer { says: Some(page("a:1")) }));
    assert_eq!(second.answer, Some(v1::ImagesAnswer { says: Some(page("b:1")) }));
    assert_eq!(last.answer, Some(v1::ImagesAnswer { says: Some(Says::Done(true)) }));
    let [older] = &found["h2"][..] else { panic!("{found:?}") };
    assert!(older.problem.contains("earlier version"), "{older:?}");
    let [down] = &found["h3"][..] else { panic!("{found:?}") };
    assert!(down.answer.is_none() && down.problem.contains("h3"), "{down:?}");
}

#[tokio::test]
async fn nodes_are_chosen_by_name_and_by_pool() {
    let fixture = Fixture::start().await;
    let h1 = fixture.agent("h1", "192.0.2.1").await;
    fixture.node("h2", "192.0.2.2").await;
    let pool = Some("fast".to_owned());
    let request = v1::UpdateNodeRequest { name: "h1".to_owned(), pool, ..Default::default() };
    fixture.fleet().await.update_node(request).await.unwrap();
    let list = |node: &str, pool: &str| v1::ListImagesRequest {
        node: node.to_owned(),
        pool: pool.to_owned(),
    };
    let agent = tokio::spawn(says(h1, vec![up(Says::Done(true))]));
    let answers = fixture.fleet().await.list_images(list("", "fast")).await.unwrap().into_inner();
    assert_eq!(all(answers).await.into_keys().collect::<Vec<_>>(), ["h1"]);
    agent.await.unwrap();
    let answers = fixture.fleet().await.list_images(list("h2", "")).await.unwrap().into_inner();
    assert_eq!(all(answers).await.into_keys().collect::<Vec<_>>(), ["h2"]);
    for (node, pool) in [("h9", ""), ("", "slow")] {
        let status = fixture.fleet().await.list_images(list(node, pool)).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{node} {pool}");
    }
}

/// An agent that goes away in the middle has not said everything.
#[tokio::test]
async fn half_an_answer_is_told_as_such() {
    let fixture = Fixture::start().await;
    let h1 = fixture.agent("h1", "192.0.2.1").await;
    let agent = tokio::spawn(says(h1, vec![up(page("a:1"))]));
    let request = v1::ListImagesRequest::default();
    let answers = fixture.fleet().await.list_images(request).await.unwrap().into_inner();
    let found = all(answers).await;
    agent.await.unwrap();
    let [_, last] = &found["h1"][..] else { panic!("{found:?}") };
    assert!(last.problem.contains("went away"), "{last:?}");
}

/// A node that somebody has taken over says what it likes.
#[tokio::test]
async fn a_node_that_does_not_end_is_not_listened_to_for_ever() {
    let fixture = Fixture::start().await;
    let mut h1 = fixture.agent("h1", "192.0.2.1").await;
    let agent = tokio::spawn(async move {
        let open = asked(&mut h1).await;
        let end = AgentEnd::carry(&mut h1, &open.tunnel).await.unwrap();
        let page = up(page(&"x".repeat(1 << 20)));
        let mut sent = 0;
        // Until the controller has ended it.
        while end.up.send(v1::TunnelUp { message: Some(page.clone()) }).await.is_ok() {
            sent += 1;
        }
        (h1, sent)
    });
    let request = v1::ListImagesRequest::default();
    let answers = fixture.fleet().await.list_images(request).await.unwrap().into_inner();
    let found = all(answers).await;
    let [heard @ .., last] = &found["h1"][..] else { panic!("{found:?}") };
    assert!((1..64).contains(&heard.len()), "{}", heard.len());
    assert_eq!(last.code, i32::from(Code::ResourceExhausted));
    assert!(last.problem.contains("more of its images"), "{}", last.problem);
    let (_h1, sent) = tokio::time::timeout(SOON, agent).await.unwrap().unwrap();
    assert!(sent < 200, "{sent} MiB were taken of it");
}

#[tokio::test]
async fn what_was_not_asked_for_is_no_answer() {
    let fixture = Fixture::start().await;
    let h1 = fixture.agent("h1", "192.0.2.1").await;
    let agent = tokio::spawn(says(h1, vec![up(Says::Progress(v1::ImageProgress::default()))]));
    let request = v1::ListImagesRequest::default();
    let answers = fixture.fleet().await.list_images(request).await.unwrap().into_inner();
    let found = all(answers).await;
    let [last] = &found["h1"][..] else { panic!("{found:?}") };
    assert!(last.problem.contains("something else"), "{last:?}");
    drop(agent);
}

fn input(input: Input) -> v1::PushImageInput {
    v1::PushImageInput { input: Some(input) }
}

fn offer(node: &str) -> v1::PushImageInput {
    input(Input::Offer(v1::ImageOffer { node: node.to_owned(), ..Default::default() }))
}

/// An archive travels in small pieces, its end is told, and one without an end is not ended for it.
#[tokio::test]
async fn an_archive_is_passed_on_piece_by_piece_and_only_its_sender_ends_it() {
    let fixture = Fixture::start().await;
    let mut h1 = fixture.agent("h1", "192.0.2.1").await;
    for ends_well in [true, false] {
        let (client, inputs) = mpsc::channel(4);
        client.send(offer("h1")).await.unwrap();
        let mut fleet = fixture.fleet().await;
        let pushing =
            tokio::spawn(async move { fleet.push_image(ReceiverStream::new(inputs)).await });
        let open = asked(&mut h1).await;
        let Some(Purpose::Images(v1::ImagesOrder { what: Some(What::Push(offered)) })) =
            open.purpose
        else {
            panic!("something else is asked")
        };
        assert_eq!(offered.node, "h1");
        let mut end = AgentEnd::carry(&mut h1, &open.tunnel).await.unwrap();
        let wanted = Says::Wanted(v1::ImagesWanted { nothing: false, layers_held: vec![1] });
        end.send(up(wanted.clone())).await;
        let mut answers = pushing.await.unwrap().unwrap().into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap().says, Some(wanted));
        client.send(input(Input::Data(vec![7; 200_000].into()))).await.unwrap();
        let mut came = 0;
        while came < 200_000 {
            match end.input().await.unwrap().image.unwrap().input.unwrap() {
                Piece::Data(data) => {
                    assert!(data.len() <= 64 * 1024);
                    came += data.len();
                }
                Piece::End(_) => panic!("nobody has ended it"),
            }
        }
        if ends_well {
            client.send(input(Input::End(true))).await.unwrap();
            let last = end.input().await.unwrap().image.unwrap().input.unwrap();
            assert_eq!(last, Piece::End(true));
            end.send(up(Says::Done(true))).await;
            let last = answers.message().await.unwrap().unwrap();
            assert_eq!(last.says, Some(Says::Done(true)));
            assert_eq!(answers.message().await.unwrap(), None);
            end.finish().await;
        } else {
            drop((client, answers));
            assert!(end.input().await.is_none(), "it ends without its end");
        }
    }
}

#[tokio::test]
async fn a_push_without_an_offer_or_to_no_node_is_refused() {
    let fixture = Fixture::start().await;
    fixture.node("h2", "192.0.2.2").await;
    for (first, code) in [
        (input(Input::End(true)), Code::InvalidArgument),
        (offer(""), Code::InvalidArgument),
        (offer("h9"), Code::NotFound),
        (offer("h2"), Code::Unavailable),
    ] {
        let pushed = fixture.fleet().await.push_image(tokio_stream::iter([first])).await;
        assert_eq!(pushed.unwrap_err().code(), code);
    }
}

/// A node is told the login of the registry with the order, though none of its instances needs it.
#[tokio::test]
async fn a_pull_goes_with_the_login_for_its_registry() {
    let fixture = Fixture::start().await;
    let h1 = fixture.agent("h1", "192.0.2.1").await;
    for host in ["ghcr.io", "quay.io"] {
        let login = v1::SetRegistryLoginRequest {
            host: host.to_owned(),
            username: "ci".to_owned(),
            password: "hunter2".to_owned(),
        };
        fixture.fleet().await.set_registry_login(login).await.unwrap();
    }
    let progress = v1::ImageProgress { bytes: 7, ..Default::default() };
    let all_of_it = vec![up(Says::Progress(progress)), up(Says::Done(true))];
    let agent = tokio::spawn(says(h1, all_of_it));
    let pull = |image: &str| v1::PullImageRequest { image: image.to_owned(), ..Default::default() };
    let answers = fixture.fleet().await.pull_image(pull("ghcr.io/a:1")).await.unwrap().into_inner();
    assert_eq!(all(answers).await["h1"].len(), 2);
    let Purpose::Images(v1::ImagesOrder { what: Some(What::Pull(order)) }) = agent.await.unwrap().1
    else {
        panic!("something else is asked")
    };
    let [login] = &order.logins.as_ref().unwrap().logins[..] else { panic!("{order:?}") };
    assert_eq!((login.host.as_str(), login.password.as_str()), ("ghcr.io", "hunter2"));
    assert!(!format!("{order:?}").contains("hunter2"));
    let refused = fixture.fleet().await.pull_image(pull("")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}
