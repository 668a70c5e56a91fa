//! What there is to serve: the files that the agent writes, read, checked and watched.
//!
//! The task in [`keep`] owns this state. It reads everything once the directory is there, then what changes,
//! and publishes it: who is trusted as one [`Trust`], every instance as a [`Served`] of its own, whose end is
//! the end of the channel. Connections look at both again for each log-in and command.
//!
//! Invariants: a file that cannot be used is logged and changes nothing, so the last good one stays in force; what is
//! gone from the directory is no longer served; files and their number are bounded.

mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dwell_core::id::{InstanceName, KeySetName};
use dwell_core::sandbox::SandboxId;
use dwell_core::ssh::{CONTAINERS_USER, DEFAULT_USER, HostKey, SshContainer};
use russh::keys::ssh_key::public::KeyData;
use tokio::sync::watch as latest;
use tracing::{info, warn};

pub use self::files::StateError;
pub(crate) use self::files::parse;
use self::watch::{Change, Watch};
use crate::authorized_keys::AuthorizedKey;

/// How long to wait for the directory, or to try again after an error.
const RETRY: Duration = Duration::from_millis(250);
/// How often the directory is read that cannot be watched, for want of inotify's instances or watches.
const UNWATCHED: Duration = Duration::from_secs(2);

/// Who may log in, everywhere.
#[derive(Debug, Default, PartialEq)]
pub struct Trust {
    /// The cluster's user CAs: one, or two while its authority is rotated.
    pub user_authorities: Vec<KeyData>,
    /// The zone of the instances' names; empty if it is not known.
    pub zone: String,
    /// The valid lines of each key set.
    pub sets: BTreeMap<KeySetName, Vec<AuthorizedKey>>,
}

/// An instance that is served.
#[derive(Debug, PartialEq)]
pub struct Served {
    /// Its name.
    pub instance: InstanceName,
    /// Where port 22 is listened on.
    pub address: Ipv4Addr,
    /// And here, if it has an IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// In which network namespace.
    pub netns: PathBuf,
    /// What it proves itself with; parsed for each connection, since most instances have none at any time.
    pub host_key: HostKey,
    /// The valid lines of its own keys.
    pub keys: Vec<AuthorizedKey>,
    /// Which key sets count here; absent: all.
    pub key_sets: Option<Vec<KeySetName>>,
    /// The names that may be logged in as; absent: any.
    pub users: Option<Vec<String>>,
    /// Who somebody is that chose no name; absent: the container's own user.
    pub login_as: Option<String>,
    /// Whether an account of the container may let others in as itself, by its `authorized_keys`.
    pub account_keys: bool,
    /// What runs in the sandbox.
    pub container: Option<SshContainer>,
    /// What was wrong with its lines, to say it once.
    faults: Vec<String>,
}

impl Served {
    /// Who somebody is that logs in under a name.
    pub fn account<'a>(&'a self, login: &'a str) -> &'a str {
        match login {
            DEFAULT_USER => self.login_as.as_deref().unwrap_or(CONTAINERS_USER),
            chosen => chosen,
        }
    }
}

/// What an instance is now; closed when it is no longer served.
pub type ServedNow = latest::Receiver<Arc<Served>>;

/// Reads and watches the directory `dir` for ever, publishes whom to trust in `trust`, and calls `serve` for
/// each instance that begins to be served.
pub async fn keep(dir: PathBuf, trust: latest::Sender<Arc<Trust>>, serve: impl Fn(ServedNow)) {
    let keeper = Keeper { dir, trust, serve, instances: HashMap::new() };
    keep_with(keeper, Watch::new).await;
}

