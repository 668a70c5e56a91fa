//! How a packet ends that goes through the chains of a firewall.
//!
//! Every rule is compared with the packet beforehand (`nft.rs`, `iptables.rs`), so that what is left here is the way from rule to
//! rule. Of some rules nobody but the kernel knows whether they fit: of rates, marks, and sets. Then both ways count, and
//! a firewall counts as closed only if the packet is dropped on each of them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dwell_core::workload::Protocol;

/// A port that no service has.
pub(super) const SOURCE_PORT: u16 = 49_152;
/// How deep chains may be nested; the kernel takes 16.
const DEPTH_MAX: usize = 32;

/// The first packet of a connection, or one that is not tracked, of which there is no first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) from: Ipv4Addr,
    pub(super) to: Ipv4Addr,
    /// The interface that it comes in by; empty if it is not known.
    pub(super) enters: String,
    /// Where it goes.
    pub(super) leaves: Leaves,
    pub(super) protocol: Protocol,
    /// The port that it is for; it comes from [`SOURCE_PORT`].
    pub(super) port: u16,
    pub(super) state: State,
}

/// What the kernel knows of a packet's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    New,
    /// It is not tracked.
    Untracked,
}

impl State {
    /// As rules name it; iptables does so in capitals.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Untracked => "untracked",
        }
    }
}

#[cfg(test)]
impl Packet {
    /// An instance's question for a name, or one like it that is forwarded.
    pub(super) fn question(leaves: Leaves) -> Self {
        Self {
            from: Ipv4Addr::new(10, 80, 1, 1),
            to: Ipv4Addr::new(169, 254, 1, 1),
            enters: "dw-0".to_owned(),
            leaves,
            protocol: Protocol::Udp,
            port: 53,
            state: State::New,
        }
    }
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    /// It is for this host.
    Never,
    /// It is forwarded by this interface; empty if it is not known.
    By(String),
}

/// Whether a packet is what a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fits {
    Yes,
    No,
    /// Nobody but the kernel knows.
    Perhaps,
}

impl From<bool> for Fits {
    fn from(fits: bool) -> Self {
        if fits { Self::Yes } else { Self::No }
    }
}

impl Fits {
    /// Whether both fit.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Perhaps,
        }
    }

    /// The opposite if `is_negated`.
    pub(super) fn unless(self, is_negated: bool) -> Self {
        match (self, is_negated) {
            (Self::Yes, true) => Self::No,
            (Self::No, true) => Self::Yes,
            (same, _) => same,
        }
    }

    /// Whether a packet's interface has this name, which may end in `wildcard`.
    pub(super) fn interface(name: &str, pattern: &str, wildcard: char) -> Self {
        match pattern.strip_suffix(wildcard) {
            _ if name.is_empty() => Self::Perhaps,
            Some(start) => name.starts_with(start).into(),
            None => (name == pattern).into(),
        }
    }
}

/// What a rule does with a packet that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// Something that does not end its way, such as counting.
    Next,
    /// Something that is not known here; the packet may well pass.
    Unknown,
}

/// A rule, compared with the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) fits: Fits,
    pub(super) target: Target,
}

/// The rules of each chain.
pub(super) type Chains = BTreeMap<String, Vec<Step>>;

/// How a packet may end, if it is not dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) accepted: bool,
    /// It comes back to where it came from; of a base chain, its policy decides.
    pub(super) returned: bool,
}

impl Ends {
    const ACCEPTED: Self = Self { accepted: true, returned: false };
    const DROPPED: Self = Self { accepted: false, returned: false };
    const RETURNED: Self = Self { accepted: false, returned: true };

    fn or(self, other: Self) -> Self {
        Self {
            accepted: self.accepted || other.accepted,
            returned: self.returned || other.returned,
        }
    }
}

/// How a packet may end that enters the chain `base`.
pub(super) fn walk(chains: &Chains, base: &str) -> Ends {
    Walk { chains, known: BTreeMap::new() }.through(base, 0)
}

struct Walk<'a> {
    chains: &'a Chains,
    /// Chains that were gone through. What comes of a packet in one does not depend on the way to it.
    known: BTreeMap<&'a str, Ends>,
}

