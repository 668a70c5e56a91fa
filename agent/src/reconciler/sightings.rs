//! What SSH needs to know of the instances and no status tells: their sandboxes and main processes.
//!
//! The owner tells [`Sights`] of every look at a container, which is when process ids are fresh, and publishes after
//! every plan. Nothing is published while the engine does not answer: what was seen last may well still be true, and
//! a process is known by more than its id.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::ssh::SshContainer;
use dwell_planner::{ContainerId, EngineState, Observed, Sandbox, Seen};
use tokio::sync::watch;

use crate::death;
use crate::engine::{Container, ContainerState};

/// What was seen of every instance of which something is on the node, or is to be.
pub type Sightings = BTreeMap<InstanceName, Sighting>;

/// What was seen of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// Whether its sandbox is there; `None` while nobody is sure.
    pub sandbox: Option<bool>,
    /// Whether its image brings an SSH server; `None` while there is no container to tell it by.
    pub own_ssh: Option<bool>,
    /// The container that runs.
    pub container: Option<Arc<SshContainer>>,
}

/// What was seen, and who is told.
pub(super) struct Sights {
    containers: BTreeMap<ContainerId, Details>,
    published: watch::Sender<Option<Arc<Sightings>>>,
}

/// What a look at a container told.
struct Details {
    own_ssh: bool,
    started_at: Option<Timestamp>,
    running: Option<Arc<SshContainer>>,
}

impl Sights {
    pub(super) fn new() -> (Self, watch::Receiver<Option<Arc<Sightings>>>) {
        let (published, receiver) = watch::channel(None);
        (Self { containers: BTreeMap::new(), published }, receiver)
    }

    /// A container was looked at.
    pub(super) fn attend(&mut self, container: &Container) {
        let details = container.details.unwrap_or_default();
        let is_running = container.state == ContainerState::Running;
        let pid = details.pid.filter(|_| is_running);
        let known = self.containers.remove(&container.id).filter(|known| {
            known.started_at == details.started_at
                && known.running.as_ref().map(|running| running.pid) == pid
        });
        let details = known.unwrap_or_else(|| Details {
            own_ssh: details.own_ssh,
            started_at: details.started_at,
            running: pid.and_then(|pid| {
                // One that has ended in the meantime is looked at again soon.
                let start_ticks = death::start_ticks(pid, &container.id).ok()?;
                let id = container.id.as_str().to_owned();
                Some(Arc::new(SshContainer { id, pid, start_ticks }))
            }),
        });
        self.containers.insert(container.id.clone(), details);
    }

    /// Publishes what has changed.
    pub(super) fn publish(&mut self, observed: &Observed) {
        let there = observed.instances.values().flat_map(|seen| &seen.containers);
        let there: HashSet<_> = there.map(|container| &container.id).collect();
        self.containers.retain(|id, _| there.contains(id));
        if observed.engine != EngineState::Ready {
            return;
        }
        let now = || observed.instances.iter().map(|(name, seen)| (name, self.sighting(seen)));
        let is_same = self.published.borrow().as_ref().is_some_and(|before| {
            before.len() == observed.instances.len()
                && before.iter().zip(now()).all(|(before, (name, now))| before == (name, &now))
        });
        if !is_same {
            let sightings = now().map(|(name, sighting)| (name.clone(), sighting)).collect();
            self.published.send_replace(Some(Arc::new(sightings)));
        }
    }

    fn sighting(&self, seen: &Seen) -> Sighting {
        let known = || seen.containers.iter().filter_map(|one| self.containers.get(&one.id));
        let mut running = seen.containers.iter().filter(|container| container.is_running());
        Sighting {
            sandbox: match seen.sandbox {
                Sandbox::Absent => Some(false),
                Sandbox::Doubtful => None,
                Sandbox::Ready => Some(true),
            },
            own_ssh: known().map(|details| details.own_ssh).reduce(|a, b| a || b),
            container: running.find_map(|one| self.containers.get(&one.id)?.running.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use dwell_core::id::Generation;
    use dwell_core::workload::Fingerprint;

    use super::*;

    /// A look at a container whose main process is this test: its control group stands in for the id.
    fn look(pid: u32, started_at: u64) -> Container {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        Container {
            id: ContainerId(groups.lines().next().unwrap().to_owned()),
            instance: "web-0".parse().unwrap(),
            generation: Generation(1),
            fingerprint: Fingerprint(String::new()),
            state: ContainerState::Running,
            restarts_asked: 0,
            details: Some(crate::engine::Details {
                pid: Some(pid),
                started_at: Some(Timestamp(started_at)),
                ..crate::engine::Details::default()
            }),
        }
    }

    #[test]
    fn a_process_is_believed_if_it_is_of_the_container() {
        let (mut sights, _) = Sights::new();
        let own = look(std::process::id(), 1);
        let running = |sights: &Sights| sights.containers[&own.id].running.clone();
        sights.attend(&own);
        let first = running(&sights).unwrap();
        let ticks = death::start_ticks(first.pid, &own.id).unwrap();
        assert_eq!((first.pid, first.start_ticks), (std::process::id(), ticks));

        // The same run is not looked into again, and init is of no container.
        sights.attend(&own);
        assert!(Arc::ptr_eq(&first, &running(&sights).unwrap()));
        let mut foreign = look(1, 2);
        foreign.id = ContainerId("0123456789abcdef".to_owned());
        sights.attend(&foreign);
        assert_eq!(sights.containers[&foreign.id].running, None);
        sights.attend(&Container { state: ContainerState::Exited, ..own.clone() });
        assert_eq!(running(&sights), None);
        sights.publish(&Observed::default());
        assert!(sights.containers.is_empty());
    }
}
