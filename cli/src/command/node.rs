//! `dwell node`: the hosts.

mod block;
mod reboot;

use std::collections::HashMap;
use std::net::Ipv4Addr;

use clap::{Args, Subcommand};
use dwell_core::instance::Counted;
use dwell_core::node::NodeState;
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_proto::v1;

use super::{Fleet, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::lists;
use crate::names;
use crate::output::view::{NodeView, NodesView, TokenView};
use crate::output::{
    Format, Now, OutputArgs, Style, Table, Tone, moment, or_dash, print, serialized,
};
use crate::wait::{Goal, WaitArgs, wait};

/// Hosts that run the agent
#[derive(Args, Debug)]
pub(crate) struct Node {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List nodes, what they have and what is promised of it
    Ls(OutputArgs),
    Inspect(Inspect),
    Token(Token),
    /// Place no new instances on nodes
    Cordon(Names),
    /// Place instances on nodes again; ends a drain
    Uncordon(Names),
    /// Take the machine that attaches next for the node; switch the other one off first
    Admit(Names),
    Address(Address),
    Block(block::Block),
    Drain(Drain),
    Reboot(reboot::Reboot),
    Label(Label),
    Rm(Rm),
}

/// Show everything about a node
#[derive(Args, Debug)]
struct Inspect {
    /// The node
    #[arg(value_parser = name_parser(), add = complete::node())]
    name: String,
    /// How to print it
    #[arg(
        short,
        long,
        value_name = "json|yaml",
        default_value = "yaml",
        hide_possible_values = true
    )]
    output: Format,
}

/// Make a token with which one host can join
///
/// It works once, until it expires, and is shown only now. It also says whom to trust: the host accepts
/// no other controller with it.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell node token
  dwell node token --valid 10m -o json | jq -r .token

On the new host:
  dwell-agent join --controller HOST:PORT --token TOKEN")]
struct Token {
    /// How long it may be used, at most 168h; 1h if not given
    #[arg(long, value_name = "DURATION")]
    valid: Option<Millis>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct Names {
    /// Nodes
    #[arg(value_name = "NAME", required = true, value_parser = name_parser(), add = complete::node())]
    names: Vec<String>,
}

/// Say at which address a node is
///
/// All others reach the node, and its instances, at this address from now on. Its agent may say that it has another one, as
/// after DHCP has given it one; nothing follows from that alone, since whoever has taken a node over could claim any host's
/// address. `dwell node ls` shows what it says. The address may be given before the host has it.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:\n  dwell node address h1 192.0.2.7")]
struct Address {
    /// The node
    #[arg(value_parser = name_parser(), add = complete::node())]
    name: String,
    /// Its IPv4 address in the underlay
    address: Ipv4Addr,
}

/// Move all instances off nodes and place no new ones there
///
/// Instances keep their names and addresses. Of each workload one moves at a time, and the next one when that holds where it
/// went, whichever nodes are drained; what was unwell before is not waited for. Those with volumes stay, until
/// `dwell move --volumes` takes them along. `dwell node ls` says of each that is still there why, and what to do.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Examples:\n  dwell node drain h1 --wait\n  dwell node drain h1 --deadline 10m --wait\n  dwell node drain h1 --for 2h   # maintenance: then it is \
uncordoned by itself\n  dwell node uncordon h1         # takes it back"
)]
struct Drain {
    #[command(flatten)]
    names: Names,
    /// Let them take new instances again by themselves after this time, at most 720h
    #[arg(long = "for", value_name = "DURATION")]
    time: Option<Millis>,
    /// Give it up after this time if instances are left, at most 720h: nothing is forced, and they stay cordoned; never if not given
    #[arg(long, value_name = "DURATION")]
    deadline: Option<Millis>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Set and remove labels of a node, which constraints can ask for
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell node label h1 disk=ssd zone=a
  dwell node label h1 zone-              # removes it
  dwell node label h1 --pool storage     # --pool '' takes it out of its pool")]
struct Label {
    /// The node
    #[arg(value_parser = name_parser(), add = complete::node())]
    name: String,
    /// Labels to set, or to remove
    #[arg(value_name = "KEY=VALUE|KEY-", required_unless_present = "pool", value_parser = label_parser)]
    labels: Vec<Change>,
    /// Put it into this pool
    #[arg(long)]
    pool: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Set(String, String),
    Remove(String),
}

fn label_parser(text: &str) -> Result<Change, String> {
    let key = text.split('=').next().unwrap_or_default();
    if key.contains(char::is_whitespace) || key.contains(['!', ',']) {
        return Err(
            "a label's key has no blanks, commas or exclamation marks, for constraints name it"
                .into(),
        );
    }
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((key, value)), _) if !key.is_empty() => Ok(Change::Set(key.into(), value.into())),
        (None, Some(key)) if !key.is_empty() => Ok(Change::Remove(key.into())),
        _ => Err("write KEY=VALUE to set a label, KEY- to remove it".into()),
    }
}

