//! A machine's root: what differs from its image, over the image.
//!
//! ```text
//!   engine's root of the container (the image) ──┐
//!   <volume>/<directory>/upper ──────────────────┴─ overlay on <state-dir>/binds/root ─▶ `root.path`
//! ```
//!
//! The volume is one that the container was made with, so the engine keeps it as it keeps any other; here it is taken out of what is
//! mounted. The mount is made in a namespace of the wrapper's own and ends with the container, so there is nothing to clean up.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use dwell_oci::Mapping;
use dwell_oci::bundle::{self, BundleError};
use dwell_oci::mapping::{UPPER, WORK};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};

use crate::binds::{self, BindError};

/// Makes the root of a machine; the path at which the runtime finds it. `None` for what is no machine.
///
/// # Errors
///
/// If what it is made of is not there, or the kernel cannot lay the one over the other.
pub(crate) fn make(
    state_dir: &Path,
    bundle: &Path,
    mapping: &Mapping,
) -> Result<Option<PathBuf>, RootError> {
    let Some(root) = &mapping.root else { return Ok(None) };
    let (image, volume) = bundle::root_and_source(bundle, &root.mount)?;
    let place = binds::place_of_root(state_dir)?;
    let image = open(AT_FDCWD, &image)?;
    let volume = open(AT_FDCWD, &volume)?;
    let directory = |name: &str| open(&volume, &Path::new(&root.directory).join(name));
    let (upper, work) = (directory(UPPER)?, directory(WORK)?);
    // What is noted of directories is noted in attributes that whoever may write them may copy: an agent that copies the volume to
    // another node has no more rights than that. Those of the container see none of it.
    // The one path of each that needs no quoting, and that leads to what was opened.
    let path = |opened: &OwnedFd| format!("/proc/self/fd/{}", opened.as_raw_fd());
    let options = format!(
        "lowerdir={},upperdir={},workdir={},userxattr,index=off",
        path(&image),
        path(&upper),
        path(&work)
    );
    mount(Some("overlay"), &place, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|errno| RootError::Mount { source: errno.into() })?;
    Ok(Some(place))
}

/// Opens a directory. What lies in the volume is reached through no link.
fn open(at: impl AsFd, path: &Path) -> Result<OwnedFd, RootError> {
    let resolve = match path.is_absolute() {
        true => ResolveFlag::empty(),
        false => ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS,
    };
    let how = OpenHow::new().resolve(resolve);
    let how = how.flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY);
    openat2(at, path, how)
        .map_err(|errno: Errno| RootError::Open { path: path.to_owned(), source: errno.into() })
}

/// Why a machine has no root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    #[error(transparent)]
    Bundle(#[from] BundleError),

    #[error(transparent)]
    Places(#[from] BindError),

    #[error("the machine's root cannot be made: cannot open {path:?}; dwell-agent restores it")]
    Open { path: PathBuf, source: io::Error },

    #[error(
        "the machine's root cannot be laid over its image; that takes an engine whose own images lie over no third file system \
         (an overlay on an overlay is as deep as the kernel goes), and volumes on a file system with extended attributes, \
         such as ext4, XFS or Btrfs, under Linux 5.11 or later"
    )]
    Mount { source: io::Error },
}
