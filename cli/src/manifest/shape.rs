//! Whether a file has the shape of the format: unknown keys and values of a wrong kind, all at once.
//!
//! The file is compared with the JSON Schema as it is written, before variables are filled in. So a key is
//! named as its author wrote it, wherever variables are used, and no value of a variable is ever repeated.
//! The reader of the types says one thing at a time; what it says is about values only.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Error, Spanned};

use super::problem::{Problem, unknown_key};

/// A piece of YAML, and where it is.
type Node = Spanned<Kind>;

/// What a piece of YAML is.
#[derive(Debug)]
enum Kind {
    Map(Vec<(Spanned<String>, Node)>),
    List(Vec<Node>),
    /// As a text, whatever its type.
    Scalar(String),
    Null,
}

/// What may be written in a place.
#[derive(Default)]
struct Expected<'a> {
    object: Option<&'a Value>,
    list: Option<&'a Value>,
    /// A scalar of any type.
    text: bool,
    /// A whole number within these bounds.
    integer: Option<(u64, u64)>,
    boolean: bool,
    number: bool,
}

/// Everything in which a file differs from the shape that a schema describes.
///
/// # Errors
/// If it is not YAML, or of more than a file may consist of.
pub(super) fn problems(
    text: &str,
    schema: &Value,
    options: serde_saphyr::Options,
) -> Result<Vec<Problem>, Error> {
    let file: Node = serde_saphyr::from_str_with_options(text, options)?;
    let mut shape = Shape { root: schema, problems: Vec::new() };
    shape.check(&file, schema);
    Ok(shape.problems)
}

struct Shape<'a> {
    root: &'a Value,
    problems: Vec<Problem>,
}

impl<'a> Shape<'a> {
    fn check(&mut self, node: &Node, schema: &'a Value) {
        let mut expected = Expected::default();
        self.gather(schema, &mut expected);
        match &node.value {
            // Nothing where something has to be is the reader's to refuse: most may be left out.
            Kind::Null => {}
            Kind::Map(entries) => match expected.object {
                Some(object) => self.check_entries(entries, object),
                None => self.check_kind(node, "a mapping", &expected),
            },
            Kind::List(items) => match expected.list {
                Some(list) => items.iter().for_each(|item| self.check(item, &list["items"])),
                None => self.check_kind(node, "a list", &expected),
            },
            // It stands for something else.
            Kind::Scalar(text) if text.contains('$') => {}
            Kind::Scalar(text) => {
                let wrong = match expected.integer {
                    _ if expected.text || expected.number => None,
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
                    self.problems.push(Problem::at(node.referenced, message));
                }
            }
        }
    }

    fn check_entries(&mut self, entries: &[(Spanned<String>, Node)], object: &'a Value) {
        let properties = object["properties"].as_object();
        for (key, value) in entries {
            let known = properties.and_then(|properties| properties.get(&key.value));
            match (known, &object["additionalProperties"]) {
                (Some(schema), _) => self.check(value, schema),
                (None, Value::Bool(false)) => {
                    // Compose's place for what only other tools and anchors need.
                    let extends = key.value.starts_with("x-");
                    if !(extends && object.get("patternProperties").is_some()) {
                        let known = properties.into_iter().flat_map(|properties| properties.keys());
                        let known: Vec<&str> = known.map(String::as_str).collect();
                        let message = unknown_key(&key.value, &known);
                        self.problems.push(Problem::at(key.referenced, message));
                    }
                }
                (None, schema) => self.check(value, schema),
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
        self.problems.push(Problem::at(node.referenced, format!("this is {is}; write {only}")));
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
                "string" => expected.text = true,
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
