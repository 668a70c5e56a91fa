use std::io::Write;

use serde_json::json;

use super::*;

/// The digest of a text.
fn digest(text: &str) -> String {
    Sha256::digest(text).iter().fold("sha256:".to_owned(), |id, byte| id + &format!("{byte:02x}"))
}

fn add(archive: &mut tar::Builder<Vec<u8>>, path: &str, content: &str) {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, path, content.as_bytes()).unwrap();
}

fn link(archive: &mut tar::Builder<Vec<u8>>, path: &str, to: &str) {
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    archive.append_link(&mut header, path, to).unwrap();
}

/// Two images: `one:1` of the layers a and b; `two:1` of a and c, where the file of a is a link.
fn saved() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let config = |layers: [&str; 2]| {
        json!({ "rootfs": { "type": "layers", "diff_ids": layers.map(digest) } }).to_string()
    };
    let (one, two) = (config(["a", "b"]), config(["a", "c"]));
    // Longer than a header has room for.
    let long = format!("{}/layer.tar", "b".repeat(150));
    add(&mut archive, "./a/layer.tar", &"a".repeat(2_000));
    add(&mut archive, &long, &"b".repeat(600));
    add(&mut archive, "one.json", &one);
    link(&mut archive, "d/layer.tar", "../a/layer.tar");
    add(&mut archive, "c/layer.tar", "c");
    add(&mut archive, "two.json", &two);
    let manifest = json!([
        { "Config": "one.json", "RepoTags": ["one:1"], "Layers": ["a/layer.tar", long] },
        { "Config": "two.json", "RepoTags": ["two:1"], "Layers": ["d/layer.tar", "c/layer.tar"] },
    ]);
    add(&mut archive, "manifest.json", &manifest.to_string());
    archive.into_inner().unwrap()
}

fn opened(bytes: &[u8]) -> Result<Archive, String> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Archive::of(file)
}

fn sent(archive: &Archive, cut: &Cut, held: &[u32]) -> Vec<u8> {
    let (part, mut bytes) = (archive.part(cut, held), Vec::new());
    part.send(100, |piece| {
        assert!(piece.len() <= 1024);
        bytes.extend(piece);
        true
    })
    .unwrap();
    assert_eq!(part.size(), bytes.len() as u64);
    bytes
}

fn paths(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| plain(&entry.unwrap().path().unwrap().to_string_lossy()).to_owned())
        .collect()
}

#[test]
fn images_and_their_layers_are_read() {
    let archive = opened(&saved()).unwrap();
    let [one, two] = &archive.images[..] else { panic!("{:?}", archive.images) };
    assert_eq!((&one.names[..], one.layers.len()), (&["one:1".to_owned()][..], 2));
    assert_eq!((one.layers[0].size, &one.layers[0].digest), (2_000, &digest("a")));
    assert_eq!(two.layers[0], one.layers[0], "a link leads to its file");
    let config = json!({ "rootfs": { "type": "layers", "diff_ids": [digest("a"), digest("c")] } });
    assert_eq!(two.id, digest(&config.to_string()));
}

#[test]
fn the_whole_is_sent_as_it_is_and_layers_that_are_held_are_left_out() {
    let bytes = saved();
    let archive = opened(&bytes).unwrap();
    // Whatever nodes it is for: it says nothing of several platforms.
    let cut = archive.cut("riscv64").unwrap();
    assert!(cut.is_whole());
    assert_eq!(sent(&archive, &cut, &[0, 0]), bytes);
    assert_eq!(sent(&archive, &cut, &[]), bytes);
    let thin = paths(&sent(&archive, &cut, &[2, 1]));
    assert_eq!(thin, ["one.json", "d/layer.tar", "c/layer.tar", "two.json", "manifest.json"]);
    // The other image wants it still.
    let shared = paths(&sent(&archive, &cut, &[1, 0]));
    assert_eq!(shared, paths(&bytes));
    assert_eq!(paths(&sent(&archive, &cut, &[9, 9])).len(), 4);
}

#[test]
fn sending_ends_when_nobody_takes_any_more() {
    let archive = opened(&saved()).unwrap();
    let (mut pieces, cut) = (0, archive.cut("").unwrap());
    let taken = archive.part(&cut, &[]).send(100, |_| {
        pieces += 1;
        pieces < 3
    });
    assert!(taken.is_ok() && pieces == 3);
}

