//! From the file's shorthands to complete specifications.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use dwell_core::health::{HealthCheck, Probe};
use dwell_core::hook::{self, Hook, HookAction};
use dwell_core::id::WorkloadName;
use dwell_core::instance::RunState;
use dwell_core::job::{Job, Overlap, Schedule};
use dwell_core::workload::{
    AllowRule, OnFailure, OnMove, Placement, Process, Resources, RestartPolicy, Template,
    UpdateOrder, UpdatePolicy, WorkloadSpec,
};

use super::beside::EnvFile;
use super::file::{self, File, Hooks};
use super::held;
use super::machine::IsMachine;
use super::problem::Problem;
use super::value::{Pairs, Port};
use super::{Declared, Surroundings, Variables, env_file, files, shorthand::Short};

/// The most workloads that are applied at once; the controller takes no more.
const WORKLOADS_MAX: usize = 1000;

/// The specifications a file declares, or all that is wrong with them.
///
/// With them is what whoever wrote it might expect and does not get.
pub(super) fn lower(
    file: File,
    surroundings: &Surroundings<'_>,
) -> Result<(Vec<Declared>, Vec<Problem>), Vec<Problem>> {
    let whole = |message: &str| vec![Problem { position: None, message: message.into() }];
    let workloads = match (file.workloads, file.services) {
        (Some(_), Some(_)) => {
            return Err(whole(
                "has both \"workloads:\" and \"services:\"; put all under one of them",
            ));
        }
        (Some(workloads), None) | (None, Some(workloads)) if !workloads.0.is_empty() => workloads.0,
        _ => {
            return Err(whole(
                "declares nothing; write at least one workload under \"workloads:\"",
            ));
        }
    };
    if workloads.len() > WORKLOADS_MAX {
        return Err(whole("declares more than 1000 workloads; split it into several files"));
    }
    let mut specs: Vec<Declared> = Vec::new();
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    for (name, workload) in workloads {
        let at = |message: String| Problem::at(name.referenced, message);
        let shown: String = name.value.chars().take(60).collect();
        if !is_meant(&workload.profiles, surroundings.profiles) {
            let profiles = workload.profiles.join(" or ");
            warnings.push(at(format!(
                "workload {shown:?} is left out, since it has profiles; \"--profile {profiles}\" takes it in"
            )));
            continue;
        }
        match workload.into_spec(&name.value, surroundings) {
            Ok(spec) if specs.iter().any(|other| other.spec.name == spec.spec.name) => {
                let other = &spec.spec.name;
                problems.push(at(format!(
                    "workload {shown:?} would be called {other}, as another one is; give it another name"
                )));
            }
            Ok(spec) => {
                if spec.spec.name.as_str() != name.value {
                    let is = &spec.spec.name;
                    warnings.push(at(format!(
                        "workload {shown:?} is called {is}, since names are names in DNS; whoever reaches it by its name has to \
                         say {is}"
                    )));
                }
                specs.push(spec);
            }
            Err(found) => problems.extend(found.into_iter().map(at)),
        }
    }
    if specs.is_empty() && problems.is_empty() {
        return Err(whole(
            "declares nothing, since every workload has profiles; say which are meant with \"--profile\"",
        ));
    }
    if problems.is_empty() { Ok((specs, warnings)) } else { Err(problems) }
}

/// Whether a workload with these profiles is among what is asked for.
fn is_meant(profiles: &[String], asked: &[String]) -> bool {
    let is_asked = |profile: &String| asked.contains(profile) || asked.iter().any(|it| it == "*");
    profiles.is_empty() || profiles.iter().any(is_asked)
}

/// What a workload is called that a file calls so: a name in DNS has no `_`.
pub(super) fn name_of(text: &str) -> Result<WorkloadName, String> {
    WorkloadName::new(text.replace('_', "-")).map_err(|error| error.to_string())
}

