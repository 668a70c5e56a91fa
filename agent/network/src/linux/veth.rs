//! The names of our veths in the host namespace.
//!
//! `dw-` and the hash of the instance's name make a veth recognisable as ours; two more digits count
//! the veths of one instance, so that a new one need not wait until the kernel has taken the old one
//! apart, which takes it 15 ms. The alias says for people, and for us, whose it is: `web-0 10.80.1.5`, and
//! `web-0 10.80.1.5 b` of the second of two sandboxes.
//!
//! A veth whose time has come is put into [`DOOMED_GROUP`]. From then on it is nobody's, and the
//! reaper deletes the whole group at once, off everybody's critical path, also after a restart.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use dwell_core::id::InstanceName;
use dwell_core::sandbox::{SandboxId, Slot};
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

/// Whether a link of the host namespace is the veth of a sandbox, and not doomed yet.
pub(super) fn belongs_to(link: &Link, sandbox: &SandboxId) -> bool {
    // One that was cut off before it got its alias is known by its name alone.
    let is_named = link.alias.is_empty() || owner(link).is_some_and(|it| it.sandbox == *sandbox);
    is_ours(link)
        && link.name.starts_with(&stem(&sandbox.instance))
        && is_named
        && link.group != DOOMED_GROUP
}

/// What the alias of a sandbox's veth says.
pub(super) fn alias(sandbox: &Sandbox) -> String {
    let Sandbox { instance, slot, address, .. } = sandbox;
    match slot {
        Slot::A => format!("{instance} {address}"),
        Slot::B => format!("{instance} {address} {slot}"),
    }
}

/// Whose a veth is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ownership {
    pub(super) sandbox: SandboxId,
    pub(super) address: Ipv4Addr,
}

/// Reads [`alias`] back.
pub(super) fn owner(link: &Link) -> Option<Ownership> {
    let mut words = link.alias.split(' ');
    let (instance, address) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let slot = words.next().map_or(Ok(Slot::A), str::parse).ok()?;
    let sandbox = SandboxId { instance, slot };
    words.next().is_none().then_some(Ownership { sandbox, address })
}

#[cfg(test)]
mod tests {
    use dwell_core::net::Mac;

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
            assert!(belongs_to(&link(&name, ""), &longest.clone().into()));
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
        let (web, db): (SandboxId, SandboxId) = ("web-0".parse().unwrap(), "db-0".parse().unwrap());
        let name = names(&web.instance).next().unwrap();
        assert!(belongs_to(&link(&name, "web-0 10.80.1.5"), &web));
        assert!(!belongs_to(&link(&name, "db-0 10.80.1.5"), &web));
        assert!(!belongs_to(&link(&name, "web-0 10.80.1.5"), &db));
        let doomed = Link { group: DOOMED_GROUP, ..link(&name, "web-0 10.80.1.5") };
        assert!(!belongs_to(&doomed, &web));
    }

    #[test]
    fn the_two_sandboxes_of_an_instance_are_told_apart() {
        let address = Ipv4Addr::new(10, 80, 1, 5);
        let one = Sandbox::only("web-0".parse().unwrap(), address, Mac::of_address(address));
        let other = Sandbox { slot: Slot::B, ..one.clone() };
        let name = names(&one.instance).next().unwrap();
        for (mine, not_mine) in [(&one, &other), (&other, &one)] {
            let link = link(&name, &alias(mine));
            assert!(belongs_to(&link, &mine.id()) && !belongs_to(&link, &not_mine.id()));
            let of = Ownership { sandbox: mine.id(), address: mine.address };
            assert_eq!(owner(&link), Some(of));
        }
        for strange in ["web-0", "web-0 10.80.1.5 c", "web-0 10.80.1.5 b b"] {
            assert_eq!(owner(&link(&name, strange)), None);
        }
    }
}
