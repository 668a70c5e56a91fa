//! What the texts of a file have to be, by the `format` that the schema gives them.
//!
//! The types read them in the end. Here they are only tried, so that every text that cannot be read is named at
//! once; the reader stops at the first.

use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::workload::{AllowRule, Device, Mount, OnLost, Portion, Ssh, Ulimit};

use super::beside::{EnvFile, EnvFiles, Extends};
use super::held::{InMemory, Limit, OneOrMore};
use super::lower;
use super::machine::{IsMachine, Process1};
use super::shorthand::Shorthand;
use super::value::{Addresses, Condition, Http, Port, Restart, Test, Words, ignored_of_mount};

type Read = fn(&str) -> Result<(), String>;

/// The formats, and what reads them.
const FORMATS: &[(&str, Read)] = &[
    ("addresses", short::<Addresses>),
    ("allow-rule", short::<AllowRule>),
    ("amount-of-memory", parsed::<Bytes>),
    ("amount-of-processor", parsed::<Millicores>),
    ("command-line", short::<Words>),
    ("constraint", converted::<Condition>),
    ("device", short::<Device>),
    ("env-file", short::<EnvFile>),
    ("env-files", short::<EnvFiles>),
    ("extends", short::<Extends>),
    ("init", converted::<Process1>),
    ("limit", converted::<Limit>),
    ("machine", short::<IsMachine>),
    ("mount", short::<Mount>),
    ("on-lost", parsed::<OnLost>),
    ("page", short::<Http>),
    ("port", converted::<Port>),
    ("portion", parsed::<Portion>),
    ("restart", converted::<Restart>),
    ("span", parsed::<Millis>),
    ("ssh", short::<Ssh>),
    ("test", short::<Test>),
    ("texts", short::<OneOrMore>),
    ("tmpfs", short::<InMemory>),
    ("ulimit", short::<Ulimit>),
    ("workload-name", name),
];

/// Whether a text is of a format. A format that is not ours, such as `uint16`, says nothing about texts.
///
/// `Ok(Some(…))` says what of it is ignored.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub(super) fn check(format: &str, text: &str) -> Result<Option<String>, String> {
    let Some((_, read)) = FORMATS.iter().find(|(name, _)| *name == format) else {
        return Ok(None);
    };
    read(text)?;
    Ok(if format == Mount::FORMAT { ignored_of_mount(text) } else { None })
}

fn name(text: &str) -> Result<(), String> {
    lower::name_of(text).map(drop)
}

fn short<T: Shorthand>(text: &str) -> Result<(), String> {
    T::from_text(text).map(drop)
}

fn parsed<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<(), String> {
    text.parse::<T>().map(drop).map_err(|error| error.to_string())
}

fn converted<T: TryFrom<String, Error = String>>(text: &str) -> Result<(), String> {
    T::try_from(text.to_owned()).map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// What the schema calls a text, nobody would check if it were called otherwise here.
    #[test]
    fn every_format_of_the_schema_is_checked() {
        fn gather<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            // Of numbers.
            let width = |format: &&str| format.starts_with("uint");
            found.extend(value["format"].as_str().filter(|format| !width(format)));
            match value {
                Value::Object(entries) => entries.values().for_each(|value| gather(value, found)),
                Value::Array(items) => items.iter().for_each(|item| gather(item, found)),
                _ => {}
            }
        }
        let schema = super::super::schema::value();
        let mut found = Vec::new();
        gather(&schema, &mut found);
        found.sort_unstable();
        found.dedup();
        let known: Vec<&str> = FORMATS.iter().map(|(name, _)| *name).collect();
        assert_eq!(found, known);
    }
}
