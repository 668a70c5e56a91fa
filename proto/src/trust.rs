//! What agents and controllers agree on about trust: the text of a join token, the name that a
//! controller's certificate carries, and what is signed to renew a certificate that has expired.

use std::fmt;
use std::str::FromStr;

/// The DNS name in every controller's server certificate, whatever address it is reached at. Agents
/// accept nothing else from the cluster's CA for a controller, in particular no node's certificate.
pub const CONTROLLER_NAME: &str = "controller.dwell";

/// What the key of an expired certificate signs to have `certificate_request` (PKCS#10, DER) granted.
#[must_use]
pub fn renewal_message(certificate_request: &[u8]) -> Vec<u8> {
    [b"dwell certificate renewal\n", certificate_request].concat()
}

const VERSION: &str = "dwell1";
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=128;

/// A single-use permission to join, which also says whom to join:
/// `dwell1.SECRET.DIGEST`, the digest being SHA-256 over the CA's certificate (DER), in hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    secret: String,
    ca_digest: [u8; 32],
}

/// A text is not a join token. Says nothing of the text: it may be half a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a join token (dwell1.SECRET.DIGEST); make one with `dwell node token` and copy it whole"
)]
pub struct JoinTokenError;

impl JoinToken {
    /// A token of a secret (16 to 128 ASCII letters, digits, `-` and `_`) and the digest of the CA.
    ///
    /// # Errors
    /// [`JoinTokenError`] if the secret has other bytes or another length.
    pub fn new(secret: impl Into<String>, ca_digest: [u8; 32]) -> Result<Self, JoinTokenError> {
        let secret = secret.into();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if SECRET_BYTES.contains(&secret.len()) && secret.bytes().all(plain) {
            Ok(Self { secret, ca_digest })
        } else {
            Err(JoinTokenError)
        }
    }

    /// The part that only the controller and the one who joins know.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// SHA-256 over the certificate (DER) of the CA to trust.
    #[must_use]
    pub fn ca_digest(&self) -> &[u8; 32] {
        &self.ca_digest
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [VERSION, secret, digest] = parts[..] else { return Err(JoinTokenError) };
        let mut ca_digest = [0; 32];
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(JoinTokenError);
        }
        for (at, byte) in ca_digest.iter_mut().enumerate() {
            let pair = digest.get(2 * at..2 * at + 2).ok_or(JoinTokenError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| JoinTokenError)?;
        }
        Self::new(secret, ca_digest)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}.{}.", self.secret)?;
        self.ca_digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for JoinToken {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_round_trip() {
        let token = JoinToken::new("aZ09-_aZ09-_aZ09", [0xab; 32]).unwrap();
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert_eq!(format!(" {token}\n").parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("aZ09"));
    }

    #[test]
    fn other_texts_are_refused() {
        let digest = "ab".repeat(32);
        for text in [
            String::new(),
            "dwell1".into(),
            format!("dwell2.aZ09aZ09aZ09aZ09.{digest}"),
            format!("dwell1.short.{digest}"),
            format!("dwell1.aZ09aZ09aZ09aZ0\n.{digest}"),
            format!("dwell1.aZ09aZ09aZ09aZ09.{digest}00"),
            format!("dwell1.aZ09aZ09aZ09aZ09.{}é", &digest[..62]),
            format!("dwell1.aZ09aZ09aZ09aZ09.+{}", &digest[1..]),
            format!("dwell1.aZ09aZ09aZ09aZ09.{digest}.x"),
            format!("dwell1.{}.{digest}", "a".repeat(129)),
        ] {
            assert_eq!(text.parse::<JoinToken>(), Err(JoinTokenError), "{text}");
        }
    }
}