/// Remove a node from the fleet
///
/// A node that holds instances is refused: drain it first. If the host is gone for good, --force has its
/// instances placed elsewhere: they run twice if the host still runs them, cut off from the controller. So
/// switch it off first. Should it come back, it is told to run nothing.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Examples:\n  dwell node drain h1 --wait && dwell node rm h1\n  dwell node rm --force h1    # the host is switched off or destroyed"
)]
struct Rm {
    #[command(flatten)]
    names: Names,
    /// Although instances are there, and whatever the node says of itself. If it is down, its host must not run any more
    #[arg(long)]
    force: bool,
}

impl Node {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        match self.command {
            Command::Ls(output) => {
                let view = NodesView::new(list(&mut fleet, "").await?);
                output.print(&view, |view| table(view, Now::read(), Style::of_stdout()))
            }
            Command::Inspect(inspect) => inspect.run(&mut fleet).await,
            Command::Token(token) => token.run(&mut fleet).await,
            Command::Cordon(names) => {
                let cordon = v1::UpdateNodeRequest { cordoned: Some(true), ..Default::default() };
                names.update(&mut fleet, &cordon, "is cordoned").await.map(drop)
            }
            Command::Uncordon(names) => {
                let uncordon = v1::UpdateNodeRequest {
                    cordoned: Some(false),
                    draining: Some(false),
                    ..Default::default()
                };
                names.update(&mut fleet, &uncordon, "takes instances again").await.map(drop)
            }
            Command::Admit(names) => {
                let admit = v1::UpdateNodeRequest { admit: true, ..Default::default() };
                names.update(&mut fleet, &admit, "is served again").await.map(drop)
            }
            Command::Block(block) => block.run(&mut fleet).await,
            Command::Address(Address { name, address }) => {
                let request = v1::UpdateNodeRequest {
                    address: Some(address.to_string()),
                    ..Default::default()
                };
                let word = format!("is at {address}");
                Names { names: vec![name] }.update(&mut fleet, &request, &word).await.map(drop)
            }
            Command::Drain(drain) => {
                let request = v1::UpdateNodeRequest {
                    draining: Some(true),
                    drain_for_ms: drain.time.map(|time| time.0),
                    drain_deadline_ms: drain.deadline.map(|time| time.0),
                    ..Default::default()
                };
                let nodes = drain.names.update(&mut fleet, &request, "is being drained").await?;
                let goals: Vec<_> = nodes.into_iter().map(|node| Goal::Drained { node }).collect();
                wait(drain.wait, &fleet.client, &fleet.target, &goals).await
            }
            Command::Reboot(reboot) => reboot.run(&mut fleet).await,
            Command::Label(label) => label.run(&mut fleet).await,
            Command::Rm(rm) => rm.run(&mut fleet).await,
        }
    }
}

async fn list(fleet: &mut Fleet, name: &str) -> Result<Vec<v1::Node>, Failure> {
    Ok(lists::nodes(&mut fleet.client, name).await?.0)
}

impl Inspect {
    async fn run(self, fleet: &mut Fleet) -> Result<(), Failure> {
        let name = names::node(&mut fleet.client, &self.name).await?;
        let node = list(fleet, &name).await?.pop();
        let node =
            node.ok_or_else(|| Failure::NotFound(format!("{name} has just been removed")))?;
        // There is no table of one thing.
        let format = if self.output == Format::Json { Format::Json } else { Format::Yaml };
        let request = v1::ListInstancesRequest { node: name, ..Default::default() };
        let (instances, _) = lists::instances(&mut fleet.client, request).await?;
        let let_go = instances.into_iter().filter(|one| one.let_go).map(|one| one.name).collect();
        print(&serialized(&NodeView { let_go, ..node.into() }, format)?)
    }
}

impl Token {
    async fn run(self, fleet: &mut Fleet) -> Result<(), Failure> {
        let request =
            v1::CreateJoinTokenRequest { valid_ms: self.valid.map_or(0, |valid| valid.0) };
        let made = fleet.client.create_join_token(request).await?.into_inner();
        let view = TokenView {
            token: made.token,
            expires_at: made.expires_at_ms,
            controller: made.controller,
        };
        self.output.print(&view, |view| {
            format!(
                "Run this on the new host before {}; it works once:\n\n  dwell-agent join --controller {} --token {}\n",
                moment(view.expires_at),
                view.controller,
                view.token
            )
        })
    }
}

