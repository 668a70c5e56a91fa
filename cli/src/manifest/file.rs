//! The format of the file, as types: what may be written where.
//!
//! The first part is Compose's, as far as dwell can honour it; the rest is dwell's own. Nothing is
//! merged or defaulted here, that is `lower`'s. Unknown keys are refused by [`super::shape`], which goes by the
//! schema of these types and says all of them at once.

use std::collections::BTreeMap;

use dwell_core::id::PoolName;
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::workload::{AllowRule, Device, Mount, OnLost, Portion, Ssh, Ulimit};
use schemars::JsonSchema;
use serde::Deserialize;

use super::beside::{EnvFiles, Extends};
use super::held::{InMemory, OneOrMore};
use super::machine::{IsMachine, Process1};
use super::shorthand::Short;
use super::value::{
    Addresses, Condition, Http, ImagePolicy, Named, Pairs, Port, PullPolicy, Restart, Test, Words,
};

/// Workloads of dwell, in the shape of a Compose file.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[schemars(title = "dwell workloads")]
pub(super) struct File {
    /// Of the file format of Compose; means nothing here.
    #[expect(dead_code, reason = "accepted for Compose files; means nothing")]
    pub(super) version: Option<String>,
    /// Of the Compose project; means nothing here.
    #[expect(dead_code, reason = "accepted for Compose files; means nothing")]
    pub(super) name: Option<String>,
    /// What is to run, by name.
    pub(super) workloads: Option<Named<Workload>>,
    /// The same as `workloads`, so that Compose files can be read.
    pub(super) services: Option<Named<Workload>>,
    /// Names of volumes. They need not be declared; every instance has its own.
    #[expect(dead_code, reason = "accepted for Compose files; means nothing")]
    #[serde(default)]
    pub(super) volumes: BTreeMap<String, Option<Nothing>>,
}

/// No keys at all.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Nothing {}

