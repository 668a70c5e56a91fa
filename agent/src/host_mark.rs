//! What the machine is known by: what a copy of its disk does not take along.
//!
//! That is the product UUID of its firmware (DMI), or what the hypervisor or the device tree has in its place. Some
//! firmware has the same for every machine of its kind: that is worth nothing, and the machine cannot be told from
//! others then.
//!
//! The mark of the machine is also kept in the data directory, `host-mark`, from the join on. On another machine, the
//! directory is a copy or was moved: what is in it is not acted on until the controller has taken this machine in.

use std::io;
use std::path::{Path, PathBuf};

use dwell_core::host_mark::HostMark;
use dwell_core::id::NodeName;

use crate::assignment::cache;
use crate::config::Config;
use dwell_daemon::durable;

/// Files with a UUID of the machine, the best first.
const UUIDS: [&str; 2] = ["sys/class/dmi/id/product_uuid", "sys/hypervisor/uuid"];
/// A file with the serial number of a machine without DMI.
const SERIAL: &str = "proc/device-tree/serial-number";
/// UUIDs that vendors have left in the firmware of many machines, in lower case and without hyphens.
const WORTHLESS: [&str; 4] = [
    "03000200040005000006000700080009",
    "00020003000400050006000700080009",
    "123456781234567890abcddeefaabbcc",
    "4c4c454400002010802080c04f202020",
];
/// The shortest serial number that is believed.
const SERIAL_MIN: usize = 6;

/// The mark of a node on this machine; `None` if the machine cannot be told from others.
#[must_use]
pub fn of(config: &Config, node: &NodeName) -> Option<HostMark> {
    let machine = match &config.host_id {
        Some(configured) => Some(configured.clone()).filter(|id| !id.is_empty()),
        None => machine(Path::new("/")),
    };
    if machine.is_none() {
        tracing::info!(
            "this machine has no id of its own; a copy of its disk is not noticed at once"
        );
    }
    machine.map(|machine| HostMark::new(node, &machine))
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("host-mark")
}

/// The machine that a data directory is of, if that is known. Blocks for the disk.
fn kept(data_dir: &Path) -> Option<HostMark> {
    std::fs::read_to_string(path(data_dir)).ok()?.trim_end().parse().ok()
}

/// Whether a data directory is of another machine than this one, as far as both are known. Blocks for the disk.
#[must_use]
pub fn is_of_another(data_dir: &Path, own: Option<&HostMark>) -> bool {
    own.zip(kept(data_dir)).is_some_and(|(own, kept)| *own != kept)
}

/// The controller has taken this machine in as the node that a data directory is of. What another machine was told to
/// run is forgotten. Blocks for the disk.
///
/// # Errors
/// What the file system said. The directory is the other machine's still, then.
pub fn claim(data_dir: &Path, own: &HostMark) -> io::Result<()> {
    let kept = kept(data_dir);
    if kept.as_ref() == Some(own) {
        return Ok(());
    }
    if kept.is_some() {
        cache::remove(data_dir)?;
    }
    durable::replace(&path(data_dir), format!("{own}\n").as_bytes(), 0o600)
}

/// What names the machine, of what is below `root`.
fn machine(root: &Path) -> Option<String> {
    let read = |path: &str| std::fs::read(root.join(path)).ok();
    let uuids = UUIDS.iter().filter_map(|path| uuid(&read(path)?));
    uuids.chain(read(SERIAL).and_then(|text| serial(&text))).next()
}

/// A UUID that is this machine's alone.
fn uuid(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?.trim().to_ascii_lowercase().replace('-', "");
    let is_uuid = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_uuid && !is_uniform(&text) && !WORTHLESS.contains(&text.as_str())).then_some(text)
}

/// A serial number that is this machine's alone. The device tree ends texts with a zero byte.
fn serial(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?.trim_matches(['\0', ' ', '\n']).to_ascii_lowercase();
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    (text.len() >= SERIAL_MIN && is_plain && !is_uniform(&text)).then_some(text)
}

/// Whether a text is one character throughout, such as that of a UUID that was never set.
fn is_uniform(text: &str) -> bool {
    let mut characters = text.chars();
    let first = characters.next();
    characters.all(|other| Some(other) == first)
}

#[cfg(test)]
mod tests {
    use dwell_core::session::{Assignment, NodeNetwork};

    use super::*;

    const UUID: &str = "4C4C4544-0042-3510-8052-B4C04F4D3732\n";

    #[test]
    fn a_machine_is_known_by_its_firmware() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(machine(root.path()), None);
        write(SERIAL, "10000000a1b2c3d4\0");
        assert_eq!(machine(root.path()).unwrap(), "10000000a1b2c3d4");
        write(UUIDS[1], "00000000-0000-0000-0000-000000000000");
        assert_eq!(machine(root.path()).unwrap(), "10000000a1b2c3d4");
        write(UUIDS[1], "ec2f1a3b-0042-3510-8052-b4c04f4d3732");
        assert_eq!(machine(root.path()).unwrap(), "ec2f1a3b004235108052b4c04f4d3732");
        write(UUIDS[0], UUID);
        assert_eq!(machine(root.path()).unwrap(), "4c4c4544004235108052b4c04f4d3732");
    }

    #[test]
    fn what_many_machines_have_names_none() {
        for worthless in [
            "",
            "Not Settable",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "03000200-0400-0500-0006-000700080009",
            "12345678-1234-5678-90ab-cddeefaabbcc",
        ] {
            assert_eq!(uuid(worthless.as_bytes()), None, "{worthless}");
        }
        for worthless in ["", "0\0", "00000000\0", "System Serial Number\0", "Default string"] {
            assert_eq!(serial(worthless.as_bytes()), None, "{worthless}");
        }
        assert_eq!(uuid(&[0xff, 0xfe]), None);
    }

    #[test]
    fn a_directory_of_another_machine_is_noticed_until_that_is_taken_in() {
        let dir = tempfile::tempdir().unwrap();
        let mark = |machine| HostMark::new(&"h1".parse().unwrap(), machine);
        let (one, two) = (mark("one"), mark("two"));
        let store = || {
            let network = NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap());
            cache::store(dir.path(), &Assignment::empty(network)).unwrap();
        };
        // One of before there were marks is believed.
        store();
        assert!(!is_of_another(dir.path(), Some(&one)));
        claim(dir.path(), &one).unwrap();
        assert!(cache::peek(dir.path()).is_some());
        assert!(!is_of_another(dir.path(), Some(&one)));
        assert!(!is_of_another(dir.path(), None), "nobody knows");
        assert!(is_of_another(dir.path(), Some(&two)));
        claim(dir.path(), &two).unwrap();
        assert!(!is_of_another(dir.path(), Some(&two)));
        assert!(cache::peek(dir.path()).is_none(), "it was for the other machine");
        store();
        claim(dir.path(), &two).unwrap();
        assert!(cache::peek(dir.path()).is_some());
    }

    #[test]
    fn the_configuration_says_it_otherwise() {
        let node: NodeName = "h1".parse().unwrap();
        let with = |id: &str| Config { host_id: Some(id.to_owned()), ..Config::default() };
        assert_eq!(of(&with("rack-7"), &node), Some(HostMark::new(&node, "rack-7")));
        assert_eq!(of(&with(""), &node), None);
    }
}