/// Adds a file by its digest, which is returned.
fn blob(archive: &mut tar::Builder<Vec<u8>>, content: &str) -> serde_json::Value {
    let digest = digest(content);
    add(archive, &format!("blobs/{}", digest.replace(':', "/")), content);
    json!({ "digest": digest })
}

/// `app:1` as containerd's image store saves it: for each platform the variant, and whether its layer is in it.
fn for_platforms(platforms: &[(&str, &str, bool)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let (mut manifests, mut list) = (Vec::new(), Vec::new());
    for (architecture, variant, is_there) in platforms {
        let layer = format!("files for {architecture}{variant}");
        let config = json!({
            "os": "linux",
            "architecture": architecture,
            "variant": variant,
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        });
        let config = blob(&mut archive, &config.to_string());
        let layer = match is_there {
            true => blob(&mut archive, &layer),
            false => json!({ "digest": digest(&layer) }),
        };
        list.push(json!({
            "Config": format!("blobs/{}", config["digest"].as_str().unwrap().replace(':', "/")),
            "RepoTags": ["app:1"],
            "Layers": [format!("blobs/{}", layer["digest"].as_str().unwrap().replace(':', "/"))],
        }));
        let manifest = json!({ "config": config, "layers": [layer] }).to_string();
        manifests.push(blob(&mut archive, &manifest));
    }
    let index = blob(&mut archive, &json!({ "manifests": manifests }).to_string());
    add(&mut archive, "index.json", &json!({ "manifests": [index] }).to_string());
    add(&mut archive, "manifest.json", &json!([list[0]]).to_string());
    archive.into_inner().unwrap()
}

#[test]
fn of_several_platforms_a_node_gets_its_own() {
    let bytes = for_platforms(&[
        ("amd64", "", true),
        ("arm64", "v8", true),
        ("arm", "v7", true),
        ("arm", "v6", true),
        ("s390x", "", false),
        ("unknown", "", true),
    ]);
    let archive = opened(&bytes).unwrap();
    for (arch, files) in [
        ("x86_64", "files for amd64"),
        ("aarch64", "files for arm64v8"),
        ("arm", "files for armv6"),
        ("", "files for amd64"),
    ] {
        let cut = archive.cut(arch).unwrap();
        let [image] = &cut.images[..] else { panic!("{:?}", cut.images) };
        assert_eq!(image.layers[0].digest, digest(files), "{arch}");
        // What is sent is an archive of this one image, and of nothing else.
        let part = sent(&archive, &cut, &[]);
        let read = opened(&part).unwrap();
        assert_eq!(read.images, cut.images);
        assert_eq!(paths(&part), [&image.config, &image.layers[0].path, "manifest.json"]);
        assert_eq!(paths(&sent(&archive, &cut, &[1])), [&image.config, "manifest.json"]);
    }
    for (arch, platform) in [("riscv64", "linux/riscv64"), ("s390x", "linux/s390x")] {
        let refused = archive.cut(arch).unwrap_err();
        assert!(refused.contains("linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64/v8"));
        assert!(refused.contains(platform) && !refused.contains("unknown"), "{refused}");
    }
}

#[test]
fn one_platform_of_many_that_is_there_is_sent_as_it_is() {
    let bytes = for_platforms(&[("amd64", "", true), ("arm64", "", false), ("unknown", "", true)]);
    let archive = opened(&bytes).unwrap();
    let cut = archive.cut("aarch64").unwrap();
    assert!(cut.is_whole() && sent(&archive, &cut, &[]) == bytes);
}

#[test]
fn what_is_no_archive_of_images_says_why() {
    let mut nameless = tar::Builder::new(Vec::new());
    add(&mut nameless, "one.json", r#"{"rootfs":{"diff_ids":[]}}"#);
    add(&mut nameless, "manifest.json", r#"[{"Config":"one.json","RepoTags":null,"Layers":[]}]"#);
    let mut other = tar::Builder::new(Vec::new());
    add(&mut other, "index.json", "{}");
    let whole = saved();
    for (bytes, problem) in [
        (b"\x1f\x8b\x08".to_vec(), "gunzip"),
        (b"FROM debian\n".repeat(100), "no archive that tar knows"),
        (other.into_inner().unwrap(), "docker save"),
        (nameless.into_inner().unwrap(), "no name"),
        (whole[..whole.len() / 2].to_vec(), ""),
        (Vec::new(), "docker save"),
    ] {
        let refused = opened(&bytes).unwrap_err();
        assert!(refused.contains(problem), "{refused}");
    }
}
