//! Values with a short spelling, a text, and a long one, a list or a mapping.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Unexpected, Visitor};

/// What has a short and a long spelling.
pub(super) trait Shorthand: Sized {
    /// What may be written, for an error: "write …".
    const EXPECTING: &'static str;
    /// What a short spelling is called in the schema, for [`super::format::check`].
    const FORMAT: &'static str;
    /// Whether the long spelling is a list; else it is a mapping.
    const LIST: bool;
    /// Whether a number is a short spelling, too.
    const NUMBER: bool = false;
    /// Whether true and false are short spellings, too.
    const FLAG: bool = false;
    /// The long spelling.
    type Long: DeserializeOwned + JsonSchema;

    /// From the short spelling; the error says what would be right.
    fn from_text(text: &str) -> Result<Self, String>;
    /// From the long spelling.
    fn from_long(long: Self::Long) -> Result<Self, String>;
}

/// A value in either spelling.
#[derive(Debug)]
pub(super) struct Short<T>(pub(super) T);

impl<'de, T: Shorthand> Deserialize<'de> for Short<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either(PhantomData)).map(Self)
    }
}

struct Either<T>(PhantomData<T>);

impl<'de, T: Shorthand> Visitor<'de> for Either<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTING)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        match T::NUMBER {
            true => self.visit_str(&number.to_string()),
            false => Err(E::invalid_type(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        match T::NUMBER {
            true => self.visit_str(&number.to_string()),
            false => Err(E::invalid_type(Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<T, E> {
        match T::FLAG {
            true => self.visit_str(&flag.to_string()),
            false => Err(E::invalid_type(Unexpected::Bool(flag), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        if !T::LIST {
            return Err(de::Error::invalid_type(Unexpected::Seq, &self));
        }
        let long = T::Long::deserialize(SeqAccessDeserializer::new(list))?;
        T::from_long(long).map_err(de::Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        if T::LIST {
            return Err(de::Error::invalid_type(Unexpected::Map, &self));
        }
        let long = T::Long::deserialize(MapAccessDeserializer::new(map))?;
        T::from_long(long).map_err(de::Error::custom)
    }
}

impl<T: Shorthand> JsonSchema for Short<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::Long::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let number = T::NUMBER.then_some("integer");
        let flag = T::FLAG.then_some("boolean");
        let kinds: Vec<&str> = ["string"].into_iter().chain(number).chain(flag).collect();
        let text = match kinds.as_slice() {
            [kind] => json_schema!({ "type": kind, "format": T::FORMAT }),
            kinds => json_schema!({ "type": kinds, "format": T::FORMAT }),
        };
        json_schema!({ "anyOf": [text, generator.subschema_for::<T::Long>()] })
    }
}
