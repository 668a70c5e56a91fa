//! A session channel: a shell, a command or SFTP in the container.
//!
//! ```text
//!   Preparing ──shell, exec or subsystem──► Running ──the process has ended, its output is sent──► closed
//!       │ environment, terminal, agent         │ resize, signal
//!       └──────────────────────────────────────┴── the client closed the channel: SIGHUP for the process
//! ```

use std::sync::Arc;

use dwell_daemon::Causes;
use russh::server::{Handle, Msg};
use russh::{ChannelWriteHalf, Sig};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::channels::Channels;
use super::{forward, stream};
use crate::enter::{Control, Exit, Request, Session, Terminal};
use crate::front::Front;
use crate::intake::Outlet;

/// Most variables that a client may set, and their bytes.
const MAX_VARIABLES: usize = 64;
const MAX_VARIABLE_BYTES: usize = 32 * 1024;
/// Resizes and signals on their way.
pub(super) const STEERING: usize = 16;
/// SSH's number for standard error.
const STDERR: u32 = 1;

/// Where a session is.
pub(super) enum Stage {
    /// Nothing runs yet.
    Preparing(Box<Preparation>),
    /// Something does.
    Running(mpsc::Sender<Steer>),
}

/// What is gathered before something runs.
pub(super) struct Preparation {
    /// Where output goes.
    pub(super) write: ChannelWriteHalf<Msg>,
    /// The session's place among the connection's channels.
    pub(super) place: OwnedSemaphorePermit,
    /// Variables that the client set.
    pub(super) environment: Vec<(String, String)>,
    /// The terminal that it asked for.
    pub(super) terminal: Option<Terminal>,
    /// Whether it forwards its agent.
    pub(super) agent: bool,
}

/// A client's wish for something that runs.
#[derive(Debug)]
pub(super) enum Steer {
    /// Columns, rows, and both in pixels.
    Resize([u32; 4]),
    /// The name without `SIG`.
    Signal(String),
}

