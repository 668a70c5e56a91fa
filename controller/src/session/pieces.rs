//! Messages that are too large for one, as several.

use std::collections::VecDeque;

use dwell_core::directory::DirectoryChange;
use dwell_proto::v1;
use prost::Message as _;

/// The largest message about the directory, in bytes, well below what one message may have; the directory of
/// a hundred thousand instances has fewer, and is taken in as one.
const DIRECTORY_MAX_BYTES: usize = 8 * 1024 * 1024;

/// A change of the directory, as one message, or as several if it were too large for one; none if it says
/// nothing.
pub(super) fn of_directory(change: &DirectoryChange) -> VecDeque<v1::DirectoryChange> {
    pieces(change.into(), DIRECTORY_MAX_BYTES)
}

/// Only the last piece takes the agent to the change's revision; until then it holds the one that it had (or
/// the first of all, at which there was no directory), so that after a broken stream it gets everything again.
fn pieces(whole: v1::DirectoryChange, max_bytes: usize) -> VecDeque<v1::DirectoryChange> {
    let (base, revision) = (whole.base_revision, whole.revision);
    let until_then = base.max(1);
    let mut pieces = VecDeque::new();
    let empty = v1::DirectoryChange {
        incarnation: whole.incarnation,
        base_revision: base,
        ..Default::default()
    };
    let mut piece = empty.clone();
    let mut bytes = 0;
    let mut next = |bytes_more: usize, piece: &mut v1::DirectoryChange| {
        bytes += bytes_more;
        if bytes > max_bytes {
            bytes = bytes_more;
            let next = v1::DirectoryChange { base_revision: until_then, ..empty.clone() };
            let full = std::mem::replace(piece, next);
            pieces.push_back(v1::DirectoryChange { revision: until_then, ..full });
        }
    };
    // Of each entry also its tag and length.
    const FRAME: usize = 8;
    for name in whole.removed_workloads {
        next(name.len() + FRAME, &mut piece);
        piece.removed_workloads.push(name);
    }
    for name in whole.removed_instances {
        next(name.len() + FRAME, &mut piece);
        piece.removed_instances.push(name);
    }
    // An instance's workload is there before it.
    for workload in whole.workloads {
        next(workload.encoded_len() + FRAME, &mut piece);
        piece.workloads.push(workload);
    }
    for instance in whole.instances {
        next(instance.encoded_len() + FRAME, &mut piece);
        piece.instances.push(instance);
    }
    if base == 0 || piece != empty {
        pieces.push_back(v1::DirectoryChange { revision, ..piece });
    }
    pieces
}

#[cfg(test)]
mod tests;
