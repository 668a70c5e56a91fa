//! Whether a file has the shape of the format: unknown keys and values that cannot be, all at once.
//!
//! The file is compared with the JSON Schema as it is written, before variables are filled in. So a key is
//! named as its author wrote it, wherever variables are used, and no value of a variable is ever repeated.
//! The reader of the types says one thing at a time; what it alone can say is about long spellings and values
//! of variables.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Error, Spanned};

use super::compose::{self, Place, Verdict};
use super::format;
use super::problem::{Problem, unknown_key};

/// A piece of YAML, and where it is.
pub(super) type Node = Spanned<Kind>;

/// What a piece of YAML is.
#[derive(Debug)]
pub(super) enum Kind {
    Map(Vec<(Spanned<String>, Node)>),
    List(Vec<Node>),
    /// As a text, whatever its type.
    Scalar(String),
    Null,
}

impl Kind {
    /// Whether it says no, or is empty.
    pub(super) fn asks_for_nothing(&self) -> bool {
        match self {
            Self::Map(entries) => entries.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Scalar(text) => text == "false",
            Self::Null => true,
        }
    }

    /// Whether it is one of these words, or a list or mapping of nothing else.
    pub(super) fn is_among(&self, words: &[&str]) -> bool {
        match self {
            Self::Map(entries) => {
                entries.iter().all(|(key, _)| words.contains(&key.value.as_str()))
            }
            Self::List(items) => items.iter().all(|item| item.value.is_among(words)),
            Self::Scalar(text) => words.contains(&text.as_str()),
            Self::Null => false,
        }
    }
}

/// What may be written in a place.
#[derive(Default)]
struct Expected<'a> {
    object: Option<&'a Value>,
    list: Option<&'a Value>,
    /// A scalar of any type.
    text: bool,
    /// What such a scalar has to be, for [`format::check`].
    format: Option<&'a str>,
    /// A whole number within these bounds.
    integer: Option<(u64, u64)>,
    boolean: bool,
    number: bool,
}

/// What a comparison with the schema found.
#[derive(Debug)]
pub(super) struct Found {
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
    /// What is ignored, and why.
    pub(super) warnings: Vec<Problem>,
}

/// Everything in which a file differs from the shape that a schema describes.
///
/// # Errors
/// If it is not YAML, or of more than a file may consist of.
pub(super) fn compare(
    text: &str,
    schema: &Value,
    options: serde_saphyr::Options,
) -> Result<Found, Error> {
    let file: Node = serde_saphyr::from_str_with_options(text, options)?;
    let found = Found { problems: Vec::new(), warnings: Vec::new() };
    let mut shape = Shape { root: schema, path: Vec::new(), found };
    shape.check(&file, schema);
    Ok(shape.found)
}

struct Shape<'a, 'n> {
    root: &'a Value,
    /// The keys that lead to what is looked at.
    path: Vec<&'n str>,
    found: Found,
}

impl<'a, 'n> Shape<'a, 'n> {
    fn check(&mut self, node: &'n Node, schema: &'a Value) {
        let mut expected = Expected::default();
        self.gather(schema, &mut expected);
        match &node.value {
            // Nothing where something has to be is the reader's to refuse: most may be left out.
            Kind::Null => {}
            Kind::Map(entries) => match expected.object {
                Some(object) => {
                    self.check_entries(entries, object);
                    for key in object["required"].as_array().into_iter().flatten() {
                        if entries
                            .iter()
                            .all(|(given, _)| Some(given.value.as_str()) != key.as_str())
                        {
                            let message = format!("key {key} is missing");
                            self.found.problems.push(Problem::at(node.referenced, message));
                        }
                    }
                }
                None => self.check_kind(node, "a mapping", &expected),
            },
            Kind::List(items) => match expected.list {
                Some(list) => items.iter().for_each(|item| self.check(item, &list["items"])),
                None => self.check_kind(node, "a list", &expected),
            },
            // It stands for something else.
            Kind::Scalar(text) if text.contains('$') => {}
            Kind::Scalar(text) if expected.text => {
                match expected.format.map_or(Ok(None), |name| format::check(name, text)) {
                    Ok(None) => {}
                    Ok(Some(ignored)) => {
                        self.found.warnings.push(Problem::at(node.referenced, ignored));
                    }
                    Err(wrong) => self.found.problems.push(Problem::at(node.referenced, wrong)),
                }
            }
            Kind::Scalar(text) => {
                let wrong = match expected.integer {
                    _ if expected.number => None,
                    Some((min, max)) => {
                        let fits = text.parse().is_ok_and(|value| (min..=max).contains(&value));
                        (!fits).then(|| format!("a whole number from {min} to {max}"))
                    }
                    None if expected.boolean => {
                        (text != "true" && text != "false").then(|| "true or false".into())
                    }
                    None => return self.check_kind(node, "a single value", &expected),
                };
                if let Some(expected) = wrong {
                    let text: String = text.chars().take(60).collect();
                    let message = format!("{text:?} does not fit here; write {expected}");
                    self.found.problems.push(Problem::at(node.referenced, message));
                }
            }
        }
    }

