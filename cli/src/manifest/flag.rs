//! The file's spellings, for arguments of the command line.

use std::collections::BTreeMap;

use dwell_core::workload::{AllowRule, Constraint, Mount, RestartPolicy, ServicePort, Ssh};

use super::shorthand::Shorthand;
use super::value::{Condition, Pairs, Port, Restart, split_pair};
use super::{Variables, lower};

/// A port, `80` or `53/udp`.
///
/// # Errors
/// What would be right.
pub(crate) fn port(text: &str) -> Result<ServicePort, String> {
    let mut ports = Port::try_from(text.to_owned())?.each();
    match (ports.next(), ports.next()) {
        (Some(port), None) => Ok(port),
        _ => Err("give the option once for each port".into()),
    }
}

/// A mount, `NAME:/path` or `/path:/path`, perhaps with `:ro`.
///
/// # Errors
/// What would be right.
pub(crate) fn mount(text: &str) -> Result<Mount, String> {
    Mount::from_text(text)
}

/// A restart policy, in Compose's words.
///
/// # Errors
/// What would be right.
pub(crate) fn restart(text: &str) -> Result<RestartPolicy, String> {
    Restart::try_from(text.to_owned()).map(|restart| restart.0)
}

/// A constraint, `disk==ssd`.
///
/// # Errors
/// What would be right.
pub(crate) fn constraint(text: &str) -> Result<Constraint, String> {
    Condition::try_from(text.to_owned()).map(|condition| condition.0)
}

/// Who answers on port 22.
///
/// # Errors
/// What would be right.
pub(crate) fn ssh(text: &str) -> Result<Ssh, String> {
    Ssh::from_text(text)
}

/// Who may reach an instance, without ports.
///
/// # Errors
/// What would be right.
pub(crate) fn allow_rule(text: &str) -> Result<AllowRule, String> {
    AllowRule::from_text(text)
}

/// Variables, `KEY=VALUE` or, taken from here, `KEY`.
pub(crate) fn environment(texts: &[String], variables: &Variables) -> BTreeMap<String, String> {
    lower::environment(Pairs(texts.iter().map(|text| split_pair(text)).collect()), variables)
}
