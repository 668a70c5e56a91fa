//! The values of the file that are more than a text or a number.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::net::Ipv4Addr;

use dwell_core::id::{KeySetName, VolumeName};
use dwell_core::workload::{
    Constraint, Mount, MountSource, Protocol, RestartPolicy, ServicePort, Ssh,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::shorthand::Shorthand;

/// A mapping from names of workloads in the order of the file, with the positions of its keys.
#[derive(Debug)]
pub(super) struct Named<T>(pub(super) Vec<(Spanned<String>, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Named<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping from names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Named(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": { "format": "workload-name" },
            "additionalProperties": generator.subschema_for::<T>(),
        })
    }
}

/// `KEY: VALUE` or a list of `KEY=VALUE`; `None` where the value is left out.
#[derive(Debug, Default)]
pub(super) struct Pairs(pub(super) Vec<(String, Option<String>)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping KEY: VALUE or a list of KEY=VALUE")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Pairs, A::Error> {
                let (mut pairs, mut keys) = (Vec::new(), BTreeSet::new());
                while let Some(text) = list.next_element::<String>()? {
                    let (key, value) = split_pair(&text);
                    if !keys.insert(key.clone()) {
                        let key = dwell_core::instance::sanitize(&key, 60);
                        return Err(A::Error::custom(format!(
                            "{key:?} is given twice; keep one of them"
                        )));
                    }
                    pairs.push((key, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_any(Entries)
    }
}

/// `KEY=VALUE`, or `KEY` alone.
pub(super) fn split_pair(text: &str) -> (String, Option<String>) {
    match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (text.to_owned(), None),
    }
}

impl JsonSchema for Pairs {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Pairs".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let value = json_schema!({ "type": ["string", "number", "boolean", "null"] });
        json_schema!({ "anyOf": [
            { "type": "object", "additionalProperties": value },
            { "type": "array", "items": { "type": "string" } },
        ] })
    }
}

/// A command and its arguments.
#[derive(Debug)]
pub(super) struct Words(pub(super) Vec<String>);

impl Shorthand for Words {
    const EXPECTING: &'static str = "a command line or a list of words";
    const FORMAT: &'static str = "command-line";
    const LIST: bool = true;
    type Long = Vec<String>;

    fn from_text(text: &str) -> Result<Self, String> {
        shlex::split(text)
            .map(Self)
            .ok_or_else(|| "the command line ends within quotes; close them".into())
    }

    fn from_long(words: Vec<String>) -> Result<Self, String> {
        Ok(Self(words))
    }
}

/// Addresses asked for.
#[derive(Debug)]
pub(super) struct Addresses(pub(super) Vec<Ipv4Addr>);

impl Shorthand for Addresses {
    const EXPECTING: &'static str = "an IPv4 address or a list of them";
    const FORMAT: &'static str = "addresses";
    const LIST: bool = true;
    type Long = Vec<String>;

    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_long(vec![text.to_owned()])
    }

    fn from_long(texts: Vec<String>) -> Result<Self, String> {
        let address = |text: &String| {
            text.parse().map_err(|_| {
                format!("{text:?} is not an IPv4 address; write one such as 10.80.0.5")
            })
        };
        texts.iter().map(address).collect::<Result<_, String>>().map(Self)
    }
}

/// The command of a health check; `None` for no check.
#[derive(Debug)]
pub(super) struct Test(pub(super) Option<Vec<String>>);

impl Shorthand for Test {
    const EXPECTING: &'static str =
        "a line for a shell, or a list that begins with CMD or CMD-SHELL";
    const FORMAT: &'static str = "test";
    const LIST: bool = true;
    type Long = Vec<String>;

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self(Some(vec!["/bin/sh".into(), "-c".into(), text.into()])))
    }

    fn from_long(mut words: Vec<String>) -> Result<Self, String> {
        let kind = if words.is_empty() { String::new() } else { words.remove(0) };
        match (kind.as_str(), words.as_slice()) {
            ("NONE", []) => Ok(Self(None)),
            ("CMD", [_, ..]) => Ok(Self(Some(words))),
            ("CMD-SHELL", [line]) => Self::from_text(line),
            _ => Err("write [CMD, PROGRAM, ARGUMENT…], [CMD-SHELL, LINE] or [NONE]".into()),
        }
    }
}

/// A page to ask for.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Http {
    /// Port number.
    pub(super) port: u16,
    /// Path and query; `/` if not given.
    #[serde(default = "root")]
    pub(super) path: String,
}

fn root() -> String {
    "/".into()
}

impl Shorthand for Http {
    const EXPECTING: &'static str = "a text such as \":8080/healthz\", or port and path";
    const FORMAT: &'static str = "page";
    const LIST: bool = false;
    type Long = Self;

