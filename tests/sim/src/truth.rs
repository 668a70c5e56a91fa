//! The books of the simulation: what really runs and where, and what is in the newest volume of each instance.
//! Neither the controller nor an agent can see them; they are what both are measured against.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use dwell_core::container::ContainerId;
use dwell_core::id::InstanceName;

use crate::schedule::Ms;

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant, by its name in `docs/simulation.md`.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// A main process that runs.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) host: usize,
    pub(crate) container: ContainerId,
    pub(crate) address: Ipv4Addr,
    /// An operator has vouched that it does not run, and was wrong.
    pub(crate) excused: bool,
}

/// A volume that was copied, and that its instance may have to come back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    pub(crate) host: usize,
    pub(crate) content: u64,
    /// The instance does not hold with the copy, and may come back.
    pub(crate) returns: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) running: BTreeMap<InstanceName, Vec<Running>>,
    /// Where the newest volume of an instance is, and what is in it.
    pub(crate) volumes: BTreeMap<InstanceName, (usize, u64)>,
    /// What instances had where they were before they came up with a copy of it elsewhere, until they hold there.
    pub(crate) left: BTreeMap<InstanceName, Left>,
    /// When a main process of an instance last ran on a host, for those that do not run.
    pub(crate) last_ran: BTreeMap<(usize, InstanceName), Ms>,
}

impl Truth {
    /// A main process starts.
    pub(crate) fn started(&mut self, name: &InstanceName, new: Running) {
        self.running.entry(name.clone()).or_default().push(new);
    }

    /// Whether something runs twice, or two instances at one address, where both are reached: `is_shut` says whether a host
    /// lets nobody reach a container of an instance.
    pub(crate) fn twins(
        &self,
        is_shut: impl Fn(usize, &InstanceName, &ContainerId) -> bool,
    ) -> Result<(), Violation> {
        let mut addresses: BTreeMap<Ipv4Addr, &InstanceName> = BTreeMap::new();
        for (name, all) in &self.running {
            let is_reached =
                |one: &&Running| !one.excused && !is_shut(one.host, name, &one.container);
            let mut reached = all.iter().filter(is_reached);
            let Some(first) = reached.next() else { continue };
            if let Some(twin) = reached.next() {
                return Err(Violation {
                    rule: "one of each",
                    what: format!(
                        "{name} runs on host {} as {} and on host {} as {}",
                        twin.host, twin.container, first.host, first.container
                    ),
                });
            }
            if let Some(other) = addresses.insert(first.address, name) {
                return Err(Violation {
                    rule: "no address twice",
                    what: format!("{name} and {other} run at {}", first.address),
                });
            }
        }
        Ok(())
    }

    /// A main process has ended.
    pub(crate) fn ended(&mut self, name: &InstanceName, host: usize, id: &ContainerId, now: Ms) {
        self.last_ran.insert((host, name.clone()), now);
        if let Some(all) = self.running.get_mut(name) {
            all.retain(|one| one.host != host || one.container != *id);
            if all.is_empty() {
                self.running.remove(name);
            }
        }
    }

    /// An instance comes up with a volume in which `content` is, and writes to it.
    pub(crate) fn opened(
        &mut self,
        name: &InstanceName,
        host: usize,
        content: u64,
    ) -> Result<u64, Violation> {
        let left = self.left.get(name).copied();
        let returns =
            left.is_some_and(|left| left.returns && left.host == host && left.content == content);
        if returns {
            self.left.remove(name);
        } else if let Some(&(other, newest)) = self.volumes.get(name)
            && newest == content
            && other != host
        {
            self.left.insert(name.clone(), Left { host: other, content, returns: false });
        } else if let Some(&(other, newest)) = self.volumes.get(name)
            && newest > content
        {
            return Err(Violation {
                rule: "no empty or older volume",
                what: format!(
                    "{name} comes up on host {host} with a volume at {content}; the one on host {other} is at {newest}"
                ),
            });
        }
        self.volumes.insert(name.clone(), (host, content + 1));
        Ok(content + 1)
    }

    /// A host is given up for dead, with what is in its volumes.
    pub(crate) fn give_up(&mut self, host: usize) {
        self.volumes.retain(|_, (on, _)| *on != host);
        self.left.retain(|_, left| left.host != host);
        self.excuse(host, true);
    }

    /// What runs on a host is on the operators' account, or not any more.
    pub(crate) fn excuse(&mut self, host: usize, excused: bool) {
        for one in self.running.values_mut().flatten().filter(|one| one.host == host) {
            one.excused = excused;
        }
    }
}
