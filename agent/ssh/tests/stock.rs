//! `dwell-ssh` and the clients people have: OpenSSH's, unmodified, in network namespaces of their own.
//!
//! Needs root, `ip`, `nsenter` and `ssh`. No container is needed for what is tested here: who gets in, by what algorithms, what is
//! forwarded, what is reported.

#[path = "stock/world.rs"]
mod world;

#[path = "stock/algorithms.rs"]
mod algorithms;
#[path = "stock/forwarding.rs"]
mod forwarding;
#[path = "stock/login.rs"]
mod login;
