//! The format as a JSON Schema, for editors and for [`super::shape`].

use serde_json::{Value, json};

use super::file::File;

/// The schema of the file.
pub(super) fn value() -> Value {
    let mut schema = schemars::schema_for!(File).to_value();
    extensible(&mut schema);
    schema
}

/// Lets keys that begin with `x-` into every mapping of known keys: Compose's place for what only other tools and
/// anchors need.
fn extensible(schema: &mut Value) {
    match schema {
        Value::Object(keys) => {
            keys.values_mut().for_each(extensible);
            if keys.get("additionalProperties") == Some(&Value::Bool(false)) {
                keys.insert("patternProperties".into(), json!({ "^x-": {} }));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(extensible),
        _ => {}
    }
}

/// The schema of the file, as pretty JSON with a final line break.
pub(crate) fn schema() -> String {
    // Values made by `schemars` always serialize; `{:#}` of a value is its pretty form.
    format!("{:#}\n", value())
}