impl Preparation {
    /// Takes a variable if it is harmless and there is room.
    pub(super) fn set(&mut self, name: &str, value: &str) -> bool {
        let bytes: usize =
            self.environment.iter().map(|(name, value)| name.len() + value.len()).sum();
        let fits = self.environment.len() < MAX_VARIABLES
            && bytes + name.len() + value.len() <= MAX_VARIABLE_BYTES
            && !value.contains('\0');
        let known = ["LANG", "LANGUAGE", "COLORTERM", "NO_COLOR", "GIT_PROTOCOL"].contains(&name)
            || name.strip_prefix("LC_").is_some_and(|rest| {
                rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            });
        let taken = known && fits;
        if taken {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
        taken
    }
}

/// A session with everything that it needs to run.
pub(super) struct Running {
    /// What all connections share.
    pub(super) front: Arc<Front>,
    /// The connection.
    pub(super) handle: Handle,
    /// Its channels.
    pub(super) channels: Channels,
    /// Where output goes.
    pub(super) write: ChannelWriteHalf<Msg>,
    /// What the client wants of what runs.
    pub(super) steering: mpsc::Receiver<Steer>,
    /// What to run, or what to tell the user instead.
    pub(super) request: Result<Request, String>,
    /// Whether the user has a terminal.
    pub(super) terminal: bool,
}

impl Running {
    /// Runs it to its end, and closes the channel. Cancelled, it sends the process SIGHUP.
    pub(super) async fn run(self, input: Outlet) {
        let started = match self.request {
            Ok(request) => {
                self.front.enter.start(request).await.map_err(|error| Causes(&error).to_string())
            }
            Err(message) => Err(message),
        };
        let exit = match started {
            Ok(session) => {
                let Session { input: stdin, output, errors, agent_listener, control, .. } = session;
                let ended = CancellationToken::new();
                let work = async {
                    let outputs = async {
                        if self.terminal {
                            let output = stream::TerminalOutput::new(output, ended.clone());
                            return output.send(&self.write).await;
                        }
                        let errors = async {
                            match errors {
                                Some(errors) => {
                                    stream::send(errors, &self.write, Some(STDERR)).await
                                }
                                None => Ok(()),
                            }
                        };
                        tokio::try_join!(stream::send(output, &self.write, None), errors).map(drop)
                    };
                    finish(outputs, steer(control, self.steering), &ended).await
                };
                let agents = forward::agents(agent_listener, &self.handle, &self.channels);
                let agents = async {
                    agents.await;
                    Ok(())
                };
                let inputs = async { tokio::try_join!(agents, stream::pour(input, stdin)) };
                tokio::select! {
                    exit = work => exit,
                    Err(error) = inputs => {
                        info!(%error, "a session is ended");
                        return drop(self.write.close().await);
                    }
                }
            }
            Err(message) => {
                let line_end = if self.terminal { "\r\n" } else { "\n" };
                let message = format!("{message}{line_end}").into_bytes();
                let told = self.write.extended_data_bytes(STDERR, message).await;
                told.map(|()| Exit::Code(1))
            }
        };
        let ended = match exit {
            Ok(exit) => end(&self.write, &self.handle, exit).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            // The connection is gone, and with it whom to tell.
            debug!(%error, "a session ended unheard");
        }
    }
}

/// Waits for the end of the process, which it says to `ended`, and of its output: all of it through pipes, as sshd
/// does, and what a terminal still holds.
async fn finish(
    outputs: impl Future<Output = Result<(), russh::Error>>,
    exited: impl Future<Output = Exit>,
    ended: &CancellationToken,
) -> Result<Exit, russh::Error> {
    tokio::pin!(outputs, exited);
    tokio::select! {
        sent = &mut outputs => {
            sent?;
            Ok(exited.await)
        }
        exit = &mut exited => {
            ended.cancel();
            outputs.await?;
            Ok(exit)
        }
    }
}

/// Passes on the client's wishes until the process ends.
async fn steer(mut control: Control, mut steering: mpsc::Receiver<Steer>) -> Exit {
    loop {
        tokio::select! {
            exit = control.wait() => return exit,
            Some(wish) = steering.recv() => match wish {
                Steer::Resize([columns, rows, width, height]) => control.resize(columns, rows, width, height),
                Steer::Signal(name) => control.signal(&name),
            },
        }
    }
}

/// Tells how it ended, and closes the channel.
async fn end(
    write: &ChannelWriteHalf<Msg>,
    handle: &Handle,
    exit: Exit,
) -> Result<(), russh::Error> {
    write.eof().await?;
    match exit {
        Exit::Code(code) => write.exit_status(code).await?,
        Exit::Signal { name, core_dumped, message } => {
            let signal = signal_named(&name);
            let told =
                handle.exit_signal_request(write.id(), signal, core_dumped, message, String::new());
            told.await.map_err(|()| russh::Error::SendError)?;
        }
    }
    write.close().await
}

/// The signal with this name.
fn signal_named(name: &str) -> Sig {
    match name {
        "ABRT" => Sig::ABRT,
        "ALRM" => Sig::ALRM,
        "FPE" => Sig::FPE,
        "HUP" => Sig::HUP,
        "ILL" => Sig::ILL,
        "INT" => Sig::INT,
        "KILL" => Sig::KILL,
        "PIPE" => Sig::PIPE,
        "QUIT" => Sig::QUIT,
        "SEGV" => Sig::SEGV,
        "TERM" => Sig::TERM,
        "USR1" => Sig::USR1,
        other => Sig::Custom(other.to_owned()),
    }
}

/// A signal's name.
pub(super) fn signal_name(signal: Sig) -> String {
    match signal {
        Sig::Custom(name) => name,
        // Their names are those of the variants.
        known => format!("{known:?}"),
    }
}
