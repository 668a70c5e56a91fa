use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, mknodat, setxattr};
use tempfile::TempDir;

use super::tree::{Tree, digest_of, has_content, open_root, walk_whole};
use super::*;

/// One side's end, and how many bytes of content were sent.
type Outcome = (Result<(), CopyError>, Result<(), CopyError>, u64);

/// Copies on two threads, as two nodes would; `spoil` may change what is on its way.
fn copy_with(
    from: &Path,
    to: &Path,
    is_final: bool,
    mut spoil: impl FnMut(&mut Part) -> bool,
) -> Outcome {
    let (sending, mut sent) = mpsc::channel(WAITING_MAX);
    let (forward, inbox) = mpsc::channel(WAITING_MAX);
    let (back, held) = mpsc::channel(WAITING_MAX);
    let (from, to) = (from.to_owned(), to.to_owned());
    let digests = Digests::default();
    let sender = thread::spawn(move || {
        let digests = Digests::default();
        send::send(&from, &digests, is_final, held, &sending)
    });
    let receiver = thread::spawn(move || receive::receive(&to, &digests, is_final, inbox, &back));
    let mut bytes = 0;
    while let Some(mut part) = sent.blocking_recv() {
        if let Part::Data(data) = &part {
            bytes += data.data.len() as u64;
        }
        let goes_on = spoil(&mut part);
        if !goes_on || forward.blocking_send(part).is_err() {
            break;
        }
    }
    drop((sent, forward));
    (sender.join().unwrap(), receiver.join().unwrap(), bytes)
}

fn copy(from: &Path, to: &Path, is_final: bool) -> u64 {
    let (sent, received, bytes) = copy_with(from, to, is_final, |_| true);
    received.unwrap();
    assert!(matches!(sent, Ok(()) | Err(CopyError::Gone)), "{sent:?}");
    bytes
}

fn seen(root: &Path) -> Tree {
    walk_whole(&open_root(root).unwrap(), &Digests::default(), |_| Ok(())).unwrap()
}

fn is_same(one: &Path, other: &Path) -> bool {
    digest_of(&seen(one).files) == digest_of(&seen(other).files)
}

fn two() -> (TempDir, TempDir) {
    (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap())
}

/// Something that happens to a tree.
#[derive(Clone, Debug)]
enum Deed {
    File { at: usize, size: u64, seed: u8 },
    Sparse { at: usize, hole: u64 },
    Directory { at: usize },
    Symlink { at: usize, to: String },
    Fifo { at: usize },
    Link { at: usize, to: usize },
    Mode { at: usize, mode: u32 },
    Attribute { at: usize, value: u8 },
    Owner { at: usize, uid: u32 },
    Remove { at: usize },
}

const PLACES: [&str; 8] = ["a", "b", "d", "d/a", "d/e", "d/e/f", "z", "z/a\nb"];

fn deed() -> impl Strategy<Value = Deed> {
    let at = || 0..PLACES.len();
    let sizes = prop_oneof![Just(0), Just(1), Just(65_536), Just(65_537), Just(200_000)];
    prop_oneof![
        4 => (at(), sizes, any::<u8>()).prop_map(|(at, size, seed)| Deed::File { at, size, seed }),
        1 => (at(), 0..3_000_000_u64).prop_map(|(at, hole)| Deed::Sparse { at, hole }),
        3 => at().prop_map(|at| Deed::Directory { at }),
        1 => (at(), "[a-z/.]{1,8}").prop_map(|(at, to)| Deed::Symlink { at, to }),
        1 => at().prop_map(|at| Deed::Fifo { at }),
        2 => (at(), at()).prop_map(|(at, to)| Deed::Link { at, to }),
        1 => (at(), 0..0o7777_u32).prop_map(|(at, mode)| Deed::Mode { at, mode: mode | 0o400 }),
        1 => (at(), any::<u8>()).prop_map(|(at, value)| Deed::Attribute { at, value }),
        1 => (at(), 0..70_000_u32).prop_map(|(at, uid)| Deed::Owner { at, uid }),
        1 => at().prop_map(|at| Deed::Remove { at }),
    ]
}

/// Opens a file for writing, without waiting for whoever reads it if it is a pipe.
fn create(path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(flags).open(path)
}

