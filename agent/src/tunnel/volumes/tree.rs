//! All that is in a directory, in one order: directories before what is in them, names by their bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;

use dwell_proto::v1;
use prost::Message as _;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2,
    readlinkat, statat,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::digest::{Digest, Digests};
use super::{CopyError, FILES_MAX, attributes};

/// How deep directories may be within each other.
const DEPTH_MAX: usize = 500;
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// What a directory has.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Everything in it, itself first.
    pub(super) files: Vec<v1::VolumeFile>,
    /// What it takes on the disk.
    pub(super) bytes: u64,
}

/// The root of a volume.
pub(super) fn open_root(root: &Path) -> Result<OwnedFd, CopyError> {
    openat(CWD, root, READ | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| CopyError::at(b"")(error.into()))
}

/// Opens what is beneath a root, through no symbolic link.
pub(super) fn beneath(root: impl AsFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(openat2(root, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)?)
}

/// Opens a regular file of a volume for reading.
pub(super) fn open(root: impl AsFd, path: &[u8]) -> io::Result<File> {
    Ok(File::from(beneath(root, path, OFlags::RDONLY | OFlags::NONBLOCK)?))
}

pub(super) fn kind(file: &v1::VolumeFile) -> FileType {
    FileType::from_raw_mode(file.mode)
}

/// Whether it is a regular file, by its first name.
pub(super) fn has_content(file: &v1::VolumeFile) -> bool {
    kind(file) == FileType::RegularFile && file.same_as.is_empty()
}

/// The digest of everything: names, owners, times, attributes and contents. Of the contents their digests have to be known.
pub(super) fn digest_of<'a>(files: impl IntoIterator<Item = &'a v1::VolumeFile>) -> Digest {
    let mut hash = Sha256::new();
    for file in files {
        let file = v1::VolumeFile { is_held: false, ..file.clone() };
        hash.update(file.encode_length_delimited_to_vec());
    }
    hash.finalize().into()
}

/// Looks at everything. What goes meanwhile is left out.
pub(super) fn walk(root: &OwnedFd) -> Result<Tree, CopyError> {
    let is = fstat(root).map_err(|error| CopyError::at(b"")(error.into()))?;
    let mut walk = Walk { device: is.st_dev, tree: Tree::default(), names: HashMap::new() };
    walk.directory(root, &mut Vec::new(), 0)?;
    Ok(walk.tree)
}

/// The same, with the digests of all contents.
pub(super) fn walk_whole(
    root: &OwnedFd,
    digests: &Digests,
    mut each: impl FnMut(usize) -> Result<(), CopyError>,
) -> Result<Tree, CopyError> {
    let mut tree = walk(root)?;
    for file in tree.files.iter_mut().filter(|file| has_content(file)) {
        let at = CopyError::at(&file.path);
        let digest = open(root, &file.path)
            .map_err(Failed::Io)
            .and_then(|open| digests.of(&open, file.size, |count| Ok(each(count)?)));
        file.digest = digest.map_err(|failed| failed.at(at))?.to_vec().into();
    }
    Ok(tree)
}

/// What went wrong while a file was read.
pub(super) enum Failed {
    /// With the file.
    Io(io::Error),
    /// With what is made of it.
    Copy(CopyError),
}

impl Failed {
    pub(super) fn at(self, at: impl FnOnce(io::Error) -> CopyError) -> CopyError {
        match self {
            Self::Io(error) => at(error),
            Self::Copy(error) => error,
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<CopyError> for Failed {
    fn from(error: CopyError) -> Self {
        Self::Copy(error)
    }
}

struct Walk {
    device: u64,
    tree: Tree,
    /// The first name of each file that has several.
    names: HashMap<u64, Vec<u8>>,
}

impl Walk {
    fn directory(
        &mut self,
        directory: &OwnedFd,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), CopyError> {
        let shown = String::from_utf8_lossy(path).into_owned();
        if depth > DEPTH_MAX {
            return Err(CopyError::Refused(format!(
                "{shown:?} is more than {DEPTH_MAX} directories deep"
            )));
        }
        let failed = |error: Errno| CopyError::at(shown.as_bytes())(error.into());
        let is = fstat(directory).map_err(failed)?;
        let attributes = attributes::read(directory).map_err(CopyError::at(path))?;
        self.add(v1::VolumeFile { attributes, ..described(path, &is) }, &is)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
            self.check_count(names.len())?;
        }
        names.sort_unstable();
        let length = path.len();
        for name in names {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let looked = self.look(directory, &name, path, depth);
            match looked {
                Ok(()) => {}
                Err(CopyError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn look(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), CopyError> {
        let at = path.clone();
        let failed = |error: Errno| CopyError::at(&at)(error.into());
        let is = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if is.st_dev != self.device {
            let shown = String::from_utf8_lossy(&at);
            return Err(CopyError::Refused(format!("{shown:?} is on another file system")));
        }
        match FileType::from_raw_mode(is.st_mode) {
            FileType::Directory => {
                let open = openat(directory, name, READ | OFlags::DIRECTORY, Mode::empty());
                return self.directory(&open.map_err(failed)?, path, depth + 1);
            }
            FileType::RegularFile => {
                if is.st_nlink > 1 {
                    if let Some(first) = self.names.get(&is.st_ino) {
                        let same_as = first.clone().into();
                        let other = v1::VolumeFile { same_as, ..described(path, &is) };
                        return self.push(other);
                    }
                    self.names.insert(is.st_ino, at.clone());
                }
                let open = openat(directory, name, READ, Mode::empty()).map_err(failed)?;
                let is = fstat(&open).map_err(failed)?;
                let attributes = attributes::read(&open).map_err(CopyError::at(&at))?;
                self.add(v1::VolumeFile { attributes, ..described(path, &is) }, &is)?;
            }
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new()).map_err(failed)?;
                let target = target.into_bytes().into();
                self.add(v1::VolumeFile { target, ..described(path, &is) }, &is)?;
            }
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice => {
                self.add(described(path, &is), &is)?;
            }
            FileType::Unknown => {
                let shown = String::from_utf8_lossy(&at);
                return Err(CopyError::Refused(format!("{shown:?} is of no known kind")));
            }
        }
        Ok(())
    }

    fn add(&mut self, file: v1::VolumeFile, is: &Stat) -> Result<(), CopyError> {
        self.tree.bytes += u64::try_from(is.st_blocks).unwrap_or_default().saturating_mul(512);
        self.push(file)
    }

    fn push(&mut self, file: v1::VolumeFile) -> Result<(), CopyError> {
        self.tree.files.push(file);
        self.check_count(0)
    }

    fn check_count(&self, more: usize) -> Result<(), CopyError> {
        if self.tree.files.len() + more > FILES_MAX {
            return Err(CopyError::Refused(format!("it has more than {FILES_MAX} files")));
        }
        Ok(())
    }
}

fn described(path: &[u8], is: &Stat) -> v1::VolumeFile {
    let kind = FileType::from_raw_mode(is.st_mode);
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    let size = u64::try_from(is.st_size).unwrap_or_default();
    v1::VolumeFile {
        path: path.to_vec().into(),
        mode: is.st_mode,
        uid: is.st_uid,
        gid: is.st_gid,
        mtime_s: is.st_mtime,
        mtime_ns: u32::try_from(is.st_mtime_nsec).unwrap_or_default(),
        size: if kind == FileType::RegularFile { size } else { 0 },
        device: if is_device { is.st_rdev } else { 0 },
        ..v1::VolumeFile::default()
    }
}
