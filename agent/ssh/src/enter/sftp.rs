//! An SFTP server, version 3 as OpenSSH speaks it: for the child, which is in the container and unprivileged
//! already. It needs no program of the image, and works in one that has nothing at all.
//!
//! One thread does one thing after the other, as OpenSSH's server does. File names are bytes, which need not
//! be text. Data goes from the input buffer into files, and from files into the output buffer, without a copy in between;
//! replies are sent when no whole request is waiting, or the buffer is full. What a client can make it hold is bounded by
//! the two buffers and [`MAX_HANDLES`].

use std::fs::{self, File, OpenOptions, ReadDir};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use self::attributes::{Attributes, long_name};
use self::failure::Failure;
use self::packet::{MAX_PACKET, Replies, Request};
use self::paths::{expand, filesystem, rename_to_new, resolve};

mod attributes;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod packet;
mod paths;
#[cfg(test)]
mod tests;

/// The most files and directories that a client can have open.
const MAX_HANDLES: usize = 1024;
/// The most bytes read or written by one request: a packet but for its framing, which OpenSSH takes for 1 KiB.
const MAX_DATA: usize = MAX_PACKET - 1024;
/// The most names in one reply; with the longest names they fill a third of a packet.
const MAX_NAMES: usize = 100;
/// What is announced beyond version 3, and in which version.
const EXTENSIONS: [(&str, &str); 7] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

/// Serves until the input ends; with `read_only` nothing can be changed. Relative paths are relative to the working directory, which is `home`
/// where there is one.
///
/// # Errors
/// If the streams fail, or the client does not speak SFTP.
pub(super) fn serve(
    input: impl Read,
    output: impl Write,
    home: &Path,
    read_only: bool,
) -> io::Result<()> {
    let mut input = packet::Input::new(input);
    let mut replies = Replies::new(output);
    let mut server = Server { handles: Vec::new(), home: home.to_owned(), read_only };
    loop {
        while let Some(packet) = input.next_buffered()? {
            server.answer(Request::parse(packet)?, &mut replies)?;
        }
        replies.flush()?;
        if !input.fill()? {
            return Ok(());
        }
    }
}

/// What is open. A handle is an index.
struct Server {
    handles: Vec<Option<Handle>>,
    home: PathBuf,
    read_only: bool,
}

enum Handle {
    File(File),
    Directory(ReadDir),
}

impl Server {
    fn answer<W: Write>(
        &mut self,
        mut request: Request<'_>,
        replies: &mut Replies<W>,
    ) -> io::Result<()> {
        let id = request.id;
        if request.kind == packet::INIT {
            return replies.version(&EXTENSIONS);
        }
        // Nothing has been written for a request that fails.
        match self.carry_out(&mut request, replies)? {
            Ok(Done::Replied) => Ok(()),
            Ok(Done::Silently) => replies.status(id, packet::OK, "done"),
            Err(failure) => replies.status(id, failure.status(), &failure.to_string()),
        }
    }

    /// The outer error is one of the output.
    fn carry_out<W: Write>(
        &mut self,
        request: &mut Request<'_>,
        replies: &mut Replies<W>,
    ) -> io::Result<Result<Done, Failure>> {
        let id = request.id;
        if self.read_only && !is_harmless(request) {
            return Ok(Err(io::Error::from(rustix::io::Errno::ACCESS).into()));
        }
        let result = match request.kind {
            packet::READ => return self.read(request, replies),
            packet::READDIR => return self.read_directory(request, replies),
            packet::WRITE => self.write(request).map(|()| Done::Silently),
            packet::OPEN => {
                return reply(self.open(request), |handle| replies.handle(id, handle));
            }
            packet::OPENDIR => {
                return reply(self.open_directory(request), |handle| replies.handle(id, handle));
            }
            packet::CLOSE => self.close(request).map(|()| Done::Silently),
            packet::STAT | packet::LSTAT | packet::FSTAT => {
                return reply(self.stat(request), |found| replies.attributes(id, &found));
            }
            packet::REALPATH => {
                let resolved =
                    request.path().map_err(Failure::from).and_then(|path| resolve(&path));
                return reply(resolved, |path| replies.path(id, &path));
            }
            packet::READLINK => {
                let target =
                    request.path().map_err(Failure::from).and_then(|path| Ok(fs::read_link(path)?));
                return reply(target, |path| replies.path(id, &path));
            }
            packet::EXTENDED => return self.extended(request, replies),
            _ => self.change(request).map(|()| Done::Silently),
        };
        Ok(result)
    }

