//! What a declaration may say that agents of an earlier version do not know of.
//!
//! Such an agent would run the instance as if that were not said, so it is given none. Each skill is a flag of an agent's
//! [`Hello`](crate::session::Hello).

use std::fmt;

/// Something that an agent may know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skill {
    /// How processes are held: [`Process`](crate::workload::Process).
    Process,
    /// Machines, and which process 1 they have: [`Machine`](crate::workload::Machine), [`Init`](crate::workload::Init).
    Machine,
    /// What Compose files ask of a node beside: `sysctls`, `cap_add`, `devices`, `dns_search` and `dns_options` of a
    /// [`Process`](crate::workload::Process).
    Compose,
}

/// A set of [`Skill`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skills {
    /// Whether [`Skill::Process`] is among them.
    pub process: bool,
    /// Whether [`Skill::Machine`] is among them.
    pub machine: bool,
    /// Whether [`Skill::Compose`] is among them.
    pub compose: bool,
}

impl Skills {
    /// All that there are.
    pub const ALL: Self = Self { process: true, machine: true, compose: true };

    /// The first of those needed that is not among these.
    #[must_use]
    pub fn lacking(self, needed: Self) -> Option<Skill> {
        if needed.machine && !self.machine {
            Some(Skill::Machine)
        } else if needed.compose && !self.compose {
            Some(Skill::Compose)
        } else if needed.process && !self.process {
            Some(Skill::Process)
        } else {
            None
        }
    }
}

impl fmt::Display for Skill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Process => "init, read_only, tmpfs, ulimits and their like",
            Self::Machine => "machines and their init",
            Self::Compose => "sysctls, cap_add, devices, dns_search and dns_opt",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_needed_and_not_there() {
        let process = Skills { process: true, ..Skills::default() };
        let compose = Skills { compose: true, ..process };
        assert_eq!(Skills::ALL.lacking(Skills::ALL), None);
        assert_eq!(process.lacking(process), None);
        assert_eq!(process.lacking(Skills::ALL), Some(Skill::Machine));
        assert_eq!(process.lacking(compose), Some(Skill::Compose));
        assert_eq!(Skills::default().lacking(process), Some(Skill::Process));
    }
}
