//! The node that gets the volume: makes the copy what it is told.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use dwell_proto::v1;
use dwell_proto::v1::volume_part::Part;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat,
    chownat, fstatvfs, linkat, mkdirat, mknodat, openat, readlinkat, statat, symlinkat, syncfs,
    unlinkat, utimensat,
};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::digest::{Digests, Hasher};
use super::tree::{beneath, digest_of, kind, open_root, walk, walk_whole};
use super::{CopyError, FILES_MAX, HELD_PAGE, attributes};

/// How much room is left on the disk beside the copy, in bytes.
const ROOM_LEFT: u64 = 256 << 20;
/// The longest path, in bytes; Linux has none that are longer.
const PATH_MAX: usize = 64 * 1024;
/// How many bytes are compared before that is told.
const TOLD_EVERY: u64 = 64 << 20;

/// Brings the copy up to what is sent.
pub(super) fn receive(
    root: &Path,
    digests: &Digests,
    is_final: bool,
    mut inbox: mpsc::Receiver<Part>,
    outbox: &mpsc::Sender<Part>,
) -> Result<(), CopyError> {
    let root = open_root(root)?;
    let mut compared = 0;
    let mut count = |bytes: usize| {
        compared += bytes as u64;
        match compared >= TOLD_EVERY {
            true => tell(outbox, Part::Compared(std::mem::take(&mut compared))),
            false => Ok(()),
        }
    };
    let there = walk_whole(&root, digests, &mut count)?;
    for page in there.files.chunks(HELD_PAGE) {
        let files = page.iter().map(|file| v1::VolumeFile {
            path: file.path.clone(),
            digest: file.digest.clone(),
            same_as: file.same_as.clone(),
            ..v1::VolumeFile::default()
        });
        tell(outbox, Part::Held(v1::VolumeFiles { files: files.collect() }))?;
    }
    tell(outbox, Part::HeldAll(true))?;
    let mut copy = Copy { root, named: HashSet::new(), directories: Vec::new() };
    let whole = loop {
        match inbox.blocking_recv().ok_or(CopyError::Gone)? {
            Part::Total(total) => copy.check_room(total.bytes.saturating_sub(there.bytes))?,
            Part::File(file) => {
                let at = file.path.to_vec();
                let content = copy.file(&file).map_err(|failed| failed.at(CopyError::at(&at)))?;
                if let Some(content) = content {
                    copy.content(&content, &file, &mut inbox)?;
                }
            }
            Part::End(digest) => break digest,
            _ => {}
        }
    };
    copy.finish()?;
    if is_final {
        let made = walk_whole(&copy.root, digests, &mut count)?;
        if digest_of(&made.files).as_slice() != whole.as_ref() {
            return Err(CopyError::Refused(
                "the copy is not the same as the volume, although all of it has come".to_owned(),
            ));
        }
    }
    syncfs(&copy.root).map_err(|error| CopyError::at(b"")(error.into()))?;
    tell(outbox, Part::Done(true))
}

fn tell(outbox: &mpsc::Sender<Part>, part: Part) -> Result<(), CopyError> {
    outbox.blocking_send(part).map_err(|_| CopyError::Gone)
}

struct Copy {
    root: OwnedFd,
    /// All paths that were told.
    named: HashSet<Vec<u8>>,
    /// Their times are set at the end, since what is made in them changes those.
    directories: Vec<v1::VolumeFile>,
}

/// Why a file could not be made.
enum Failed {
    Io(io::Error),
    Refused(String),
}

