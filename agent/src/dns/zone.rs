//! Which records the names of the cluster have. Pure.
//!
//! | name | records |
//! |---|---|
//! | `web-0.ZONE` | A, AAAA: the instance's address, as long as the instance exists |
//! | `web.ZONE` | A, AAAA: the ready instances, in random order; SRV: their ports |
//! | `_tcp.web.ZONE`, `_80._tcp.web.ZONE` | SRV: the ports of that protocol, that port |
//! | `5.1.80.10.in-addr.arpa` | PTR: the instance that has the address; likewise beneath `ip6.arpa` |
//! | `ZONE` and the reverse zone | SOA, NS |
//! | `ns.dns.ZONE` | A: the address that was asked |
//!
//! There is AAAA where the cluster has an IPv6 prefix, of which the part that holds all IPv4 addresses is a reverse zone.
//! An instance's name goes before a workload's of the same spelling.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dwell_core::directory::{Directory, DirectoryInstance};
use dwell_core::id::{InstanceName, WorkloadName};
use dwell_core::net::ipv6::extract;
use dwell_core::net::{Ipv6Range, Ranges};
use dwell_core::workload::{Protocol, ServicePort};
use fastrand::Rng;
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::Ipv4Net;

/// How long an address may be kept, in seconds: about as long as a change takes to matter.
const TTL_S: u32 = 5;
/// How long may be kept that there is nothing, in seconds: what was just asked for may be coming.
const NEGATIVE_TTL_S: u32 = 2;
/// How long the zone's own records may be kept, in seconds. They only change with the configuration.
const APEX_TTL_S: u32 = 60;

/// Everything that names are answered from.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The zone, such as `dwell`, without a dot at the end.
    pub zone: &'a str,
    /// The ranges of all instances, whose reverse names are ours.
    pub cluster: &'a Ranges,
    /// Where instances have IPv6 addresses as well.
    pub ipv6: Option<Ipv6Range>,
    /// Who is where.
    pub directory: &'a Directory,
}

/// What there is at a name of ours.
#[derive(Debug)]
pub(super) struct Found {
    /// The zone that the name is in.
    pub(super) apex: Name,
    /// Whether the name exists, with whatever records.
    pub(super) exists: bool,
    /// The records that were asked for.
    pub(super) answers: Vec<Record>,
    /// Addresses that whoever reads `answers` will want.
    pub(super) additionals: Vec<Record>,
}

/// One look at the names.
pub(super) struct Look<'a> {
    pub(super) names: Names<'a>,
    pub(super) name: &'a Name,
    pub(super) of: RecordType,
    /// The address that was asked.
    pub(super) asked_at: Option<Ipv4Addr>,
    /// How many answers are of use at most; of more, a random selection.
    pub(super) most: usize,
}

