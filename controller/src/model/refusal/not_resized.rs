//! Why an instance is not given other limits.

use dwell_core::id::{InstanceName, NodeName};
use dwell_core::workload::Resources;

/// Why an instance is not given other limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotResized {
    /// It goes from node to node.
    #[error(
        "{0} is on its way to another node; wait until it is there, which `dwell ps {0}` shows"
    )]
    OnItsWay(InstanceName),
    /// It is between two versions, or has just been moved or resized.
    #[error(
        "{0} is being changed; wait until that holds or is put back, which `dwell ps {0}` shows"
    )]
    Changing(InstanceName),
    /// Nobody knows what its node has.
    #[error(
        "{node} is not heard of, so nobody knows what room there is for {instance}; smaller limits can be given, larger ones when \
         `dwell node ls` shows it ready"
    )]
    NotHeard {
        /// Which one.
        instance: InstanceName,
        /// Where it is.
        node: NodeName,
    },
    /// Its node has not so much left.
    #[error("{node} lacks {} for {instance}; {}", parts(.lacks), next(.instance, .elsewhere.as_ref()))]
    NoRoom {
        /// Which one.
        instance: InstanceName,
        /// Where it is.
        node: NodeName,
        /// How much is missing there.
        lacks: Resources,
        /// Another node that has it.
        elsewhere: Option<NodeName>,
    },
}

fn parts(lacks: &Resources) -> String {
    let cpu = (lacks.cpu.0 > 0).then(|| format!("cpu {}", lacks.cpu));
    let memory = (lacks.memory.0 > 0).then(|| format!("memory {}", lacks.memory));
    cpu.into_iter().chain(memory).collect::<Vec<_>>().join(" and ")
}

fn next(instance: &InstanceName, elsewhere: Option<&NodeName>) -> String {
    match elsewhere {
        Some(node) => {
            format!("{node} has it: `dwell move {instance} --to {node}`, and then this again")
        }
        None => format!(
            "no other node can take it as it would be; make room there, for example with `dwell move` of its neighbours, which \
             `dwell ps` shows, or ask for less for {instance}"
        ),
    }
}
