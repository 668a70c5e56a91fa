//! `dwell run --rm`: one piece of work, watched, or attached to, until it has ended and then removed.
//!
//! It is a job of one instance and one attempt. Whatever becomes of this program, work that has begun ends by its deadline and is
//! removed by its `ttl`; what this program does is to be quicker than that.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use dwell_core::id::WorkloadName;
use dwell_core::instance::Phase;
use dwell_core::quantity::Millis;
use dwell_proto::v1;
use tokio::signal::unix::{SignalKind, signal};

use crate::client::Client;
use crate::command::exec::Session;
use crate::command::logs;
use crate::failure::Failure;
use crate::output::say;
use crate::terminal;

/// How long it is kept once it has ended, should nobody be there to remove it.
pub(super) const TTL: Millis = Millis::seconds(600);
/// How long it may run where nobody says otherwise: nothing is left behind by a computer that goes away.
pub(super) const DEADLINE: Millis = Millis::seconds(24 * 3600);

/// How long it may take until it begins.
const BEGIN_LIMIT: Duration = Duration::from_secs(300);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the output of what has ended may take to come.
const OUTPUT_LIMIT: Duration = Duration::from_secs(30);
/// Exit code if the work was ended otherwise than by itself.
const NOT_RUN: u8 = 125;

/// How this program is attached to the work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attached {
    /// Standard input is its input.
    pub(super) interactive: bool,
    /// It has a terminal, whose size is that of this one.
    pub(super) tty: bool,
}

impl Attached {
    /// Before anything is declared.
    ///
    /// # Errors
    /// If there is no terminal to attach.
    pub(super) fn check(self) -> Result<(), Failure> {
        if self.interactive && self.tty && !terminal::is_interactive() {
            return Err(Failure::Usage("standard input is not a terminal; leave out -t".into()));
        }
        Ok(())
    }

    /// Carries input and output until the main process of an instance ends.
    async fn carry(self, client: &mut Client, instance: &str) -> Result<(), Failure> {
        let request = v1::ExecRequest {
            instance: instance.to_owned(),
            attach: true,
            stdin: self.interactive,
            tty: self.tty,
            size: if self.tty { terminal::size() } else { None },
            ..v1::ExecRequest::default()
        };
        let carried = match Session::open(client, request).await {
            Ok(session) => session.carry().await.map(drop),
            Err(status) => Err(status.into()),
        };
        carried.map_err(|failure| match failure {
            // They miss a command.
            Failure::Usage(_) => Failure::Refused(format!(
                "cannot attach to {instance}: the controller, or the agent of its node, is of an earlier version; upgrade it, or \
                 leave out -i and -t"
            )),
            failure => failure,
        })
    }
}

/// A name that nobody else has thought of.
///
/// # Errors
/// [`Failure::Other`] if it is no name, which it is.
pub(super) fn name() -> Result<WorkloadName, Failure> {
    let name = WorkloadName::new(format!("run-{:08x}", rand::random::<u32>()));
    name.map_err(|error| Failure::Other(error.to_string()))
}

/// Follows the work of a workload that was just declared to its end, and removes it. Ends with its exit code.
///
/// # Errors
/// If it could not begin, or nobody knows how it ended.
pub(super) async fn follow(
    mut client: Client,
    workload: &str,
    attached: Attached,
) -> Result<ExitCode, Failure> {
    // What is attached hears of signals as well. Dropped, it leaves the terminal as it was.
    let ended = tokio::select! {
        biased;
        signal = asked_to_end() => signal,
        ended = to_its_end(client.clone(), workload, attached) => ended,
    };
    let request = v1::RemoveWorkloadRequest { name: workload.to_owned() };
    let removed = client.remove_workload(request).await;
    if let Err(status) = removed
        && status.code() != tonic::Code::NotFound
    {
        say(&format!(
            "dwell: {workload} could not be removed, and goes {TTL} after its end: {}",
            Failure::from(status)
        ));
    }
    ended
}

/// Ctrl-C and what else ends programs: the work ends too. The exit code is that of shells.
async fn asked_to_end() -> Result<ExitCode, Failure> {
    let failed =
        |error: std::io::Error| Failure::Other(format!("cannot wait for signals: {error}"));
    let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hung_up = signal(SignalKind::hangup()).map_err(failed)?;
    let number: u8 = tokio::select! {
        _ = interrupted.recv() => 2,
        _ = terminated.recv() => 15,
        _ = hung_up.recv() => 1,
    };
    Ok(ExitCode::from(128 + number))
}

