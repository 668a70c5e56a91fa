//! `dwell logs`: what the main processes of instances printed.

use std::sync::Arc;

use clap::Args;
use dwell_core::clock::millis;
use dwell_core::quantity::Millis;
use dwell_proto::v1;
use tokio::io::{AsyncWriteExt, Stderr, Stdout};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tonic::Streaming;

use super::{Fleet, name_parser};
use crate::client::Client;
use crate::complete;
use crate::failure::Failure;
use crate::names::{self, Meant};
use crate::output::{Now, say};

/// The most instances that are followed at once.
const FOLLOWED_MAX: usize = 100;
/// Lines on their way to standard output.
const LINES: usize = 64;
/// The longest line that is kept together, in bytes.
const LINE_MAX: usize = 64 << 10;

/// Print what the main process of an instance printed, or of all instances of a workload
///
/// Standard output goes to standard output, standard error to standard error. Lines of a workload's instances
/// begin with the instance's name; those that are added later are not followed.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell logs web-0
  dwell logs -f --tail 20 web-0
  dwell logs -f web               # all instances of the workload
  dwell logs --since 10m --timestamps web-0
  dwell logs --previous web-0    # why the last update failed
  dwell logs --since 2026-01-31T12:00:00Z web-0")]
pub(crate) struct Logs {
    /// An instance or a workload
    #[arg(value_parser = name_parser(), add = complete::subject())]
    name: String,
    /// Go on printing what it prints
    #[arg(short, long)]
    follow: bool,
    /// Only so many of the last lines
    #[arg(
        long,
        value_name = "LINES",
        default_value = "all",
        value_parser = tail_parser,
        allow_negative_numbers = true
    )]
    tail: Tail,
    /// Only what is younger than this, or was printed after it
    #[arg(long, value_name = "DURATION|TIME", value_parser = since_parser)]
    since: Option<Since>,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// Of a workload: print lines as they are
    #[arg(long)]
    no_prefix: bool,
    /// What the container before the present one printed last: one that failed, or was replaced
    ///
    /// It is kept for 7 days on the node on which that container ended, and does not move along with the instance. The last
    /// lines of a container that failed an update are in the events as well.
    #[arg(short, long, conflicts_with_all = ["follow", "since", "timestamps"])]
    previous: bool,
}

/// A number of lines, or all.
#[derive(Clone, Copy, Debug)]
struct Tail(Option<u64>);

#[derive(Clone, Copy, Debug)]
pub(super) enum Since {
    Ago(Millis),
    At(u64),
}

impl Since {
    /// In milliseconds since the epoch.
    pub(super) fn moment(self, now: Now) -> u64 {
        match self {
            Self::Ago(ago) => now.0.saturating_sub(millis(ago.as_duration())),
            Self::At(at) => at,
        }
    }
}

pub(super) fn since_parser(text: &str) -> Result<Since, String> {
    if let Ok(ago) = text.parse() {
        return Ok(Since::Ago(ago));
    }
    let at: jiff::Timestamp = text
        .parse()
        .map_err(|_| "write a duration such as 10m, or a time such as 2026-01-31T12:00:00Z")?;
    u64::try_from(at.as_millisecond()).map(Since::At).map_err(|_| "that is before 1970".into())
}

fn tail_parser(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        text => text
            .parse()
            .map(|lines| Tail(Some(lines)))
            .map_err(|_| "write a number of lines such as 100, or all".into()),
    }
}

impl Logs {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let since_ms = self.since.map(|since| since.moment(Now::read()));
        let request = v1::LogsRequest {
            instance: String::new(),
            follow: self.follow,
            tail: self.tail.0,
            since_ms,
            timestamps: self.timestamps,
            previous: self.previous,
        };
        match names::meant(&mut fleet.client, &self.name).await? {
            Meant::Instance(instance) => {
                let request = v1::LogsRequest { instance, ..request };
                plain(fleet.client.logs(request).await?.into_inner()).await
            }
            Meant::Workload(instances) => {
                let prefix = !self.no_prefix;
                several(&fleet.client, &request, instances, prefix).await
            }
        }
    }
}

