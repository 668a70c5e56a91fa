//! `dwell logs`: what an instance's main process printed.

use clap::Args;
use dwell_core::clock::millis;
use dwell_core::quantity::Millis;
use dwell_proto::v1;
use tokio::io::AsyncWriteExt;

use super::{Fleet, name_parser};
use crate::failure::Failure;
use crate::names;
use crate::output::Now;

/// Print what an instance's main process printed
///
/// Its standard output goes to standard output, its standard error to standard error.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell logs web-0
  dwell logs -f --tail 20 web-0
  dwell logs --since 10m --timestamps web-0
  dwell logs --since 2026-01-31T12:00:00Z web-0")]
pub(crate) struct Logs {
    /// The instance
    #[arg(value_parser = name_parser())]
    instance: String,
    /// Go on printing what it prints
    #[arg(short, long)]
    follow: bool,
    /// Only so many of the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Only what is younger than this, or was printed after it
    #[arg(long, value_name = "DURATION|TIME", value_parser = since_parser)]
    since: Option<Since>,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
}

#[derive(Clone, Copy, Debug)]
enum Since {
    Ago(Millis),
    At(u64),
}

fn since_parser(text: &str) -> Result<Since, String> {
    if let Ok(ago) = text.parse() {
        return Ok(Since::Ago(ago));
    }
    let at: jiff::Timestamp = text
        .parse()
        .map_err(|_| "write a duration such as 10m, or a time such as 2026-01-31T12:00:00Z")?;
    u64::try_from(at.as_millisecond()).map(Since::At).map_err(|_| "that is before 1970".into())
}

impl Logs {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let instance = names::instance(&mut fleet.client, &self.instance).await?;
        let since_ms = self.since.map(|since| match since {
            Since::Ago(ago) => Now::read().0.saturating_sub(millis(ago.as_duration())),
            Since::At(at) => at,
        });
        let request = v1::LogsRequest {
            instance,
            follow: self.follow,
            tail: self.tail,
            since_ms,
            timestamps: self.timestamps,
        };
        let mut chunks = fleet.client.logs(request).await?.into_inner();
        // Written by a thread of tokio's: a pager that pauses must not make the connection look dead.
        let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
        while let Some(chunk) = chunks.message().await? {
            match chunk.stream() {
                v1::OutputStream::Stderr => {
                    stderr.write_all(&chunk.data).await?;
                    stderr.flush().await?;
                }
                v1::OutputStream::Stdout | v1::OutputStream::Unspecified => {
                    stdout.write_all(&chunk.data).await?;
                    stdout.flush().await?;
                }
            }
        }
        Ok(())
    }
}
