//! What must hold of what an agent reads, for any bytes: see `fuzz/`.
#![expect(clippy::panic, reason = "that is how a target fails")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::from_utf8;

use dwell_core::directory::{Directory, DirectoryInstance, DirectoryWorkload};
use dwell_core::id::{Incarnation, InstanceName, Revision, WorkloadName};
use dwell_core::session::Assignment;
use dwell_core::ssh::SshEvent;
use dwell_planner::Journal;
use dwell_proto::v1;
use serde_json::from_slice;

use crate::config::Config;
use crate::dns::answer::{Answer, Client, Transport, UDP_MAX_BYTES, answer};
use crate::dns::zone::Names;
use crate::identity::Identity;
use crate::{capacity, dns, doctor, sealed};

/// Panics if what is given breaks the parser.
pub type Holds = fn(&[u8]);

/// By their names.
pub const TARGETS: &[(&str, Holds)] = &[
    ("agent_config", agent_config),
    ("agent_files", agent_files),
    ("dns", dns),
    ("iptables_rules", doctor::firewall::fuzz::iptables),
    ("nft_rules", doctor::firewall::fuzz::nft),
    ("proc_files", proc_files),
    ("resolv_conf", resolv_conf),
    ("ssh_event", ssh_event),
];

/// `agent.yaml`.
fn agent_config(bytes: &[u8]) {
    let Ok(text) = from_utf8(bytes) else { return };
    if let Ok(config) = dwell_daemon::config::parse::<Config>(text) {
        drop(config.check());
    }
}

/// What the agent keeps on disk: damaged it is never believed, and whatever is in it is read the same when it was written again.
fn agent_files(bytes: &[u8]) {
    drop(sealed::open::<serde_json::Value>("dwell-assignment 1", bytes));
    if let Ok(identity) = from_slice::<Identity>(bytes) {
        drop(identity.check());
    }
    if let Ok(assignment) = from_slice::<Assignment>(bytes) {
        let Ok(text) = sealed::seal("dwell-assignment 1", &assignment) else {
            panic!("{assignment:?}")
        };
        assert_eq!(sealed::open("dwell-assignment 1", &text), Ok(assignment));
    }
    if let Ok(directory) = from_slice::<Directory>(bytes) {
        let Ok(text) = sealed::seal("dwell-directory 1", &directory) else {
            panic!("{directory:?}")
        };
        assert_eq!(sealed::open("dwell-directory 1", &text), Ok(directory));
    }
    drop(from_slice::<Journal>(bytes));
}

/// A question to the agent's DNS server, from anybody: a byte of whence, eight of chance, and the question.
fn dns(bytes: &[u8]) {
    let Some((&from, rest)) = bytes.split_first() else { return };
    let Some((seed, query)) = rest.split_first_chunk() else { return };
    let (stream, outside) = (from & 1 != 0, from & 2 != 0);
    let directory = directory();
    let Ok(cluster) = "10.80.0.0/16".parse() else { return };
    let ipv6 = "fd00:5::/64".parse().ok();
    let names = Names { zone: "dwell", cluster: &cluster, ipv6, directory: &directory };
    let client = Client {
        may_forward: !outside,
        asked_at: IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
        transport: if stream { Transport::Tcp } else { Transport::Udp },
    };
    match answer(query, Some(names), client, u64::from_be_bytes(*seed)) {
        Answer::Silence => {}
        Answer::Forward { question_end } => {
            assert!(!outside && (12..=query.len()).contains(&question_end));
        }
        Answer::Reply(reply) => assert!(stream || reply.len() <= usize::from(UDP_MAX_BYTES)),
    }
}

fn directory() -> Directory {
    let Ok(web) = "web".parse::<WorkloadName>() else { return Directory::default() };
    let instance = |ordinal: u32| DirectoryInstance {
        address: Ipv4Addr::from_bits(0x0a50_0100 + ordinal),
        ready: ordinal != 1,
    };
    Directory {
        incarnation: Incarnation::UNKNOWN,
        revision: Revision(1),
        workloads: [(web.clone(), DirectoryWorkload::default())].into(),
        instances: (0..100).map(|n| (InstanceName::new(web.clone(), n), instance(n))).collect(),
    }
}

/// Lists, pressures and sockets of the kernel.
fn proc_files(bytes: &[u8]) {
    let Ok(text) = from_utf8(bytes) else { return };
    let _ = capacity::count(text);
    let _ = capacity::is_pressed(text, false);
    let address = SocketAddr::from(([127, 0, 0, 1], 53));
    drop(dns::holder::find(text, address));
}

/// The host's `resolv.conf`.
fn resolv_conf(bytes: &[u8]) {
    let Ok(text) = from_utf8(bytes) else { return };
    assert!(dns::upstream::servers_in(text).all(|server| server.port() == 53));
}

/// A line from `dwell-ssh`, which repeats what strangers said to it.
fn ssh_event(line: &[u8]) {
    if let Ok(event) = from_slice::<SshEvent>(line) {
        drop(SshEvent::try_from(v1::SshEvent::from(&event)));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_holds() {
        dwell_daemon::corpus::replay(super::TARGETS);
    }
}
