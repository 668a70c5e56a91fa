//! `dwell volume`: the data of instances, where it is and what becomes of it.

use clap::{Args, Subcommand};
use dwell_core::id::{InstanceName, NodeName, VolumeName};
use dwell_core::instance::sanitize;
use dwell_proto::v1;

use super::Fleet;
use crate::complete;
use crate::failure::Failure;
use crate::lists;
use crate::output::view::VolumesView;
use crate::output::{OutputArgs, Table, or_dash, print};

/// The longest message that is shown in a table, in bytes.
const MESSAGE_MAX: usize = 200;

/// Volumes: the data of instances, on their nodes
///
/// A volume outlives its instance. An instance that is scaled up or applied again goes where its
/// volumes are, or waits and says why it cannot.
#[derive(Args, Debug)]
pub(crate) struct Volume {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(Ls),
    Inspect(Inspect),
    Rm(Rm),
}

/// List volumes, those without an instance among them
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell volume ls
  dwell volume ls db-0
  dwell volume ls --node h1
  dwell volume ls -o json | jq -r '.volumes[] | select(.in_use | not) | .instance'")]
struct Ls {
    /// Only those of this instance, which need not be there any more
    #[arg(add = complete::subject())]
    instance: Option<InstanceName>,
    /// Only those on this node
    #[arg(long, add = complete::node())]
    node: Option<NodeName>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show all that is known of a volume
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:\n  dwell volume inspect db-0 data")]
struct Inspect {
    /// The instance whose data it is
    #[arg(add = complete::subject())]
    instance: InstanceName,
    /// The volume's name
    name: VolumeName,
    #[command(flatten)]
    output: OutputArgs,
}

/// Delete a volume that no instance mounts, and all data in it
///
/// Its node deletes it as soon as it can. A volume whose node was removed, or has lost it, is given
/// up: its instance gets what another node has of it, or an empty one.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell scale db=0 --wait
  dwell volume rm db-0 data
  dwell volume rm db-0 data --node h3    # if several nodes have a copy")]
struct Rm {
    /// The instance whose data it is
    #[arg(add = complete::subject())]
    instance: InstanceName,
    /// The volume's name
    name: VolumeName,
    /// The node that has it, if several do
    #[arg(long, add = complete::node())]
    node: Option<NodeName>,
}

impl Volume {
    pub(super) async fn run(self, fleet: Fleet) -> Result<(), Failure> {
        match self.command {
            Command::Ls(ls) => ls.run(fleet).await,
            Command::Inspect(inspect) => inspect.run(fleet).await,
            Command::Rm(rm) => rm.run(fleet).await,
        }
    }
}

impl Ls {
    async fn run(self, fleet: Fleet) -> Result<(), Failure> {
        let view = list(fleet, self.instance.as_ref(), self.node.as_ref()).await?;
        self.output.print(&view, table)
    }
}

impl Inspect {
    async fn run(self, fleet: Fleet) -> Result<(), Failure> {
        let mut view = list(fleet, Some(&self.instance), None).await?;
        view.volumes.retain(|volume| volume.name == self.name.as_str());
        if view.volumes.is_empty() {
            return Err(Failure::NotFound(format!(
                "{} has no volume {}; `dwell volume ls` lists those there are",
                self.instance, self.name
            )));
        }
        self.output.print(&view, details)
    }
}

impl Rm {
    async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let request = v1::RemoveVolumeRequest {
            instance: self.instance.to_string(),
            name: self.name.to_string(),
            node: self.node.map(|node| node.to_string()).unwrap_or_default(),
        };
        fleet.client.remove_volume(request).await?;
        print(&format!("volume {} of {} is being deleted\n", self.name, self.instance))
    }
}

async fn list(
    mut fleet: Fleet,
    instance: Option<&InstanceName>,
    node: Option<&NodeName>,
) -> Result<VolumesView, Failure> {
    let request = v1::ListVolumesRequest {
        instance: instance.map(ToString::to_string).unwrap_or_default(),
        node: node.map(ToString::to_string).unwrap_or_default(),
        ..Default::default()
    };
    Ok(VolumesView::new(lists::volumes(&mut fleet.client, request).await?))
}

fn table(view: &VolumesView) -> String {
    if view.volumes.is_empty() {
        return "There are no volumes.\n".into();
    }
    let mut table = Table::new(["INSTANCE", "VOLUME", "NODE", "STATE", "MESSAGE"]);
    for volume in &view.volumes {
        let state = if volume.in_use { "in use" } else { volume.state };
        table.row([
            volume.instance.clone(),
            volume.name.clone(),
            volume.node.clone(),
            state.into(),
            or_dash(&sanitize(&volume.message, MESSAGE_MAX)),
        ]);
    }
    table.to_string()
}

fn details(view: &VolumesView) -> String {
    let mut text = String::new();
    for volume in &view.volumes {
        let mut table = Table::new(["VOLUME", &volume.name]);
        let image = match volume.image_path.as_str() {
            "" => "-".to_owned(),
            path => format!("the image asks for it at {path}"),
        };
        let rows = [
            ("instance", volume.instance.clone()),
            ("node", volume.node.clone()),
            ("state", volume.state.to_owned()),
            ("in use", if volume.in_use { "yes" } else { "no" }.to_owned()),
            (
                "declared by",
                if volume.image_path.is_empty() { "its workload".into() } else { image },
            ),
            ("seen on its node", if volume.seen { "yes" } else { "not yet" }.to_owned()),
            ("note", or_dash(&sanitize(&volume.message, MESSAGE_MAX))),
        ];
        for (key, value) in rows {
            table.row([key.to_owned(), value]);
        }
        text.push_str(&table.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_for_people() {
        let volume =
            |instance: &str, name: &str, state: v1::volume::State, message: &str| v1::Volume {
                instance: instance.into(),
                name: name.into(),
                node: "h1".into(),
                state: state.into(),
                in_use: message.is_empty(),
                image_path: String::new(),
                seen: true,
                created_at_ms: 1,
                message: message.into(),
            };
        let view = VolumesView::new(vec![
            volume("db-0", "data", v1::volume::State::Kept, ""),
            volume("db-1", "data", v1::volume::State::Kept, "there is no db-1 now"),
            volume("web-0", "cache", v1::volume::State::Deleting, "waits for h1 to delete it"),
        ]);
        insta::assert_snapshot!(table(&view), @r"
        INSTANCE  VOLUME  NODE  STATE     MESSAGE
        db-0      data    h1    in use    -
        db-1      data    h1    kept      there is no db-1 now
        web-0     cache   h1    deleting  waits for h1 to delete it
        ");
        assert!(details(&view).contains("its workload"));
        assert_eq!(table(&VolumesView::new(Vec::new())), "There are no volumes.\n");
    }
}
