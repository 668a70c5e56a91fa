use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A packet: a request's kind, id and the rest, which [`string`] and numbers make up.
fn packet(kind: u8, id: u32, rest: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![kind];
    body.extend(id.to_be_bytes());
    rest.iter().for_each(|part| body.extend_from_slice(part));
    framed(&body)
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    framed(bytes)
}

fn path(directory: &TempDir, name: &str) -> Vec<u8> {
    string(directory.path().join(name).as_os_str().as_bytes())
}

/// Input that arrives in pieces of this many bytes.
struct Pieces(VecDeque<u8>, usize);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.1.min(buffer.len()).min(self.0.len());
        self.0.drain(..length).zip(buffer).for_each(|(byte, place)| *place = byte);
        Ok(length)
    }
}

/// The replies to requests: kind, id and the rest of each.
fn replies(requests: &[Vec<u8>], piece: usize) -> io::Result<Vec<(u8, u32, Vec<u8>)>> {
    replies_of(false, requests, piece)
}

/// As [`replies`], of a server that may be `read_only`.
fn replies_of(
    read_only: bool,
    requests: &[Vec<u8>],
    piece: usize,
) -> io::Result<Vec<(u8, u32, Vec<u8>)>> {
    let mut output = Vec::new();
    let input = Pieces(requests.concat().into(), piece);
    serve(input, &mut output, Path::new("/home"), read_only)?;
    let mut rest = &output[..];
    let mut replies = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (body, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        let id = u32::from_be_bytes(body[1..5].try_into().unwrap());
        replies.push((body[0], id, body[5..].to_vec()));
        rest = after;
    }
    Ok(replies)
}

/// The statuses of replies.
fn statuses(requests: &[Vec<u8>]) -> Vec<u32> {
    let status = |(kind, _, rest): (u8, u32, Vec<u8>)| {
        assert_eq!(kind, 101, "{rest:?}");
        u32::from_be_bytes(rest[..4].try_into().unwrap())
    };
    replies(requests, 1 << 20).unwrap().into_iter().map(status).collect()
}

const FIRST: [u8; 4] = [0; 4];
const NONE: [u8; 4] = [0; 4];

#[test]
fn a_file_is_written_and_read_however_the_requests_arrive() {
    for piece in [1, 7, 1000, 1 << 20] {
        let directory = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let (first, second) = content.split_at(200_000);
        let requests = [
            packet(packet::OPEN, 1, &[&path(&directory, "f"), &0b1_1011_u32.to_be_bytes(), &NONE]),
            packet(packet::WRITE, 2, &[&string(&FIRST), &0_u64.to_be_bytes(), &string(first)]),
            packet(
                packet::WRITE,
                3,
                &[&string(&FIRST), &200_000_u64.to_be_bytes(), &string(second)],
            ),
            packet(
                packet::READ,
                4,
                &[&string(&FIRST), &100_000_u64.to_be_bytes(), &u32::MAX.to_be_bytes()],
            ),
            packet(
                packet::READ,
                5,
                &[&string(&FIRST), &300_000_u64.to_be_bytes(), &1_u32.to_be_bytes()],
            ),
            packet(packet::CLOSE, 6, &[&string(&FIRST)]),
            packet(packet::CLOSE, 7, &[&string(&FIRST)]),
        ];
        let replies = replies(&requests, piece).unwrap();
        let kinds: Vec<_> = replies.iter().map(|(kind, id, _)| (*kind, *id)).collect();
        assert_eq!(kinds, [(102, 1), (101, 2), (101, 3), (103, 4), (101, 5), (101, 6), (101, 7)]);
        assert_eq!(fs::read(directory.path().join("f")).unwrap(), content);
        assert!(replies[3].2[4..] == content[100_000..]);
        assert_eq!(replies[4].2[..4], packet::END_OF_FILE.to_be_bytes());
        assert_eq!(replies[6].2[..4], packet::NO_SUCH_FILE.to_be_bytes());
    }
}

