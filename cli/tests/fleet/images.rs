//! `dwell image`.

use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;

use super::{Fake, run, starting};

fn said(node: &str, says: Says) -> v1::NodeImages {
    let answer = Some(v1::ImagesAnswer { says: Some(says) });
    v1::NodeImages { node: node.into(), answer, problem: String::new() }
}

fn image(name: &str) -> v1::NodeImage {
    v1::NodeImage {
        id: format!("sha256:{}", "0a".repeat(32)),
        names: vec![name.into()],
        size_bytes: 1 << 20,
        ..v1::NodeImage::default()
    }
}

#[tokio::test]
async fn images_are_listed_and_a_node_that_cannot_be_asked_is_told() {
    let mut state = starting();
    let page = |name: &str| Says::Page(v1::ImagePage { images: vec![image(name)] });
    state.images = vec![
        said("h1", page("web:1")),
        said("h1", Says::Done(true)),
        said("h2", page("web:1")),
        said("h2", Says::Done(true)),
    ];
    let fake = Fake::start(state);
    let ran = run(&fake, &["image", "ls"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("web:1") && ran.stdout.contains("h1, h2"), "{}", ran.stdout);
    let ran = run(&fake, &["image", "ls", "h1", "-o", "json"]).await;
    let view: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(view["images"][0]["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(run(&fake, &["image", "ls", "--pool", "fast"]).await.code, 0);
    assert_eq!(run(&fake, &["image", "ls", "h1", "--pool", "fast"]).await.code, 2);
    let asked = fake.asked();
    assert_eq!(asked[1..], ["list images node=h1 pool=", "list images node= pool=fast"]);

    let down = v1::NodeImages { node: "h3".into(), answer: None, problem: "h3 is down".into() };
    fake.state.lock().unwrap().images.push(down);
    let ran = run(&fake, &["image", "ls"]).await;
    assert!(ran.code == 1 && ran.stderr.contains("node h3: h3 is down"), "{}", ran.stderr);
    assert!(ran.stdout.contains("web:1"), "what is known is shown");
}
