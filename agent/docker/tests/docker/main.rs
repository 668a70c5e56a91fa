//! The Docker engine against a real daemon, as root: the contract of all engines, and what is Docker's own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is to fail on the spot")]

mod carry;
mod contract;
mod daemon;
mod held;
mod node;
mod terminal;

use dwell_docker::world::PATIENCE;
use dwell_engine::{Output, OutputStream};
use futures_util::TryStreamExt;
use tokio::time::timeout;

/// All output, standard and error.
async fn texts(mut output: OutputStream) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = timeout(PATIENCE, output.try_next()).await.unwrap().unwrap() {
        match piece {
            Output::Stdout(bytes) => out.extend_from_slice(&bytes),
            Output::Stderr(bytes) => err.extend_from_slice(&bytes),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}
