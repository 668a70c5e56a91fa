//! Shares of a node, and the arithmetic on them, which is done here and nowhere else.
//!
//! Nothing here overflows: sums stay at the largest number there is, and differences at zero. A sum
//! that is too large then simply fits nowhere.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::quantity::{Bytes, Millicores};

/// An instance's share of its node, promised and enforced: it counts against the node's capacity and
/// is the container's limit. Zero asks for nothing and limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Processor time, in thousandths of a processor.
    pub cpu: Millicores,
    /// Memory, in bytes.
    pub memory: Bytes,
}

impl Resources {
    /// The sum, part by part.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            cpu: Millicores(self.cpu.0.saturating_add(other.cpu.0)),
            memory: Bytes(self.memory.0.saturating_add(other.memory.0)),
        }
    }

    /// What is left of this after `other` is taken, part by part; no part falls below zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            cpu: Millicores(self.cpu.0.saturating_sub(other.cpu.0)),
            memory: Bytes(self.memory.0.saturating_sub(other.memory.0)),
        }
    }

    /// This share `count` times.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self {
            cpu: Millicores(self.cpu.0.saturating_mul(count)),
            memory: Bytes(self.memory.0.saturating_mul(count)),
        }
    }

    /// The smaller of each part.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self { cpu: self.cpu.min(other.cpu), memory: self.memory.min(other.memory) }
    }

    /// The larger of each part.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory) }
    }

    /// Whether every part of this fits into `room`.
    #[must_use]
    pub fn fits(self, room: Self) -> bool {
        self.cpu <= room.cpu && self.memory <= room.memory
    }

    /// Whether no part asks for anything.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// How much of `whole` this is, in millionths, by the part that is scarcer. A part of nothing
    /// counts as a part of one unit.
    #[must_use]
    pub fn share_of(self, whole: Self) -> u64 {
        let share = |part: u64, whole: u64| {
            let millionths = u128::from(part) * 1_000_000 / u128::from(whole.max(1));
            u64::try_from(millionths).unwrap_or(u64::MAX)
        };
        share(self.cpu.0, whole.cpu.0).min(share(self.memory.0, whole.memory.0))
    }
}

/// How many processes and threads an instance may have if its declaration does not say: more than any usual program has,
/// and less than would take a node's numbers of processes from the others.
pub const PIDS_DEFAULT: u32 = 4096;

/// What a container is held to: its share, and what is bounded though nobody is promised it. Zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Processor time and memory.
    pub share: Resources,
    /// Processes and threads together.
    pub pids: u32,
}

/// Which limits an engine can hold a container to: a kernel may lack a controller for one, and the engine then leaves that
/// one out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforced {
    /// Processor time.
    pub cpu: bool,
    /// Memory.
    pub memory: bool,
    /// Processes and threads.
    pub pids: bool,
}

impl Enforced {
    /// Every limit.
    pub const ALL: Self = Self { cpu: true, memory: true, pids: true };

    /// What comes of limits that are asked for: the others are none.
    #[must_use]
    pub const fn of(self, asked: Limits) -> Limits {
        let Limits { share: Resources { cpu, memory }, pids } = asked;
        Limits {
            share: Resources {
                cpu: if self.cpu { cpu } else { Millicores(0) },
                memory: if self.memory { memory } else { Bytes(0) },
            },
            pids: if self.pids { pids } else { 0 },
        }
    }

    /// What is not limited, for people; `None` if everything is.
    #[must_use]
    pub fn lacking(self) -> Option<String> {
        let parts =
            [(self.cpu, "processor time"), (self.memory, "memory"), (self.pids, "processes")];
        let lacking = parts.iter().filter(|(is_enforced, _)| !is_enforced).map(|(_, name)| *name);
        Some(lacking.collect::<Vec<_>>().join(", ")).filter(|names| !names.is_empty())
    }
}

impl Default for Enforced {
    fn default() -> Self {
        Self::ALL
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |is_limited: bool, limit: &dyn fmt::Display| {
            if is_limited { limit.to_string() } else { "no limit".to_owned() }
        };
        let Self { share: Resources { cpu, memory }, pids } = self;
        let (cpu, memory) = (shown(cpu.0 != 0, cpu), shown(memory.0 != 0, memory));
        write!(f, "cpu {cpu}, memory {memory}, pids {}", shown(*pids != 0, pids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(cpu: u64, memory: u64) -> Resources {
        Resources { cpu: Millicores(cpu), memory: Bytes(memory) }
    }

    #[test]
    fn parts_add_up_and_never_wrap() {
        assert_eq!(resources(1, 20).plus(resources(2, 30)), resources(3, 50));
        assert_eq!(resources(u64::MAX, 1).plus(resources(1, 1)), resources(u64::MAX, 2));
        assert_eq!(resources(5, 10).minus(resources(7, 4)), resources(0, 6));
        assert_eq!(resources(5, u64::MAX).times(3), resources(15, u64::MAX));
        assert_eq!(resources(5, 10).min(resources(7, 4)), resources(5, 4));
        assert_eq!(resources(5, 10).max(resources(7, 4)), resources(7, 10));
    }

    #[test]
    fn what_cannot_be_enforced_is_no_limit_and_is_named() {
        let asked = Limits { share: resources(500, 64), pids: 100 };
        assert_eq!(Enforced::ALL.of(asked), asked);
        assert_eq!(Enforced::ALL.lacking(), None);
        let some = Enforced { memory: false, pids: false, ..Enforced::ALL };
        assert_eq!(some.of(asked), Limits { share: resources(500, 0), pids: 0 });
        assert_eq!(some.lacking().as_deref(), Some("memory, processes"));
    }

    #[test]
    fn each_part_has_to_fit() {
        assert!(resources(1, 2).fits(resources(1, 2)));
        assert!(!resources(2, 2).fits(resources(1, 9)));
        assert!(!resources(1, 3).fits(resources(9, 2)));
        assert!(resources(0, 0).fits(resources(0, 0)) && resources(0, 0).is_zero());
    }

    #[test]
    fn a_share_is_that_of_the_scarcer_part() {
        assert_eq!(resources(500, 900).share_of(resources(1000, 1000)), 500_000);
        assert_eq!(resources(0, 5).share_of(resources(0, 5)), 0);
        assert_eq!(resources(u64::MAX, u64::MAX).share_of(resources(1, 1)), u64::MAX);
    }
}
