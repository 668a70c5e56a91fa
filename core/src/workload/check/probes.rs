//! The rules of what is probed.

use super::{SpecError, check_list, refuse};
use crate::health::{HealthCheck, Probe};
use crate::hook::{Hook, HookAction, Hooks};
use crate::quantity::Millis;
use crate::workload::{RestartPolicy, Template};

/// How soon a health check may have something restarted: it needs time to show that it helped.
const RESTART_MIN: Millis = Millis::seconds(1);
/// The longest command of a hook, in bytes: nodes keep it beside the container that it belongs to.
const HOOK_MAX: usize = 4096;
/// The bounds of how long a hook may take: an instance waits for it.
const HOOK_TIMEOUT_MIN: Millis = Millis(100);
const HOOK_TIMEOUT_MAX: Millis = Millis::seconds(3600);
/// The longest path of a URL, in bytes.
const PATH_MAX: usize = 1024;

pub(super) fn check(template: &Template) -> Result<(), SpecError> {
    if let Some(check) = &template.healthcheck {
        check_one("healthcheck", check)?;
        if check.restart.is_some() && template.restart == RestartPolicy::Never {
            return refuse(
                "healthcheck.restart",
                "`restart: \"no\"` starts nothing again, nor does a job with one attempt; leave one of the two out",
            );
        }
    }
    if let Some(check) = &template.readiness {
        check_one("readiness", check)?;
        if check.restart.is_some() {
            return refuse(
                "readiness.restart",
                "what is not ready is not restarted; say it under healthcheck, which is about that",
            );
        }
    }
    let Hooks { after_start, before_stop } = &template.hooks;
    for (field, hook) in [("hooks.after_start", after_start), ("hooks.before_stop", before_stop)] {
        hook.as_ref().map_or(Ok(()), |hook| check_hook(field, hook))?;
    }
    Ok(())
}

fn check_hook(field: &str, hook: &Hook) -> Result<(), SpecError> {
    check_probe(field, &hook.probe())?;
    if let HookAction::Exec { command } = &hook.action {
        let bytes: usize = command.iter().map(String::len).sum();
        if bytes > HOOK_MAX {
            return refuse(
                field,
                format!(
                    "a command of {bytes} bytes; at most {HOOK_MAX} are allowed: put it into a script in the image"
                ),
            );
        }
    }
    if hook.timeout < HOOK_TIMEOUT_MIN || hook.timeout > HOOK_TIMEOUT_MAX {
        return refuse(
            format!("{field}.timeout"),
            format!("{} is not between {HOOK_TIMEOUT_MIN} and {HOOK_TIMEOUT_MAX}", hook.timeout),
        );
    }
    Ok(())
}

fn check_one(field: &str, check: &HealthCheck) -> Result<(), SpecError> {
    check_probe(field, &check.probe)?;
    if check.interval.0 < 100 || check.timeout.0 < 10 {
        return refuse(field, "interval has to be at least 100ms, timeout at least 10ms");
    }
    if check.retries == 0 {
        return refuse(format!("{field}.retries"), "has to be at least 1");
    }
    if check.restart.is_some_and(|after| after < RESTART_MIN) {
        return refuse(format!("{field}.restart"), format!("has to be at least {RESTART_MIN}"));
    }
    Ok(())
}

fn check_probe(field: &str, probe: &Probe) -> Result<(), SpecError> {
    match probe {
        Probe::Tcp { port: 0 } | Probe::Http { port: 0, .. } => {
            refuse(field, "port 0 is not a port; use 1 to 65535")
        }
        Probe::Http { path, .. }
            if !path.starts_with('/')
                || path.len() > PATH_MAX
                || path.chars().any(|c| c.is_control() || c == ' ') =>
        {
            let shown: String = path.chars().take(80).collect();
            refuse(field, format!("{shown:?} is not a path of a URL; begin it with '/'"))
        }
        Probe::Exec { command } if command.is_empty() => refuse(field, "the command is empty"),
        Probe::Exec { command } => check_list(field, command),
        Probe::Tcp { .. } | Probe::Http { .. } => Ok(()),
    }
}
