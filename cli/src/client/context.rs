//! Context files: a controller's address and a certificate to use it with.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::private_file;

/// The largest context file that is read, in bytes.
const SIZE_MAX: u64 = 64 << 10;

/// What it takes to use a controller from anywhere. The texts are PEM.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// HOST:PORT.
    pub(crate) controller: String,
    /// The CA that has signed the controller's certificate.
    pub(crate) ca: String,
    /// The certificate to show.
    pub(crate) certificate: String,
    /// Its private key.
    pub(crate) key: String,
}

impl fmt::Debug for Context {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("controller", &self.controller).finish_non_exhaustive()
    }
}

impl Context {
    /// Reads a context: a text with a `/` or ending in `.yaml` is a file, any other the name of one in
    /// `~/.config/dwell/contexts`.
    ///
    /// # Errors
    /// If the file is not there, is not a context, or can be read by others.
    pub(crate) fn load(text: &str) -> Result<Self, Failure> {
        let path = if is_file(text) {
            PathBuf::from(text)
        } else {
            directory()?.join(format!("{text}.yaml"))
        };
        let shown = path.display();
        let unreadable = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => Failure::Usage(format!(
                "there is no context {shown}; make one on the controller's machine with \
                 `dwell context issue NAME` and put it there"
            )),
            _ => Failure::Usage(format!("cannot read the context {shown}: {error}")),
        };
        let metadata = fs::metadata(&path).map_err(unreadable)?;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(Failure::Usage(format!(
                "the context {shown} holds a private key and can be read by others; run chmod 600 {shown}"
            )));
        }
        if metadata.len() > SIZE_MAX {
            return Err(Failure::Usage(format!("{shown} is too large for a context")));
        }
        let text = fs::read_to_string(&path).map_err(unreadable)?;
        Self::parse(&text)
            .map_err(|error| Failure::Usage(format!("{shown} is not a context: {error}")))
    }

    /// Reads the text of a context file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, serde_saphyr::Error> {
        // Without a snippet: it could show the key.
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(text, options)
    }

    /// The text of a context file.
    ///
    /// # Errors
    /// None that is known of.
    pub(crate) fn to_text(&self) -> Result<String, Failure> {
        serde_saphyr::to_string(self)
            .map_err(|error| Failure::Other(format!("cannot write a context: {error}")))
    }

    /// Writes a new file that only its owner can read.
    ///
    /// # Errors
    /// If it exists already or cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        private_file::write_new(path, self.to_text()?.as_bytes())
    }
}

/// Whether a text is a context's file; else it is the name of one.
pub(super) fn is_file(text: &str) -> bool {
    text.contains('/') || text.ends_with(".yaml")
}

/// Where contexts are found by name.
fn directory() -> Result<PathBuf, Failure> {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CONFIG_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("dwell/contexts"))
        .ok_or_else(|| {
            Failure::Usage("HOME is not set; give the context's file by its path".into())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_survive_the_round_trip_and_are_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.yaml");
        let pem = |kind: &str| format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
        let context = Context {
            controller: "10.0.0.1:7443".into(),
            ca: pem("CERTIFICATE"),
            certificate: pem("CERTIFICATE"),
            key: pem("PRIVATE KEY"),
        };
        context.save(&path).unwrap();
        let name = path.to_str().unwrap();
        let loaded = Context::load(name).unwrap();
        assert_eq!(
            (loaded.controller, loaded.key),
            (context.controller.clone(), pem("PRIVATE KEY"))
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(context.save(&path), Err(Failure::Refused(_))));

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Context::load(name).unwrap_err().to_string();
        assert!(error.contains("can be read by others"), "{error}");
        let error = Context::load("./nowhere.yaml").unwrap_err().to_string();
        assert!(error.contains("there is no context"), "{error}");
    }
}
