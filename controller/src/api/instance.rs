//! Logs and exec: frames between a client and an instance, through a [tunnel](crate::tunnel).
//!
//! Nothing is buffered beyond the tunnel's own bounds: the client's stream is the tunnel's, message by
//! message. When the client goes, the tunnel is dropped, and the agent ends its part.

use std::sync::Arc;

use dwell_core::id::{InstanceName, NodeName};
use dwell_core::instance::{MESSAGE_MAX, sanitize};
use dwell_proto::v1;
use dwell_proto::v1::open_tunnel::Purpose;
use dwell_proto::v1::tunnel_up::Message;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};

use super::{Api, ServerStream, request};
use crate::access;
use crate::model::{Command, Instance, Refusal, Subject};
use crate::status::into_status;
use crate::tunnel::Tunnel;

/// The most arguments and variables of a command.
const ENTRIES_MAX: usize = 1_000;
/// The most bytes that they have together.
const TEXT_MAX: usize = 256 * 1024;
/// The longest name of a program that an event shows, in bytes.
const PROGRAM_MAX: usize = 100;
/// The largest terminal, in columns and in rows.
const TERMINAL_MAX: u32 = 10_000;

impl Api {
    pub(super) async fn open_logs(
        &self,
        request: v1::LogsRequest,
    ) -> Result<ServerStream<v1::LogsChunk>, Status> {
        let tunnel = self.open(&request.instance.clone(), Purpose::Logs(request)).await?;
        // The agent may stop when nobody sends any more, so this end stays open as long as the stream.
        Ok(Box::pin(stream::try_unfold(tunnel, async |mut tunnel| {
            match next(&mut tunnel.up).await? {
                None => Ok(None),
                Some(Message::Logs(chunk)) => Ok(Some((chunk, tunnel))),
                Some(_) => Err(unexpected()),
            }
        })))
    }

    pub(super) async fn open_exec(
        &self,
        mut input: Streaming<v1::ExecInput>,
    ) -> Result<ServerStream<v1::ExecOutput>, Status> {
        let first = input.message().await?.and_then(|message| message.input);
        let Some(v1::exec_input::Input::Request(request)) = first else {
            return Err(Status::invalid_argument(
                "the first message of an exec has to be the request",
            ));
        };
        check_exec(&request)?;
        self.note_exec(&request).await?;
        let tunnel = self.open(&request.instance.clone(), Purpose::Exec(request)).await?;
        let sending = AbortOnDropHandle::new(tokio::spawn(send_input(input, tunnel.down.clone())));
        let state = Exec { tunnel, sending, ended: false };
        Ok(Box::pin(stream::try_unfold(state, async |mut exec| {
            if exec.ended {
                return Ok(None);
            }
            match next(&mut exec.tunnel.up).await? {
                None => Err(lost()),
                Some(Message::Exec(output)) => {
                    exec.ended =
                        matches!(output.output, Some(v1::exec_output::Output::ExitCode(_)));
                    Ok(Some((output, exec)))
                }
                Some(_) => Err(unexpected()),
            }
        })))
    }

    /// Writes down that somebody runs a command: its name, for what follows may be secret. Where the store is what is to be
    /// mended, that keeps nobody from it.
    async fn note_exec(&self, request: &v1::ExecRequest) -> Result<(), Status> {
        let (instance, _) = self.located(&request.instance).await?;
        let program = sanitize(request.command.first().map_or("", String::as_str), PROGRAM_MAX);
        let note = Command::Note {
            subject: Subject::Instance(instance.name.clone()),
            reason: "exec",
            message: match request.attach {
                true => "its main process is attached to".to_owned(),
                false => format!("{program} is run in it"),
            },
        };
        if let Err(error) = self.owner.command_for(access::acting(), note).await {
            tracing::warn!(%error, instance = %instance.name, by = access::acting(), program, "a command in an instance is not in the events");
        }
        Ok(())
    }

    /// A tunnel to wherever an instance is.
    pub(super) async fn open(&self, instance: &str, purpose: Purpose) -> Result<Tunnel, Status> {
        let (_, node) = self.located(instance).await?;
        self.tunnels.open(&node, purpose).await.map_err(into_status)
    }

