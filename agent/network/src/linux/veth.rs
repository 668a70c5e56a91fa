//! The names of our veths in the host namespace.
//!
//! `dw-` and the hash of the instance's name make a veth recognisable as ours; two more digits count
//! the veths of one instance, so that a new one need not wait until the kernel has taken the old one
//! apart, which takes it 15 ms. The alias says for people, and for us, whose it is: `web-0 10.80.1.5`.
//!
//! A veth whose time has come is put into [`DOOMED_GROUP`]. From then on it is nobody's, and the
//! reaper deletes the whole group at once, off everybody's critical path, also after a restart.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use dwell_core::id::InstanceName;
use sha2::{Digest, Sha256};

use super::observe::Link;
use crate::{INTERFACE_PREFIX, Sandbox};

/// The link group of veths that are to be deleted: "dwell" on a telephone's keys.
pub(super) const DOOMED_GROUP: u32 = 39_355;

/// Bytes of the hash that go into a name, two digits each: all that `IFNAMSIZ` leaves room for.
const HASH_BYTES: usize = 5;

/// The names that the veth of `instance` can have, in the order in which to try them.
pub(super) fn names(instance: &InstanceName) -> impl Iterator<Item = String> {
    let stem = stem(instance);
    (0..=u8::MAX).map(move |count| format!("{stem}{count:02x}"))
}

fn stem(instance: &InstanceName) -> String {
    let hash = Sha256::digest(instance.to_string());
    let mut stem = INTERFACE_PREFIX.to_owned();
    for byte in &hash[..HASH_BYTES] {
        // Writing to a string cannot fail.
        let _infallible = write!(stem, "{byte:02x}");
    }
    stem
}

/// Whether a link of the host namespace is a veth of ours, of any instance, living or doomed.
pub(super) fn is_ours(link: &Link) -> bool {
    let Some(digits) = link.name.strip_prefix(INTERFACE_PREFIX) else { return false };
    let all_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    link.kind == "veth" && digits.len() == 2 * HASH_BYTES + 2 && all_hex
}

/// Whether a link of the host namespace is a veth of `instance` that is not doomed yet.
pub(super) fn belongs_to(link: &Link, instance: &InstanceName) -> bool {
    // One that was cut off before it got its alias is known by its name alone.
    let is_named = link.alias.is_empty() || owner(link).is_some_and(|(name, _)| name == *instance);
    is_ours(link)
        && link.name.starts_with(&stem(instance))
        && is_named
        && link.group != DOOMED_GROUP
}

/// What the alias of a sandbox's veth says.
pub(super) fn alias(sandbox: &Sandbox) -> String {
    format!("{} {}", sandbox.instance, sandbox.address)
}

/// Reads [`alias`] back.
pub(super) fn owner(link: &Link) -> Option<(InstanceName, Ipv4Addr)> {
    let (instance, address) = link.alias.split_once(' ')?;
    Some((instance.parse().ok()?, address.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, alias: &str) -> Link {
        Link {
            index: 7,
            name: name.to_owned(),
            kind: "veth".to_owned(),
            alias: alias.to_owned(),
            mac: None,
            mtu: 1500,
            group: 0,
            peer: None,
            peer_namespace: None,
            is_up: true,
            has_carrier: true,
            is_running: true,
        }
    }

    #[test]
    fn names_fit_an_interface_and_are_recognised() {
        let longest: InstanceName = format!("{}-99999", "w".repeat(52)).parse().unwrap();
        for name in names(&longest) {
            assert_eq!(name.len(), 15);
            assert!(belongs_to(&link(&name, ""), &longest));
        }
        assert_eq!(names(&longest).count(), 256);
    }

    #[test]
    fn what_only_looks_like_ours_is_not() {
        for name in ["dw-", "dw-0123456789", "dw-0123456789zz", "docker0", "dwm-0123456789"] {
            assert!(!is_ours(&link(name, "")), "{name}");
        }
        let other = Link { kind: "bridge".to_owned(), ..link("dw-0123456789ab", "") };
        assert!(!is_ours(&other));
    }

    #[test]
    fn an_alias_tells_instances_with_the_same_hash_apart() {
        let (web, db) = ("web-0".parse().unwrap(), "db-0".parse().unwrap());
        let name = names(&web).next().unwrap();
        assert!(belongs_to(&link(&name, "web-0 10.80.1.5"), &web));
        assert!(!belongs_to(&link(&name, "db-0 10.80.1.5"), &web));
        assert!(!belongs_to(&link(&name, "web-0 10.80.1.5"), &db));
        let doomed = Link { group: DOOMED_GROUP, ..link(&name, "web-0 10.80.1.5") };
        assert!(!belongs_to(&doomed, &web));
    }
}
