//! The address that instances ask: [`GATEWAY`], on the host's `lo`, so that it is an address of this host and
//! of no network.
//!
//! As its scope is its link, the kernel never chooses it to send from. Its label, [`LABEL`], tells that it is
//! dwell's; where somebody else has given the host that address already, nothing is done. What others remove is
//! back at once.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use nix::libc::EEXIST;
use rtnetlink::{Error, Handle, MulticastGroup};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::GATEWAY;

/// How `ip address` shows whose it is.
const LABEL: &str = "lo:dwell";
/// The index of `lo`, in every namespace.
const LOOPBACK: u32 = 1;
/// How often is looked although nothing was told.
const BACKSTOP: Duration = Duration::from_secs(60);
/// The wait after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// Gives the host the address, unless it has it.
///
/// # Errors
/// What the kernel refused.
pub async fn ensure() -> io::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    add(&handle).await
}

/// Keeps the address until the task is dropped.
pub async fn keep() {
    loop {
        if let Err(error) = watch().await {
            tracing::warn!(
                error = %error, address = %GATEWAY,
                "cannot keep the address at which instances ask for names; trying again"
            );
        }
        sleep(RETRY).await;
    }
}

/// Takes the address away, if dwell has put it there.
///
/// # Errors
/// What the kernel refused.
pub async fn remove() -> io::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let is_ours = AddressAttribute::Label(LABEL.to_owned());
    for address in find(&handle).await? {
        if address.attributes.contains(&is_ours) {
            handle.address().del(address).execute().await.map_err(reason)?;
        }
    }
    Ok(())
}

async fn watch() -> io::Result<()> {
    let (connection, handle, mut changes) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Ipv4Ifaddr])?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    loop {
        add(&handle).await?;
        if let Ok(None) = timeout(BACKSTOP, changes.next()).await {
            return Err(io::Error::other("the kernel's messages have ended"));
        }
        // One look is enough for all that has been told by now.
        while let Some(Some(_)) = changes.next().now_or_never() {}
    }
}

async fn add(handle: &Handle) -> io::Result<()> {
    if !find(handle).await?.is_empty() {
        return Ok(());
    }
    let mut request = handle.address().add(LOOPBACK, IpAddr::V4(GATEWAY), 32);
    let message = request.message_mut();
    message.header.scope = AddressScope::Link;
    message.attributes.push(AddressAttribute::Label(LABEL.to_owned()));
    match request.execute().await {
        Err(Error::NetlinkError(refusal)) if refusal.raw_code() == -EEXIST => Ok(()),
        done => done.map_err(reason),
    }
}

async fn find(handle: &Handle) -> io::Result<Vec<AddressMessage>> {
    let addresses = handle.address().get().set_address_filter(IpAddr::V4(GATEWAY)).execute();
    addresses.try_collect().await.map_err(reason)
}

fn reason(error: Error) -> io::Error {
    match error {
        Error::NetlinkError(refusal) => refusal.to_io(),
        other => io::Error::other(other),
    }
}
