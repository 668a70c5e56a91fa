//! The controller's shell as others meet it: a whole controller in this process, over its unix socket and
//! over real mutual TLS on loopback, with agents that are played by the tests.

#![expect(clippy::unwrap_used, reason = "in a test, what is wrong fails the test")]

mod backup;
mod busy;
mod connect;
mod crash;
mod diagnose;
mod directory;
mod door;
mod exec;
mod fixture;
mod fleet;
mod hosts;
mod images;
mod keys;
mod people;
mod raw;
mod registries;
mod rotation;
mod session;
mod trust;
mod tunnel_end;
