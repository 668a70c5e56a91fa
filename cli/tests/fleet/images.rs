//! `dwell image`.

use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;

use super::{Fake, run, starting};

fn said(node: &str, says: Says) -> v1::NodeImages {
    let answer = Some(v1::ImagesAnswer { says: Some(says) });
    v1::NodeImages { node: node.into(), answer, ..Default::default() }
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

    let down =
        v1::NodeImages { node: "h3".into(), problem: "h3 is down".into(), ..Default::default() };
    fake.state.lock().unwrap().images.push(down);
    let ran = run(&fake, &["image", "ls"]).await;
    assert!(ran.code == 1 && ran.stderr.contains("node h3: h3 is down"), "{}", ran.stderr);
    assert!(ran.stdout.contains("web:1"), "what is known is shown");
}

#[tokio::test]
async fn an_image_is_removed_wherever_it_is_and_who_refuses_is_told() {
    let mut state = starting();
    let removal = v1::ImageRemoval {
        id: format!("sha256:{}", "0a".repeat(32)),
        names: vec!["web:1".into()],
        whole: true,
        size_bytes: 1 << 20,
        problem: String::new(),
    };
    let problem = |node: &str, problem: &str, code: tonic::Code| v1::NodeImages {
        node: node.into(),
        problem: problem.into(),
        code: code.into(),
        answer: None,
    };
    let missing = problem("h2", "image web:1 is not on this node", tonic::Code::NotFound);
    state.images = vec![said("h1", Says::Removal(removal)), said("h1", Says::Done(true)), missing];
    let fake = Fake::start(state);
    let ran = run(&fake, &["image", "rm", "web:1"]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "it is gone everywhere");
    assert!(ran.stdout.contains("web:1") && ran.stdout.contains("1.0 MiB"), "{}", ran.stdout);
    let needed = problem("h3", "web:1 is needed by web-0", tonic::Code::FailedPrecondition);
    fake.state.lock().unwrap().images.push(needed);
    let ran = run(&fake, &["image", "rm", "web:1", "--pool", "fast"]).await;
    assert!(ran.code == 1 && ran.stderr.contains("node h3: web:1 is needed"), "{}", ran.stderr);
    run(&fake, &["image", "prune", "--all", "--dry-run", "--node", "h1"]).await;
    assert_eq!(
        fake.asked(),
        [
            "remove images node= pool= image=web:1 all=false dry_run=false",
            "remove images node= pool=fast image=web:1 all=false dry_run=false",
            "remove images node=h1 pool= image= all=true dry_run=true",
        ]
    );
    fake.state.lock().unwrap().images.drain(..2);
    let ran = run(&fake, &["image", "rm", "web:1"]).await;
    assert!(ran.code == 1 && ran.stderr.contains("not on this node"), "{}", ran.stderr);
}

/// An archive of one image with two layers.
fn archive(path: &std::path::Path) -> u64 {
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    let mut add = |path: &str, content: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content.as_bytes()).unwrap();
    };
    let digest = |n: &str| format!("sha256:{}", n.repeat(32));
    add("a.tar", &"a".repeat(100_000));
    add("b.tar", &"b".repeat(1_000));
    add(
        "c.json",
        &format!(r#"{{"rootfs":{{"diff_ids":["{}","{}"]}}}}"#, digest("0a"), digest("0b")),
    );
    add(
        "manifest.json",
        r#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":["a.tar","b.tar"]}]"#,
    );
    archive.finish().unwrap();
    std::fs::metadata(path).unwrap().len()
}

