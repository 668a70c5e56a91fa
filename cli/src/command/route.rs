//! `dwell route`: the routes of the fleet, and whether they work.

mod export;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use dwell_proto::v1;

use super::{Fleet, PROBLEMS, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::names;
use crate::output::view::{RouteChecksView, RoutesView};
use crate::output::{OutputArgs, Table, or_dash, size};

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
    Check(Check),
    Export(export::Export),
}

/// Try the way from every node to an instance
///
/// Shows the route that each node's kernel takes, the time from an echo to its answer, and whether packets as
/// large as the route's MTU pass. Ends with 1 if any node has a problem or does not answer.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell route check web-0
  dwell route check web-0 -o json | jq -r '.nodes[] | select(.problem != \"\") | .node'")]
struct Check {
    /// The instance, or a workload that has only one
    #[arg(value_parser = name_parser(), add = complete::subject())]
    instance: String,
    #[command(flatten)]
    output: OutputArgs,
}

impl Route {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Ls(output) => {
                let found = fleet.client.list_routes(v1::ListRoutesRequest {}).await?.into_inner();
                output.print(&RoutesView::new(found.routes), routes)?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Check(check) => check.run(fleet).await,
            Command::Export(export) => export.run(fleet).await.map(|()| ExitCode::SUCCESS),
        }
    }
}

impl Check {
    async fn run(self, mut fleet: Fleet) -> Result<ExitCode, Failure> {
        let instance = names::instance(&mut fleet.client, &self.instance).await?;
        let request = v1::CheckRoutesRequest { instance: instance.clone() };
        let mut answers = fleet.client.check_routes(request).await?.into_inner();
        let mut found = Vec::new();
        while let Some(check) = answers.message().await? {
            found.push(check);
        }
        let view = RouteChecksView::new(instance, found);
        self.output.print(&view, checks)?;
        let well = view.nodes.iter().all(|node| node.problem.is_empty());
        Ok(if well { ExitCode::SUCCESS } else { PROBLEMS })
    }
}

fn routes(view: &RoutesView) -> String {
    let mut table = Table::new(["PREFIX", "VIA", "NODE", "INSTANCE"]);
    for route in &view.routes {
        table.row([
            route.prefix.clone(),
            route.via.clone(),
            route.node.clone(),
            or_dash(&route.instance),
        ]);
    }
    let mut text = table.to_string();
    if view.exceptions > 0 {
        text += &format!(
            "\nOf instances outside of their node's block: {} of these {} routes, {} of each node's kernel.\n\
             `dwell replace --new-address INSTANCE` gives one an address of its node's block.\n",
            view.exceptions,
            view.routes.len(),
            size(view.exceptions_bytes),
        );
    }
    text
}

fn checks(view: &RouteChecksView) -> String {
    let mut table = Table::new(["NODE", "PREFIX", "VIA", "DEVICE", "ROUND-TRIP", "MTU", "RESULT"]);
    for node in &view.nodes {
        let route = node.route.as_ref();
        let text =
            |of: fn(&_) -> &String| route.map_or_else(|| "-".into(), |route| or_dash(of(route)));
        let round_trip = route.and_then(|route| route.round_trip_us);
        table.row([
            node.node.clone(),
            text(|route| &route.prefix),
            text(|route| &route.via),
            text(|route| &route.device),
            round_trip.map_or_else(|| "-".into(), milliseconds),
            route
                .filter(|route| route.mtu_bytes > 0)
                .map_or_else(|| "-".into(), |route| route.mtu_bytes.to_string()),
            if node.problem.is_empty() { "ok".into() } else { node.problem.clone() },
        ]);
    }
    table.to_string()
}

/// Microseconds as milliseconds, to the hundredth.
fn milliseconds(us: u64) -> String {
    format!("{}.{:02} ms", us / 1000, us % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_outside_of_blocks_are_counted() {
        let route = |prefix: &str, instance: &str| v1::Route {
            prefix: prefix.into(),
            node: "h2".into(),
            via: "192.0.2.12".into(),
            instance: instance.into(),
        };
        let block = route("10.80.2.0/24", "");
        let plain = RoutesView::new(vec![block.clone()]);
        insta::assert_snapshot!(routes(&plain));
        let moved = RoutesView::new(vec![block, route("10.80.1.5/32", "web-0")]);
        insta::assert_snapshot!(routes(&moved));
    }

    #[test]
    fn checks_for_people() {
        let probe = v1::RouteProbe {
            prefix: "10.80.1.0/24".into(),
            via: "192.0.2.11".into(),
            device: "eth0".into(),
            own: true,
            round_trip_us: Some(1_234),
            mtu: 1500,
            full_size_passes: Some(true),
            ..Default::default()
        };
        let check = |node: &str, probe, problem: &str| v1::RouteCheck {
            node: node.into(),
            probe,
            problem: problem.into(),
        };
        let here = v1::RouteProbe {
            prefix: "10.80.1.5/32".into(),
            via: String::new(),
            device: "dw-1".into(),
            local: true,
            round_trip_us: Some(50),
            ..probe.clone()
        };
        let silent =
            v1::RouteProbe { round_trip_us: None, full_size_passes: None, ..probe.clone() };
        let found = vec![
            check("h3", Some(silent), "no echo from 10.80.1.5"),
            check("h4", None, "h4 is not connected"),
            check("h2", Some(probe), ""),
            check("h1", Some(here), ""),
            check("h5", Some(v1::RouteProbe::default()), "no route to 10.80.1.5"),
        ];
        insta::assert_snapshot!(checks(&RouteChecksView::new("web-0".into(), found)), @r"
        NODE  PREFIX        VIA         DEVICE  ROUND-TRIP  MTU   RESULT
        h1    10.80.1.5/32  -           dw-1    0.05 ms     1500  ok
        h2    10.80.1.0/24  192.0.2.11  eth0    1.23 ms     1500  ok
        h3    10.80.1.0/24  192.0.2.11  eth0    -           1500  no echo from 10.80.1.5
        h4    -             -           -       -           -     h4 is not connected
        h5    -             -           -       -           -     no route to 10.80.1.5
        ");
    }
}