impl Failed {
    fn at(self, at: impl FnOnce(io::Error) -> CopyError) -> CopyError {
        match self {
            Self::Io(error) => at(error),
            Self::Refused(reason) => CopyError::Refused(reason),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for Failed {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl Copy {
    fn check_room(&self, bytes: u64) -> Result<(), CopyError> {
        let disk = fstatvfs(&self.root).map_err(|error| CopyError::at(b"")(error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let need = bytes.saturating_add(ROOM_LEFT);
        if need > free {
            return Err(CopyError::NoRoom { need: need >> 20, free: free >> 20 });
        }
        Ok(())
    }

    /// Makes a file, but for its content if that comes: then it is returned, empty.
    fn file(&mut self, file: &v1::VolumeFile) -> Result<Option<File>, Failed> {
        check(&file.path)?;
        if self.named.len() >= FILES_MAX {
            return Err(Failed::Refused(format!("it has more than {FILES_MAX} files")));
        }
        self.named.insert(file.path.to_vec());
        let (parent, name) = split(&file.path);
        let directory = beneath(&self.root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let kind = kind(file);
        if name.is_empty() {
            if kind != FileType::Directory {
                return Err(Failed::Refused("the volume is no directory".to_owned()));
            }
            self.directories.push(file.clone());
            dress(&self.root, file)?;
            return Ok(None);
        }
        let is = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(is) => Some(is),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        let is = is.filter(|is| FileType::from_raw_mode(is.st_mode) == kind);
        if !file.same_as.is_empty() {
            self.link(&directory, name, file, is.as_ref())?;
            return Ok(None);
        }
        match kind {
            FileType::Directory => {
                if is.is_none() {
                    remove(&directory, name)?;
                    mkdirat(&directory, name, Mode::RWXU)?;
                }
                self.directories.push(file.clone());
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                dress(beneath(&directory, name, flags)?, file)?;
            }
            FileType::RegularFile if file.is_held => {
                let content = beneath(&directory, name, OFlags::RDONLY | OFlags::NONBLOCK)?;
                dress(content, file)?;
                set_times(&directory, name, file)?;
            }
            FileType::RegularFile => {
                remove(&directory, name)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                return Ok(Some(openat(&directory, name, flags, Mode::RUSR | Mode::WUSR)?.into()));
            }
            FileType::Symlink => {
                let target = file.target.as_ref();
                let there = is.and_then(|_| readlinkat(&directory, name, Vec::new()).ok());
                if there.is_none_or(|there| there.to_bytes() != target) {
                    remove(&directory, name)?;
                    symlinkat(target, &directory, name)?;
                }
                own(&directory, name, file)?;
                set_times(&directory, name, file)?;
            }
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice => {
                if is.is_none_or(|is| is.st_rdev != file.device && file.device != 0) {
                    remove(&directory, name)?;
                    let mode = Mode::from_raw_mode(file.mode & 0o7777);
                    let made = mknodat(&directory, name, kind, mode, file.device);
                    if made == Err(Errno::PERM) {
                        let shown = String::from_utf8_lossy(&file.path);
                        let reason = format!("{shown:?} is a device, which the agent may not make");
                        return Err(Failed::Refused(reason));
                    }
                    made?;
                }
                own(&directory, name, file)?;
                chmodat(&directory, name, permissions(file), AtFlags::empty())?;
                set_times(&directory, name, file)?;
            }
            FileType::Unknown => {
                return Err(Failed::Refused("a file of no known kind was sent".to_owned()));
            }
        }
        Ok(None)
    }

    /// Gives a file that is there another name.
    fn link(
        &self,
        directory: &OwnedFd,
        name: &[u8],
        file: &v1::VolumeFile,
        is: Option<&Stat>,
    ) -> Result<(), Failed> {
        check(&file.same_as)?;
        let (parent, first) = split(&file.same_as);
        let other = beneath(&self.root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let same = statat(&other, first, AtFlags::SYMLINK_NOFOLLOW)?;
        if is.is_some_and(|is| is.st_ino == same.st_ino) {
            return Ok(());
        }
        remove(directory, name)?;
        Ok(linkat(other, first, directory, name, AtFlags::empty())?)
    }

    /// Writes the content of a file as it comes, and compares its digest.
    fn content(
        &self,
        content: &File,
        file: &v1::VolumeFile,
        inbox: &mut mpsc::Receiver<Part>,
    ) -> Result<(), CopyError> {
        let at = |error: io::Error| CopyError::at(&file.path)(error);
        let mut hasher = Hasher::default();
        loop {
            match inbox.blocking_recv().ok_or(CopyError::Gone)? {
                Part::Data(v1::VolumeData { offset, data }) => {
                    hasher.add(offset, &data);
                    content.write_all_at(&data, offset).map_err(at)?;
                }
                Part::Digest(digest) => {
                    content.set_len(file.size).map_err(at)?;
                    if hasher.finish(file.size).as_slice() != digest.as_ref() {
                        let error = "it came otherwise than it was sent";
                        return Err(at(io::Error::new(io::ErrorKind::InvalidData, error)));
                    }
                    break;
                }
                Part::Compared(_) => {}
                _ => {
                    let error = "its content did not end";
                    return Err(at(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
        }
        dress(content, file).map_err(at)?;
        let (parent, name) = split(&file.path);
        let directory =
            beneath(&self.root, parent, OFlags::PATH | OFlags::DIRECTORY).map_err(at)?;
        set_times(&directory, name, file).map_err(|error| at(error.into()))
    }

    /// Removes what was not told, and sets the times of directories.
    fn finish(&self) -> Result<(), CopyError> {
        let there = walk(&self.root)?;
        for file in there.files.iter().rev().filter(|file| !self.named.contains(&*file.path)) {
            let (parent, name) = split(&file.path);
            let removed = beneath(&self.root, parent, OFlags::PATH | OFlags::DIRECTORY)
                .and_then(|directory| remove(&directory, name));
            removed.map_err(CopyError::at(&file.path))?;
        }
        for file in self.directories.iter().rev() {
            let (parent, name) = split(&file.path);
            let name = if name.is_empty() { b"." } else { name };
            let set = beneath(&self.root, parent, OFlags::PATH | OFlags::DIRECTORY)
                .and_then(|directory| Ok(set_times(&directory, name, file)?));
            set.map_err(CopyError::at(&file.path))?;
        }
        Ok(())
    }
}

/// Refuses paths that no walk yields.
fn check(path: &[u8]) -> Result<(), Failed> {
    let is_strange = |name: &[u8]| name.is_empty() || name == b"." || name == b"..";
    let is_bad = path.len() > PATH_MAX
        || path.contains(&0)
        || (!path.is_empty() && path.split(|&byte| byte == b'/').any(is_strange));
    match is_bad {
        true => Err(Failed::Refused("a path was sent that is none of a volume".to_owned())),
        false => Ok(()),
    }
}

/// The directory that a path is in, and its name there.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => {
            (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default())
        }
        None => (b"", path),
    }
}

fn permissions(file: &v1::VolumeFile) -> Mode {
    Mode::from_raw_mode(file.mode & 0o7777)
}

/// Owner, mode and attributes, in this order: a new owner takes rights away.
fn dress(open: impl AsFd, file: &v1::VolumeFile) -> io::Result<()> {
    let owner = (Uid::from_raw(file.uid), Gid::from_raw(file.gid));
    rustix::fs::fchown(&open, Some(owner.0), Some(owner.1))?;
    attributes::write(&open, &file.attributes)?;
    rustix::fs::fchmod(&open, permissions(file))?;
    Ok(())
}

fn own(directory: &OwnedFd, name: &[u8], file: &v1::VolumeFile) -> rustix::io::Result<()> {
    let owner = (Uid::from_raw(file.uid), Gid::from_raw(file.gid));
    chownat(directory, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)
}

fn set_times(directory: &OwnedFd, name: &[u8], file: &v1::VolumeFile) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: file.mtime_s, tv_nsec: file.mtime_ns.into() },
    };
    utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Removes what has a name, with all that is in it. What is not there is fine.
fn remove(directory: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let inner = openat(
        directory,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for entry in rustix::fs::Dir::read_from(&inner)? {
        let entry = entry?;
        let inside = entry.file_name().to_bytes();
        if inside != b"." && inside != b".." {
            remove(&inner, inside)?;
        }
    }
    Ok(unlinkat(directory, name, AtFlags::REMOVEDIR)?)
}
