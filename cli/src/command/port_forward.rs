//! `dwell port-forward`: ports of this machine that lead to ports of an instance.
//!
//! One task per connection, at most [`CONNECTIONS_MAX`] of them; when there are more, they wait in the kernel's
//! queue. What goes wrong with one connection is said and harms no other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Fleet, name_parser};
use crate::client::{Client, Target, connect};
use crate::complete;
use crate::failure::Failure;
use crate::names;
use crate::output::say;
use crate::tunnel::Tunnel;

/// The most connections at once: fewer than the requests one connection to the controller takes.
const CONNECTIONS_MAX: usize = 1024;

/// Listen on ports of this machine and connect them to ports of an instance
///
/// The way leads through the controller and the instance's node; no route to the instance is needed. Listens
/// until it is ended, for this machine alone if no other address is given.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell port-forward db-0 5432
  dwell port-forward web-0 8080:80 8443:443
  dwell port-forward web-0 0:80                   # any free port; it says which
  dwell port-forward web-0 192.0.2.7:8080:80      # for other machines, too")]
pub(crate) struct PortForward {
    /// The instance, or a workload that has only one
    #[arg(value_parser = name_parser(), add = complete::subject())]
    instance: String,
    /// Ports here and there; one alone is the same on both sides
    #[arg(value_name = "[ADDRESS:][LOCAL:]PORT", required = true)]
    ports: Vec<Forward>,
}

/// Where to listen, and which port of the instance that leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Forward {
    local: SocketAddr,
    remote: u16,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write PORT, LOCAL:PORT or ADDRESS:LOCAL:PORT, such as 8080:80".to_owned();
        let (rest, remote) = text.rsplit_once(':').unwrap_or((text, text));
        let remote: u16 = remote.parse().ok().filter(|&port| port != 0).ok_or_else(wrong)?;
        let (address, local) = rest.rsplit_once(':').unwrap_or(("127.0.0.1", rest));
        let address = match address {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            address => {
                let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                inner.unwrap_or(address).parse().map_err(|_| wrong())?
            }
        };
        let local = local.parse().map_err(|_| wrong())?;
        Ok(Self { local: SocketAddr::new(address, local), remote })
    }
}

impl PortForward {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let instance = names::instance(&mut fleet.client, &self.instance).await?;
        // All or none: half of what was asked for is no use.
        let mut listeners = Vec::new();
        for Forward { local, remote } in self.ports {
            let failed = |error| {
                Failure::Other(format!("cannot listen on {local}: {error}; choose another port"))
            };
            let listener = TcpListener::bind(local).await.map_err(failed)?;
            let local = listener.local_addr().map_err(failed)?;
            say(&format!("{local} leads to {instance}:{remote}"));
            listeners.push((listener, remote));
        }
        let forwarder = Arc::new(Forwarder {
            instance,
            target: fleet.target,
            client: Mutex::new(fleet.client),
            free: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        });
        let mut listening = JoinSet::new();
        for (listener, remote) in listeners {
            listening.spawn(Arc::clone(&forwarder).listen(listener, remote));
        }
        match listening.join_next().await {
            Some(Ok(failure)) => Err(failure),
            Some(Err(_)) | None => Err(Failure::Other("listening has ended".into())),
        }
    }
}

/// What the tasks share.
struct Forwarder {
    instance: String,
    target: Target,
    /// The newest connection to the controller.
    client: Mutex<Client>,
    free: Arc<Semaphore>,
}

impl Forwarder {
    /// Serves a port for good; returns why it cannot any longer.
    async fn listen(self: Arc<Self>, listener: TcpListener, remote: u16) -> Failure {
        loop {
            let Ok(place) = Arc::clone(&self.free).acquire_owned().await else {
                return Failure::Other("listening has ended".into());
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => return Failure::Other(format!("cannot take connections: {error}")),
            };
            let this = Arc::clone(&self);
            tokio::spawn(async move {
                match this.serve(stream, remote).await {
                    // The program here has gone, and does not care.
                    Ok(()) | Err(Failure::OutputClosed) => {}
                    Err(failure) => say(&format!("{}:{remote}: {failure}", this.instance)),
                }
                drop(place);
            });
        }
    }

    async fn serve(&self, mut stream: TcpStream, remote: u16) -> Result<(), Failure> {
        let carried = match self.open(remote).await {
            Ok(tunnel) => {
                // What a program writes at once should not wait for more.
                drop(stream.set_nodelay(true));
                let (reader, writer) = stream.split();
                tunnel.carry(reader, writer).await
            }
            Err(failure) => Err(failure),
        };
        if carried.is_err() {
            // A plain end would look as if all had come.
            drop(stream.set_zero_linger());
        }
        carried
    }

    /// Connects to the controller again if that connection is lost: this command may run for days.
    async fn open(&self, remote: u16) -> Result<Tunnel, Failure> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match Tunnel::open(&mut client, &self.instance, remote).await {
            Err(Failure::Unavailable(_)) => {
                let mut client = connect(&self.target).await?;
                let opened = Tunnel::open(&mut client, &self.instance, remote).await;
                *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
                opened
            }
            opened => opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        let read = |text: &str| {
            let forward: Forward = text.parse()?;
            Ok::<_, String>(format!("{} {}", forward.local, forward.remote))
        };
        for (text, means) in [
            ("80", "127.0.0.1:80 80"),
            ("8080:80", "127.0.0.1:8080 80"),
            ("0:80", "127.0.0.1:0 80"),
            ("localhost:8080:80", "127.0.0.1:8080 80"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080 80"),
            ("[::1]:8080:80", "[::1]:8080 80"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(means), "{text}");
        }
        for wrong in ["", "0", "x", ":80", "80:", "8080:0", "65536", "1:2:3", "host:1:2", "-1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
