//! One call and one answer: a datagram of JSON each, with descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dwell_core::sandbox::SandboxId;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::{self, DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

/// The longest has two names and a reason.
const MESSAGE_BYTES: usize = 4096;
/// A namespace, and a socket in it.
const DESCRIPTORS_MAX: usize = 2;

/// What the keeper is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(in super::super) enum Call {
    /// A new namespace of a sandbox that has none; the answer comes with it, and with a netlink socket in it.
    Create(#[serde(with = "name")] SandboxId),
    /// The namespace of a sandbox and a netlink socket in it, if there is a complete one.
    Open(#[serde(with = "name")] SandboxId),
    /// The namespace that comes with the call gets the name of the sandbox.
    Adopt(#[serde(with = "name")] SandboxId),
    /// The name goes; the namespace itself goes with its last process.
    Remove(#[serde(with = "name")] SandboxId),
    /// The directory of the names goes, which must be empty.
    RemoveDirectory,
    /// IPv6 is let into a sandbox, without an address of its own making, or kept out of it.
    Ipv6 {
        /// Which sandbox.
        #[serde(with = "name")]
        sandbox: SandboxId,
        /// Whether it is let in.
        on: bool,
    },
    /// A setting of the host gets a value; missing if this kernel does not have it.
    Set {
        /// Its path beneath `/proc/sys`.
        setting: String,
        /// A number.
        value: String,
    },
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Answer {
    /// It is done, and what was asked for comes with this.
    Done,
    /// There is no such thing.
    Missing,
    /// It was not done.
    Failed {
        /// The kernel's reason, if it was the kernel's.
        errno: Option<i32>,
        /// For people.
        reason: String,
    },
}

impl From<&io::Error> for Answer {
    fn from(error: &io::Error) -> Self {
        Self::Failed { errno: error.raw_os_error(), reason: error.to_string() }
    }
}

pub(super) fn send(to: &OwnedFd, call: &Call, about: Option<BorrowedFd<'_>>) -> io::Result<()> {
    send_all(to, call, about.as_slice())
}

pub(super) fn send_all(
    to: &OwnedFd,
    message: &impl Serialize,
    given: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > MESSAGE_BYTES || given.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !given.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(given)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(to, &[IoSlice::new(&text)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message and what comes with it; `None` at the end.
pub(super) fn receive<T: DeserializeOwned>(
    from: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut text = [0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let seen = loop {
        let mut into = [IoSliceMut::new(&mut text)];
        match recvmsg(&from, &mut into, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            seen => break seen?,
        }
    };
    let mut given = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            given.extend(descriptors);
        }
    }
    if seen.bytes == 0 {
        return Ok(None);
    }
    if seen.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
    }
    let text = text.get(..seen.bytes).unwrap_or_default();
    Ok(Some((serde_json::from_slice(text)?, given)))
}

/// A sandbox by its name.
mod name {
    use super::{Deserialize, Deserializer, SandboxId, Serializer, de};

    pub(super) fn serialize<S: Serializer>(id: &SandboxId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SandboxId, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}