#[test]
fn names_need_not_be_text() {
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().join(OsStr::from_bytes(b"\xff\n\xfe"));
    fs::write(&name, "x").unwrap();
    let requests = [
        packet(packet::STAT, 1, &[&string(name.as_os_str().as_bytes())]),
        packet(packet::OPENDIR, 2, &[&string(directory.path().as_os_str().as_bytes())]),
        packet(packet::READDIR, 3, &[&string(&FIRST)]),
        packet(packet::READDIR, 4, &[&string(&FIRST)]),
    ];
    let replies = replies(&requests, 1 << 20).unwrap();
    assert_eq!(replies[0].0, 105);
    assert_eq!(replies[2].2[..11], [0, 0, 0, 1, 0, 0, 0, 3, 0xff, b'\n', 0xfe]);
    assert_eq!(replies[3].2[..4], packet::END_OF_FILE.to_be_bytes());
}

#[test]
fn errors_are_told_by_their_kind() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("taken"), "").unwrap();
    fs::write(directory.path().join("other"), "").unwrap();
    let nul = string(b"a\0b");
    let codes = statuses(&[
        packet(packet::STAT, 1, &[&path(&directory, "absent")]),
        packet(packet::STAT, 2, &[&path(&directory, "taken/below")]),
        packet(packet::STAT, 3, &[&nul]),
        packet(packet::RENAME, 4, &[&path(&directory, "other"), &path(&directory, "taken")]),
        packet(packet::RMDIR, 5, &[&path(&directory, "taken")]),
        packet(packet::STAT, 6, &[&9_u32.to_be_bytes(), b"short"]),
        packet(packet::READ, 7, &[&string(b"not mine"), &[0; 12]]),
        packet(packet::READ, 8, &[&string(&[0, 0, 0, 9]), &[0; 12]]),
        packet(99, 9, &[]),
        packet(packet::EXTENDED, 10, &[&string(b"unknown@example.com")]),
        packet(
            packet::EXTENDED,
            11,
            &[
                &string(b"posix-rename@openssh.com"),
                &path(&directory, "other"),
                &path(&directory, "taken"),
            ],
        ),
    ]);
    use packet::{BAD_MESSAGE, FAILURE, NO_SUCH_FILE, OK, UNSUPPORTED};
    assert_eq!(
        codes,
        [
            NO_SUCH_FILE,
            NO_SUCH_FILE,
            BAD_MESSAGE,
            FAILURE,
            NO_SUCH_FILE,
            BAD_MESSAGE,
            BAD_MESSAGE,
            NO_SUCH_FILE,
            UNSUPPORTED,
            UNSUPPORTED,
            OK
        ]
    );
}

#[test]
fn attributes_are_changed_as_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("f");
    fs::write(&file, "content").unwrap();
    symlink("f", directory.path().join("link")).unwrap();
    let numbers =
        |numbers: &[u32]| numbers.iter().flat_map(|one| one.to_be_bytes()).collect::<Vec<_>>();
    // Size, permissions and times; then times of the link itself.
    let all = numbers(&[1 | 4 | 8, 0, 3, 0o100_640, 100, 200]);
    let times = numbers(&[8, 300, 400]);
    let codes = statuses(&[
        packet(packet::SETSTAT, 1, &[&path(&directory, "link"), &all]),
        packet(
            packet::EXTENDED,
            2,
            &[&string(b"lsetstat@openssh.com"), &path(&directory, "link"), &times],
        ),
    ]);
    assert_eq!(codes, [0, 0]);
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!((metadata.len(), metadata.mode()), (3, 0o100_640));
    assert_eq!((metadata.atime(), metadata.mtime()), (100, 200));
    assert_eq!(fs::symlink_metadata(directory.path().join("link")).unwrap().mtime(), 400);
}

#[test]
fn paths_are_made_absolute_where_their_last_part_may_be_missing() {
    let directory = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(directory.path()).unwrap();
    fs::create_dir(real.join("d")).unwrap();
    symlink("d", real.join("link")).unwrap();
    for (given, expected) in
        [("link/../d/.", Some("d")), ("link/new", Some("d/new")), ("no/new", None)]
    {
        let resolved = resolve(&directory.path().join(given)).ok();
        assert_eq!(resolved, expected.map(|expected| real.join(expected)), "{given}");
    }
    assert_eq!(expand(Path::new("~"), &real).unwrap(), real);
    assert_eq!(expand(Path::new("~/d"), &real).unwrap(), real.join("d"));
    assert!(expand(Path::new("~root"), &real).is_err());
}

