//! The node that has the volume: says what the copy lacks.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use dwell_proto::v1;
use dwell_proto::v1::volume_part::Part;
use rustix::fd::OwnedFd;
use tokio::sync::mpsc;

use super::digest::{Digest, Digests, Hasher, pieces};
use super::tree::{Failed, digest_of, has_content, open, open_root, walk};
use super::{CopyError, FILES_MAX};

/// How many bytes are compared before that is told.
const TOLD_EVERY: u64 = 64 << 20;

/// What the copy has under a name.
struct Held {
    digest: Vec<u8>,
    same_as: Vec<u8>,
}

/// Sends what the other side lacks. What changes meanwhile is sent as it is then, unless nothing may change any more.
pub(super) fn send(
    root: &Path,
    digests: &Digests,
    is_final: bool,
    mut inbox: mpsc::Receiver<Part>,
    outbox: &mpsc::Sender<Part>,
) -> Result<(), CopyError> {
    let root = open_root(root)?;
    let tree = walk(&root)?;
    tell(
        outbox,
        Part::Total(v1::VolumeTotal { bytes: tree.bytes, files: tree.files.len() as u64 }),
    )?;
    let held = hear(&mut inbox)?;
    let mut sender = Sender { root, digests, outbox, held, compared: 0 };
    let mut sent = Vec::with_capacity(tree.files.len());
    for file in tree.files {
        let at = CopyError::at(&file.path);
        match sender.file(file) {
            Ok(file) => sent.push(file),
            Err(Failed::Io(error)) if error.kind() == io::ErrorKind::NotFound && !is_final => {}
            Err(failed) => return Err(failed.at(at)),
        }
    }
    tell(outbox, Part::End(digest_of(&sent).to_vec().into()))?;
    // The other side says when it is done, and the controller then ends this.
    while inbox.blocking_recv().is_some() {}
    Ok(())
}

fn tell(outbox: &mpsc::Sender<Part>, part: Part) -> Result<(), CopyError> {
    outbox.blocking_send(part).map_err(|_| CopyError::Gone)
}

/// What the copy has.
fn hear(inbox: &mut mpsc::Receiver<Part>) -> Result<HashMap<Vec<u8>, Held>, CopyError> {
    let mut all = HashMap::new();
    loop {
        match inbox.blocking_recv().ok_or(CopyError::Gone)? {
            Part::Held(page) => {
                for file in page.files {
                    let held =
                        Held { digest: file.digest.to_vec(), same_as: file.same_as.to_vec() };
                    all.insert(file.path.to_vec(), held);
                }
                if all.len() > FILES_MAX {
                    return Err(CopyError::Refused(format!(
                        "the copy has more than {FILES_MAX} files"
                    )));
                }
            }
            Part::HeldAll(_) => return Ok(all),
            _ => {}
        }
    }
}

struct Sender<'a> {
    root: OwnedFd,
    digests: &'a Digests,
    outbox: &'a mpsc::Sender<Part>,
    held: HashMap<Vec<u8>, Held>,
    /// Bytes that were compared and of which nothing has been told.
    compared: u64,
}

impl Sender<'_> {
    /// Sends a file as far as it is lacking. Returns it with its digest.
    fn file(&mut self, mut file: v1::VolumeFile) -> Result<v1::VolumeFile, Failed> {
        if !has_content(&file) {
            self.tell(Part::File(file.clone()))?;
            return Ok(file);
        }
        let content = open(&self.root, &file.path)?;
        file.size = content.metadata()?.len();
        let held = self.held.remove(file.path.as_ref()).filter(|held| held.same_as.is_empty());
        let held = held.filter(|held| !held.digest.is_empty());
        if let Some(held) = held {
            let digest = self.digests.of(&content, file.size, |count| self.count(count))?;
            file.digest = digest.to_vec().into();
            file.is_held = held.digest == digest;
            if file.is_held {
                self.tell(Part::File(file.clone()))?;
                return Ok(file);
            }
        }
        file.digest = Vec::new().into();
        self.tell(Part::File(file.clone()))?;
        let digest: Digest = self.digests.remember(&content, || {
            let mut hasher = Hasher::default();
            pieces(&content, file.size, |offset, piece| {
                hasher.add(offset, piece);
                let data = piece.to_vec().into();
                Ok::<(), Failed>(tell(self.outbox, Part::Data(v1::VolumeData { offset, data }))?)
            })?;
            Ok::<Digest, Failed>(hasher.finish(file.size))
        })?;
        file.digest = digest.to_vec().into();
        self.tell(Part::Digest(file.digest.clone()))?;
        Ok(file)
    }

    fn tell(&self, part: Part) -> Result<(), Failed> {
        Ok(tell(self.outbox, part)?)
    }

    /// Counts what is compared, and tells it now and then: nothing else is told meanwhile.
    fn count(&mut self, bytes: usize) -> Result<(), Failed> {
        self.compared += bytes as u64;
        if self.compared >= TOLD_EVERY {
            tell(self.outbox, Part::Compared(std::mem::take(&mut self.compared)))?;
        }
        Ok(())
    }
}
