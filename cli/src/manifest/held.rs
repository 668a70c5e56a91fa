//! How processes are held, as Compose writes it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use dwell_core::workload::{Device, Most, Tmpfs, Ulimit};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::shorthand::Shorthand;
use super::value::Pairs;

/// Directories in memory: `/run`, or `/run:size=64m,mode=755`.
#[derive(Debug)]
pub(super) struct InMemory(pub(super) Vec<Tmpfs>);

impl Shorthand for InMemory {
    const EXPECTING: &'static str = "a path such as /run or /run:size=64m, or a list of them";
    const FORMAT: &'static str = "tmpfs";
    const LIST: bool = true;
    type Long = Vec<String>;

    fn from_text(text: &str) -> Result<Self, String> {
        tmpfs(text).map(|one| Self(vec![one]))
    }

    fn from_long(long: Vec<String>) -> Result<Self, String> {
        long.iter().map(|one| tmpfs(one)).collect::<Result<_, _>>().map(Self)
    }
}

fn tmpfs(text: &str) -> Result<Tmpfs, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut one = Tmpfs { target: target.to_owned(), size: None, mode: None };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => {
                one.size = Some(size.parse().map_err(|error| format!("{text:?}: {error}"))?);
            }
            Some(("mode", mode)) => {
                let read = u32::from_str_radix(mode, 8);
                one.mode = Some(read.map_err(|_| {
                    format!("{text:?}: {mode:?} is no mode; write octal digits such as 755")
                })?);
            }
            // What holds of every one that an engine mounts.
            None if ["rw", "noexec", "nosuid", "nodev"].contains(&option) => {}
            _ => return Err(format!("{text:?}: {option:?} is not known; there are size and mode")),
        }
    }
    Ok(one)
}

/// As it is written in a file.
pub(super) fn shown(one: &Tmpfs) -> String {
    let size = one.size.map(|size| format!("size={size}"));
    let mode = one.mode.map(|mode| format!("mode={mode:o}"));
    let options: Vec<String> = size.into_iter().chain(mode).collect();
    match options.is_empty() {
        true => one.target.clone(),
        false => format!("{}:{}", one.target, options.join(",")),
    }
}

/// A text, or a list of them.
#[derive(Debug)]
pub(super) struct OneOrMore(pub(super) Vec<String>);

impl Shorthand for OneOrMore {
    const EXPECTING: &'static str = "a text, or a list of them";
    const FORMAT: &'static str = "texts";
    const LIST: bool = true;
    type Long = Vec<String>;

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self(vec![text.to_owned()]))
    }

    fn from_long(long: Vec<String>) -> Result<Self, String> {
        Ok(Self(long))
    }
}

/// What may be done with a device, where nothing is said.
const ALL_OF_A_DEVICE: &str = "rwm";

/// The long spelling of a [`Device`].
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct LongDevice {
    /// Its path on the node.
    source: String,
    /// Its path inside; the same if not given.
    target: Option<String>,
    /// Some of `r`, `w` and `m`; all of them if not given.
    permissions: Option<String>,
}

impl Shorthand for Device {
    const EXPECTING: &'static str =
        "/dev/NAME, /dev/NAME:/dev/INSIDE, or a mapping with source, target and permissions";
    const FORMAT: &'static str = "device";
    const LIST: bool = false;
    type Long = LongDevice;

    fn from_text(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, permissions) = match parts[..] {
            [source] => (source, None, None),
            // As Docker reads it.
            [source, rights] if !rights.starts_with('/') => (source, None, Some(rights)),
            [source, target] => (source, Some(target), None),
            [source, target, rights] => (source, Some(target), Some(rights)),
            _ => return Err(format!("{text:?} is no device; write {}", Self::EXPECTING)),
        };
        Self::from_long(LongDevice {
            source: source.to_owned(),
            target: target.map(str::to_owned),
            permissions: permissions.map(str::to_owned),
        })
    }

    fn from_long(long: LongDevice) -> Result<Self, String> {
        Ok(Self {
            target: long.target.unwrap_or_else(|| long.source.clone()),
            permissions: long.permissions.unwrap_or_else(|| ALL_OF_A_DEVICE.to_owned()),
            source: long.source,
        })
    }
}

/// As it is written in a file.
pub(super) fn shown_device(device: &Device) -> String {
    let Device { source, target, permissions } = device;
    match (source == target, permissions == ALL_OF_A_DEVICE) {
        (true, true) => source.clone(),
        (false, true) => format!("{source}:{target}"),
        (_, false) => format!("{source}:{target}:{permissions}"),
    }
}

/// Two limits.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(deny_unknown_fields)]
pub(super) struct SoftAndHard {
    /// What a process is held to; -1 for any number.
    soft: Limit,
    /// To what it may raise that; -1 for any number.
    hard: Limit,
}

/// A number, or -1 for any.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Limit(Most);

impl TryFrom<String> for Limit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number: i64 = text
            .parse()
            .map_err(|_| format!("{text:?} is no limit; write a number, or -1 for any"))?;
        Most::try_from(number).map(Self).map_err(|error| error.to_string())
    }
}

impl JsonSchema for Limit {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Limit".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "format": "limit" })
    }
}

