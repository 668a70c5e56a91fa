//! `dwell node block`: the addresses that a node can give to its instances.

use clap::{Args, Subcommand};
use dwell_proto::v1;
use dwell_proto::v1::change_node_blocks_request::Change;
use ipnet::Ipv4Net;

use super::Fleet;
use crate::command::name_parser;
use crate::complete;
use crate::failure::Failure;
use crate::names;
use crate::output::print;

/// Give nodes more addresses for their instances, or others
///
/// A node joins with one block, from which its instances get addresses. `dwell node inspect` lists the blocks of a node.
#[derive(Args, Debug)]
pub(super) struct Block {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(Add),
    Retire(Retire),
}

/// Give a node one more block
///
/// Its instances get addresses of it when the blocks before are full. All agents have to know that nodes may have several
/// blocks; one that does not is named. Add one that was retired, and addresses of it are given out again.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell node block add h1
  dwell node block add h1 10.80.9.0/24")]
struct Add {
    /// The node
    #[arg(value_parser = name_parser(), add = complete::node())]
    name: String,
    /// Which one; the first that is free if not given
    block: Option<Ipv4Net>,
}

/// Give out no more addresses of a block
///
/// Instances that have one keep it, and it leads to the node as before. Once nobody has one any more, the block is free, for
/// other nodes too. To be rid of it sooner, give its instances other addresses, one after the other:
/// `dwell replace INSTANCE --new-address --wait`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell node block add h1 10.80.9.0/24
  dwell node block retire h1 10.80.1.0/24")]
struct Retire {
    /// The node
    #[arg(value_parser = name_parser(), add = complete::node())]
    name: String,
    /// Which one
    block: Ipv4Net,
}

impl Block {
    pub(super) async fn run(self, fleet: &mut Fleet) -> Result<(), Failure> {
        let (name, change) = match self.command {
            Command::Add(Add { name, block }) => {
                (name, Change::Add(block.map(|block| block.to_string()).unwrap_or_default()))
            }
            Command::Retire(Retire { name, block }) => (name, Change::Retire(block.to_string())),
        };
        let node = names::node(&mut fleet.client, &name).await?;
        let done = match &change {
            Change::Add(_) => "has",
            Change::Retire(_) => "gives out no more addresses of",
        };
        let request = v1::ChangeNodeBlocksRequest { node: node.clone(), change: Some(change) };
        let answer = fleet.client.change_node_blocks(request).await?.into_inner();
        print(&format!("{node} {done} {}\n", answer.block))
    }
}
