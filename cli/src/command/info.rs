//! About dwell itself: `version`, `schema`, `completions`, `man`.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, CommandFactory};
use clap_complete::env::Shells;
use dwell_core::net::Ranges;
use dwell_proto::v1;
use serde::Serialize;

use super::Fleet;
use crate::client::Client;
use crate::complete;
use crate::failure::Failure;
use crate::manifest;
use crate::output::{OutputArgs, print};

/// Show the versions of this command line and of the controller
#[derive(Args, Debug)]
pub(crate) struct Version {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct VersionView {
    client: &'static str,
    /// `null` if it does not answer.
    controller: Option<ControllerView>,
}

#[derive(Serialize)]
pub(super) struct ControllerView {
    version: String,
    cluster_id: String,
    cluster_cidr: String,
    /// Absent if none was added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    more_ranges: Vec<String>,
    zone: String,
    /// Whether instances without `network.allow_from` are closed to all.
    closed: bool,
    /// Absent if instances have no IPv6 addresses.
    #[serde(skip_serializing_if = "String::is_empty")]
    ipv6_prefix: String,
    revision: u64,
}

/// The ranges of instances' addresses, as the controller says.
///
/// # Errors
/// If they are none: it is no controller of dwell's.
pub(super) fn ranges_of(info: &v1::GetInfoResponse) -> Result<Ranges, Failure> {
    let found = dwell_proto::ranges(&info.cluster_cidr, &info.more_ranges);
    found.map_err(|error| Failure::Other(format!("the controller's range of addresses: {error}")))
}

/// What the controller says of itself.
pub(super) async fn asked(client: &mut Client) -> Result<ControllerView, Failure> {
    Ok(client.get_info(v1::GetInfoRequest {}).await?.into_inner().into())
}

impl Version {
    /// This command line's version is shown even if no controller answers.
    pub(super) async fn run(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
    ) -> Result<(), Failure> {
        let asked = async { asked(&mut fleet.await?.client).await };
        let (controller, failure) = match asked.await {
            Ok(info) => (Some(info), None),
            Err(failure) => (None, Some(failure)),
        };
        let view = VersionView { client: env!("CARGO_PKG_VERSION"), controller };
        self.output.print(&view, people)?;
        failure.map_or(Ok(()), Err)
    }
}

impl From<v1::GetInfoResponse> for ControllerView {
    fn from(wire: v1::GetInfoResponse) -> Self {
        Self {
            version: wire.version,
            cluster_id: wire.cluster_id,
            cluster_cidr: wire.cluster_cidr,
            more_ranges: wire.more_ranges,
            zone: wire.zone,
            closed: wire.closed,
            ipv6_prefix: wire.ipv6_prefix,
            revision: wire.revision,
        }
    }
}

fn people(view: &VersionView) -> String {
    let client = format!("dwell       {}\n", view.client);
    match &view.controller {
        None => client,
        Some(controller) => format!(
            "{client}controller  {}\ncluster     {} ({}{}{}{}, zone {}, {} by default)\n",
            controller.version,
            controller.cluster_id,
            controller.cluster_cidr,
            controller.more_ranges.iter().map(|range| format!(", {range}")).collect::<String>(),
            if controller.ipv6_prefix.is_empty() { "" } else { ", " },
            controller.ipv6_prefix,
            controller.zone,
            if controller.closed { "closed" } else { "open" }
        ),
    }
}

/// Print the JSON Schema of the file of workloads, for editors
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell schema > dwell.schema.json
  # and as the first line of a file, for editors that know the YAML language server:
  # yaml-language-server: $schema=dwell.schema.json")]
pub(crate) struct Schema {}

impl Schema {
    #[expect(clippy::unused_self, reason = "every command is run the same way")]
    pub(super) fn run(self) -> Result<(), Failure> {
        print(&manifest::schema())
    }
}

/// Print completions for a shell
///
/// They ask this program while somebody types, so they know the names of workloads, instances and nodes, and fit
/// its version if they are loaded anew by every shell.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  echo 'source <(dwell completions bash)' >> ~/.bashrc
  echo 'source <(dwell completions zsh)' >> ~/.zshrc
  echo 'dwell completions fish | source' > ~/.config/fish/completions/dwell.fish")]
pub(crate) struct Completions {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_parser = PossibleValuesParser::new(Shells::builtins().names()))]
    shell: String,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let shells = Shells::builtins();
        let Some(shell) = shells.completer(&self.shell) else {
            return Err(Failure::Usage(format!("{:?} is not a shell that is known", self.shell)));
        };
        let mut text = Vec::new();
        shell
            .write_registration(complete::VARIABLE, "dwell", "dwell", "dwell", &mut text)
            .map_err(|error| Failure::Other(format!("cannot write completions: {error}")))?;
        print(&String::from_utf8_lossy(&text))
    }
}

/// Write the manual pages of all commands into a directory
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:\n  dwell man /usr/local/share/man/man1 && man dwell-apply")]
pub(crate) struct Man {
    /// Where to, such as /usr/local/share/man/man1
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

impl Man {
    pub(super) fn run(self) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            let shown = self.directory.display();
            Failure::Other(format!("cannot write manual pages into {shown}: {error}"))
        };
        std::fs::create_dir_all(&self.directory).map_err(failed)?;
        let command = crate::Dwell::command().disable_help_subcommand(true);
        clap_mangen::generate_to(command, &self.directory).map_err(failed)
    }
}
