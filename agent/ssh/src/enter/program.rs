//! The program that helpers run: a copy in memory that nobody can change.
//!
//! A process in a container can reach the program of any process beside it through `/proc/PID/exe`, and a helper is
//! one for a moment. Were that the host's file, it could be overwritten from inside (CVE-2019-5736).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

/// For how long the kernel may say that the copy is in use, which nobody but itself can do.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// The sealed copy.
#[derive(Debug)]
pub(super) struct Program(OwnedFd);

impl Program {
    /// Copies the program at `path`.
    pub(super) fn copy(path: &Path) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let name = "dwell-ssh";
        // Kernels before 6.3 do not know the flag; later ones may be set up to insist on it.
        let copy =
            memfd_create(name, flags | MemfdFlags::EXEC).or_else(|_| memfd_create(name, flags))?;
        let mut copy = File::from(copy);
        io::copy(&mut File::open(path)?, &mut copy)?;
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        patiently(|| fcntl_add_seals(&copy, seals))?;
        Ok(Self(copy.into()))
    }

    /// A path by which this process and what it spawns can execute the copy.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// Calls `seal` until it no longer says that the copy is in use, within [`PATIENCE`].
///
/// The kernel refuses a seal against writing while anybody holds a page for writing. It takes itself for such a one
/// while it moves or scans memory (`memfd_wait_for_pins` in its `mm/memfd.c`), which is over soon.
fn patiently(mut seal: impl FnMut() -> Result<(), Errno>) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match seal() {
            Err(Errno::BUSY) if start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            done => return Ok(done?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn the_copy_can_be_executed_and_not_be_written() {
        let program = Program::copy(Path::new("/bin/true")).unwrap();
        assert!(Command::new(program.path()).arg0("true").status().unwrap().success());
        let written =
            OpenOptions::new().write(true).open(program.path()).and_then(|file| file.set_len(0));
        assert!(written.is_err());
    }

    #[test]
    fn the_kernel_may_hold_the_copy_for_a_moment() {
        let mut refusals = [Errno::BUSY, Errno::BUSY].into_iter();
        patiently(|| refusals.next().map_or(Ok(()), Err)).unwrap();
        assert!(patiently(|| Err(Errno::PERM)).is_err());
    }
}
