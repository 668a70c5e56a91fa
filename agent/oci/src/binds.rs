//! What a container mounts of its node: paths, held by descriptors so that nothing can be put in their place, and copies of
//! the agent's files for it, in memory.
//!
//! An engine keeps the *text* of a path and gives it to the runtime at every start. Where a container may write beneath a
//! root that `allow_binds` allows, it can put a symbolic link there between two starts, and a runtime that follows it
//! mounts whatever of the host the link leads to. So each path is opened here, beneath its root and through no link, and
//! what was opened is what is mounted.
//!
//! ```text
//! unshare(mount namespace) ─ slave of the host's ─ tmpfs on <state-dir>/binds ─┬─ openat2 ─ bind to <state-dir>/binds/N
//!                                                                              │     └─ anything else: refused
//!                                                                              └─ copy to <state-dir>/binds/N
//! ```
//!
//! The runtime inherits the namespace, finds the mounts under their new names, and hands clones of them to the container.
//! The namespace ends with the runtime, which lives only while it makes the container, so there is nothing to clean up.
//! What the host mounts or unmounts meanwhile reaches it, and nothing goes the other way.
//!
//! A copied file lives in that tmpfs for as long as the container has it, and has its size for a bound: a bind of the
//! file itself would let the container fill the disk on which the agent has its identity.
//!
//! Invariant: **no symbolic link beneath an allowed root is followed at a start**, not even one that stays beneath it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use dwell_oci::{Bind, Copied, Mapping};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where the mounts are made, in the state directory: a directory without files on the host, always.
pub(crate) use dwell_oci::mapping::BINDS;

/// The place of a machine's root among them.
const ROOT: &str = "root";
/// The size of the file system that has places for mounts and the copies, and so the bound of what a container makes of
/// these.
const PLACES: &str = "mode=0700,size=1m,nr_inodes=1024";
/// The largest file that is copied, in bytes. A usual one has less than 300.
const COPY_MAX: u64 = 64 * 1024;

/// Makes all that a container mounts of its node, each under a name of its own, which is returned beside its target. From
/// here on this process is in a mount namespace of its own, unless there is nothing.
///
/// # Errors
///
/// For the first that is missing, is reached by a link only, or cannot be mounted or copied.
pub(crate) fn hold<'a>(
    state_dir: &Path,
    mapping: &'a Mapping,
) -> Result<Vec<(&'a str, PathBuf)>, BindError> {
    let Mapping { binds, copies, .. } = mapping;
    if binds.is_empty() && copies.is_empty() && mapping.root.is_none() {
        return Ok(Vec::new());
    }
    let places = state_dir.join(BINDS);
    make_places(&places).map_err(|source| BindError::Places { path: places.clone(), source })?;
    let mut numbers = 0_u32..;
    let mut place = || places.join(numbers.next().unwrap_or_default().to_string());
    let mut held = Vec::new();
    for bind in binds {
        let (opened, place) = (open(bind)?, place());
        mount_at(&opened, &place).map_err(|source| BindError::Mount {
            target: bind.target.clone(),
            path: bind.source(),
            source,
        })?;
        held.push((bind.target.as_str(), place));
    }
    for Copied { target, source: path } in copies {
        let place = place();
        copy(path, &place).map_err(|source| BindError::Copy {
            target: target.clone(),
            path: path.clone(),
            source,
        })?;
        held.push((target.as_str(), place));
    }
    Ok(held)
}

/// Where a machine's root can be mounted, once there is a namespace.
pub(crate) fn place_of_root(state_dir: &Path) -> Result<PathBuf, BindError> {
    let path = state_dir.join(BINDS).join(ROOT);
    match fs::create_dir(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(BindError::Places { path, source }),
    }
}

