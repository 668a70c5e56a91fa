//! The node's address in the underlay, kept up to date where it is not configured.
//!
//! Other nodes reach the instances of this one through that address, so the controller is told when it is
//! another one, by DHCP for example; an operator then says whether it counts. It is read again when an address, a link or the
//! default route has changed, and now and then: a route of another table says nothing. While it cannot be told, the last one stays.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use dwell_network::Disturbances;
use tokio::sync::watch;
use tokio::time::sleep;

/// How often it is read although nothing was told.
const BACKSTOP: Duration = Duration::from_secs(60);
/// The wait while there is none, or between two readings: a change is several steps, which come together.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps `address` up to date with what `read` says, until the task is dropped.
pub async fn keep(
    read: impl AsyncFn() -> io::Result<Ipv4Addr>,
    mut disturbances: watch::Receiver<Disturbances>,
    address: watch::Sender<Ipv4Addr>,
) {
    let mut host = disturbances.borrow_and_update().host;
    loop {
        let wait = match read().await {
            Ok(now) => {
                let is_other =
                    address.send_if_modified(|known| std::mem::replace(known, now) != now);
                if is_other {
                    tracing::warn!(address = %now, "this host has another address now");
                }
                BACKSTOP
            }
            Err(error) => {
                tracing::debug!(%error, "this host has no address at the moment");
                PAUSE
            }
        };
        let changed = disturbances.wait_for(|now| now.host != host);
        // Cancel-safe: all that is lost is a wait.
        tokio::select! {
            Ok(now) = changed => host = now.host,
            () = sleep(wait) => {}
        }
        sleep(PAUSE.min(wait)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use dwell_network::Network as _;
    use dwell_network::fake::FakeNetwork;
    use tokio::time::{Instant, timeout};

    use super::*;

    const OLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 12);
    const NEW: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);

    #[tokio::test(start_paused = true)]
    async fn another_address_is_told_soon_and_one_that_is_missing_is_waited_for() {
        let network = FakeNetwork::default();
        let host: Arc<Mutex<Option<Ipv4Addr>>> = Arc::new(Mutex::new(Some(OLD)));
        let set = |address| *host.lock().unwrap() = address;
        let read = {
            let host = Arc::clone(&host);
            async move || host.lock().unwrap().ok_or_else(|| io::Error::other("no route"))
        };
        let sender = watch::Sender::new(OLD);
        let mut address = sender.subscribe();
        let keeper = tokio::spawn(keep(read, network.disturbances(), sender));
        tokio::task::yield_now().await;

        // The old one goes, which is told; the new one comes, and its default route, which is not.
        set(None);
        network.disturb(|counts| counts.host += 1);
        let unchanged = timeout(Duration::from_secs(20), address.changed()).await;
        assert!(unchanged.is_err(), "as long as there is none, the last one stays");
        set(Some(NEW));
        let start = Instant::now();
        address.changed().await.unwrap();
        assert_eq!(*address.borrow(), NEW);
        assert!(start.elapsed() < Duration::from_secs(5));

        // Nothing at all is told.
        set(Some(OLD));
        timeout(2 * BACKSTOP, address.wait_for(|now| *now == OLD)).await.unwrap().unwrap();
        keeper.abort();
    }
}
