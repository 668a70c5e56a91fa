//! `dwell route`: the routes of the fleet.

use clap::{Args, Subcommand};
use dwell_proto::v1;

use super::Fleet;
use crate::failure::Failure;
use crate::output::view::RoutesView;
use crate::output::{OutputArgs, Table, or_dash};

/// Routes to the instances, as every node has them
#[derive(Args, Debug)]
pub(crate) struct Route {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List routes: one per node's block, and one per instance that lives elsewhere
    #[command(
        after_long_help = "Examples:\n  dwell route ls\n  dwell route ls -o json | jq -r '.routes[] | \"ip route add \\(.prefix) via \\(.via)\"'"
    )]
    Ls(OutputArgs),
}

impl Route {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let Command::Ls(output) = self.command;
        let routes = fleet.client.list_routes(v1::ListRoutesRequest {}).await?.into_inner().routes;
        let view = RoutesView { routes: routes.into_iter().map(Into::into).collect() };
        output.print(&view, |view| {
            let mut table = Table::new(["PREFIX", "VIA", "NODE", "INSTANCE"]);
            for route in &view.routes {
                table.row([
                    route.prefix.clone(),
                    route.via.clone(),
                    route.node.clone(),
                    or_dash(&route.instance),
                ]);
            }
            table.to_string()
        })
    }
}
