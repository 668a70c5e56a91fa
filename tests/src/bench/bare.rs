//! Netlink without anything around it: messages that are bytes, a socket, and one acknowledgement per batch.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ipnet::Ipv4Net;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
        recvmsg, sendmsg, setsockopt, socket, sockopt,
    },
};

/// Requests in one message.
const BATCH: usize = 256;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE_EXCL: u16 = 0x600;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTA_DST: u16 = 1;
const RTA_PRIORITY: u16 = 6;
const RTA_NH_ID: u16 = 30;
const NHA_ID: u16 = 1;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const AF_INET: u8 = 2;
const TABLE_MAIN: u8 = 254;
const PROTOCOL: u8 = 197;
const METRIC: u32 = 197;

/// Messages that install and remove a table, ready to be sent.
pub(super) struct Bare {
    socket: OwnedFd,
    install: Vec<Vec<u8>>,
    remove: Vec<Vec<u8>>,
}

impl Bare {
    /// Routes to `destinations`, each by the number of its gateway.
    pub(super) fn new(
        gateways: impl Iterator<Item = Ipv4Addr>,
        destinations: &[(Ipv4Net, usize)],
    ) -> Result<Self> {
        let uplink = nix::net::if_::if_nametoindex("uplink").context("there is no uplink")?;
        let gateways: Vec<Ipv4Addr> = gateways.collect();
        let (mut install, mut remove) = (Vec::new(), Vec::new());
        for (number, gateway) in gateways.iter().enumerate() {
            let id = 1 + u32::try_from(number)?;
            let header = [AF_INET, 0, PROTOCOL, 0, 0, 0, 0, 0];
            let attributes = [
                (NHA_ID, id.to_ne_bytes()),
                (NHA_OIF, uplink.to_ne_bytes()),
                (NHA_GATEWAY, gateway.octets()),
            ];
            install.push(request(RTM_NEWNEXTHOP, NLM_F_CREATE_EXCL, &header, &attributes));
        }
        for (destination, gateway) in destinations {
            let id = 1 + u32::try_from(*gateway)?;
            let length = destination.prefix_len();
            let header = [AF_INET, length, 0, 0, TABLE_MAIN, PROTOCOL, 0, 1, 0, 0, 0, 0];
            let target = (RTA_DST, destination.addr().octets());
            let metric = (RTA_PRIORITY, METRIC.to_ne_bytes());
            let via = (RTA_NH_ID, id.to_ne_bytes());
            install.push(request(RTM_NEWROUTE, NLM_F_CREATE_EXCL, &header, &[target, metric, via]));
            remove.push(request(RTM_DELROUTE, 0, &header, &[target, metric]));
        }
        for number in 0..gateways.len() {
            let id = 1 + u32::try_from(number)?;
            let header = [0, 0, 0, 0, 0, 0, 0, 0];
            remove.push(request(RTM_DELNEXTHOP, 0, &header, &[(NHA_ID, id.to_ne_bytes())]));
        }
        Ok(Self { socket: route_socket(0)?, install: batches(&install), remove: batches(&remove) })
    }

    /// Sends everything, and waits for the kernel.
    pub(super) fn install(&self) -> Result<Duration> {
        self.send(&self.install)
    }

    /// Removes what [`Bare::install`] made.
    pub(super) fn remove(&self) -> Result<Duration> {
        self.send(&self.remove)
    }

    fn send(&self, batches: &[Vec<u8>]) -> Result<Duration> {
        let started = Instant::now();
        let mut answer = [0; 8192];
        for batch in batches {
            sendmsg::<NetlinkAddr>(
                self.socket.as_raw_fd(),
                &[IoSlice::new(batch)],
                &[],
                MsgFlags::empty(),
                None,
            )?;
            // One acknowledgement, or a refusal of any of them.
            let length =
                uninterrupted(|| recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty()))?;
            let code = answer.get(16..20).and_then(|code| code.try_into().ok());
            let code = code.map(i32::from_ne_bytes).context("a short answer")?;
            ensure!(length >= 20 && code == 0, "{}", io::Error::from_raw_os_error(-code));
        }
        Ok(started.elapsed())
    }
}

