//! The server's sockets: one of each kind at an address, answered one question after the other.
//!
//! An answer from the directory takes microseconds and is given on the spot. What has to be asked elsewhere is a
//! task of its own, and so is each stream; of both there are [`Places`], and whoever finds none is told so, not
//! queued.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dwell_core::session::Assignment;
use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::answer::{self, Answer, Client, HEADER_BYTES, Transport};
use super::forward::{self, Chance, framed};
use super::holder::holder_of;
use super::places::Places;
use super::upstream::Upstreams;
use super::zone::Names;
use crate::directory::Directories;

/// The longest question that is read, in bytes.
const QUERY_MAX_BYTES: usize = 4096;
/// How long a stream may rest, or take to be written to.
const STREAM_LIMIT: Duration = Duration::from_secs(10);
/// The wait after an address could not be had, or a socket failed.
const RETRY: Duration = Duration::from_secs(5);
/// Questions at other servers, and how many of them may be one client's.
const FORWARDS: (usize, usize) = (256, 64);
/// Streams at one address, and how many of them may be one client's.
const STREAMS: (usize, usize) = (64, 16);

/// What answers, wherever it was asked.
#[derive(Debug)]
pub(super) struct Server {
    assignment: watch::Receiver<Option<Arc<Assignment>>>,
    directories: Directories,
    upstreams: Upstreams,
    chance: Chance,
    forwards: Arc<Places>,
}

impl Server {
    pub(super) fn new(
        assignment: watch::Receiver<Option<Arc<Assignment>>>,
        directories: Directories,
        upstreams: Upstreams,
    ) -> Self {
        let forwards = Places::new(FORWARDS.0, FORWARDS.1);
        Self { assignment, directories, upstreams, chance: Chance::default(), forwards }
    }

    /// Answers at `address` until the task is dropped.
    pub(super) async fn keep(self: Arc<Self>, address: SocketAddr) {
        loop {
            let listening = Arc::clone(&self).listen(address);
            let listening = AbortOnDropHandle::new(tokio::spawn(listening));
            // It ends by a panic only, which was reported: no question may keep the agent from its other work.
            drop(listening.await);
            sleep(RETRY).await;
        }
    }

    /// Waits for `address` to be free, and answers there.
    async fn listen(self: Arc<Self>, address: SocketAddr) {
        let mut complaint = String::new();
        let (datagrams, streams) = loop {
            match bind(address).await {
                Ok(sockets) => break sockets,
                Err(problem) if problem != complaint => {
                    tracing::warn!(%address, problem, "cannot answer DNS there; trying again");
                    complaint = problem;
                }
                Err(_) => {}
            }
            sleep(RETRY).await;
        };
        tracing::info!(%address, "answering DNS");
        let (datagrams, ip) = (Arc::new(datagrams), address.ip());
        tokio::join!(self.serve_datagrams(datagrams, ip), self.serve_streams(streams, ip));
    }

