//! Machines, as they are written in a file.

use std::borrow::Cow;

use dwell_core::id::VolumeName;
use dwell_core::workload::{Init, InitError, Machine, OnImageChange};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Value, json};

use super::shorthand::Shorthand;

/// The volume that has the root of a machine, unless its declaration names another.
const VOLUME: &str = "root";

/// A machine, or that it is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IsMachine(pub(super) Option<Machine>);

/// What can be said of a machine.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(deny_unknown_fields)]
pub(super) struct Long {
    /// What becomes of its root when another image is declared: it is kept, with the image that it was born from, until `dwell rebuild`
    /// (`keep`, the default), or begins anew from the new one (`rebuild`).
    #[serde(default)]
    on_image_change: OnChange,
    /// The volume that has its root; `root` if not given.
    volume: Option<String>,
}

/// What becomes of a root when another image is declared.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnChange {
    #[default]
    Keep,
    Rebuild,
}

impl Shorthand for IsMachine {
    const EXPECTING: &'static str = "true, false, or {on_image_change: keep|rebuild}";
    const FORMAT: &'static str = "machine";
    const LIST: bool = false;
    const FLAG: bool = true;
    type Long = Long;

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(Self(Some(machine(VOLUME, OnImageChange::Keep)?))),
            "false" => Ok(Self(None)),
            other => Err(format!("{other:?} is neither true nor false")),
        }
    }

    fn from_long(long: Long) -> Result<Self, String> {
        let on_image_change = match long.on_image_change {
            OnChange::Keep => OnImageChange::Keep,
            OnChange::Rebuild => OnImageChange::Rebuild,
        };
        let volume = long.volume.as_deref().unwrap_or(VOLUME);
        machine(volume, on_image_change).map(|machine| Self(Some(machine)))
    }
}

fn machine(volume: &str, on_image_change: OnImageChange) -> Result<Machine, String> {
    let volume = VolumeName::new(volume).map_err(|error| error.to_string())?;
    Ok(Machine { volume, on_image_change })
}

/// A machine as `dwell run --machine` has it.
pub(crate) fn usual() -> Option<Machine> {
    IsMachine::from_text("true").ok().and_then(|it| it.0)
}

/// As it is written in a file.
pub(super) fn shown(machine: &Machine) -> Value {
    let is_rebuilt = machine.on_image_change == OnImageChange::Rebuild;
    match (machine.volume.as_str() == VOLUME, is_rebuilt) {
        (true, false) => json!(true),
        (true, true) => json!({ "on_image_change": "rebuild" }),
        (false, false) => json!({ "volume": machine.volume }),
        (false, true) => json!({ "volume": machine.volume, "on_image_change": "rebuild" }),
    }
}

/// What process 1 is: true, false or systemd.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Process1(pub(super) Init);

impl TryFrom<String> for Process1 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: InitError| error.to_string())
    }
}

impl JsonSchema for Process1 {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Process1".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "boolean"], "format": "init" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_written_as_it_is_read() {
        let of = |text: &str| IsMachine::from_text(text).unwrap().0;
        assert_eq!(of("false"), None);
        assert_eq!(of("true"), usual());
        assert_eq!(shown(&usual().unwrap()), json!(true));
        let long = Long { on_image_change: OnChange::Rebuild, volume: Some("disk".to_owned()) };
        let machine = IsMachine::from_long(long).unwrap().0.unwrap();
        assert_eq!(machine.on_image_change, OnImageChange::Rebuild);
        assert_eq!(shown(&machine), json!({ "volume": "disk", "on_image_change": "rebuild" }));
        assert!(IsMachine::from_text("yes").unwrap_err().contains("neither"));
    }
}
