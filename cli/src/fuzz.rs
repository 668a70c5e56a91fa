//! What must hold of what people hand to the command line, for any bytes: see `fuzz/`.
#![expect(clippy::panic, reason = "that is how a target fails")]

use std::io::Write as _;
use std::str::from_utf8;

use crate::manifest::{Surroundings, Variables};
use crate::public_key::PublicKey;
use crate::{archive, client, manifest};

/// Panics if what is given breaks the parser.
pub type Holds = fn(&[u8]);

/// By their names.
pub const TARGETS: &[(&str, Holds)] = &[
    ("context", context),
    ("image_archive", image_archive),
    ("manifest", manifest),
    ("public_keys", public_keys),
];

/// A file of workloads, as ours or Compose's: what it declares is written as a file that declares the same.
fn manifest(bytes: &[u8]) {
    let Ok(read) = manifest::read("file.yaml", bytes, &Surroundings::of(&Variables::new())) else {
        return;
    };
    for declared in read.declared {
        let Ok(text) = manifest::export(&declared.spec) else { panic!("{declared:?}") };
        match manifest::read("file.yaml", text.as_bytes(), &Surroundings::of(&Variables::new())) {
            Ok(again) => assert_eq!(again.declared[0].spec, declared.spec, "{text}"),
            Err(error) => panic!("{error}\n{text}"),
        }
    }
}

/// An archive of images: what of it would be sent is a part of it, or one platform's.
fn image_archive(bytes: &[u8]) {
    let Ok(mut file) = tempfile::tempfile() else { return };
    if file.write_all(bytes).is_err() {
        return;
    }
    let Ok(archive) = archive::Archive::of(file) else { return };
    for arch in ["", "x86_64", "riscv64"] {
        let Ok(cut) = archive.cut(arch) else { continue };
        for held in [&[][..], &[1], &[u32::MAX]] {
            let part = archive.part(&cut, held);
            let mut sent = 0;
            let whole = part.send(1000, |piece| {
                sent += piece.len() as u64;
                true
            });
            assert!(whole.is_err() || sent == part.size());
            assert!(!cut.is_whole() || sent <= bytes.len() as u64 + 1024, "{sent}");
        }
    }
}

/// Keys that somebody is let in by.
fn public_keys(bytes: &[u8]) {
    let Ok(text) = from_utf8(bytes) else { return };
    for key in PublicKey::read_all(text).unwrap_or_default() {
        assert!(key.is_meant_by(&key.fingerprint));
    }
}

/// What it takes to use a controller: whatever is wrong with it, nothing of it is told.
fn context(bytes: &[u8]) {
    let Ok(text) = from_utf8(bytes) else { return };
    drop(client::context::Context::parse(text));
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_holds() {
        dwell_daemon::corpus::replay(super::TARGETS);
    }
}
