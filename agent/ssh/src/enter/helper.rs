//! The helper: it stands in a container and makes processes there, until dwell-ssh closes its socket or the
//! container ends.
//!
//! It has one thread, is invisible in the container (it is not in its process namespace, and not
//! dumpable), and keeps nothing of a session: a child is dwell-ssh's, as is everything that belongs to it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::child;
use super::container::{Container, has_ended};
use super::failure::{Failure, Step as _};
use super::message::{self, Open, Report, Start};
use super::sys::{self, Cloned};

/// What the helper is called, by which a process knows that it is one.
pub(super) const NAME: &str = "dwell-enter";

/// The helper's life. Its socket is its standard input.
pub(super) fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // dwell-ssh sees the socket close; there is nobody else to tell.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_name(c"dwell-enter")?;
    // For all children.
    sys::default_signals();
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(OpenOptions::new().read(true).write(true).open("/dev/null")?)?;

    let Some((open, _)) = message::receive::<Open>(&socket)? else { return Ok(()) };
    let mut container = match Container::enter(&open) {
        Ok(container) => container,
        Err(failure) => return message::send(&socket, &Report::Failed(failure), &[]),
    };
    let notes = std::mem::take(&mut container.filter.notes);
    let freezer: Vec<_> = container.freezer.iter().map(|file| file.as_fd()).collect();
    message::send(&socket, &Report::Opened { notes }, &freezer)?;
    loop {
        let mut events =
            [PollFd::new(&socket, PollFlags::IN), PollFd::new(&container.pidfd, PollFlags::IN)];
        match poll(&mut events, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        if has_ended(&container.pidfd) {
            return Ok(());
        }
        let Some((start, descriptors)) = message::receive::<Start>(&socket)? else { return Ok(()) };
        begin(&container, &start, descriptors)?;
    }
}

/// Makes one process, and tells dwell-ssh of it over the session's socket.
fn begin(container: &Container, start: &Start, descriptors: Vec<OwnedFd>) -> io::Result<()> {
    let mut descriptors = descriptors.into_iter();
    let Some(session) = descriptors.next() else { return Err(io::ErrorKind::InvalidData.into()) };
    let cgroup = container.cgroup.as_ref().map(|cgroup| cgroup.as_fd());
    let told = match sys::clone_sibling(cgroup) {
        Ok(Cloned::Child) => child::run(container, start, &session, descriptors.as_slice()),
        Ok(Cloned::Parent { pid, pidfd }) => {
            message::send(&session, &Report::Cloned { pid }, &[pidfd.as_fd()])
        }
        Err(error) => {
            let failure = match error.kind() {
                io::ErrorKind::WouldBlock => Failure::Full,
                _ => Err::<(), _>(error).step("make a process").err().unwrap_or(Failure::Gone),
            };
            message::send(&session, &Report::Failed(failure), &[])
        }
    };
    // A session whose other end is gone concerns no other session.
    told.or_else(
        |error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) },
    )
}