impl file::Workload {
    fn into_spec(
        self,
        name: &str,
        surroundings: &Surroundings<'_>,
    ) -> Result<Declared, Vec<String>> {
        let mut wrong = Collected { workload: name, problems: Vec::new() };
        let limits = self.deploy.resources.limits;
        let replicas = wrong.one_of([
            ("replicas", self.replicas),
            ("scale", self.scale),
            ("deploy.replicas", self.deploy.replicas),
        ]);
        let one_per_node = self.one_per_node || self.deploy.mode == Some(file::Mode::Global);
        if one_per_node && replicas.is_some() {
            wrong.add(
                "replicas: how many there are follows from the nodes with one_per_node; leave one of the two out",
            );
        }
        let cpu = wrong.one_of([
            ("resources.cpu", self.resources.cpu),
            ("cpus", self.cpus),
            ("deploy.resources.limits.cpus", limits.cpus),
        ]);
        let memory = wrong.one_of([
            ("resources.memory", self.resources.memory),
            ("mem_limit", self.mem_limit),
            ("deploy.resources.limits.memory", limits.memory),
        ]);
        let pids = wrong.one_of([
            ("resources.pids", self.resources.pids),
            ("pids_limit", self.pids_limit),
            ("deploy.resources.limits.pids", limits.pids),
        ]);
        let expose =
            wrong.one_of([("network.expose", self.network.expose), ("expose", self.expose)]);
        let constraints = wrong.one_of([
            ("constraints", self.constraints),
            ("deploy.placement.constraints", self.deploy.placement.constraints),
        ]);
        let image_policy = wrong.one_of([
            ("image_policy", self.image_policy),
            ("pull_policy", self.pull_policy.map(|policy| policy.0)),
        ]);
        let healthcheck = self.healthcheck.and_then(|check| wrong.keep(check.lower())).flatten();
        let readiness = self.readiness.and_then(|check| wrong.keep(check.lower()));
        let Hooks { after_start, before_stop } = self.hooks;
        let mut hook = |field: &str, hook: Option<file::Hook>| {
            hook.and_then(|hook| wrong.keep(hook.lower(field)))
        };
        let hooks = hook::Hooks {
            after_start: hook("hooks.after_start", after_start),
            before_stop: hook("hooks.before_stop", before_stop),
        };
        let extra_hosts = wrong.keep(held::hosts(self.extra_hosts)).unwrap_or_default();
        let ulimits = self.ulimits.into_iter().map(|(name, Short(limit))| (name, limit));
        let process = Process {
            init: self.init.map(|init| init.0),
            read_only: self.read_only,
            tmpfs: self.tmpfs.map(|Short(all)| all.0).unwrap_or_default(),
            ulimits: ulimits.collect(),
            cap_drop: self.cap_drop.iter().map(|name| held::capability(name)).collect(),
            group_add: self.group_add,
            extra_hosts,
            sysctls: labels(self.sysctls),
            cap_add: self.cap_add.iter().map(|name| held::capability(name)).collect(),
            devices: self.devices.into_iter().map(|Short(device)| device).collect(),
            dns_search: self.dns_search.map(|Short(all)| all.0).unwrap_or_default(),
            dns_options: self.dns_opt,
        };
        let attempts = self.job.as_ref().and_then(|job| job.attempts);
        let restart = self.restart.map(|restart| restart.0);
        let restart = wrong.keep(restart_of(self.job.is_some(), attempts, restart));
        let restart = restart.unwrap_or_default();
        let mut variables = BTreeMap::new();
        for file in self.env_file.into_iter().flat_map(|Short(files)| files.0) {
            wrong.keep(read_env_file(&file, surroundings, &mut variables));
        }
        variables.extend(environment(self.environment, surroundings.variables));
        let checked_name = wrong.keep(name_of(name));
        let Some(checked_name) = checked_name else { return Err(wrong.problems) };
        let template = Template {
            image_policy: image_policy.map(|policy| policy.0).unwrap_or_default(),
            entrypoint: words(self.entrypoint),
            command: words(self.command),
            environment: variables,
            user: self.user.unwrap_or_default(),
            working_dir: self.working_dir.unwrap_or_default(),
            hostname: self.hostname.unwrap_or_default(),
            labels: labels(self.labels),
            mounts: self.volumes.into_iter().map(|Short(mount)| mount).collect(),
            machine: self.machine.and_then(|Short(IsMachine(machine))| machine),
            carry: self.carry,
            stdin: self.stdin_open,
            tty: self.tty,
            process,
            stop_signal: self.stop_signal.unwrap_or_default(),
            resources: Resources {
                cpu: cpu.unwrap_or_default(),
                memory: memory.unwrap_or_default(),
            },
            pids,
            restart,
            healthcheck,
            readiness,
            hooks,
            expose: expose.unwrap_or_default().into_iter().flat_map(Port::each).collect(),
            ssh: self.ssh.map(|Short(ssh)| ssh).unwrap_or_default(),
            allow_from: self.network.allow_from.map(long),
            allow_to: self.network.allow_to.map(long),
            ..Template::of_image(self.image)
        };
        let update = UpdatePolicy::default();
        let spec = WorkloadSpec {
            name: checked_name,
            replicas: replicas.unwrap_or(1),
            run: self
                .stopped
                .map(|stopped| if stopped { RunState::Stopped } else { RunState::Running }),
            template: Template {
                shm_size: self.shm_size,
                stop_grace: self.stop_grace_period.unwrap_or(template.stop_grace),
                ..template
            },
            on_move: match self.network.on_move {
                None | Some(file::OnMove::KeepAddress) => OnMove::KeepAddress,
                Some(file::OnMove::NewAddress) => OnMove::NewAddress,
            },
            addresses: self.network.ip.map(|Short(addresses)| addresses.0).unwrap_or_default(),
            placement: Placement {
                pool: self.pool,
                constraints: constraints
                    .unwrap_or_default()
                    .into_iter()
                    .map(|condition| condition.0)
                    .collect(),
                one_per_node,
            },
            update: UpdatePolicy {
                parallelism: self.update.parallelism.unwrap_or(update.parallelism),
                canary: self.update.canary.unwrap_or(update.canary),
                deadline: self.update.deadline.unwrap_or(update.deadline),
                monitor: self.update.monitor.unwrap_or(update.monitor),
                max_failures: self.update.max_failures.unwrap_or(update.max_failures),
                on_failure: match self.update.on_failure {
                    None | Some(file::OnFailure::Pause) => OnFailure::Pause,
                    Some(file::OnFailure::Rollback) => OnFailure::Rollback,
                    Some(file::OnFailure::Continue) => OnFailure::Continue,
                },
                order: match self.update.order {
                    None | Some(file::Order::StopFirst) => UpdateOrder::StopFirst,
                    Some(file::Order::StartFirst) => UpdateOrder::StartFirst,
                },
            },
            on_lost: self.on_lost.unwrap_or_default(),
            job: self.job.map(|job| Job {
                parallelism: job.parallelism,
                deadline: job.deadline,
                ttl: job.ttl,
                schedule: job.schedule.map(schedule),
            }),
            labels: labels(self.deploy.labels),
        };
        wrong.keep(spec.check().map_err(|error| error.to_string()));
        if !wrong.problems.is_empty() {
            return Err(wrong.problems);
        }
        Ok(Declared { spec, says_replicas: replicas.is_some() })
    }
}

