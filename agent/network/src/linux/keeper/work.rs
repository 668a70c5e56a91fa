//! The keeper's side: what takes `CAP_SYS_ADMIN` and the host's mount namespace.
//!
//! A namespace is made and entered by a thread that ends right after, so that no thread that does other work is ever in
//! the wrong namespace. The mount is the last step of making one: a name that is mounted is a namespace with its settings
//! complete, a plain file is one that was never finished. No link is followed in the directory of the names.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use dwell_core::sandbox::SandboxId;
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::super::namespace::is_namespace;
use super::super::sysctl;
use super::setting::is_allowed;
use super::wire::Call;
use crate::{sandbox_directory, sandbox_path};

/// What is set inside a new namespace before anything can run in it. The first two are what Docker
/// gives its containers; `eth0`, which does not exist yet, takes the third as its default, which spares
/// it the wait for IPv6's duplicate address detection. Without the fourth, `localhost` would be `::1` first, where
/// a server that listens on IPv4 is not found.
const SETTINGS: [(&str, &str); 4] = [
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv6/conf/lo/disable_ipv6", "1"),
];
/// The interfaces of a sandbox.
const INTERFACES: [&str; 2] = ["eth0", "lo"];

/// Carries calls out.
pub(super) struct Work {
    run_dir: PathBuf,
    directory: PathBuf,
}

impl Work {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned(), directory: sandbox_directory(run_dir) }
    }

    /// Does it, in the host's namespaces; what is asked for, or `None` if there is no such thing.
    pub(super) fn carry_out(
        &self,
        call: &Call,
        about: Option<&OwnedFd>,
    ) -> io::Result<Option<Vec<OwnedFd>>> {
        match (call, about) {
            (Call::Create(sandbox), None) => self.create(sandbox).map(Some),
            (Call::Open(sandbox), None) => self.open(sandbox),
            (Call::Adopt(sandbox), Some(namespace)) => self.adopt(sandbox, namespace).map(done),
            (Call::Remove(sandbox), None) => self.remove(sandbox).map(done),
            (Call::RemoveDirectory, None) => self.remove_directory().map(done),
            (Call::Ipv6 { sandbox, on }, None) => self.ipv6(sandbox, *on),
            (Call::Set { setting, value }, None) if is_allowed(setting, value) => {
                found(sysctl::write(setting, value)).map(|it| it.and_then(done))
            }
            _ => Err(Errno::EPERM.into()),
        }
    }

    fn create(&self, sandbox: &SandboxId) -> io::Result<Vec<OwnedFd>> {
        let path = self.path(sandbox);
        self.prepare()?;
        make_file(&path)?;
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            for (setting, value) in SETTINGS {
                // A kernel without IPv6 does not have the file.
                found(sysctl::write(setting, value))?;
            }
            name(Path::new("/proc/thread-self/ns/net"), &path)?;
            Ok(vec![File::open(&path)?.into(), route_socket()?])
        })
    }

    fn open(&self, sandbox: &SandboxId) -> io::Result<Option<Vec<OwnedFd>>> {
        let path = self.path(sandbox);
        if !is_namespace(&path) {
            return Ok(None);
        }
        let file = File::open(&path)?;
        let socket = inside(&file, route_socket)?;
        Ok(Some(vec![file.into(), socket]))
    }

    fn adopt(&self, sandbox: &SandboxId, namespace: &OwnedFd) -> io::Result<()> {
        // It is one, or it could not be entered.
        inside(namespace, || Ok(()))?;
        let path = self.path(sandbox);
        self.prepare()?;
        make_file(&path)?;
        name(&PathBuf::from(format!("/proc/self/fd/{}", namespace.as_raw_fd())), &path)
    }

    fn remove(&self, sandbox: &SandboxId) -> io::Result<()> {
        let path = self.path(sandbox);
        unmount_all(&path)?;
        found(fs::remove_file(&path)).map(drop)
    }

    fn remove_directory(&self) -> io::Result<()> {
        unmount_all(&self.directory)?;
        found(fs::remove_dir(&self.directory)).map(drop)
    }

    fn ipv6(&self, sandbox: &SandboxId, on: bool) -> io::Result<Option<Vec<OwnedFd>>> {
        let path = self.path(sandbox);
        if !is_namespace(&path) {
            return Ok(None);
        }
        inside(File::open(&path)?, || {
            let set = |setting: &str, value: &str| found(sysctl::write(setting, value)).map(drop);
            INTERFACES.into_iter().try_for_each(|interface| match on {
                true => sysctl::let_ipv6_in(interface, set),
                false => set(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1"),
            })
        })?;
        Ok(Some(Vec::new()))
    }

    fn path(&self, sandbox: &SandboxId) -> PathBuf {
        sandbox_path(&self.run_dir, sandbox)
    }

    /// Makes the directory a shared mount of its own, so that what is mounted in it is also seen by
    /// the engine and the agent, which may live in other mount namespaces.
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

/// Done, with nothing to be given.
#[expect(clippy::unnecessary_wraps, reason = "it is mapped over what was done")]
fn done((): ()) -> Option<Vec<OwnedFd>> {
    Some(Vec::new())
}

/// Whether what was worked on was there.
fn found(result: io::Result<()>) -> io::Result<Option<()>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The file on which a namespace is mounted.
fn make_file(path: &Path) -> io::Result<()> {
    let mut options = File::options();
    options.create(true).write(true).truncate(true).custom_flags(libc::O_NOFOLLOW);
    options.open(path).map(drop)
}

fn name(namespace: &Path, path: &Path) -> io::Result<()> {
    Ok(mount(Some(namespace), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Undoes all mounts on `path`; a keeper that was killed at the wrong moment may leave two.
fn unmount_all(path: &Path) -> io::Result<()> {
    const MOUNTS_AT_MOST: usize = 16;
    for _ in 0..MOUNTS_AT_MOST {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // EINVAL is how the kernel says that nothing is mounted there.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            unmounted => unmounted?,
        }
    }
    Err(io::Error::other(format!("more than {MOUNTS_AT_MOST} mounts on it")))
}

/// For links, addresses, routes and neighbours, in the namespace of this thread. Whoever gets it gives it its port.
fn route_socket() -> io::Result<OwnedFd> {
    let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
    // NETLINK_ROUTE is protocol 0.
    Ok(socket_with(AddressFamily::NETLINK, kind, flags, None)?)
}

/// Runs `work` in the network namespace that a file refers to.
fn inside<T: Send>(
    namespace: impl AsFd + Sync,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_own_thread(|| {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// Runs `work` on a thread that ends with it, whatever namespace it is in by then.
fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("dwell-netns".to_owned());
        let worker = thread.spawn_scoped(scope, work)?;
        worker.join().unwrap_or_else(|_| Err(io::Error::other("namespace thread panicked")))
    })
}