#[tokio::test]
async fn each_node_is_sent_what_it_lacks() {
    let mut state = starting();
    let node = |name: &str| v1::Node { name: name.into(), ..Default::default() };
    state.nodes = ["h1", "h2", "h3"].map(node).into();
    let wants = |nothing, held| v1::ImagesWanted { nothing, layers_held: vec![held] };
    state.pushes = [("h1".to_owned(), wants(true, 0)), ("h2".to_owned(), wants(false, 1))].into();
    let fake = Fake::start(state);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.tar");
    let whole = archive(&path);
    let ran = run(&fake, &["image", "push", "--from-file", path.to_str().unwrap()]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let thin = whole - 512 - 100_352;
    let mut asked = fake.asked();
    asked.sort();
    assert_eq!(
        asked,
        [
            "push app:1 to h1 whole=false bytes=0 ended=true".to_owned(),
            format!("push app:1 to h2 whole=false bytes={thin} ended=true"),
            // One that cannot do with a part of it is sent everything.
            format!("push app:1 to h3 whole=false bytes={thin} ended=true"),
            format!("push app:1 to h3 whole=true bytes={whole} ended=true"),
        ]
    );
    let rows: Vec<&str> = ran.stdout.lines().collect();
    assert!(rows[1].contains("h1") && rows[1].contains("has it already"), "{rows:?}");
    assert!(rows[2].contains("1 of 2") && rows[3].contains("2 of 2"), "{rows:?}");
}

/// An archive of one image for two platforms, with a layer each.
fn archive_for_platforms(path: &std::path::Path) {
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    let mut add = |path: &str, content: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content.as_bytes()).unwrap();
    };
    for (architecture, size) in [("amd64", 5_000), ("arm64", 50_000)] {
        add(&format!("blobs/layer/{architecture}"), &"l".repeat(size));
        let layer = format!("sha256:{}", "0a".repeat(32));
        let config = format!(
            r#"{{"os":"linux","architecture":"{architecture}","rootfs":{{"diff_ids":["{layer}"]}}}}"#
        );
        add(&format!("blobs/config/{architecture}"), &config);
        let manifest = format!(
            r#"{{"config":{{"digest":"config:{architecture}"}},"layers":[{{"digest":"layer:{architecture}"}}]}}"#
        );
        add(&format!("blobs/manifest/{architecture}"), &manifest);
    }
    let both = r#"{"manifests":[{"digest":"manifest:amd64"},{"digest":"manifest:arm64"}]}"#;
    add("blobs/index/app", both);
    add("index.json", r#"{"manifests":[{"digest":"index:app"}]}"#);
    add(
        "manifest.json",
        r#"[{"Config":"blobs/config/amd64","RepoTags":["app:1"],"Layers":["blobs/layer/amd64"]}]"#,
    );
    archive.finish().unwrap();
}

#[tokio::test]
async fn each_node_is_sent_its_platform() {
    let mut state = starting();
    let node = |(name, arch): (&str, &str)| v1::Node {
        name: name.into(),
        capacity: Some(v1::Capacity {
            arch: arch.into(),
            engines: [("docker".to_owned(), v1::EngineInfo::default())].into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let nodes = [("h1", "x86_64"), ("h2", "aarch64"), ("h3", "riscv64")];
    state.nodes = nodes.map(node).into();
    let wants = v1::ImagesWanted { nothing: false, layers_held: vec![0] };
    state.pushes = ["h1", "h2"].map(|node| (node.to_owned(), wants.clone())).into();
    let fake = Fake::start(state);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.tar");
    archive_for_platforms(&path);
    let ran = run(&fake, &["image", "push", "--from-file", path.to_str().unwrap()]).await;
    // Each gets a layer, a configuration, a list and the end.
    let mut asked = fake.asked();
    asked.sort();
    let bytes = |layer: u64| 512 + layer.next_multiple_of(512) + 4 * 512 + 1024;
    let sent = |node: &str, layer| {
        format!("push app:1 to {node} whole=false bytes={} ended=true", bytes(layer))
    };
    assert_eq!(asked, [sent("h1", 5_000), sent("h2", 50_000)]);
    assert!(ran.code == 1 && ran.stdout.contains("1 of 1"), "{}", ran.stdout);
    let problem = "node h3: this node runs linux/riscv64, and the archive has app:1 for linux/amd64, linux/arm64";
    assert!(ran.stderr.contains(problem), "{}", ran.stderr);
}

#[tokio::test]
async fn what_cannot_be_pushed_is_not_begun() {
    let mut state = starting();
    state.nodes = vec![v1::Node { name: "h1".into(), ..Default::default() }];
    let fake = Fake::start(state);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.tar");
    std::fs::write(&path, "no archive").unwrap();
    let path = path.to_str().unwrap();
    let ran = run(&fake, &["image", "push", "--from-file", path]).await;
    assert!(ran.code == 2 && ran.stderr.contains(path), "{}", ran.stderr);
    assert_eq!(run(&fake, &["image", "push"]).await.code, 2);
    assert_eq!(run(&fake, &["image", "push", "a", "--from-file", path]).await.code, 2);
    let ran = run(&fake, &["image", "push", "--to", "h9", "--from-file", path]).await;
    assert!(ran.code == 3 && ran.stderr.contains("h9"), "{}", ran.stderr);
    assert_eq!(fake.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pull_tells_which_nodes_have_it_and_which_do_not() {
    let mut state = starting();
    let failed = v1::NodeImages {
        node: "h2".into(),
        problem: "pull of image web:1 failed: denied".into(),
        ..Default::default()
    };
    let progress = Says::Progress(v1::ImageProgress::default());
    state.images = vec![said("h1", progress), said("h1", Says::Done(true)), failed];
    let fake = Fake::start(state);
    let ran = run(&fake, &["image", "pull", "web:1", "--pool", "fast"]).await;
    assert!(ran.code == 1 && ran.stderr.contains("node h2: pull of image"), "{}", ran.stderr);
    assert!(ran.stdout.contains("h1"), "{}", ran.stdout);
    assert_eq!(fake.asked(), ["pull image web:1 node= pool=fast"]);
    fake.state.lock().unwrap().images.pop();
    assert_eq!(run(&fake, &["image", "pull", "web:1"]).await.code, 0);
}
