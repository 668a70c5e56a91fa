//! What SFTP says of a file.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown, lchown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::failure::Failure;
use super::packet::{Malformed, Request};

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;
/// The most pairs of extended attributes that are skipped.
const MAX_EXTENDED: u32 = 64;
/// A file older than this is listed with its year, in seconds: half a year, as `ls` has it.
const RECENT_SECONDS: i64 = 182 * 24 * 60 * 60;

/// What is said of a file, or to be changed of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// In bytes.
    pub(super) size: Option<u64>,
    /// The user's and the group's id.
    pub(super) owner: Option<(u32, u32)>,
    /// With the type of the file.
    pub(super) permissions: Option<u32>,
    /// Of the last access and the last change, in seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

impl Attributes {
    pub(super) fn of(metadata: &Metadata) -> Self {
        // Before 1970 and after 2106, the nearest that can be said.
        let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
        Self {
            size: Some(metadata.len()),
            owner: Some((metadata.uid(), metadata.gid())),
            permissions: Some(metadata.mode()),
            times: Some((seconds(metadata.atime()), seconds(metadata.mtime()))),
        }
    }

    pub(super) fn parse(request: &mut Request<'_>) -> Result<Self, Malformed> {
        let flags = request.number()?;
        let mut attributes = Self::default();
        if flags & SIZE != 0 {
            attributes.size = Some(request.long_number()?);
        }
        if flags & OWNER != 0 {
            attributes.owner = Some((request.number()?, request.number()?));
        }
        if flags & PERMISSIONS != 0 {
            attributes.permissions = Some(request.number()?);
        }
        if flags & TIMES != 0 {
            attributes.times = Some((request.number()?, request.number()?));
        }
        if flags & EXTENDED != 0 {
            let count = request.number()?;
            if count > MAX_EXTENDED {
                return Err(Malformed);
            }
            for _ in 0..2 * count {
                request.bytes()?;
            }
        }
        Ok(attributes)
    }

    pub(super) fn push(&self, body: &mut Vec<u8>) {
        let flag = |said: bool, flag: u32| if said { flag } else { 0 };
        let flags = flag(self.size.is_some(), SIZE)
            | flag(self.owner.is_some(), OWNER)
            | flag(self.permissions.is_some(), PERMISSIONS)
            | flag(self.times.is_some(), TIMES);
        body.extend(flags.to_be_bytes());
        body.extend(self.size.into_iter().flat_map(u64::to_be_bytes));
        let pair = |(first, second): (u32, u32)| [first, second];
        let numbers = self.owner.into_iter().flat_map(pair).chain(self.permissions);
        let numbers = numbers.chain(self.times.into_iter().flat_map(pair));
        body.extend(numbers.flat_map(u32::to_be_bytes));
    }

    /// Changes an open file.
    pub(super) fn set(&self, file: &File) -> io::Result<()> {
        if let Some(size) = self.size {
            file.set_len(size)?;
        }
        if let Some(mode) = self.permissions {
            file.set_permissions(Permissions::from_mode(mode & 0o7777))?;
        }
        if let Some((accessed, modified)) = self.times {
            let time = |seconds: u32| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into());
            file.set_times(
                FileTimes::new().set_accessed(time(accessed)).set_modified(time(modified)),
            )?;
        }
        if let Some((user, group)) = self.owner {
            fchown(file, Some(user), Some(group))?;
        }
        Ok(())
    }

    /// Reads attributes from a request and changes the file at `path`, or, unless links are followed, a link itself.
    pub(super) fn set_by_path(
        path: &Path,
        request: &mut Request<'_>,
        follow: bool,
    ) -> Result<(), Failure> {
        let attributes = Self::parse(request)?;
        if let (Some(size), true) = (attributes.size, follow) {
            File::options().write(true).open(path)?.set_len(size)?;
        }
        if let Some(mode) = attributes.permissions {
            if !follow && fs::symlink_metadata(path)?.is_symlink() {
                return Err(Failure::Unsupported);
            }
            fs::set_permissions(path, Permissions::from_mode(mode & 0o7777))?;
        }
        if let Some((accessed, modified)) = attributes.times {
            let time = |seconds: u32| Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
            let times =
                Timestamps { last_access: time(accessed), last_modification: time(modified) };
            let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
            utimensat(CWD, path, &times, flags)?;
        }
        match attributes.owner {
            Some((user, group)) if follow => {
                std::os::unix::fs::chown(path, Some(user), Some(group))?;
            }
            Some((user, group)) => lchown(path, Some(user), Some(group))?,
            None => {}
        }
        Ok(())
    }
}

/// A file as `ls -ln` shows it. Times are in UTC.
pub(super) fn long_name(name: &OsStr, metadata: &Metadata) -> OsString {
    let mode = metadata.mode();
    let time = Timestamp::from_second(metadata.mtime()).unwrap_or_default();
    let age = Timestamp::now().as_second().saturating_sub(time.as_second());
    let format = if (0..RECENT_SECONDS).contains(&age) { "%b %e %H:%M" } else { "%b %e  %Y" };
    let time = time.to_zoned(TimeZone::UTC).strftime(format).to_string();
    let mut line = OsString::from(format!(
        "{}{} {:>4} {:<8} {:<8} {:>8} {time} ",
        kind(mode),
        permissions(mode),
        metadata.nlink(),
        metadata.uid(),
        metadata.gid(),
        metadata.len(),
    ));
    line.push(name);
    line
}

fn kind(mode: u32) -> char {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        _ => '-',
    }
}

fn permissions(mode: u32) -> String {
    let triple = |shift: u32, special: u32, letter: char| {
        let bits = mode >> shift;
        let execute = match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        };
        [if bits & 4 != 0 { 'r' } else { '-' }, if bits & 2 != 0 { 'w' } else { '-' }, execute]
    };
    [triple(6, libc::S_ISUID, 's'), triple(3, libc::S_ISGID, 's'), triple(0, libc::S_ISVTX, 't')]
        .into_iter()
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_shown_as_ls_does() {
        for (mode, shown) in [
            (0o100_644, "-rw-r--r--"),
            (0o041_777, "drwxrwxrwt"),
            (0o104_755, "-rwsr-xr-x"),
            (0o102_644, "-rw-r-Sr--"),
            (0o120_777, "lrwxrwxrwx"),
            (0o041_000, "d--------T"),
        ] {
            assert_eq!(format!("{}{}", kind(mode), permissions(mode)), shown);
        }
    }
}
