//! Processes in containers of a real Docker daemon.
//!
//! Needs root, dockerd and busybox.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails here fails the test"
)]

mod ends;
mod files;
mod latency;
mod restrictions;
mod sessions;
mod world;
