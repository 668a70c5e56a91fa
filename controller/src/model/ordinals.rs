//! Which instances a workload has, by their ordinals.
//!
//! There are as many as were declared. They are 0, 1, 2 and so on, unless somebody took a chosen one away: then the others keep
//! their names, and the next one that is made fills the gap. What is too much goes from the end. The names of
//! those that were let go are not given again while they are there.

use std::collections::{BTreeMap, BTreeSet};

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, ORDINAL_MAX, WorkloadName};
use dwell_core::instance::Counted;
use dwell_core::workload::WorkloadSpec;

use super::command::{Target, check_named};
use super::object::{Severity, Subject, Workload};
use super::{Model, Refusal};

impl Model {
    /// The ordinals of the instances that a workload is to have.
    pub(super) fn ordinals(&self, workload: &Workload) -> BTreeSet<u32> {
        if workload.spec.placement.one_per_node {
            return self.ordinals_of_nodes(&workload.spec);
        }
        let wanted = usize::try_from(workload.spec.replicas).unwrap_or(usize::MAX);
        let mut ordinals = self.living_ordinals(&workload.spec.name).cloned().unwrap_or_default();
        while ordinals.len() > wanted {
            ordinals.pop_last();
        }
        let is_free = |ordinal: &u32| {
            let let_go = self.tables.index().let_go.get(&workload.spec.name);
            !let_go.is_some_and(|let_go| let_go.contains(ordinal))
        };
        for lowest in (0..=ORDINAL_MAX).filter(is_free) {
            if ordinals.len() >= wanted {
                break;
            }
            ordinals.insert(lowest);
        }
        ordinals
    }

    /// Whether a workload is to have an instance that it has no more.
    pub(super) fn lacks(&self, workload: &Workload, name: &InstanceName) -> bool {
        if workload.spec.placement.one_per_node {
            return self.ordinals_of_nodes(&workload.spec).contains(&name.ordinal());
        }
        let living = self.living_ordinals(&workload.spec.name);
        let count = |living: usize| u32::try_from(living).unwrap_or(u32::MAX);
        let there = count(living.map_or(0, BTreeSet::len));
        let missing = workload.spec.replicas.saturating_sub(there);
        // The lowest free ones are filled first.
        missing > 0 && {
            let let_go = self.tables.index().let_go.get(&workload.spec.name);
            let taken = living.into_iter().chain(let_go);
            let below = taken.map(|taken| taken.range(..name.ordinal()).count()).sum();
            name.ordinal().saturating_sub(count(below)) < missing
        }
    }

    fn living_ordinals(&self, workload: &WorkloadName) -> Option<&BTreeSet<u32>> {
        self.tables.index().living.get(workload)
    }

    /// Takes chosen instances away, all or none. The others keep their names.
    pub(super) fn remove_instances(
        &mut self,
        names: &BTreeSet<InstanceName>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        check_named(names.len())?;
        let mut by_workload: BTreeMap<&WorkloadName, Vec<&InstanceName>> = BTreeMap::new();
        for name in names {
            let instance = self.tables.instances().get(name).cloned();
            if let Some(instance) = instance.filter(|instance| instance.is_let_go()) {
                self.remove_let_go(&instance)?;
                continue;
            }
            self.targets(&Target::Instance(name.clone()))?;
            by_workload.entry(name.workload()).or_default().push(name);
        }
        for (workload, names) in by_workload {
            let old = self.living(workload)?;
            if old.spec.placement.one_per_node {
                return Err(Refusal::CountedByNodes(workload.clone()));
            }
            let gone = u32::try_from(names.len()).unwrap_or(u32::MAX);
            let replicas = old.spec.replicas.saturating_sub(gone);
            let spec = WorkloadSpec { replicas, ..old.spec.clone() };
            self.put_workload(Workload { spec, ..Workload::clone(&old) });
            for name in &names {
                self.remove_instance(name, now);
            }
            let stay = Counted(usize::try_from(replicas).unwrap_or(usize::MAX));
            let message = match names.as_slice() {
                [one] => format!("{one} is taken away; {stay} left"),
                several => format!("{} are taken away; {stay} left", Counted(several.len())),
            };
            let subject = Subject::Workload(workload.clone());
            self.event(now, Severity::Info, subject, "workload-changed", message);
        }
        Ok(())
    }
}