async fn to_its_end(
    mut client: Client,
    workload: &str,
    attached: Attached,
) -> Result<ExitCode, Failure> {
    let instance = begun(&mut client, workload).await?;
    let mut looking = client.clone();
    if attached.interactive || attached.tty {
        let carried = attached.carry(&mut client, &instance);
        let end = ended(&mut looking, workload);
        tokio::pin!(carried, end);
        let end = tokio::select! {
            carried = &mut carried => match carried {
                Ok(()) => end.await?,
                // Nobody works with it any more, so that its end is not waited for.
                Err(failure) => return Err(failure),
            },
            end = &mut end => {
                // What a node cannot give any more keeps nobody from the exit code.
                drop(tokio::time::timeout(OUTPUT_LIMIT, carried).await);
                end?
            }
        };
        return code(&instance, &end);
    }
    let request =
        v1::LogsRequest { instance: instance.clone(), follow: true, ..v1::LogsRequest::default() };
    let printed = async {
        let chunks = client.clone().logs(request).await?.into_inner();
        logs::plain(chunks).await
    };
    // The output ends with the container; one that a node cannot give any more keeps nobody from the exit code.
    match within(printed, ended(&mut looking, workload)).await {
        (Err(Failure::OutputClosed), _) => Err(Failure::OutputClosed),
        (printed, end) => {
            if let Err(failure) = printed {
                say(&format!("dwell: what {instance} printed is not complete: {failure}"));
            }
            code(&instance, &end?)
        }
    }
}

fn code(instance: &str, end: &v1::TaskEnd) -> Result<ExitCode, Failure> {
    match end.code {
        Some(code) => Ok(u8::try_from(code & 0xff).unwrap_or(NOT_RUN).into()),
        None => Err(Failure::Other(format!("{instance} was stopped before it had ended"))),
    }
}

/// Both, but of the output no more than comes soon after the end.
async fn within<O, E>(
    output: impl Future<Output = Result<(), O>>,
    end: impl Future<Output = E>,
) -> (Result<(), O>, E) {
    tokio::pin!(output, end);
    tokio::select! {
        printed = &mut output => (printed, end.await),
        ended = &mut end => {
            let printed = tokio::time::timeout(OUTPUT_LIMIT, output).await;
            (printed.unwrap_or(Ok(())), ended)
        }
    }
}

/// Waits until its container runs or has ended; why it does not yet is said once for each reason.
async fn begun(client: &mut Client, workload: &str) -> Result<String, Failure> {
    let mut said = String::new();
    let begun = tokio::time::timeout(BEGIN_LIMIT, begins(client, workload, &mut said)).await;
    begun.unwrap_or_else(|_| {
        Err(Failure::Other(format!(
            "{workload} has not begun within {BEGIN_LIMIT:?}, and is removed; last seen: {said}. \
             Without --rm it waits as long as it takes: `dwell run --job`"
        )))
    })
}

async fn begins(client: &mut Client, workload: &str, said: &mut String) -> Result<String, Failure> {
    loop {
        let instance = look(client, workload).await?;
        let status = instance.status.unwrap_or_default();
        let end = instance.task.and_then(|task| task.end.map(|end| (end, task.reason)));
        let failed = |reason: &str| {
            Err(Failure::Other(format!(
                "{} could not run: {reason}; it is removed. Look at the image's name, and at `dwell status`",
                instance.name
            )))
        };
        match (end, Phase::from(status.phase())) {
            (Some((end, reason)), _) if end.code.is_none() => return failed(&reason),
            (Some(_), _) | (None, Phase::Running | Phase::Stopping) => return Ok(instance.name),
            (None, Phase::Failed) => return failed(&status.message),
            (None, _) => {}
        }
        if !status.message.is_empty() && status.message != *said {
            say(&format!("dwell: {}: {}", instance.name, status.message));
            *said = status.message;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ended(client: &mut Client, workload: &str) -> Result<v1::TaskEnd, Failure> {
    loop {
        if let Some(end) = look(client, workload).await?.task.and_then(|task| task.end) {
            return Ok(end);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The instance as it is now.
async fn look(client: &mut Client, workload: &str) -> Result<v1::Instance, Failure> {
    let request = v1::ListInstancesRequest { workload: workload.to_owned(), ..Default::default() };
    let found = client.list_instances(request).await?.into_inner().instances.pop();
    found.ok_or_else(|| Failure::NotFound(format!("{workload} was removed before it had ended")))
}
