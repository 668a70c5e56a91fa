//! The runs of containers: which are watched, which have ended by the kernel's word, and of which something may be
//! left.

use dwell_core::container::ContainerId;
use std::collections::{BTreeMap, BTreeSet};

use dwell_core::clock::Timestamp;
use dwell_core::health::HealthCheck;
use dwell_core::id::InstanceName;
use dwell_core::sandbox::{SandboxId, Slot};
use dwell_planner::{Check, Desired, Observed, Seen};

use crate::call::{Output, Probed, Watch};
use crate::sights::{Run, Sighted};
use dwell_core::container::{Container, ContainerState, Details};
use dwell_planner::Sandbox;

/// What is known of the runs of all containers.
#[derive(Default)]
pub(super) struct Watches {
    /// What the last look at each container told.
    details: BTreeMap<ContainerId, Details>,
    /// Runs whose process has ended by the kernel: which, and when that was told.
    ended: BTreeMap<ContainerId, (Timestamp, Timestamp)>,
    /// Containers of which no process can be left: never started, or seen to end by the kernel.
    clean: BTreeSet<ContainerId>,
    /// Instances of which nothing runs but what the engine lists: that was made sure of, and none of their containers has
    /// gone since without its end having been seen.
    settled: BTreeSet<InstanceName>,
    watched: BTreeMap<ContainerId, Watch>,
}

impl Watches {
    /// A container was looked at.
    pub(super) fn attend(&mut self, container: &Container) {
        let details = container.details.unwrap_or_default();
        let is_running = container.state == ContainerState::Running;
        let started_at = details.started_at;
        if let Some((run, _)) = self.ended.get(&container.id) {
            let is_same = started_at == Some(*run);
            if is_same && !is_running {
                self.clean.insert(container.id.clone());
            }
            if !is_same || !is_running {
                self.ended.remove(&container.id);
            }
        }
        if is_running && !self.ended.contains_key(&container.id) {
            self.clean.remove(&container.id);
        }
        self.details.insert(container.id.clone(), details);
    }

    /// The kernel says that a run has ended.
    pub(super) fn end(&mut self, container: &ContainerId, started_at: Timestamp, now: Timestamp) {
        self.ended.entry(container.clone()).or_insert((started_at, now));
    }

    /// When the run ended that the engine takes to be under way, if the kernel said so.
    pub(super) fn ended(&self, container: &Container) -> Option<Timestamp> {
        let started_at = container.details.and_then(|details| details.started_at)?;
        let (run, at) = self.ended.get(&container.id)?;
        (container.state == ContainerState::Running && *run == started_at).then_some(*at)
    }

    /// Whether the kernel said that the last known run of a container has ended.
    pub(super) fn has_ended(&self, container: &ContainerId) -> bool {
        self.ended.contains_key(container)
    }

    /// A container was made.
    pub(super) fn made(&mut self, container: &ContainerId) {
        self.clean.insert(container.clone());
    }

    /// The containers of an instance of which a process may be left although they do not run, if one of them is
    /// about to be started. One that runs in another sandbox is to go on beside it.
    pub(super) fn remains(&mut self, seen: &Seen, started: &ContainerId) -> BTreeSet<ContainerId> {
        let remains = self.not_clean(seen, started);
        self.clean.remove(started);
        remains
    }

    /// The same, if files are about to be carried over into that one.
    pub(super) fn not_clean(&self, seen: &Seen, started: &ContainerId) -> BTreeSet<ContainerId> {
        let slot = seen.container(started).map(|container| container.slot);
        let is_beside =
            |one: &&dwell_planner::Container| one.is_running() && Some(one.slot) != slot;
        let all = seen.containers.iter().filter(|one| !is_beside(one)).map(|one| &one.id);
        all.filter(|id| !self.clean.contains(*id)).cloned().collect()
    }

    /// The engine does not list these containers of an instance any more. It need not be because they have ended: it may
    /// show another store, and their processes run on.
    pub(super) fn miss(
        &mut self,
        name: &InstanceName,
        mut gone: impl Iterator<Item = ContainerId>,
    ) {
        if gone.any(|id| !self.clean.contains(&id)) {
            self.settled.remove(name);
        }
    }

