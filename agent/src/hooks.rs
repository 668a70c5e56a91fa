//! Calling the hooks of instances.

use std::net::SocketAddr;
use std::time::Duration;

use dwell_core::container::ContainerId;
use dwell_core::hook::HookAction;
use dwell_core::quantity::Millis;
use dwell_engine::Engine;
use dwell_planner::HookCall;
use tokio::time::{Instant, sleep, timeout};

use crate::probe::{Asked, Outcome, connect, probe};

/// How often it is tried whether a program that was started just now listens.
const LISTENS_EVERY: Duration = Duration::from_millis(100);

/// What came of a hook.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Called {
    /// It succeeded.
    Succeeded,
    /// It did not, and why.
    Failed(String),
    /// Nobody knows: the container does not run, or the engine does not answer.
    Unknown,
}

/// Calls the hook after a start. A request waits for the program to listen, within the time of the hook.
pub(crate) async fn after_start(
    engine: &dyn Engine,
    container: &ContainerId,
    call: &HookCall,
) -> Called {
    let limit = call.hook.timeout.as_duration();
    let begun = Instant::now();
    if let HookAction::Http { port, .. } = &call.hook.action {
        let address = SocketAddr::from((call.address, *port));
        let listens = async {
            while connect(address, call.slot).await.is_err() {
                sleep(LISTENS_EVERY).await;
            }
        };
        if timeout(limit, listens).await.is_err() {
            let timeout = call.hook.timeout;
            return Called::Failed(format!("nothing listened at {address} within {timeout}"));
        }
    }
    let left = limit.saturating_sub(begun.elapsed());
    within(engine, container, call, left).await
}

/// Calls the hook before a stop.
pub(crate) async fn before_stop(
    engine: &dyn Engine,
    container: &ContainerId,
    call: &HookCall,
) -> Called {
    within(engine, container, call, call.hook.timeout.as_duration()).await
}

async fn within(
    engine: &dyn Engine,
    container: &ContainerId,
    call: &HookCall,
    left: Duration,
) -> Called {
    let (action, timeout) = (call.hook.probe(), Millis(dwell_core::clock::millis(left)));
    let (address, slot) = (call.address, call.slot);
    let asked = Asked { container, address, slot, probe: &action, timeout };
    match probe(engine, asked).await {
        Outcome::Passed => Called::Succeeded,
        Outcome::Failed(reason) => Called::Failed(reason),
        Outcome::Unknown | Outcome::Gone => Called::Unknown,
    }
}
