//! `dwell route export`: the configuration of a routing daemon on a node that announces what lives there.
//!
//! The daemon reads the node's kernel, in which the agent keeps a route to every instance that is there, and tells the
//! fabric's routers by BGP. So what it announces follows instances without anybody making the configuration anew.

use std::net::Ipv4Addr;

use clap::{ArgGroup, Args};
use dwell_core::id::NodeName;
use dwell_core::net::Ranges;
use dwell_proto::v1;
use ipnet::Ipv4Net;

use super::super::info::ranges_of;
use super::super::{Fleet, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::lists;
use crate::output::print;

/// What the agent's routes are known by in the kernel.
const PROTOCOL: u8 = 157;
/// Of its routes to instances of its own node.
const METRIC: u32 = 57;

/// Print the configuration of a routing daemon that announces a node's instances by BGP
///
/// Run the daemon on the node. It announces the node's block, and the address of every instance that has moved there from
/// another node's block; it follows instances by itself. It learns nothing from the routers and changes nothing in the
/// kernel. Print it anew when the node gets another address.
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("daemon").required(true),
    after_long_help = "\
Examples:
  dwell route export h1 --bird --as 65011 --neighbor 192.168.1.1 --neighbor-as 65000 | ssh h1 sudo tee /etc/bird/bird.conf
  dwell route export h1 --frr --as 65011 --neighbor 192.168.1.1 --neighbor 192.168.1.2 --neighbor-as 65000"
)]
pub(super) struct Export {
    /// The node
    #[arg(value_parser = name_parser(), add = complete::node())]
    node: String,
    /// For BIRD 2
    #[arg(long, group = "daemon")]
    bird: bool,
    /// For FRR
    #[arg(long, group = "daemon")]
    frr: bool,
    /// The node's own autonomous system
    #[arg(long = "as", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=4_294_967_294))]
    own_as: u32,
    /// A router's address; may be given several times
    #[arg(long = "neighbor", value_name = "ADDRESS", required = true)]
    neighbors: Vec<Ipv4Addr>,
    /// The routers' autonomous system; default: the node's own
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=4_294_967_294))]
    neighbor_as: Option<u32>,
}

/// Everything that a configuration is made of.
struct Announcement {
    node: NodeName,
    address: Ipv4Addr,
    /// Not empty.
    blocks: Vec<Ipv4Net>,
    cluster: Ranges,
    own_as: u32,
    neighbor_as: u32,
    neighbors: Vec<Ipv4Addr>,
}

impl Export {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let info = fleet.client.get_info(v1::GetInfoRequest {}).await?.into_inner();
        let (found, _) = lists::nodes(&mut fleet.client, &self.node).await?;
        let node = found.into_iter().find(|node| node.name == self.node);
        let node = node.ok_or_else(|| {
            Failure::NotFound(format!("there is no node {}; `dwell node ls` lists them", self.node))
        })?;
        if node.block.is_empty() {
            return Err(Failure::Refused(format!(
                "node {} only keeps routes: it has no instances to announce",
                self.node
            )));
        }
        let strange = |what: &str, text: &str| {
            Failure::Other(format!(
                "the controller's {what} of node {}, {text:?}, is none",
                self.node
            ))
        };
        let announcement = Announcement {
            node: self.node.parse().map_err(|_| strange("name", &self.node))?,
            address: node.address.parse().map_err(|_| strange("address", &node.address))?,
            blocks: [&node.block]
                .into_iter()
                .chain(&node.more_blocks)
                .chain(&node.retired_blocks)
                .map(|block| block.parse().map_err(|_| strange("block", block)))
                .collect::<Result<_, _>>()?,
            cluster: ranges_of(&info)?,
            own_as: self.own_as,
            neighbor_as: self.neighbor_as.unwrap_or(self.own_as),
            neighbors: self.neighbors,
        };
        print(&if self.bird { announcement.bird() } else { announcement.frr() })
    }
}

impl Announcement {
    /// What both begin with, as comments.
    fn title(&self, comment: char) -> String {
        let node = &self.node;
        let blocks = match &self.blocks[..] {
            [block] => format!("block {block}"),
            blocks => format!("blocks {}", listed(blocks, "")),
        };
        format!(
            "{comment} dwell: announces what lives on node {node}: its {blocks}, and instances that have moved there.\n\
             {comment} It follows them by itself. Made by `dwell route export`.\n"
        )
    }

