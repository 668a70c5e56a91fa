//! What runs: the command, its environment and user, how it is stopped, started again and looked after.

use bollard::models::{RestartPolicy as DockerPolicy, RestartPolicyNameEnum};
use dwell_core::foreign::ForeignRestart;
use dwell_core::health::{HealthCheck, Probe};
use dwell_core::quantity::Millis;
use dwell_core::workload::{RestartPolicy, Template};

use super::{Findings, Said};

/// The labels by which Docker Compose knows its containers.
const COMPOSE: &str = "com.docker.compose.";
/// The labels by which Docker's swarm knows its own.
const SWARM: &str = "com.docker.swarm.";
/// The time between two of Docker's health checks, and the longest one, if nothing else is said.
const CHECK_DEFAULT: Millis = Millis::seconds(30);
/// How long Docker gives a main process to end, if nothing else is said, in seconds.
const GRACE_DEFAULT: i64 = 10;

pub(super) fn translate(said: &Said<'_>, template: &mut Template, findings: &mut Findings) {
    words(said, template);
    let config = said.config;
    let of_image = said.image.env.clone().unwrap_or_default();
    for variable in config.env.iter().flatten().filter(|one| !of_image.contains(one)) {
        if let Some((key, value)) = variable.split_once('=') {
            template.environment.insert(key.to_owned(), value.to_owned());
        }
    }
    let other = |own: Option<&String>, images: Option<&String>| {
        own.filter(|own| Some(*own) != images).cloned().unwrap_or_default()
    };
    let image = said.image;
    template.user = other(config.user.as_ref(), image.user.as_ref());
    template.working_dir = other(config.working_dir.as_ref(), image.working_dir.as_ref());
    template.stop_signal = other(config.stop_signal.as_ref(), image.stop_signal.as_ref());
    match u64::try_from(config.stop_timeout.unwrap_or(GRACE_DEFAULT)) {
        Ok(seconds) => template.stop_grace = Millis::seconds(seconds),
        Err(_) => findings.forbid(
            "it may take for ever to stop, and nobody would know when; make it anew with a --stop-timeout",
        ),
    }
    template.tty = config.tty.unwrap_or_default();
    template.stdin = config.open_stdin.unwrap_or_default();
    if config.stdin_once == Some(true) {
        findings.change("its input does not end any more when whoever is attached to it leaves");
    }
    template.restart = match restart(said.host.restart_policy.as_ref()) {
        ForeignRestart::No => RestartPolicy::Never,
        ForeignRestart::Always | ForeignRestart::UnlessStopped => RestartPolicy::Always,
        ForeignRestart::OnFailure(max_retries) => RestartPolicy::OnFailure { max_retries },
    };
    labels(said, template, findings);
    let hostname = config.hostname.as_deref().unwrap_or_default();
    let id = said.facts.seen.id.as_deref().unwrap_or_default();
    if !hostname.is_empty() && !id.starts_with(hostname) {
        findings.change(format!(
            "its host name {hostname} becomes the name of the instance; if its program needs the old one, declare `hostname` afterwards"
        ));
    }
    template.healthcheck = health(said);
}

/// The entry point and the command, where they are not the image's. Docker takes the image's command only if no entry point is
/// given.
fn words(said: &Said<'_>, template: &mut Template) {
    let given = |words: Option<&Vec<String>>| words.cloned().unwrap_or_default();
    let (entrypoint, command) =
        (given(said.config.entrypoint.as_ref()), given(said.config.cmd.as_ref()));
    let is_images_own = entrypoint == given(said.image.entrypoint.as_ref());
    if is_images_own && command == given(said.image.cmd.as_ref()) {
        return;
    }
    if is_images_own && !command.is_empty() {
        template.command = command;
    } else if entrypoint.is_empty() {
        // The image's entry point was taken away: the command is all there is.
        let mut words = command.into_iter();
        template.entrypoint = words.next().into_iter().collect();
        template.command = words.collect();
    } else {
        (template.entrypoint, template.command) = (entrypoint, command);
    }
}

fn labels(said: &Said<'_>, template: &mut Template, findings: &mut Findings) {
    let of_image = said.image.labels.clone().unwrap_or_default();
    let (mut is_composes, mut is_swarms) = (false, false);
    for (key, value) in said.config.labels.iter().flatten() {
        if is_of_compose(key) {
            is_composes = true;
        } else if key.starts_with(SWARM) {
            is_swarms = true;
        } else if of_image.get(key) != Some(value) {
            template.labels.insert(key.clone(), value.clone());
        }
    }
    if is_swarms {
        findings.forbid(
            "it is of a service of Docker's swarm, which would start another one in its place; remove the service first",
        );
    }
    if is_composes {
        findings.change(
            "Docker Compose does not know the instance; take its service out of the Compose file, or `docker compose up` starts the \
             old container beside it",
        );
    }
}

/// Whether Docker Compose knows its containers by this label.
pub(in crate::foreign) fn is_of_compose(label: &str) -> bool {
    label.starts_with(COMPOSE)
}

pub(in crate::foreign) fn restart(policy: Option<&DockerPolicy>) -> ForeignRestart {
    let retries = policy.and_then(|policy| policy.maximum_retry_count).unwrap_or_default();
    match policy.and_then(|policy| policy.name) {
        Some(RestartPolicyNameEnum::ALWAYS) => ForeignRestart::Always,
        Some(RestartPolicyNameEnum::UNLESS_STOPPED) => ForeignRestart::UnlessStopped,
        Some(RestartPolicyNameEnum::ON_FAILURE) => {
            ForeignRestart::OnFailure(u32::try_from(retries).ok().filter(|most| *most > 0))
        }
        Some(RestartPolicyNameEnum::NO | RestartPolicyNameEnum::EMPTY) | None => ForeignRestart::No,
    }
}

/// Docker's health check, also if it is the image's: an instance has only what is declared.
fn health(said: &Said<'_>) -> Option<HealthCheck> {
    let check = said.config.healthcheck.as_ref()?;
    let command = match check.test.as_deref()?.split_first()? {
        (kind, words) if kind == "CMD" && !words.is_empty() => words.to_vec(),
        (kind, [line, ..]) if kind == "CMD-SHELL" => {
            let shell = said.config.shell.clone().filter(|shell| !shell.is_empty());
            let shell = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
            shell.into_iter().chain([line.clone()]).collect()
        }
        _ => return None,
    };
    let millis = |nanos: Option<i64>| {
        let nanos = u64::try_from(nanos.unwrap_or_default()).unwrap_or_default();
        Some(Millis(nanos / 1_000_000)).filter(|time| time.0 > 0)
    };
    let retries = check.retries.and_then(|most| u32::try_from(most).ok());
    let new = HealthCheck::new(Probe::Exec { command });
    Some(HealthCheck {
        interval: millis(check.interval).unwrap_or(CHECK_DEFAULT).max(Millis(100)),
        timeout: millis(check.timeout).unwrap_or(CHECK_DEFAULT).max(Millis(10)),
        retries: retries.filter(|most| *most > 0).unwrap_or(new.retries),
        start_period: millis(check.start_period).unwrap_or(Millis(0)),
        ..new
    })
}
