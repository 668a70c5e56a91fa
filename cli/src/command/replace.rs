//! Instances that get a new container: `replace`.

use clap::Args;
use dwell_proto::v1;

use super::{Fleet, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::names;
use crate::output::print;
use crate::wait::{Goal, WaitArgs, wait};

/// Give instances a new container on the same node; they keep address, name and volumes
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell replace web-0
  dwell replace web-0 web-3 --wait
  dwell replace web-0 --new-address

The new container is made beside the present one and takes over as in an update: if it does not hold, the present one is
put back. It begins with the files of its image; files outside of volumes are deleted with the present one. Several are
replaced together or, if one is refused, none. `dwell restart` keeps the container.

An instance that was moved here has kept its address, to which every node has a route; `dwell route ls` lists them. With
--new-address it is stopped, and started with an address of this node's block; names, host key and volumes stay. The
address it had is kept for it for a while (`addresses.quarantine`).

An instance of a job that has completed or failed has its work done anew, as its workload is declared now, with all its
attempts.")]
pub(crate) struct Replace {
    /// Instances
    #[arg(value_name = "INSTANCE", required = true, value_parser = name_parser(), add = complete::subject())]
    names: Vec<String>,
    /// Stop each first, and give it an address of its node's block
    #[arg(long)]
    new_address: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

impl Replace {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let names = names::all(&mut fleet.client, &self.names, names::instance).await?;
        let mut goals = Vec::new();
        if self.wait.wait {
            // That one was replaced can only be told from what was before.
            for name in &names {
                goals.push(replaced(&mut fleet, name).await?);
            }
        }
        let request =
            v1::ReplaceInstancesRequest { names: names.clone(), new_address: self.new_address };
        fleet.client.replace_instances(request).await?;
        for name in names {
            print(&format!("{name} is being replaced\n"))?;
        }
        wait(self.wait, &fleet.client, &fleet.target, &goals).await
    }
}

async fn replaced(fleet: &mut Fleet, name: &str) -> Result<Goal, Failure> {
    let request = v1::ListInstancesRequest { name: name.to_owned(), ..Default::default() };
    let found = fleet.client.list_instances(request).await?.into_inner().instances.pop();
    let status = found.and_then(|instance| instance.status);
    let before = status.map(|status| status.container_id).unwrap_or_default();
    Ok(Goal::Replaced { instance: name.to_owned(), before })
}