impl Look<'_> {
    /// What there is; `None` for a name that is not ours.
    pub(super) fn find(&self, random: &mut Rng) -> Option<Found> {
        let labels: Vec<String> = self
            .name
            .iter()
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let zone: Vec<&str> = self.names.zone.split('.').collect();
        if let Some(within) = labels.strip_suffix(&zone[..]) {
            let apex = Name::from_ascii(format!("{}.", self.names.zone)).ok()?;
            return Some(self.forward(apex, within, random));
        }
        match labels.strip_suffix(&["in-addr", "arpa"]) {
            Some(within) => self.reverse(within),
            None => self.reverse_ipv6(labels.strip_suffix(&["ip6", "arpa"])?),
        }
    }

    /// What goes with an answer without records: it says for how long there is nothing.
    pub(super) fn nothing(&self, apex: &Name) -> Option<Record> {
        self.authority(apex, NEGATIVE_TTL_S)
    }

    fn forward(&self, apex: Name, within: &[&str], random: &mut Rng) -> Found {
        match *within {
            [] => self.apex(apex),
            ["ns", "dns"] => Found::of(apex, self.ipv4(self.asked_at)),
            [label] => self.one(apex, label, random),
            [protocol, workload] => self.services(apex, workload, protocol, None, random),
            [port, protocol, workload] => {
                self.services(apex, workload, protocol, Some(port), random)
            }
            _ => Found::nowhere(apex),
        }
    }

    fn authority(&self, apex: &Name, ttl: u32) -> Option<Record> {
        let serial = (self.names.directory.revision.0 & u64::from(u32::MAX)) as u32;
        let (server, hostmaster) = (self.in_zone("ns.dns")?, self.in_zone("hostmaster")?);
        let soa = SOA::new(server, hostmaster, serial, 3600, 600, 86400, NEGATIVE_TTL_S);
        Some(Record::from_rdata(apex.clone(), ttl, RData::SOA(soa)))
    }

    fn apex(&self, apex: Name) -> Found {
        let answer = match self.of {
            RecordType::SOA | RecordType::ANY => self.authority(&apex, APEX_TTL_S),
            RecordType::NS => self
                .in_zone("ns.dns")
                .map(|server| Record::from_rdata(apex.clone(), APEX_TTL_S, RData::NS(NS(server)))),
            _ => None,
        };
        Found::of(apex, answer)
    }

    /// An instance or a workload.
    fn one(&self, apex: Name, label: &str, random: &mut Rng) -> Found {
        let directory = self.names.directory;
        let instance =
            label.parse().ok().and_then(|name: InstanceName| directory.instances.get(&name));
        if let Some(instance) = instance {
            return Found::of(apex, self.addresses(Some(instance.address)));
        }
        let workload = WorkloadName::new(label).ok();
        let known = workload.and_then(|name| directory.workloads.get_key_value(&name));
        match known {
            Some((name, _)) if self.asks_for(RecordType::A) || self.ipv6().is_some() => {
                let ready = self.ready(name).map(|(_, instance)| instance.address);
                let mut chosen = random.choose_multiple(ready, self.most);
                random.shuffle(&mut chosen);
                Found::of(apex, self.addresses(chosen))
            }
            Some((name, workload)) if self.of == RecordType::SRV => {
                self.ports(apex, name, &workload.ports, random)
            }
            Some(_) => Found::of(apex, None),
            // The name of the name server is beneath it.
            None if label == "dns" => Found::of(apex, None),
            None => Found::nowhere(apex),
        }
    }

    /// The services of a workload by protocol and port, as `_tcp` and `_80` name them.
    fn services(
        &self,
        apex: Name,
        workload: &str,
        protocol: &str,
        port: Option<&str>,
        random: &mut Rng,
    ) -> Found {
        let protocol = match protocol {
            "_tcp" => Protocol::Tcp,
            "_udp" => Protocol::Udp,
            _ => return Found::nowhere(apex),
        };
        let is_meant = |service: &&ServicePort| {
            service.protocol == protocol
                && port.is_none_or(|port| port.strip_prefix('_') == Some(&service.port.to_string()))
        };
        let workload = WorkloadName::new(workload).ok();
        let known = workload.and_then(|name| self.names.directory.workloads.get_key_value(&name));
        let Some((name, workload)) = known else { return Found::nowhere(apex) };
        let ports: Vec<_> = workload.ports.iter().filter(is_meant).copied().collect();
        match (ports.is_empty(), self.of) {
            (true, _) => Found::nowhere(apex),
            (false, RecordType::SRV | RecordType::ANY) => self.ports(apex, name, &ports, random),
            (false, _) => Found::of(apex, None),
        }
    }

    /// Each of the ports on each of the ready instances.
    fn ports(
        &self,
        apex: Name,
        workload: &WorkloadName,
        ports: &[ServicePort],
        random: &mut Rng,
    ) -> Found {
        let pairs = self.ready(workload).flat_map(|(name, instance)| {
            ports.iter().map(move |port| (name, instance.address, port.port))
        });
        let mut chosen = random.choose_multiple(pairs, self.most);
        random.shuffle(&mut chosen);
        let answers = chosen.iter().filter_map(|(instance, _, port)| {
            let target = self.in_zone(&instance.to_string())?;
            // Of equal weights, clients choose evenly.
            Some(self.record(RData::SRV(SRV::new(0, 1, *port, target))))
        });
        let targets: BTreeSet<_> =
            chosen.iter().map(|(instance, address, _)| (instance, address)).collect();
        let additionals = targets.into_iter().filter_map(|(instance, address)| {
            let name = self.in_zone(&instance.to_string())?;
            Some(Record::from_rdata(name, TTL_S, RData::A(A(*address))))
        });
        let (answers, additionals) = (answers.collect(), additionals.collect());
        Found { apex, exists: true, answers, additionals }
    }

    fn reverse(&self, within: &[&str]) -> Option<Found> {
        let mut octets = Vec::with_capacity(4);
        let mut rest = within;
        while let Some((label, before)) = rest.split_last().filter(|_| octets.len() < 4) {
            let Some(octet) = label.parse::<u8>().ok().filter(|octet| octet.to_string() == *label)
            else {
                break;
            };
            octets.push(octet);
            rest = before;
        }
        let known = octets.len();
        octets.resize(4, 0);
        let address = Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?);
        let prefix = u8::try_from(8 * known).ok()?;
        let asked = Ipv4Net::new(address, prefix).ok()?;
        let cluster = self.names.cluster.iter().find(|range| range.contains(&asked))?;
        // A range that ends within an octet is as many reverse zones as there are values of that octet.
        let depth = usize::from(cluster.prefix_len()).div_ceil(8);
        let apex = reverse_name(&address.octets()[..depth])?;
        Some(match (rest, known) {
            ([], known) if known == depth && depth < 4 => self.apex(apex),
            ([], 4) => self.holder(apex, address),
            ([], _) => Found::of(apex, None),
            _ => Found::nowhere(apex),
        })
    }

    /// Of a name in the zone that holds the IPv6 image of every IPv4 address.
    fn reverse_ipv6(&self, within: &[&str]) -> Option<Found> {
        const OF_ZONE: usize = 24;
        const OF_ADDRESS: usize = 32;
        let base = self.names.ipv6?.prefix().network();
        let digit = |label: &&str| match label.as_bytes() {
            [digit] => char::from(*digit).to_digit(16).map(u128::from),
            _ => None,
        };
        let digits: Vec<u128> = within.iter().rev().map_while(digit).collect();
        let known = digits.len().min(OF_ADDRESS);
        let bits = digits.iter().take(known).fold(0, |bits, digit| bits << 4 | digit);
        let bits = bits.checked_shl(u32::try_from(4 * (OF_ADDRESS - known)).ok()?)?;
        let (zone, address) = extract(bits.into());
        if known < OF_ZONE || zone != base {
            return None;
        }
        let apex = digits.iter().take(OF_ZONE).rev().map(|digit| format!("{digit:x}."));
        let apex = Name::from_ascii(format!("{}ip6.arpa.", apex.collect::<String>())).ok()?;
        Some(match within.len() {
            OF_ZONE => self.apex(apex),
            OF_ADDRESS if known == OF_ADDRESS && self.names.cluster.contains(address) => {
                self.holder(apex, address)
            }
            length if length == known && known < OF_ADDRESS => Found::of(apex, None),
            _ => Found::nowhere(apex),
        })
    }

    /// Whose an address is. This looks through all instances: the question is rare, and an index would
    /// cost every node more memory than all else that names need.
    fn holder(&self, apex: Name, address: Ipv4Addr) -> Found {
        let mut instances = self.names.directory.instances.iter();
        let Some((holder, _)) = instances.find(|(_, instance)| instance.address == address) else {
            return Found::nowhere(apex);
        };
        let name = self.in_zone(&holder.to_string()).filter(|_| self.asks_for(RecordType::PTR));
        Found::of(apex, name.map(|name| self.record(RData::PTR(PTR(name)))))
    }

    fn ready(
        &self,
        workload: &WorkloadName,
    ) -> impl Iterator<Item = (&InstanceName, &DirectoryInstance)> {
        self.names.directory.instances_of(workload).filter(|(_, instance)| instance.ready)
    }

    /// In the protocol that is asked for.
    fn addresses(&self, addresses: impl IntoIterator<Item = Ipv4Addr>) -> Vec<Record> {
        let Some(range) = self.ipv6() else { return self.ipv4(addresses) };
        let addresses = addresses.into_iter().map(|address| range.address(address));
        addresses.map(|address| self.record(RData::AAAA(AAAA(address)))).collect()
    }

    /// The range in which addresses are asked for, if they are.
    fn ipv6(&self) -> Option<Ipv6Range> {
        self.names.ipv6.filter(|_| self.of == RecordType::AAAA)
    }

    fn ipv4(&self, addresses: impl IntoIterator<Item = Ipv4Addr>) -> Vec<Record> {
        if !self.asks_for(RecordType::A) {
            return Vec::new();
        }
        addresses.into_iter().map(|address| self.record(RData::A(A(address)))).collect()
    }

    /// To ask for anything is to ask for what the name is for (RFC 8482).
    fn asks_for(&self, of: RecordType) -> bool {
        self.of == of || self.of == RecordType::ANY
    }

    /// A record of the name that was asked for, in the spelling it was asked in.
    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), TTL_S, data)
    }

    /// `None` if that would be longer than a name can be.
    fn in_zone(&self, label: &str) -> Option<Name> {
        Name::from_ascii(format!("{label}.{}.", self.names.zone)).ok()
    }
}

impl Found {
    fn of(apex: Name, answers: impl IntoIterator<Item = Record>) -> Self {
        let answers = answers.into_iter().collect();
        Self { apex, exists: true, answers, additionals: Vec::new() }
    }

    fn nowhere(apex: Name) -> Self {
        Self { exists: false, ..Self::of(apex, None) }
    }
}

fn reverse_name(octets: &[u8]) -> Option<Name> {
    let labels: String = octets.iter().rev().map(|octet| format!("{octet}.")).collect();
    Name::from_ascii(format!("{labels}in-addr.arpa.")).ok()
}
