//! What a host does with what it is told.

use dwell_core::instance::Custody;
use dwell_core::job::{TaskEnd, TaskOutcome};
use dwell_core::quantity::Millis;
use dwell_core::session::Boot;
use dwell_core::skill::Skills;

use super::*;

impl Host {
    /// Where the assignment held is.
    pub(in crate::model::tests) fn position(&self) -> Position {
        self.held.as_ref().map(Assignment::position).unwrap_or_default()
    }

    /// The revision of the assignment held.
    pub(in crate::model::tests) fn revision(&self) -> Revision {
        self.held.as_ref().map_or(Revision(0), |held| held.revision)
    }

    /// The instances of the assignment held.
    pub(in crate::model::tests) fn assigned(&self) -> &BTreeMap<InstanceName, Assigned> {
        static NOTHING: BTreeMap<InstanceName, Assigned> = BTreeMap::new();
        self.held.as_ref().map_or(&NOTHING, |held| &held.instances)
    }

    /// How its stream begins.
    pub(in crate::model::tests) fn hello(&self, address: Ipv4Addr) -> Hello {
        let held = self.held.as_ref();
        Hello {
            protocol_newest: 2,
            capacity: Fleet::capacity(),
            status: self.look(),
            held: held.map(Assignment::position).unwrap_or_default(),
            term: held.map(|held| held.term).unwrap_or_default(),
            durable: held.map(|held| held.durable).unwrap_or_default(),
            claims: self.assigned().values().map(Claim::of).collect(),
            host_mark: self.host_mark.clone(),
            block: held.and_then(|held| held.network.block),
            keeps_leases: !self.keeps_no_leases,
            fetches_ahead: self.ahead.is_some(),
            carries: !self.carries_nothing,
            knows_blocks: !self.knows_no_blocks,
            knows_ranges: !self.knows_no_ranges,
            skills: Skills {
                process: !self.lacks.process,
                machine: !self.lacks.machine,
                compose: !self.lacks.compose,
            },
            lets_go: !self.lets_nothing_go,
            takes_over: !self.lets_nothing_go,
            moves_volumes: !self.moves_no_volumes,
            boot: (!self.knows_no_reboots).then(|| Boot {
                id: format!("b{}", self.boots),
                may_reboot: !self.is_not_to_reboot,
            }),
            ..Hello::of(address)
        }
    }

    /// Everything that is there, under the assignment held.
    pub(in crate::model::tests) fn look(&self) -> StatusReport {
        StatusReport {
            seen_under: self.held.as_ref().map(Assignment::position).unwrap_or_default(),
            complete: true,
            instances: self.containers.values().map(|status| self.with_ahead(status)).collect(),
            gone: Vec::new(),
            volumes: (!self.engine_is_away).then(|| self.seen_volumes()),
        }
    }

    /// What is said of an instance, with how far its image ahead is.
    fn with_ahead(&self, status: &InstanceStatus) -> InstanceStatus {
        let assigned = self.assigned().get(&status.instance);
        let told = assigned.and_then(|assigned| assigned.image_ahead.clone());
        let image_ahead = told.zip(self.ahead.clone());
        let image_ahead = image_ahead.map(|(image, state)| ImageAhead { image, state });
        let let_go = self.let_go.get(&status.instance).copied();
        InstanceStatus { image_ahead, let_go, ..status.clone() }
    }

    fn seen_volumes(&self) -> Vec<SeenVolume> {
        let volumes = self.volumes.iter().cloned().map(|volume| (volume, false));
        let copies = self.copies.iter().cloned().map(|copy| (copy, true));
        let seen =
            |((instance, name), is_copy)| SeenVolume { instance, name, image_path: None, is_copy };
        volumes.chain(copies).map(seen).collect()
    }

    /// Makes the containers what the assignment says.
    pub(in crate::model::tests) fn converge(&mut self, now: Timestamp) {
        let names: Vec<InstanceName> = self.assigned().keys().cloned().collect();
        self.follow_custody();
        let let_go = self.let_go.clone();
        self.containers.retain(|name, status| {
            let is_left = let_go.contains_key(name) && !status.container_id.is_empty();
            is_left || names.binary_search(name).is_ok()
        });
        self.let_go.retain(|name, _| self.containers.contains_key(name));
        self.tasks.retain(|name, _| names.binary_search(name).is_ok());
        for volume in self.held.iter().flat_map(|held| &held.volumes_to_delete) {
            self.volumes.remove(volume);
            self.copies.remove(volume);
        }
        for name in names {
            self.start(&name, now);
        }
    }

