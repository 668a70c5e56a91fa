//! The rules of a specification that types alone cannot hold.

mod carry;
mod job;
mod machine;
mod probes;
mod process;
mod update;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::{
    AllowRule, AllowSource, ImagePolicy, Mount, MountSource, OnLost, REPLICAS_MAX, RestartPolicy,
    Ssh, Template, UpdateOrder, WorkloadSpec,
};
use crate::health::Probe;
use crate::image::digest_of;
use crate::quantity::{Bytes, Millicores};
use crate::ssh::DEFAULT_USER;

/// The most entries a list or a map of a specification may have.
const ENTRIES_MAX: usize = 1_000;
/// The most names that may be logged in as.
const USERS_MAX: usize = 64;
/// The longest of them, in bytes.
const USER_MAX: usize = 64;
/// The most bytes one text of a specification may have.
const TEXT_MAX: usize = 32 * 1024;
/// The most bytes all texts of a specification may have together.
const TOTAL_MAX: usize = 256 * 1024;
/// The longest image reference, in bytes.
const IMAGE_MAX: usize = 512;
/// The smallest share of a processor that the kernel gives: 1 ms of every 100 ms.
const CPU_MIN: Millicores = Millicores(10);
/// The least memory an engine can run a container with.
const MEMORY_MIN: Bytes = Bytes::mebi(6);
/// The bounds of how many processes may be allowed: a shell and what it starts, and the most that Linux can be set to.
const PIDS_MIN: u32 = 16;
const PIDS_MAX: u32 = 4_194_304;

/// Why a specification is refused: which field, what is wrong with it and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct SpecError {
    /// The field, as written in the file, such as `resources.memory`.
    pub field: String,
    /// What is wrong and what to do.
    pub problem: String,
}

fn refuse(field: impl Into<String>, problem: impl Into<String>) -> Result<(), SpecError> {
    Err(SpecError { field: field.into(), problem: problem.into() })
}

impl WorkloadSpec {
    /// Checks everything that can be checked without knowing the cluster.
    ///
    /// # Errors
    /// The first [`SpecError`] found.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.replicas > REPLICAS_MAX {
            return refuse(
                "replicas",
                format!(
                    "{} is more than the {REPLICAS_MAX} instances a workload may have",
                    self.replicas
                ),
            );
        }
        let unique: BTreeSet<&Ipv4Addr> = self.addresses.iter().collect();
        if unique.len() != self.addresses.len() {
            return refuse("network.ip", "an address is given twice; every instance needs its own");
        }
        if self.addresses.len() > ENTRIES_MAX {
            return refuse("network.ip", format!("more than {ENTRIES_MAX} addresses"));
        }
        update::check(&self.update)?;
        if self.placement.constraints.len() > 100 {
            return refuse("constraints", "more than 100 constraints");
        }
        self.check_on_lost()?;
        self.check_order()?;
        carry::check_rules(self)?;
        self.check_one_per_node()?;
        job::check(self)?;
        machine::check_rules(self)?;
        check_labels(&self.labels)?;
        self.template.check()
    }

    /// What is there once for every node has no place elsewhere.
    fn check_one_per_node(&self) -> Result<(), SpecError> {
        if !self.placement.one_per_node {
            return Ok(());
        }
        if !self.on_lost.is_keep() {
            return refuse(
                "on_lost",
                "every other node has an instance of its own with one_per_node; leave it out",
            );
        }
        if self.job.is_some() {
            return refuse(
                "one_per_node",
                "a job is done as often as its replicas say, wherever there is room; leave one of the two out",
            );
        }
        if !self.addresses.is_empty() {
            return refuse(
                "network.ip",
                "which nodes there will be is not known, and each has addresses of its own; leave it out with one_per_node",
            );
        }
        Ok(())
    }

    /// What is on a lost node cannot be had elsewhere, and no kernel keeps that node from writing to what it shares with
    /// others.
    fn check_on_lost(&self) -> Result<(), SpecError> {
        if self.on_lost.is_keep() {
            return Ok(());
        }
        if !self.on_lost.is_in_bounds() {
            let (least, most) = (OnLost::AFTER_MIN, OnLost::AFTER_MAX);
            return refuse("on_lost", format!("the time has to be from {least} to {most}"));
        }
        match self.template.written_place() {
            None => Ok(()),
            Some(place) => refuse(
                "on_lost",
                format!(
                    "what is mounted at {place} is on one node, so the instance cannot be replaced on another; leave it \
                     out, mount a path of the node read-only, or write \"on_lost: keep\""
                ),
            ),
        }
    }
}

impl WorkloadSpec {
    /// Two containers of an instance do not write to one place.
    fn check_order(&self) -> Result<(), SpecError> {
        match self.template.written_place() {
            Some(place) if self.update.order == UpdateOrder::StartFirst => refuse(
                "update.order",
                format!(
                    "start-first has two containers of an instance at once, and both would write to what is mounted at \
                     {place}; mount a path of the node read-only, or use stop-first"
                ),
            ),
            _ => Ok(()),
        }
    }
}

