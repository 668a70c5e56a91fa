//! The format as a JSON Schema, for editors and for [`super::shape`].

use serde_json::Value;

use super::file::File;

/// The schema of the file.
pub(super) fn value() -> Value {
    schemars::schema_for!(File).to_value()
}

/// The schema of the file, as pretty JSON with a final line break.
pub(crate) fn schema() -> String {
    // Values made by `schemars` always serialize; `{:#}` of a value is its pretty form.
    format!("{:#}\n", value())
}
