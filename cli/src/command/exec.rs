//! `dwell exec`: a command in an instance, as if it ran here.
//!
//! Three things happen at once: standard input goes out, output comes in, and the terminal's size
//! follows. Everything is bounded: input is read only as fast as the other side takes it (`INPUTS`
//! chunks are in flight here, the rest is HTTP/2's flow control), and output is taken only as fast as it
//! is written. However this ends, the terminal is as it was before.

use std::io::Read;
use std::process::ExitCode;

use clap::Args;
use dwell_proto::v1::{self, exec_input::Input, exec_output::Output};
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Fleet, name_parser};
use crate::client::Client;
use crate::complete;
use crate::failure::Failure;
use crate::manifest;
use crate::names;
use crate::output::say;
use crate::terminal::{self, RawMode};

/// Exit code if the command could not be run; what the command ends with is passed on.
const NOT_RUN: u8 = 125;
/// Messages on their way out.
const INPUTS: usize = 8;
/// The most of standard input in one message, in bytes.
const CHUNK: usize = 16 << 10;

/// Run a command in an instance
///
/// Ends with the command's exit code.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell exec web-0 -- nginx -t
  dwell exec -it web-0 -- sh
  pg_dump shop | dwell exec -i db-0 -- psql -U postgres shop
  dwell exec -e LANG=C -w /srv -u www web-0 -- ls

Exit codes 127 and 126 are those of shells: there is no such command, or it is not executable. 125 is dwell's own: \
the instance does not run, or the connection to it was lost.")]
pub(crate) struct Exec {
    /// Connect standard input
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Environment variable; without a value, it is taken from here
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// User, or user:group
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    /// The instance, or a workload that has only one
    #[arg(value_parser = name_parser(), add = complete::subject())]
    instance: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    /// Never an error: programs could not tell it from the command's.
    pub(super) async fn run(self, fleet: impl Future<Output = Result<Fleet, Failure>>) -> ExitCode {
        match self.attempt(fleet).await {
            Ok(code) => code,
            Err(Failure::OutputClosed) => Failure::OutputClosed.exit_code().into(),
            Err(failure) => {
                say(&format!("dwell: {failure}"));
                NOT_RUN.into()
            }
        }
    }

    async fn attempt(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
    ) -> Result<ExitCode, Failure> {
        let raw = self.tty && self.interactive;
        if raw && !terminal::is_interactive() {
            return Err(Failure::Usage("standard input is not a terminal; leave out -t".into()));
        }
        let mut fleet = fleet.await?;
        let request = v1::ExecRequest {
            instance: names::instance(&mut fleet.client, &self.instance).await?,
            command: self.command,
            tty: self.tty,
            stdin: self.interactive,
            environment: manifest::environment(&self.env, &super::apply::variables())
                .into_iter()
                .collect(),
            user: self.user.unwrap_or_default(),
            working_dir: self.workdir.unwrap_or_default(),
            size: if self.tty { terminal::size() } else { None },
            attach: false,
        };
        Session::open(&mut fleet.client, request).await?.carry().await
    }
}

/// A command, or a main process, that was asked for.
pub(super) struct Session {
    inputs: mpsc::Sender<v1::ExecInput>,
    outputs: Streaming<v1::ExecOutput>,
    tty: bool,
    interactive: bool,
}

impl Session {
    /// Asks for it.
    ///
    /// # Errors
    /// If the controller refuses.
    pub(super) async fn open(
        client: &mut Client,
        request: v1::ExecRequest,
    ) -> Result<Self, tonic::Status> {
        let (tty, interactive) = (request.tty, request.stdin);
        let (inputs, outgoing) = mpsc::channel(INPUTS);
        send(&inputs, Input::Request(request)).await;
        let outputs = client.exec(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { inputs, outputs, tty, interactive })
    }

    /// Carries input and output until it ends, and returns its exit code. If this is dropped, the terminal is as it was before.
    ///
    /// # Errors
    /// If it could not be run, or the connection or the terminal is lost.
    pub(super) async fn carry(mut self) -> Result<ExitCode, Failure> {
        let failed =
            |error: std::io::Error| Failure::Other(format!("cannot use the terminal: {error}"));
        let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
        let mut terminated = signal(SignalKind::terminate()).map_err(failed)?;
        let mut hung_up = signal(SignalKind::hangup()).map_err(failed)?;
        // Taken back when this returns, whatever the reason.
        let mut raw_mode = None;
        let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
        loop {
            // Cancel-safe: `message` keeps what it has read of a message, `recv` loses no signal.
            let output = tokio::select! {
                output = self.outputs.message() => output?,
                _ = resized.recv(), if self.tty => {
                    if let Some(size) = terminal::size() {
                        // If the way out is full of input the size is told with the next change.
                        drop(self.inputs.try_send(input(Input::Resize(size))));
                    }
                    continue;
                }
                _ = terminated.recv() => return Err(Failure::Other("was told to end".into())),
                _ = hung_up.recv() => return Err(Failure::Other("the terminal is gone".into())),
            };
            match output.and_then(|output| output.output) {
                Some(Output::Started(_)) => {
                    if self.tty && self.interactive {
                        raw_mode = Some(RawMode::enter().map_err(failed)?);
                    }
                    if self.interactive {
                        let inputs = self.inputs.clone();
                        std::thread::spawn(move || forward_stdin(&inputs));
                    }
                }
                Some(Output::Stdout(data)) => {
                    stdout.write_all(&data).await?;
                    stdout.flush().await?;
                }
                Some(Output::Stderr(data)) => {
                    stderr.write_all(&data).await?;
                    stderr.flush().await?;
                }
                Some(Output::ExitCode(code)) => {
                    drop(raw_mode);
                    return Ok(exit_code(code));
                }
                None => {
                    return Err(Failure::Unavailable(
                        "the connection was lost while the command ran; it may still run".into(),
                    ));
                }
            }
        }
    }
}

/// Reads standard input in a thread of its own, since a read cannot be called off; it ends when the
/// input does, when nobody takes it any more, or with the process.
fn forward_stdin(inputs: &mpsc::Sender<v1::ExecInput>) {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; CHUNK];
    loop {
        let message = match stdin.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(count @ 1..) => Input::Stdin(buffer[..count].to_vec().into()),
            Ok(0) | Err(_) => Input::StdinClosed(true),
        };
        let closed = matches!(message, Input::StdinClosed(_));
        if inputs.blocking_send(input(message)).is_err() || closed {
            return;
        }
    }
}

fn input(input: Input) -> v1::ExecInput {
    v1::ExecInput { input: Some(input) }
}

async fn send(inputs: &mpsc::Sender<v1::ExecInput>, message: Input) {
    // Nobody takes it only if the call has ended, and then its end says why.
    drop(inputs.send(input(message)).await);
}

/// A shell's convention: what does not fit is cut to its last byte, a signal is 128 and its number.
fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code & 0xff).unwrap_or(1).into()
}
