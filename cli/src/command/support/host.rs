//! What this host says: the output of programs that every host has, each bounded in time and length.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::Part;

/// How long one program may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The name of a part, and the program with its arguments that prints it. None of them prints what instances print, their
/// environments or keys.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("kernel.txt", &["uname", "-a"]),
    ("system.txt", &["cat", "/etc/os-release"]),
    (
        "units.txt",
        &[
            "systemctl",
            "--no-pager",
            "--lines=0",
            "status",
            "dwell-agent",
            "dwell-sandboxes",
            "dwell-ssh",
            "dwell-instances",
            "dwell-controller",
            "docker",
            "containerd",
        ],
    ),
    (
        "journal.txt",
        &[
            "journalctl",
            "--no-pager",
            "--lines=20000",
            "--output=short-iso-precise",
            "--unit=dwell-agent",
            "--unit=dwell-sandboxes",
            "--unit=dwell-ssh",
            "--unit=dwell-instances",
            "--unit=dwell-controller",
            "--unit=docker",
            "--unit=containerd",
        ],
    ),
    ("kernel-log.txt", &["journalctl", "--no-pager", "--lines=2000", "--dmesg"]),
    ("doctor.txt", &["dwell-agent", "doctor"]),
    ("agent.yaml", &["cat", "/etc/dwell/agent.yaml"]),
    ("controller.yaml", &["cat", "/etc/dwell/controller.yaml"]),
    ("links.txt", &["ip", "-details", "-statistics", "link"]),
    ("addresses.txt", &["ip", "address"]),
    ("rules.txt", &["ip", "rule"]),
    ("routes.txt", &["ip", "route", "show", "table", "all"]),
    ("neighbours.txt", &["ip", "neighbour"]),
    ("firewall.txt", &["nft", "list", "ruleset"]),
    (
        "connections.txt",
        &["sysctl", "net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max"],
    ),
    ("engine.txt", &["docker", "info"]),
    (
        "containers.txt",
        &["docker", "ps", "--all", "--format", "{{.Names}}\t{{.Status}}\t{{.Image}}\t{{.Size}}"],
    ),
    ("images.txt", &["docker", "images", "--digests"]),
    ("room.txt", &["df", "--human-readable"]),
    ("inodes.txt", &["df", "--inodes"]),
    ("memory.txt", &["cat", "/proc/meminfo"]),
    (
        "pressure.txt",
        &["grep", "", "/proc/pressure/cpu", "/proc/pressure/memory", "/proc/pressure/io"],
    ),
];

/// All parts, one after the other.
pub(super) async fn parts() -> Vec<Part> {
    let mut parts = Vec::new();
    for (name, command) in PROGRAMS {
        parts.push(Part::new(format!("host/{name}"), output(command, PATIENCE).await));
    }
    parts
}

/// What a program prints, and how it ended if it did not end well.
async fn output(command: &[&str], patience: Duration) -> Result<Vec<u8>, String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(Vec::new()) };
    let mut child = Command::new(program);
    child.args(arguments).stdin(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C.UTF-8");
    let ended = tokio::time::timeout(patience, child.output()).await;
    let ended = ended.map_err(|_| format!("{program} did not end in {patience:?}"))?;
    let ended = ended.map_err(|error| format!("cannot run {program}: {error}"))?;
    let mut found = ended.stdout;
    if !ended.status.success() {
        found.extend_from_slice(&ended.stderr);
        found.extend_from_slice(format!("\n{program}: {}\n", ended.status).as_bytes());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_is_missing_fails_or_hangs_says_so() {
        let found = output(&["no-such-program"], PATIENCE).await.unwrap_err();
        assert!(found.contains("cannot run no-such-program"), "{found}");
        let found =
            output(&["sh", "-c", "echo out; echo err >&2; exit 3"], PATIENCE).await.unwrap();
        let found = String::from_utf8(found).unwrap();
        assert!(found.contains("out\nerr\n") && found.contains("exit status: 3"), "{found}");
        let found = output(&["sleep", "60"], Duration::from_millis(10)).await.unwrap_err();
        assert!(found.contains("did not end"), "{found}");
    }
}
