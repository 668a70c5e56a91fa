//! Questions and answers, as bytes, without sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use dwell_core::directory::{Directory, DirectoryInstance, DirectoryWorkload};
use dwell_core::id::{Incarnation, InstanceName, Revision};
use dwell_core::net::Ranges;
use dwell_core::workload::{Protocol, ServicePort};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::answer::{Answer, Client, Transport, UDP_MAX_BYTES, answer};
use super::zone::Names;
use dwell_network::GATEWAY;

const INSTANCE: Client =
    Client { may_forward: true, asked_at: IpAddr::V4(GATEWAY), transport: Transport::Udp };
const STREAM: Client = Client { transport: Transport::Tcp, ..INSTANCE };
const OUTSIDE: Client = Client { may_forward: false, ..INSTANCE };

/// `count` instances of `web`, all but `web-1` ready, and one of `db`, which is not.
fn directory(count: u32) -> Directory {
    let port = |port, protocol| ServicePort { port, protocol };
    let web = DirectoryWorkload {
        ports: vec![port(80, Protocol::Tcp), port(443, Protocol::Tcp), port(53, Protocol::Udp)],
        labels: BTreeMap::new(),
    };
    let first = u32::from(Ipv4Addr::new(10, 80, 1, 0));
    let instance = |ordinal: u32| DirectoryInstance {
        address: Ipv4Addr::from(first + ordinal),
        ready: ordinal != 1,
    };
    let mut instances: BTreeMap<_, _> = (0..count)
        .map(|ordinal| (InstanceName::new("web".parse().unwrap(), ordinal), instance(ordinal)))
        .collect();
    let db = DirectoryInstance { address: Ipv4Addr::new(10, 80, 200, 9), ready: false };
    instances.insert("db-0".parse().unwrap(), db);
    Directory {
        incarnation: Incarnation::UNKNOWN,
        revision: Revision(7),
        workloads: [("web", web), ("db", DirectoryWorkload::default())]
            .map(|(name, workload)| (name.parse().unwrap(), workload))
            .into(),
        instances,
    }
}

fn names<'a>(zone: &'a str, directory: &'a Directory) -> Names<'a> {
    static CLUSTER: LazyLock<Ranges> = LazyLock::new(|| "10.80.0.0/16".parse().unwrap());
    Names { zone, cluster: &CLUSTER, ipv6: None, directory }
}

fn question(name: &str, of: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), of));
    message
}

/// The reply that must come, and its length in bytes.
fn reply_to(query: &Message, names: Names<'_>, client: Client, seed: u64) -> (Message, usize) {
    match answer(&query.to_vec().unwrap(), Some(names), client, seed) {
        Answer::Reply(reply) => (Message::from_vec(&reply).unwrap(), reply.len()),
        other => panic!("{query}: {other:?}"),
    }
}

fn show(record: &Record) -> String {
    format!("{} {} {}", record.name, record.record_type(), record.data)
}

/// The code and the answers, sorted.
fn ask(name: &str, of: RecordType) -> (ResponseCode, Vec<String>) {
    let directory = directory(3);
    let (reply, _) = reply_to(&question(name, of), names("dwell", &directory), INSTANCE, 1);
    assert_eq!((reply.metadata.id, reply.queries.len()), (4711, 1), "{name}");
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available, "{name}");
    let starts = |record: &Record| record.record_type() == RecordType::SOA;
    let says_nothing = reply.authorities.iter().any(starts);
    assert_eq!(reply.answers.is_empty(), says_nothing, "{name}: SOA if and only if nothing");
    let mut answers: Vec<String> = reply.answers.iter().map(show).collect();
    answers.sort();
    (reply.metadata.response_code, answers)
}

