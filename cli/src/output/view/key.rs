//! Key sets.

use dwell_proto::v1;
use serde::Serialize;

use crate::public_key::PublicKey;

/// `dwell key ls`.
#[derive(Debug, Serialize)]
pub(crate) struct KeySetsView {
    pub(crate) key_sets: Vec<KeySetView>,
}

/// A named list of public keys.
#[derive(Debug, Serialize)]
pub(crate) struct KeySetView {
    pub(crate) name: String,
    pub(crate) keys: Vec<KeyView>,
}

/// A public key.
#[derive(Debug, Serialize)]
pub(crate) struct KeyView {
    pub(crate) algorithm: String,
    /// `SHA256:…`; empty, as the others, if this command line cannot read the line.
    pub(crate) fingerprint: String,
    pub(crate) comment: String,
    /// What stands before the key, such as `cert-authority`.
    pub(crate) options: String,
    /// As in `authorized_keys`.
    pub(crate) line: String,
}

impl KeySetsView {
    /// In the order of names.
    pub(crate) fn new(mut sets: Vec<v1::KeySet>) -> Self {
        sets.sort_by(|a, b| a.name.cmp(&b.name));
        let view = |set: v1::KeySet| KeySetView {
            name: set.name,
            keys: set.keys.into_iter().map(Into::into).collect(),
        };
        Self { key_sets: sets.into_iter().map(view).collect() }
    }
}

impl From<String> for KeyView {
    fn from(line: String) -> Self {
        match PublicKey::read(&line) {
            Some(key) => Self {
                algorithm: key.algorithm,
                fingerprint: key.fingerprint,
                comment: key.comment,
                options: key.options,
                line,
            },
            None => Self {
                algorithm: String::new(),
                fingerprint: String::new(),
                comment: String::new(),
                options: String::new(),
                line,
            },
        }
    }
}