    fn bird(&self) -> String {
        let Self { address, own_as, neighbor_as, .. } = self;
        let title = self.title('#');
        let (blocks, within) = (listed(&self.blocks, ""), listed(&self.blocks, "+"));
        let mut text = format!(
            "{title}
router id {address};

protocol device {{
}}

# Reads what the agent has put into the kernel, and puts nothing there.
protocol kernel dwell_instances {{
    learn;
    scan time 20;
    ipv4 {{
        import filter {{
            if krt_source != {PROTOCOL} then reject;
            if net ~ [ {blocks} ] then accept;
            if krt_metric = {METRIC} && net.len = 32 && net !~ [ {within} ] then accept;
            reject;
        }};
        export none;
    }};
}}
"
        );
        for (number, neighbor) in (1..).zip(&self.neighbors) {
            text += &format!(
                "
protocol bgp dwell_router_{number} {{
    local {address} as {own_as};
    neighbor {neighbor} as {neighbor_as};
    ipv4 {{
        import none;
        export where proto = \"dwell_instances\";
        next hop self;
    }};
}}
"
            );
        }
        text
    }

    fn frr(&self) -> String {
        let Self { address, cluster, own_as, neighbor_as, .. } = self;
        let mut text = format!("{}!\n", self.title('!'));
        let numbered = || (10..).step_by(10).zip(&self.blocks);
        for (number, block) in numbered() {
            text += &format!("ip prefix-list DWELL-BLOCK seq {number} permit {block}\n");
        }
        for (number, block) in numbered() {
            text += &format!("ip prefix-list DWELL-MOVED seq {number} deny {block} ge 32\n");
        }
        for (number, range) in (self.blocks.len() + 1..).zip(cluster.iter()) {
            let number = 10 * number;
            text += &format!("ip prefix-list DWELL-MOVED seq {number} permit {range} ge 32\n");
        }
        text += &format!(
            "!
route-map DWELL permit 10
 match ip address prefix-list DWELL-BLOCK
exit
!
route-map DWELL permit 20
 match ip address prefix-list DWELL-MOVED
 match metric {METRIC}
exit
!
route-map DWELL-NOTHING deny 10
exit
!
router bgp {own_as}
 bgp router-id {address}
"
        );
        for neighbor in &self.neighbors {
            text += &format!(
                " neighbor {neighbor} remote-as {neighbor_as}\n neighbor {neighbor} update-source {address}\n"
            );
        }
        text += " !\n address-family ipv4 unicast\n  redistribute kernel route-map DWELL\n";
        for neighbor in &self.neighbors {
            text += &format!(
                "  neighbor {neighbor} activate\n  neighbor {neighbor} next-hop-self\n  \
                 neighbor {neighbor} route-map DWELL-NOTHING in\n  neighbor {neighbor} route-map DWELL out\n"
            );
        }
        text + " exit-address-family\nexit\n"
    }
}

/// One after the other, each with what goes behind it.
fn listed(blocks: &[Ipv4Net], behind: &str) -> String {
    let blocks: Vec<String> = blocks.iter().map(|block| format!("{block}{behind}")).collect();
    blocks.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement() -> Announcement {
        Announcement {
            node: "h1".parse().unwrap(),
            address: Ipv4Addr::new(192, 0, 2, 11),
            blocks: vec!["10.80.1.0/24".parse().unwrap()],
            cluster: "10.80.0.0/16".parse().unwrap(),
            own_as: 65011,
            neighbor_as: 65000,
            neighbors: vec![Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)],
        }
    }

    #[test]
    fn for_bird() {
        insta::assert_snapshot!(announcement().bird());
    }

    #[test]
    fn of_a_node_with_several_blocks() {
        let blocks = ["10.80.1.0/24", "10.80.7.0/24"].map(|block| block.parse().unwrap());
        let several = Announcement { blocks: blocks.to_vec(), ..announcement() };
        insta::assert_snapshot!(several.bird());
        insta::assert_snapshot!(several.frr());
    }

    #[test]
    fn for_frr() {
        insta::assert_snapshot!(announcement().frr());
    }
}