/// What is to run, how often, and where.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Workload {
    /// Image reference, such as `debian:12`.
    pub(super) image: String,
    /// When a node asks the registry for the image: `missing` (the default), `newest` (also before the first container of
    /// a version), or `pinned` (as `missing`, and the reference has to name a digest).
    pub(super) image_policy: Option<ImagePolicy>,
    /// Compose's words for `image_policy`: `missing`, `if_not_present`, or `always`, which is `newest`.
    pub(super) pull_policy: Option<PullPolicy>,
    /// Replaces the image's command. A text is split like a shell does.
    pub(super) command: Option<Short<Words>>,
    /// Replaces the image's entry point. A text is split like a shell does.
    pub(super) entrypoint: Option<Short<Words>>,
    /// Environment variables. One without a value is taken from whoever applies the file.
    #[serde(default)]
    pub(super) environment: Pairs,
    /// Files of environment variables beside this one, `KEY=VALUE` on each line; what `environment` says counts more, and a
    /// later file more than an earlier one. They are read by whoever applies the file.
    pub(super) env_file: Option<Short<EnvFiles>>,
    /// The workload with which this one begins: its name, or `{file: FILE, service: NAME}` for one of a file beside this one.
    #[expect(dead_code, reason = "written out before the file is read")]
    pub(super) extends: Option<Short<Extends>>,
    /// Applied only if one of these is asked for by `--profile`.
    #[serde(default)]
    pub(super) profiles: Vec<String>,
    /// How many instances. If not given: as many as there are, 1 for a new workload.
    pub(super) replicas: Option<u32>,
    /// Whether its instances are stopped: they keep address, name, volumes and place. If not given: as they are, and new
    /// ones run.
    pub(super) stopped: Option<bool>,
    /// The same as `replicas`.
    pub(super) scale: Option<u32>,
    /// Share and limit of each instance.
    #[serde(default)]
    pub(super) resources: Resources,
    /// The same as `resources.cpu`.
    pub(super) cpus: Option<Millicores>,
    /// The same as `resources.memory`.
    pub(super) mem_limit: Option<Bytes>,
    /// The same as `resources.pids`.
    pub(super) pids_limit: Option<u32>,
    /// Addresses and ports.
    #[serde(default)]
    pub(super) network: Network,
    /// The same as `network.expose`.
    pub(super) expose: Option<Vec<Port>>,
    /// How an instance shows that it works.
    pub(super) healthcheck: Option<HealthCheck>,
    /// How an instance shows that others can use it: until then its workload's name does not lead to it, and a rollout
    /// waits for it. Restarts nothing.
    pub(super) readiness: Option<Readiness>,
    /// What is done in an instance after its start and before its end.
    #[serde(default)]
    pub(super) hooks: Hooks,
    /// What happens when the main process ends: `always` (the default), `unless-stopped` (the same),
    /// `on-failure`, `on-failure:TIMES` or `no`.
    pub(super) restart: Option<Restart>,
    /// Its instances run to completion, and then never again. `{}` for a job with the defaults.
    pub(super) job: Option<Job>,
    /// What is mounted: `NAME:/path`, `/path/of/the/node:/path`, each with `:ro` if not to be written.
    #[serde(default)]
    pub(super) volumes: Vec<Short<Mount>>,
    /// Whether an instance's root file system is its own and outlives every container, as a machine's does: `true`, or
    /// `{on_image_change: rebuild}` for one that begins anew when another image is declared (`keep` if not given).
    pub(super) machine: Option<Short<IsMachine>>,
    /// Files and directories of an instance, absolute paths inside, that its next container on the same node takes over.
    #[serde(default)]
    pub(super) carry: Vec<String>,
    /// Hostname inside; an instance's own name if not given.
    pub(super) hostname: Option<String>,
    /// Labels of the containers; changing one replaces them.
    #[serde(default)]
    pub(super) labels: Pairs,
    /// Only on nodes of this pool.
    pub(super) pool: Option<PoolName>,
    /// Only on nodes of which all hold: `LABEL==VALUE`, `LABEL!=VALUE`; also `node.name`, `node.arch`.
    pub(super) constraints: Option<Vec<Condition>>,
    /// One instance on every node that `pool` and `constraints` allow, instead of a number of replicas.
    #[serde(default)]
    pub(super) one_per_node: bool,
    /// How changes reach the instances.
    #[serde(default)]
    pub(super) update: Update,
    /// What becomes of an instance whose node is lost: `keep` (the default), or `replace after 2m`.
    pub(super) on_lost: Option<OnLost>,
    /// Who answers on port 22: `image` (a server of its own), `off`, or dwell, for `authorized_keys`,
    /// `key_sets` and `users`.
    pub(super) ssh: Option<Short<Ssh>>,
    /// User, or `user:group`, by name or number.
    pub(super) user: Option<String>,
    /// Working directory, absolute.
    pub(super) working_dir: Option<String>,
    /// Whether the main process has an input, which nobody writes to and which stays open.
    #[serde(default)]
    pub(super) stdin_open: bool,
    /// Whether the main process has a terminal.
    #[serde(default)]
    pub(super) tty: bool,
    /// What process 1 is: a small init that reaps what nobody waits for and starts the main process (`true`), the main process
    /// (`false`), or the image's own systemd (`systemd`). If not given: `true` for machines, and for what runs a plain shell or `sleep`.
    pub(super) init: Option<Process1>,
    /// Whether nothing can be written but to what is mounted.
    #[serde(default)]
    pub(super) read_only: bool,
    /// Directories in memory: `/run`, or `/run:size=64m,mode=755`.
    pub(super) tmpfs: Option<Short<InMemory>>,
    /// Limits of each process by name, such as `nofile: 65536`; -1 for any number.
    #[serde(default)]
    pub(super) ulimits: BTreeMap<String, Short<Ulimit>>,
    /// Capabilities that it has not, of those that the engine gives; `ALL` for none.
    #[serde(default)]
    pub(super) cap_drop: Vec<String>,
    /// Groups that its main process is in beside its user's.
    #[serde(default)]
    pub(super) group_add: Vec<String>,
    /// Names that it finds in its `/etc/hosts`, and their addresses.
    #[serde(default)]
    pub(super) extra_hosts: Pairs,
    /// Settings of the kernel that each instance has for itself: `net.…`, `fs.mqueue.…`, `kernel.shm…`, `kernel.msg…` and `kernel.sem`.
    #[serde(default)]
    pub(super) sysctls: Pairs,
    /// Capabilities that it has beside, or in spite of `cap_drop: [ALL]`. What an engine does not give by itself has to be
    /// in `allow_capabilities` in the node's agent.yaml.
    #[serde(default)]
    pub(super) cap_add: Vec<String>,
    /// Devices of its node, `/dev/fuse`, `/dev/a:/dev/b` or `/dev/a:/dev/b:rwm`, which have to be in `allow_devices` in the node's
    /// agent.yaml.
    #[serde(default)]
    pub(super) devices: Vec<Short<Device>>,
    /// Domains that are searched for names after the cluster's zone, in place of the node's.
    pub(super) dns_search: Option<Short<OneOrMore>>,
    /// Options of its resolver, such as `ndots:2`, in place of the node's.
    #[serde(default)]
    pub(super) dns_opt: Vec<String>,
    /// Signal that asks the main process to end, such as `SIGTERM`.
    pub(super) stop_signal: Option<String>,
    /// Size of `/dev/shm`, such as `256Mi`; 64 MiB if not given.
    pub(super) shm_size: Option<Bytes>,
    /// How long the main process may take to end before it is killed; `10s` if not given.
    pub(super) stop_grace_period: Option<Millis>,
    /// Compose's place for replicas, limits, constraints and the workload's labels.
    #[serde(default)]
    pub(super) deploy: Deploy,
}

