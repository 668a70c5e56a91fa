//! What must hold of the parsers in here for any bytes: see `fuzz/`.
#![expect(clippy::panic, reason = "that is how a target fails")]

use std::fmt::{Debug, Display};
use std::str::{FromStr, from_utf8};

use crate::access::{ContextId, Role};
use crate::host_mark::HostMark;
use crate::id::{InstanceName, NodeName, PoolName, WorkloadName};
use crate::image::{ImageDigest, came_with, digest_of, pinned, repository, tag_of};
use crate::instance::sanitize;
use crate::net::Mac;
use crate::quantity::{Bytes, Millicores, Millis};
use crate::registry::RegistryHost;
use crate::workload::Constraint;

/// Panics if what is given breaks the parser.
pub type Holds = fn(&[u8]);

/// By their names.
pub const TARGETS: &[(&str, Holds)] = &[("words", words), ("references", references)];

/// Names, quantities, marks and rules, as somebody writes them: what is taken reads the same once it was shown.
fn words(bytes: &[u8]) {
    let Ok(text) = from_utf8(bytes) else { return };
    again::<WorkloadName>(text);
    again::<InstanceName>(text);
    again::<NodeName>(text);
    again::<PoolName>(text);
    again::<Millicores>(text);
    again::<Bytes>(text);
    again::<Millis>(text);
    again::<Mac>(text);
    again::<ImageDigest>(text);
    again::<HostMark>(text);
    again::<ContextId>(text);
    again::<Role>(text);
    again::<RegistryHost>(text);
    again::<Constraint>(text);
}

fn again<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    let Ok(read) = text.parse::<T>() else { return };
    let shown = read.to_string();
    match shown.parse::<T>() {
        Ok(same) => assert_eq!(same, read, "{text:?} is shown as {shown:?}"),
        Err(_) => panic!("{text:?} is shown as {shown:?}, which is not taken"),
    }
}

/// References of images, and what others write that is shown on terminals.
fn references(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (name, reference) = text.split_once('\n').unwrap_or((&text, ""));
    let _ = (repository(name), tag_of(name), came_with(name, reference));
    if let Some(digest) = digest_of(name) {
        assert_eq!(digest_of(&pinned(name, Some(digest))), Some(digest));
    }
    let shown = sanitize(&text, 100);
    assert!(shown.len() <= 100 && !shown.chars().any(|c| c.is_control() && c != '\n'));
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_holds() {
        dwell_daemon::corpus::replay(super::TARGETS);
    }
}
