//! Who may reach an instance and whom it may reach, as it is written under `network.allow_from` and `network.allow_to`.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use dwell_core::id::WorkloadName;
use dwell_core::workload::{AllowRule, AllowSource, PortRange};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::shorthand::Shorthand;
use super::value::{Pairs, split_protocol};

/// The long spelling of an [`AllowRule`]: exactly one of the first five keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct LongRule {
    /// `true`: everybody, also from beyond the cluster.
    any: Option<bool>,
    /// `true`: the other instances of this workload.
    #[serde(rename = "same-workload")]
    same_workload: Option<bool>,
    /// The instances of this workload.
    workload: Option<WorkloadName>,
    /// The instances of all workloads that have these labels.
    labels: Option<Pairs>,
    /// A range of addresses, or one address.
    cidr: Option<String>,
    /// Only to these ports, such as `80`, `53/udp` or `8000-8010`; to all if not given.
    #[serde(default)]
    ports: Vec<Ports>,
}

impl Shorthand for AllowRule {
    const EXPECTING: &'static str = "any, same-workload, a workload's name, a range of addresses such as \
                                     10.0.0.0/8, or a mapping such as {workload: web, ports: [80]}";
    const FORMAT: &'static str = "allow-rule";
    const LIST: bool = false;
    type Long = LongRule;

    /// A workload that is called `any` needs the long spelling.
    fn from_text(text: &str) -> Result<Self, String> {
        let from = match text {
            "any" => AllowSource::Any,
            "same-workload" => AllowSource::SameWorkload,
            range if range.contains(['/', '.', ':']) => cidr(range)?,
            name => WorkloadName::new(name)
                .map(AllowSource::Workload)
                .map_err(|_| format!("{text:?} is nobody; write {}", Self::EXPECTING))?,
        };
        Ok(Self { from, ports: Vec::new() })
    }

    fn from_long(long: LongRule) -> Result<Self, String> {
        if long.any == Some(false) || long.same_workload == Some(false) {
            return Err("a rule only allows; write true, or leave the rule out".into());
        }
        let labels = long.labels.map(|Pairs(pairs)| {
            let pairs = pairs.into_iter().map(|(key, value)| (key, value.unwrap_or_default()));
            AllowSource::Labels(pairs.collect())
        });
        let mut sources = [
            long.any.map(|_| AllowSource::Any),
            long.same_workload.map(|_| AllowSource::SameWorkload),
            long.workload.map(AllowSource::Workload),
            labels,
            long.cidr.as_deref().map(cidr).transpose()?,
        ]
        .into_iter()
        .flatten();
        match (sources.next(), sources.next()) {
            (Some(from), None) => {
                Ok(Self { from, ports: long.ports.into_iter().map(|ports| ports.0).collect() })
            }
            _ => Err(
                "give exactly one of \"any\", \"same-workload\", \"workload\", \"labels\" and \"cidr\""
                    .into(),
            ),
        }
    }
}

/// `10.0.0.0/8`, or an address alone.
fn cidr(text: &str) -> Result<AllowSource, String> {
    let address: Option<Ipv4Addr> = text.parse().ok();
    address.map(Into::into).or_else(|| text.parse().ok()).map(AllowSource::Cidr).ok_or_else(|| {
        format!("{text:?} is not a range of IPv4 addresses; write one such as 10.0.0.0/8")
    })
}

/// Ports, `80`, `53/udp` or `8000-8010/tcp`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Ports(PortRange);

impl TryFrom<String> for Ports {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (numbers, protocol) = split_protocol(&text);
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        match (first.parse(), last.parse(), protocol) {
            (Ok(first), Ok(last), Some(protocol)) if 0 < first && first <= last => {
                Ok(Self(PortRange { protocol, first, last }))
            }
            _ => Err(format!(
                "{text:?} names no ports; write numbers from 1 to 65535 such as 80, 53/udp or 8000-8010"
            )),
        }
    }
}

impl JsonSchema for Ports {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Ports".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "pattern": "^[0-9]+(-[0-9]+)?(/(tcp|udp))?$" })
    }
}