impl Template {
    /// Where its container writes to what is mounted, or has what is the instance's own.
    fn written_place(&self) -> Option<&str> {
        let is_only_read =
            |mount: &&Mount| matches!(mount.source, MountSource::Bind(_) if mount.read_only);
        let mounted = self.mounts.iter().find(|mount| !is_only_read(mount));
        self.machine.as_ref().map(|_| "/").or_else(|| Some(mounted?.target.as_str()))
    }

    fn check(&self) -> Result<(), SpecError> {
        check_image(&self.image)?;
        if self.image_policy == ImagePolicy::Pinned && digest_of(&self.image).is_none() {
            return refuse(
                "image_policy",
                format!(
                    "pinned wants an image that is named by its digest, as in NAME:TAG@sha256:…, and {:?} is not; \
                     `dwell history` and `docker buildx imagetools inspect` show digests",
                    self.image.chars().take(200).collect::<String>()
                ),
            );
        }
        check_list("entrypoint", &self.entrypoint)?;
        check_list("command", &self.command)?;
        check_pairs("environment", &self.environment)?;
        check_labels(&self.labels)?;
        if let Some(key) = self.environment.keys().find(|key| key.is_empty() || key.contains('=')) {
            return refuse("environment", format!("{key:?} is not the name of a variable"));
        }
        if let Some(key) = self.labels.keys().find(|key| key.starts_with("dwell.")) {
            return refuse(
                "labels",
                format!("{key:?} is reserved; use another prefix than \"dwell.\""),
            );
        }
        for (field, text) in [
            ("user", &self.user),
            ("working_dir", &self.working_dir),
            ("stop_signal", &self.stop_signal),
        ] {
            check_text(field, text)?;
        }
        if !self.working_dir.is_empty() && !self.working_dir.starts_with('/') {
            return refuse(
                "working_dir",
                format!("{:?} is not an absolute path", self.working_dir),
            );
        }
        check_user(&self.user)?;
        check_signal(&self.stop_signal)?;
        if !self.hostname.is_empty() {
            crate::id::NodeName::new(self.hostname.as_str()).map(drop).or_else(|_| {
                refuse("hostname", format!("{:?} is not a DNS label", self.hostname))
            })?;
        }
        let cpu = self.resources.cpu;
        if cpu != Millicores(0) && cpu < CPU_MIN {
            return refuse(
                "resources.cpu",
                format!("{cpu} is less than {CPU_MIN}, the smallest share that the kernel gives"),
            );
        }
        let memory = self.resources.memory;
        if memory != Bytes(0) && memory < MEMORY_MIN {
            return refuse(
                "resources.memory",
                format!("{memory} is less than the {MEMORY_MIN} a container needs"),
            );
        }
        if let Some(pids) = self.pids
            && !(PIDS_MIN..=PIDS_MAX).contains(&pids)
        {
            return refuse(
                "resources.pids",
                format!(
                    "{pids} is not between {PIDS_MIN} and {PIDS_MAX}, the most that a kernel has"
                ),
            );
        }
        if let RestartPolicy::OnFailure { max_retries: Some(0) } = self.restart {
            return refuse("restart", "on-failure:0 never restarts; write \"no\" for that");
        }
        if self.expose.iter().any(|expose| expose.port == 0) {
            return refuse("network.expose", "port 0 is not a port; use 1 to 65535");
        }
        if self.expose.len() > ENTRIES_MAX {
            return refuse("network.expose", format!("more than {ENTRIES_MAX} ports"));
        }
        if let Ssh::Dwell { authorized_keys, key_sets, users, login_as, account_keys: _ } =
            &self.ssh
        {
            check_list("ssh.authorized_keys", authorized_keys)?;
            if key_sets.as_ref().is_some_and(|sets| sets.len() > ENTRIES_MAX) {
                return refuse("ssh.key_sets", format!("more than {ENTRIES_MAX} key sets"));
            }
            check_users(users.as_deref().unwrap_or_default())?;
            check_login_as(login_as.as_deref(), users.as_deref())?;
        }
        for (field, rules) in
            [("network.allow_from", &self.allow_from), ("network.allow_to", &self.allow_to)]
        {
            check_access(field, rules.as_deref().unwrap_or_default())?;
        }
        self.check_mounts()?;
        carry::check(self)?;
        machine::check(self)?;
        probes::check(self)?;
        process::check(self)?;
        self.check_total()
    }

