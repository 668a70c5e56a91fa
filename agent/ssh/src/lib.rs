//! The SSH server of a node's instances.

pub mod enter;
