//! `dwell restore`: what becomes of a fleet whose controller was restored from a backup.

use clap::{Args, Subcommand};
use dwell_proto::v1;
use serde::Serialize;

use super::Fleet;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{OutputArgs, print};

/// After a restore of the controller from a backup
///
/// A restored controller has forgotten what came after the backup. It changes nothing until you have
/// seen what the nodes run and confirmed that what the controller knows is to count.
#[derive(Args, Debug)]
pub(crate) struct Restore {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(Status),
    Confirm(Confirm),
}

/// Show whether a restore waits to be confirmed, and what a confirmation ends
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell restore status
  dwell restore status -o json | jq -r '.unknown[].instance'")]
struct Status {
    #[command(flatten)]
    output: OutputArgs,
}

/// Confirm that what the controller knows is to count
///
/// What nodes run and the controller does not know is ended. Volumes stay.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell restore confirm
  dwell restore confirm --force    # although nodes have not said what they run")]
struct Confirm {
    /// Although some nodes have not said what they run: it may then run twice
    #[arg(long)]
    force: bool,
}

/// `dwell restore status`.
#[derive(Debug, Serialize)]
pub(super) struct RestoreView {
    incarnation: String,
    term: u64,
    unconfirmed: bool,
    noticed_at: u64,
    reason: String,
    heard: Vec<String>,
    missing: Vec<String>,
    adopted: Vec<String>,
    superseded: Vec<SupersededView>,
    unknown: Vec<UnknownView>,
}

/// A host whose name is another host's, as far as the controller knows.
#[derive(Debug, Serialize)]
struct SupersededView {
    node: String,
    address: String,
    instances: u32,
}

/// An instance that a node runs and the controller does not know there.
#[derive(Debug, Serialize)]
struct UnknownView {
    instance: String,
    node: String,
    generation: u64,
    address: String,
}

/// What the controller says of a restore.
pub(super) async fn asked(client: &mut Client) -> Result<RestoreView, Failure> {
    Ok(client.get_restore(v1::GetRestoreRequest {}).await?.into_inner().into())
}

impl Restore {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        match self.command {
            Command::Status(status) => {
                status.output.print(&asked(&mut fleet.client).await?, describe)
            }
            Command::Confirm(confirm) => {
                let found = fleet.client.get_restore(v1::GetRestoreRequest {}).await?.into_inner();
                let request = v1::ConfirmRestoreRequest { force: confirm.force };
                fleet.client.confirm_restore(request).await?;
                if !found.adopted.is_empty() {
                    print(&format!(
                        "Nodes that joined after the backup stay nodes: {}\n",
                        list(&found.adopted)
                    ))?;
                }
                print("The restore is confirmed; what the controller knows counts again.\n")
            }
        }
    }
}

impl From<v1::GetRestoreResponse> for RestoreView {
    fn from(wire: v1::GetRestoreResponse) -> Self {
        let unknown = wire.unknown.into_iter().map(|one| UnknownView {
            instance: one.instance,
            node: one.node,
            generation: one.generation,
            address: one.address,
        });
        let superseded = wire.superseded.into_iter().map(|one| SupersededView {
            node: one.node,
            address: one.address,
            instances: one.instances,
        });
        Self {
            incarnation: wire.incarnation,
            term: wire.term,
            unconfirmed: wire.unconfirmed,
            noticed_at: wire.noticed_at_ms,
            reason: wire.reason,
            heard: wire.heard,
            missing: wire.missing,
            adopted: wire.adopted,
            superseded: superseded.collect(),
            unknown: unknown.collect(),
        }
    }
}

fn describe(view: &RestoreView) -> String {
    if !view.unconfirmed {
        return format!(
            "No restore waits to be confirmed. This is history {}, start {}.\n",
            view.incarnation, view.term
        );
    }
    let mut text = format!("The controller was restored from a backup: {}.\n", view.reason);
    text.push_str("Nothing is placed, moved or ended until you confirm it.\n\n");
    text.push_str(&format!("Nodes that have said what they run: {}\n", list(&view.heard)));
    text.push_str(&format!("Nodes that have not: {}\n", list(&view.missing)));
    if !view.adopted.is_empty() {
        text.push_str(&format!("Nodes that joined after the backup: {}\n", list(&view.adopted)));
        text.push_str("They stay nodes; `dwell node rm --force NAME` removes one.\n");
    }
    if !view.superseded.is_empty() {
        text.push_str("Hosts whose name is another host's in the backup:\n");
        for one in &view.superseded {
            let SupersededView { node, address, instances } = one;
            text.push_str(&format!("  {node} at {address}, which runs {instances} instances\n"));
        }
        text.push_str(
            "A confirmation ends what they run. To use one again, run `dwell-agent cleanup` there, and join it under \
             another name.\n",
        );
    }
    if view.unknown.is_empty() {
        text.push_str("They run nothing that the controller does not know.\n");
    } else {
        text.push_str("They run what the controller does not know, which a confirmation ends:\n");
        for one in &view.unknown {
            text.push_str(&format!("  {} on {} at {}\n", one.instance, one.node, one.address));
        }
    }
    text.push_str(
        "\nThen run `dwell restore confirm`, and apply again what was declared after the backup.\n",
    );
    text
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_is_described_with_what_a_confirmation_ends() {
        let wire = v1::GetRestoreResponse {
            incarnation: "00000000000000ff".into(),
            term: 3,
            ..Default::default()
        };
        let calm = RestoreView::from(wire.clone());
        assert!(describe(&calm).starts_with("No restore waits"));
        let ghost = v1::UnknownInstance {
            instance: "ghost-0".into(),
            node: "h1".into(),
            generation: 1,
            address: "10.60.0.2".into(),
        };
        let namesake =
            v1::SupersededHost { node: "h3".into(), address: "192.0.2.9".into(), instances: 4 };
        let wire = v1::GetRestoreResponse {
            unconfirmed: true,
            reason: "the store is older than the mark beside it".into(),
            heard: vec!["h1".into()],
            missing: vec!["h2".into()],
            adopted: vec!["h1".into()],
            superseded: vec![namesake],
            unknown: vec![ghost],
            ..wire
        };
        let text = describe(&RestoreView::from(wire));
        for part in [
            "ghost-0 on h1 at 10.60.0.2",
            "have not: h2",
            "after the backup: h1",
            "h3 at 192.0.2.9, which runs 4 instances",
            "`dwell restore confirm`",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
