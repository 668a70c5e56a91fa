//! `dwell-ssh` and the clients people have: OpenSSH's, unmodified, in network namespaces of their own.
//!
//! Needs root, `ip`, `nsenter`, `unshare` and OpenSSH's clients. Tested is who gets in, by what algorithms,
//! what is forwarded, how sessions run, and what is reported; a process in namespaces of its own does for a
//! container.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what fails here fails the test, and says why"
)]

mod algorithms;
mod forwarding;
mod login;
mod sessions;
mod world;
