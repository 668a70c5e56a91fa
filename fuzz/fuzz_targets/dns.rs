//! A question to the agent's DNS server, from anybody.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use dwell_agent::dns::answer::{Answer, Client, Transport, UDP_MAX_BYTES, answer};
use dwell_agent::dns::zone::Names;
use dwell_core::directory::{Directory, DirectoryInstance, DirectoryWorkload};
use dwell_core::id::{Incarnation, InstanceName, Revision};

libfuzzer_sys::fuzz_target!(|input: (bool, bool, u64, &[u8])| {
    let (stream, outside, seed, query) = input;
    let directory = directory();
    let names = Names {
        zone: "dwell",
        cluster: "10.80.0.0/16".parse().expect("a range"),
        directory: &directory,
    };
    let client = Client {
        may_forward: !outside,
        asked_at: IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
        transport: if stream { Transport::Tcp } else { Transport::Udp },
    };
    match answer(query, Some(names), client, seed) {
        Answer::Silence => {}
        Answer::Forward { question_end } => assert!(!outside && (12..=query.len()).contains(&question_end)),
        Answer::Reply(reply) => assert!(stream || reply.len() <= usize::from(UDP_MAX_BYTES)),
    }
});

fn directory() -> Directory {
    let web: dwell_core::id::WorkloadName = "web".parse().expect("a name");
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
