//! The rules of what is probed.

use super::{SpecError, check_list, refuse};
use crate::health::{HealthCheck, Probe};
use crate::quantity::Millis;
use crate::workload::{RestartPolicy, Template};

/// How soon a health check may have something restarted: it needs time to show that it helped.
const RESTART_MIN: Millis = Millis::seconds(1);
/// The longest path of a URL, in bytes.
const PATH_MAX: usize = 1024;

pub(super) fn check(template: &Template) -> Result<(), SpecError> {
    if let Some(check) = &template.healthcheck {
        check_one("healthcheck", check)?;
        if check.restart.is_some() && template.restart == RestartPolicy::Never {
            return refuse(
                "healthcheck.restart",
                "`restart: \"no\"` starts nothing again; leave one of the two out",
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