/// Why a path of the node is not mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    #[error("cannot make a mount namespace with {path:?} for what is mounted from the node")]
    Places { path: PathBuf, source: io::Error },

    #[error(
        "the mount at {target:?} is refused: a symbolic link leads to {path:?}, and whoever can write beneath {root:?} \
         could lead it anywhere; put a real directory or file there, or name another path in the specification"
    )]
    Link { target: String, path: PathBuf, root: PathBuf },

    #[error(
        "the mount at {target:?} is refused: {path:?} is not there any more; make it on the node"
    )]
    Missing { target: String, path: PathBuf },

    #[error("the mount at {target:?} is refused: cannot open {path:?}")]
    Open { target: String, path: PathBuf, source: io::Error },

    #[error("the mount at {target:?} is refused: cannot mount {path:?}")]
    Mount { target: String, path: PathBuf, source: io::Error },

    #[error(
        "cannot give the container its {target:?}, a copy of {path:?}, which dwell-agent restores"
    )]
    Copy { target: String, path: PathBuf, source: io::Error },
}

/// Leaves the host's mount namespace, and makes room for mounts.
fn make_places(places: &Path) -> io::Result<()> {
    // The runtime goes to a container's root, as it is called here, also when it only starts a further process in it: so on the
    // host, there is an empty directory of that name.
    DirBuilder::new().recursive(true).mode(0o700).create(places.join(ROOT))?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing: Option<&Path> = None;
    mount(nothing, "/", nothing, MsFlags::MS_SLAVE | MsFlags::MS_REC, nothing)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("dwell"), places, Some("tmpfs"), flags, Some(PLACES))?;
    Ok(())
}

/// Opens what is to be mounted, without reading or following it.
fn open(bind: &Bind) -> Result<OwnedFd, BindError> {
    let target = || bind.target.clone();
    let failed = |error: Errno| match error {
        Errno::ELOOP | Errno::EXDEV => {
            BindError::Link { target: target(), path: bind.source(), root: bind.root.clone() }
        }
        Errno::ENOENT | Errno::ENOTDIR => {
            BindError::Missing { target: target(), path: bind.source() }
        }
        other => BindError::Open { target: target(), path: bind.source(), source: other.into() },
    };
    let no_links = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let root = open_at(AT_FDCWD, &bind.root, no_links).map_err(failed)?;
    if bind.path.as_os_str().is_empty() {
        return Ok(root);
    }
    open_at(&root, &bind.path, no_links | ResolveFlag::RESOLVE_BENEATH).map_err(failed)
}

/// Opens a directory or else a file. Whoever asks for a directory has an automount at the end of the path mounted; a mere
/// `O_PATH` opens what lies beneath it.
fn open_at(directory: impl AsFd, path: &Path, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let how = OpenHow::new().resolve(resolve);
    match openat2(&directory, path, how.flags(flags | OFlag::O_DIRECTORY)) {
        Err(Errno::ENOTDIR) => openat2(&directory, path, how.flags(flags)),
        opened => opened,
    }
}

/// Mounts what was opened, with what is mounted beneath it, at a place that is made for it.
fn mount_at(opened: &OwnedFd, place: &Path) -> io::Result<()> {
    // The one path that leads to an opened thing itself.
    let source = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    if fs::metadata(&source)?.is_dir() {
        fs::create_dir(place)?;
    } else {
        File::create_new(place)?;
    }
    let nothing: Option<&Path> = None;
    mount(Some(&source), place, nothing, MsFlags::MS_BIND | MsFlags::MS_REC, nothing)?;
    Ok(())
}

/// Copies a small file, for everybody to read.
fn copy(source: &Path, place: &Path) -> io::Result<()> {
    let nofollow = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(nofollow.bits()).open(source)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut content = Vec::new();
    file.take(COPY_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > COPY_MAX {
        return Err(io::Error::other(format!("it is larger than {COPY_MAX} bytes")));
    }
    let mut copy = File::create_new(place)?;
    copy.write_all(&content)?;
    copy.set_permissions(Permissions::from_mode(0o644))
}
