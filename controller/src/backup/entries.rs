//! Files on their way into an archive and out of it, with their digests.

use std::io::{self, Read, Write};
use std::path::{Component, Path};

use sha2::{Digest as _, Sha256};

use super::{PKI, STORE};

/// Counts and digests what is written through it.
pub(super) struct Digesting<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Digesting<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    /// What was written through, its size and its digest.
    pub(super) fn end(self) -> (W, u64, String) {
        let digest = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        (self.inner, self.size, digest)
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The size and the digest of what a reader has left.
pub(super) fn digest(mut reader: impl Read) -> io::Result<(u64, String)> {
    let mut digesting = Digesting::new(io::sink());
    io::copy(&mut reader, &mut digesting)?;
    let (_, size, digest) = digesting.end();
    Ok((size, digest))
}

/// Whether a file of this name may be put into the controller's directory: the store, or a file below `pki`.
pub(super) fn is_ours(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let within = components.next() == Some(Component::Normal(PKI.as_ref()));
    name == STORE || (plain && within && components.next().is_some())
}
