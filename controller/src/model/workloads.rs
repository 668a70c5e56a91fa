//! Declaring, scaling and removing workloads.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::change::ChangeClass;
use dwell_core::clock::Timestamp;
use dwell_core::id::{Generation, InstanceName, WorkloadName};
use dwell_core::instance::{Custody, RunState};
use dwell_core::workload::{REPLICAS_MAX, WorkloadSpec};

use super::command::{DECLARED_MAX, Target, WORKLOADS_MAX};
use super::downtime::Downtimes;
use super::jobs::{InstanceTask, JobRun};
use super::machines::Root;
use super::object::{Instance, Leaving, Severity, Subject, UpdateState, Workload};
use super::plan::{self, InstanceAction, InstancePlan, PlanAction, WorkloadPlan};
use super::record::{Key, Record};
use super::refusal::NotLetGo;
use super::sizes::OwnSize;
use super::versions::{Form, Pause, VersionState};
use super::{Model, Refusal};

impl Model {
    /// Declares workloads, and says what that changes.
    pub(super) fn apply_workloads(
        &mut self,
        specs: Vec<WorkloadSpec>,
        keep_replicas: &BTreeSet<WorkloadName>,
        by: &str,
        now: Timestamp,
    ) -> Result<Vec<WorkloadPlan>, Refusal> {
        if specs.len() > WORKLOADS_MAX {
            return Err(Refusal::TooManyWorkloads(specs.len()));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = specs.iter().find(|spec| !names.insert(&spec.name)) {
            return Err(Refusal::DuplicateWorkload(twice.name.clone()));
        }
        let with_replicas = |spec: WorkloadSpec| {
            // One that is being removed is made anew: its number belongs to its past.
            let kept = keep_replicas.contains(&spec.name).then(|| self.living(&spec.name).ok());
            let replicas = kept.flatten().map_or(spec.replicas, |old| old.spec.replicas);
            WorkloadSpec { replicas, ..spec }
        };
        let specs: Vec<WorkloadSpec> = specs.into_iter().map(with_replicas).collect();
        self.check_size(&specs)?;
        self.check_total(specs.iter().map(|spec| (&spec.name, spec.replicas)))?;
        specs.into_iter().map(|spec| self.declare(spec, true, by, now)).collect()
    }

    /// Refuses a declaration that could touch more instances than its answer can name, before any is made.
    fn check_size(&self, specs: &[WorkloadSpec]) -> Result<(), Refusal> {
        let named = |spec: &WorkloadSpec| {
            let old = self.tables.workloads().get(&spec.name);
            let replicas = old.map_or(0, |old| old.spec.replicas).max(spec.replicas);
            // One that wants more than a workload may have is refused for that.
            u64::from(replicas.min(REPLICAS_MAX))
        };
        match specs.iter().map(named).sum() {
            sum if sum > u64::from(DECLARED_MAX) => Err(Refusal::TooManyDeclared(sum)),
            _ => Ok(()),
        }
    }

    /// Refuses numbers of instances that would be too many together with all others, before any is made.
    pub(super) fn check_total<'a>(
        &self,
        wanted: impl Iterator<Item = (&'a WorkloadName, u32)>,
    ) -> Result<(), Refusal> {
        let count = |workload: &Workload| {
            if workload.removing { 0 } else { u64::from(workload.spec.replicas) }
        };
        let workloads = self.tables.workloads();
        let declared: u64 = workloads.values().map(|workload| count(workload)).sum();
        let (mut more, mut fewer) = (0, 0);
        for (name, replicas) in wanted {
            // One that wants more than a workload may have is refused for that.
            more += u64::from(replicas.min(REPLICAS_MAX));
            fewer += workloads.get(name).map_or(0, |workload| count(workload));
        }
        let (wanted, max) = (declared - fewer + more, self.settings.instances_max);
        if more > fewer && wanted > u64::from(max) {
            return Err(Refusal::TooManyInstances { wanted, declared, max });
        }
        Ok(())
    }

    pub(super) fn scale_all(
        &mut self,
        workloads: &[(WorkloadName, u32)],
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if workloads.len() > WORKLOADS_MAX {
            return Err(Refusal::TooManyWorkloads(workloads.len()));
        }
        let mut names = BTreeSet::new();
        if let Some((twice, _)) = workloads.iter().find(|(name, _)| !names.insert(name)) {
            return Err(Refusal::ScaledTwice(twice.clone()));
        }
        self.check_total(workloads.iter().map(|(name, replicas)| (name, *replicas)))?;
        workloads.iter().try_for_each(|(name, replicas)| self.rescale(name, *replicas, now))
    }

    pub(super) fn scale(
        &mut self,
        name: &WorkloadName,
        replicas: u32,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.scale_all(&[(name.clone(), replicas)], now)
    }

    fn rescale(
        &mut self,
        name: &WorkloadName,
        replicas: u32,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let spec = WorkloadSpec { replicas, ..self.living(name)?.spec.clone() };
        if spec.placement.one_per_node {
            return Err(Refusal::CountedByNodes(name.clone()));
        }
        self.declare(spec, false, "", now).map(drop)
    }

    /// Makes the instances what a specification says. With `retry`, a version that was ruled out is tried anew.
    pub(super) fn declare(
        &mut self,
        spec: WorkloadSpec,
        retry: bool,
        by: &str,
        now: Timestamp,
    ) -> Result<WorkloadPlan, Refusal> {
        let name = spec.name.clone();
        let spec = self.counted_by_nodes(spec);
        spec.check().map_err(|source| Refusal::Spec { workload: name.clone(), source })?;
        self.check_on_lost(&spec)?;
        let old = self.tables.workloads().get(&name).cloned();
        Self::check_kind(old.as_deref(), &spec)?;
        Self::check_schedule(old.as_deref(), &spec)?;
        self.tables.instances_of(&name).try_for_each(|one| Self::check_has_place(one))?;
        let fields = old.as_ref().map_or_else(Vec::new, |old| plan::changed_fields(old, &spec));
        let is_stuck = |old: &Workload| {
            matches!(old.paused, Some(Pause::BadVersion(_)))
                || self.newest(&name).is_some_and(|one| one.state == VersionState::Incomplete)
        };
        let retries = retry && old.as_deref().is_some_and(is_stuck);
        let action = match &old {
            None => PlanAction::Create,
            Some(old) if fields.is_empty() && !old.removing && !retries => {
                return Ok(plan::unchanged(old));
            }
            Some(_) => PlanAction::Update,
        };
        let newest = self.newest(&name);
        let says_otherwise = newest.is_none_or(|newest| newest.form.template != spec.template);
        if says_otherwise || retries {
            self.declare_version(&spec, by, now);
        }
        let mut workload = next_workload(old.as_deref(), spec, retries, now);
        if matches!(workload.paused, Some(Pause::Canary { .. })) && !self.has_canaries(&workload) {
            // More are wanted than before, or none.
            workload.paused = None;
        }
        if let Some(old) = &old {
            self.loosen_fences(old, &workload.spec);
        }
        self.put_workload(workload.clone());
        let turned = workload.run != old.map_or(RunState::Running, |old| old.run);
        if turned {
            self.note_turned(Subject::Workload(name.clone()), workload.run, now);
        }
        let changes = self.reconcile(&workload, turned, now)?;
        let mut plan = plan::describe(&workload, action, fields, changes);
        if let Some(pause @ Pause::Asked { .. }) = &workload.paused {
            plan.notes.push(format!("no instance is given it yet: {pause}"));
        }
        plan.notes.extend(self.job_note(&workload));
        if plan.changed_fields.contains(&"resources") {
            plan.notes.extend(self.own_sizes_note(&workload));
        }
        if let Some(canaries) = self.canaries(&workload) {
            plan.notes.push(format!(
                "{} it first; `dwell promote {name}` gives it to the others, `dwell abort {name}` takes it back",
                if canaries == 1 { "1 instance tries".to_owned() } else { format!("{canaries} instances try") }
            ));
        }
        let (reason, subject) = match action {
            PlanAction::Create => ("workload-created", Subject::Workload(name.clone())),
            PlanAction::Update | PlanAction::Unchanged => {
                ("workload-changed", Subject::Workload(name.clone()))
            }
        };
        self.event(now, Severity::Info, subject, reason, plan::summary(&plan));
        Ok(plan)
    }

    /// Makes what is missing, marks what is different, removes what is too much. If the workload was `turned`, it is stopped
    /// or started by that.
    pub(super) fn reconcile(
        &mut self,
        workload: &Workload,
        turned: bool,
        now: Timestamp,
    ) -> Result<Vec<InstancePlan>, Refusal> {
        let name = &workload.spec.name;
        let mut planned = Vec::new();
        let ordinals = self.ordinals(workload);
        for &ordinal in &ordinals {
            let name = InstanceName::new(name.clone(), ordinal);
            let (action, reason) = match self.tables.instances().get(&name).cloned() {
                None => {
                    self.create(workload, &name, now)?;
                    (InstanceAction::Create, "is new".to_owned())
                }
                // It is made again as soon as the present one is gone.
                Some(instance) if instance.removing => {
                    (InstanceAction::Create, "is wanted again".to_owned())
                }
                // Nothing reaches it any more.
                Some(instance) if instance.rests() => continue,
                Some(instance) => {
                    self.check_volumes(&instance, &workload.spec.template)?;
                    let instance = self.with_declared_address(instance, now)?;
                    let turned = turned && instance.run != workload.run;
                    // What does not run is what is declared at once.
                    let instance =
                        if turned { self.turn(&instance, RunState::Stopped) } else { instance };
                    let class = self.adopt(workload, &instance);
                    let why = self.why_changed(workload, &instance, class);
                    match (turned, class) {
                        (true, ChangeClass::None) => {
                            (self.turned(workload, &name), "stopped".to_owned())
                        }
                        (true, _) => (self.turned(workload, &name), format!("stopped, {why}")),
                        (false, class) => (InstanceAction::Change(class), why),
                    }
                }
            };
            if action != InstanceAction::Change(ChangeClass::None) {
                planned.push(InstancePlan::new(name, action, reason));
            }
        }
        let surplus: Vec<InstanceName> = self
            .tables
            .instances_of(name)
            .rev()
            .filter(|instance| !instance.removing && !ordinals.contains(&instance.name.ordinal()))
            .map(|instance| instance.name.clone())
            .collect();
        for instance in surplus {
            self.remove_instance(&instance, now);
            let reason = match workload.spec.placement.one_per_node {
                true => "is not on a node that is to have one".to_owned(),
                false => format!("beyond the {} declared", workload.spec.replicas),
            };
            planned.push(InstancePlan::new(instance, InstanceAction::Remove, reason));
        }
        Ok(planned)
    }

    fn create(
        &mut self,
        workload: &Workload,
        name: &InstanceName,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let Some(form) = self.form_for_new(workload) else { return Ok(()) };
        let identity = match self.declared_address(name) {
            Some(address) => Some(self.claim_static(name, address, now)?),
            None => None,
        };
        let instance = self.new_instance(workload, form, name, now, identity);
        self.make_instance(instance);
        Ok(())
    }

    /// The address that a workload declares for an instance.
    pub(super) fn declared_address(&self, name: &InstanceName) -> Option<Ipv4Addr> {
        let workload = self.tables.workloads().get(name.workload())?;
        workload.spec.addresses.get(usize::try_from(name.ordinal()).ok()?).copied()
    }

    /// An address is for life: it may be declared later only for an instance without one.
    fn with_declared_address(
        &mut self,
        instance: Arc<Instance>,
        now: Timestamp,
    ) -> Result<Arc<Instance>, Refusal> {
        let Some(wanted) = self.declared_address(&instance.name) else { return Ok(instance) };
        match instance.identity {
            Some(identity) if identity.address == wanted => Ok(instance),
            Some(identity) => Err(Refusal::AddressFixed {
                instance: instance.name.clone(),
                current: identity.address,
                wanted,
            }),
            None => {
                let identity = Some(self.claim_static(&instance.name, wanted, now)?);
                let instance = Instance { identity, ..Instance::clone(&instance) };
                self.put_instance(instance.clone());
                Ok(Arc::new(instance))
            }
        }
    }

    pub(super) fn remove_workload(
        &mut self,
        name: &WorkloadName,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let workload = self.tables.workloads().get(name).cloned();
        let workload = workload.ok_or_else(|| Refusal::NoWorkload(name.clone()))?;
        if workload.removing {
            return Ok(());
        }
        self.put_workload(Workload { removing: true, ..Workload::clone(&workload) });
        let message = "removed; its instances are stopped".to_owned();
        let subject = Subject::Workload(name.clone());
        self.event(now, Severity::Info, subject, "workload-removed", message);
        let instances: Vec<InstanceName> =
            self.tables.instances_of(name).map(|instance| instance.name.clone()).collect();
        for instance in &instances {
            self.remove_instance(instance, now);
        }
        self.forget_if_empty(name);
        Ok(())
    }

    /// Takes an instance away: at once if it has no node, else when its node confirms.
    pub(super) fn remove_instance(&mut self, name: &InstanceName, now: Timestamp) {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        // While the last of its volumes is copied nothing of it is anywhere, and its node has said so already.
        if instance.node.is_none() || instance.is_stopped_for_copy() {
            return self.delete_instance(&instance, now);
        }
        if instance.removing {
            return;
        }
        self.delete(Key::Waiting(name.clone()));
        self.drop_copies(name);
        self.put_with(|revision| {
            let since = instance.leaving.as_ref().map_or(revision, |leaving| leaving.since);
            Record::Instance(Arc::new(Instance {
                leaving: Some(Leaving { since, to: None }),
                volume_move: None,
                heading: None,
                removing: true,
                update: UpdateState::Current,
                revision,
                ..Instance::clone(&instance)
            }))
        });
    }

    /// The last of an instance; if its workload wants it again, it is made anew.
    pub(super) fn delete_instance(&mut self, instance: &Instance, now: Timestamp) {
        let name = &instance.name;
        self.delete(Key::Waiting(name.clone()));
        self.delete(Key::Observed(name.clone()));
        self.drop_copies(name);
        self.delete(Key::Instance(name.clone()));
        self.down.remove(name);
        if let Some(identity) = instance.identity {
            self.release_address(name.clone(), identity.address, now);
        }
        let subject = Subject::Instance(name.clone());
        self.event(now, Severity::Info, subject, "instance-removed", "is gone".to_owned());
        let Some(workload) = self.tables.workloads().get(name.workload()).cloned() else { return };
        if workload.removing {
            self.forget_if_empty(name.workload());
        } else if self.lacks(&workload, name) {
            self.make_anew(&workload, name, now);
        }
    }

    /// Makes an instance that a workload is to have. Without its declared address, if that is another's now: it waits until it
    /// is free.
    fn make_anew(&mut self, workload: &Workload, name: &InstanceName, now: Timestamp) {
        let Some(form) = self.form_for_new(workload) else { return };
        let address = self.declared_address(name);
        let identity = address.and_then(|address| self.claim_static(name, address, now).ok());
        let instance = self.new_instance(workload, form, name, now, identity);
        self.make_instance(instance);
    }

    /// Makes the instances that a workload is to have and that nothing is there of.
    pub(super) fn make_missing(&mut self, workload: &WorkloadName, now: Timestamp) {
        let Some(workload) = self.tables.workloads().get(workload).cloned() else { return };
        if workload.removing {
            return;
        }
        for ordinal in self.ordinals(&workload) {
            let name = InstanceName::new(workload.spec.name.clone(), ordinal);
            if self.tables.instances().get(&name).is_none() {
                self.make_anew(&workload, &name, now);
            }
        }
    }

    fn forget_if_empty(&mut self, name: &WorkloadName) {
        if self.tables.instances_of(name).next().is_none() {
            self.forget_versions(name);
            self.delete(Key::Workload(name.clone()));
        }
    }

    /// The instances that a target names.
    pub(super) fn targets(&self, target: &Target) -> Result<Vec<Arc<Instance>>, Refusal> {
        match target {
            Target::Workload(name) => {
                self.living(name)?;
                let instances = self.tables.instances_of(name);
                let instances = instances.filter(|instance| !instance.removing);
                instances.map(|one| Self::check_has_place(one).map(|()| Arc::clone(one))).collect()
            }
            Target::Instance(name) => {
                let instance = self.tables.instances().get(name);
                let instance = instance.ok_or_else(|| Refusal::NoInstance(name.clone()))?;
                if instance.is_let_go() {
                    return Err(NotLetGo::Is(name.clone()).into());
                }
                if instance.removing {
                    return Err(Refusal::InstanceRemoving(name.clone()));
                }
                Self::check_has_place(instance)?;
                Ok(vec![Arc::clone(instance)])
            }
        }
    }

    /// An instance as it is made.
    pub(super) fn new_instance(
        &self,
        workload: &Workload,
        wanted: Arc<Form>,
        name: &InstanceName,
        now: Timestamp,
        identity: Option<super::Identity>,
    ) -> Instance {
        let newest = self.newest(name.workload());
        let is_newest = newest.is_some_and(|newest| newest.form.number == wanted.number);
        let update = if is_newest && workload.paused.is_none() {
            UpdateState::Current
        } else {
            UpdateState::Due
        };
        Instance {
            name: name.clone(),
            identity,
            generation: workload.generation,
            wanted,
            serving: None,
            fallback: None,
            unseen: None,
            failed: None,
            run: workload.run,
            restarts_asked: 0,
            edition: Generation(0),
            edition_before: None,
            root: Root::default(),
            root_before: None,
            workload_restarts: workload.restarts_asked,
            task: workload.spec.job.as_ref().map(|job| match job.schedule {
                Some(_) => InstanceTask::idle(workload.generation),
                None => InstanceTask::new(workload.generation),
            }),
            update,
            new_address: false,
            node: None,
            second_share: None,
            own_size: OwnSize::default(),
            own_size_before: None,
            own_size_forced: false,
            volume_move: None,
            heading: None,
            leaving: None,
            removing: false,
            custody: Custody::Usual,
            adopts: None,
            created_at: now,
            life: super::Revision(0),
            evacuated: None,
            fence: None,
            last_end: None,
            last_hook_failed: None,
            other_image: None,
            told: None,
            revision: super::Revision(0),
        }
    }

    /// A workload that is not being removed.
    pub(super) fn living(&self, name: &WorkloadName) -> Result<Arc<Workload>, Refusal> {
        let workload = self.tables.workloads().get(name);
        let workload = workload.ok_or_else(|| Refusal::NoWorkload(name.clone()))?;
        if workload.removing {
            return Err(Refusal::WorkloadRemoving(name.clone()));
        }
        Ok(Arc::clone(workload))
    }
}

/// What a workload becomes by a declaration.
pub(super) fn next_workload(
    old: Option<&Workload>,
    spec: WorkloadSpec,
    retries: bool,
    now: Timestamp,
) -> Workload {
    let (declared, spec) = (spec.run, WorkloadSpec { run: None, ..spec });
    let Some(old) = old else {
        return Workload {
            job: JobRun::default().declared(None, &spec, now),
            spec,
            generation: Generation(1),
            run: declared.unwrap_or_default(),
            restarts_asked: 0,
            paused: None,
            good: None,
            downtimes: Downtimes::default(),
            removing: false,
            created_at: now,
            revision: super::Revision(0),
        };
    };
    let changes = old.spec.template != spec.template || retries || old.removing;
    // Its past is another's.
    let (job, before) =
        if old.removing { (JobRun::default(), None) } else { (old.job.clone(), Some(&old.spec)) };
    Workload {
        job: job.declared(before, &spec, now),
        spec,
        generation: if changes { old.generation.next() } else { old.generation },
        paused: match &old.paused {
            // Another version has canaries of its own.
            Some(Pause::Canary { .. }) if changes => None,
            _ if retries => None,
            paused => paused.clone(),
        },
        run: declared.unwrap_or(if old.removing { RunState::Running } else { old.run }),
        removing: false,
        ..old.clone()
    }
}
