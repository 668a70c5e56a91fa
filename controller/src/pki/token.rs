//! Join tokens: made here, shown once, known afterwards by a digest.
//!
//! A secret is 43 characters; the first [`ID_LENGTH`] of them name the token in the store, the others
//! (192 bits) are the secret proper. The digest is over all of them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dwell_proto::trust::{JoinToken, JoinTokenError};
use rand::TryRngCore as _;
use sha2::{Digest as _, Sha256};

use super::{Authority, PkiError};
use crate::model::TokenId;

/// How many characters of a secret name it.
const ID_LENGTH: usize = 11;
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;

/// A token that was just made.
#[derive(Debug)]
pub struct NewToken {
    /// What the person who asked gets to see, once.
    pub token: JoinToken,
    /// What the model keeps.
    pub shown: ShownToken,
}

/// What the model knows a token by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownToken {
    /// Its public half.
    pub id: TokenId,
    /// SHA-256 of its secret.
    pub digest: [u8; 32],
}

impl NewToken {
    /// A token for this cluster.
    ///
    /// # Errors
    /// [`PkiError::Tls`] if the system gives no randomness.
    pub fn mint(authority: &Authority) -> Result<Self, PkiError> {
        let mut secret = [0; SECRET_BYTES];
        let random = rand::rngs::OsRng.try_fill_bytes(&mut secret);
        random.map_err(|error| PkiError::Tls(error.to_string()))?;
        let text = URL_SAFE_NO_PAD.encode(secret);
        let shown = ShownToken::of(&text);
        let token = JoinToken::new(text, *authority.trusted().pinned().1);
        let token = token.map_err(|error| PkiError::Tls(error.to_string()))?;
        Ok(Self { token, shown })
    }
}

impl ShownToken {
    fn of(secret: &str) -> Self {
        let id = secret.chars().take(ID_LENGTH).collect();
        Self { id: TokenId(id), digest: Sha256::digest(secret.as_bytes()).into() }
    }

    /// What someone who wants to join has shown.
    ///
    /// # Errors
    /// [`JoinTokenError`] if it is not a token.
    pub fn read(text: &str) -> Result<Self, JoinTokenError> {
        let token: JoinToken = text.parse()?;
        Ok(Self::of(token.secret()))
    }
}
