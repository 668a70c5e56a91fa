//! What will come of a plan: where its instances will be, what they wait for, how long they are down.

use std::collections::BTreeMap;
use std::path::Path;

use dwell_core::change::{self, ChangeClass};
use dwell_core::id::{InstanceName, NodeName};
use dwell_core::instance::RunState;
use dwell_core::node::Capacity;
use dwell_core::workload::{Template, WorkloadSpec};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{InstanceAction, InstancePlan, PlanAction, WorkloadPlan, words};
use crate::model::Model;
use crate::model::object::{Demand, Instance, Workload};

/// How many different obstacles of a workload are told.
const OBSTACLES_MAX: usize = 5;

/// What makes a plan what it is: if any of it were otherwise, something else would be done.
#[derive(Serialize)]
struct Essence<'a> {
    spec: &'a WorkloadSpec,
    run: RunState,
    generation: u64,
    action: &'static str,
    instances: Vec<Part<'a>>,
}

#[derive(Serialize)]
struct Part<'a> {
    instance: &'a InstanceName,
    action: String,
    node: Option<&'a NodeName>,
    to: Option<&'a NodeName>,
    waits: bool,
}

impl Model {
    /// Notes, once everything is settled, what will come of plans.
    pub(in crate::model) fn foresee(&self, plans: &mut [WorkloadPlan]) {
        let mut asked: BTreeMap<Demand, Vec<(usize, usize)>> = BTreeMap::new();
        for (number, plan) in plans.iter_mut().enumerate() {
            let Some(workload) = self.tables.workloads().get(&plan.workload) else { continue };
            for (index, planned) in plan.instances.iter_mut().enumerate() {
                let Some(instance) = self.tables.instances().get(&planned.instance) else {
                    continue;
                };
                if self.look_ahead(workload, instance, planned) {
                    let demand = self.demand(workload, instance);
                    asked.entry(demand).or_default().push((number, index));
                }
            }
        }
        self.ask_for_places(plans, &asked);
        for plan in plans {
            let Some(workload) = self.tables.workloads().get(&plan.workload) else { continue };
            plan.downtime = words::downtime(workload, plan);
            plan.losses = words::losses(workload, plan);
            plan.notes.extend(words::deadline_note(workload, plan));
            plan.notes.extend(self.kept_image_note(workload));
            self.note_obstacles(workload, plan);
            plan.digest = digest(workload, plan);
        }
    }

    /// Notes what is known of one instance. Returns whether the scheduler has to be asked where it will go, since its turn
    /// has not come.
    fn look_ahead(
        &self,
        workload: &Workload,
        instance: &Instance,
        planned: &mut InstancePlan,
    ) -> bool {
        planned.node.clone_from(&instance.node);
        planned.carries = !workload.spec.template.carry.is_empty();
        planned.keeps_root = instance.root.is_kept_by(&workload.spec.template);
        let class = match planned.action {
            InstanceAction::Remove => return false,
            InstanceAction::Create if instance.removing => {
                "the present one of that name has to be gone first".clone_into(&mut planned.waits);
                return false;
            }
            InstanceAction::Create => {
                // It has just been placed, if it was.
                planned.to = planned.node.take();
                ChangeClass::None
            }
            InstanceAction::Change(_) | InstanceAction::Run(_) => {
                let there = instance.arrives_on().or_else(|| instance.assigned_to());
                planned.to = there.cloned();
                match planned.action {
                    InstanceAction::Change(class) => class,
                    _ => ChangeClass::None,
                }
            }
        };
        if workload.run == RunState::Running && instance.run == RunState::Running {
            planned.downtime = workload.downtimes.expected(class);
        }
        if let Some(waiting) = self.tables.waiting().get(&instance.name) {
            planned.waits = self.why(waiting);
            if class == ChangeClass::Move || instance.node.is_none() {
                planned.to = None;
            }
            return false;
        }
        if let Some(node) = instance.assigned_to().filter(|node| !self.is_ready(node)) {
            planned.waits = format!("{node} is not heard of");
        }
        class == ChangeClass::Move && instance.arrives_on().is_none() && instance.leaving.is_none()
    }

    /// Why an instance is changed as it is, from what it was before.
    pub(in crate::model) fn why_changed(
        &self,
        workload: &Workload,
        before: &Instance,
        class: ChangeClass,
    ) -> String {
        let says = self.newest(&workload.spec.name);
        let fields = says.map(|newest| {
            let sized = |template| before.made_from(template);
            let (is, says) = (sized(&before.wanted.template), sized(&newest.form.template));
            change::changed_fields(&is, &says).join(", ")
        });
        let fields = fields.unwrap_or_default();
        let Some(node) = before.assigned_to().filter(|_| class == ChangeClass::Move) else {
            // What is tried anew differs in nothing from what did not hold.
            return if fields.is_empty() { "is tried anew".to_owned() } else { fields };
        };
        let leaves = match self.tables.nodes().get(node) {
            Some(there) if there.draining => format!("{node} is being drained"),
            Some(_) if self.is_misplaced(workload, node) => {
                format!("its rules do not allow {node}")
            }
            _ => format!("{node} has no room for it"),
        };
        if fields.is_empty() { leaves } else { format!("{fields}; {leaves}") }
    }

