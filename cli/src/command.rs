//! The commands, one file each.

mod apply;
mod audit;
mod ca;
mod change;
mod context;
mod cp;
mod custody;
mod dns;
mod doctor;
mod events;
mod exec;
mod explain;
mod image;
mod import;
mod info;
mod inspect;
mod key;
mod logs;
mod moving;
mod node;
mod port_forward;
mod proxy;
mod ps;
mod registry;
mod replace;
mod resize;
mod restore;
mod rollout;
mod route;
mod run;
mod ssh;
mod status;
mod support;
mod volume;
mod wait;

use std::process::ExitCode;

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;

pub(crate) use self::apply::bounded;
use crate::client::{Client, Target, TargetArgs, connect};
use crate::failure::Failure;

/// Exit code of what was asked and found problems.
const PROBLEMS: ExitCode = ExitCode::FAILURE;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Apply(apply::Apply),
    Plan(apply::Plan),
    Import(import::Import),
    Run(Box<run::Run>),
    Ps(ps::Ps),
    Status(status::Status),
    Explain(explain::Explain),
    Wait(wait::Wait),
    Inspect(inspect::Inspect),
    Scale(change::Scale),
    Resize(resize::Resize),
    Start(change::Start),
    Stop(change::Stop),
    Restart(change::Restart),
    Replace(replace::Replace),
    Rebuild(replace::Rebuild),
    Move(moving::Move),
    Dissociate(custody::Dissociate),
    Adopt(custody::Adopt),
    Rm(change::Rm),
    History(rollout::History),
    Rollback(rollout::Rollback),
    Pause(rollout::Pause),
    Resume(rollout::Resume),
    Promote(rollout::Promote),
    Abort(rollout::Abort),
    Logs(logs::Logs),
    Exec(exec::Exec),
    Ssh(ssh::Ssh),
    Cp(cp::Cp),
    PortForward(port_forward::PortForward),
    Proxy(proxy::Proxy),
    SshConfig(ssh::SshConfig),
    DnsConfig(dns::DnsConfig),
    Key(key::Key),
    Registry(registry::Registry),
    Image(image::Image),
    Node(node::Node),
    Volume(volume::Volume),
    Restore(restore::Restore),
    Route(route::Route),
    Doctor(doctor::Doctor),
    Audit(audit::Audit),
    Events(events::Events),
    SupportBundle(support::SupportBundle),
    Context(context::Context),
    Ca(ca::Ca),
    Version(info::Version),
    Schema(info::Schema),
    Completions(info::Completions),
    Man(info::Man),
}

/// A controller, connected.
pub(crate) struct Fleet {
    /// For this and all further requests.
    pub(crate) client: Client,
    /// To connect again.
    pub(crate) target: Target,
}

impl Fleet {
    async fn connect(target: &TargetArgs) -> Result<Self, Failure> {
        let target = target.target()?;
        Ok(Self { client: connect(&target).await?, target })
    }
}

/// Carries out a command.
///
/// # Errors
/// Whatever goes wrong; nothing has been printed of it.
pub(crate) async fn run(command: Command, target: &TargetArgs) -> Result<ExitCode, Failure> {
    let fleet = Fleet::connect(target);
    let done = match command {
        Command::Apply(apply) => apply.run(fleet).await,
        Command::Plan(plan) => return plan.run(fleet).await,
        Command::Run(run) => return run.run(fleet.await?).await,
        Command::Ps(ps) => ps.run(fleet.await?).await,
        Command::Status(status) => return status.run(fleet.await?).await,
        Command::Explain(explain) => explain.run(fleet.await?).await,
        Command::Wait(wait) => wait.run(fleet.await?).await,
        Command::Inspect(inspect) => inspect.run(fleet.await?).await,
        Command::Scale(scale) => scale.run(fleet.await?).await,
        Command::Resize(resize) => resize.run(fleet.await?).await,
        Command::Start(start) => start.run(fleet.await?).await,
        Command::Stop(stop) => stop.run(fleet.await?).await,
        Command::Restart(restart) => restart.run(fleet.await?).await,
        Command::Replace(replace) => replace.run(fleet.await?).await,
        Command::Rebuild(rebuild) => rebuild.run(fleet.await?).await,
        Command::Move(order) => order.run(fleet.await?).await,
        Command::Dissociate(dissociate) => dissociate.run(fleet.await?).await,
        Command::Adopt(adopt) => adopt.run(fleet.await?).await,
        Command::Rm(rm) => rm.run(fleet.await?).await,
        Command::History(history) => history.run(fleet.await?).await,
        Command::Rollback(rollback) => rollback.run(fleet.await?).await,
        Command::Pause(pause) => pause.run(fleet.await?).await,
        Command::Resume(resume) => resume.run(fleet.await?).await,
        Command::Promote(promote) => promote.run(fleet.await?).await,
        Command::Abort(abort) => abort.run(fleet.await?).await,
        Command::Logs(logs) => logs.run(fleet.await?).await,
        Command::Exec(exec) => return Ok(exec.run(fleet).await),
        Command::Ssh(ssh) => return Ok(ssh.run(fleet, target).await),
        Command::Cp(cp) => return cp.run(fleet, target).await,
        Command::PortForward(forward) => forward.run(fleet.await?).await,
        Command::Proxy(proxy) => proxy.run(fleet.await?).await,
        Command::SshConfig(config) => config.run(fleet.await?, target).await,
        Command::DnsConfig(config) => config.run(fleet.await?).await,
        Command::Key(key) => key.run(fleet).await,
        Command::Registry(registry) => registry.run(fleet).await,
        Command::Image(image) => return image.run(fleet.await?).await,
        Command::Node(node) => node.run(fleet.await?).await,
        Command::Volume(volume) => volume.run(fleet.await?).await,
        Command::Restore(restore) => restore.run(fleet.await?).await,
        Command::Route(route) => return route.run(fleet.await?).await,
        Command::Doctor(doctor) => return doctor.run(fleet.await?).await,
        Command::Audit(audit) => return audit.run(fleet).await,
        Command::SupportBundle(bundle) => bundle.run(fleet).await,
        Command::Events(events) => events.run(fleet.await?).await,
        Command::Context(context) => context.run(fleet.await?).await,
        Command::Ca(ca) => ca.run(fleet.await?).await,
        Command::Version(version) => version.run(fleet).await,
        Command::Import(import) => import.run(),
        Command::Schema(schema) => schema.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Names are not empty: an empty one would mean everything.
fn name_parser() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}