/// How the instances of a workload run to completion.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Job {
    /// How many may be at work at the same time; all of them if not given.
    pub(super) parallelism: Option<u32>,
    /// How often an instance is tried before it has failed, with growing pauses; 6 if not given.
    pub(super) attempts: Option<u32>,
    /// How long the whole job may take, from its first start on; what has not ended by then has failed. As long as it takes
    /// if not given.
    pub(super) deadline: Option<Millis>,
    /// How long after the end of its last instance the workload is removed; it is kept if not given.
    pub(super) ttl: Option<Millis>,
    /// When its work is done anew, by the same instances; once, when it is declared, if not given.
    pub(super) schedule: Option<Schedule>,
}

/// At which times the work of a job is begun anew.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Schedule {
    /// Minute, hour, day of the month, month and day of the week, as in crontab(5): `30 2 * * *`.
    pub(super) cron: String,
    /// Whose clock counts: a name of the time zone database, such as `Europe/Berlin`; `UTC` if not given.
    pub(super) time_zone: Option<String>,
    /// What a due time means while earlier work is under way: its work is left out (`skip`), begins when that has ended
    /// (`wait`), or takes its place (`replace`); `skip` if not given.
    pub(super) overlap: Option<Overlap>,
    /// How late work may begin that nobody could begin when it was due, from 30 s on; `10m` if not given.
    pub(super) catch_up: Option<Millis>,
    /// How many runs that are over are remembered, 1 to 100; 10 if not given.
    pub(super) history: Option<u32>,
}

/// What a due time means while earlier work of a job is under way.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Overlap {
    /// Its work is left out.
    Skip,
    /// Its work begins when the earlier one has ended.
    Wait,
    /// The earlier work is stopped.
    Replace,
}

/// Share and limit of one instance.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Resources {
    /// Processors: `2`, `0.5` or `500m`.
    pub(super) cpu: Option<Millicores>,
    /// Memory: `256Mi`, `1Gi`.
    pub(super) memory: Option<Bytes>,
    /// The most processes and threads, 4096 if not given. Not promised to anybody.
    pub(super) pids: Option<u32>,
}

/// Addresses and ports of the instances.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Network {
    /// IPv4 addresses: the first is instance 0's, and so on. Others get one from their node.
    pub(super) ip: Option<Short<Addresses>>,
    /// What becomes of the address of an instance that comes to another node, unless it is one of `ip`.
    pub(super) on_move: Option<OnMove>,
    /// Ports the instances listen on, `80`, `53/udp` or `8000-8010`. Says so to people and programs; opens nothing.
    pub(super) expose: Option<Vec<Port>>,
    /// Who may reach the instances: `any`, `same-workload`, a workload, a range of addresses, or a mapping
    /// that also names ports. All others are refused. Without a list the cluster's default holds.
    pub(super) allow_from: Option<Vec<Short<AllowRule>>>,
    /// Whom the instances may reach, in the same words; beside that, names at their gateway and answers to whoever
    /// reached them. All others are refused. Without a list they reach everybody.
    pub(super) allow_to: Option<Vec<Short<AllowRule>>>,
}

/// What becomes of the address of an instance that comes to another node.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum OnMove {
    /// It goes along.
    KeepAddress,
    /// The instance gets one of its new node's block.
    NewAddress,
}

/// How an instance shows that it works: one of `test`, `tcp` and `http`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct HealthCheck {
    /// A command inside that exits with 0: `[CMD, …]`, `[CMD-SHELL, LINE]`, a line for a shell, or `[NONE]`.
    pub(super) test: Option<Short<Test>>,
    /// A port that takes connections.
    pub(super) tcp: Option<u16>,
    /// A page that answers with a status from 200 to 399: `:8080/healthz`, or `port` and `path`.
    pub(super) http: Option<Short<Http>>,
    /// Pause between two probes; `10s` if not given.
    pub(super) interval: Option<Millis>,
    /// How long one probe may take; `5s` if not given.
    pub(super) timeout: Option<Millis>,
    /// Failures in a row that make an instance unhealthy; 3 if not given.
    pub(super) retries: Option<u32>,
    /// How long after a start failures do not count; `0s` if not given.
    pub(super) start_period: Option<Millis>,
    /// How long it may be unhealthy before its main process is restarted; never restarted if not given.
    pub(super) restart: Option<Millis>,
    /// No check at all.
    #[serde(default)]
    pub(super) disable: bool,
}

