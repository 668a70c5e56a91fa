//! Reading a daemon's configuration: a small YAML file, of which every key has to be known.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// The largest file that is read, in bytes.
pub const FILE_MAX_BYTES: u64 = 256 * 1024;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}; correct --config or the file's permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no valid configuration.
    #[error("the configuration {} is not valid: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// A value makes no sense.
    #[error("{key}: {problem}")]
    Value {
        /// The key, such as `nodes.heartbeat`.
        key: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

/// Reads a file; without one named, the one at `default` if it is there, else the defaults. Its values are still to be
/// checked.
///
/// # Errors
/// [`ConfigError::Read`] and [`ConfigError::Syntax`].
pub fn load<T: DeserializeOwned + Default>(
    named: Option<&Path>,
    default: &Path,
) -> Result<T, ConfigError> {
    let path = named.unwrap_or(default);
    let text = match read_bounded(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            return Ok(T::default());
        }
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    parse(&text).map_err(|problem| ConfigError::Syntax { path: path.to_owned(), problem })
}

/// Reads a configuration from its text.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse<T: DeserializeOwned + Default>(text: &str) -> Result<T, String> {
    // To YAML, a file of nothing but comments is a null.
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(T::default());
    }
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX_BYTES {
        return Err(io::Error::other(format!("it is larger than {FILE_MAX_BYTES} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        size: u32,
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error_only_if_it_was_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none.yaml");
        assert_eq!(load::<Config>(None, &missing).unwrap(), Config::default());
        let error = load::<Config>(Some(&missing), &missing).unwrap_err();
        assert!(matches!(error, ConfigError::Read { path, .. } if path == missing));
    }

    #[test]
    fn a_file_of_comments_is_all_defaults_and_an_unknown_key_is_named() {
        assert_eq!(parse(""), Ok(Config::default()));
        assert_eq!(parse("# nothing\n\n"), Ok(Config::default()));
        assert_eq!(parse("size: 3"), Ok(Config { size: 3 }));
        assert!(parse::<Config>("sise: 3").unwrap_err().contains("sise"));
    }

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        let file = File::create(&path).unwrap();
        file.set_len(FILE_MAX_BYTES + 1).unwrap();
        let error = load::<Config>(Some(&path), &path).unwrap_err();
        assert!(
            matches!(error, ConfigError::Read { source, .. } if source.to_string().contains("larger than"))
        );
        fs::write(&path, "size: 4").unwrap();
        assert_eq!(load::<Config>(Some(&path), &path).unwrap(), Config { size: 4 });
    }
}
