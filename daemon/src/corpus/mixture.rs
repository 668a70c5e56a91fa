//! Inputs made of kept ones: parts of two put together, bytes changed, repeated, left out and put in. The same ones each time.

/// How long an input may become, in bytes.
const LENGTH_MAX: usize = 16 * 1024;
/// How many changes one input has at most.
const CHANGES_MAX: usize = 6;
/// Bytes that mean something to many parsers: ends, quotes, separators, the least and the greatest of numbers.
const TELLING: &[u8] = b"\0\n\r\t \"'\\/.,:;=-+{}[]()#%&*@09azAZ\x01\x7f\x80\xc0\xf0\xfe\xff";

/// A row of inputs that a name begins.
pub(super) struct Mixture {
    state: u64,
}

impl Mixture {
    pub(super) fn new(name: &str) -> Self {
        // FNV-1a.
        let state = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { state }
    }

    /// The next one, of these, of which there is one at least.
    pub(super) fn next(&mut self, kept: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.one_of(kept).clone();
        for _ in 0..=self.below(CHANGES_MAX) {
            self.change(&mut input, kept);
        }
        input.truncate(LENGTH_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, kept: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(7) {
            0 => input.truncate(at),
            1 => {
                let end = at + self.below(input.len() - at + 1).min(32);
                input.drain(at..end);
            }
            2 => {
                let end = at + self.below(input.len() - at + 1).min(256);
                let again = input[at..end].to_vec();
                let times = 1 + self.below(8);
                input.splice(at..at, again.repeat(times));
            }
            3 => {
                let other = self.one_of(kept);
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            4 => {
                let byte = *self.one_of(TELLING);
                let times = 1 + self.below(4);
                input.splice(at..at, vec![byte; times]);
            }
            5 if at < input.len() => input[at] = *self.one_of(TELLING),
            _ if at < input.len() => input[at] ^= 1 << self.below(8),
            _ => {}
        }
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// A number below `end`, which is not 0. That some are a little more likely does not matter.
    fn below(&mut self, end: usize) -> usize {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % u64::try_from(end).unwrap_or(1)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixtures_differ_and_are_the_same_each_time() {
        let kept = [b"listen: 0.0.0.0:7400".to_vec(), b"{\"a\":1}".to_vec(), Vec::new()];
        let made = |name: &str| {
            let mut mixture = Mixture::new(name);
            (0..1000).map(|_| mixture.next(&kept)).collect::<Vec<_>>()
        };
        let first = made("dns");
        assert_eq!(first, made("dns"));
        assert_ne!(first, made("yaml"));
        let different: std::collections::BTreeSet<_> = first.iter().collect();
        assert!(different.len() > 500, "{}", different.len());
        assert!(first.iter().all(|one| one.len() <= LENGTH_MAX));
        let is_mixed = |one: &&Vec<u8>| one.starts_with(b"listen") && one.ends_with(b"}");
        assert!(first.iter().any(|one| is_mixed(&one)));
    }
}