    /// Lets go of what it is told to let go of, and takes back what it is told to.
    fn follow_custody(&mut self) {
        let told = self.assigned().values().map(|one| (one.instance.clone(), one.custody));
        for (name, custody) in told.collect::<Vec<_>>() {
            match custody {
                Custody::LetGo(at) if self.containers.contains_key(&name) => {
                    self.let_go.insert(name, at);
                }
                Custody::Adopted(_) => {
                    self.let_go.retain(|let_go, at| *let_go != name || custody.leaves(*at));
                }
                Custody::LetGo(_) | Custody::Usual => {}
            }
        }
    }

    pub(in crate::model::tests) fn start(&mut self, name: &InstanceName, now: Timestamp) {
        let Some(assigned) = self.assigned().get(name).cloned() else { return };
        if self.let_go.contains_key(name) {
            return;
        }
        let status = self.containers.get(name);
        let verdict = status.and_then(|status| status.verdict_on(assigned.generation));
        if matches!(verdict, Some(Outcome::RolledBack { .. } | Outcome::Failing { .. })) {
            return;
        }
        let volumes: Vec<(InstanceName, VolumeName)> =
            assigned.template.volumes().map(|volume| (name.clone(), volume.clone())).collect();
        let mut kept = volumes.iter().filter(|(_, one)| assigned.kept_volumes.contains(one));
        if status.is_none() && kept.any(|volume| !self.volumes.contains(volume)) {
            return;
        }
        self.volumes.extend(volumes);
        let pinned = assigned.image_digest.filter(|_| !self.ignores_pins);
        let image =
            ContainerImage { digest: self.tags_mean.map(|own| pinned.unwrap_or(own)), id: None };
        let mut status = InstanceStatus { image, ..running(&assigned, now) };
        let is_told = |told: &TaskReport| {
            told.life == assigned.life
                && assigned.task.is_some_and(|task| task.number == told.number)
        };
        status.task = self.tasks.get(name).copied().filter(is_told);
        if let Some(end) = status.task.and_then(|told| told.end) {
            status.exit_code = Some(end.code);
            status.phase = match end.outcome {
                TaskOutcome::Completed => Phase::Completed,
                TaskOutcome::Failed => Phase::Failed,
            };
        }
        self.containers.insert(name.clone(), status);
    }

    /// The main process of an instance of a job ends.
    pub(in crate::model::tests) fn finish(
        &mut self,
        name: &InstanceName,
        code: i32,
        at: Timestamp,
    ) {
        let Some(assigned) = self.assigned().get(name).cloned() else { return };
        let Some(task) = assigned.task else { return };
        let is_of_it =
            |told: &&TaskReport| told.life == assigned.life && told.number == task.number;
        let before = self.tasks.get(name).filter(is_of_it).map_or(0, |told| told.failed);
        let failed = before + u32::from(code != 0);
        let attempts = assigned.template.restart.attempts();
        let outcome = match code {
            0 => Some(TaskOutcome::Completed),
            _ if attempts.is_some_and(|most| failed + task.failed_before >= most) => {
                Some(TaskOutcome::Failed)
            }
            _ => None,
        };
        let end = outcome.map(|outcome| TaskEnd { outcome, code, at, ran_for: Millis(1_000) });
        let told = TaskReport { life: assigned.life, number: task.number, failed, end };
        self.tasks.insert(name.clone(), told);
        self.start(name, at);
    }

    /// The newest generation of an instance does not become healthy, and the old one is put back.
    pub(in crate::model::tests) fn fail(&mut self, name: &InstanceName, now: Timestamp) {
        let Some(assigned) = self.assigned().get(name).cloned() else { return };
        let Some(status) = self.containers.get_mut(name) else { return };
        if status.generation >= assigned.generation {
            // Nothing is being replaced.
            return;
        }
        let reason = "does not answer".into();
        let outcome = Outcome::RolledBack { reason };
        status.verdict = Some(Verdict { generation: assigned.generation, outcome });
        status.observed_at = now;
    }

    /// An instance that has nothing to go back to does not work.
    pub(in crate::model::tests) fn ail(&mut self, name: &InstanceName, now: Timestamp) {
        let Some(assigned) = self.assigned().get(name).cloned() else { return };
        let reason = "ended with exit code 3".to_owned();
        let outcome = Outcome::Failing { reason: reason.clone() };
        let verdict = Some(Verdict { generation: assigned.generation, outcome });
        let sick = InstanceStatus {
            phase: Phase::Backoff,
            verdict,
            message: reason,
            ..running(&assigned, now)
        };
        self.containers.insert(name.clone(), sick);
    }

    /// An instance runs, and nothing more is known.
    pub(in crate::model::tests) fn try_out(&mut self, name: &InstanceName, now: Timestamp) {
        let Some(assigned) = self.assigned().get(name).cloned() else { return };
        let verdict = Some(Verdict { generation: assigned.generation, outcome: Outcome::Open });
        self.containers.insert(name.clone(), InstanceStatus { verdict, ..running(&assigned, now) });
    }
}