    /// An instance, and the node it is on.
    pub(super) async fn located(
        &self,
        instance: &str,
    ) -> Result<(Arc<Instance>, NodeName), Status> {
        let name: InstanceName = request::name(instance)?;
        let asked = name.clone();
        let (found, _) = self.read(move |model| model.instance(&asked)).await?;
        let found = found.ok_or_else(|| into_status(Refusal::NoInstance(name.clone())))?;
        match found.instance.node.clone() {
            Some(node) => Ok((found.instance, node)),
            None => Err(Status::failed_precondition(format!(
                "instance {name} is on no node: {}",
                found.status.message
            ))),
        }
    }
}

/// A command that runs, for as long as someone wants its output.
struct Exec {
    tunnel: Tunnel,
    #[expect(dead_code, reason = "ends the task when dropped")]
    sending: AbortOnDropHandle<()>,
    ended: bool,
}

/// Passes input on until one of the sides ends. The end of the client's stream is told as the end of
/// standard input, which it is, and not by closing the tunnel, which would end the command.
async fn send_input(mut input: Streaming<v1::ExecInput>, down: mpsc::Sender<v1::TunnelDown>) {
    use v1::exec_input::Input;
    let wrap = |input| v1::TunnelDown {
        exec: Some(v1::ExecInput { input: Some(input) }),
        ..Default::default()
    };
    while let Ok(Some(message)) = input.message().await {
        let passed = match message.input {
            // A second request and an empty message mean nothing.
            None | Some(Input::Request(_)) => continue,
            Some(Input::Resize(size)) => Input::Resize(bounded(size)),
            Some(other) => other,
        };
        if down.send(wrap(passed)).await.is_err() {
            return;
        }
    }
    // If the tunnel has ended too, there is nobody to tell.
    drop(down.send(wrap(Input::StdinClosed(true))).await);
}

fn bounded(size: v1::TerminalSize) -> v1::TerminalSize {
    v1::TerminalSize { columns: size.columns.min(TERMINAL_MAX), rows: size.rows.min(TERMINAL_MAX) }
}

fn check_exec(request: &v1::ExecRequest) -> Result<(), Status> {
    let refuse = |problem: String| Err(Status::invalid_argument(problem));
    if request.command.is_empty() != request.attach {
        return refuse(match request.attach {
            true => "what is attached to runs already; leave the command out".to_owned(),
            false => "the command is empty; name what to run".to_owned(),
        });
    }
    if request.command.len() > ENTRIES_MAX || request.environment.len() > ENTRIES_MAX {
        return refuse(format!("more than {ENTRIES_MAX} arguments or variables"));
    }
    let pairs = request.environment.iter().flat_map(|(key, value)| [key, value]);
    let texts = request.command.iter().chain(pairs).chain([&request.user, &request.working_dir]);
    let mut total = 0;
    for text in texts {
        if text.contains('\0') {
            return refuse("a text with a NUL character, which no process can be given".to_owned());
        }
        total += text.len();
    }
    if total > TEXT_MAX {
        return refuse(format!("the command has {total} bytes; at most {TEXT_MAX} are allowed"));
    }
    match request.size {
        Some(size) if size != bounded(size) => {
            refuse(format!("a terminal has at most {TERMINAL_MAX} columns and rows"))
        }
        _ => Ok(()),
    }
}

/// The next message of a tunnel; `None` at its end.
pub(super) async fn next(up: &mut Streaming<v1::TunnelUp>) -> Result<Option<Message>, Status> {
    match up.message().await {
        Ok(Some(v1::TunnelUp { message: Some(Message::Error(error)) })) => {
            let code = match Code::from_i32(error.code) {
                Code::Ok => Code::Unknown,
                code => code,
            };
            Err(Status::new(code, sanitize(&error.message, MESSAGE_MAX)))
        }
        Ok(Some(v1::TunnelUp { message })) => message.map(Some).ok_or_else(unexpected),
        Ok(None) => Ok(None),
        // What went wrong between agent and controller says nothing to the client.
        Err(error) => {
            tracing::info!(%error, "a tunnel broke");
            Err(lost())
        }
    }
}

pub(super) fn lost() -> Status {
    Status::unavailable("the connection to the instance's node was lost")
}

pub(super) fn unexpected() -> Status {
    Status::internal("the agent sent something else than was asked for; is it of another version?")
}
