//! The system calls for which there is no safe wrapper.

#![expect(
    unsafe_code,
    reason = "clone3, prlimit, keyctl, seccomp, close_range, rt_sigaction and tokio's registration have no safe wrapper that fits"
)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use seccompiler::BpfProgramRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::limits::Limit;

/// `CLONE_INTO_CGROUP` of `linux/sched.h`, which does not fit the type that libc gives it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// `KEYCTL_JOIN_SESSION_KEYRING` of `linux/keyctl.h`.
const JOIN_SESSION_KEYRING: libc::c_long = 1;

/// What [`clone_sibling`] returns.
pub(super) enum Cloned {
    /// In the new process.
    Child,
    /// In the old one.
    Parent {
        /// The new one, in the namespace of the old one.
        pid: i32,
        /// Refers to it.
        pidfd: OwnedFd,
    },
}

/// Makes a process that is a copy of this one and a child of this one's parent, in a cgroup of version 2 if one
/// is given.
///
/// # Errors
/// As `clone3(2)`.
pub(super) fn clone_sibling(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all fields of the structure are integers, for which zero is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (libc::CLONE_PARENT | libc::CLONE_PIDFD).unsigned_abs().into();
    arguments.pidfd = ptr::from_mut(&mut pidfd) as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd().unsigned_abs().into();
    }
    // SAFETY: neither memory nor stack is shared, so that the new process continues on a copy of both, as after fork;
    // it may do whatever it likes since the helper has one thread, and no lock is held by another.
    // The structure is valid and of the given size, and `pidfd` outlives the call.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, ptr::from_ref(&arguments), size_of::<libc::clone_args>())
    };
    match i32::try_from(pid) {
        Ok(0) => Ok(Cloned::Child),
        Ok(pid) if pid > 0 => {
            // SAFETY: the kernel has just opened it, for us alone.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the session keyring of the host for a new, empty one.
///
/// # Errors
/// As `keyctl(2)`; a kernel without keyrings is fine.
pub(super) fn leave_keyring() -> io::Result<()> {
    let no_name = ptr::null::<libc::c_char>();
    // SAFETY: without a name, the call touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, no_name) };
    match io::Error::last_os_error() {
        error if result < 0 && error.raw_os_error() != Some(libc::ENOSYS) => Err(error),
        _ => Ok(()),
    }
}

/// Puts this process under a seccomp filter, for good. Without `no_new_privs` this needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// As `seccomp(2)`.
pub(super) fn install_filter(filter: BpfProgramRef<'_>, flags: libc::c_ulong) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies `len` instructions, and both structures outlive the call. The crate's type for
    // an instruction is that of the kernel, as is libc's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            ptr::from_ref(&program),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes the descriptors from `first` to `last`.
///
/// # Errors
/// As `close_range(2)`.
pub(super) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the caller is about to become another program or to end; what owned the descriptors is not used or
    // dropped any more.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes every signal do what it does by default; Rust's start-up ignores SIGPIPE, for one.
pub(super) fn default_signals() {
    /// The kernel's structure: a handler, flags, a restorer and a mask, of which zero is the default.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the kernel reads the structure. No handler of ours is set, and the C library, which keeps two signals
        // to itself, has no use for them in a process of one thread. It fails for KILL and STOP, which are right.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                ptr::null::<u64>(),
                size_of::<u64>(),
            )
        };
    }
}

/// Changes a resource limit of this process.
///
/// # Errors
/// As `prlimit(2)`.
pub(super) fn limit(limit: Limit) -> io::Result<()> {
    let value = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
    // SAFETY: the kernel reads one limit from `value`.
    let result = unsafe { libc::prlimit64(0, limit.resource, &raw const value, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets a task wait for a descriptor.
///
/// # Errors
/// If it is of a kind that cannot be waited for.
pub(super) fn wait_on(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` refers to the same open file until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}