/// How an instance shows that others can use it: one of `test`, `tcp` and `http`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Readiness {
    /// A command inside that exits with 0: `[CMD, …]`, `[CMD-SHELL, LINE]`, or a line for a shell.
    pub(super) test: Option<Short<Test>>,
    /// A port that takes connections.
    pub(super) tcp: Option<u16>,
    /// A page that answers with a status from 200 to 399: `:8080/ready`, or `port` and `path`.
    pub(super) http: Option<Short<Http>>,
    /// Pause between two probes; `10s` if not given.
    pub(super) interval: Option<Millis>,
    /// How long one probe may take; `5s` if not given.
    pub(super) timeout: Option<Millis>,
    /// Failures in a row after which it is not ready any more; 3 if not given.
    pub(super) retries: Option<u32>,
    /// How long after a start failures do not count; `0s` if not given.
    pub(super) start_period: Option<Millis>,
}

/// What is done in an instance after its start and before its end.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Hooks {
    /// Right after its main process was started. It has to succeed before the instance counts as started.
    pub(super) after_start: Option<Hook>,
    /// Before its main process is asked to end, whenever dwell ends it. If it fails, that is told and holds nothing up.
    pub(super) before_stop: Option<Hook>,
}

/// What is done: one of `exec` and `http`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Hook {
    /// A command inside that exits with 0; a list of words, or a text that is split like a shell does.
    pub(super) exec: Option<Short<Words>>,
    /// A page that answers a GET with a status from 200 to 399: `:8080/drain`, or `port` and `path`.
    pub(super) http: Option<Short<Http>>,
    /// How long it may take; `30s` if not given.
    pub(super) timeout: Option<Millis>,
}

/// How changes reach the instances.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Update {
    /// How many may be changing at once, as a number or a share such as `25%`; 1 if not given.
    pub(super) parallelism: Option<Portion>,
    /// How many try a new version out before `dwell promote` gives it to the others; none if not given.
    pub(super) canary: Option<Portion>,
    /// How long a changed one may take to hold before the old container is put back; `60s` if not given, and at
    /// least what its health check needs.
    pub(super) deadline: Option<Millis>,
    /// How long a new container without a health check has to run to hold; `10s` if not given.
    pub(super) monitor: Option<Millis>,
    /// How many instances may fail with a new version, as a number or a share such as `10%`, before `on_failure` is done; none
    /// if not given. No canary may fail.
    pub(super) max_failures: Option<Portion>,
    /// What is done when more instances than may did not hold with a new version: `pause` waits for an operator, `rollback`
    /// takes all instances back to the good version, `continue` gives it to the others however many fail; `pause` if not given.
    pub(super) on_failure: Option<OnFailure>,
    /// Whether the old container ends before the new one starts (`stop-first`), or when the new one has shown that it works
    /// (`start-first`, for a second share of the node meanwhile); `stop-first` if not given.
    pub(super) order: Option<Order>,
}

/// In which order a container is replaced.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Order {
    /// The old one is stopped, then the new one is started in its place.
    StopFirst,
    /// The new one is started beside the old one, which is stopped when the new one holds.
    StartFirst,
}

/// What is done when more instances than may did not hold with a new version.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnFailure {
    /// The rollout waits for an operator.
    Pause,
    /// All instances go back to the good version.
    Rollback,
    /// The others are given it all the same; one that failed stays on what held before.
    Continue,
}

/// Compose's place for replicas, limits, constraints and the workload's labels.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Deploy {
    /// Labels of the workload alone: free words for people and programs.
    #[serde(default)]
    pub(super) labels: Pairs,
    /// The same as `replicas`.
    pub(super) replicas: Option<u32>,
    /// `global` is the same as `one_per_node: true`.
    pub(super) mode: Option<Mode>,
    /// Limits.
    #[serde(default)]
    pub(super) resources: DeployResources,
    /// Constraints.
    #[serde(default)]
    pub(super) placement: DeployPlacement,
}

/// Compose's words for how many instances there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    /// As many as `replicas` says.
    Replicated,
    /// One on every node.
    Global,
}

/// Compose's place for limits.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct DeployResources {
    /// Share and limit of each instance.
    #[serde(default)]
    pub(super) limits: DeployLimits,
}

/// Compose's words for limits.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct DeployLimits {
    /// The same as `resources.cpu`.
    pub(super) cpus: Option<Millicores>,
    /// The same as `resources.memory`.
    pub(super) memory: Option<Bytes>,
    /// The same as `resources.pids`.
    pub(super) pids: Option<u32>,
}

/// Compose's place for constraints.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct DeployPlacement {
    /// The same as `constraints`; `node.labels.KEY`, `node.hostname` and `node.platform.arch` are understood.
    pub(super) constraints: Option<Vec<Condition>>,
}