#[test]
fn what_names_have() {
    use RecordType::{A, AAAA, ANY, MX, NS, PTR, SOA, SRV};
    let ready = &["web.dwell. A 10.80.1.0", "web.dwell. A 10.80.1.2"][..];
    for (name, of, expected) in [
        ("web-0.dwell.", A, &["web-0.dwell. A 10.80.1.0"][..]),
        ("web-1.dwell.", A, &["web-1.dwell. A 10.80.1.1"]),
        ("WEB-0.Dwell.", A, &["WEB-0.Dwell. A 10.80.1.0"]),
        ("web-0.dwell.", ANY, &["web-0.dwell. A 10.80.1.0"]),
        ("web-0.dwell.", AAAA, &[]),
        ("web-0.dwell.", MX, &[]),
        ("web.dwell.", A, ready),
        ("web.dwell.", ANY, ready),
        ("web.dwell.", AAAA, &[]),
        ("db.dwell.", A, &[]),
        ("db-0.dwell.", A, &["db-0.dwell. A 10.80.200.9"]),
        ("db.dwell.", SRV, &[]),
        (
            "_80._tcp.web.dwell.",
            SRV,
            &[
                "_80._tcp.web.dwell. SRV 0 1 80 web-0.dwell.",
                "_80._tcp.web.dwell. SRV 0 1 80 web-2.dwell.",
            ],
        ),
        (
            "_udp.web.dwell.",
            SRV,
            &["_udp.web.dwell. SRV 0 1 53 web-0.dwell.", "_udp.web.dwell. SRV 0 1 53 web-2.dwell."],
        ),
        ("_tcp.web.dwell.", A, &[]),
        ("0.1.80.10.in-addr.arpa.", PTR, &["0.1.80.10.in-addr.arpa. PTR web-0.dwell."]),
        ("0.1.80.10.in-addr.arpa.", A, &[]),
        ("1.80.10.in-addr.arpa.", PTR, &[]),
        ("dwell.", A, &[]),
        ("dwell.", NS, &["dwell. NS ns.dns.dwell."]),
        ("80.10.in-addr.arpa.", NS, &["80.10.in-addr.arpa. NS ns.dns.dwell."]),
        ("ns.dns.dwell.", A, &["ns.dns.dwell. A 169.254.1.1"]),
        ("dns.dwell.", A, &[]),
        (
            "80.10.in-addr.arpa.",
            SOA,
            &["80.10.in-addr.arpa. SOA ns.dns.dwell. hostmaster.dwell. 7 3600 600 86400 2"],
        ),
    ] {
        let expected: Vec<String> = expected.iter().copied().map(str::to_owned).collect();
        assert_eq!(ask(name, of), (ResponseCode::NoError, expected), "{name} {of}");
    }
    let (_, all) = ask("web.dwell.", SRV);
    assert_eq!(all.len(), 6);
}

#[test]
fn what_names_there_are_not() {
    for name in [
        "web-3.dwell.",
        "web-00.dwell.",
        "no.dwell.",
        "x.web-0.dwell.",
        "x.dns.dwell.",
        "web-0.web.dwell.",
        "_81._tcp.web.dwell.",
        "_080._tcp.web.dwell.",
        "80._tcp.web.dwell.",
        "_tcp.db.dwell.",
        "_sctp.web.dwell.",
        "_80._tcp._x.web.dwell.",
        "99.1.80.10.in-addr.arpa.",
        "00.1.80.10.in-addr.arpa.",
        "300.1.80.10.in-addr.arpa.",
        "x.0.1.80.10.in-addr.arpa.",
    ] {
        assert_eq!(ask(name, RecordType::A), (ResponseCode::NXDomain, vec![]), "{name}");
    }
}

#[test]
fn what_is_not_ours_is_forwarded_for_instances_and_refused_to_others() {
    let directory = directory(3);
    for name in [
        "example.com.",
        ".",
        "dwell.example.com.",
        "notdwell.",
        "80.10.in-addr.arpa.example.",
        "10.in-addr.arpa.",
        "1.1.81.10.in-addr.arpa.",
        "arpa.",
    ] {
        let query = question(name, RecordType::A);
        let bytes = query.to_vec().unwrap();
        let forwarded = answer(&bytes, Some(names("dwell", &directory)), INSTANCE, 1);
        assert_eq!(forwarded, Answer::Forward { question_end: bytes.len() }, "{name}");
        let (refused, _) = reply_to(&query, names("dwell", &directory), OUTSIDE, 1);
        assert_eq!(refused.metadata.response_code, ResponseCode::Refused, "{name}");
        assert!(!refused.metadata.recursion_available);
    }
    let (reply, _) =
        reply_to(&question("web-0.dwell.", RecordType::A), names("dwell", &directory), OUTSIDE, 1);
    assert_eq!(reply.answers.len(), 1, "everybody may know the zone");
}

