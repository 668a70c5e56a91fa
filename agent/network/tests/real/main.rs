//! The real network on real netlink, as root.
//!
//! Every test is a host of its own: a network namespace and a mount namespace that nobody else sees, with
//! a `/run` of its own, so that a test that fails leaves nothing behind. See [`world`].

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on is to fail on the spot"
)]

mod cleanup;
mod confinement;
mod docker;
mod firewall;
mod host;
mod ipv6;
mod isolation;
mod keeper;
mod leases;
mod look;
mod overlay;
mod pair;
mod probe;
mod ranges;
mod routes;
mod sandbox;
mod tracking;
mod uplinks;
mod watcher;
