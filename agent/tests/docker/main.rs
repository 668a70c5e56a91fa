//! The reconciler on a real Docker daemon, as root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is to fail on the spot")]

mod by_hand;
mod reconciled;