#[test]
fn a_range_that_ends_within_an_octet_has_several_reverse_zones() {
    let mut directory = directory(0);
    directory.instances.values_mut().for_each(|it| it.address = Ipv4Addr::new(10, 80, 17, 9));
    let cluster = "172.20.0.0/16, 10.80.16.0/20".parse().unwrap();
    let names = Names { cluster: &cluster, ..names("dwell", &directory) };
    let apex = |name: &str| {
        let (reply, _) = reply_to(&question(name, RecordType::SOA), names, OUTSIDE, 1);
        (reply.metadata.response_code, reply.answers.len(), reply.authorities.len())
    };
    assert_eq!(apex("17.80.10.in-addr.arpa."), (ResponseCode::NoError, 1, 0));
    assert_eq!(apex("9.17.80.10.in-addr.arpa."), (ResponseCode::NoError, 0, 1));
    assert_eq!(apex("9.18.80.10.in-addr.arpa."), (ResponseCode::NXDomain, 0, 1));
    assert_eq!(apex("80.10.in-addr.arpa."), (ResponseCode::Refused, 0, 0));
    assert_eq!(apex("9.32.80.10.in-addr.arpa."), (ResponseCode::Refused, 0, 0));
    assert_eq!(apex("20.172.in-addr.arpa."), (ResponseCode::NoError, 1, 0), "of the other range");
}

#[test]
fn with_a_prefix_names_have_both_addresses() {
    use RecordType::{A, AAAA, ANY, NS, PTR};
    let directory = directory(3);
    let ipv6 = Some("fd00:5::/64".parse().unwrap());
    let names = Names { ipv6, ..names("dwell", &directory) };
    let zone = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.0.0.0.0.0.d.f.ip6.arpa.";
    let of_web = format!("2.0.1.0.0.5.a.0.{zone}");
    let nobody = format!("9.9.9.0.0.5.a.0.{zone}");
    for (name, of, expected) in [
        ("web-0.dwell.", A, &["A 10.80.1.0"][..]),
        ("web-0.dwell.", AAAA, &["AAAA fd00:5::a50:100"]),
        ("web-0.dwell.", ANY, &["A 10.80.1.0"]),
        ("web.dwell.", AAAA, &["AAAA fd00:5::a50:100", "AAAA fd00:5::a50:102"]),
        ("db.dwell.", AAAA, &[]),
        ("ns.dns.dwell.", A, &["A 169.254.1.1"]),
        ("ns.dns.dwell.", AAAA, &[]),
        (zone, NS, &["NS ns.dns.dwell."]),
        (of_web.as_str(), PTR, &["PTR web-2.dwell."]),
        (of_web.as_str(), A, &[]),
        (&of_web[2..], PTR, &[]),
    ] {
        let (reply, _) = reply_to(&question(name, of), names, INSTANCE, 1);
        let mut answers: Vec<_> = reply.answers.iter().map(show).collect();
        answers.sort();
        let expected: Vec<_> = expected.iter().map(|it| format!("{name} {it}")).collect();
        assert_eq!((reply.metadata.response_code, answers), (ResponseCode::NoError, expected));
        let says_nothing = !reply.authorities.is_empty();
        assert_eq!(reply.answers.is_empty(), says_nothing, "{name} {of}");
    }
    let code = |name: &str| {
        let (reply, _) = reply_to(&question(name, PTR), names, OUTSIDE, 1);
        reply.metadata.response_code
    };
    assert_eq!(code(&nobody), ResponseCode::NXDomain);
    assert_eq!(code(&format!("x.{zone}")), ResponseCode::NXDomain);
    assert_eq!(code(&format!("1.{of_web}")), ResponseCode::NXDomain);
    assert_eq!(code(&zone[2..]), ResponseCode::Refused, "others may have it");
    assert_eq!(
        code(&of_web.replace(".5.0.0.0.0.0.d.f.", ".6.0.0.0.0.0.d.f.")),
        ResponseCode::Refused
    );
}

