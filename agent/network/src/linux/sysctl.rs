//! Settings under `/proc/sys` that the agent changes, and gives back. The [keeper](super::keeper) writes them.
//!
//! What a setting was before is written to `RUN_DIR/sysctls.json` before it is changed for the first
//! time. [`Sysctls::restore`] gives it back, unless somebody else has changed the setting since.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::keeper::{Call, Keeper};
use crate::NetworkError;

/// A setting as it was found and as we made it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    found: String,
    made: String,
}

/// The settings of the host namespace.
pub(super) struct Sysctls {
    record: PathBuf,
    keeper: Keeper,
}

impl Sysctls {
    pub(super) fn new(run_dir: &Path, keeper: Keeper) -> Self {
        Self { record: run_dir.join("sysctls.json"), keeper }
    }

    /// Makes `setting` (such as `net/ipv4/ip_forward`) equal to `wanted`. One that this kernel or
    /// namespace does not have is left out.
    pub(super) fn set(&self, setting: &str, wanted: &str) -> Result<(), NetworkError> {
        self.set_unless(setting, wanted, |found| found == wanted)
    }

    /// Makes `setting` at least `wanted`.
    pub(super) fn raise(&self, setting: &str, wanted: u32) -> Result<(), NetworkError> {
        self.set_unless(setting, &wanted.to_string(), |found| {
            found.parse().is_ok_and(|found: u32| found >= wanted)
        })
    }

    fn set_unless(
        &self,
        setting: &str,
        wanted: &str,
        is_good: impl FnOnce(&str) -> bool,
    ) -> Result<(), NetworkError> {
        let Some(found) = read(setting)? else { return Ok(()) };
        if is_good(&found) {
            return Ok(());
        }
        let mut changes = self.load()?;
        let change = changes
            .entry(setting.to_owned())
            .or_insert_with(|| Change { found, made: wanted.to_owned() });
        wanted.clone_into(&mut change.made);
        self.store(&changes)?;
        self.set_own(setting, wanted)
    }

    /// Sets a setting of something we have made ourselves, which goes when that goes. One that this kernel
    /// does not have is left out.
    pub(super) fn set_own(&self, setting: &str, value: &str) -> Result<(), NetworkError> {
        let fail = |source| NetworkError::File { action: "write", path: path(setting), source };
        self.give(setting, value).map_err(fail)
    }

    /// See [`let_ipv6_in`], for an interface of the host.
    pub(super) fn let_ipv6_in(&self, interface: &str) -> Result<(), NetworkError> {
        let fail = |source| {
            let path = path(&format!("net/ipv6/conf/{interface}"));
            NetworkError::File { action: "let IPv6 in by", path, source }
        };
        let_ipv6_in(interface, |setting, value| self.give(setting, value)).map_err(fail)
    }

    fn give(&self, setting: &str, value: &str) -> io::Result<()> {
        let call = Call::Set { setting: setting.to_owned(), value: value.to_owned() };
        self.keeper.call(&call, None).map(drop)
    }

    /// Gives back what was found, except what is to `keep`.
    pub(super) fn restore(&self, keep: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        for (setting, change) in self.load()? {
            let is_ours = read(&setting)?.is_some_and(|now| now == change.made);
            if is_ours && !keep(&setting) {
                self.set_own(&setting, &change.found)?;
            }
        }
        match fs::remove_file(&self.record) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(NetworkError::File { action: "remove", path: self.record.clone(), source })
            }
            _ => Ok(()),
        }
    }

    fn load(&self) -> Result<BTreeMap<String, Change>, NetworkError> {
        let fail =
            |source| NetworkError::File { action: "read", path: self.record.clone(), source };
        match fs::read(&self.record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(fail(error)),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| fail(error.into())),
        }
    }

    /// Whole or not at all, also if we are killed meanwhile.
    fn store(&self, changes: &BTreeMap<String, Change>) -> Result<(), NetworkError> {
        let new = self.record.with_extension("json.new");
        serde_json::to_vec_pretty(changes)
            .map_err(io::Error::from)
            .and_then(|bytes| fs::write(&new, bytes))
            .and_then(|()| fs::rename(&new, &self.record))
            .map_err(|source| NetworkError::File { action: "write", path: new, source })
    }
}

/// The value of a setting, its numbers separated by one space; `None` if there is no such setting.
pub(super) fn read(setting: &str) -> Result<Option<String>, NetworkError> {
    look(setting).map_err(|source| NetworkError::File {
        action: "read",
        path: path(setting),
        source,
    })
}

fn look(setting: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(path(setting)) {
        Ok(value) => Ok(Some(value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Switches IPv6 on at an interface that we have made ourselves, in the namespace of the calling thread. It gets no
/// address but what it is given, and believes no router. One that the kernel has switched on by itself, when the link
/// began to carry enough for it, loses what it got with that.
pub(super) fn let_ipv6_in(
    interface: &str,
    write: impl Fn(&str, &str) -> io::Result<()>,
) -> io::Result<()> {
    let setting = |name| format!("net/ipv6/conf/{interface}/{name}");
    let wanted = [("addr_gen_mode", "1"), ("accept_ra", "0"), ("disable_ipv6", "0")];
    let mut is_right = true;
    for (name, value) in wanted {
        is_right &= look(&setting(name))?.is_none_or(|found| found == value);
    }
    if is_right {
        return Ok(());
    }
    for (name, value) in [("disable_ipv6", "1")].into_iter().chain(wanted) {
        write(&setting(name), value)?;
    }
    Ok(())
}

/// Writes it, in the namespace of the calling thread.
pub(super) fn write(setting: &str, value: &str) -> io::Result<()> {
    fs::write(path(setting), value)
}

fn path(setting: &str) -> PathBuf {
    Path::new("/proc/sys").join(setting)
}