    /// Requests that are answered with a status only.
    fn change(&self, request: &mut Request<'_>) -> Result<(), Failure> {
        match request.kind {
            packet::SETSTAT => Attributes::set_by_path(&request.path()?, request, true)?,
            packet::FSETSTAT => {
                let file = self.file(request)?;
                request.attributes()?.set(file)?;
            }
            packet::REMOVE => fs::remove_file(request.path()?)?,
            packet::MKDIR => {
                let path = request.path()?;
                let mode = request.attributes()?.permissions.unwrap_or(0o777);
                fs::DirBuilder::new().mode(mode & 0o7777).create(path)?;
            }
            packet::RMDIR => fs::remove_dir(request.path()?)?,
            packet::RENAME => rename_to_new(&request.path()?, &request.path()?)?,
            // The target comes first, against the draft: so does OpenSSH, and who speaks with it.
            packet::SYMLINK => symlink(request.path()?, request.path()?)?,
            _ => return Err(Failure::Unsupported),
        }
        Ok(())
    }

    fn extended<W: Write>(
        &self,
        request: &mut Request<'_>,
        replies: &mut Replies<W>,
    ) -> io::Result<Result<Done, Failure>> {
        let id = request.id;
        let name = match request.bytes() {
            Ok(name) => name,
            Err(malformed) => return Ok(Err(malformed.into())),
        };
        let mut change = || -> Result<(), Failure> {
            match name {
                b"posix-rename@openssh.com" => fs::rename(request.path()?, request.path()?)?,
                b"hardlink@openssh.com" => fs::hard_link(request.path()?, request.path()?)?,
                b"fsync@openssh.com" => self.file(request)?.sync_all()?,
                b"lsetstat@openssh.com" => {
                    Attributes::set_by_path(&request.path()?, request, false)?;
                }
                _ => return Err(Failure::Unsupported),
            }
            Ok(())
        };
        match name {
            b"limits@openssh.com" => {
                let limits =
                    [MAX_PACKET, MAX_DATA, MAX_DATA, MAX_HANDLES].map(|limit| limit as u64);
                replies.numbers(id, &limits)?;
            }
            b"statvfs@openssh.com" => {
                let found =
                    request.path().map_err(Failure::from).and_then(|path| filesystem(&path));
                return reply(found, |numbers| replies.numbers(id, &numbers));
            }
            b"expand-path@openssh.com" => {
                let expanded = request
                    .path()
                    .map_err(Failure::from)
                    .and_then(|path| expand(&path, &self.home));
                return reply(expanded, |path| replies.path(id, &path));
            }
            _ => return Ok(change().map(|()| Done::Silently)),
        }
        Ok(Ok(Done::Replied))
    }

    fn open(&mut self, request: &mut Request<'_>) -> Result<u32, Failure> {
        const READ: u32 = 1;
        const WRITE: u32 = 2;
        const APPEND: u32 = 4;
        const CREATE: u32 = 8;
        const TRUNCATE: u32 = 16;
        const EXCLUSIVE: u32 = 32;
        let (path, flags) = (request.path()?, request.number()?);
        let mode = request.attributes()?.permissions.unwrap_or(0o666) & 0o7777;
        let has = |flag| flags & flag != 0;
        let mut more = libc::O_NOCTTY;
        for (flag, meaning) in
            [(CREATE, libc::O_CREAT), (EXCLUSIVE, libc::O_EXCL), (TRUNCATE, libc::O_TRUNC)]
        {
            more |= if has(flag) { meaning } else { 0 };
        }
        let mut options = OpenOptions::new();
        options.read(has(READ)).write(has(WRITE)).append(has(APPEND) && has(WRITE));
        let file = options.mode(mode).custom_flags(more).open(path)?;
        self.keep(Handle::File(file))
    }

    fn open_directory(&mut self, request: &mut Request<'_>) -> Result<u32, Failure> {
        let directory = fs::read_dir(request.path()?)?;
        self.keep(Handle::Directory(directory))
    }

    fn keep(&mut self, handle: Handle) -> Result<u32, Failure> {
        let free = self.handles.iter().position(Option::is_none).unwrap_or(self.handles.len());
        if free >= MAX_HANDLES {
            return Err(io::Error::from(rustix::io::Errno::MFILE).into());
        }
        if free == self.handles.len() {
            self.handles.push(None);
        }
        if let Some(slot) = self.handles.get_mut(free) {
            *slot = Some(handle);
        }
        u32::try_from(free).map_err(|_| Failure::Malformed)
    }