    fn check_entries(&mut self, entries: &'n [(Spanned<String>, Node)], object: &'a Value) {
        let properties = object["properties"].as_object();
        for (key, value) in entries {
            if let Some(name) = object["propertyNames"]["format"].as_str()
                && let Err(wrong) = format::check(name, &key.value)
            {
                self.found.problems.push(Problem::at(key.referenced, wrong));
            }
            let known = properties.and_then(|properties| properties.get(&key.value));
            self.path.push(&key.value);
            match (known, &object["additionalProperties"]) {
                (Some(schema), _) => self.check(value, schema),
                // Compose's place for what only other tools and anchors need.
                (None, Value::Bool(false)) if key.value.starts_with("x-") => {}
                (None, Value::Bool(false)) => {
                    let known = properties.into_iter().flat_map(|properties| properties.keys());
                    let known: Vec<&str> = known.map(String::as_str).collect();
                    self.path.pop();
                    self.foreign(key, &value.value, &known);
                    continue;
                }
                (None, schema) => self.check(value, schema),
            }
            self.path.pop();
        }
    }

    /// A key that the format does not have in its place.
    fn foreign(&mut self, key: &Spanned<String>, value: &Kind, known: &[&str]) {
        let name = &key.value;
        match compose::verdict(Place::of(&self.path), name, value) {
            Some(Verdict::Pass) => {}
            Some(Verdict::Ignore(why)) => {
                let warning = format!("{name:?} is ignored: {why}");
                self.found.warnings.push(Problem::at(key.referenced, warning));
            }
            Some(Verdict::Refuse(instead)) => {
                let problem = format!("{name:?} is not supported: {instead}");
                self.found.problems.push(Problem::at(key.referenced, problem));
            }
            None => {
                let problem = unknown_key(name, known);
                self.found.problems.push(Problem::at(key.referenced, problem));
            }
        }
    }

    /// That only another kind of value may be here. Where several may be, the reader says it better.
    fn check_kind(&mut self, node: &Node, is: &str, expected: &Expected) {
        let scalar =
            expected.text || expected.number || expected.boolean || expected.integer.is_some();
        let only = match (scalar, expected.object, expected.list) {
            (true, None, None) => "a single value, such as a text or a number",
            (false, Some(_), None) => "a mapping, KEY: VALUE",
            (false, None, Some(_)) => "a list, [A, B]",
            _ => return,
        };
        let message = format!("this is {is}; write {only}");
        self.found.problems.push(Problem::at(node.referenced, message));
    }

    /// Takes together all that a schema allows.
    fn gather(&self, schema: &'a Value, expected: &mut Expected<'a>) {
        if let Some(reference) = schema["$ref"].as_str() {
            let path = reference.trim_start_matches('#');
            return self.root.pointer(path).into_iter().for_each(|of| self.gather(of, expected));
        }
        for any in schema["anyOf"].as_array().into_iter().flatten() {
            self.gather(any, expected);
        }
        let types = match &schema["type"] {
            Value::Array(types) => types.as_slice(),
            one => std::slice::from_ref(one),
        };
        for name in types.iter().filter_map(Value::as_str) {
            match name {
                "object" => expected.object = Some(schema),
                "array" => expected.list = Some(schema),
                "string" => {
                    expected.text = true;
                    expected.format = schema["format"].as_str();
                }
                "integer" => expected.integer = Some(bounds(schema)),
                "number" => expected.number = true,
                "boolean" => expected.boolean = true,
                _ => {}
            }
        }
    }
}

fn bounds(schema: &Value) -> (u64, u64) {
    let widest = match schema["format"].as_str() {
        Some("uint16") => u16::MAX.into(),
        Some("uint32") => u32::MAX.into(),
        _ => u64::MAX,
    };
    let max = schema["maximum"].as_u64().unwrap_or(widest);
    (schema["minimum"].as_u64().unwrap_or(0), max)
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Kind, E> {
        Ok(Kind::Scalar(text.to_owned()))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Kind, E> {
        Ok(Kind::Scalar(String::new()))
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        Kind::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        Kind::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Kind::Map(entries))
    }
}
