//! New files that only their owner can read.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::failure::Failure;

/// Writes a new file that only its owner can read.
///
/// # Errors
/// If it exists already or cannot be written.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let shown = path.display();
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::Refused(format!(
            "{shown} exists already; remove it first, or choose another file"
        )),
        _ => Failure::Other(format!("cannot make {shown}: {error}")),
    })?;
    file.write_all(content)
        .map_err(|error| Failure::Other(format!("cannot write {shown}: {error}")))
}
