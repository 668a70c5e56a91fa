//! Named network namespaces: `RUN_DIR/netns/INSTANCE`, with `.b` behind it for a second one, each a bind mount that keeps one alive.
//!
//! A namespace is made and entered by a thread that ends right after, so that no thread of the agent
//! is ever in the wrong namespace. The mount is the last step of making one: a name that is mounted
//! is a namespace with its settings complete, a plain file is one that was never finished.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::thread;

use dwell_core::sandbox::SandboxId;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use super::netlink::Netlink;
use crate::{NetworkError, sandbox_directory, sandbox_path};

/// What is set inside a new namespace before anything can run in it. The first two are what Docker
/// gives its containers; `eth0`, which does not exist yet, takes the third as its default, which spares
/// it the wait for IPv6's duplicate address detection. Without the fourth, `localhost` would be `::1` first, where
/// a server that listens on IPv4 is not found.
const SETTINGS: [(&str, &str); 4] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
    ("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1"),
];

/// The namespace of a sandbox, and a socket in it.
pub(super) struct Namespace {
    /// Refers to the namespace.
    pub(super) file: File,
    /// Opened inside.
    pub(super) netlink: Netlink,
}

impl Namespace {
    /// Does `work` inside.
    pub(super) fn visit(
        &self,
        work: impl FnOnce() -> Result<(), NetworkError> + Send,
    ) -> io::Result<Result<(), NetworkError>> {
        on_own_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
    }
}

/// The directory of the names.
pub(super) struct Namespaces {
    run_dir: PathBuf,
    pub(super) directory: PathBuf,
}

impl Namespaces {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned(), directory: sandbox_directory(run_dir) }
    }

    /// The namespace of `sandbox`, if there is a complete one.
    pub(super) fn open(&self, sandbox: &SandboxId) -> Result<Option<Namespace>, NetworkError> {
        let path = self.path(sandbox);
        if !is_namespace(&path) {
            return Ok(None);
        }
        let opened = File::open(&path).and_then(|file| {
            let netlink = on_own_thread(|| {
                setns(&file, CloneFlags::CLONE_NEWNET)?;
                Netlink::route()
            })?;
            Ok(Namespace { file, netlink })
        });
        opened.map(Some).map_err(|source| NetworkError::File { action: "enter", path, source })
    }

    /// Gives the namespace that `file` refers to the name of `sandbox`.
    pub(super) fn adopt(&self, sandbox: &SandboxId, file: &File) -> Result<(), NetworkError> {
        let path = self.path(sandbox);
        let source = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let adopted = self.prepare().and_then(|()| {
            File::create(&path)?;
            mount(Some(&source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        });
        let action = "give the network namespace its name again at";
        adopted.map_err(|source| NetworkError::File { action, path, source })
    }

    /// Makes a namespace for `sandbox`, which has none.
    pub(super) fn create(&self, sandbox: &SandboxId) -> Result<Namespace, NetworkError> {
        let path = self.path(sandbox);
        let created = self.prepare().and_then(|()| {
            File::create(&path)?;
            on_own_thread(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                for (setting, value) in SETTINGS {
                    match fs::write(setting, value) {
                        // A kernel without IPv6 does not have the file.
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
                let own = Path::new("/proc/thread-self/ns/net");
                mount(Some(own), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
                Ok(Namespace { file: File::open(&path)?, netlink: Netlink::route()? })
            })
        });
        let action = "make the network namespace";
        created.map_err(|source| NetworkError::File { action, path, source })
    }

    /// Takes the name away; the namespace itself goes with its last process.
    pub(super) fn remove(&self, sandbox: &SandboxId) -> Result<(), NetworkError> {
        let path = self.path(sandbox);
        let removed = unmount_all(&path).and_then(|()| match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        removed.map_err(|source| NetworkError::File { action: "remove", path, source })
    }

    /// All names, in order, also of namespaces that were never finished.
    pub(super) fn list(&self) -> Result<Vec<SandboxId>, NetworkError> {
        let fail = |source| {
            let path = self.directory.clone();
            NetworkError::File { action: "list", path, source }
        };
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(fail)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(fail)?.file_name();
            names.extend(name.to_str().and_then(|name| name.parse().ok()));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Removes the directory, which must be empty.
    pub(super) fn remove_directory(&self) -> Result<(), NetworkError> {
        let path = self.directory.clone();
        let removed = unmount_all(&path).and_then(|()| match fs::remove_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        removed.map_err(|source| NetworkError::File { action: "remove", path, source })
    }

    /// Whether there is a complete one of `sandbox`.
    pub(super) fn has(&self, sandbox: &SandboxId) -> bool {
        is_namespace(&self.path(sandbox))
    }

    fn path(&self, sandbox: &SandboxId) -> PathBuf {
        sandbox_path(&self.run_dir, sandbox)
    }

    /// Makes the directory a shared mount of its own, so that what is mounted in it is also seen by
    /// the engine, which may live in another mount namespace.
    fn prepare(&self) -> io::Result<()> {
        let none = None::<&str>;
        let share = MsFlags::MS_SHARED | MsFlags::MS_REC;
        fs::create_dir_all(&self.directory)?;
        if mount(none, &self.directory, none, share, none).is_ok() {
            return Ok(());
        }
        // It is no mount point yet.
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&self.directory), &self.directory, none, bind, none)?;
        mount(none, &self.directory, none, share, none)?;
        Ok(())
    }
}

fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|statistics| statistics.filesystem_type() == NSFS_MAGIC)
}

/// Undoes all mounts on `path`; an agent that was killed at the wrong moment may leave two.
fn unmount_all(path: &Path) -> io::Result<()> {
    const MOUNTS_AT_MOST: usize = 16;
    for _ in 0..MOUNTS_AT_MOST {
        match umount2(path, MntFlags::MNT_DETACH) {
            // EINVAL is how the kernel says that nothing is mounted there.
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return Ok(()),
            unmounted => unmounted?,
        }
    }
    Err(io::Error::other(format!("more than {MOUNTS_AT_MOST} mounts on it")))
}

/// Runs `work` on a thread that ends with it, whatever namespace it is in by then.
fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("dwell-netns".to_owned());
        let worker = thread.spawn_scoped(scope, work)?;
        worker.join().unwrap_or_else(|_| Err(io::Error::other("namespace thread panicked")))
    })
}
