//! An archive that comes in parts, passed on to the engine as it comes for as long as it is what was offered.
//!
//! Only a plain tar is passed on. An engine unpacks a compressed one as well, and takes no notice of what was offered and of
//! how much room was found for it. (So does what is compressed or sparse within: see docs/images.md.)

use std::io;
use std::mem::take;
use std::sync::{Arc, OnceLock};

use dwell_engine::ArchiveStream;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::bytes::Bytes as Piece;

use super::Part;

/// What the first header of a tar has, and where.
const MAGIC: &[u8] = b"ustar";
const MAGIC_AT: usize = 257;

const TOO_EARLY: &str = "the archive ends too early";
const TOO_MUCH: &str = "more comes than was offered";
const NO_TAR: &str = "what comes is not a plain tar archive; unpack it if it is compressed";

/// How what an engine unpacks begins: gzip, bzip2, xz, Zstandard. It looks at nothing else, so a tar's magic may stand
/// in the file's name or in a comment of such a stream.
const PACKED: [&[u8]; 4] =
    [&[0x1f, 0x8b], b"BZh", &[0xfd, b'7', b'z', b'X', b'Z'], &[0x28, 0xb5, 0x2f, 0xfd]];

/// Whether this is the beginning of a tar, and of nothing that would be unpacked.
fn is_plain_tar(head: &[u8]) -> bool {
    // Zstandard may begin with frames that are skipped.
    let is_skipped = matches!(head, [first, 0x2a, 0x4d, 0x18, ..] if first & 0xf0 == 0x50);
    let is_packed = is_skipped || PACKED.iter().any(|magic| head.starts_with(magic));
    !is_packed && head.get(MAGIC_AT..).is_some_and(|rest| rest.starts_with(MAGIC))
}

/// What is wrong with an archive, once that is known.
pub(super) type Problem = Arc<OnceLock<&'static str>>;

/// The archive that parts make. One that is no plain tar, ends without its end, or has more bytes than `most`, ends with an error.
pub(super) fn passed_on(parts: mpsc::Receiver<Part>, most: u64, problem: Problem) -> ArchiveStream {
    let coming = Coming { parts, left: most, head: Vec::new(), is_tar: false };
    stream::unfold(Some((coming, problem)), |state| async move {
        let (mut coming, problem) = state?;
        match coming.next().await? {
            Ok(piece) => Some((Ok(piece), Some((coming, problem)))),
            Err(what) => {
                problem.set(what).ok();
                Some((Err(io::Error::other(what)), None))
            }
        }
    })
    .boxed()
}

struct Coming {
    parts: mpsc::Receiver<Part>,
    /// How many bytes may still come.
    left: u64,
    /// What has come, until it is enough to tell what it is: less than a header, and a piece.
    head: Vec<u8>,
    is_tar: bool,
}

impl Coming {
    /// What to pass on next; nothing at the end.
    async fn next(&mut self) -> Option<Result<Piece, &'static str>> {
        loop {
            let piece = match self.parts.recv().await {
                Some(Part::Data(piece)) => piece,
                Some(Part::End) if self.is_tar => return None,
                Some(Part::End) => return Some(Err(NO_TAR)),
                None => return Some(Err(TOO_EARLY)),
            };
            match self.left.checked_sub(piece.len() as u64) {
                Some(left) => self.left = left,
                None => return Some(Err(TOO_MUCH)),
            }
            if self.is_tar {
                return Some(Ok(piece));
            }
            self.head.extend_from_slice(&piece);
            if self.head.len() >= MAGIC_AT + MAGIC.len() {
                self.is_tar = is_plain_tar(&self.head);
                let head = take(&mut self.head).into();
                return Some(if self.is_tar { Ok(head) } else { Err(NO_TAR) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_would_unpack_is_no_plain_tar_whatever_stands_in_it() {
        let mut head = vec![b'a'; 300];
        assert!(!is_plain_tar(&head));
        head[MAGIC_AT..MAGIC_AT + MAGIC.len()].copy_from_slice(MAGIC);
        assert!(is_plain_tar(&head));
        assert!(!is_plain_tar(&head[..MAGIC_AT + 2]), "it is too short");
        // A gzip stream has its file's name there, for example.
        let skipped = [0x5a, 0x2a, 0x4d, 0x18];
        for magic in PACKED.into_iter().chain([&skipped[..]]) {
            let mut packed = head.clone();
            packed[..magic.len()].copy_from_slice(magic);
            assert!(!is_plain_tar(&packed), "{magic:?}");
        }
    }
}
