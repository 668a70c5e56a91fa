//! What tests ask of a network, and a namespace to ask it in.

#![expect(
    clippy::unwrap_used,
    reason = "it is for tests, and a test that cannot go on is to fail on the spot"
)]

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::HostNetwork;

/// A host of the cluster 10.80.0.0/16 that has no block and opens nothing.
#[must_use]
pub fn host() -> HostNetwork {
    HostNetwork {
        cluster: "10.80.0.0/16".parse().unwrap(),
        blocks: Vec::new(),
        masquerade: false,
        host_access: Vec::new(),
        foreign_names: false,
        untracked: true,
        connections_max: NonZeroU32::new(1000),
        forwards: true,
        ipv6: None,
    }
}

/// A network namespace that lives as long as this. It needs root.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    /// Makes one, which has nothing but a loopback device that is down.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it starts a process")]
    pub fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The answer shows that the namespace has been made.
        let mut line = String::new();
        writeln!(holder.stdin.as_ref().unwrap(), "ready").unwrap();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "no network namespace could be made; are we root?");
        Self { holder }
    }

    /// The file by which it can be entered.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}