impl Names {
    /// Makes the same change to all of them; returns their names.
    async fn update(
        &self,
        fleet: &mut Fleet,
        change: &v1::UpdateNodeRequest,
        word: &str,
    ) -> Result<Vec<String>, Failure> {
        let nodes = names::all(&mut fleet.client, &self.names, names::node).await?;
        for name in &nodes {
            fleet
                .client
                .update_node(v1::UpdateNodeRequest { name: name.clone(), ..change.clone() })
                .await?;
            print(&format!("{name} {word}\n"))?;
        }
        Ok(nodes)
    }
}

impl Label {
    async fn run(self, fleet: &mut Fleet) -> Result<(), Failure> {
        let name = names::node(&mut fleet.client, &self.name).await?;
        let done = label_words(&self.labels, self.pool.as_deref());
        let mut set_labels = HashMap::new();
        let mut remove_labels = Vec::new();
        for change in self.labels {
            match change {
                Change::Set(key, value) => drop(set_labels.insert(key, value)),
                Change::Remove(key) => remove_labels.push(key),
            }
        }
        let request = v1::UpdateNodeRequest {
            name: name.clone(),
            set_labels,
            remove_labels,
            pool: self.pool,
            ..Default::default()
        };
        fleet.client.update_node(request).await?;
        print(&format!("{name}: {done}\n"))
    }
}

/// What was changed, in words: `disk set, zone removed, in pool storage`.
fn label_words(labels: &[Change], pool: Option<&str>) -> String {
    let labels = labels.iter().map(|change| match change {
        Change::Set(key, _) => format!("{key} set"),
        Change::Remove(key) => format!("{key} removed"),
    });
    let pool = pool.map(|pool| match pool {
        "" => "in no pool".to_owned(),
        pool => format!("in pool {pool}"),
    });
    labels.chain(pool).collect::<Vec<_>>().join(", ")
}

impl Rm {
    async fn run(self, fleet: &mut Fleet) -> Result<(), Failure> {
        for name in names::all(&mut fleet.client, &self.names.names, names::node).await? {
            let request = v1::RemoveNodeRequest { name: name.clone(), force: self.force };
            let left = fleet.client.remove_node(request).await?.into_inner().left;
            print(&match left {
                0 => format!("{name} is removed\n"),
                left => format!(
                    "{name} is out. What it has ({}) ends there, and is placed elsewhere, if it may be, once the host has said so.\n\
                     If it cannot be trusted or does not come back, make sure that it is off and run \
                     `dwell node rm --force {name}` again.\n",
                    Counted(usize::try_from(left).unwrap_or(usize::MAX))
                ),
            })?;
        }
        Ok(())
    }
}

fn table(view: &NodesView, now: Now, style: Style) -> String {
    if view.nodes.is_empty() {
        return "No host has joined yet. Make a token with `dwell node token`.\n".into();
    }
    let mut table = Table::new([
        "NODE",
        "STATE",
        "ADDRESS",
        "BLOCK",
        "POOL",
        "CPU",
        "MEMORY",
        "INSTANCES",
        "SEEN",
        "MESSAGE",
    ]);
    for node in &view.nodes {
        let of = |promised: String, has: Option<String>| {
            format!("{promised}/{}", has.unwrap_or_else(|| "?".into()))
        };
        let capacity = node.capacity.as_ref();
        let tone = match node.state {
            NodeState::Ready => Tone::Plain,
            NodeState::Unreachable => Tone::Attention,
            NodeState::Down => Tone::Trouble,
        };
        table.toned_row(
            tone,
            [
                node.name.clone(),
                state(node, now),
                node.address.clone(),
                blocks(node),
                or_dash(&node.pool),
                of(
                    Millicores(node.allocated.cpu_millicores).to_string(),
                    capacity.map(|capacity| Millicores(capacity.cpu_millicores).to_string()),
                ),
                of(
                    mebibytes(node.allocated.memory_bytes),
                    capacity.map(|capacity| mebibytes(capacity.memory_bytes)),
                ),
                node.instances.to_string(),
                now.age(node.last_seen),
                node.message.clone(),
            ],
        );
    }
    table.render(style) + &obstacles(view)
}

/// A node's first block, and how many others lead to it.
fn blocks(node: &NodeView) -> String {
    match node.more_blocks.len() + node.retired_blocks.len() {
        0 => or_dash(&node.block),
        more => format!("{} +{more}", node.block),
    }
}

/// What is still on nodes that are drained, why, and what to do.
fn obstacles(view: &NodesView) -> String {
    let mut text = String::new();
    for node in view.nodes.iter().filter(|node| !node.obstacles.is_empty()) {
        text += &format!("\nStill on {}:\n", node.name);
        for one in &node.obstacles {
            text += &format!("  {}: {}\n    next: {}\n", one.instance, one.reason, one.next);
        }
        let shown = u32::try_from(node.obstacles.len()).unwrap_or(u32::MAX);
        if let more @ 1.. = node.instances.saturating_sub(node.own + shown) {
            text += &format!("  and {more} more\n");
        }
    }
    text
}

