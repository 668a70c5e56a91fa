//! What Docker is told of an instance: pure, from an assignment to the body of a create request.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, DeviceMapping, HealthConfig, HostConfig,
    HostConfigLogConfig, Mount, MountType, MountVolumeOptions, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};
use dwell_core::id::{Generation, InstanceName, VolumeName};
use dwell_core::instance::Assigned;
use dwell_core::sandbox::Slot;
use dwell_core::workload::{Init, Limits, MountSource, Process, Template, Tmpfs, Ulimit};
use sha2::{Digest, Sha256};

use super::Runtime;

pub(super) const LABEL_CLUSTER: &str = "dwell.cluster";
pub(super) const LABEL_INSTANCE: &str = "dwell.instance";
pub(super) const LABEL_GENERATION: &str = "dwell.generation";
pub(super) const LABEL_LIFE: &str = "dwell.life";
pub(super) const LABEL_ADDRESS: &str = "dwell.address";
/// Which sandbox of its instance it runs in, if that is not the usual one.
pub(super) const LABEL_SLOT: &str = "dwell.sandbox";
pub(super) const LABEL_FINGERPRINT: &str = "dwell.fingerprint";
pub(super) const LABEL_RESTARTS: &str = "dwell.restarts-asked";
pub(super) const LABEL_GRACE: &str = "dwell.stop-grace-ms";
pub(super) const LABEL_VOLUME: &str = "dwell.volume";
/// On the container of a machine: the directory of its root, in the volume that it has at [`ROOT_MOUNT`].
pub(super) const LABEL_ROOT: &str = "dwell.root";
/// On what has systemd for its main process.
pub(super) const LABEL_SYSTEMD: &str = "dwell.systemd";
/// The settings of the kernel that are the container's own, as JSON, for the wrapper to set: Docker takes none of a network that
/// it has not made.
pub(super) const LABEL_SYSCTLS: &str = "dwell.sysctls";
/// Where the container of a machine has the volume of its root, as far as Docker knows; the wrapper takes it away from there.
pub(super) const ROOT_MOUNT: &str = "/.dwell-root";
/// On the volume of a path that the image declares: the path.
pub(super) const LABEL_IMAGE_PATH: &str = "dwell.image-path";

/// How much of a path a volume's name shows, in bytes.
const SHOWN_PATH_MAX: usize = 40;

/// What stands for no limit where a limit is taken away: Docker reads 0 as "leave it" there. One
/// exbibyte, beyond every specification.
pub(super) const MEMORY_UNLIMITED: u64 = 1 << 60;

/// The period of the scheduler that processor limits are counted in, in microseconds.
const CPU_PERIOD_US: i64 = 100_000;
/// The same for limits below [`CPU_SMALL`], the longest that the kernel takes: it takes no less than a
/// millisecond per period, and what it is told has to be what was asked for.
const CPU_PERIOD_LONG_US: i64 = 1_000_000;
/// The least limit that is a millisecond of the usual period, in thousandths of a processor.
const CPU_SMALL: u64 = 10;
/// The output of one container is kept in so many files of this size at most.
const LOG_FILES: &str = "3";
const LOG_FILE_SIZE: &str = "10m";

/// The name of the container of an instance at a generation.
pub(super) fn container_name(instance: &InstanceName, generation: Generation) -> String {
    format!("dwell.{instance}.g{generation}")
}

/// The name of an instance's volume. Volumes are Docker's own: they take over what the image has at
/// that place, as users of Compose expect, and Docker keeps them when it removes containers.
pub(super) fn volume_name(instance: &InstanceName, volume: &VolumeName) -> String {
    format!("dwell.{instance}.{volume}")
}