impl Shorthand for Ulimit {
    const EXPECTING: &'static str = "a number, or {soft: NUMBER, hard: NUMBER}";
    const FORMAT: &'static str = "ulimit";
    const LIST: bool = false;
    const NUMBER: bool = true;
    type Long = SoftAndHard;

    fn from_text(text: &str) -> Result<Self, String> {
        Limit::try_from(text.to_owned()).map(|Limit(most)| Self::of(most))
    }

    fn from_long(long: SoftAndHard) -> Result<Self, String> {
        Ok(Self { soft: long.soft.0, hard: long.hard.0 })
    }
}

/// Names and their addresses: `db: 192.0.2.9`, or in a list `db=192.0.2.9` and `db:192.0.2.9`.
pub(super) fn hosts(pairs: Pairs) -> Result<BTreeMap<String, IpAddr>, String> {
    let entry = |(key, value): (String, Option<String>)| {
        let split = |value: Option<String>| match value {
            Some(value) => Some((key.clone(), value)),
            None => key.split_once(':').map(|(name, at)| (name.to_owned(), at.to_owned())),
        };
        let (name, at) = split(value)
            .ok_or_else(|| format!("extra_hosts: {key:?} has no address; write NAME: ADDRESS"))?;
        if at == "host-gateway" {
            return Err(format!(
                "extra_hosts: {name}: instances do not reach their node by a name; write its address, and open the port with \
                 \"host_access\" in its agent.yaml"
            ));
        }
        let bare = at.strip_prefix('[').and_then(|at| at.strip_suffix(']')).unwrap_or(&at);
        let address = bare.parse();
        let address = address.map_err(|_| format!("extra_hosts: {name}: {at:?} is no address"))?;
        Ok((name, address))
    };
    pairs.0.into_iter().map(entry).collect()
}

/// A capability as it is called here: without `CAP_`, in capitals.
pub(super) fn capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("CAP_").unwrap_or(&name).to_owned()
}

#[cfg(test)]
mod tests {
    use dwell_core::quantity::Bytes;

    use super::*;

    #[test]
    fn directories_in_memory() {
        for (text, target, size, mode) in [
            ("/run", "/run", None, None),
            ("/run:rw,noexec", "/run", None, None),
            ("/run:size=64m,mode=755", "/run", Some(Bytes::mebi(64)), Some(0o755)),
        ] {
            let one = tmpfs(text).unwrap();
            assert_eq!((one.target.as_str(), one.size, one.mode), (target, size, mode));
            assert_eq!(tmpfs(&shown(&one)), Ok(one));
        }
        for (bad, says) in [
            ("/run:uid=1", "is not known; there are size and mode"),
            ("/run:mode=9", "octal digits"),
            ("/run:size=x", "/run:size=x"),
        ] {
            assert!(tmpfs(bad).unwrap_err().contains(says), "{bad}");
        }
    }

    #[test]
    fn devices_are_written_as_docker_reads_them() {
        for (text, source, target, permissions) in [
            ("/dev/fuse", "/dev/fuse", "/dev/fuse", "rwm"),
            ("/dev/a:/dev/b", "/dev/a", "/dev/b", "rwm"),
            ("/dev/a:r", "/dev/a", "/dev/a", "r"),
            ("/dev/a:/dev/b:rw", "/dev/a", "/dev/b", "rw"),
        ] {
            let one = Device::from_text(text).unwrap();
            let is = (one.source.as_str(), one.target.as_str(), one.permissions.as_str());
            assert_eq!(is, (source, target, permissions));
            assert_eq!(Device::from_text(&shown_device(&one)), Ok(one));
        }
        assert!(Device::from_text("a:b:c:d").unwrap_err().contains("is no device"));
    }

    #[test]
    fn limits_are_one_number_or_two() {
        let both = Ulimit { soft: Most::Number(1), hard: Most::Unlimited };
        assert_eq!(Ulimit::from_text("65536"), Ok(Ulimit::of(Most::Number(65_536))));
        let long = SoftAndHard { soft: Limit(Most::Number(1)), hard: Limit(Most::Unlimited) };
        assert_eq!(Ulimit::from_long(long), Ok(both));
        assert!(Ulimit::from_text("many").unwrap_err().contains("write a number"));
        assert!(Ulimit::from_text("-2").unwrap_err().contains("-1 for none"));
    }

    #[test]
    fn hosts_have_addresses() {
        let of = |key: &str, value: Option<&str>| {
            hosts(Pairs(vec![(key.to_owned(), value.map(str::to_owned))]))
        };
        let one: BTreeMap<_, _> = [("db".to_owned(), "192.0.2.9".parse().unwrap())].into();
        assert_eq!(of("db", Some("192.0.2.9")), Ok(one.clone()));
        assert_eq!(of("db:192.0.2.9", None), Ok(one));
        let six = of("six:[2001:db8::1]", None).unwrap();
        assert_eq!(six["six"].to_string(), "2001:db8::1");
        assert!(of("db", None).unwrap_err().contains("has no address"));
        assert!(of("h", Some("host-gateway")).unwrap_err().contains("host_access"));
        assert!(of("h", Some("there")).unwrap_err().contains("is no address"));
    }
}
