//! `dwell node reboot`: the hosts of nodes, one after the other.

use clap::Args;
use dwell_core::quantity::Millis;
use dwell_proto::v1;

use super::{Fleet, complete, list, name_parser};
use crate::failure::Failure;
use crate::names;
use crate::output::print;
use crate::wait::{Goal, WaitArgs, wait};

/// Reboot the hosts of nodes, one after the other
///
/// Each node is drained, its agent reboots the host, and once the node is back it takes instances again and the next one has its
/// turn. At the first that cannot be drained, does not reboot or does not come back, it stops: that node stays cordoned, and
/// nothing more begins. The controller does all that, also after a restart of its own; `dwell node ls` shows how far it is.
///
/// A node has to allow it: `reboot_command: [systemctl, reboot]` in its agent.yaml.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell node reboot h1 --wait --timeout 30m
  dwell node reboot --pool storage --parallelism 2
  dwell node reboot --label zone=a --no-drain   # instances stay, and come back with their host
  dwell node reboot --cancel                    # what was told to reboot is still waited for")]
pub(super) struct Reboot {
    /// Nodes, in this order
    #[arg(
        value_name = "NAME",
        required_unless_present_any = ["pool", "label", "cancel"],
        value_parser = name_parser(),
        add = complete::node()
    )]
    names: Vec<String>,
    /// All nodes of this pool
    #[arg(long, conflicts_with = "names")]
    pool: Option<String>,
    /// All nodes with this label; of several, those that have all
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "names", value_parser = label_parser)]
    label: Vec<(String, String)>,
    /// How many at once
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    parallelism: u32,
    /// Leave the instances on them: they are down while their host reboots
    #[arg(long)]
    no_drain: bool,
    /// How long each may take to be drained, at most 720h; 1h if not given
    #[arg(long, value_name = "DURATION", conflicts_with = "no_drain")]
    drain_deadline: Option<Millis>,
    /// How long each may take to come back, at most 24h; 15m if not given
    #[arg(long, value_name = "DURATION")]
    back_deadline: Option<Millis>,
    /// End the reboot that is under way
    #[arg(long, conflicts_with_all = ["names", "pool", "label", "no_drain", "wait"])]
    cancel: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

fn label_parser(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("write KEY=VALUE".into()),
    }
}

impl Reboot {
    pub(super) async fn run(self, fleet: &mut Fleet) -> Result<(), Failure> {
        if self.cancel {
            return cancel(fleet).await;
        }
        let nodes = self.nodes(fleet).await?;
        let request = v1::RebootNodesRequest {
            nodes: nodes.clone(),
            parallelism: self.parallelism,
            no_drain: self.no_drain,
            drain_deadline_ms: self.drain_deadline.map_or(0, |time| time.0),
            back_deadline_ms: self.back_deadline.map_or(0, |time| time.0),
        };
        let run = fleet.client.reboot_nodes(request).await?.into_inner().run;
        for node in &nodes {
            print(&format!("{node} is to be rebooted\n"))?;
        }
        let goals: Vec<_> = nodes.into_iter().map(|node| Goal::Rebooted { node, run }).collect();
        wait(self.wait, &fleet.client, &fleet.target, &goals).await
    }

    /// The nodes that are named, or chosen by pool and labels, by name.
    async fn nodes(&self, fleet: &mut Fleet) -> Result<Vec<String>, Failure> {
        if !self.names.is_empty() {
            return names::all(&mut fleet.client, &self.names, names::node).await;
        }
        let all = list(fleet, "").await?;
        let mut chosen: Vec<String> =
            all.into_iter().filter(|node| self.chooses(node)).map(|node| node.name).collect();
        chosen.sort();
        if chosen.is_empty() {
            let what = "no node is in that pool with those labels; `dwell node ls` lists the nodes";
            return Err(Failure::NotFound(what.to_owned()));
        }
        Ok(chosen)
    }

    fn chooses(&self, node: &v1::Node) -> bool {
        self.pool.as_ref().is_none_or(|pool| node.pool == *pool)
            && self.label.iter().all(|(key, value)| node.labels.get(key) == Some(value))
    }
}

async fn cancel(fleet: &mut Fleet) -> Result<(), Failure> {
    let request = v1::CancelRebootRequest {};
    let rebooting = fleet.client.cancel_reboot(request).await?.into_inner().rebooting;
    print(&match &rebooting[..] {
        [] => "the reboot is taken back\n".to_owned(),
        nodes => format!(
            "the reboot is taken back, but for {}: told to reboot already, and waited for\n",
            nodes.join(", ")
        ),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        reboot: Reboot,
    }

    fn parse(line: &str) -> Result<Reboot, String> {
        let words = std::iter::once("reboot").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.reboot).map_err(|error| error.to_string())
    }

    #[test]
    fn nodes_are_named_or_chosen() {
        let node = |pool: &str, zone: &str| v1::Node {
            pool: pool.into(),
            labels: [("zone".to_owned(), zone.to_owned())].into(),
            ..v1::Node::default()
        };
        let chosen = parse("--pool storage --label zone=a").unwrap();
        assert!(chosen.chooses(&node("storage", "a")));
        assert!(!chosen.chooses(&node("storage", "b")) && !chosen.chooses(&node("", "a")));
        assert_eq!(parse("h1 h2").unwrap().parallelism, 1);
        parse("--cancel").unwrap();
        for wrong in [
            "",
            "h1 --pool storage",
            "h1 --cancel",
            "h1 --no-drain --drain-deadline 5m",
            "h1 --parallelism 0",
            "--label zone",
        ] {
            parse(wrong).unwrap_err();
        }
    }
}
