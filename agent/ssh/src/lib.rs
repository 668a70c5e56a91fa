//! The SSH server of a node's instances.
