//! Inputs that are kept of each parser, for the tests of whoever has one: `fuzz/corpus/TARGET/`, at the root of the repository.
//!
//! A target is what must hold of a parser for any bytes at all. The fuzz programs look for bytes for which it does not; here every
//! input that is kept goes through it, with each of its beginnings and with each byte changed, so that what was
//! found once is never there again.
#![expect(clippy::expect_used, clippy::panic, reason = "it is for tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each byte of an input is changed in these bits in turn.
const CHANGES: [u8; 3] = [0x01, 0x80, 0xff];
/// How much of an input is cut and changed, in bytes.
const CHANGED_MAX: usize = 512;

/// A target, with its name.
pub type Target = (&'static str, fn(&[u8]));

/// Puts all that is kept of each target through it.
///
/// # Panics
/// If it does not hold, or nothing is kept.
pub fn replay(targets: &[Target]) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (target, holds) in targets {
        let directory = corpus.join(target);
        let kept =
            fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
        let mut count = 0;
        for file in kept {
            let path = file.expect("an entry").path();
            let whole = fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            let mut told = Told { path, change: "as it is".to_owned() };
            holds(&whole);
            for at in 0..whole.len().min(CHANGED_MAX) {
                told.change = format!("cut to {at} bytes");
                holds(&whole[..at]);
                for bits in CHANGES {
                    told.change = format!("byte {at} changed by {bits:#x}");
                    let mut changed = whole.clone();
                    changed[at] ^= bits;
                    holds(&changed);
                }
            }
            count += 1;
        }
        assert!(count > 0, "nothing is kept of {target}");
    }
}

/// Says which input it was when a target panics.
struct Told {
    path: PathBuf,
    change: String,
}

impl Drop for Told {
    #[expect(clippy::print_stderr, reason = "it is for tests")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("by {:?}, {}", self.path, self.change);
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
