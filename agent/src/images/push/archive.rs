//! An archive that comes in parts, passed on to the engine as it comes for as long as it is what was offered.
//!
//! Only a plain tar is passed on. An engine unpacks a compressed one as well, and what becomes of that is as large as its
//! sender likes, whatever was offered and however much room was found for it.

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
                self.is_tar = self.head[MAGIC_AT..].starts_with(MAGIC);
                let head = take(&mut self.head).into();
                return Some(if self.is_tar { Ok(head) } else { Err(NO_TAR) });
            }
        }
    }
}
