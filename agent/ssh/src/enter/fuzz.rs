//! What must hold of what a container and its engine say, for any bytes: see `fuzz/`.

use std::str::from_utf8;

use super::accounts::Account;
use super::bundle::{Config, User};
use super::limits::{Limit, of_process};
use super::seccomp::Filter;
pub(crate) use super::sftp::fuzz::packets as sftp;

/// `/etc/passwd` and `/etc/group`, which are a container's own.
pub(crate) fn accounts(bytes: &[u8]) {
    let Ok(text) = from_utf8(bytes) else { return };
    let (passwd, group) = text.split_once("\n\n").unwrap_or((text, ""));
    let own = User { uid: 1000, gid: 1000, umask: None, additional_gids: vec![4, 24] };
    let named = passwd.split(':').next().and_then(|name| Account::named(name, passwd, group, &own));
    for account in named.into_iter().chain([Account::own(passwd, &own)]) {
        let mut ids = account.groups.iter().chain([&account.uid, &account.gid]);
        assert!(ids.all(|id| *id != u32::MAX), "to the kernel that means no change: {account:?}");
        let mut paths = account.home.iter().chain(&account.shell);
        assert!(paths.all(|path| path.starts_with('/') && !path.contains('\0')), "{account:?}");
    }
}

/// A bundle's configuration, and what becomes of its filter and limits.
pub(crate) fn oci_config(bytes: &[u8]) {
    let Ok(config) = Config::parse(bytes) else { return };
    for limit in &config.process.rlimits {
        let _ = Limit::of_container(limit);
    }
    if let Some(seccomp) = &config.linux.seccomp {
        drop(Filter::compile(seccomp));
    }
}

/// `/proc/PID/limits`.
pub(crate) fn process_limits(bytes: &[u8]) {
    let Ok(text) = from_utf8(bytes) else { return };
    assert!(of_process(text).count() <= 16);
}
