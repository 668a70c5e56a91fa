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

fn sent(archive: &Archive, held: &[u32]) -> Vec<u8> {
    let (part, mut bytes) = (archive.part(held), Vec::new());
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
    assert_eq!(sent(&archive, &[0, 0]), bytes);
    assert_eq!(sent(&archive, &[]), bytes);
    let thin = paths(&sent(&archive, &[2, 1]));
    assert_eq!(thin, ["one.json", "d/layer.tar", "c/layer.tar", "two.json", "manifest.json"]);
    // The other image wants it still.
    let shared = paths(&sent(&archive, &[1, 0]));
    assert_eq!(shared, paths(&bytes));
    assert_eq!(paths(&sent(&archive, &[9, 9])).len(), 4);
}

#[test]
fn sending_ends_when_nobody_takes_any_more() {
    let archive = opened(&saved()).unwrap();
    let mut pieces = 0;
    let taken = archive.part(&[]).send(100, |_| {
        pieces += 1;
        pieces < 3
    });
    assert!(taken.is_ok() && pieces == 3);
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
