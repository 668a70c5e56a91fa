//! What dwell-ssh and its helpers say to each other: JSON and descriptors, over local sockets.
//!
//! ```text
//!   the helper's socket      dwell-ssh ── Open ──► helper ── Opened | Failed ──► dwell-ssh
//!                            dwell-ssh ── Start, with a socket for the session ──► helper
//!   the session's socket     helper ── Cloned | Failed ──► dwell-ssh
//!                            child ── Ready | Failed ──► dwell-ssh
//! ```
//!
//! A message is one packet: it arrives whole, with its descriptors, or not at all.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::{Terminal, Work};

/// The longest message, in bytes. A command line of SSH may have 256 KiB less its framing.
pub(super) const MAX_BYTES: usize = 512 * 1024;
/// The most descriptors that one message carries.
const MAX_DESCRIPTORS: usize = 4;

/// To a helper: which container it is for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Open {
    /// The instance, for messages.
    pub(super) instance: String,
    /// The container's main process.
    pub(super) pid: u32,
    /// When that started.
    pub(super) start_ticks: u64,
    /// The link to the container's bundle.
    pub(super) bundle: PathBuf,
}

/// To a helper: start a process. Carries the session's socket, and unless there is a terminal the process's input,
/// output and errors.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) login: String,
    pub(super) work: Work,
    pub(super) environment: Vec<(String, String)>,
    pub(super) terminal: Option<Terminal>,
    pub(super) agent_forwarding: bool,
}

/// From a helper or a child.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The container can be entered. Carries the file that tells whether it is frozen, if there is one.
    Opened {
        /// What an operator should know about this container.
        notes: Vec<String>,
    },
    /// The child exists. Carries its pidfd.
    Cloned {
        /// In the host's namespace.
        pid: i32,
    },
    /// The child is what was asked for, but for the last step. Carries the terminal's master, the socket, and then the
    /// agent's listener, its directory and the directory around that.
    Ready {
        /// Whether there is a terminal's master.
        terminal: bool,
        /// Whether there is a socket.
        socket: bool,
        /// The name of the agent's directory, if there is one.
        agent: Option<String>,
    },
    /// It did not work.
    Failed(Failure),
}

/// Sends a message.
///
/// # Errors
/// As `sendmsg(2)`; `InvalidInput` if the message is too long.
pub(super) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > MAX_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message; `None` if the other side has closed.
///
/// # Errors
/// As `recvmsg(2)`; `InvalidData` if it is no such message.
pub(super) fn receive<M: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut text = vec![0; MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let message = serde_json::from_slice(text.get(..received.bytes).unwrap_or_default())?;
    Ok(Some((message, descriptors)))
}

/// A pair of connected sockets that take the longest message.
///
/// # Errors
/// If the host is out of descriptors.
pub(super) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    for socket in [&ours, &theirs] {
        setsockopt(socket, sockopt::SndBufForce, &(2 * MAX_BYTES))?;
    }
    Ok((ours, theirs))
}