    fn check_mounts(&self) -> Result<(), SpecError> {
        let mut targets = BTreeSet::new();
        for mount in &self.mounts {
            check_path("volumes", &mount.target)?;
            let target = mount.target.trim_end_matches('/');
            // The kernel reads two slashes as one, the engines do not: so that a path has one spelling.
            if target.contains("//") {
                let shown = &mount.target;
                return refuse("volumes", format!("{shown:?} has two slashes in a row; write one"));
            }
            if target.is_empty()
                || target == "/proc"
                || target == "/sys"
                || target.starts_with("/proc/")
                || target.starts_with("/sys/")
            {
                return refuse(
                    "volumes",
                    format!(
                        "{:?} cannot be mounted over; choose another path inside",
                        mount.target
                    ),
                );
            }
            if !targets.insert(target) {
                return refuse("volumes", format!("{:?} is mounted twice", mount.target));
            }
            if let MountSource::Bind(path) = &mount.source {
                check_path("volumes", path)?;
            }
        }
        if self.mounts.len() > 100 {
            return refuse("volumes", "more than 100 volumes");
        }
        Ok(())
    }

    fn check_total(&self) -> Result<(), SpecError> {
        let pairs =
            self.environment.iter().chain(&self.labels).map(|(key, value)| key.len() + value.len());
        let tests = self.checks().filter_map(|check| match &check.probe {
            Probe::Exec { command } => Some(command),
            Probe::Tcp { .. } | Probe::Http { .. } => None,
        });
        let keys = match &self.ssh {
            Ssh::Dwell { authorized_keys, .. } => authorized_keys.as_slice(),
            _ => &[],
        };
        let lists = [&self.command, &self.entrypoint, &self.carry].into_iter().flatten();
        let lists = lists.chain(tests.flatten()).chain(keys).map(String::len);
        let mounts = self.mounts.iter().map(|mount| {
            let source = match &mount.source {
                MountSource::Volume(name) => name.as_str().len(),
                MountSource::Bind(path) => path.len(),
            };
            source + mount.target.len()
        });
        let rules = self.allow_from.iter().chain(&self.allow_to).flatten();
        let rules = rules.map(|rule| match &rule.from {
            AllowSource::Labels(labels) => {
                labels.iter().map(|(key, value)| key.len() + value.len()).sum()
            }
            _ => 0,
        });
        let total: usize = pairs.chain(lists).chain(mounts).chain(rules).sum();
        if total > TOTAL_MAX {
            return refuse(
                "environment",
                format!(
                    "environment, labels, command, checks, keys, volumes, allow_from and allow_to have {total} bytes \
                     together; at most {TOTAL_MAX} are allowed, since every node that runs an instance is sent all \
                     of it"
                ),
            );
        }
        Ok(())
    }
}

fn check_users(users: &[String]) -> Result<(), SpecError> {
    if users.len() > USERS_MAX {
        return refuse("ssh.users", format!("more than {USERS_MAX} names"));
    }
    users.iter().try_for_each(|name| check_login("ssh.users", name))
}

fn check_login_as(login_as: Option<&str>, users: Option<&[String]>) -> Result<(), SpecError> {
    let Some(name) = login_as else { return Ok(()) };
    check_login("ssh.login_as", name)?;
    if users.is_some_and(|users| !users.iter().any(|user| user == name)) {
        return refuse("ssh.login_as", format!("{name:?} is not among ssh.users; add it there"));
    }
    Ok(())
}

/// A name of an account of the container, or that of its own user.
fn check_login(field: &'static str, name: &str) -> Result<(), SpecError> {
    if name == DEFAULT_USER {
        return refuse(
            field,
            format!("{DEFAULT_USER:?} stands for whom ssh.login_as names; name that one"),
        );
    }
    let is_odd = name.is_empty()
        || name.len() > USER_MAX
        || name.chars().any(|one| one.is_control() || one.is_whitespace() || one == ':');
    if !is_odd {
        return Ok(());
    }
    let shown: String = name.chars().take(USER_MAX).collect();
    refuse(
        field,
        format!(
            "{shown:?} is not a name to log in as; use 1 to {USER_MAX} characters without blanks and colons"
        ),
    )
}

fn check_access(field: &'static str, rules: &[AllowRule]) -> Result<(), SpecError> {
    const RULES_MAX: usize = 100;
    if rules.len() > RULES_MAX {
        return refuse(field, format!("{} entries; at most {RULES_MAX} are allowed", rules.len()));
    }
    for rule in rules {
        match &rule.from {
            AllowSource::Labels(labels) if labels.is_empty() => {
                return refuse(field, "a selector without labels; write `any` for everybody");
            }
            AllowSource::Labels(labels) => check_pairs(field, labels)?,
            AllowSource::Cidr(range) if range.addr() != range.network() => {
                return refuse(
                    field,
                    format!("{range} has bits set beyond its prefix; write {}", range.trunc()),
                );
            }
            _ => {}
        }
        if rule.ports.len() > RULES_MAX {
            return refuse(field, format!("more than {RULES_MAX} ports in one entry"));
        }
        if let Some(ports) =
            rule.ports.iter().find(|ports| ports.first == 0 || ports.last < ports.first)
        {
            return refuse(
                field,
                format!("{}-{} are no ports; use 1 to 65535", ports.first, ports.last),
            );
        }
    }
    Ok(())
}

