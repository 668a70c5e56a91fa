//! What SSH needs to know of the instances and no status tells: their sandboxes and main processes.
//!
//! The core says which process a run has; a process id alone may be another's by the time it is used, so that what
//! is published has the start of the process beside it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dwell_agent_core::{Run, Sights};
use dwell_core::container::ContainerId;
use dwell_core::sandbox::SandboxId;
use dwell_core::ssh::SshContainer;
use tokio::sync::watch;

use dwell_engine::death;

/// What was seen of every instance of which something is on the node, or is to be, by its sandboxes.
pub type Sightings = BTreeMap<SandboxId, Sighting>;

/// What was seen of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// Whether it is there; `None` while nobody is sure.
    pub sandbox: Option<bool>,
    /// Whether its image brings an SSH server; `None` while there is no container to tell it by.
    pub own_ssh: Option<bool>,
    /// The container that runs.
    pub container: Option<Arc<SshContainer>>,
}

/// Who is told what was seen.
pub(super) struct Publisher {
    /// The runs that were looked into, and their processes.
    runs: HashMap<ContainerId, (Run, Option<Arc<SshContainer>>)>,
    published: watch::Sender<Option<Arc<Sightings>>>,
}

impl Publisher {
    pub(super) fn new() -> (Self, watch::Receiver<Option<Arc<Sightings>>>) {
        let (published, receiver) = watch::channel(None);
        (Self { runs: HashMap::new(), published }, receiver)
    }

    /// Publishes what was seen, if it says something new.
    pub(super) fn publish(&mut self, sights: &Sights) {
        let mut before = std::mem::take(&mut self.runs);
        let sighting = |sighted: &dwell_agent_core::Sighted| Sighting {
            sandbox: sighted.sandbox,
            own_ssh: sighted.own_ssh,
            container: sighted.run.as_ref().and_then(|run| {
                let known = before.remove(&run.container).filter(|(known, _)| known == run);
                let (_, process) = known.unwrap_or_else(|| (run.clone(), process_of(run)));
                self.runs.insert(run.container.clone(), (run.clone(), process.clone()));
                process
            }),
        };
        let seen: Vec<Sighting> = sights.values().map(sighting).collect();
        let sightings: Sightings = sights.keys().cloned().zip(seen).collect();
        if self.published.borrow().as_deref() != Some(&sightings) {
            self.published.send_replace(Some(Arc::new(sightings)));
        }
    }
}

/// The main process of a run; `None` for one that has ended meanwhile, which is noticed soon.
fn process_of(run: &Run) -> Option<Arc<SshContainer>> {
    let pid = run.pid?;
    let start_ticks = death::start_ticks(pid, &run.container).ok()?;
    let id = run.container.as_str().to_owned();
    Some(Arc::new(SshContainer { id, pid, start_ticks }))
}

#[cfg(test)]
mod tests {
    use dwell_agent_core::Sighted;
    use dwell_core::clock::Timestamp;

    use super::*;

    /// A sight of a container whose main process is this test: its control group stands in for the id.
    fn sight(pid: u32, started_at: u64) -> Sights {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let container = ContainerId(groups.lines().next().unwrap().to_owned());
        let run = Run { container, started_at: Timestamp(started_at), pid: Some(pid) };
        [("web-0".parse().unwrap(), Sighted { run: Some(run), ..Sighted::default() })].into()
    }

    #[test]
    fn a_process_is_believed_if_it_is_of_the_container() {
        let (mut publisher, published) = Publisher::new();
        let running = || {
            let all = published.borrow().clone().unwrap();
            all.values().next().unwrap().container.clone()
        };
        let own = sight(std::process::id(), 1);
        publisher.publish(&own);
        let first = running().unwrap();
        let run = own.values().next().unwrap().run.clone().unwrap();
        let ticks = death::start_ticks(first.pid, &run.container).unwrap();
        assert_eq!((first.pid, first.start_ticks), (std::process::id(), ticks));

        // The same run is not looked into again, and init is of no container.
        let mut doubtful = own.clone();
        doubtful.values_mut().for_each(|sighted| sighted.sandbox = Some(true));
        publisher.publish(&doubtful);
        assert!(Arc::ptr_eq(&first, &running().unwrap()));
        let mut foreign = sight(1, 2);
        for sighted in foreign.values_mut() {
            sighted.run.as_mut().unwrap().container = ContainerId("0123456789abcdef".to_owned());
        }
        publisher.publish(&foreign);
        assert_eq!(running(), None);
        publisher.publish(&Sights::default());
        assert!(publisher.runs.is_empty());
    }
}
