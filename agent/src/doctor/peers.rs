//! Whether the other nodes answer at their addresses in the underlay, and through the overlay if that leads to them, also to
//! packets of full size, and whether what sandboxes send fits on the way.

use std::net::Ipv4Addr;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use serde::Deserialize;

use super::{Finding, Host, reading};
use dwell_daemon::Causes;
use dwell_network::{INTERFACE_PREFIX, Network, Probe};

const CHECK: &str = "peers";
const MTU: &str = "mtu";
const OVERLAY: &str = "overlay";
/// How many are tried at most, and at a time; each may take two seconds.
const PEERS_MAX: usize = 128;
const TRIED_MAX: usize = 64;

/// Another node, and what came of trying it.
#[derive(Clone, Debug)]
struct Tried {
    /// Its name and address, for people.
    name: String,
    probe: Result<Probe, String>,
}

#[derive(Deserialize)]
struct Link {
    ifname: String,
    mtu: u32,
}

pub(super) async fn findings(host: &Host) -> Vec<Finding> {
    let (Some(assignment), Some(network)) = (&host.assignment, &host.network) else {
        return vec![Finding::unknown(
            CHECK,
            "the other nodes are not known here yet, or cannot be tried",
        )];
    };
    let peers = assignment.network.peers.iter().take(PEERS_MAX);
    let trying: Vec<_> = peers
        .map(|(node, peer)| {
            attempt(Arc::clone(network), format!("{node} ({})", peer.address), peer.address)
        })
        .collect();
    let tried: Vec<_> = stream::iter(trying).buffered(TRIED_MAX).collect().await;
    let links = reading::ask::<Vec<Link>>("ip", &["-j", "link", "show", "type", "veth"]).await;
    let veths = links.unwrap_or_default();
    let veths = veths.iter().filter(|link| link.ifname.starts_with(INTERFACE_PREFIX));
    let mut findings = judge(&tried, veths.map(|link| link.mtu).max());
    let peers = assignment.network.peers.iter().take(PEERS_MAX);
    let trying: Vec<_> = peers
        .map(|(node, peer)| {
            let (network, address) = (Arc::clone(network), peer.address);
            async move {
                let probe = network.probe_overlay(address).await;
                (format!("{node} ({address})"), probe.map_err(|error| Causes(&error).to_string()))
            }
        })
        .collect();
    let tried: Vec<_> = stream::iter(trying).buffered(TRIED_MAX).collect().await;
    findings.extend(judge_overlay(tried, host.config.overlay_port));
    findings
}

/// Of the nodes that instances reach through the overlay.
fn judge_overlay(tried: Vec<(String, Result<Option<Probe>, String>)>, port: u16) -> Vec<Finding> {
    let (mut findings, mut good) = (Vec::new(), 0_usize);
    for (name, probe) in tried {
        let probe = match probe {
            Ok(Some(probe)) => probe,
            Ok(None) => continue,
            Err(why) => {
                let message = format!("the overlay to {name} cannot be tried: {why}");
                findings.push(Finding::unknown(OVERLAY, message));
                continue;
            }
        };
        match (probe.round_trip, probe.full_size_passes) {
            (None, _) => findings.push(Finding::problem(
                OVERLAY,
                format!(
                    "{name} does not answer through the overlay: its agent has to run, and UDP port {port} be open both \
                     ways, between the nodes and on both; `overlay_port` is the same on all nodes"
                ),
                "",
            )),
            (_, Some(false)) => findings.push(Finding::problem(
                OVERLAY,
                format!(
                    "packets of {} bytes get lost in the overlay to {name}, small ones do not: the way between the \
                     nodes carries less than this host's uplink; give the uplink the MTU of the way",
                    probe.mtu
                ),
                "",
            )),
            _ => good += 1,
        }
    }
    if good > 0 {
        let message = format!("{good} nodes on other segments answer, also to full packets");
        findings.push(Finding::ok(OVERLAY, message));
    }
    findings
}

async fn attempt(network: Arc<dyn Network>, name: String, address: Ipv4Addr) -> Tried {
    let probe = network.probe(address).await.map_err(|error| Causes(&error).to_string());
    Tried { name, probe }
}

/// `sandbox_mtu` is the largest of all sandboxes, if there are any.
fn judge(tried: &[Tried], sandbox_mtu: Option<u32>) -> Vec<Finding> {
    let mut findings: Vec<_> =
        tried.iter().filter_map(|tried| problem(&tried.name, &tried.probe, sandbox_mtu)).collect();
    if findings.is_empty() {
        let message = match tried.len() {
            0 => "there are no other nodes".to_owned(),
            count => format!("{count} other nodes answer, also to full packets"),
        };
        findings.push(Finding::ok(CHECK, message));
    }
    findings
}

