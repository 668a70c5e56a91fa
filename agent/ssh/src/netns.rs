//! Sockets inside a network namespace.
//!
//! A socket belongs for ever to the namespace that its thread was in when it was made. So a thread of its own
//! enters the namespace, makes the socket and ends; no other thread ever leaves the host's namespace.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, UdpSocket as StdUdpSocket};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::oneshot;

/// Stack of the thread, in bytes: it makes a few system calls.
const STACK: usize = 64 * 1024;
/// A connection whose peer says nothing for so long is asked whether it is still there, ...
const KEEPALIVE_IDLE_SECS: u32 = 60;
/// ... again after so long, ...
const KEEPALIVE_INTERVAL_SECS: u32 = 20;
/// ... and is given up after so many questions.
const KEEPALIVE_COUNT: u32 = 6;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(30);

/// Listens on `address` inside `netns`. Accepted connections end by themselves when their peer's host is gone.
///
/// # Errors
/// If there is no such namespace, or the address is in use or not there.
pub(crate) async fn listen(netns: &Path, address: SocketAddr) -> io::Result<TcpListener> {
    let listener = inside(netns, move || {
        let listener = StdListener::bind(address)?;
        // Inherited by what is accepted.
        setsockopt(&listener, sockopt::KeepAlive, &true)?;
        setsockopt(&listener, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECS)?;
        setsockopt(&listener, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_SECS)?;
        setsockopt(&listener, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    TcpListener::from_std(listener.await?)
}

/// Connects to `address` from inside `netns`.
///
/// # Errors
/// If there is no such namespace, or nobody answers within 30 seconds.
pub(crate) async fn connect(netns: &Path, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = inside(netns, move || match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    });
    let connecting = socket.await?.connect(address);
    let stream = tokio::time::timeout(CONNECT, connecting).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A UDP socket inside `netns`, connected to `address`.
///
/// # Errors
/// If there is no such namespace, or no route.
pub(crate) async fn datagrams(netns: &Path, address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = inside(netns, move || {
        let socket = StdUdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    UdpSocket::from_std(socket.await?)
}

/// Calls `make` on a thread inside `netns`; it must not block for long.
async fn inside<T: Send + 'static>(
    netns: &Path,
    make: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let netns = netns.to_owned();
    let (done, made) = oneshot::channel();
    let enter_and_make = move || {
        setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
        make()
    };
    thread::Builder::new()
        .name("netns".to_owned())
        .stack_size(STACK)
        // Nobody waits any more: the socket is closed again.
        .spawn(move || drop(done.send(enter_and_make())))?;
    made.await.map_err(|_| io::Error::other("the thread in the namespace failed"))?
}
