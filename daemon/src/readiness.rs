//! What systemd is told of a daemon (`Type=notify`, see `sd_notify(3)`). Without systemd nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// The start is complete: units that wait for this one may start.
pub fn ready() {
    notify(NotifyState::Ready);
}

/// The daemon ends by itself or was asked to.
pub fn stopping() {
    notify(NotifyState::Stopping);
}

/// The daemon still does its work; to be called at least every [`watchdog_limit`].
pub fn alive() {
    notify(NotifyState::Watchdog);
}

/// After which silence systemd ends the daemon (`WatchdogSec=`); `None` if it does not watch it.
#[must_use]
pub fn watchdog_limit() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