fn problem(name: &str, probe: &Result<Probe, String>, sandbox_mtu: Option<u32>) -> Option<Finding> {
    let probe = match probe {
        Ok(probe) => probe,
        Err(why) => return Some(Finding::unknown(CHECK, format!("{name} cannot be tried: {why}"))),
    };
    let Some(route) = &probe.route else {
        let message =
            format!("there is no way to {name}; this host needs a network that it shares with it");
        return Some(Finding::problem(CHECK, message, ""));
    };
    let device = &route.device;
    if probe.round_trip.is_none() {
        let message = format!(
            "{name} does not answer an echo by {device}; is it up, and does a firewall let ICMP through?"
        );
        return Some(Finding::problem(CHECK, message, ""));
    }
    let mtu = probe.mtu;
    if probe.full_size_passes == Some(false) {
        let message = format!(
            "packets of {mtu} bytes get lost on the way to {name}, small ones do not: a link between carries less, \
             often 1450 (VXLAN) or 1420 (WireGuard)"
        );
        let fix = format!("ip link set {device} mtu 1400 && systemctl restart dwell-agent");
        return Some(Finding::problem(MTU, message, fix));
    }
    sandbox_mtu.filter(|sandbox| *sandbox > mtu).map(|sandbox| {
        let message = format!(
            "sandboxes send packets of {sandbox} bytes, the way to {name} by {device} carries {mtu}; what is larger \
             has to be cut or is refused"
        );
        Finding::warning(MTU, message, "systemctl restart dwell-agent")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::doctor::Outcome;
    use dwell_network::FoundRoute;

    fn good() -> Probe {
        let route = FoundRoute {
            prefix: "192.0.2.0/24".parse().unwrap(),
            via: None,
            device: "eth0".to_owned(),
            protocol: 2,
            local: false,
        };
        let round_trip = Some(Duration::from_micros(200));
        Probe { route: Some(route), round_trip, mtu: 1500, full_size_passes: Some(true) }
    }

    #[test]
    fn the_overlay_is_told_of_where_it_leads() {
        let silent = Probe { round_trip: None, full_size_passes: None, ..good() };
        let narrow = Probe { full_size_passes: Some(false), ..good() };
        let tried =
            [Ok(None), Ok(Some(silent)), Ok(Some(narrow)), Ok(Some(good())), Err("no".into())];
        let tried = tried.into_iter().map(|probe| ("h2 (198.51.100.7)".to_owned(), probe));
        let found = judge_overlay(tried.collect(), 4789);
        let outcomes: Vec<_> = found.iter().map(|finding| finding.outcome).collect();
        use Outcome::{Ok as Good, Problem, Unknown};
        assert_eq!(outcomes, [Problem, Problem, Unknown, Good]);
        assert!(found[0].message.contains("UDP port 4789"), "{found:?}");
        assert!(judge_overlay(vec![("h2".to_owned(), Ok(None))], 4789).is_empty());
    }

    #[test]
    fn ways_that_do_not_work_are_told_apart() {
        for (probe, sandbox_mtu, outcome, said) in [
            (Ok(good()), Some(1500), Outcome::Ok, "1 other nodes"),
            (Ok(good()), None, Outcome::Ok, "1 other nodes"),
            (Err("no rights".to_owned()), None, Outcome::Unknown, "no rights"),
            (
                Ok(Probe { route: None, ..good() }),
                None,
                Outcome::Problem,
                "no way to h2 (192.0.2.2)",
            ),
            (
                Ok(Probe { round_trip: None, full_size_passes: None, ..good() }),
                None,
                Outcome::Problem,
                "answer",
            ),
            (
                Ok(Probe { full_size_passes: Some(false), ..good() }),
                None,
                Outcome::Problem,
                "1500 bytes",
            ),
            (Ok(good()), Some(9000), Outcome::Warning, "9000 bytes"),
        ] {
            let tried = [Tried { name: "h2 (192.0.2.2)".to_owned(), probe }];
            let found = judge(&tried, sandbox_mtu);
            assert_eq!((found.len(), found[0].outcome), (1, outcome), "{found:?}");
            assert!(found[0].message.contains(said), "{found:?}");
        }
    }
}
