//! Where everything of a lab is: names, paths and addresses, all computed from its name and slot.
//!
//! Pure. Nothing here touches the machine, so that `up`, `down` and a test in another process agree
//! on what is whose without talking to each other.
//!
//! Invariants: every network namespace, interface, cgroup and directory of a lab is named after it;
//! no path of a unix socket exceeds the kernel's 108 bytes.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Under which every lab has its directory.
pub(super) const ROOT: &str = "/var/lib/dwell-lab";

/// How many labs can be up at a time; each has a slot, and with it address ranges of its own.
pub(super) const SLOTS: u8 = 16;

/// The most hosts of one lab.
pub const MAX_HOSTS: usize = 32;

/// The place of one lab among the labs of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    name: String,
    slot: u8,
}

impl Layout {
    /// The layout of lab `name` in `slot`.
    ///
    /// # Errors
    /// Unless the name is 1 to 10 lower-case letters, digits and inner dashes (interface names have
    /// 15 bytes), and the slot below 16.
    pub fn new(name: &str, slot: u8) -> Result<Self> {
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            (1..=10).contains(&name.len())
                && name.chars().all(known)
                && !name.starts_with('-')
                && !name.ends_with('-'),
            "lab name {name:?} is not 1 to 10 lower-case letters, digits and inner dashes"
        );
        ensure!(slot < SLOTS, "lab slot {slot} is not below {SLOTS}");
        Ok(Self { name: name.to_owned(), slot })
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab's slot.
    #[must_use]
    pub fn slot(&self) -> u8 {
        self.slot
    }

    /// The directory that holds all files of the lab.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        Path::new(ROOT).join(&self.name)
    }

    /// The file that describes the lab to other processes.
    #[must_use]
    pub fn description(&self) -> PathBuf {
        self.dir().join("lab.json")
    }

    /// The directory of host `host`.
    #[must_use]
    pub fn host_dir(&self, host: usize) -> PathBuf {
        self.dir().join(format!("h{host}"))
    }

    /// The network namespace of host `host`.
    #[must_use]
    pub fn host_netns(&self, host: usize) -> String {
        format!("{}h{host}", self.netns_prefix())
    }

    /// The network namespace that holds the bridge the hosts are plugged into.
    #[must_use]
    pub fn switch_netns(&self) -> String {
        format!("{}switch", self.netns_prefix())
    }

    /// What the names of all network namespaces of this lab, and of no other, begin with.
    #[must_use]
    pub fn netns_prefix(&self) -> String {
        // Not "-": of the labs "a" and "a-b" one must not own the names of the other.
        format!("dl-{}.", self.name)
    }

    /// The machine's own interface in the lab's network.
    #[must_use]
    pub fn machine_link(&self) -> String {
        format!("dl-{}", self.name)
    }

    /// The cgroup, relative to the root of each hierarchy, under which all containers run.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("dwell-lab-{}", self.name)
    }

    /// The network of the hosts, a /24.
    #[must_use]
    pub fn underlay(&self) -> String {
        format!("10.99.{}.0/24", self.slot)
    }

    /// The machine's address in the hosts' network.
    #[must_use]
    pub fn machine_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.slot, 1)
    }

    /// The address of host `host`, 1 to [`MAX_HOSTS`].
    #[must_use]
    pub fn host_address(&self, host: usize) -> Ipv4Addr {
        let last = u8::try_from(10 + host).unwrap_or(u8::MAX);
        Ipv4Addr::new(10, 99, self.slot, last)
    }

    /// The range that instances get their addresses from.
    #[must_use]
    pub fn cluster_cidr(&self) -> String {
        format!("10.{}.0.0/16", 80 + self.slot)
    }

    /// Another range that its cluster may grow by.
    #[must_use]
    pub fn second_cidr(&self) -> String {
        format!("10.{}.0.0/16", 112 + self.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_not_fit_are_refused() {
        for name in ["", "-a", "a-", "A", "a.b", "a/b", "..", "elevenchars", "ä"] {
            assert!(Layout::new(name, 0).is_err(), "{name}");
        }
        assert!(Layout::new("demo", SLOTS).is_err());
    }

    #[test]
    fn the_longest_name_fits_interfaces_and_sockets() {
        let layout = Layout::new("tencharsxx", SLOTS - 1).unwrap();
        assert!(layout.machine_link().len() <= 15);
        let deepest = layout.host_dir(MAX_HOSTS).join("exec/containerd/containerd-debug.sock");
        assert!(deepest.as_os_str().len() < 108, "{}", deepest.display());
    }

    #[test]
    fn labs_and_hosts_do_not_share_addresses_or_names() {
        let one = Layout::new("a", 0).unwrap();
        let other = Layout::new("a-b", 1).unwrap();
        assert_ne!(one.underlay(), other.underlay());
        assert_ne!(one.cluster_cidr(), other.cluster_cidr());
        assert!(!other.host_netns(1).starts_with(&one.netns_prefix()));
        assert_ne!(one.host_address(MAX_HOSTS), one.host_address(MAX_HOSTS - 1));
    }
}
