//! Lines as in OpenSSH's `authorized_keys`: as much of them as it takes to show them and to refuse what is
//! none. What the options mean is the servers' business. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

/// A public key, with what stands before and after it on its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey {
    /// The whole line, without space around it.
    pub(crate) line: String,
    /// Such as `cert-authority`; mostly empty.
    pub(crate) options: String,
    /// Such as `ssh-ed25519`.
    pub(crate) algorithm: String,
    /// As `ssh-keygen -l` shows it, `SHA256:…`.
    pub(crate) fingerprint: String,
    /// Mostly `USER@HOST`; may be empty.
    pub(crate) comment: String,
}

impl PublicKey {
    /// Reads a line; `None` if there is no public key on it.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let line = line.trim();
        let mut at = 0;
        // The first word that the next one, decoded, begins with; what comes before are options.
        loop {
            let rest = &line[at..];
            let (word, after) = split_word(rest);
            if word.is_empty() {
                return None;
            }
            let (blob, comment) = split_word(after);
            if let Some(fingerprint) = fingerprint(word, blob) {
                return Some(Self {
                    line: line.to_owned(),
                    options: line[..at].trim_end().to_owned(),
                    algorithm: word.to_owned(),
                    fingerprint,
                    comment: comment.to_owned(),
                });
            }
            at = line.len() - after.len();
        }
    }

    /// Reads every line of a file; blank ones and comments are passed over.
    ///
    /// # Errors
    /// What is wrong, with the number of the line.
    pub(crate) fn read_all(text: &str) -> Result<Vec<Self>, String> {
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.contains("PRIVATE KEY-----") {
                return Err(format!(
                    "{number}: this is a private key, which nobody else should see; give the file that ends in .pub"
                ));
            }
            if !line.is_empty() && !line.starts_with('#') {
                let key = Self::read(line).ok_or_else(|| {
                    format!("{number}: this is no public key; write lines such as \"ssh-ed25519 AAAA… alice\"")
                })?;
                keys.push(key);
            }
        }
        Ok(keys)
    }

    /// Whether a person means this key by `text`: its fingerprint, its comment or its line.
    pub(crate) fn is_meant_by(&self, text: &str) -> bool {
        let text = text.trim();
        let line = Self::read(text).is_some_and(|other| other.fingerprint == self.fingerprint);
        line || text == self.fingerprint || (!text.is_empty() && text == self.comment)
    }
}

/// The first word, which may have spaces within quotes, and what comes after it and its spaces.
fn split_word(text: &str) -> (&str, &str) {
    let (mut quoted, mut escaped) = (false, false);
    let end = text.find(|c: char| {
        let ends = !quoted && c.is_ascii_whitespace();
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    let (word, rest) = text.split_at(end.unwrap_or(text.len()));
    (word, rest.trim_start())
}

/// The fingerprint, if `blob` is a key of this algorithm: it begins with the algorithm's name, and the
/// name with its length in four bytes.
fn fingerprint(algorithm: &str, blob: &str) -> Option<String> {
    let bytes = STANDARD.decode(blob).ok()?;
    let length = usize::try_from(u32::from_be_bytes(*bytes.first_chunk()?)).ok()?;
    let name = bytes.get(4..)?.get(..length)?;
    (length > 0 && name == algorithm.as_bytes())
        .then(|| format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&bytes))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made with `ssh-keygen`, which shows the fingerprint below.
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG9i7+TH8H/fFYUlYAqtxvVZKEwOEfg6ylCIzdSk3wJm";
    const FINGERPRINT: &str = "SHA256:pLeZ4pBJXxkVZv2aWBRQrEYneVECcaobCYt4U3ZjfT0";

    #[test]
    fn keys_are_recognised() {
        for (options, comment) in [
            ("", ""),
            ("", "alice"),
            ("", "alice at home"),
            ("cert-authority", ""),
            ("restrict,command=\"ssh-ed25519 \\\" x\",from=\"10.0.0.0/8\"", "alice@laptop"),
        ] {
            let line = format!("{options} {KEY} {comment}");
            let key = PublicKey::read(&line).unwrap();
            assert_eq!(
                (key.options.as_str(), key.algorithm.as_str(), key.comment.as_str()),
                (options, "ssh-ed25519", comment)
            );
            assert_eq!((key.fingerprint.as_str(), key.line.as_str()), (FINGERPRINT, line.trim()));
            assert!(
                key.is_meant_by(FINGERPRINT) && key.is_meant_by(KEY) && !key.is_meant_by("bob")
            );
            assert_eq!(key.is_meant_by(comment), !comment.is_empty());
        }
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_line() {
        let (algorithm, blob) = KEY.split_once(' ').unwrap();
        for wrong in [algorithm, blob, "ssh-rsa AAAA", "ssh-ed25519 !", &format!("ssh-rsa {blob}")]
        {
            assert_eq!(PublicKey::read(wrong), None, "{wrong}");
            let error = PublicKey::read_all(&format!("# two\n\n{KEY}\n{wrong}\n")).unwrap_err();
            assert!(error.starts_with("4: this is no public key"), "{error}");
        }
        let error = PublicKey::read_all("-----BEGIN OPENSSH PRIVATE KEY-----\nb3\n").unwrap_err();
        assert!(error.contains("private key") && error.contains(".pub"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", quoted in "[\"\\\\ a=é,]*") {
            drop(PublicKey::read(&text));
            drop(PublicKey::read(&format!("{quoted} {KEY}")));
        }
    }
}
