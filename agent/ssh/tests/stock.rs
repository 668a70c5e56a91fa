//! `dwell-ssh` and the clients people have: OpenSSH's, unmodified, in network namespaces of their own.
//!
//! Needs root, `ip`, `nsenter` and `ssh`. Tested is who gets in, by what algorithms, what is
//! forwarded, how sessions run, and what is reported. A process in namespaces of its own does for a container here.

#[path = "stock/world.rs"]
mod world;

#[path = "stock/algorithms.rs"]
mod algorithms;
#[path = "stock/forwarding.rs"]
mod forwarding;
#[path = "stock/login.rs"]
mod login;
#[path = "stock/sessions.rs"]
mod sessions;
