//! What a file says of files beside it.

use schemars::JsonSchema;
use serde::Deserialize;

use super::shorthand::{Short, Shorthand};

/// Files of environment variables: one, or a list.
#[derive(Debug)]
pub(super) struct EnvFiles(pub(super) Vec<EnvFile>);

/// A file of environment variables.
#[derive(Debug)]
pub(super) struct EnvFile {
    pub(super) path: String,
    /// Whether it is wrong that it is not there.
    pub(super) is_required: bool,
    /// Whether values are as they are, with quotes and without variables.
    pub(super) is_raw: bool,
}

/// What can be said of a file of environment variables.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct LongEnvFile {
    /// Path, beside this file if it is not absolute.
    path: String,
    /// Whether the file has to be there; true if not given.
    #[serde(default = "yes")]
    required: bool,
    /// `raw` for values that are as they are, with quotes and without variables.
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Format {
    Raw,
}

fn yes() -> bool {
    true
}

impl Shorthand for EnvFiles {
    const EXPECTING: &'static str = "a path such as web.env, or a list of them";
    const FORMAT: &'static str = "env-files";
    const LIST: bool = true;
    type Long = Vec<Short<EnvFile>>;

    fn from_text(text: &str) -> Result<Self, String> {
        EnvFile::from_text(text).map(|one| Self(vec![one]))
    }

    fn from_long(long: Vec<Short<EnvFile>>) -> Result<Self, String> {
        Ok(Self(long.into_iter().map(|Short(one)| one).collect()))
    }
}

impl Shorthand for EnvFile {
    const EXPECTING: &'static str = "a path such as web.env, or {path: PATH, required: false}";
    const FORMAT: &'static str = "env-file";
    const LIST: bool = false;
    type Long = LongEnvFile;

    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_long(LongEnvFile { path: text.to_owned(), required: true, format: None })
    }

    fn from_long(long: LongEnvFile) -> Result<Self, String> {
        if long.path.is_empty() {
            return Err(format!("this is no path; write {}", Self::EXPECTING));
        }
        let is_raw = matches!(long.format, Some(Format::Raw));
        Ok(Self { path: long.path, is_required: long.required, is_raw })
    }
}

/// The service that another one begins with. Before anything is made of it, [`super::extends`] has written it out.
#[derive(Debug)]
pub(super) struct Extends;

/// What can be said of it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(deny_unknown_fields)]
#[schemars(inline)]
#[expect(dead_code, reason = "written out before the file is read")]
pub(super) struct LongExtends {
    /// Path of the file that has it, beside this file; this file if not given.
    file: Option<String>,
    /// Its name there.
    service: String,
}

impl Shorthand for Extends {
    const EXPECTING: &'static str = "the name of a service, or {file: FILE, service: NAME}";
    const FORMAT: &'static str = "extends";
    const LIST: bool = false;
    type Long = LongExtends;

    fn from_text(_: &str) -> Result<Self, String> {
        Ok(Self)
    }

    fn from_long(_: LongExtends) -> Result<Self, String> {
        Ok(Self)
    }
}
