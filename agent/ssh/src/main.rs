//! `dwell-ssh`: the SSH server of a node's instances.

fn main() {}