    async fn serve_datagrams(self: &Arc<Self>, socket: Arc<UdpSocket>, asked_at: IpAddr) {
        let mut buffer = vec![0; QUERY_MAX_BYTES];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, %asked_at, "cannot receive DNS questions; trying again");
                    sleep(RETRY).await;
                    continue;
                }
            };
            let query = &buffer[..length];
            match self.answer(query, client.ip(), asked_at, Transport::Udp) {
                Answer::Reply(reply) => send(&socket, &reply, client),
                Answer::Silence => {}
                Answer::Forward { question_end } => {
                    let (server, socket) = (Arc::clone(self), Arc::clone(&socket));
                    let query = query.to_vec();
                    let Some(place) = self.forwards.take(client.ip()) else {
                        if let Some(reply) = answer::failure(&query, ResponseCode::ServFail) {
                            send(&socket, &reply, client);
                        }
                        continue;
                    };
                    tokio::spawn(async move {
                        if let Some(reply) =
                            server.forward(&query, question_end, Transport::Udp).await
                        {
                            send(&socket, &reply, client);
                        }
                        drop(place);
                    });
                }
            }
        }
    }

    async fn serve_streams(self: &Arc<Self>, listener: TcpListener, asked_at: IpAddr) {
        let places = Places::new(STREAMS.0, STREAMS.1);
        loop {
            let (stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, %asked_at, "cannot accept DNS connections; trying again");
                    sleep(RETRY).await;
                    continue;
                }
            };
            let Some(place) = places.take(client.ip()) else { continue };
            let server = Arc::clone(self);
            tokio::spawn(async move {
                if let Err(error) = server.serve_stream(stream, client.ip(), asked_at).await {
                    tracing::debug!(%error, %client, "a DNS connection has ended");
                }
                drop(place);
            });
        }
    }

    async fn serve_stream(
        &self,
        mut stream: TcpStream,
        client: IpAddr,
        asked_at: IpAddr,
    ) -> io::Result<()> {
        let mut query = Vec::new();
        loop {
            let length = usize::from(timeout(STREAM_LIMIT, stream.read_u16()).await??);
            if !(HEADER_BYTES..=QUERY_MAX_BYTES).contains(&length) {
                return Err(io::Error::other("it sent no question"));
            }
            query.resize(length, 0);
            timeout(STREAM_LIMIT, stream.read_exact(&mut query)).await??;
            let reply = match self.answer(&query, client, asked_at, Transport::Tcp) {
                Answer::Reply(reply) => reply,
                Answer::Silence => return Ok(()),
                Answer::Forward { question_end } => {
                    let reply = match self.forwards.take(client) {
                        Some(_place) => self.forward(&query, question_end, Transport::Tcp).await,
                        None => answer::failure(&query, ResponseCode::ServFail),
                    };
                    let Some(reply) = reply else { return Ok(()) };
                    reply
                }
            };
            timeout(STREAM_LIMIT, stream.write_all(&framed(&reply)?)).await??;
        }
    }

    fn answer(
        &self,
        query: &[u8],
        client: IpAddr,
        asked_at: IpAddr,
        transport: Transport,
    ) -> Answer {
        let assignment = self.assignment.borrow();
        let directory = self.directories.borrow();
        let names = assignment.as_ref().map(|assignment| Names {
            zone: &assignment.network.zone,
            cluster: &assignment.network.cluster,
            ipv6: assignment.network.ipv6,
            directory: &directory,
        });
        let is_instance = |client: IpAddr| match (client, &names) {
            (IpAddr::V4(client), Some(names)) => names.cluster.contains(client),
            (IpAddr::V6(client), Some(names)) => {
                let images =
                    names.ipv6.map(|images| names.cluster.iter().map(move |it| images.net(it)));
                images.into_iter().flatten().any(|image| image.contains(&client))
            }
            _ => false,
        };
        // This host sends from the address that it asks, or from another of its loopback. Its own resolvers
        // may be who asks, so it is not for it that they are asked.
        let is_host = client.is_loopback() || client == asked_at;
        let may_forward = is_instance(client) || is_host && self.upstreams.are_configured();
        let client = Client { may_forward, asked_at, transport };
        answer::answer(query, names, client, self.chance.draw())
    }

    /// What the other servers say, or that they say nothing.
    async fn forward(
        &self,
        query: &[u8],
        question_end: usize,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let reply =
            forward::ask(&self.upstreams, &self.chance, query, question_end, transport).await;
        reply.or_else(|| answer::failure(query, ResponseCode::ServFail))
    }
}

/// A client that does not take its reply in time has to ask again.
fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.try_send_to(reply, client) {
        tracing::debug!(%error, %client, "cannot send a DNS reply");
    }
}

async fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener), String> {
    let bound = async { Ok((UdpSocket::bind(address).await?, TcpListener::bind(address).await?)) };
    let error: io::Error = match bound.await {
        Ok(sockets) => return Ok(sockets),
        Err(error) => error,
    };
    if error.kind() != io::ErrorKind::AddrInUse {
        return Err(error.to_string());
    }
    #[expect(clippy::disallowed_methods, reason = "it reads /proc, and only for a message")]
    let looking = tokio::task::spawn_blocking(move || holder_of(address));
    let holder = looking.await.ok().flatten();
    let holder = holder.as_deref().unwrap_or("another program");
    Err(format!("it is taken by {holder}; stop that, or let it listen at other addresses only"))
}
