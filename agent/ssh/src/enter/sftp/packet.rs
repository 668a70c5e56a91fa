//! The packets of SFTP: a length, a type, mostly an id, and numbers and strings in network order.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::attributes::Attributes;

/// The largest packet either way, in bytes, without its length.
pub(super) const MAX_PACKET: usize = 256 * 1024;
/// The size of each buffer: two packets, so that one can be worked on while another arrives.
const BUFFER: usize = 2 * (MAX_PACKET + 4);

pub(super) const INIT: u8 = 1;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const LSTAT: u8 = 7;
pub(super) const FSTAT: u8 = 8;
pub(super) const SETSTAT: u8 = 9;
pub(super) const FSETSTAT: u8 = 10;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const MKDIR: u8 = 14;
pub(super) const RMDIR: u8 = 15;
pub(super) const REALPATH: u8 = 16;
pub(super) const STAT: u8 = 17;
pub(super) const RENAME: u8 = 18;
pub(super) const READLINK: u8 = 19;
pub(super) const SYMLINK: u8 = 20;
pub(super) const EXTENDED: u8 = 200;

const VERSION: u8 = 2;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

pub(super) const OK: u32 = 0;
pub(super) const END_OF_FILE: u32 = 1;
pub(super) const NO_SUCH_FILE: u32 = 2;
pub(super) const PERMISSION_DENIED: u32 = 3;
pub(super) const FAILURE: u32 = 4;
pub(super) const BAD_MESSAGE: u32 = 5;
pub(super) const UNSUPPORTED: u32 = 8;

/// A request ends before what it should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl From<Malformed> for io::Error {
    fn from(_: Malformed) -> Self {
        Self::new(ErrorKind::InvalidData, "not an SFTP packet")
    }
}

/// The packets of a stream.
pub(super) struct Input<R> {
    stream: R,
    buffer: Box<[u8]>,
    /// What is buffered and not yet taken.
    start: usize,
    end: usize,
}

impl<R: Read> Input<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, buffer: vec![0; BUFFER].into(), start: 0, end: 0 }
    }

    /// The next packet without its length, if it is in the buffer as a whole.
    ///
    /// # Errors
    /// If it is larger than any may be.
    pub(super) fn next_buffered(&mut self) -> io::Result<Option<&[u8]>> {
        let buffered = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some((length, rest)) = buffered.split_first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_PACKET {
            return Err(Malformed.into());
        }
        let Some(packet) = rest.get(..length) else { return Ok(None) };
        self.start += 4 + length;
        Ok(Some(packet))
    }

    /// Reads more, at least one byte; `false` at the end.
    pub(super) fn fill(&mut self) -> io::Result<bool> {
        // At most one packet's beginning is left: moving it is little beside what arrives.
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let space = self.buffer.get_mut(self.end..).unwrap_or_default();
        loop {
            match self.stream.read(space) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => {
                    let read = result?;
                    self.end += read;
                    return Ok(read > 0);
                }
            }
        }
    }
}

/// A request, of which the rest is yet to be read.
#[derive(Clone)]
pub(super) struct Request<'a> {
    pub(super) kind: u8,
    /// 0 for INIT, which has none.
    pub(super) id: u32,
    rest: &'a [u8],
}

impl<'a> Request<'a> {
    pub(super) fn parse(packet: &'a [u8]) -> Result<Self, Malformed> {
        let (&kind, rest) = packet.split_first().ok_or(Malformed)?;
        let mut request = Self { kind, id: 0, rest };
        if kind != INIT {
            request.id = request.number()?;
        }
        Ok(request)
    }

    pub(super) fn number(&mut self) -> Result<u32, Malformed> {
        let (number, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*number))
    }

    pub(super) fn long_number(&mut self) -> Result<u64, Malformed> {
        let (number, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*number))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.number()? as usize;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn path(&mut self) -> Result<PathBuf, Malformed> {
        Ok(OsStr::from_bytes(self.bytes()?).into())
    }

    /// The index that a handle is.
    pub(super) fn handle(&mut self) -> Result<usize, Malformed> {
        let handle: [u8; 4] = self.bytes()?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_be_bytes(handle) as usize)
    }

    pub(super) fn attributes(&mut self) -> Result<Attributes, Malformed> {
        Attributes::parse(self)
    }
}

/// The replies, gathered until they are sent.
pub(super) struct Replies<W> {
    stream: W,
    buffer: Box<[u8]>,
    filled: usize,
}

impl<W: Write> Replies<W> {
    pub(super) fn new(stream: W) -> Self {
        Self { stream, buffer: vec![0; BUFFER].into(), filled: 0 }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(self.buffer.get(..self.filled).unwrap_or_default())?;
        self.filled = 0;
        self.stream.flush()
    }

