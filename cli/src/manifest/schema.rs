//! The format as a JSON Schema, for editors.

use super::file::File;

/// The schema of the file, as pretty JSON with a final line break.
pub(crate) fn schema() -> String {
    // Values made by `schemars` always serialize; `{:#}` of a value is its pretty form.
    format!("{:#}\n", schemars::schema_for!(File).as_value())
}
