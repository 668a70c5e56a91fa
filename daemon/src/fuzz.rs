//! What must hold of the parsers in here for any bytes: see `fuzz/`.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::str::from_utf8;

use crate::{cgroups, config};

/// Panics if what is given breaks the parser.
pub type Holds = fn(&[u8]);

/// By their names.
pub const TARGETS: &[(&str, Holds)] = &[("control_groups", control_groups), ("yaml", yaml)];

/// `/proc/PID/cgroup` of a container's process and `mountinfo`, of which the container can name parts.
fn control_groups(bytes: &[u8]) {
    let Ok(text) = from_utf8(bytes) else { return };
    let (theirs, mountinfo) = text.split_once("\n\n").unwrap_or((text, text));
    let Ok(places) = cgroups::places(theirs, "", mountinfo) else { return };
    for place in places {
        let leads_out = place.directory.components().any(|part| part.as_os_str() == "..");
        // Only what the host's own list of mounts says itself may.
        assert!(!leads_out || mountinfo.contains(".."), "{place:?}");
    }
    black_box(cgroups::is_frozen(text));
}

/// A configuration, whatever its keys.
fn yaml(bytes: &[u8]) {
    let Ok(text) = from_utf8(bytes) else { return };
    drop(config::parse::<BTreeMap<String, Option<String>>>(text));
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_holds() {
        crate::corpus::replay(super::TARGETS);
    }
}
