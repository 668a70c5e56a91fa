//! About dwell itself: `version`, `schema`, `completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use dwell_proto::v1;
use serde::Serialize;

use super::Fleet;
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
struct ControllerView {
    version: String,
    cluster_id: String,
    cluster_cidr: String,
    zone: String,
    /// Whether instances without `network.allow_from` are closed to all.
    closed: bool,
    revision: u64,
}

impl Version {
    /// This command line's version is shown even if no controller answers.
    pub(super) async fn run(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
    ) -> Result<(), Failure> {
        let asked = async { Ok(fleet.await?.client.get_info(v1::GetInfoRequest {}).await?) };
        let (controller, failure) = match asked.await {
            Ok(info) => (Some(info.into_inner().into()), None),
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
            zone: wire.zone,
            closed: wire.closed,
            revision: wire.revision,
        }
    }
}

fn people(view: &VersionView) -> String {
    let client = format!("dwell       {}\n", view.client);
    match &view.controller {
        None => client,
        Some(controller) => format!(
            "{client}controller  {}\ncluster     {} ({}, zone {}, {} by default)\n",
            controller.version,
            controller.cluster_id,
            controller.cluster_cidr,
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
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell completions bash > /etc/bash_completion.d/dwell
  dwell completions zsh > \"${fpath[1]}/_dwell\"
  dwell completions fish > ~/.config/fish/completions/dwell.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut crate::Dwell::command(), "dwell", &mut text);
        print(&String::from_utf8_lossy(&text))
    }
}
