//! Sending instances to another node: `move`.

use clap::Args;
use dwell_proto::v1;

use super::{Fleet, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::names;
use crate::output::print;
use crate::wait::{Goal, WaitArgs, wait};

/// Move instances to another node; they keep address and name
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell move web-0
  dwell move web-0 web-3 --to host7 --wait
  dwell move web-0 --dry-run
  dwell move db-0 --to host7 --volumes --wait
  dwell move db-0 --abort

Without --to each goes to the node that suits it best. They are down between stop and start, and begin with the files of
their image. With --new-address no route to each of them is needed on every node (`network.on_move` of a workload says
so for all its moves). Several are moved together or, if one is refused, none. To empty a node, `dwell node drain` moves its
instances a few at a time.

An instance with volumes only moves with --volumes. They are copied while it runs; then it is stopped, what has changed
meanwhile is copied, the copy is compared with the volume, and it starts on the other node. What it had is deleted once it holds
there; if anything fails before, it comes back to it. `dwell ps` and `dwell explain` say how far it is.")]
pub(crate) struct Move {
    /// Instances
    #[arg(value_name = "INSTANCE", required = true, value_parser = name_parser(), add = complete::subject())]
    names: Vec<String>,
    /// Where to
    #[arg(long, value_name = "NODE", value_parser = name_parser(), add = complete::node())]
    to: Option<String>,
    /// Give them addresses of the blocks of the nodes they go to
    #[arg(long)]
    new_address: bool,
    /// Copy their volumes to the other node as well
    #[arg(long, conflicts_with = "new_address")]
    volumes: bool,
    /// Call a move with volumes off, as long as it has not changed over
    #[arg(long, conflicts_with_all = ["to", "volumes", "new_address", "dry_run"])]
    abort: bool,
    /// Only say where they would go
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

impl Move {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let names = names::all(&mut fleet.client, &self.names, names::instance).await?;
        let to = self.to.unwrap_or_default();
        let request = v1::MoveInstancesRequest {
            names,
            to,
            new_address: self.new_address,
            dry_run: self.dry_run,
            volumes: self.volumes,
            abort: self.abort,
        };
        let moves = fleet.client.move_instances(request).await?.into_inner().moves;
        let mut goals = Vec::new();
        for v1::InstanceMove { instance, from, to } in moves {
            print(&match (self.dry_run, from == to) {
                _ if self.abort => format!("{instance} stays on {to} with its volumes\n"),
                (_, true) => format!("{instance} is on {to} already\n"),
                (true, false) => format!("{instance} would move from {from} to {to}\n"),
                (false, false) => format!("{instance} moves from {from} to {to}\n"),
            })?;
            goals.push(match !self.abort && from != to {
                true => Goal::Moved { instance, to },
                false => Goal::Settled { instance },
            });
        }
        wait(self.wait, &fleet.client, &fleet.target, &goals).await
    }
}
