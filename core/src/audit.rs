//! Audits: what the layers of the fleet claim of the same thing, where they disagree, and what to do about it.
//!
//! A layer is somebody who knows: the controller's model, a node's assignment, its engine, its kernel, its files. A
//! [`Finding`] is two claims about one thing that cannot both be true. What is merely on its way is none: whoever audits
//! looks twice, and tells what was found both times.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::id::{NodeName, Position};
use crate::session::{Claim, SeenVolume};

/// The most findings that one node may tell.
pub const FINDINGS_MAX: usize = 1_000;
/// The longest text of a finding, in bytes.
pub const TEXT_MAX: usize = 512;

/// Two claims about one thing that cannot both be true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of disagreement it is.
    pub kind: Kind,
    /// The thing, such as `instance web-0`.
    pub subject: String,
    /// The node it is on; `None` if it is the controller's.
    pub node: Option<NodeName>,
    /// What is claimed, the one that should be right first.
    pub claims: [Statement; 2],
    /// What is to be done, or was.
    pub remedy: Remedy,
}

/// What a layer claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// Who claims it.
    pub by: Layer,
    /// What, for people.
    pub says: String,
}

/// What becomes of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// An audit that repairs puts it right.
    Repair,
    /// It was put right.
    Repaired,
    /// A person has to decide: the next step, for people.
    Person(String),
}

impl Finding {
    /// Whether two findings are about the same disagreement, whatever became of it.
    #[must_use]
    pub fn is_about_the_same(&self, other: &Self) -> bool {
        (self.kind, &self.subject, &self.node) == (other.kind, &other.subject, &other.node)
    }
}

/// What a node says when it is audited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAudit {
    /// What disagrees on the node itself; at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// The assignment that it has.
    pub held: Position,
    /// The instances of that assignment.
    pub assigned: Vec<Claim>,
    /// The instances of which a container runs; `None` if the engine does not answer.
    pub running: Option<Vec<Claim>>,
    /// The volumes that are there; `None` if the engine does not answer.
    pub volumes: Option<Vec<SeenVolume>>,
}

/// Makes an enum whose members have a stable word each.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $what:literal { $($(#[$doc:meta])* $member:ident => $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$doc])* $member,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$member),*];

            /// The word for programs, which does not change.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$member => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                let known = Self::ALL.iter().find(|one| one.word() == word);
                known.copied().ok_or(UnknownWord { what: $what })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.word())
            }
        }
    };
}

/// A word that this version does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no {what} that this version knows; use one version of dwell everywhere")]
pub struct UnknownWord {
    what: &'static str,
}

words! {
    /// Who claims something.
    Layer, "layer" {
        /// The controller's model.
        Controller => "controller",
        /// What the node is told to run.
        Assignment => "assignment",
        /// What the node's agent reports.
        Agent => "agent",
        /// The files of the node's agent.
        Files => "files",
        /// The node's container engine.
        Engine => "engine",
        /// The node's kernel.
        Kernel => "kernel",
    }
}

words! {
    /// The kinds of disagreements.
    Kind, "kind of finding" {
        /// A node could not be asked.
        NodeSilent => "node-silent",
        /// A node's engine could not be asked.
        EngineSilent => "engine-silent",
        /// The controller counts other resources as promised than it promised.
        Ledger => "ledger",
        /// Two instances have one address.
        AddressTwice => "address-twice",
        /// An instance runs on several nodes.
        InstanceTwice => "instance-twice",
        /// A node holds an instance that is not its own.
        InstanceElsewhere => "instance-elsewhere",
        /// A node does not hold an instance that is its own.
        InstanceMissing => "instance-missing",
        /// A node holds an instance as it was, not as it is.
        InstanceOutdated => "instance-outdated",
        /// A volume that was there is not any more.
        VolumeMissing => "volume-missing",
        /// A node has a volume that the controller does not know.
        VolumeUnknown => "volume-unknown",
        /// What the node is to run is not on its disk.
        AssignmentUnstored => "assignment-unstored",
        /// An instance that runs, by the agent, has no container that does.
        ContainerMissing => "container-missing",
        /// A container runs although its instance is to be stopped.
        ContainerRuns => "container-runs",
        /// Several containers of an instance run.
        ContainerTwice => "container-twice",
        /// The container is made from another declaration.
        ContainerOutdated => "container-outdated",
        /// A container of an instance that nobody knows.
        ContainerUnowned => "container-unowned",
        /// A container that was let go, of an instance that the assignment does not have.
        ContainerLetGo => "container-let-go",
        /// Somebody else's container bears the cluster's label.
        ContainerForeign => "container-foreign",
        /// The engine has other limits than are declared.
        LimitsEngine => "limits-engine",
        /// The kernel enforces other limits than the engine has.
        LimitsKernel => "limits-kernel",
        /// The engine takes a container for running whose process has ended.
        ProcessGone => "process-gone",
        /// The main process is outside of its sandbox.
        ProcessOutside => "process-outside",
        /// A running instance has no sandbox.
        SandboxMissing => "sandbox-missing",
        /// A sandbox of an instance that nobody knows.
        SandboxUnowned => "sandbox-unowned",
        /// A sandbox has another address than its instance.
        SandboxAddress => "sandbox-address",
        /// A sandbox is not connected.
        SandboxLink => "sandbox-link",
        /// The host does not lead an instance's address to its sandbox.
        SandboxRoute => "sandbox-route",
        /// A sandbox may not send from its address, or from others as well.
        SandboxSource => "sandbox-source",
        /// Who may reach an instance is not as it is declared.
        Isolation => "isolation",
        /// An interface, route or permission to send that belongs to no sandbox.
        NetworkUnowned => "network-unowned",
        /// A route to another node is not as declared.
        Route => "route",
        /// The runtime would not find the sandbox of a container at its next start.
        Mapping => "mapping",
        /// A file of a container that is gone.
        FileUnowned => "file-unowned",
        /// A journal of an instance that nobody knows.
        JournalUnowned => "journal-unowned",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_word_is_one_and_is_read_back() {
        let words: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(words.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(*kind));
        }
        for layer in Layer::ALL {
            assert_eq!(layer.to_string().parse(), Ok(*layer));
        }
        let error = "nonsense".parse::<Kind>().unwrap_err();
        assert!(error.to_string().contains("no kind of finding"), "{error}");
    }
}