impl<'a> Walk<'a> {
    fn through(&mut self, chain: &str, depth: usize) -> Ends {
        let Some((name, steps)) = self.chains.get_key_value(chain) else { return Ends::RETURNED };
        if let Some(known) = self.known.get(name.as_str()) {
            return *known;
        }
        if depth == DEPTH_MAX {
            return Ends::ACCEPTED.or(Ends::RETURNED);
        }
        let ends = self.steps(steps, depth);
        self.known.insert(name, ends);
        ends
    }

    fn steps(&mut self, steps: &'a [Step], depth: usize) -> Ends {
        let mut all = Ends::default();
        for Step { fits, target } in steps.iter().filter(|step| step.fits != Fits::No) {
            let (ends, goes_on) = match target {
                Target::Accept => (Ends::ACCEPTED, false),
                Target::Drop => (Ends::DROPPED, false),
                Target::Return => (Ends::RETURNED, false),
                Target::Jump(chain) => {
                    let ends = self.through(chain, depth + 1);
                    (Ends { returned: false, ..ends }, ends.returned)
                }
                Target::Goto(chain) => (self.through(chain, depth + 1), false),
                Target::Next => (Ends::default(), true),
                Target::Unknown => (Ends::ACCEPTED, true),
            };
            all = all.or(ends);
            if *fits == Fits::Yes && !goes_on {
                return all;
            }
        }
        all.or(Ends::RETURNED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(fits: Fits, target: Target) -> Step {
        Step { fits, target }
    }

    /// Whether it may be accepted, and whether it may come to the policy.
    fn ends(base: Vec<Step>, inner: Vec<Step>) -> (bool, bool) {
        let chains = [("base".to_owned(), base), ("inner".to_owned(), inner)].into();
        let Ends { accepted, returned } = walk(&chains, "base");
        (accepted, returned)
    }

    #[test]
    fn a_packet_ends_where_the_kernel_would_end_it() {
        use Fits::{No, Perhaps, Yes};
        use Target::{Accept, Drop, Next, Return, Unknown};
        let jump = || Target::Jump("inner".to_owned());
        let goto = || Target::Goto("inner".to_owned());
        let reject = || step(Yes, Drop);
        for (base, inner, expected) in [
            (vec![], vec![], (false, true)),
            (vec![step(No, Accept), reject()], vec![], (false, false)),
            (vec![step(Yes, Next), step(Yes, Accept), reject()], vec![], (true, false)),
            (vec![step(Perhaps, Accept), reject()], vec![], (true, false)),
            (vec![step(Perhaps, Drop)], vec![], (false, true)),
            (vec![step(Yes, Unknown), reject()], vec![], (true, false)),
            (vec![step(Yes, jump()), reject()], vec![step(Yes, Accept)], (true, false)),
            (vec![step(Yes, jump()), reject()], vec![step(Yes, Return)], (false, false)),
            (vec![step(Yes, jump()), step(Yes, Accept)], vec![step(No, Drop)], (true, false)),
            (vec![step(Yes, jump()), step(Yes, Accept)], vec![step(Yes, Drop)], (false, false)),
            (vec![step(Yes, goto()), reject()], vec![step(No, Accept)], (false, true)),
            (vec![step(No, goto()), reject()], vec![step(Yes, Accept)], (false, false)),
            (vec![step(Yes, Target::Jump("gone".to_owned())), reject()], vec![], (false, false)),
            // The kernel takes no loop; whoever reads one must not hang.
            (vec![step(Yes, jump()), reject()], vec![step(Yes, jump())], (true, false)),
        ] {
            assert_eq!(ends(base.clone(), inner.clone()), expected, "{base:?} {inner:?}");
        }
    }

    #[test]
    fn what_nobody_knows_stays_unknown() {
        assert_eq!(Fits::Perhaps.unless(true), Fits::Perhaps);
        assert_eq!(Fits::Perhaps.and(Fits::Yes), Fits::Perhaps);
        assert_eq!(Fits::Perhaps.and(Fits::No), Fits::No);
        assert_eq!(Fits::interface("", "eth0", '*'), Fits::Perhaps);
        assert_eq!(Fits::interface("dw-0", "dw-*", '*'), Fits::Yes);
        assert_eq!(Fits::interface("dw-0", "dw-+", '*'), Fits::No);
    }
}
