//! Inputs that are kept of each parser, for the tests of whoever has one: `fuzz/corpus/TARGET/`, at the root of the repository.
//!
//! A target is what must hold of a parser for any bytes at all. The fuzz programs look for bytes for which it does not, led by what
//! the parser does with them. Here every input that is kept goes through it, with each of its beginnings and with each byte changed, so that
//! what was found once is never there again; and then mixtures of them, at random but the same ones each time.
#![expect(clippy::expect_used, clippy::panic, reason = "it is for tests")]

mod mixture;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::mixture::Mixture;

/// Each byte of an input is changed in these bits in turn.
const CHANGES: [u8; 3] = [0x01, 0x80, 0xff];
/// How much of an input is cut and changed, in bytes.
const CHANGED_MAX: usize = 512;

/// How many mixtures go through each target, and for how long at most: whichever comes first.
const MIXTURES_MAX: u32 = 20_000;
const MIXING_LIMIT: Duration = Duration::from_secs(3);
/// How long one of them may take.
const INPUT_LIMIT: Duration = Duration::from_secs(10);
/// How much of an input is shown that a target does not hold for, in bytes.
const SHOWN_MAX: usize = 4096;

/// A target, with its name.
pub type Target = (&'static str, fn(&[u8]));

/// Puts all that is kept of each target through it, and what is made of that. Says how much it was.
///
/// # Panics
/// If it does not hold, takes too long, or nothing is kept.
pub fn replay(targets: &[Target]) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (target, holds) in targets {
        let directory = corpus.join(target);
        let kept =
            fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
        let paths = kept.map(|file| file.expect("an entry").path());
        let mut paths: Vec<_> = paths.collect();
        // The same order everywhere.
        paths.sort();
        let read = |path: &PathBuf| {
            fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let kept: Vec<Vec<u8>> = paths.iter().map(read).collect();
        assert!(!kept.is_empty(), "nothing is kept of {target}");
        for (path, whole) in paths.iter().zip(&kept) {
            replay_one(*holds, path, whole);
        }
        let count = mix(target, *holds, &kept);
        let text = format!("{target}: {} kept, {count} mixtures\n", kept.len());
        // Not by a macro: a test that succeeds keeps what these print to itself.
        drop(io::stderr().write_all(text.as_bytes()));
    }
}

fn replay_one(holds: fn(&[u8]), path: &Path, whole: &[u8]) {
    let held = |input: &[u8], change: &str| {
        let _told = Told { input, what: format!("{}, {change}", path.display()) };
        holds(input);
    };
    held(whole, "as it is");
    for at in 0..whole.len().min(CHANGED_MAX) {
        held(&whole[..at], "cut");
        for bits in CHANGES {
            let mut changed = whole.to_vec();
            changed[at] ^= bits;
            held(&changed, "changed");
        }
    }
}

/// How many mixtures of what is kept went through.
fn mix(target: &str, holds: fn(&[u8]), kept: &[Vec<u8>]) -> u32 {
    let mut mixture = Mixture::new(target);
    let start = Instant::now();
    for number in 0..MIXTURES_MAX {
        let begun = start.elapsed();
        if begun >= MIXING_LIMIT {
            return number;
        }
        let input = mixture.next(kept);
        let _told = Told { input: &input, what: format!("mixture {number}") };
        holds(&input);
        assert!(start.elapsed() - begun <= INPUT_LIMIT, "it took too long");
    }
    MIXTURES_MAX
}

/// Says which input it was when a target panics.
struct Told<'a> {
    input: &'a [u8],
    what: String,
}

impl Drop for Told<'_> {
    #[expect(clippy::print_stderr, reason = "it is for tests")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let shown = &self.input[..self.input.len().min(SHOWN_MAX)];
            eprintln!("by {}: {}", self.what, shown.escape_ascii());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static SEEN: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

    #[test]
    fn what_is_kept_is_put_through_whole_cut_and_changed() {
        replay(&[("control_groups", |bytes| SEEN.lock().unwrap().push(bytes.to_owned()))]);
        let seen = SEEN.lock().unwrap();
        let whole = &seen[0];
        assert!(seen.contains(&whole[..7].to_vec()));
        assert!(seen.iter().any(|one| one.len() == whole.len() && one[9] == whole[9] ^ 0x80));
    }

    #[test]
    #[should_panic(expected = "no-such-target")]
    fn a_target_of_which_nothing_is_kept_is_none() {
        replay(&[("no-such-target", |_| {})]);
    }
}
