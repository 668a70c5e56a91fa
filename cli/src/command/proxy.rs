//! `dwell proxy`: standard input and output as a TCP connection to an instance.

use std::os::fd::AsFd;

use clap::Args;

use super::{Fleet, name_parser};
use crate::failure::Failure;
use crate::names::without_zone;
use crate::tunnel::Tunnel;

/// Connect standard input and output to a port of an instance
///
/// For programs that take a command in place of a connection, such as ssh's ProxyCommand. The way leads
/// through the controller and the instance's node; no route to the instance is needed.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  ssh -o ProxyCommand='dwell proxy %h %p' web-0.dwell
  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | dwell proxy web-0 80")]
pub(crate) struct Proxy {
    /// The instance, with or without the cluster's zone
    #[arg(value_parser = name_parser())]
    instance: String,
    /// Number of a TCP port
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

impl Proxy {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        // As it is: names are looked up by whoever made the command, and every question costs time.
        let instance = without_zone(&self.instance);
        let tunnel = Tunnel::open(&mut fleet.client, instance, self.port).await?;
        tunnel.carry(tokio::io::stdin(), take_stdout()?).await
    }
}

/// Standard output, so that it is closed when this is dropped: the reader is told when the instance has said
/// all, although this program goes on.
fn take_stdout() -> Result<tokio::fs::File, Failure> {
    let taken = std::io::stdout().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdout(std::fs::File::options().write(true).open("/dev/null")?)
        .map_err(std::io::Error::from)?;
    Ok(std::fs::File::from(taken).into())
}
