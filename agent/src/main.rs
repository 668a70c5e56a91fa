//! `dwell-agent`: the host daemon of dwell, and what an operator does with it on a node.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use dwell_agent::config::{self, Config};
use dwell_agent::enroll::{self, Candidate};
use dwell_agent::lock::DataDirLock;
use dwell_agent::{assignment, cleanup, daemon, directory, doctor, host_mark, shutdown};
use dwell_core::id::NodeName;
use dwell_daemon::Causes;
use dwell_daemon::config::ConfigError;
use dwell_docker::daemon_json::{self, Outcome};
use dwell_network::linux::keeper;
use dwell_proto::trust::JoinToken;
use tokio::runtime::Runtime;

/// The heaps of the daemon's threads. Idle with 50 instances it takes 0.7 MiB less with one than with one for each thread, of
/// which it has 16, and is no slower: its threads rarely allocate at the same moment.
const HEAPS: u8 = 1;
/// How long Docker may take to read its configuration again, and how often it is asked whether it has.
const FORGET_LIMIT: Duration = Duration::from_secs(10);
const FORGET_LOOK: Duration = Duration::from_millis(100);

/// Makes this host a node of dwell. Without a command it runs the daemon.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Configuration file; /etc/dwell/agent.yaml if that is there
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only check the configuration
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Join a cluster
    Join(JoinArgs),
    /// Take everything of dwell off this host: containers, sandboxes, routes, rules
    Cleanup(CleanupArgs),
    /// Stop all instances of this host, each with its own grace; the agent must not be running
    ///
    /// systemd calls it when the host shuts down. The agent starts them again.
    StopInstances,
    /// Make and keep the sandboxes that the agent asks for; systemd starts it beside the agent
    KeepSandboxes,
    /// Look for what is wrong with this host, and say what puts it right
    Doctor {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: OutputFormat,
    },
    /// Enter dwell-oci into Docker's configuration
    InstallRuntime {
        #[command(flatten)]
        file: DaemonJson,
        /// Where dwell-oci is; beside this program if not given
        #[arg(long, value_name = "PROGRAM")]
        program: Option<PathBuf>,
    },
    /// Take dwell-oci out of Docker's configuration
    UninstallRuntime {
        #[command(flatten)]
        file: DaemonJson,
    },
}

/// How findings are printed.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