async fn keep_with<S: Fn(ServedNow)>(
    mut keeper: Keeper<S>,
    watch: impl Fn(&Path) -> io::Result<Watch>,
) {
    let mut said = None;
    loop {
        match watch(&keeper.dir) {
            Ok(mut watch) => {
                said = None;
                keeper.read_all();
                while let Some(changes) = watch.changes().await {
                    for change in changes {
                        keeper.follow(&change);
                    }
                }
                info!(dir = %keeper.dir.display(), "the directory was replaced");
            }
            Err(error) => {
                let is_absent = error.kind() == io::ErrorKind::NotFound;
                if said.replace(error.kind()) != Some(error.kind()) {
                    keeper.tell(&error, is_absent);
                }
                if !is_absent {
                    keeper.read_all();
                    tokio::time::sleep(UNWATCHED).await;
                    continue;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

struct Keeper<S> {
    dir: PathBuf,
    trust: latest::Sender<Arc<Trust>>,
    serve: S,
    /// By their sandboxes.
    instances: HashMap<SandboxId, latest::Sender<Arc<Served>>>,
}

impl<S: Fn(ServedNow)> Keeper<S> {
    /// Says why the directory is not watched.
    fn tell(&self, error: &io::Error, is_absent: bool) {
        let dir = self.dir.display();
        if is_absent {
            info!(%dir, %error, "waiting for the agent to make its directory");
        } else {
            warn!(
                %dir, %error,
                "cannot watch the agent's directory, and reads it every {} s instead; raise fs.inotify.max_user_instances and \
                 max_user_watches",
                UNWATCHED.as_secs()
            );
        }
    }

    fn follow(&mut self, change: &Change) {
        match change {
            Change::Everything => self.read_all(),
            Change::Trust => self.read_trust(),
            Change::Instance(file) => self.read_instance(file),
        }
    }

    fn read_all(&mut self) {
        self.read_trust();
        let files = match files::instance_files(&self.dir) {
            Ok(files) => files,
            Err(error) => {
                warn!(%error, "cannot see which instances there are; those of before stay");
                return;
            }
        };
        for file in &files {
            self.read_instance(file);
        }
        let there: Vec<_> = files.iter().filter_map(|file| files::sandbox_of(file)).collect();
        let gone: Vec<_> =
            self.instances.keys().filter(|name| !there.contains(name)).cloned().collect();
        for name in gone {
            self.remove(&name);
        }
    }

    /// Without the file nobody is trusted: it is the agent's first.
    fn read_trust(&self) {
        match files::read_trust(&self.path("trust.json")) {
            Ok(trust) => {
                self.trust.send_if_modified(|now| {
                    let changed = **now != trust;
                    if changed {
                        info!(key_sets = trust.sets.len(), "trust changed");
                        *now = Arc::new(trust);
                    }
                    changed
                });
            }
            Err(error) if error.is_absence() => {}
            Err(error) => warn!(%error, "what was trusted before stays"),
        }
    }

    fn read_instance(&mut self, file: &OsStr) {
        let Some(name) = files::sandbox_of(file) else { return };
        match files::read_instance(&self.path("instances").join(file), &name.instance) {
            Ok(served) => self.publish(name, served),
            Err(error) if error.is_absence() => self.remove(&name),
            Err(error) => warn!(instance = %name, %error, "what was served before stays"),
        }
    }

    fn publish(&mut self, name: SandboxId, served: Served) {
        let before = self.instances.get(&name);
        if before.is_none_or(|before| before.borrow().faults != served.faults) {
            for fault in &served.faults {
                warn!(instance = %name, "a key of its own {fault}");
            }
        }
        match before {
            // Also if nothing changed: the network namespace behind the path may be another.
            Some(before) => drop(before.send_replace(Arc::new(served))),
            None => {
                info!(instance = %name, address = %served.address, "serving");
                let (sender, receiver) = latest::channel(Arc::new(served));
                self.instances.insert(name, sender);
                (self.serve)(receiver);
            }
        }
    }

    fn remove(&mut self, name: &SandboxId) {
        if self.instances.remove(name).is_some() {
            info!(instance = %name, "no longer served");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(&self.dir, name)
    }
}

#[cfg(test)]
mod tests;