/// Adds the variables of a file.
fn read_env_file(
    file: &EnvFile,
    surroundings: &Surroundings<'_>,
    set: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    let path = &files::beside(Path::new(""), &file.path);
    if !file.is_required
        && surroundings.files.read(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
    {
        return Ok(());
    }
    let text = files::text(surroundings.files, path);
    let text = text.map_err(|problem| {
        format!("env_file: {problem}; write it, or {{path: {}, required: false}}", file.path)
    })?;
    env_file::add(&text, file.is_raw, surroundings.variables, set)
        .map_err(|problem| format!("env_file: {}: {problem}", file.path))
}

fn schedule(given: file::Schedule) -> Schedule {
    let other = Schedule::of(given.cron);
    Schedule {
        time_zone: given.time_zone.unwrap_or(other.time_zone),
        overlap: match given.overlap {
            None | Some(file::Overlap::Skip) => Overlap::Skip,
            Some(file::Overlap::Wait) => Overlap::Wait,
            Some(file::Overlap::Replace) => Overlap::Replace,
        },
        catch_up: given.catch_up.unwrap_or(other.catch_up),
        history: given.history.unwrap_or(other.history),
        cron: other.cron,
    }
}

/// When the main process is started again. Of a job, that is what its attempts say.
pub(crate) fn restart_of(
    is_job: bool,
    attempts: Option<u32>,
    restart: Option<RestartPolicy>,
) -> Result<RestartPolicy, String> {
    match (is_job, attempts, restart) {
        (false, _, restart) => Ok(restart.unwrap_or_default()),
        (true, Some(0), _) => Err("job.attempts: 0 is never; use at least 1".into()),
        (true, Some(_), Some(_)) => {
            Err("job.attempts and restart both say how often it is tried; keep job.attempts".into())
        }
        (true, None, Some(restart)) => Ok(restart),
        (true, attempts, None) => {
            Ok(RestartPolicy::of_attempts(attempts.unwrap_or(Job::ATTEMPTS_DEFAULT)))
        }
    }
}

/// What was found wrong with one workload so far.
struct Collected<'a> {
    workload: &'a str,
    problems: Vec<String>,
}

