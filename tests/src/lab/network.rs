//! The lab's cabling: a switch, the hosts plugged into it, and faults on their links.
//!
//! ```text
//!  machine                 NAME.switch                     NAME.h1
//!  dl-NAME 10.99.S.1 ─────── machine ┐              ┌ eth0 10.99.S.11
//!                                    br0 ─── h1 ────┘      default via 10.99.S.1
//!                                     └──── h2 ───── ...
//! ```
//!
//! The bridge has a namespace of its own, so that neither the machine's firewall nor Docker's
//! `bridge-nf-call-iptables` has a say in what the hosts tell each other. The state is the kernel's:
//! everything can be removed by name, by a process that knows nothing but the [`Layout`].

use std::{fmt::Write as _, path::Path};

use anyhow::{Context, Result};

use super::{
    command::{feed, run, run_in},
    dwell::RouteRow,
    layout::Layout,
};

/// A fault of the link between a host and the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The cable is out: the host's `eth0` has no carrier.
    Unplugged,
    /// Frames vanish both ways while the link looks healthy; connections get no reset.
    BlackHole,
    /// Frames that the host sends vanish; it still hears everything.
    Outbound,
    /// Frames to the host vanish; it is still heard.
    Inbound,
}

/// The number that marks the lab's routes on the machine; dwell's own differ.
const ROUTE_PROTOCOL: u8 = 196;

/// The bridge's filter: a port in `from` is not heard, a port in `to` is told nothing.
const FILTER: &str = "
table bridge lab {
    set from { type ifname; }
    set to { type ifname; }
    chain cut {
        type filter hook forward priority 0;
        iifname @from drop
        oifname @to drop
    }
}
";

/// A switch looks at no IP packets; a bridge does, unless told not to, where the kernel can at all.
const PLAIN_SWITCH: &str =
    "f=/proc/sys/net/bridge/bridge-nf-call-iptables; [ ! -e $f ] || echo 0 > $f";

/// Builds the switch and `hosts` hosts.
pub(crate) async fn build(layout: &Layout, hosts: usize) -> Result<()> {
    let switch = layout.switch_netns();
    run("ip", &["netns", "add", &switch]).await?.ok()?;
    let link = layout.machine_link();
    let machine = layout.machine_address();
    let port = format!(
        "link add {link} type veth peer name machine netns {switch}\n\
         address add {machine}/24 dev {link}\nlink set {link} up\n"
    );
    batch(None, &port).await?;
    let bridge = "link add br0 type bridge\nlink set br0 up\n\
                  link set machine up\nlink set machine master br0\n";
    batch(Some(&switch), bridge).await?;
    run_in(&switch, &["sh", "-c", PLAIN_SWITCH]).await?.ok()?;
    for host in 1..=hosts {
        add_host(layout, host).await?;
    }
    nft(layout, FILTER).await
}

/// Makes `host` as one that has just booted, and plugs it into the switch.
pub(crate) async fn add_host(layout: &Layout, host: usize) -> Result<()> {
    let (switch, netns, port) = (layout.switch_netns(), layout.host_netns(host), port(host));
    run("ip", &["netns", "add", &netns]).await?.ok()?;
    let plug = format!(
        "link add {port} type veth peer name eth0 netns {netns}\n\
         link set {port} up\nlink set {port} master br0\n"
    );
    batch(Some(&switch), &plug).await?;
    let (address, machine) = (layout.host_address(host), layout.machine_address());
    let setup = format!(
        "link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\n\
         route add default via {machine}\n"
    );
    batch(Some(&netns), &setup).await
}

/// Plugs a virtual machine in as `host`, by a TAP of that name in the switch's namespace.
pub(crate) async fn add_tap(layout: &Layout, host: usize) -> Result<String> {
    let port = port(host);
    let plug =
        format!("tuntap add dev {port} mode tap\nlink set {port} up\nlink set {port} master br0\n");
    batch(Some(&layout.switch_netns()), &plug).await?;
    Ok(port)
}

/// Unplugs `host`, on which nothing runs any more, and removes it.
pub(crate) async fn remove_host(layout: &Layout, host: usize) -> Result<()> {
    batch(Some(&layout.switch_netns()), &format!("link delete {}\n", port(host))).await?;
    run("ip", &["netns", "delete", &layout.host_netns(host)]).await?.ok()?;
    Ok(())
}