#[derive(Args)]
struct JoinArgs {
    /// Where the controller is, HOST:PORT; the configuration's if not given
    #[arg(long, value_name = "HOST:PORT")]
    controller: Option<String>,
    /// A token made with `dwell node token`; `-` reads it from standard input
    #[arg(long, env = "DWELL_JOIN_TOKEN", hide_env_values = true)]
    token: String,
    /// The node's name; the configuration's or the host's if not given
    #[arg(long)]
    name: Option<NodeName>,
    /// Replace the identity of a host that has joined before
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
struct CleanupArgs {
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Only look whether instances are on this host, which then fails; the agent may be running
    #[arg(long, conflicts_with_all = ["yes", "volumes", "identity"])]
    check: bool,
    /// Also delete the instances' volumes, with all data in them
    #[arg(long)]
    volumes: bool,
    /// Also forget the cluster: the host has to join again
    #[arg(long)]
    identity: bool,
}

#[derive(Args)]
struct DaemonJson {
    /// Docker's configuration
    #[arg(long, value_name = "FILE", default_value = daemon_json::DAEMON_JSON)]
    daemon_json: PathBuf,
    /// Do not tell a running dockerd
    #[arg(long)]
    no_reload: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            let message = format!("dwell-agent: {}\n", Causes(error.as_ref()));
            // Nothing is left to be done if even that cannot be written.
            drop(std::io::stderr().write_all(message.as_bytes()));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let load = || Config::load(cli.config.as_deref());
    let done = match cli.command {
        None if cli.check => {
            load()?;
            say("the configuration is valid")
        }
        None => {
            let config = load()?;
            dwell_daemon::logging::start(&config.log)?;
            dwell_daemon::memory::share_heaps(HEAPS);
            dwell_daemon::memory::keep_given_back().context("cannot start a thread")?;
            let runtime = daemon_runtime()?;
            let ended = runtime.block_on(daemon::run(config));
            // What blocks now waits for a disk or a name server; the end does not have to.
            runtime.shutdown_background();
            ended.map_err(Into::into)
        }
        Some(Command::Join(args)) => join(&load()?, args),
        Some(Command::Cleanup(args)) if args.check => look_for_instances(load()),
        Some(Command::Cleanup(args)) => clean_up(&load()?, &args),
        Some(Command::StopInstances) => stop_instances(&load()?),
        Some(Command::KeepSandboxes) => keep_sandboxes(&load()?),
        Some(Command::InstallRuntime { file, program }) => {
            let program = program.map_or_else(runtime_program, Ok)?;
            let outcome = daemon_json::install(&file.daemon_json, &program)?;
            report(&file, outcome, "knows the runtime dwell")
        }
        Some(Command::UninstallRuntime { file }) => {
            uninstall_runtime(&file, load().unwrap_or_default())
        }
        Some(Command::Doctor { output }) => return examine(load()?, output),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// The wrapper that was installed with this program.
fn runtime_program() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    Ok(program.with_file_name("dwell-oci"))
}

/// Few threads: the daemon waits nearly always, and each thread costs memory of its own.
fn daemon_runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

fn command_runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("cannot start the runtime")
}

fn join(config: &Config, args: JoinArgs) -> Result<()> {
    let token = match args.token.as_str() {
        "-" => std::io::read_to_string(std::io::stdin()).context("cannot read the token")?,
        _ => args.token,
    };
    let token: JoinToken = token.parse()?;
    let Some(controller) = args.controller.or_else(|| config.controller.clone()) else {
        bail!(
            "where is the controller? give --controller HOST:PORT, or set `controller` in the configuration"
        );
    };
    config::check_endpoint(&controller).map_err(anyhow::Error::msg).context("--controller")?;
    let node = args.name.map_or_else(|| config.node_name(), Ok)?;
    if let Some(configured) = config.name.as_ref().filter(|name| **name != node) {
        bail!(
            "--name {node} contradicts `name: {configured}` of the configuration; correct one of them"
        );
    }
    let _lock = DataDirLock::take(&config.data_dir)?;
    let identity = command_runtime()?.block_on(async {
        let address = config.underlay_address().await?;
        let host_mark = host_mark::of(config, &node);
        let candidate = Candidate { node, address, routes_only: config.routes_only, host_mark };
        let joined =
            enroll::join(&config.data_dir, &controller, &token, &candidate, args.force).await?;
        anyhow::Ok(joined)
    })?;
    // What an earlier cluster wanted of this host is none of this one's business.
    assignment::cache::remove(&config.data_dir)
        .context("cannot remove the assignment of before")?;
    directory::remove(&config.data_dir).context("cannot remove the directory of before")?;
    if let Some(mark) = host_mark::of(config, &identity.node) {
        let claimed = host_mark::claim(&config.data_dir, &mark);
        claimed.context("cannot note in the data directory which machine this is")?;
    }
    say(&format!(
        "This host is node {} of cluster {} now.\nStart the agent: systemctl enable --now dwell-agent",
        identity.node, identity.cluster_id
    ))
}

/// Refuses where there are instances: a container that has ended is one, too, with what it wrote beside its volumes.
fn look_for_instances(loaded: Result<Config, ConfigError>) -> Result<()> {
    let (config, warning) = cleanup::config_to_look_with(loaded);
    if let Some(warning) = warning {
        say(&warning)?;
    }
    let found = command_runtime()?.block_on(cleanup::look(&config))?;
    say(&found.verdict().map_err(anyhow::Error::msg)?)
}

fn clean_up(config: &Config, args: &CleanupArgs) -> Result<()> {
    let what = [
        Some("all containers, sandboxes, routes and rules of dwell"),
        args.volumes.then_some("all volumes of instances with their data"),
        args.identity.then_some("this host's membership of the cluster"),
    ];
    let what: Vec<&str> = what.into_iter().flatten().collect();
    if !args.yes {
        bail!("this would remove {}; repeat it with --yes", what.join(", and "));
    }
    let extent = cleanup::Extent { volumes: args.volumes, identity: args.identity };
    match command_runtime()?.block_on(cleanup::run(config, extent)) {
        Ok(removed) => say(&format!(
            "Removed {} containers, {} volumes, and all sandboxes, routes and rules of dwell.",
            removed.containers, removed.volumes
        )),
        Err(failures) => {
            let texts: Vec<String> =
                failures.iter().map(|failure| Causes(failure).to_string()).collect();
            bail!("{}", texts.join("\ndwell-agent: "))
        }
    }
}

/// Runs until it is killed, which touches no sandbox.
fn keep_sandboxes(config: &Config) -> Result<()> {
    dwell_daemon::logging::start(&config.log)?;
    keeper::serve(&config.run_dir, dwell_daemon::readiness::ready).with_context(|| {
        format!("cannot listen at {}", keeper::socket_path(&config.run_dir).display())
    })
}

fn stop_instances(config: &Config) -> Result<()> {
    match command_runtime()?.block_on(shutdown::run(config)) {
        Ok(count) => say(&format!("Stopped {count} instances.")),
        Err(failures) => {
            let texts: Vec<String> =
                failures.iter().map(|failure| Causes(failure).to_string()).collect();
            bail!("{}", texts.join("\ndwell-agent: "))
        }
    }
}

/// Looks this host over, with the agent running or not. It fails if there is a problem.
fn examine(config: Config, output: OutputFormat) -> Result<ExitCode> {
    let runtime = command_runtime()?;
    let findings = runtime.block_on(async { doctor::examine(&doctor::Host::local(config)).await });
    // A disk that hangs is a finding, and nothing to wait for.
    runtime.shutdown_background();
    match output {
        OutputFormat::Text => say(doctor::report::text(&findings).trim_end())?,
        OutputFormat::Json => say(&format!("{:#}", doctor::report::json(&findings)))?,
    }
    let has_problem = findings.iter().any(|finding| finding.outcome == doctor::Outcome::Problem);
    Ok(if has_problem { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Takes the runtime out of Docker's configuration and of a running `dockerd`.
fn uninstall_runtime(file: &DaemonJson, config: Config) -> Result<()> {
    let path = file.daemon_json.display();
    let Some(left) = daemon_json::withdraw(&file.daemon_json)? else {
        return say(&format!("{path} does not have the runtime dwell."));
    };
    let told = if file.no_reload { None } else { daemon_json::reload_dockerd()? };
    let is_forgotten = told.map(|_| {
        command_runtime().is_ok_and(|runtime| runtime.block_on(docker_forgets_runtime(config)))
    });
    left.finish()?;
    say(&format!("{path} does not have the runtime dwell any more."))?;
    match (told, is_forgotten) {
        (Some(pid), Some(true)) => say(&format!("dockerd (process {pid}) has forgotten it, too.")),
        (Some(pid), _) => say(&format!(
            "dockerd (process {pid}) may go on listing it until it is started again, which does no harm."
        )),
        (None, _) => Ok(()),
    }
}

/// Waits until Docker does not know the runtime any more; whether it came to that.
async fn docker_forgets_runtime(config: Config) -> bool {
    let Some(engine) = doctor::Host::local(config).engine else { return false };
    let forgotten = async {
        while !engine.info().await.is_ok_and(|report| !report.info.ready) {
            tokio::time::sleep(FORGET_LOOK).await;
        }
    };
    tokio::time::timeout(FORGET_LIMIT, forgotten).await.is_ok()
}

fn report(file: &DaemonJson, outcome: Outcome, what: &str) -> Result<()> {
    let path = file.daemon_json.display();
    say(&match outcome {
        Outcome::Changed => format!("{path} {what} now."),
        Outcome::Unchanged => format!("{path} {what}."),
    })?;
    if file.no_reload {
        return Ok(());
    }
    match daemon_json::reload_dockerd()? {
        Some(pid) => say(&format!("dockerd (process {pid}) reads its configuration again.")),
        None => Ok(()),
    }
}

/// Prints for the person who called.
fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}