/// What says whose a volume is.
pub(super) fn volume_labels(
    cluster: &str,
    instance: &InstanceName,
    volume: &VolumeName,
) -> HashMap<String, String> {
    [
        (LABEL_CLUSTER, cluster.to_owned()),
        (LABEL_INSTANCE, instance.to_string()),
        (LABEL_VOLUME, volume.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The name of the volume of a path that the image declares: `image-`, what can be shown of the path, and a digest of it,
/// since different paths may look the same.
fn image_volume(path: &str) -> Option<VolumeName> {
    let shown: Vec<&str> = path
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let mut shown = shown.join("-").to_ascii_lowercase();
    shown.truncate(SHOWN_PATH_MAX);
    let digest = Sha256::digest(path.as_bytes());
    let digest: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let words = ["image", shown.trim_matches('-'), &digest];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    VolumeName::new(words.join("-")).ok()
}

/// What is known of the node when a container is made.
pub(super) struct Surroundings<'a> {
    /// The cluster's name.
    pub(super) cluster: &'a str,
    /// What puts it into its sandbox.
    pub(super) runtime: Runtime,
    /// And into which.
    pub(super) slot: Slot,
    /// The directory with its `hosts` and `resolv.conf`.
    pub(super) files: &'a Path,
    /// The host's paths of its bind mounts, resolved and allowed, by target.
    pub(super) binds: &'a HashMap<String, String>,
    /// Its devices, resolved and allowed.
    pub(super) devices: &'a [DeviceMapping],
    /// The reference of its image, as exact as it is known.
    pub(super) image: &'a str,
    /// The paths that its image declares as volumes.
    pub(super) image_volumes: &'a [String],
    /// The directory of its root, if it is a machine.
    pub(super) root: Option<&'a str>,
    /// Whether Docker's init is its process 1.
    pub(super) init: bool,
    /// Whether it may call reboot(2), which in a container ends its process 1 and nothing else.
    pub(super) may_reboot: bool,
}

/// The variable that tells an instance of a job which of its completions it is.
const ORDINAL: &str = "DWELL_ORDINAL";

/// By which systemd knows that it is in a container.
const CONTAINER: (&str, &str) = ("container", "docker");
/// The program of an image's own systemd, whether or not something else is its `init`.
const SYSTEMD: &str = "/lib/systemd/systemd";
/// By which systemd is asked to shut the machine down.
const HALT: &str = "SIGRTMIN+3";
/// What systemd expects to find empty, and in memory.
const VOLATILE: [(&str, &str); 3] =
    [("/run", "mode=755"), ("/run/lock", "mode=1777"), ("/tmp", "exec,mode=1777")];

fn has_systemd(template: &Template) -> bool {
    template.process.init == Some(Init::Systemd)
}

/// What is started: what is declared or, of systemd, that.
fn entrypoint(template: &Template) -> Option<Vec<String>> {
    let is_open = template.entrypoint.is_empty() && template.command.is_empty();
    match has_systemd(template) && is_open {
        true => Some(vec![SYSTEMD.to_owned()]),
        false => some(template.entrypoint.clone(), Vec::is_empty),
    }
}

fn stop_signal(template: &Template) -> Option<String> {
    let usual = has_systemd(template).then(|| HALT.to_owned());
    given(&template.stop_signal).or(usual)
}

/// The variables of a container: what is declared, and of a job its ordinal unless that is declared itself.
fn environment(assigned: &Assigned) -> Vec<String> {
    let declared = &assigned.template.environment;
    let ordinal = assigned.task.filter(|_| !declared.contains_key(ORDINAL));
    let ordinal = ordinal.map(|_| format!("{ORDINAL}={}", assigned.instance.ordinal()));
    let declared = declared.iter().map(|(key, value)| format!("{key}={value}"));
    let is_told =
        has_systemd(&assigned.template) && !assigned.template.environment.contains_key(CONTAINER.0);
    let container = is_told.then(|| format!("{}={}", CONTAINER.0, CONTAINER.1));
    declared.chain(ordinal).chain(container).collect()
}

/// The request for an instance's container.
///
/// Docker's own ways of restarting, probing and wiring are all switched off: the agent does that.
pub(super) fn body(assigned: &Assigned, surroundings: &Surroundings<'_>) -> ContainerCreateBody {
    let template = &assigned.template;
    let mut labels: HashMap<_, _> = template.labels.clone().into_iter().collect();
    labels.extend(
        [
            (LABEL_CLUSTER, surroundings.cluster.to_owned()),
            (LABEL_INSTANCE, assigned.instance.to_string()),
            (LABEL_GENERATION, assigned.generation.to_string()),
            (LABEL_LIFE, assigned.life.0.to_string()),
            (LABEL_ADDRESS, assigned.address.to_string()),
            (LABEL_FINGERPRINT, assigned.fingerprint().to_string()),
            (LABEL_RESTARTS, assigned.restarts_asked.to_string()),
            (LABEL_GRACE, template.stop_grace.0.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    labels.extend(surroundings.root.map(|root| (LABEL_ROOT.to_owned(), root.to_owned())));
    if has_systemd(template) {
        labels.insert(LABEL_SYSTEMD.to_owned(), String::new());
    }
    let sysctls = &template.process.sysctls;
    if !sysctls.is_empty() && surroundings.runtime == Runtime::Dwell {
        // Texts by texts can always be written.
        labels.insert(LABEL_SYSCTLS.to_owned(), serde_json::to_string(sysctls).unwrap_or_default());
    }
    if !surroundings.slot.is_usual() {
        labels.insert(LABEL_SLOT.to_owned(), surroundings.slot.to_string());
    }
    ContainerCreateBody {
        image: Some(surroundings.image.to_owned()),
        hostname: Some(assigned.hostname()),
        entrypoint: entrypoint(template),
        cmd: Some(template.command.clone()).filter(|words| !words.is_empty()),
        env: Some(environment(assigned)),
        user: given(&template.user),
        working_dir: given(&template.working_dir),
        open_stdin: Some(template.stdin),
        // The input of what runs to completion is of whoever attaches to it, and ends with them.
        stdin_once: Some(template.stdin && assigned.task.is_some()),
        tty: Some(template.tty),
        stop_signal: stop_signal(template),
        // For whoever stops it beside us: `docker stop`, and the daemon's own end.
        stop_timeout: Some(seconds(template.stop_grace.as_duration())),
        labels: Some(labels),
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        host_config: Some(host_config(assigned, surroundings)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(assigned: &Assigned, surroundings: &Surroundings<'_>) -> HostConfig {
    let Told { cpu_period_us, cpu_quota_us, memory, memory_swap, pids } =
        Told::of(assigned.template.limits());
    let process = &assigned.template.process;
    let (runtime, network, sysctls) = match surroundings.runtime {
        // Docker prepares no network; the wrapper puts the sandbox in the place of the host's, and sets what is set there.
        Runtime::Dwell => (Some(Runtime::NAME.to_owned()), "host", None),
        Runtime::WithoutNetwork => {
            let sysctls = process.sysctls.clone().into_iter().collect();
            (None, "none", some(sysctls, HashMap::is_empty))
        }
    };
    // Of a machine, to reboot it: in a container that ends no more than the container.
    let reboot = surroundings.may_reboot.then(|| "SYS_BOOT".to_owned());
    let capabilities: BTreeSet<String> = process.cap_add.iter().cloned().chain(reboot).collect();
    HostConfig {
        runtime,
        network_mode: Some(network.to_owned()),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        cpu_period: Some(cpu_period_us),
        cpu_quota: Some(cpu_quota_us),
        memory: Some(memory),
        memory_swap: Some(memory_swap),
        pids_limit: Some(pids),
        shm_size: assigned.template.shm_size.map(|size| i64::try_from(size.0).unwrap_or(i64::MAX)),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(
                [("max-size", LOG_FILE_SIZE), ("max-file", LOG_FILES)]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
        }),
        mounts: Some(mounts(assigned, surroundings)),
        init: surroundings.init.then_some(true),
        cap_add: some(capabilities.into_iter().collect(), Vec::is_empty),
        devices: some(surroundings.devices.to_vec(), Vec::is_empty),
        sysctls,
        tmpfs: some(in_memory(&assigned.template), HashMap::is_empty),
        ..held(&assigned.template.process)
    }
}

/// How processes are held. The extra hosts are in the file that is mounted at `/etc/hosts`.
fn held(process: &Process) -> HostConfig {
    let ulimit = |(name, limit): (&String, &Ulimit)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(limit.soft.into()),
        hard: Some(limit.hard.into()),
    };
    let ulimits: Vec<ResourcesUlimits> = process.ulimits.iter().map(ulimit).collect();
    HostConfig {
        readonly_rootfs: process.read_only.then_some(true),
        ulimits: some(ulimits, Vec::is_empty),
        cap_drop: some(process.cap_drop.iter().cloned().collect(), Vec::is_empty),
        group_add: some(process.group_add.clone(), Vec::is_empty),
        ..HostConfig::default()
    }
}

/// Whether what is in it is to start it again, or shut it down.
pub(super) fn reboots(template: &Template) -> bool {
    template.machine.is_some() || has_systemd(template)
}

/// Its directories in memory: those declared, and those that systemd expects where nothing else is.
fn in_memory(template: &Template) -> HashMap<String, String> {
    let is_mounted = |at: &str| template.mounts.iter().any(|one| trimmed(&one.target) == at);
    let expected = VOLATILE.into_iter().filter(|(at, _)| has_systemd(template) && !is_mounted(at));
    let expected = expected.map(|(at, options)| (at.to_owned(), options.to_owned()));
    expected.chain(template.process.tmpfs.iter().map(tmpfs)).collect()
}

/// A directory in memory, and its options as mount(8) takes them.
fn tmpfs(one: &Tmpfs) -> (String, String) {
    let size = one.size.map(|size| format!("size={}", size.0));
    let mode = one.mode.map(|mode| format!("mode={mode:o}"));
    let options: Vec<String> = size.into_iter().chain(mode).collect();
    (one.target.clone(), options.join(","))
}

/// Nothing is said where there is nothing to say.
fn some<T>(all: T, is_empty: impl Fn(&T) -> bool) -> Option<T> {
    (!is_empty(&all)).then_some(all)
}

fn mounts(assigned: &Assigned, surroundings: &Surroundings<'_>) -> Vec<Mount> {
    let asked = &assigned.template.mounts;
    let own = ["hosts", "resolv.conf"].into_iter().filter_map(|file| {
        let target = format!("/etc/{file}");
        let replaced = asked.iter().any(|mount| mount.target == target);
        let source = surroundings.files.join(file).to_string_lossy().into_owned();
        (!replaced).then(|| bind(source, target, false))
    });
    let asked = asked.iter().filter_map(|mount| match &mount.source {
        MountSource::Bind(_) => surroundings
            .binds
            .get(&mount.target)
            .map(|source| bind(source.clone(), mount.target.clone(), mount.read_only)),
        MountSource::Volume(name) => Some(volume(
            &assigned.instance,
            name,
            &mount.target,
            mount.read_only,
            surroundings,
            None,
        )),
    });
    let targets: Vec<&str> =
        assigned.template.mounts.iter().map(|mount| trimmed(&mount.target)).collect();
    let of_image = surroundings.image_volumes.iter().filter_map(|path| {
        let path = trimmed(path);
        let name = image_volume(path).filter(|_| !targets.contains(&path))?;
        Some(volume(&assigned.instance, &name, path, false, surroundings, Some(path)))
    });
    let machine = assigned.template.machine.as_ref().filter(|_| surroundings.root.is_some());
    let root = machine.map(|machine| {
        let whole =
            volume(&assigned.instance, &machine.volume, ROOT_MOUNT, false, surroundings, None);
        let options = whole
            .volume_options
            .map(|options| MountVolumeOptions { no_copy: Some(true), ..options });
        Mount { volume_options: options, ..whole }
    });
    own.chain(asked).chain(of_image).chain(root).collect()
}

/// The volumes that a container would have and the node has had already: Docker would make an empty one in place of each that is
/// not there.
pub(super) fn kept_volumes(assigned: &Assigned, image_volumes: &[String]) -> BTreeSet<VolumeName> {
    let declared = assigned.template.volumes().cloned();
    let of_image = own_paths(assigned, image_volumes).filter_map(image_volume);
    declared.chain(of_image).filter(|name| assigned.kept_volumes.contains(name)).collect()
}

/// A path that an image declares as a volume, of an instance that may have two containers at once.
pub(super) fn shared_by_two<'a>(
    assigned: &Assigned,
    image_volumes: &'a [String],
) -> Option<&'a str> {
    own_paths(assigned, image_volumes).next().filter(|_| assigned.beside)
}

/// The paths that an image declares as volumes and nothing else is mounted at.
fn own_paths<'a>(
    assigned: &Assigned,
    image_volumes: &'a [String],
) -> impl Iterator<Item = &'a str> {
    let is_mounted =
        |path: &&str| assigned.template.mounts.iter().any(|one| trimmed(&one.target) == *path);
    image_volumes.iter().map(|path| trimmed(path)).filter(move |path| !is_mounted(path))
}

/// A volume of the instance's own. Docker makes it if it is not there.
fn volume(
    instance: &InstanceName,
    name: &VolumeName,
    target: &str,
    read_only: bool,
    surroundings: &Surroundings<'_>,
    image_path: Option<&str>,
) -> Mount {
    let mut labels = volume_labels(surroundings.cluster, instance, name);
    labels.extend(image_path.map(|path| (LABEL_IMAGE_PATH.to_owned(), path.to_owned())));
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume_name(instance, name)),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        volume_options: Some(MountVolumeOptions {
            labels: Some(labels),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }
}

/// A path without the slash at its end.
fn trimmed(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}

fn bind(source: String, target: String, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source),
        target: Some(target),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

/// A grace as Docker counts it: rather a little longer than asked.
pub(super) fn seconds(grace: Duration) -> i64 {
    i64::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}

fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The request for other limits of a container that exists.
pub(super) fn update(limits: Limits) -> ContainerUpdateBody {
    let Told { cpu_period_us, cpu_quota_us, memory, memory_swap, pids } = Told::of(limits);
    let unlimited = i64::try_from(MEMORY_UNLIMITED).unwrap_or(i64::MAX);
    // More than the memory: the difference is the swap, and none would take it from a container that has no limit.
    let unlimited_with_swap = unlimited.saturating_mul(2);
    ContainerUpdateBody {
        cpu_period: Some(cpu_period_us),
        cpu_quota: Some(if cpu_quota_us == 0 { -1 } else { cpu_quota_us }),
        memory: Some(if memory == 0 { unlimited } else { memory }),
        memory_swap: Some(if memory_swap == 0 { unlimited_with_swap } else { memory_swap }),
        pids_limit: Some(pids),
        ..ContainerUpdateBody::default()
    }
}

/// Limits in Docker's terms. A quota and not its `NanoCpus`: that cannot be taken away again, and is
/// refused where it exceeds the host.
struct Told {
    cpu_period_us: i64,
    cpu_quota_us: i64,
    memory: i64,
    /// Memory and swap together: equal to the memory, so that there is no swap.
    memory_swap: i64,
    /// Processes and threads; -1 is no limit, here as there.
    pids: i64,
}

impl Told {
    fn of(limits: Limits) -> Self {
        let resources = limits.share;
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let is_small = (1..CPU_SMALL).contains(&resources.cpu.0);
        let cpu_period_us = if is_small { CPU_PERIOD_LONG_US } else { CPU_PERIOD_US };
        let memory = signed(resources.memory.0);
        Self {
            cpu_period_us,
            cpu_quota_us: signed(resources.cpu.0).saturating_mul(cpu_period_us / 1000),
            memory,
            memory_swap: memory,
            pids: if limits.pids == 0 { -1 } else { limits.pids.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use dwell_core::quantity::{Bytes, Millicores};
    use dwell_core::workload::{Most, Mount as Asked, Resources, Template};

    use super::*;
    use dwell_engine::fake;

    fn of(template: Template, runtime: Runtime) -> ContainerCreateBody {
        let binds = [("/data".to_owned(), "/srv/real".to_owned())].into();
        let files = Path::new("/files");
        let init = crate::init::has_one(&template, &(vec![], vec![]));
        let (may_reboot, root) = (reboots(&template), template.machine.as_ref().map(|_| "0-ab"));
        body(
            &fake::assigned("web-0", 3, template),
            &Surroundings {
                cluster: "lab",
                runtime,
                slot: Slot::A,
                files,
                binds: &binds,
                devices: &[],
                image: "app:1",
                root,
                init,
                may_reboot,
                image_volumes: &["/var/lib/db/".to_owned(), "/Spool/a".to_owned()],
            },
        )
    }

    #[test]
    fn two_containers_do_not_write_to_what_an_image_declares() {
        let mut template = Template::of_image("app:1");
        let declared = ["/data/".to_owned(), "/spool".to_owned()];
        let mut assigned = fake::assigned("web-0", 2, template.clone());
        assert_eq!(shared_by_two(&assigned, &declared), None);
        assigned.beside = true;
        assert_eq!(shared_by_two(&assigned, &declared), Some("/data"));
        let at = |target: &str| Asked {
            target: target.to_owned(),
            source: MountSource::Bind("/srv".to_owned()),
            read_only: true,
        };
        template.mounts = vec![at("/data"), at("/spool")];
        assigned.template = template;
        assert_eq!(shared_by_two(&assigned, &declared), None);
    }

    #[test]
    fn nothing_starts_without_the_runtime_or_in_the_host() {
        let host = of(Template::of_image("a"), Runtime::Dwell).host_config.unwrap();
        assert_eq!(host.runtime.as_deref(), Some("dwell"));
        assert_eq!(host.network_mode.as_deref(), Some("host"));
        let host = of(Template::of_image("a"), Runtime::WithoutNetwork).host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.privileged, None);
    }

    #[test]
    fn a_machine_has_the_volume_of_its_root_and_may_reboot() {
        let plain = of(Template::of_image("a"), Runtime::Dwell);
        assert_eq!(plain.host_config.unwrap().cap_add, None);
        assert!(!plain.labels.unwrap().contains_key(LABEL_ROOT));
        let mut template = Template::of_image("a");
        let volume = "root".parse().unwrap();
        template.machine = Some(dwell_core::workload::Machine {
            volume,
            on_image_change: dwell_core::workload::OnImageChange::Keep,
        });
        let body = of(template, Runtime::Dwell);
        assert_eq!(body.labels.unwrap()[LABEL_ROOT], "0-ab");
        let host = body.host_config.unwrap();
        assert_eq!((host.init, host.cap_add.unwrap()), (Some(true), vec!["SYS_BOOT".to_owned()]));
        let mounts = host.mounts.unwrap();
        let root = mounts.iter().find(|one| one.target.as_deref() == Some(ROOT_MOUNT)).unwrap();
        assert_eq!(root.source.as_deref(), Some("dwell.web-0.root"));
        let options = root.volume_options.as_ref().unwrap();
        assert_eq!(options.no_copy, Some(true), "what the image has there is none of it");
        assert_eq!(options.labels.as_ref().unwrap()[LABEL_VOLUME], "root");
    }

    #[test]
    fn systemd_finds_what_it_needs() {
        let mut template = Template::of_image("a");
        template.process.init = Some(Init::Systemd);
        let body = of(template.clone(), Runtime::Dwell);
        assert_eq!(body.entrypoint.unwrap(), [SYSTEMD]);
        assert_eq!(body.stop_signal.as_deref(), Some("SIGRTMIN+3"));
        assert_eq!(body.env.unwrap(), ["container=docker"]);
        assert!(body.labels.unwrap().contains_key(LABEL_SYSTEMD));
        let tmpfs = body.host_config.unwrap().tmpfs.unwrap();
        assert_eq!(tmpfs.keys().count(), 3, "{tmpfs:?}");
        // What is declared counts.
        template.command = vec!["/sbin/init".to_owned()];
        template.stop_signal = "SIGTERM".to_owned();
        template.environment.insert("container".to_owned(), "other".to_owned());
        let at = |target: &str| Asked {
            target: target.to_owned(),
            source: MountSource::Bind("/srv".to_owned()),
            read_only: false,
        };
        template.mounts = vec![at("/tmp/")];
        template.process.tmpfs =
            vec![Tmpfs { target: "/run".into(), size: Some(Bytes(9)), mode: None }];
        let body = of(template, Runtime::Dwell);
        assert_eq!((body.entrypoint, body.stop_signal.as_deref()), (None, Some("SIGTERM")));
        assert_eq!(body.env.unwrap(), ["container=other"]);
        let tmpfs = body.host_config.unwrap().tmpfs.unwrap();
        assert_eq!((tmpfs.get("/run").unwrap().as_str(), tmpfs.len()), ("size=9", 2));
    }

    #[test]
    fn processes_are_held_as_declared_and_nothing_is_said_otherwise() {
        let host = of(Template::of_image("a"), Runtime::Dwell).host_config.unwrap();
        assert_eq!((host.init, host.readonly_rootfs, host.tmpfs), (None, None, None));
        assert_eq!((host.ulimits, host.cap_drop, host.group_add), (None, None, None));
        assert_eq!((host.cap_add, host.devices, host.sysctls), (None, None, None));
        let mut template = Template::of_image("a");
        let limit = Ulimit { soft: Most::Number(9), hard: Most::Unlimited };
        template.process = Process {
            init: Some(Init::Engine),
            read_only: true,
            tmpfs: vec![
                Tmpfs { target: "/run".into(), size: Some(Bytes(64)), mode: Some(0o755) },
                Tmpfs { target: "/tmp".into(), size: None, mode: None },
            ],
            ulimits: [("nofile".into(), limit)].into(),
            cap_drop: ["NET_RAW".into()].into(),
            group_add: vec!["27".into()],
            extra_hosts: [("db".into(), "192.0.2.9".parse().unwrap())].into(),
            sysctls: [("net.core.somaxconn".into(), "9".into())].into(),
            cap_add: ["SYS_PTRACE".into()].into(),
            ..Process::default()
        };
        let sysctls = of(template.clone(), Runtime::WithoutNetwork).host_config.unwrap().sysctls;
        assert_eq!(sysctls.unwrap()["net.core.somaxconn"], "9");
        let body = of(template, Runtime::Dwell);
        assert_eq!(body.labels.unwrap()[LABEL_SYSCTLS], r#"{"net.core.somaxconn":"9"}"#);
        let host = body.host_config.unwrap();
        // Docker refuses those of a network that it has not made; the wrapper sets them.
        assert_eq!(host.sysctls, None);
        assert_eq!(host.cap_add.unwrap(), ["SYS_PTRACE"]);
        assert_eq!((host.init, host.readonly_rootfs), (Some(true), Some(true)));
        let tmpfs = host.tmpfs.unwrap();
        assert_eq!((tmpfs["/run"].as_str(), tmpfs["/tmp"].as_str()), ("size=64,mode=755", ""));
        let limit = &host.ulimits.unwrap()[0];
        assert_eq!(
            (limit.name.as_deref(), limit.soft, limit.hard),
            (Some("nofile"), Some(9), Some(-1))
        );
        assert_eq!(host.cap_drop.unwrap(), ["NET_RAW"]);
        assert_eq!(host.group_add.unwrap(), ["27"]);
        // Docker would write it into a file that is not the container's.
        assert_eq!(host.extra_hosts, None);
    }

    #[test]
    fn what_an_instance_prints_is_bounded() {
        let log = of(Template::of_image("a"), Runtime::Dwell).host_config.unwrap().log_config;
        let log = log.unwrap();
        assert_eq!(log.typ.as_deref(), Some("json-file"));
        let config = log.config.unwrap();
        assert_eq!((config["max-size"].as_str(), config["max-file"].as_str()), ("10m", "3"));
    }

    #[test]
    fn labels_of_a_template_cannot_pose_as_ours() {
        let mut template = Template::of_image("a");
        template.labels.insert(LABEL_INSTANCE.to_owned(), "db-0".to_owned());
        template.labels.insert("team".to_owned(), "x".to_owned());
        let labels = of(template, Runtime::Dwell).labels.unwrap();
        assert_eq!(labels[LABEL_INSTANCE], "web-0");
        assert_eq!(labels[LABEL_GENERATION], "3");
        assert_eq!(labels["team"], "x");
    }

    #[test]
    fn what_is_not_given_is_left_to_the_image() {
        let body = of(Template::of_image("a"), Runtime::Dwell);
        assert_eq!((body.cmd, body.entrypoint, body.user), (None, None, None));
        assert_eq!(body.hostname.as_deref(), Some("web-0"));
    }

    #[test]
    fn the_grace_is_known_to_docker_and_travels_with_the_container() {
        let mut template = Template::of_image("a");
        template.stop_grace = dwell_core::quantity::Millis(61_500);
        let body = of(template, Runtime::Dwell);
        assert_eq!(body.stop_timeout, Some(62));
        assert_eq!(body.labels.unwrap()[LABEL_GRACE], "61500");
    }

    #[test]
    fn mounts() {
        let mut template = Template::of_image("a");
        let mount =
            |source, target: &str| Asked { source, target: target.to_owned(), read_only: true };
        template.mounts = vec![
            mount(MountSource::Volume("db".parse().unwrap()), "/var/lib/db"),
            mount(MountSource::Bind("/srv/link".to_owned()), "/data"),
            mount(MountSource::Bind("/not/resolved".to_owned()), "/other"),
            mount(MountSource::Volume("hosts".parse().unwrap()), "/etc/hosts"),
        ];
        let mounts = of(template, Runtime::Dwell).host_config.unwrap().mounts.unwrap();
        let shown: Vec<_> = mounts
            .iter()
            .map(|mount| {
                (
                    mount.source.as_deref().unwrap(),
                    mount.target.as_deref().unwrap(),
                    mount.read_only,
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("/files/resolv.conf", "/etc/resolv.conf", Some(false)),
                ("dwell.web-0.db", "/var/lib/db", Some(true)),
                ("/srv/real", "/data", Some(true)),
                ("dwell.web-0.hosts", "/etc/hosts", Some(true)),
                // What the image declares and the file does not mount is kept as well.
                ("dwell.web-0.image-spool-a-8e4bfd02", "/Spool/a", Some(false)),
            ]
        );
        let labels = mounts[4].volume_options.as_ref().unwrap().labels.as_ref().unwrap();
        assert_eq!(labels[LABEL_IMAGE_PATH], "/Spool/a");
    }

    #[test]
    fn the_volume_of_an_image_has_the_name_of_its_path_alone() {
        let long = format!("/{}", "x".repeat(300));
        let paths = ["/", "/data", "/Data", "/da/ta", "/da-ta", "/da_ta", "/dätä", &long];
        let names: BTreeSet<_> = paths.iter().map(|path| image_volume(path).unwrap()).collect();
        assert_eq!(names.len(), paths.len());
        assert_eq!(image_volume("/data"), image_volume("/data"));
    }

    #[test]
    fn limits_can_be_set_and_taken_away() {
        let share = Resources { cpu: Millicores(250), memory: Bytes::mebi(64) };
        let some = update(Limits { share, pids: 4096 });
        assert_eq!((some.cpu_quota, some.memory), (Some(25_000), Some(64 << 20)));
        assert_eq!((some.memory_swap, some.pids_limit), (Some(64 << 20), Some(4096)));
        let none = update(Limits::default());
        assert_eq!((none.cpu_quota, none.memory), (Some(-1), Some(1 << 60)));
        assert!(none.memory_swap > none.memory, "its swap stays");
        assert_eq!(none.pids_limit, Some(-1));
        // What Docker says of a limit afterwards is what was asked for, also of a small one.
        for cpu in [1, 5, 9, 10, 250] {
            let share = Resources { cpu: Millicores(cpu), ..Resources::default() };
            let limits = Limits { share, pids: 100 };
            let told = update(limits);
            assert!(told.cpu_quota.unwrap() >= 1_000, "the kernel takes no less");
            let host = HostConfig {
                cpu_period: told.cpu_period,
                cpu_quota: told.cpu_quota,
                pids_limit: told.pids_limit,
                ..HostConfig::default()
            };
            assert_eq!(super::super::reply::limits(&host), limits);
        }
    }
}