/// Removes whatever is there of the switch and the hosts.
pub(crate) async fn remove(layout: &Layout) -> Result<()> {
    let link = layout.machine_link();
    if Path::new("/sys/class/net").join(&link).exists() {
        run("ip", &["link", "delete", &link]).await?.ok()?;
    }
    for name in netns_of(layout)? {
        run("ip", &["netns", "delete", &name]).await?.ok()?;
    }
    Ok(())
}

/// Makes the machine's routes into the fleet exactly `routes`.
pub(crate) async fn route_machine(layout: &Layout, routes: &[RouteRow]) -> Result<()> {
    let link = layout.machine_link();
    let mut lines = format!("route flush dev {link} proto {ROUTE_PROTOCOL}\n");
    for RouteRow { prefix, via, .. } in routes {
        writeln!(lines, "route replace {prefix} via {via} dev {link} proto {ROUTE_PROTOCOL}")?;
    }
    batch(None, &lines).await
}

/// Brings fault `cut` upon the link of `host`; faults add up until [`restore`].
pub(crate) async fn cut(layout: &Layout, host: usize, cut: Cut) -> Result<()> {
    let port = port(host);
    match cut {
        Cut::Unplugged => {
            batch(Some(&layout.switch_netns()), &format!("link set {port} down\n")).await
        }
        Cut::BlackHole => {
            let rules = format!(
                "add element bridge lab from {{ {port} }}\nadd element bridge lab to {{ {port} }}\n"
            );
            nft(layout, &rules).await
        }
        Cut::Outbound => nft(layout, &format!("add element bridge lab from {{ {port} }}\n")).await,
        Cut::Inbound => nft(layout, &format!("add element bridge lab to {{ {port} }}\n")).await,
    }
}

/// Ends all faults of the link of `host`.
pub(crate) async fn restore(layout: &Layout, host: usize) -> Result<()> {
    let port = port(host);
    let mut rules = String::new();
    for set in ["from", "to"] {
        // Deleting what is absent is an error, adding what is present is not.
        writeln!(rules, "add element bridge lab {set} {{ {port} }}")?;
        writeln!(rules, "delete element bridge lab {set} {{ {port} }}")?;
    }
    nft(layout, &rules).await?;
    batch(Some(&layout.switch_netns()), &format!("link set {port} up\n")).await
}

/// The names of the lab's network namespaces that exist.
fn netns_of(layout: &Layout) -> Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.context("cannot list /run/netns")?.file_name();
        names.extend(name.into_string().ok().filter(|n| n.starts_with(&layout.netns_prefix())));
    }
    Ok(names)
}

/// What on this machine the ranges of the lab would hide, if anything.
pub(crate) async fn conflict(layout: &Layout) -> Result<Option<String>> {
    for range in [layout.underlay(), layout.cluster_cidr()] {
        for relation in ["root", "match"] {
            let routes = run("ip", &["-4", "route", "show", relation, &range]).await?.ok()?;
            if let Some(route) = routes.lines().find(|route| !is_wide(route)) {
                return Ok(Some(format!("{range} would hide the route `{}`", route.trim())));
            }
        }
    }
    Ok(None)
}

/// Whether a route is so wide (default, or all of a private range) that it does not mean the lab's
/// addresses in particular.
fn is_wide(route: &str) -> bool {
    let mut words = route.split_ascii_whitespace();
    // "default via ...", "10.0.0.0/8 via ...", "unreachable 10.0.0.0/8 ..."
    let destination = words.find(|word| *word == "default" || word.contains('.')).unwrap_or("");
    let length = destination.split_once('/').and_then(|(_, length)| length.parse::<u8>().ok());
    destination == "default" || length.is_some_and(|length| length <= 8)
}

fn port(host: usize) -> String {
    format!("h{host}")
}

async fn batch(netns: Option<&str>, lines: &str) -> Result<()> {
    let mut args = netns.map_or_else(Vec::new, |name| vec!["-netns", name]);
    args.extend(["-batch", "-"]);
    feed("ip", &args, lines).await?;
    Ok(())
}

async fn nft(layout: &Layout, rules: &str) -> Result<()> {
    run_in(&layout.switch_netns(), &["nft", rules]).await?.ok()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routes_to_particular_networks_are_in_the_way() {
        for (route, wide) in [
            ("default via 10.0.2.2 dev eth0", true),
            ("10.0.0.0/8 via 10.0.2.2 dev tun0", true),
            ("unreachable 10.0.0.0/8", true),
            ("10.99.0.0/16 dev eth0 proto kernel scope link", false),
            ("10.80.1.2 dev tun0", false),
        ] {
            assert_eq!(is_wide(route), wide, "{route}");
        }
    }
}