    fn close(&mut self, request: &mut Request<'_>) -> Result<(), Failure> {
        let slot = self.handles.get_mut(request.handle()?).ok_or_else(unknown_handle)?;
        drop(slot.take().ok_or_else(unknown_handle)?);
        Ok(())
    }

    fn file(&self, request: &mut Request<'_>) -> Result<&File, Failure> {
        match self.handles.get(request.handle()?) {
            Some(Some(Handle::File(file))) => Ok(file),
            _ => Err(unknown_handle()),
        }
    }

    fn read<W: Write>(
        &self,
        request: &mut Request<'_>,
        replies: &mut Replies<W>,
    ) -> io::Result<Result<Done, Failure>> {
        let id = request.id;
        let mut asked = || -> Result<_, Failure> {
            let file = self.file(request)?;
            Ok((file, request.long_number()?, request.number()? as usize))
        };
        let (file, offset, length) = match asked() {
            Ok(asked) => asked,
            Err(failure) => return Ok(Err(failure)),
        };
        let read = replies.data(id, length.min(MAX_DATA), |space| file.read_at(space, offset))?;
        Ok(match read {
            Ok(0) if length > 0 => Err(Failure::EndOfFile),
            Ok(_) => Ok(Done::Replied),
            Err(error) => Err(error.into()),
        })
    }

    fn write(&self, request: &mut Request<'_>) -> Result<(), Failure> {
        let file = self.file(request)?;
        let offset = request.long_number()?;
        Ok(file.write_all_at(request.bytes()?, offset)?)
    }

    fn read_directory<W: Write>(
        &mut self,
        request: &mut Request<'_>,
        replies: &mut Replies<W>,
    ) -> io::Result<Result<Done, Failure>> {
        let id = request.id;
        let directory = match request.handle().map(|index| self.handles.get_mut(index)) {
            Ok(Some(Some(Handle::Directory(directory)))) => directory,
            Ok(_) => return Ok(Err(unknown_handle())),
            Err(malformed) => return Ok(Err(malformed.into())),
        };
        let mut names = Vec::new();
        for entry in directory.take(MAX_NAMES) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Ok(Err(error.into())),
            };
            // One that has gone meanwhile is not there.
            if let Ok(metadata) = entry.metadata() {
                let name = entry.file_name();
                let long = long_name(&name, &metadata);
                names.push((name, long, Attributes::of(&metadata)));
            }
        }
        if names.is_empty() {
            return Ok(Err(Failure::EndOfFile));
        }
        replies.names(id, &names)?;
        Ok(Ok(Done::Replied))
    }

    fn stat(&self, request: &mut Request<'_>) -> Result<Attributes, Failure> {
        let metadata = match request.kind {
            packet::STAT => fs::metadata(request.path()?)?,
            packet::LSTAT => fs::symlink_metadata(request.path()?)?,
            _ => self.file(request)?.metadata()?,
        };
        Ok(Attributes::of(&metadata))
    }
}

/// Whether a request cannot change anything. A file that is opened with nothing but `READ` can only be read.
fn is_harmless(request: &Request<'_>) -> bool {
    const READ: u32 = 1;
    let mut request = request.clone();
    match request.kind {
        packet::OPEN => {
            request.bytes().is_ok() && request.number().is_ok_and(|flags| flags == READ)
        }
        packet::EXTENDED => matches!(
            request.bytes(),
            Ok(b"limits@openssh.com" | b"statvfs@openssh.com" | b"expand-path@openssh.com")
        ),
        kind => [
            packet::READ,
            packet::READDIR,
            packet::OPENDIR,
            packet::CLOSE,
            packet::STAT,
            packet::LSTAT,
            packet::FSTAT,
            packet::REALPATH,
            packet::READLINK,
        ]
        .contains(&kind),
    }
}

/// What became of a request that did not fail.
enum Done {
    /// The reply has been written.
    Replied,
    /// There is nothing to say but that.
    Silently,
}

/// Writes the reply to a request that did not fail.
fn reply<T>(
    result: Result<T, Failure>,
    write: impl FnOnce(T) -> io::Result<()>,
) -> io::Result<Result<Done, Failure>> {
    match result {
        Ok(value) => write(value).map(|()| Ok(Done::Replied)),
        Err(failure) => Ok(Err(failure)),
    }
}

fn unknown_handle() -> Failure {
    io::Error::from(rustix::io::Errno::BADF).into()
}