    pub(super) fn version(&mut self, extensions: &[(&str, &str)]) -> io::Result<()> {
        let mut body = 3_u32.to_be_bytes().to_vec();
        for (name, version) in extensions {
            push_bytes(&mut body, name.as_bytes());
            push_bytes(&mut body, version.as_bytes());
        }
        self.packet(VERSION, None, &body)
    }

    pub(super) fn status(&mut self, id: u32, status: u32, message: &str) -> io::Result<()> {
        let mut body = status.to_be_bytes().to_vec();
        push_bytes(&mut body, message.as_bytes());
        push_bytes(&mut body, b"en");
        self.packet(STATUS, Some(id), &body)
    }

    pub(super) fn handle(&mut self, id: u32, handle: u32) -> io::Result<()> {
        let mut body = Vec::new();
        push_bytes(&mut body, &handle.to_be_bytes());
        self.packet(HANDLE, Some(id), &body)
    }

    pub(super) fn attributes(&mut self, id: u32, attributes: &Attributes) -> io::Result<()> {
        let mut body = Vec::new();
        attributes.push(&mut body);
        self.packet(ATTRS, Some(id), &body)
    }

    pub(super) fn path(&mut self, id: u32, path: &Path) -> io::Result<()> {
        let name = path.as_os_str().to_owned();
        self.names(id, &[(name.clone(), name, Attributes::default())])
    }

    /// Names, each with how `ls -l` shows it.
    pub(super) fn names(
        &mut self,
        id: u32,
        names: &[(OsString, OsString, Attributes)],
    ) -> io::Result<()> {
        let count = u32::try_from(names.len()).map_err(|_| Malformed)?;
        let mut body = count.to_be_bytes().to_vec();
        for (name, long_name, attributes) in names {
            push_bytes(&mut body, name.as_bytes());
            push_bytes(&mut body, long_name.as_bytes());
            attributes.push(&mut body);
        }
        self.packet(NAME, Some(id), &body)
    }

    /// A reply of an extension that has only numbers.
    pub(super) fn numbers(&mut self, id: u32, numbers: &[u64]) -> io::Result<()> {
        let body: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        self.packet(EXTENDED_REPLY, Some(id), &body)
    }

    /// Data of at most `length` bytes, which `read` puts in place. Nothing is sent if it fails or has none.
    ///
    /// # Errors
    /// The outer one is the stream's, the inner one `read`'s.
    pub(super) fn data(
        &mut self,
        id: u32,
        length: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<io::Result<usize>> {
        /// Length, type, id and the data's length.
        const HEADER: usize = 4 + 1 + 4 + 4;
        let space = self.space(HEADER + length)?;
        let Some((header, data)) = space.split_first_chunk_mut::<HEADER>() else {
            return Err(Malformed.into());
        };
        let read = match read(data) {
            Ok(read @ 1..) => read,
            nothing => return Ok(nothing),
        };
        let framed = u32::try_from(HEADER - 4 + read).map_err(|_| Malformed)?;
        let length = u32::try_from(read).map_err(|_| Malformed)?;
        let mut fields = Vec::with_capacity(HEADER);
        fields.extend(framed.to_be_bytes());
        fields.push(DATA);
        fields.extend(id.to_be_bytes());
        fields.extend(length.to_be_bytes());
        header.copy_from_slice(&fields);
        self.filled += HEADER + read;
        Ok(Ok(read))
    }

    fn packet(&mut self, kind: u8, id: Option<u32>, body: &[u8]) -> io::Result<()> {
        let id = id.map(u32::to_be_bytes);
        let id = id.as_ref().map(|id| &id[..]).unwrap_or_default();
        let length = 1 + id.len() + body.len();
        let framed = u32::try_from(length).map_err(|_| Malformed)?.to_be_bytes();
        let mut space = self.space(4 + length)?;
        for part in [&framed[..], &[kind], id, body] {
            space.write_all(part)?;
        }
        self.filled += 4 + length;
        Ok(())
    }

    /// Space for a packet, after sending what is in its way.
    fn space(&mut self, length: usize) -> io::Result<&mut [u8]> {
        if self.filled + length > self.buffer.len() {
            self.flush()?;
        }
        self.buffer.get_mut(self.filled..self.filled + length).ok_or_else(|| Malformed.into())
    }
}

/// Appends a string: its length and its bytes. None of ours is longer than a packet.
fn push_bytes(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(u32::try_from(bytes.len()).unwrap_or_default().to_be_bytes());
    body.extend_from_slice(bytes);
}