    fn from_text(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix(':').unwrap_or(text);
        let (port, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let port = port
            .parse()
            .map_err(|_| format!("{text:?} names no port; write {}", Self::EXPECTING))?;
        Ok(Self { port, path: if path.is_empty() { root() } else { path.into() } })
    }

    fn from_long(long: Self) -> Result<Self, String> {
        Ok(long)
    }
}

/// The long spelling of [`Ssh`].
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct SshKeys {
    /// Public keys, one line each, as in OpenSSH's `authorized_keys`.
    #[serde(default)]
    authorized_keys: Vec<String>,
    /// Names of the controller's key sets that count here; all of them if not given.
    #[serde(default)]
    key_sets: Option<Vec<KeySetName>>,
    /// The names that may be logged in as; any if not given. `@container` is the container's own user.
    #[serde(default)]
    users: Option<Vec<String>>,
    /// Who somebody is that logs in without choosing a name; `@container` if not given.
    #[serde(default)]
    login_as: Option<String>,
    /// Whether accounts of the container let others in by their `~/.ssh/authorized_keys`; those of a machine do if not given.
    #[serde(default)]
    account_keys: Option<bool>,
}

impl Shorthand for Ssh {
    const EXPECTING: &'static str =
        "image, off, or a mapping with authorized_keys, key_sets, users, login_as and account_keys";
    const FORMAT: &'static str = "ssh";
    const LIST: bool = false;
    type Long = SshKeys;

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "image" => Ok(Self::Image),
            "off" => Ok(Self::Off),
            _ => Err(format!("{text:?} is not known; write {}", Self::EXPECTING)),
        }
    }

    fn from_long(keys: SshKeys) -> Result<Self, String> {
        let SshKeys { authorized_keys, key_sets, users, login_as, account_keys } = keys;
        Ok(Self::Dwell { authorized_keys, key_sets, users, login_as, account_keys })
    }
}

/// Options of a mount that mean something to other tools only: labels of SELinux, and how desktops share files.
const MOUNT_OPTIONS_IGNORED: &[&str] = &["z", "Z", "cached", "delegated", "consistent", "nocopy"];

/// What a mount in its short spelling asks for in vain, if it does.
pub(super) fn ignored_of_mount(text: &str) -> Option<String> {
    let options = text.splitn(3, ':').nth(2)?;
    let option = options.split(',').find(|option| MOUNT_OPTIONS_IGNORED.contains(option))?;
    Some(format!(
        "option {option:?} of a mount is ignored: files are mounted as they are on the node"
    ))
}

/// The long spelling of a [`Mount`].
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct LongMount {
    /// `volume` or `bind`; told from the source if not given.
    #[serde(rename = "type")]
    kind: Option<MountKind>,
    /// A volume's name, or an absolute path of the node.
    source: String,
    /// An absolute path inside.
    target: String,
    /// Whether writing is refused.
    #[serde(default)]
    read_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum MountKind {
    Volume,
    Bind,
}

impl Shorthand for Mount {
    const EXPECTING: &'static str =
        "NAME:/path, /path/of/the/node:/path, or a mapping with source and target";
    const FORMAT: &'static str = "mount";
    const LIST: bool = false;
    type Long = LongMount;

    fn from_text(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match parts[..] {
            [source, target] => (source, target, ""),
            [source, target, options] => (source, target, options),
            _ => return Err(format!("{text:?} is not SOURCE:TARGET; write {}", Self::EXPECTING)),
        };
        let mut read_only = false;
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" => read_only = true,
                "rw" => {}
                _ if MOUNT_OPTIONS_IGNORED.contains(&option) => {}
                _ => {
                    return Err(format!(
                        "{option:?} is not an option of a mount; write SOURCE:TARGET, SOURCE:TARGET:ro or SOURCE:TARGET:rw"
                    ));
                }
            }
        }
        Ok(Self { source: mount_source(source)?, target: target.into(), read_only })
    }

    fn from_long(long: LongMount) -> Result<Self, String> {
        let source = mount_source(&long.source)?;
        let kind = match source {
            MountSource::Volume(_) => MountKind::Volume,
            MountSource::Bind(_) => MountKind::Bind,
        };
        if long.kind.is_some_and(|asked| asked != kind) {
            return Err(format!(
                "source {:?} does not fit its type; a volume has a name, a bind an absolute path",
                long.source
            ));
        }
        Ok(Self { source, target: long.target, read_only: long.read_only })
    }
}

fn mount_source(text: &str) -> Result<MountSource, String> {
    if text.starts_with('/') {
        return Ok(MountSource::Bind(text.to_owned()));
    }
    if text.starts_with(['.', '~']) {
        return Err(format!(
            "{text:?} is relative, but nodes do not have your directories; for data, name a volume, as in data:/path (\"dwell import\" does); \
             for a file, put it into the image, or on the nodes beneath a path of \"allow_binds\" and write that absolute path"
        ));
    }
    VolumeName::new(text).map(MountSource::Volume).map_err(|error| error.to_string())
}