/// Passes on what one instance prints, as it is.
pub(super) async fn plain(mut chunks: Streaming<v1::LogsChunk>) -> Result<(), Failure> {
    // Written by a thread of tokio's: a pager that pauses must not make the connection look dead.
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(chunk) = chunks.message().await? {
        write(&mut stdout, &mut stderr, chunk.stream(), &chunk.data).await?;
    }
    Ok(())
}

async fn write(
    stdout: &mut Stdout,
    stderr: &mut Stderr,
    stream: v1::OutputStream,
    data: &[u8],
) -> Result<(), Failure> {
    match stream {
        v1::OutputStream::Stderr => {
            stderr.write_all(data).await?;
            stderr.flush().await?;
        }
        v1::OutputStream::Stdout | v1::OutputStream::Unspecified => {
            stdout.write_all(data).await?;
            stdout.flush().await?;
        }
    }
    Ok(())
}

/// Lines of several instances, whole and with the name of who printed them: one instance after the other, or
/// as they come while following. What fails for one instance does not end the others; the first failure is
/// the command's.
async fn several(
    client: &Client,
    request: &v1::LogsRequest,
    instances: Vec<String>,
    prefix: bool,
) -> Result<(), Failure> {
    if request.follow && instances.len() > FOLLOWED_MAX {
        return Err(Failure::Usage(format!(
            "{} instances are more than the {FOLLOWED_MAX} that can be followed at once; name one of them",
            instances.len()
        )));
    }
    let width = instances.iter().map(String::len).max().unwrap_or_default();
    let (lines, mut printed) = mpsc::channel(LINES);
    let mut reading = JoinSet::new();
    let one_by_one = Arc::new(Semaphore::new(if request.follow { FOLLOWED_MAX } else { 1 }));
    for instance in instances {
        let label = if prefix { format!("{instance:width$} | ") } else { String::new() };
        let request = v1::LogsRequest { instance: instance.clone(), ..request.clone() };
        let (mut client, lines) = (client.clone(), lines.clone());
        let turn = Arc::clone(&one_by_one);
        reading.spawn(async move {
            // Never closed. Those who wait get their turn in their order.
            let _turn = turn.acquire().await;
            let read = async {
                let chunks = client.logs(request).await?.into_inner();
                whole_lines(chunks, label.as_bytes(), &lines).await
            };
            read.await.map_err(|failure: Failure| (instance, failure))
        });
    }
    drop(lines);
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some((stream, line)) = printed.recv().await {
        write(&mut stdout, &mut stderr, stream, &line).await?;
    }
    let mut first = Ok(());
    while let Some(ended) = reading.join_next().await {
        if let Ok(Err((instance, failure))) = ended {
            say(&format!("dwell: {instance}: {failure}"));
            if first.is_ok() {
                first = Err(Failure::Other("the logs of some instances are not complete".into()));
            }
        }
    }
    first
}

/// Sends each line with its label. A line is sent whole, so that lines of several instances do not mix;
/// one that does not end within [`LINE_MAX`] is sent in pieces.
async fn whole_lines(
    mut chunks: Streaming<v1::LogsChunk>,
    label: &[u8],
    lines: &mpsc::Sender<(v1::OutputStream, Vec<u8>)>,
) -> Result<(), Failure> {
    let mut begun = [Vec::new(), Vec::new()];
    let streams = [v1::OutputStream::Stdout, v1::OutputStream::Stderr];
    let send = async |stream, text: &[u8]| {
        let line = [label, text, b"\n"].concat();
        // Nobody prints any more: the command ends.
        drop(lines.send((stream, line)).await);
    };
    while let Some(chunk) = chunks.message().await? {
        let index = usize::from(chunk.stream() == v1::OutputStream::Stderr);
        let (stream, rest) = (streams[index], &mut begun[index]);
        for byte in chunk.data.iter().copied() {
            if byte == b'\n' || rest.len() >= LINE_MAX {
                send(stream, rest).await;
                rest.clear();
            }
            if byte != b'\n' {
                rest.push(byte);
            }
        }
    }
    for (stream, rest) in streams.into_iter().zip(&begun) {
        if !rest.is_empty() {
            send(stream, rest).await;
        }
    }
    Ok(())
}