/// Listens to what the kernel tells of IPv4 routes.
pub(super) struct Monitor {
    socket: OwnedFd,
}

impl Monitor {
    pub(super) fn open() -> Result<Self> {
        Ok(Self { socket: route_socket(RTMGRP_IPV4_ROUTE)? })
    }

    pub(super) fn try_clone(&self) -> Result<Self> {
        Ok(Self { socket: self.socket.try_clone()? })
    }

    /// Deletes a route with a program of somebody else's, and says how long the kernel was without it.
    pub(super) fn delete_and_wait(&self, prefix: &str, limit: Duration) -> Result<Duration> {
        let target: Ipv4Net = prefix.parse()?;
        setsockopt(
            &self.socket,
            sockopt::ReceiveTimeout,
            &nix::sys::time::TimeVal::new(limit.as_secs().try_into()?, 0),
        )?;
        let mut child = Command::new("ip").args(["route", "del", prefix]).spawn()?;
        let gone = self.wait(RTM_DELROUTE, target)?;
        let back = self.wait(RTM_NEWROUTE, target)?;
        ensure!(child.wait()?.success(), "`ip route del {prefix}` failed");
        Ok(back - gone)
    }

    fn wait(&self, kind: u16, target: Ipv4Net) -> Result<Instant> {
        let mut buffer = vec![0; 32 << 10];
        loop {
            let received = uninterrupted(|| {
                let mut parts = [IoSliceMut::new(&mut buffer)];
                let socket = self.socket.as_raw_fd();
                Ok(recvmsg::<NetlinkAddr>(socket, &mut parts, None, MsgFlags::empty())?.bytes)
            });
            let length = received.context("the route did not come back")?;
            let now = Instant::now();
            let mut rest = &buffer[..length];
            while let Some((head, _)) = rest.split_first_chunk::<4>() {
                let size = u32::from_ne_bytes(*head) as usize;
                let Some(message) = rest.get(..size).filter(|message| message.len() >= 28) else {
                    bail!("a short message");
                };
                if u16::from_ne_bytes([message[4], message[5]]) == kind
                    && message[17] == target.prefix_len()
                    && destination(&message[28..]) == Some(target.addr())
                {
                    return Ok(now);
                }
                rest = rest.get(aligned(size)..).unwrap_or_default();
            }
        }
    }
}

/// The address in the attribute `RTA_DST`.
fn destination(mut attributes: &[u8]) -> Option<Ipv4Addr> {
    while let [a, b, c, d, ..] = *attributes {
        let size = usize::from(u16::from_ne_bytes([a, b]));
        if u16::from_ne_bytes([c, d]) == RTA_DST {
            let octets: [u8; 4] = attributes.get(4..8)?.try_into().ok()?;
            return Some(octets.into());
        }
        attributes = attributes.get(aligned(size.max(4))..)?;
    }
    None
}

/// A call again that a signal broke off: a socket with a time limit is not resumed by the kernel.
fn uninterrupted<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

fn route_socket(groups: u32) -> Result<OwnedFd> {
    let family = AddressFamily::Netlink;
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    setsockopt(&socket, sockopt::RcvBuf, &(8 << 20))?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

fn request(kind: u16, flags: u16, header: &[u8], attributes: &[(u16, [u8; 4])]) -> Vec<u8> {
    let length = 16 + header.len() + attributes.len() * 8;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(header);
    for (kind, value) in attributes {
        bytes.extend(8_u16.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
    }
    bytes
}

/// Joins requests; only the last of a batch asks for an acknowledgement.
fn batches(requests: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let join = |batch: &[Vec<u8>]| {
        let mut bytes = batch.concat();
        let last = bytes.len() - batch.last().map_or(0, Vec::len);
        if let Some(flags) = bytes.get_mut(last + 6..last + 8) {
            let asked = u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK;
            flags.copy_from_slice(&asked.to_ne_bytes());
        }
        bytes
    };
    requests.chunks(BATCH).map(join).collect()
}

fn aligned(size: usize) -> usize {
    size.next_multiple_of(4)
}
