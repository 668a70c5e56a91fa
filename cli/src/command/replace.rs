//! Instances that get a new container: `replace`, and machines that get a new root with it: `rebuild`.

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
        let goals = goals(&mut fleet, self.wait, &names).await?;
        let request =
            v1::ReplaceInstancesRequest { names: names.clone(), new_address: self.new_address };
        fleet.client.replace_instances(request).await?;
        for name in names {
            print(&format!("{name} is being replaced\n"))?;
        }
        wait(self.wait, &fleet.client, &fleet.target, &goals).await
    }
}

/// Give machines a new root file system, from the image that their workload declares now
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell rebuild dev-0
  dwell rebuild dev-0 dev-1 --wait

All that was installed and written outside of volumes is gone then; volumes, name, address and host key stay. The new container begins with
the new root beside the present one, and takes over as in an update: if it does not hold, the present one is put back with its root.
Several are rebuilt together or, if one is refused, none.")]
pub(crate) struct Rebuild {
    /// Machines
    #[arg(value_name = "INSTANCE", required = true, value_parser = name_parser(), add = complete::subject())]
    names: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

impl Rebuild {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let names = names::all(&mut fleet.client, &self.names, names::instance).await?;
        let goals = goals(&mut fleet, self.wait, &names).await?;
        let request = v1::RebuildInstancesRequest { names: names.clone() };
        fleet.client.rebuild_instances(request).await?;
        for name in names {
            print(&format!("{name} is being rebuilt\n"))?;
        }
        wait(self.wait, &fleet.client, &fleet.target, &goals).await
    }
}

/// What is waited for. That one was replaced can only be told from what was before.
async fn goals(fleet: &mut Fleet, args: WaitArgs, names: &[String]) -> Result<Vec<Goal>, Failure> {
    let mut goals = Vec::new();
    if args.wait {
        for name in names {
            goals.push(replaced(fleet, name).await?);
        }
    }
    Ok(goals)
}

async fn replaced(fleet: &mut Fleet, name: &str) -> Result<Goal, Failure> {
    let request = v1::ListInstancesRequest { name: name.to_owned(), ..Default::default() };
    let found = fleet.client.list_instances(request).await?.into_inner().instances.pop();
    let status = found.and_then(|instance| instance.status);
    let before = status.map(|status| status.container_id).unwrap_or_default();
    Ok(Goal::Replaced { instance: name.to_owned(), before })
}
