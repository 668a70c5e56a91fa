//! What tells a host from a copy of its disk.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::id::NodeName;

/// Names the machine that a node is on, by something that a copy of its disk does not take along, such as the product
/// UUID of its firmware. It is a hash over the node's name and that, in hexadecimal: it says nothing about the machine
/// to anybody, and marks of two nodes are never alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostMark(String);

/// A text that is no host mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not 64 lower-case hexadecimal digits")]
pub struct NotAMark;

impl HostMark {
    /// The mark of a node that is on the machine with this name.
    #[must_use]
    pub fn new(node: &NodeName, machine: &str) -> Self {
        let mut hash = Sha256::new();
        for part in ["dwell host mark 1", node.as_str(), machine] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        Self(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl FromStr for HostMark {
    type Err = NotAMark;

    fn from_str(text: &str) -> Result<Self, NotAMark> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match text.len() == 64 && text.bytes().all(is_digit) {
            true => Ok(Self(text.to_owned())),
            false => Err(NotAMark),
        }
    }
}

impl TryFrom<String> for HostMark {
    type Error = NotAMark;

    fn try_from(text: String) -> Result<Self, NotAMark> {
        text.parse()
    }
}

impl From<HostMark> for String {
    fn from(mark: HostMark) -> Self {
        mark.0
    }
}

impl fmt::Display for HostMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_depends_on_the_node_and_the_machine_and_is_read_back() {
        let mark = |node: &str, machine| HostMark::new(&node.parse().unwrap(), machine);
        let one = mark("h1", "m1");
        assert_eq!(one, mark("h1", "m1"));
        assert_ne!(one, mark("h1", "m2"));
        assert_ne!(one, mark("h2", "m1"));
        assert_eq!(one.to_string().parse(), Ok(one.clone()));
        for wrong in ["", "00", &"G".repeat(64), &"A0".repeat(32), &"00".repeat(33)] {
            assert_eq!(wrong.parse::<HostMark>(), Err(NotAMark), "{wrong}");
        }
    }
}