#[test]
fn handles_are_bounded() {
    let mut requests: Vec<_> = (0..u32::try_from(MAX_HANDLES).unwrap() + 1)
        .map(|id| packet(packet::OPENDIR, id, &[&string(b"/")]))
        .collect();
    requests.push(packet(packet::CLOSE, 0, &[&string(&FIRST)]));
    requests.push(packet(packet::OPENDIR, 0, &[&string(b"/")]));
    let replies = replies(&requests, 1 << 20).unwrap();
    let (tail, opened) = (&replies[MAX_HANDLES..], &replies[..MAX_HANDLES]);
    assert!(opened.iter().all(|(kind, ..)| *kind == 102));
    let kinds: Vec<_> = tail.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, [101, 101, 102]);
}

proptest! {
    #[test]
    fn whatever_arrives_is_answered_or_ends_the_session(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
        kinds in proptest::collection::vec(4..=5_u8, 8),
        piece in 1..50_usize,
    ) {
        // Only requests that change nothing: this is a file system that somebody needs.
        let harmless = [packet::CLOSE, packet::READ, packet::LSTAT, packet::FSTAT, packet::READDIR, packet::INIT];
        let requests: Vec<_> = bodies.iter().zip(kinds).map(|(body, kind)| {
            let kind = body.first().map_or(kind, |first| harmless[usize::from(*first) % harmless.len()]);
            framed(&[&[kind], body.get(1..).unwrap_or_default()].concat())
        }).collect();
        if let Ok(replies) = replies(&requests, piece) {
            prop_assert_eq!(replies.len(), requests.len());
        }
    }

    #[test]
    fn a_length_beyond_any_packet_ends_the_session(length in u32::try_from(MAX_PACKET).unwrap() + 1..) {
        prop_assert!(replies(&[length.to_be_bytes().to_vec()], 9).is_err());
    }
}

/// Whatever a client asks of a server that is read-only, the directory is as it was.
#[test]
fn a_read_only_server_changes_nothing_and_reads_everything() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("old"), "content").unwrap();
    fs::create_dir(directory.path().join("sub")).unwrap();
    let (old, new, sub) =
        (path(&directory, "old"), path(&directory, "new"), path(&directory, "sub"));
    let number = u32::to_be_bytes;
    let no_attributes = number(0);
    let mode = [number(4), number(0)].concat();
    let named = |name: &str| string(name.as_bytes());
    let mut refused = vec![
        packet(packet::REMOVE, 1, &[&old]),
        packet(packet::RENAME, 2, &[&old, &new]),
        packet(packet::MKDIR, 3, &[&new, &no_attributes]),
        packet(packet::RMDIR, 4, &[&sub]),
        packet(packet::SYMLINK, 5, &[&old, &new]),
        packet(packet::SETSTAT, 6, &[&old, &mode]),
        packet(packet::EXTENDED, 7, &[&named("posix-rename@openssh.com"), &old, &new]),
        packet(packet::EXTENDED, 8, &[&named("hardlink@openssh.com"), &old, &new]),
        packet(packet::EXTENDED, 9, &[&named("lsetstat@openssh.com"), &old, &mode]),
        packet(packet::WRITE, 10, &[&string(&number(0)), &[0; 8], &string(b"x")]),
        packet(packet::FSETSTAT, 11, &[&string(&number(0)), &mode]),
        packet(200, 12, &[]),
    ];
    // To write, append, create and truncate, with reading and without.
    refused.extend(
        (0..64).filter(|flags| *flags != 1).map(|flags| {
            packet(packet::OPEN, 100 + flags, &[&old, &number(flags), &no_attributes])
        }),
    );
    let kinds = replies_of(true, &refused, 64).unwrap();
    for (kind, id, rest) in kinds {
        assert_eq!((kind, &rest[..4]), (101, &number(packet::PERMISSION_DENIED)[..]), "{id}");
    }
    assert_eq!(fs::read(directory.path().join("old")).unwrap(), b"content");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);

    let reading = [
        packet(packet::OPEN, 1, &[&old, &number(1), &no_attributes]),
        packet(packet::READ, 2, &[&string(&number(0)), &[0; 8], &number(100)]),
        packet(packet::STAT, 3, &[&old]),
        packet(packet::OPENDIR, 4, &[&sub]),
    ];
    let kinds: Vec<u8> = replies_of(true, &reading, 64).unwrap().iter().map(|it| it.0).collect();
    assert_eq!(kinds, [102, 103, 105, 102], "handle, data, attributes, handle");
}
