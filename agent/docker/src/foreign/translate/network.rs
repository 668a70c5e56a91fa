//! How a container is reached. Its network is Docker's, and an instance's is dwell's: nothing of it is kept but its ports, at an
//! address of its own.

use std::collections::BTreeMap;

use dwell_core::workload::{Protocol, ServicePort, Template};

use super::{Findings, Said};

pub(super) fn translate(said: &Said<'_>, template: &mut Template, findings: &mut Findings) {
    let mode = said.host.network_mode.as_deref().unwrap_or_default();
    if mode == "host" || mode == "none" || mode.starts_with("container:") {
        findings.forbid(format!(
            "it was made with --network {mode}, and an instance has a network of its own"
        ));
    }
    ports(said, template, findings);
    networks(said, findings);
    let host = said.host;
    for link in host.links.iter().flatten() {
        let (other, name) = link.rsplit_once(':').unwrap_or((link, ""));
        let (other, name) =
            (other.trim_start_matches('/'), name.rsplit('/').next().unwrap_or(name));
        findings.change(format!(
            "its link to {other} is not kept: {name} is not found under that name any more"
        ));
    }
    let asks_others = [&host.dns, &host.dns_search, &host.dns_options];
    if asks_others.into_iter().flatten().flatten().next().is_some() {
        findings.change("its own --dns settings are not kept: it asks the resolver of its node");
    }
    if said.config.domainname.as_ref().is_some_and(|name| !name.is_empty()) {
        findings.change("its domain name is not kept: it is in the zone of the cluster");
    }
}

fn ports(said: &Said<'_>, template: &mut Template, findings: &mut Findings) {
    let published: BTreeMap<_, _> = said.host.port_bindings.iter().flatten().collect();
    for (port, bindings) in published {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let own = match protocol {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            _ => None,
        };
        if let (Some(protocol), Ok(number)) = (own, number.parse()) {
            template.expose.push(ServicePort { port: number, protocol });
        }
        for binding in bindings.iter().flatten() {
            let host = binding.host_port.as_deref().filter(|port| !port.is_empty());
            let address =
                binding.host_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "0.0.0.0");
            let host = host.unwrap_or("a port of the host");
            let at = address.map(|address| format!("{address}:{host}")).unwrap_or(host.to_owned());
            findings.change(format!(
                "published port {at} -> {port} is not published any more: it is reached at its own address on port {number}"
            ));
        }
    }
    if said.host.publish_all_ports == Some(true) {
        findings
            .change("its ports are not published any more: they are reached at its own address");
    }
    template.expose.sort_unstable();
    template.expose.dedup();
}

fn networks(said: &Said<'_>, findings: &mut Findings) {
    let all = said.facts.seen.network_settings.as_ref();
    let all: BTreeMap<_, _> =
        all.and_then(|all| all.networks.as_ref()).into_iter().flatten().collect();
    for (network, end) in all {
        let address = end.ip_address.as_deref().filter(|address| !address.is_empty());
        let fixed = end.ipam_config.as_ref().and_then(|config| config.ipv4_address.as_ref());
        let address = match (address, fixed) {
            (Some(address), Some(_)) => format!("its fixed address {address} in"),
            (Some(address), None) => format!("its address {address} in"),
            (None, _) => "its place in".to_owned(),
        };
        findings.change(format!(
            "{address} Docker's network {network} is given up: it gets an address of the cluster's own, and is reached at that"
        ));
        let id = said.facts.seen.id.as_deref().unwrap_or_default();
        let is_name = |name: &&String| !id.starts_with(name.as_str());
        let names: Vec<&str> =
            end.aliases.iter().flatten().filter(is_name).map(String::as_str).collect();
        if !names.is_empty() {
            findings.change(format!(
                "{} in Docker's network {network} does not lead to it any more",
                names.join(", ")
            ));
        }
    }
}
