//! Port 22 of one instance, at its IPv4 address and, if it has one, at its IPv6 address: each as in
//!
//! ```text
//!   closed ──bound──► listening ──the address or the namespace changed──► closed
//!     │  ▲                │
//!     │  └─ in use, or not there: said once; again after 1 s, 2 s … 30 s, and at once when the file changes
//!     └───────────────────┴── no longer served: end. Connections that there are go on.
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::id::InstanceName;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::connection;
use crate::front::Front;
use crate::netns;
use crate::state::{Served, ServedNow};

/// The port, inside each sandbox.
const PORT: u16 = 22;
/// First and longest pause between attempts to bind.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// Pause after an accept that failed, which means that the process is out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves one instance until it is no longer served or the process stops.
pub(crate) async fn serve(front: Arc<Front>, instance: ServedNow) {
    let name = instance.borrow().instance.clone();
    let stopping = front.stopping.clone();
    let at = |of: Of| keep_listening(&front, &name, instance.clone(), of);
    let both = async {
        tokio::join!(
            at(|served| Some(served.address.into())),
            at(|served| served.ipv6.map(IpAddr::from))
        )
    };
    tokio::select! {
        () = stopping.cancelled() => {}
        ((), ()) = both => {}
    }
}

/// Which of an instance's addresses.
type Of = fn(&Served) -> Option<IpAddr>;

async fn keep_listening(front: &Arc<Front>, name: &InstanceName, mut instance: ServedNow, of: Of) {
    let instance = &mut instance;
    let mut pause = RETRY[0];
    let mut said = None;
    loop {
        let Some(place) = Place::of(instance, of) else {
            match instance.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        match netns::listen(&place.netns, place.address).await {
            Ok(listener) => {
                info!(instance = %name, address = %place.address, "listening");
                said = None;
                pause = RETRY[0];
                let mut changes = instance.clone();
                tokio::select! {
                    () = accept(front, name, instance, &listener) => {}
                    still_served = moved(&mut changes, &place, of) => if !still_served { return },
                }
            }
            Err(error) => {
                if said != Some(error.kind()) {
                    said = Some(error.kind());
                    tell(name, &place, &error);
                }
                tokio::select! {
                    changed = instance.changed() => match changed {
                        Ok(()) => pause = RETRY[0],
                        Err(_) => return,
                    },
                    () = tokio::time::sleep(pause) => pause = RETRY[1].min(pause * 2),
                }
            }
        }
    }
}

async fn accept(
    front: &Arc<Front>,
    name: &InstanceName,
    instance: &ServedNow,
    listener: &TcpListener,
) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let connection =
                    connection::serve(Arc::clone(front), instance.clone(), stream, peer);
                front.tasks.spawn(connection);
            }
            Err(error) => {
                warn!(instance = %name, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Where the instance is listened for.
#[derive(PartialEq, Eq)]
struct Place {
    address: SocketAddr,
    netns: PathBuf,
    /// Which namespace it is that the path names.
    inode: Option<u64>,
}

impl Place {
    fn of(instance: &mut ServedNow, of: Of) -> Option<Self> {
        let served = instance.borrow_and_update();
        let address = SocketAddr::from((of(&served)?, PORT));
        let inode = std::fs::metadata(&served.netns).ok().map(|metadata| metadata.ino());
        Some(Self { address, netns: served.netns.clone(), inode })
    }
}

/// Waits until the instance is elsewhere than at `place`; false if it is no longer served.
async fn moved(instance: &mut ServedNow, place: &Place, of: Of) -> bool {
    while instance.changed().await.is_ok() {
        if Place::of(instance, of).as_ref() != Some(place) {
            return true;
        }
    }
    false
}

fn tell(name: &InstanceName, place: &Place, error: &io::Error) {
    let address = place.address;
    match error.kind() {
        io::ErrorKind::AddrInUse => info!(
            instance = %name, %address,
            "the image listens on port 22 itself; say `ssh: image` in the spec if it is to"
        ),
        _ => {
            warn!(instance = %name, %address, netns = %place.netns.display(), %error, "cannot listen yet");
        }
    }
}
