//! A netlink socket on which the kernel reports changes, also those in the namespaces of sandboxes.
//!
//! A namespace that has a veth to this one has a number here, which the kernel gives it with the veth. A
//! socket with `CAP_NET_BROADCAST` that asks for it receives what happens in these as well, marked with the number.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, protocols};
use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnknownCmsg, recvmsg, setsockopt, sockopt};

use super::netlink::{DATAGRAM_BYTES, messages};

/// A socket that only listens.
pub(super) struct Listener {
    socket: Socket,
    datagram: Vec<u8>,
}

impl Listener {
    /// For links, addresses, routes and the like.
    pub(super) fn route(groups: &[u32], buffer_bytes: usize) -> io::Result<Self> {
        let listener = Self::open(protocols::NETLINK_ROUTE, groups, buffer_bytes)?;
        listener.socket.set_listen_all_namespaces(true)?;
        Ok(listener)
    }

    /// For nftables.
    pub(super) fn netfilter(groups: &[u32], buffer_bytes: usize) -> io::Result<Self> {
        Self::open(protocols::NETLINK_NETFILTER, groups, buffer_bytes)
    }

    fn open(protocol: isize, groups: &[u32], buffer_bytes: usize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        setsockopt(&socket, sockopt::RcvBufForce, &buffer_bytes)?;
        for &group in groups {
            socket.add_membership(group)?;
        }
        Ok(Self { socket, datagram: vec![0; DATAGRAM_BYTES] })
    }

    /// The next notifications; `WouldBlock` if there are none. `ENOBUFS` means that some were lost.
    pub(super) fn receive(&mut self) -> io::Result<Notifications<'_>> {
        let mut control = nix::cmsg_space!(libc::c_int);
        let mut space = [IoSliceMut::new(&mut self.datagram)];
        let descriptor = self.socket.as_raw_fd();
        let received =
            recvmsg::<()>(descriptor, &mut space, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
        let is_elsewhere = received.cmsgs()?.any(|message| {
            matches!(message, ControlMessageOwned::Unknown(UnknownCmsg { cmsg_header, .. })
                if cmsg_header.cmsg_level == libc::SOL_NETLINK
                    && cmsg_header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID)
        });
        let length = received.bytes;
        Ok(Notifications { datagram: &self.datagram[..length], is_elsewhere })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What the kernel reported at once.
pub(super) struct Notifications<'a> {
    datagram: &'a [u8],
    /// Whether it happened in another namespace.
    pub(super) is_elsewhere: bool,
}

impl Notifications<'_> {
    pub(super) fn messages(&self) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
        messages(self.datagram)
    }
}
