//! The versions that a store shows: instances have only their numbers there, and a store of an earlier version of dwell
//! has none at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use dwell_core::id::VersionNumber;
use dwell_core::workload::Template;

use super::{Form, Version, VersionState};
use crate::model::Model;
use crate::model::object::{Instance, UpdateState, Workload};
use crate::model::record::Record;

impl Model {
    /// Puts what versions say where instances only have numbers, and makes the versions of a store that was written
    /// before there were any. Returns the instances as they are then.
    pub(in crate::model) fn resolve_versions(
        &mut self,
        instances: Vec<Arc<Instance>>,
    ) -> Vec<Arc<Instance>> {
        let mut unstored = self.found_versions(&instances);
        let mut resolved = Vec::with_capacity(instances.len());
        for instance in instances {
            let name = instance.name.workload();
            let known = self.tables.versions().get(name);
            let is_of_old = instance.wanted.number == VersionNumber(0);
            let form = |form: &Arc<Form>| {
                let mut versions = known.into_iter().flat_map(BTreeMap::values);
                let found = if is_of_old {
                    versions.rfind(|version| version.form.template == form.template)
                } else {
                    known.and_then(|known| known.get(&form.number))
                };
                // Of a store that lost a version, what is known of the instance is that it is some version.
                found.map_or_else(|| Arc::clone(form), |version| Arc::clone(&version.form))
            };
            let wanted = form(&instance.wanted);
            let fallback = instance.fallback.as_ref().map(form);
            let unseen = instance.unseen.as_ref().map(form);
            let state = known.and_then(|known| known.get(&wanted.number)).map(|found| &found.state);
            let has_held = instance.update != UpdateState::Updating
                && !matches!(state, Some(VersionState::RuledOut { .. }));
            let serving =
                if is_of_old { has_held.then_some(wanted.number) } else { instance.serving };
            let next = Arc::new(Instance {
                wanted,
                fallback,
                unseen,
                serving,
                ..Instance::clone(&instance)
            });
            if is_of_old {
                unstored.push(Record::Instance(Arc::clone(&next)));
            }
            resolved.push(next);
        }
        self.unstored = unstored;
        resolved
    }

    /// The versions of workloads that have none, as their instances show them; they are to be stored.
    fn found_versions(&mut self, instances: &[Arc<Instance>]) -> Vec<Record> {
        let mut found = Vec::new();
        let workloads: Vec<Arc<Workload>> = self.tables.workloads().values().cloned().collect();
        for workload in workloads {
            let name = &workload.spec.name;
            if self.tables.versions().contains_key(name) {
                continue;
            }
            let of_it = || instances.iter().filter(|instance| instance.name.workload() == name);
            let mut templates: Vec<&Template> = Vec::new();
            for instance in of_it() {
                let template = &instance.wanted.template;
                if *template != workload.spec.template && !templates.contains(&template) {
                    templates.push(template);
                }
            }
            let is_whole = of_it().next().is_some()
                && templates.is_empty()
                && of_it().all(|instance| instance.update == UpdateState::Current);
            let newest = match &workload.paused {
                Some(pause) => VersionState::RuledOut { reason: pause.to_string() },
                None if is_whole => VersionState::Good,
                None => VersionState::RollingOut,
            };
            let states = templates.iter().map(|_| VersionState::Good).chain([newest]);
            let templates = templates.iter().copied().chain([&workload.spec.template]);
            let (mut number, mut good) = (VersionNumber(0), None);
            for (template, state) in templates.zip(states) {
                number = number.next();
                if state == VersionState::Good {
                    good = Some(number);
                }
                found.push(Record::Version(Arc::new(Version {
                    workload: name.clone(),
                    form: Arc::new(Form { number, template: template.clone() }),
                    at: workload.created_at,
                    by: String::new(),
                    state,
                    promoted: false,
                    image_digest: None,
                    fetched: false,
                    forced: false,
                    failures: 0,
                    declared: workload.revision,
                    revision: workload.revision,
                })));
            }
            let workload = Workload { good, ..Workload::clone(&workload) };
            found.push(Record::Workload(Arc::new(workload)));
        }
        for record in &found {
            self.tables.put(record.clone());
        }
        found
    }

    /// Has the store take in what was made from a store of an earlier version of dwell.
    pub(in crate::model) fn store_versions(&mut self) {
        for record in std::mem::take(&mut self.unstored) {
            self.put(record);
        }
    }
}