/// Does it, if it can be done as things are.
fn befall(root: &Path, deed: &Deed) {
    let place = |at: &usize| root.join(PLACES[*at]);
    match deed {
        Deed::File { at, size, seed } => {
            let content: Vec<u8> = (0..*size).map(|at| (at as u8).wrapping_mul(*seed)).collect();
            if let Ok(mut file) = create(&place(at)) {
                // What was opened may be a pipe that nobody reads.
                file.write_all(&content).ok();
            }
        }
        Deed::Sparse { at, hole } => {
            if let Ok(file) = create(&place(at)) {
                file.set_len(*hole).ok();
                std::os::unix::fs::FileExt::write_all_at(&file, b"end", *hole).ok();
            }
        }
        Deed::Directory { at } => drop(fs::create_dir(place(at))),
        Deed::Symlink { at, to } => drop(symlink(to, place(at))),
        Deed::Fifo { at } => {
            mknodat(CWD, place(at), FileType::Fifo, Mode::RUSR, 0).ok();
        }
        Deed::Link { at, to } => drop(fs::hard_link(place(to), place(at))),
        Deed::Mode { at, mode } => {
            if !place(at).is_symlink() {
                // Also what is not root's to read is copied by root.
                let mode = if place(at).is_dir() { mode | 0o700 } else { *mode };
                fs::set_permissions(place(at), fs::Permissions::from_mode(mode)).ok();
            }
        }
        Deed::Attribute { at, value } => {
            setxattr(place(at), c"user.of", &[*value], XattrFlags::empty()).ok();
        }
        Deed::Owner { at, uid } => {
            // Nobody but root may.
            std::os::unix::fs::lchown(place(at), Some(*uid), Some(*uid)).ok();
        }
        Deed::Remove { at } => {
            fs::remove_file(place(at)).or_else(|_| fs::remove_dir_all(place(at))).ok();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever was there and whatever it has become: the copy is the same, and the next pass sends nothing.
    #[test]
    fn a_copy_is_the_same(
        before in prop::collection::vec(deed(), 0..20),
        after in prop::collection::vec(deed(), 0..20),
    ) {
        let (from, to) = two();
        before.iter().for_each(|deed| befall(from.path(), deed));
        copy(from.path(), to.path(), true);
        prop_assert!(is_same(from.path(), to.path()));
        after.iter().for_each(|deed| befall(from.path(), deed));
        copy(from.path(), to.path(), true);
        prop_assert!(is_same(from.path(), to.path()));
        prop_assert_eq!(copy(from.path(), to.path(), true), 0);
    }
}

#[test]
fn only_what_has_changed_is_sent_and_holes_stay_holes() {
    let (from, to) = two();
    fs::write(from.path().join("large"), vec![1; 1 << 20]).unwrap();
    let sparse = fs::File::create(from.path().join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    assert_eq!(copy(from.path(), to.path(), false), 1 << 20);
    fs::write(from.path().join("new"), vec![2; 1000]).unwrap();
    assert_eq!(copy(from.path(), to.path(), true), 1000);
    assert!(is_same(from.path(), to.path()));
    assert!(seen(to.path()).bytes < 8 << 20);
}

#[test]
fn what_comes_otherwise_than_it_was_sent_is_no_copy() {
    let (from, to) = two();
    fs::write(from.path().join("file"), vec![1; 100_000]).unwrap();
    let (_, received, _) = copy_with(from.path(), to.path(), true, |part| {
        if let Part::Data(data) = part {
            data.data = vec![3; data.data.len()].into();
        }
        true
    });
    assert!(matches!(received, Err(CopyError::Io { .. })), "{received:?}");
    // What one pass left behind is no harm to the next.
    copy(from.path(), to.path(), true);
    assert!(is_same(from.path(), to.path()));
}

#[test]
fn a_copy_that_breaks_off_is_gone_on_with() {
    let (from, to) = two();
    for name in 0..20 {
        fs::write(from.path().join(format!("f{name}")), vec![1; 100_000]).unwrap();
    }
    let mut left = 21;
    let (_, received, first) = copy_with(from.path(), to.path(), true, |_| {
        left -= 1;
        left > 0
    });
    assert!(matches!(received, Err(CopyError::Gone)), "{received:?}");
    let second = copy(from.path(), to.path(), true);
    assert!(first > 0 && second < 2_000_000, "{first} {second}");
    assert!(is_same(from.path(), to.path()));
}

/// A sender is another node, which may be in other hands.
#[test]
fn no_path_leads_out_of_the_copy() {
    for path in ["../out", "a/../../out", "/out", "", "a//b", "link/out"] {
        let (from, to) = two();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), from.path().join("link")).unwrap();
        fs::write(from.path().join("file"), "content").unwrap();
        let (_, received, _) = copy_with(from.path(), to.path(), true, |part| {
            if let Part::File(file) = part
                && has_content(file)
            {
                file.path = path.as_bytes().to_vec().into();
            }
            true
        });
        assert!(received.is_err(), "{path}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{path}");
        let parent: PathBuf = to.path().parent().unwrap().join("out");
        assert!(!parent.exists(), "{path}");
    }
}

#[test]
fn what_has_no_room_is_refused_before_anything_is_written() {
    let (from, to) = two();
    fs::write(from.path().join("file"), "content").unwrap();
    let (_, received, _) = copy_with(from.path(), to.path(), false, |part| {
        if let Part::Total(total) = part {
            total.bytes = 1 << 60;
        }
        true
    });
    assert!(matches!(received, Err(CopyError::NoRoom { .. })), "{received:?}");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
}