/// A port, `80` or `53/udp`, or a range of them, `8000-8010`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Port {
    first: u16,
    last: u16,
    protocol: Protocol,
}

impl Port {
    /// The ports of the range.
    pub(super) fn each(self) -> impl Iterator<Item = ServicePort> {
        (self.first..=self.last).map(move |port| ServicePort { port, protocol: self.protocol })
    }
}

impl TryFrom<String> for Port {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        /// The most ports of a range.
        const RANGE_MAX: u16 = 1000;
        let (numbers, protocol) = split_protocol(&text);
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        match (first.parse::<u16>(), last.parse::<u16>(), protocol) {
            (Ok(first), Ok(last), Some(protocol)) if first <= last && last - first < RANGE_MAX => {
                Ok(Self { first, last, protocol })
            }
            _ => Err(format!(
                "{text:?} is not a port; write a number from 1 to 65535, 53/udp, or a range such as 8000-8010"
            )),
        }
    }
}

/// What comes before `/tcp`, `/udp` or nothing, and the transport; `None` for any other.
pub(super) fn split_protocol(text: &str) -> (&str, Option<Protocol>) {
    match text.split_once('/') {
        None => (text, Some(Protocol::Tcp)),
        Some((rest, "tcp")) => (rest, Some(Protocol::Tcp)),
        Some((rest, "udp")) => (rest, Some(Protocol::Udp)),
        Some((rest, _)) => (rest, None),
    }
}

impl JsonSchema for Port {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Port".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let pattern = "^[0-9]+(-[0-9]+)?(/(tcp|udp))?$";
        json_schema!({ "type": ["integer", "string"], "format": "port", "pattern": pattern })
    }
}

/// What happens when the main process ends, in Compose's words.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(inline, extend("format" = "restart"))]
pub(super) struct Restart(#[schemars(with = "String")] pub(super) RestartPolicy);

impl TryFrom<String> for Restart {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let policy = match text.as_str() {
            "always" | "unless-stopped" => Some(RestartPolicy::Always),
            "no" | "never" => Some(RestartPolicy::Never),
            "on-failure" => Some(RestartPolicy::OnFailure { max_retries: None }),
            other => other.strip_prefix("on-failure:").and_then(|times| {
                Some(RestartPolicy::OnFailure { max_retries: Some(times.parse().ok()?) })
            }),
        };
        policy.map(Self).ok_or_else(|| {
            format!("{text:?} is not a restart policy; write always, on-failure, on-failure:TIMES or \"no\"")
        })
    }
}

/// When a node asks the registry for an image.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(inline, extend("enum" = ["missing", "newest", "pinned"]))]
pub(super) struct ImagePolicy(
    #[schemars(with = "String")] pub(super) dwell_core::workload::ImagePolicy,
);

impl TryFrom<String> for ImagePolicy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        use dwell_core::workload::ImagePolicy as Policy;
        match text.as_str() {
            "missing" => Ok(Self(Policy::Missing)),
            "newest" => Ok(Self(Policy::Newest)),
            "pinned" => Ok(Self(Policy::Pinned)),
            _ => Err(format!("{text:?} is no policy for images; write missing, newest or pinned")),
        }
    }
}

/// The same in Compose's words.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(inline, extend("enum" = ["missing", "if_not_present", "always"]))]
pub(super) struct PullPolicy(#[schemars(with = "String")] pub(super) ImagePolicy);

impl TryFrom<String> for PullPolicy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        use dwell_core::workload::ImagePolicy as Policy;
        match text.as_str() {
            "missing" | "if_not_present" => Ok(Self(ImagePolicy(Policy::Missing))),
            "always" => Ok(Self(ImagePolicy(Policy::Newest))),
            "build" => {
                Err("dwell runs images; build and push one, and remove \"pull_policy\"".into())
            }
            _ => Err(format!(
                "{text:?} is not what a node can do; write missing, or always for what a tag means at each new version"
            )),
        }
    }
}

/// A constraint, in dwell's spelling or Compose's.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(inline, extend("format" = "constraint"))]
pub(super) struct Condition(#[schemars(with = "String")] pub(super) Constraint);

impl TryFrom<String> for Condition {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut constraint: Constraint = text
            .parse()
            .map_err(|error: dwell_core::workload::ConstraintError| error.to_string())?;
        constraint.key = match constraint.key.as_str() {
            "node.hostname" => "node.name".into(),
            "node.platform.arch" => "node.arch".into(),
            "node.name" | "node.arch" => constraint.key,
            key => match key.strip_prefix("node.labels.") {
                Some(label) => label.to_owned(),
                None if key.starts_with("node.") => {
                    return Err(format!(
                        "{key:?} is nothing nodes are known by; use node.name, node.arch or a label"
                    ));
                }
                None => constraint.key,
            },
        };
        Ok(Self(constraint))
    }
}