fn state(node: &NodeView, now: Now) -> String {
    let mut text = match (node.state, node.last_seen) {
        // Down from the start is not the same as gone down.
        (NodeState::Down, None) => "down, not heard of yet".into(),
        (state, _) => state.to_string(),
    };
    if node.draining {
        text += ", draining";
        let left = |at: u64| now.age(Some(now.0.saturating_sub(at.saturating_sub(now.0))));
        if let Some(deadline) = node.drain_deadline {
            text += &format!(", given up in {}", left(deadline));
        }
        if let Some(until) = node.drained_until {
            text += &format!(", {} left", left(until));
        }
    } else if node.cordoned {
        text += ", cordoned";
    }
    match node.reboot.as_ref().map(|reboot| reboot.state) {
        Some("waiting") => text += ", waits to reboot",
        Some("draining") => text += " to reboot",
        Some("rebooting") => text += ", rebooting",
        Some("failed") => text += ", reboot failed",
        _ => {}
    }
    if node.drain_given_up.is_some() {
        text += ", not drained in time";
    }
    text
}

/// Whole mebibytes: what hosts have is never a round number.
fn mebibytes(bytes: u64) -> String {
    Bytes(bytes >> 20 << 20).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_for_people() {
        let node = |name: &str, state: v1::NodeState| v1::Node {
            name: name.into(),
            address: "10.66.0.1".into(),
            state: state.into(),
            last_seen_ms: Some(1_000_000_000),
            ..Default::default()
        };
        let capacity = v1::Capacity {
            cpu_millicores: 4000,
            memory_bytes: (16 << 30) + 12_345,
            ..Default::default()
        };
        let nodes = vec![
            v1::Node {
                block: "10.80.1.0/24".into(),
                pool: "storage".into(),
                cordoned: true,
                draining: true,
                drained_until_ms: Some(1_000_012_000 + 5_400_000),
                capacity: Some(capacity),
                allocated: Some(v1::Resources { cpu_millicores: 1500, memory_bytes: 256 << 20 }),
                instances: 3,
                message: "waits for db-0, which has volumes here".into(),
                drain_deadline_ms: Some(1_000_012_000 + 600_000),
                obstacles: vec![v1::DrainObstacle {
                    instance: "db-0".into(),
                    reason: "its volumes are on this node, so it stays".into(),
                    next: "dwell node uncordon h2".into(),
                }],
                ..node("h2", v1::NodeState::Ready)
            },
            node("h1", v1::NodeState::Unreachable),
            v1::Node { last_seen_ms: None, ..node("h3", v1::NodeState::Down) },
        ];
        let view = NodesView::new(nodes);
        insta::assert_snapshot!(table(&view, Now(1_000_012_000), Style::PLAIN), @r"
        NODE  STATE                                           ADDRESS    BLOCK         POOL     CPU      MEMORY      INSTANCES  SEEN  MESSAGE
        h1    unreachable                                     10.66.0.1  -             -        0/?      0/?         0          12s
        h2    ready, draining, given up in 10m0s, 1h30m left  10.66.0.1  10.80.1.0/24  storage  1500m/4  256Mi/16Gi  3          12s   waits for db-0, which has volumes here
        h3    down, not heard of yet                          10.66.0.1  -             -        0/?      0/?         0          -

        Still on h2:
          db-0: its volumes are on this node, so it stays
            next: dwell node uncordon h2
          and 2 more
        ");
        assert!(
            table(&NodesView { nodes: vec![] }, Now(0), Style::PLAIN).contains("dwell node token")
        );
    }

    #[test]
    fn what_labels_were_changed_is_said() {
        let changes = ["disk=ssd", "zone-"].map(|text| label_parser(text).unwrap());
        assert_eq!(label_words(&changes, None), "disk set, zone removed");
        assert_eq!(label_words(&changes[1..], Some("")), "zone removed, in no pool");
        assert_eq!(label_words(&[], Some("storage")), "in pool storage");
    }

    #[test]
    fn labels_are_set_and_removed() {
        assert_eq!(label_parser("a=b"), Ok(Change::Set("a".into(), "b".into())));
        assert_eq!(label_parser("a="), Ok(Change::Set("a".into(), String::new())));
        assert_eq!(label_parser("a-"), Ok(Change::Remove("a".into())));
        assert_eq!(label_parser("a=b-"), Ok(Change::Set("a".into(), "b-".into())));
        for wrong in ["", "a", "-", "=b", "a b=c", "a!=b"] {
            assert!(label_parser(wrong).is_err(), "{wrong}");
        }
    }
}
