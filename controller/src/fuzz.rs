//! What must hold of what a controller reads, for any bytes: see `fuzz/`.

use std::hint::black_box;
use std::path::Path;
use std::str::from_utf8;

use crate::config::Config;
use crate::model::Record;
use crate::{backup, pki};

/// Panics if what is given breaks the parser.
pub type Holds = fn(&[u8]);

/// By their names.
pub const TARGETS: &[(&str, Holds)] = &[
    ("backup", backup),
    ("certificate_request", certificate_request),
    ("controller_config", controller_config),
    ("records", records),
];

/// The tables of the store.
const TABLES: [&str; 14] = [
    "workload",
    "version",
    "instance",
    "node",
    "token",
    "key-set",
    "registry",
    "context",
    "event",
    "volume",
    "quarantine",
    "reserved",
    "history",
    "stored",
];

/// A record of the store, of each table: what is read is written as what reads the same.
fn records(bytes: &[u8]) {
    for table in TABLES {
        let Ok(record) = Record::decode(table, bytes) else { continue };
        let again = record.encode().and_then(|json| Record::decode(table, &json));
        assert!(again.is_ok_and(|again| again == record), "{table}");
    }
}

/// What a host that joins sends.
fn certificate_request(der: &[u8]) {
    if let Ok(request) = pki::Request::read(der) {
        black_box(request.enrolment());
    }
}

/// An archive that is to be put back; here, as far as nothing is written.
fn backup(bytes: &[u8]) {
    // Nothing can be made beneath it.
    let nowhere = Path::new("/dev/null/scratch");
    assert!(backup::put_back::unpack(nowhere, bytes, "an archive").is_err());
}

/// `controller.yaml`.
fn controller_config(bytes: &[u8]) {
    let Ok(text) = from_utf8(bytes) else { return };
    if let Ok(config) = dwell_daemon::config::parse::<Config>(text) {
        drop(config.check());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_holds() {
        dwell_daemon::corpus::replay(super::TARGETS);
    }
}
