//! What must hold of the parsers in here for any bytes: see `fuzz/`.

use std::net::IpAddr;
use std::str::from_utf8;
use std::time::SystemTime;

use crate::authorized_keys::{Forced, parse_line};
use crate::pattern::{AddressList, Target};
use crate::{enter, resolve, state};

/// Panics if what is given breaks the parser.
pub type Holds = fn(&[u8]);

/// By their names.
pub const TARGETS: &[(&str, Holds)] = &[
    ("accounts", enter::fuzz::accounts),
    ("authorized_keys", authorized_keys),
    ("name_answer", name_answer),
    ("oci_config", enter::fuzz::oci_config),
    ("process_limits", enter::fuzz::process_limits),
    ("sftp", enter::fuzz::sftp),
    ("ssh_files", state::fuzz::agents_files),
];

/// A line of somebody's `authorized_keys`, and what its options hold.
fn authorized_keys(bytes: &[u8]) {
    let Ok(line) = from_utf8(bytes) else { return };
    let address = IpAddr::from([10, 80, 1, 2]);
    if let Ok(Some(key)) = parse_line(line) {
        let _ = key.options.applies(address, SystemTime::UNIX_EPOCH);
    }
    let lists = [AddressList::patterns(line), AddressList::networks(line)];
    for list in lists.into_iter().flatten() {
        let _ = list.matches(address);
    }
    for target in [Target::with_host(line), Target::host_optional(line)].into_iter().flatten() {
        let _ = target.matches("db.dwell", 5432);
    }
    drop(Forced::parse(line));
}

/// What answers the question for a name.
fn name_answer(bytes: &[u8]) {
    let id = bytes.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    drop(resolve::read_answer(bytes, id));
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_holds() {
        dwell_daemon::corpus::replay(super::TARGETS);
    }
}
