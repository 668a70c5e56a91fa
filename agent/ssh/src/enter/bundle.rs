//! The container's OCI configuration, as far as a further process in it is concerned.
//!
//! `dwell-oci` leaves a link to the bundle when the engine makes the container. The file is the engine's, written before
//! the container started; nothing inside the container can change it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;

use super::failure::Failure;

/// The longest configuration that is read, in bytes. Docker writes some 20 KB, plus the environment.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// `config.json`
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) process: Process,
    #[serde(default)]
    pub(super) linux: Linux,
}

/// The container's main process, whose like a further process is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process {
    #[serde(default)]
    pub(super) user: User,
    #[serde(default)]
    pub(super) env: Vec<String>,
    pub(super) cwd: String,
    #[serde(default)]
    pub(super) capabilities: Capabilities,
    #[serde(default)]
    pub(super) rlimits: Vec<Rlimit>,
    #[serde(default)]
    pub(super) no_new_privileges: bool,
    #[serde(default)]
    pub(super) apparmor_profile: String,
    #[serde(default)]
    pub(super) selinux_label: String,
    #[serde(default)]
    pub(super) oom_score_adj: i32,
}

/// Whom the main process runs as.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) umask: Option<u32>,
    #[serde(default)]
    pub(super) additional_gids: Vec<u32>,
}

/// Names such as `CAP_CHOWN`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Capabilities {
    pub(super) bounding: Vec<String>,
    pub(super) effective: Vec<String>,
    pub(super) permitted: Vec<String>,
    pub(super) inheritable: Vec<String>,
    pub(super) ambient: Vec<String>,
}

/// A resource limit.
#[derive(Debug, Deserialize)]
pub(super) struct Rlimit {
    /// Such as `RLIMIT_NOFILE`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// What is peculiar to Linux.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Linux {
    pub(super) seccomp: Option<Seccomp>,
}

/// A filter of system calls.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seccomp {
    /// Such as `SCMP_ACT_ERRNO`.
    pub(super) default_action: String,
    pub(super) default_errno_ret: Option<u32>,
    #[serde(default)]
    pub(super) flags: Vec<String>,
    #[serde(default)]
    pub(super) syscalls: Vec<SyscallRule>,
}

/// What becomes of some system calls.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SyscallRule {
    pub(super) names: Vec<String>,
    pub(super) action: String,
    pub(super) errno_ret: Option<u32>,
    #[serde(default)]
    pub(super) args: Vec<Condition>,
}

/// A condition on an argument.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Condition {
    pub(super) index: u32,
    pub(super) value: u64,
    #[serde(default)]
    pub(super) value_two: u64,
    /// Such as `SCMP_CMP_EQ`.
    pub(super) op: String,
}

impl Config {
    /// Reads the configuration in a bundle.
    pub(super) fn read(bundle: &Path) -> Result<Self, Failure> {
        let mut text = Vec::new();
        File::open(bundle.join("config.json"))
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut text))
            .map_err(|error| {
                Failure::Bundle(format!(
                    "{error} ({}); was it started by dwell? Its next restart mends this",
                    bundle.display()
                ))
            })?;
        if text.len() as u64 > MAX_BYTES {
            return Err(Failure::Bundle(format!("it is larger than {MAX_BYTES} bytes")));
        }
        Self::parse(&text)
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(text).map_err(|error| Failure::Bundle(error.to_string()))
    }
}
