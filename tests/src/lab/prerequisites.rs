//! The machine's tools that the lab needs: what is missing, and installing it.
//!
//! A Docker engine that the machine already runs is not touched: the lab starts its own from the
//! same programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::unistd::Uid;

use super::command::run;

/// What is run, and the Debian package that has it.
const TOOLS: [(&str, &str); 13] = [
    ("dockerd", "docker.io"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("tar", "tar"),
    ("dpkg-deb", "dpkg"),
];

/// What tests use beside: the stock SSH clients and the routing daemon that have to work, small tools for a sandbox, and what makes a
/// whole system for machines.
const CLIENTS: [(&str, &str); 6] = [
    ("bird", "bird2"),
    ("busybox", "busybox-static"),
    ("rsync", "rsync"),
    ("git", "git"),
    ("ansible", "ansible-core"),
    ("mmdebstrap", "mmdebstrap"),
];

/// What virtual machines are made of and run by.
const MACHINES: [(&str, &str); 4] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mmdebstrap", "mmdebstrap"),
    ("mkfs.ext4", "e2fsprogs"),
    ("unshare", "util-linux"),
];

/// Where programs of the system are, whatever `PATH` says; `sudo` and `cargo` shorten it.
const DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The path of a tool of the machine.
///
/// # Errors
/// If it is not installed.
pub(crate) fn tool(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| {
        format!("{name} is not installed; `dwell-lab setup` installs what the lab needs")
    })
}

/// The packages that have to be installed before a lab can be brought up.
#[must_use]
pub fn missing_packages() -> Vec<&'static str> {
    missing(&TOOLS)
}

/// The same, and those that only tests need.
#[must_use]
pub fn missing_for_tests() -> Vec<&'static str> {
    missing(&[&TOOLS[..], &CLIENTS].concat())
}

/// The packages that have to be installed before virtual machines can be run.
#[must_use]
pub fn missing_for_machines() -> Vec<&'static str> {
    missing(&[&TOOLS[..], &MACHINES].concat())
}

fn missing(tools: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    let missing = tools.iter().filter(|(tool, _)| find(tool).is_none());
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

/// Installs `packages` with apt, through sudo unless this is root.
///
/// # Errors
/// If this is no Debian or Ubuntu, or apt fails; the message has what apt said.
pub async fn install(packages: &[&str]) -> Result<()> {
    ensure!(
        find("apt-get").is_some(),
        "the lab needs {}, and this machine has no apt-get to install them with",
        packages.join(", ")
    );
    let prefix: &[&str] = if Uid::effective().is_root() { &[] } else { &["sudo"] };
    let apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"];
    let command = |words: &[&'static str]| -> Vec<&str> { [prefix, &apt, words].concat() };
    let update = command(&["update"]);
    run(update[0], &update[1..]).await?.ok()?;
    let mut install = command(&["install", "--no-install-recommends"]);
    install.extend(packages);
    run(install[0], &install[1..]).await?.ok()?;
    let missing = [missing_for_tests(), missing_for_machines()].concat();
    let left: Vec<_> =
        packages.iter().filter(|package| missing.contains(package)).copied().collect();
    ensure!(left.is_empty(), "{} are still missing after their installation", left.join(", "));
    Ok(())
}

/// Refuses with a clear message what the lab cannot work with.
///
/// # Errors
/// If this is not root on Linux, or tools are missing.
pub(crate) fn check() -> Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "the lab makes network namespaces and runs Docker engines, which only root can; \
         run this as root or with sudo"
    );
    let missing = missing_packages();
    ensure!(
        missing.is_empty(),
        "the lab needs the packages {}; `dwell-lab setup` installs them",
        missing.join(", ")
    );
    Ok(())
}

fn find(name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}