fn check_image(image: &str) -> Result<(), SpecError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if image.is_empty() {
        return refuse("image", "is missing; name an image such as debian:12");
    }
    if image.len() > IMAGE_MAX {
        return refuse("image", format!("is longer than {IMAGE_MAX} bytes"));
    }
    if !image.starts_with(|c: char| c.is_ascii_alphanumeric()) || !image.chars().all(fits) {
        return refuse(
            "image",
            format!("{image:?} is not an image reference; write NAME:TAG or NAME@DIGEST"),
        );
    }
    Ok(())
}

/// Numbers that no kernel takes; names are the image's to know.
fn check_user(user: &str) -> Result<(), SpecError> {
    let is_too_large = |part: &&str| {
        let number = !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
        number && part.parse::<i32>().is_err()
    };
    match user.splitn(2, ':').find(is_too_large) {
        Some(part) => refuse(
            "user",
            format!("{part} is not a user's or group's number; {} is the largest", i32::MAX),
        ),
        None => Ok(()),
    }
}

/// A signal by name, with or without SIG, or by number; empty for the image's.
fn check_signal(signal: &str) -> Result<(), SpecError> {
    const NAMES: &[&str] = &[
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "RTMAX", "RTMIN", "SEGV", "STKFLT", "STOP",
        "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH",
        "XCPU", "XFSZ",
    ];
    /// The last real-time signal.
    const LAST: u8 = 64;
    let upper = signal.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // As in RTMIN+3 and RTMAX-1.
    let real_time = |rest: Option<&str>| {
        rest.and_then(|offset| offset.parse::<u8>().ok()).is_some_and(|offset| offset <= 30)
    };
    let known = signal.is_empty()
        || NAMES.contains(&name)
        || signal.parse().is_ok_and(|number| (1..=LAST).contains(&number))
        || real_time(name.strip_prefix("RTMIN+"))
        || real_time(name.strip_prefix("RTMAX-"));
    if known {
        return Ok(());
    }
    refuse(
        "stop_signal",
        format!("{signal:?} is not a signal; write one such as SIGTERM, SIGINT or SIGQUIT"),
    )
}

fn check_text(field: &str, text: &str) -> Result<(), SpecError> {
    if text.len() > TEXT_MAX {
        return refuse(
            field,
            format!("a text of {} bytes; at most {TEXT_MAX} are allowed", text.len()),
        );
    }
    if text.contains('\0') {
        return refuse(field, "a text with a NUL character, which no process can be given");
    }
    Ok(())
}

fn check_list(field: &str, texts: &[String]) -> Result<(), SpecError> {
    if texts.len() > ENTRIES_MAX {
        return refuse(
            field,
            format!("{} entries; at most {ENTRIES_MAX} are allowed", texts.len()),
        );
    }
    texts.iter().try_for_each(|text| check_text(field, text))
}

fn check_pairs(
    field: &str,
    pairs: &std::collections::BTreeMap<String, String>,
) -> Result<(), SpecError> {
    if pairs.len() > ENTRIES_MAX {
        return refuse(
            field,
            format!("{} entries; at most {ENTRIES_MAX} are allowed", pairs.len()),
        );
    }
    pairs.iter().flat_map(|(key, value)| [key, value]).try_for_each(|text| check_text(field, text))
}

/// Keys without blanks, so that a selector or a constraint can name each of them.
fn check_labels(labels: &std::collections::BTreeMap<String, String>) -> Result<(), SpecError> {
    check_pairs("labels", labels)?;
    let is_odd =
        |key: &&String| key.is_empty() || key.chars().any(|c| c.is_whitespace() || c.is_control());
    match labels.keys().find(is_odd) {
        Some(key) => {
            refuse("labels", format!("{key:?} is not the key of a label: write it without blanks"))
        }
        None => Ok(()),
    }
}

/// A path that means one place: absolute, and without `..` to lead elsewhere.
fn check_path(field: &str, path: &str) -> Result<(), SpecError> {
    check_text(field, path)?;
    if path.len() > 4096
        || !path.starts_with('/')
        || path.split('/').any(|part| part == ".." || part == ".")
    {
        let shown: String = path.chars().take(80).collect();
        return refuse(field, format!("{shown:?} is not an absolute path without '.' and '..'"));
    }
    if path.contains([':', '\n', ',']) {
        return refuse(
            field,
            format!("{path:?} has a ':', a ',' or a line break, which engines cannot mount"),
        );
    }
    Ok(())
}