    /// Nothing runs of an instance but what the engine lists.
    pub(super) fn settle(&mut self, name: &InstanceName) {
        self.settled.insert(name.clone());
    }

    /// Whether that is sure.
    pub(super) fn is_settled(&self, name: &InstanceName) -> bool {
        self.settled.contains(name)
    }

    /// Makes the watches fit what runs and what is desired: no watch of a run that is over, and every run probed
    /// by the present health check.
    pub(super) fn sync(
        &mut self,
        desired: &Desired,
        observed: &Observed,
        outputs: &mut Vec<Output>,
    ) {
        let mut there = BTreeSet::new();
        let mut running = BTreeSet::new();
        for (name, seen) in &observed.instances {
            let assigned = desired.get(name).map(|target| &target.assigned);
            let probed = |check: Check| {
                let assigned = assigned?;
                Some((check, assigned.address, check.of(&assigned.template)?))
            };
            let probed: Vec<_> = Check::ALL.into_iter().filter_map(probed).collect();
            for container in &seen.containers {
                there.insert(container.id.clone());
                let (true, Some(started_at)) = (container.is_running(), container.run()) else {
                    continue;
                };
                running.insert(container.id.clone());
                let pid = self.details.get(&container.id).and_then(|details| details.pid);
                let is_same = self.watched.get(&container.id).is_some_and(|watch| {
                    // The sandbox is the container's for as long as it exists.
                    let is_probed = |(of, address, check): &(Check, _, &HealthCheck)| {
                        let present = watch.probed.get(of);
                        present.is_some_and(|one| one.address == *address && one.check == **check)
                    };
                    watch.run.started_at == started_at
                        && watch.run.pid == pid
                        && watch.probed.len() == probed.len()
                        && probed.iter().all(is_probed)
                });
                if is_same {
                    continue;
                }
                let probed = probed.iter().map(|&(of, address, check)| {
                    (of, Probed { address, slot: container.slot, check: check.clone() })
                });
                let probed = probed.collect();
                let run = Run { container: container.id.clone(), started_at, pid };
                let watch = Watch { instance: name.clone(), run, since: container.since, probed };
                self.watched.insert(container.id.clone(), watch.clone());
                outputs.push(Output::Watch(watch));
            }
        }
        self.watched.retain(|id, _| {
            let stays = running.contains(id);
            if !stays {
                outputs.push(Output::Unwatch(id.clone()));
            }
            stays
        });
        self.details.retain(|id, _| there.contains(id));
        self.ended.retain(|id, _| there.contains(id));
        self.clean.retain(|id| there.contains(id));
        self.settled.retain(|name| observed.instances.contains_key(name));
    }

    /// What SSH needs to know of an instance's sandboxes.
    pub(super) fn sights(
        &self,
        name: &InstanceName,
        seen: &Seen,
    ) -> impl Iterator<Item = (SandboxId, Sighted)> {
        let is_used = |slot: &Slot| {
            slot.is_usual()
                || seen.sandboxes.of(*slot) != Sandbox::Absent
                || seen.containers.iter().any(|one| one.slot == *slot)
        };
        let id = |slot| SandboxId { instance: name.clone(), slot };
        Slot::ALL.into_iter().filter(is_used).map(move |slot| (id(slot), self.sighted(seen, slot)))
    }

    fn sighted(&self, seen: &Seen, slot: Slot) -> Sighted {
        let inside = || seen.containers.iter().filter(move |one| one.slot == slot);
        let known = || inside().filter_map(|one| self.details.get(&one.id));
        let running = inside().find(|container| container.is_running());
        Sighted {
            sandbox: match seen.sandboxes.of(slot) {
                Sandbox::Absent => Some(false),
                Sandbox::Doubtful => None,
                Sandbox::Ready | Sandbox::Beside => Some(true),
            },
            own_ssh: known().map(|details| details.own_ssh).reduce(|a, b| a || b),
            run: running.and_then(|container| {
                Some(Run {
                    container: container.id.clone(),
                    started_at: container.run()?,
                    pid: self.details.get(&container.id)?.pid,
                })
            }),
        }
    }
}