impl Collected<'_> {
    fn keep<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.add(&problem)).ok()
    }

    fn add(&mut self, problem: &str) {
        let workload: String = self.workload.chars().take(60).collect();
        self.problems.push(format!("workload {workload:?}: {problem}"));
    }

    /// The value that may be written in one of several places.
    fn one_of<T, const N: usize>(&mut self, places: [(&str, Option<T>); N]) -> Option<T> {
        let mut given = None;
        for (place, value) in places {
            match (value, &given) {
                (None, _) => {}
                (Some(value), None) => given = Some((place, value)),
                (Some(_), Some((first, _))) => {
                    self.add(&format!("{first} and {place} mean the same; keep one of them"));
                }
            }
        }
        given.map(|(_, value)| value)
    }
}

impl file::HealthCheck {
    /// `Ok(None)` if there is not to be a check.
    fn lower(self) -> Result<Option<HealthCheck>, String> {
        let probe = match (self.test, self.tcp, self.http) {
            (Some(Short(test)), None, None) => test.0.map(|command| Probe::Exec { command }),
            (None, Some(port), None) => Some(Probe::Tcp { port }),
            (None, None, Some(Short(http))) => {
                Some(Probe::Http { port: http.port, path: http.path })
            }
            (None, None, None) if self.disable => None,
            _ => {
                return Err(
                    "healthcheck: give exactly one of \"test\", \"tcp\" and \"http\"".into()
                );
            }
        };
        let Some(plain) = probe.filter(|_| !self.disable).map(HealthCheck::new) else {
            return Ok(None);
        };
        Ok(Some(HealthCheck {
            interval: self.interval.unwrap_or(plain.interval),
            timeout: self.timeout.unwrap_or(plain.timeout),
            retries: self.retries.unwrap_or(plain.retries),
            start_period: self.start_period.unwrap_or(plain.start_period),
            restart: self.restart,
            ..plain
        }))
    }
}

impl file::Hook {
    fn lower(self, field: &str) -> Result<Hook, String> {
        let action = match (self.exec, self.http) {
            (Some(Short(words)), None) => HookAction::Exec { command: words.0 },
            (None, Some(Short(http))) => HookAction::Http { port: http.port, path: http.path },
            _ => return Err(format!("{field}: give exactly one of \"exec\" and \"http\"")),
        };
        Ok(Hook { action, timeout: self.timeout.unwrap_or_else(Hook::default_timeout) })
    }
}

impl file::Readiness {
    fn lower(self) -> Result<HealthCheck, String> {
        let probe = match (self.test, self.tcp, self.http) {
            (Some(Short(test)), None, None) => match test.0 {
                Some(command) => Probe::Exec { command },
                None => {
                    return Err(
                        "readiness.test: [NONE] asks for nothing; leave readiness out".into()
                    );
                }
            },
            (None, Some(port), None) => Probe::Tcp { port },
            (None, None, Some(Short(http))) => Probe::Http { port: http.port, path: http.path },
            _ => {
                return Err("readiness: give exactly one of \"test\", \"tcp\" and \"http\"".into());
            }
        };
        let plain = HealthCheck::new(probe);
        Ok(HealthCheck {
            interval: self.interval.unwrap_or(plain.interval),
            timeout: self.timeout.unwrap_or(plain.timeout),
            retries: self.retries.unwrap_or(plain.retries),
            start_period: self.start_period.unwrap_or(plain.start_period),
            ..plain
        })
    }
}

fn words(words: Option<Short<super::value::Words>>) -> Vec<String> {
    words.map(|Short(words)| words.0).unwrap_or_default()
}

/// A variable without a value is whatever it is for the one who applies the file, or not set at all.
pub(super) fn environment(pairs: Pairs, variables: &Variables) -> BTreeMap<String, String> {
    let value = |(key, value): (String, Option<String>)| {
        let value = value.or_else(|| variables.get(&key).cloned())?;
        Some((key, value))
    };
    pairs.0.into_iter().filter_map(value).collect()
}

fn labels(pairs: Pairs) -> BTreeMap<String, String> {
    pairs.0.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect()
}

/// Rules in their long spelling.
fn long(rules: Vec<Short<AllowRule>>) -> Vec<AllowRule> {
    rules.into_iter().map(|Short(rule)| rule).collect()
}