    /// Asks the scheduler about all that will have to go elsewhere, together.
    fn ask_for_places(
        &self,
        plans: &mut [WorkloadPlan],
        asked: &BTreeMap<Demand, Vec<(usize, usize)>>,
    ) {
        if asked.is_empty() {
            return;
        }
        let counts = asked.iter().map(|(demand, those)| (demand.clone(), those.len())).collect();
        for (demand, nodes, reason) in self.solve(&counts, None) {
            let mut nodes = nodes.into_iter();
            for &(number, index) in asked.get(&demand).into_iter().flatten() {
                let planned = plans.get_mut(number).and_then(|plan| plan.instances.get_mut(index));
                let Some(planned) = planned else { continue };
                planned.to = nodes.next();
                if planned.to.is_none() && planned.waits.is_empty() {
                    planned.waits = reason.as_ref().map(ToString::to_string).unwrap_or_default();
                }
            }
        }
    }

    /// Notes why instances of a workload have no place, and what no node allows them.
    fn note_obstacles(&self, workload: &Workload, plan: &mut WorkloadPlan) {
        let mut waiting: BTreeMap<String, u32> = BTreeMap::new();
        let foreseen: BTreeMap<_, _> =
            plan.instances.iter().map(|planned| (&planned.instance, &planned.waits)).collect();
        for instance in self.tables.instances_of(&plan.workload) {
            let waits = self.tables.waiting().get(&instance.name);
            let why = match foreseen.get(&instance.name) {
                Some(why) => Some(String::clone(why)),
                None => waits.map(|waits| self.why(waits)),
            };
            if let Some(why) = why.filter(|why| !why.is_empty() && !instance.removing) {
                *waiting.entry(why).or_default() += 1;
            }
        }
        let notes = waiting.into_iter().take(OBSTACLES_MAX).map(|(why, count)| match count {
            1 => format!("1 instance waits: {why}"),
            count => format!("{count} instances wait: {why}"),
        });
        plan.notes.extend(notes);
        let Template { process, .. } = &workload.spec.template;
        let is_beneath = |path: &str, all: &[String]| {
            all.iter().any(|allowed| Path::new(path).starts_with(allowed))
        };
        let binds = workload.spec.template.binds().filter(|path| {
            !self.some_node_allows(|capacity| is_beneath(path, &capacity.allow_binds))
        });
        let binds = binds.map(|path| (format!("to mount its {path}"), "allow_binds"));
        let capabilities = process.granted_capabilities().filter(|name| {
            !self.some_node_allows(|capacity| {
                capacity.allow_capabilities.iter().any(|allowed| allowed == name)
            })
        });
        let capabilities =
            capabilities.map(|name| (format!("its capability {name}"), "allow_capabilities"));
        let devices = process.devices.iter().map(|device| &device.source).filter(|path| {
            !self.some_node_allows(|capacity| is_beneath(path, &capacity.allow_devices))
        });
        let devices = devices.map(|path| (format!("its device {path}"), "allow_devices"));
        let refused = binds.chain(capabilities).chain(devices).take(OBSTACLES_MAX);
        plan.notes.extend(
            refused.map(|(what, key)| format!("no node allows {what}; see `{key}` in agent.yaml")),
        );
    }

    /// Whether some node has told that of what it has.
    fn some_node_allows(&self, what: impl Fn(&Capacity) -> bool) -> bool {
        let mut capacities = self.tables.links().values().filter_map(|link| link.capacity.as_ref());
        capacities.any(|capacity| what(capacity))
    }
}

fn digest(workload: &Workload, plan: &WorkloadPlan) -> String {
    let instances = plan.instances.iter().map(|planned| Part {
        instance: &planned.instance,
        action: planned.action.to_string(),
        node: planned.node.as_ref(),
        to: planned.to.as_ref(),
        waits: !planned.waits.is_empty(),
    });
    let essence = Essence {
        spec: &workload.spec,
        run: workload.run,
        generation: plan.generation.0,
        action: match plan.action {
            PlanAction::Unchanged => "unchanged",
            PlanAction::Create => "create",
            PlanAction::Update => "update",
        },
        instances: instances.collect(),
    };
    let json = serde_json::to_vec(&essence);
    json.map(|json| format!("{:x}", Sha256::digest(json))).unwrap_or_default()
}