#[test]
fn as_many_ipv6_addresses_come_as_there_is_room_for() {
    let directory = directory(300);
    let ipv6 = Some("fd00:5::/64".parse().unwrap());
    let names = Names { ipv6, ..names("dwell", &directory) };
    let (reply, length) = reply_to(&question("web.dwell.", RecordType::AAAA), names, INSTANCE, 1);
    assert!(length <= 512 && reply.answers.len() > 10, "{length}: {}", reply.answers.len());
}

#[test]
fn what_is_not_known_yet_is_a_failure() {
    let empty = Directory::default();
    let query = question("web-0.dwell.", RecordType::A);
    let (reply, _) = reply_to(&query, names("dwell", &empty), INSTANCE, 1);
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let bytes = query.to_vec().unwrap();
    assert!(matches!(answer(&bytes, None, INSTANCE, 1), Answer::Forward { .. }));
    let Answer::Reply(reply) = answer(&bytes, None, OUTSIDE, 1) else { panic!() };
    assert_eq!(Message::from_vec(&reply).unwrap().metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn what_is_no_question() {
    let directory = directory(3);
    let code = |bytes: &[u8]| match answer(bytes, Some(names("dwell", &directory)), INSTANCE, 1) {
        Answer::Reply(reply) => Some(Message::from_vec(&reply).unwrap().metadata.response_code),
        Answer::Silence => None,
        Answer::Forward { .. } => panic!("forwarded {bytes:?}"),
    };
    let plain = question("web-0.dwell.", RecordType::A);
    let changed = |change: fn(&mut Message)| {
        let mut message = plain.clone();
        change(&mut message);
        message.to_vec().unwrap()
    };
    assert_eq!(code(&[]), None);
    assert_eq!(code(&plain.to_vec().unwrap()[..11]), None);
    assert_eq!(code(&plain.to_vec().unwrap()[..20]), Some(ResponseCode::FormErr));
    assert_eq!(code(&changed(|it| it.metadata.message_type = MessageType::Response)), None);
    assert_eq!(
        code(&changed(|it| it.metadata.op_code = OpCode::Update)),
        Some(ResponseCode::NotImp)
    );
    assert_eq!(code(&changed(|it| it.queries.clear())), Some(ResponseCode::FormErr));
    assert_eq!(
        code(&changed(|it| it.queries.push(it.queries[0].clone()))),
        Some(ResponseCode::FormErr)
    );
    assert_eq!(
        code(&changed(|it| {
            it.queries[0].set_query_class(DNSClass::CH);
        })),
        Some(ResponseCode::Refused)
    );
    assert_eq!(
        code(&changed(|it| {
            it.queries[0].set_query_type(RecordType::AXFR);
        })),
        Some(ResponseCode::Refused)
    );
    let newer = changed(|it| {
        let mut edns = Edns::new();
        edns.set_version(1);
        it.edns = Some(edns);
    });
    // BADSIG is the same number.
    assert_eq!(code(&newer).map(u16::from), Some(u16::from(ResponseCode::BADVERS)));
}

fn with_payload(mut query: Message, max_payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(max_payload);
    query.edns = Some(edns);
    query
}

#[test]
fn a_thousand_addresses_come_as_a_selection_or_all_over_a_stream() {
    let directory = directory(1001);
    let names = names("dwell", &directory);
    let query = question("web.dwell.", RecordType::A);
    let mut seen = BTreeSet::new();
    for (query, limit) in [
        (query.clone(), 512),
        (with_payload(query.clone(), 100), 512),
        (with_payload(query.clone(), 900), 900),
        (with_payload(query.clone(), 65535), usize::from(UDP_MAX_BYTES)),
    ] {
        for seed in 0..50 {
            let (reply, length) = reply_to(&query, names, INSTANCE, seed);
            assert!(!reply.metadata.truncation);
            assert_eq!(reply.edns.is_some(), query.edns.is_some());
            assert!(length <= limit && length + 32 > limit, "{length} of {limit}");
            seen.extend(reply.answers.iter().map(show));
        }
    }
    assert!(seen.len() > 900, "the selection is random, but only {} came", seen.len());
    let (reply, _) = reply_to(&query, names, STREAM, 1);
    let all: BTreeSet<String> = reply.answers.iter().map(show).collect();
    assert_eq!((all.len(), reply.answers.len()), (1000, 1000));
    let (other, _) = reply_to(&query, names, STREAM, 2);
    assert_ne!(reply.answers, other.answers, "the order is random");
}

#[test]
fn services_that_do_not_fit_are_asked_for_again() {
    let directory = directory(301);
    let names = names("dwell", &directory);
    let query = with_payload(question("_80._tcp.web.dwell.", RecordType::SRV), 1232);
    let (reply, length) = reply_to(&query, names, INSTANCE, 1);
    assert!(reply.metadata.truncation && reply.additionals.is_empty() && length <= 1232);
    assert!(reply.answers.len() > 20, "{}", reply.answers.len());
    let (reply, _) = reply_to(&query, names, STREAM, 1);
    assert!(!reply.metadata.truncation);
    let targets: BTreeSet<_> = reply
        .answers
        .iter()
        .map(|answer| match &answer.data {
            RData::SRV(service) => service.target.clone(),
            other => panic!("{other}"),
        })
        .collect();
    let addresses: BTreeSet<_> = reply.additionals.iter().map(|it| it.name.clone()).collect();
    assert_eq!((targets.len(), &addresses), (300, &targets));
}

#[test]
fn the_longest_names_still_fit() {
    let zone = format!("{0}.{0}.{0}", "z".repeat(60));
    let directory = directory(3);
    for name in ["web.", "_80._tcp.web.", ""] {
        for of in [RecordType::A, RecordType::SRV, RecordType::SOA, RecordType::NS] {
            let query = question(&format!("{name}{zone}."), of);
            let (reply, length) = reply_to(&query, names(&zone, &directory), INSTANCE, 1);
            assert!(length <= 512, "{name} {of}: {length}");
            assert!(!reply.metadata.truncation || !reply.answers.is_empty(), "{name} {of}");
        }
    }
}

fn any_query() -> impl Strategy<Value = Vec<u8>> {
    let labels = prop::sample::select(vec![
        "web", "web-0", "web-1", "db", "dns", "ns", "_tcp", "_80", "dwell", "10", "80", "1",
        "in-addr", "arpa", "com", "x",
    ]);
    let name = prop::collection::vec(labels, 0..7).prop_map(|labels| labels.join(".") + ".");
    let message =
        (name, any::<u16>(), prop::option::of(any::<u16>())).prop_map(|(name, of, payload)| {
            let query = question(&name, RecordType::from(of % 64));
            let query = payload.map_or(query.clone(), |payload| with_payload(query, payload));
            query.to_vec().unwrap()
        });
    // Sound, sound but for some bytes, and noise.
    let flaws = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let flawed =
        (message, flaws, any::<prop::sample::Index>()).prop_map(|(mut bytes, flaws, end)| {
            for (at, value) in &flaws {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if flaws.len() > 2 {
                bytes.truncate(end.index(bytes.len()));
            }
            bytes
        });
    prop_oneof![3 => flawed, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever comes: no panic, a reply that can be read and is for this question, never too long.
    #[test]
    fn every_input_has_a_sound_answer(query in any_query(), seed: u64, is_stream: bool, is_outside: bool) {
        let directory = directory(200);
        let transport = if is_stream { Transport::Tcp } else { Transport::Udp };
        let client = Client { may_forward: !is_outside, asked_at: IpAddr::V4(GATEWAY), transport };
        let names = names("dwell", &directory);
        match answer(&query, Some(names), client, seed) {
            Answer::Silence => {}
            Answer::Forward { question_end } => {
                prop_assert!(!is_outside && (12..=query.len()).contains(&question_end));
            }
            Answer::Reply(bytes) => {
                prop_assert!(is_stream || bytes.len() <= usize::from(UDP_MAX_BYTES));
                let reply = Message::from_vec(&bytes).unwrap();
                prop_assert_eq!(reply.metadata.message_type, MessageType::Response);
                prop_assert_eq!(&bytes[..2], &query[..2]);
                prop_assert_eq!(answer(&query, Some(names), client, seed), Answer::Reply(bytes));
            }
        }
    }
}
