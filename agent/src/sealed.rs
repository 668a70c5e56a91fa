//! What the agent keeps on disk as JSON with a digest, so that a file that was cut off or altered is never believed.
//!
//! ```text
//! dwell-assignment 1 SHA256-OF-THE-REST
//! {"revision":7,"network":{...},"instances":{...}}
//! ```

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// The length of a digest in hexadecimal.
const DIGEST_LENGTH: usize = 64;

/// A value as the content of a file. `kind` says what it is, and its version, such as `dwell-assignment 1`.
///
/// # Errors
/// The value is not one that JSON has.
pub fn seal<T: Serialize>(kind: &str, value: &T) -> io::Result<Vec<u8>> {
    let mut text = format!("{kind} {:DIGEST_LENGTH$}\n", "").into_bytes();
    let body = text.len();
    serde_json::to_writer(&mut text, value).map_err(io::Error::other)?;
    let digest = digest(&text[body..]);
    text[body - 1 - DIGEST_LENGTH..body - 1].copy_from_slice(digest.as_bytes());
    Ok(text)
}

/// The value that a file holds.
///
/// # Errors
/// What is wrong with it, for people.
pub fn open<T: DeserializeOwned>(kind: &str, text: &[u8]) -> Result<T, String> {
    let cut = text.iter().position(|&byte| byte == b'\n').ok_or("it has no first line")?;
    let (head, body) = (&text[..cut], &text[cut + 1..]);
    let head = std::str::from_utf8(head).map_err(|_| "its first line is not text")?;
    let expected = head.strip_prefix(kind).and_then(|rest| rest.strip_prefix(' '));
    let expected = expected.ok_or_else(|| format!("it is not of the kind {kind:?}"))?;
    if digest(body) != expected {
        return Err("its content does not match its digest".to_owned());
    }
    // Its own words may quote what it stumbled over, which may be a key.
    let at =
        |error: serde_json::Error| format!("this version cannot read its byte {}", error.column());
    serde_json::from_slice(body).map_err(at)
}

fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "test 1";

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        let whole = seal(KIND, &["one", "two"]).unwrap();
        for length in 0..whole.len() {
            assert!(open::<Vec<String>>(KIND, &whole[..length]).is_err(), "cut to {length} bytes");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open::<Vec<String>>(KIND, &flipped).is_err(), "bit {bit}");
        }
        assert_eq!(open::<Vec<String>>(KIND, &whole).unwrap(), ["one", "two"]);
        assert!(open::<Vec<String>>("test 2", &whole).is_err());
        let complaint = open::<Vec<u8>>(KIND, &whole).unwrap_err();
        assert!(!complaint.contains("one"), "{complaint}");
    }
}
