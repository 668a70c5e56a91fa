//! Which bytes an image is: its digest, and references that name it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The SHA-256 that an image goes by: with a registry, or as an engine's own id for it. Written `sha256:` and 64
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ImageDigest([u8; 32]);

/// Why a text is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not sha256: and 64 lower-case hexadecimal digits")]
pub struct NotADigest;

impl ImageDigest {
    /// A digest by its bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for ImageDigest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digits = text.strip_prefix("sha256:").ok_or(NotADigest)?.as_bytes();
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(NotADigest),
        };
        let (pairs, rest) = digits.as_chunks::<2>();
        let bytes: Result<Vec<u8>, NotADigest> =
            pairs.iter().map(|[high, low]| Ok(value(*high)? << 4 | value(*low)?)).collect();
        let bytes = bytes?.try_into().map_err(|_| NotADigest)?;
        if rest.is_empty() { Ok(Self(bytes)) } else { Err(NotADigest) }
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<ImageDigest> for String {
    fn from(digest: ImageDigest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for ImageDigest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        text.parse()
    }
}

/// What a container was made from, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerImage {
    /// By which its registry knows it; `None` if it is not known to be of a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<ImageDigest>,
    /// By which the engine knows it. Two engines may know the same image by different ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ImageDigest>,
}

impl ContainerImage {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// A reference that means one image for good, if its digest is known: `NAME:TAG@DIGEST`. The tag is only for people. What
/// names a digest already stays as it is.
#[must_use]
pub fn pinned(reference: &str, digest: Option<ImageDigest>) -> Cow<'_, str> {
    match digest {
        Some(digest) if !reference.contains('@') => Cow::Owned(format!("{reference}@{digest}")),
        _ => Cow::Borrowed(reference),
    }
}

/// The digest that a reference names.
#[must_use]
pub fn digest_of(reference: &str) -> Option<ImageDigest> {
    reference.split_once('@')?.1.parse().ok()
}

/// The repository of a reference in its short spelling: without what stands for Docker's own registry.
#[must_use]
pub fn repository(reference: &str) -> &str {
    let (name, _) = split_tag(reference);
    let name = name.strip_prefix("index.").unwrap_or(name);
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

/// The tag that a reference names.
#[must_use]
pub fn tag_of(reference: &str) -> Option<&str> {
    split_tag(reference).1
}

/// Whether `name`, a tag or a digest that an image goes by, came with the fetch of `reference`: it is the same tag, or a
/// digest in the same repository. A digest together with a tag means the digest alone.
#[must_use]
pub fn came_with(name: &str, reference: &str) -> bool {
    if repository(name) != repository(reference) {
        return false;
    }
    match (digest_of(name), digest_of(reference)) {
        (Some(named), Some(fetched)) => named == fetched,
        (Some(_), None) => true,
        (None, Some(_)) => false,
        (None, None) => tag_of(name).unwrap_or("latest") == tag_of(reference).unwrap_or("latest"),
    }
}

fn split_tag(reference: &str) -> (&str, Option<&str>) {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    match name.rsplit_once(':') {
        // Else it is the port of a registry.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written_and_nothing_else_is() {
        let text = format!("sha256:{}", "0a".repeat(32));
        let digest: ImageDigest = text.parse().unwrap();
        assert_eq!((digest, digest.to_string()), (ImageDigest::new([10; 32]), text.clone()));
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<ImageDigest>(&json).unwrap(), digest);
        for wrong in [
            String::new(),
            "0a".repeat(32),
            text.to_uppercase(),
            format!("{text}0"),
            format!("{text}00"),
            text[..69].to_owned(),
            text.replace('a', "g"),
            text.replace("256", "512"),
        ] {
            assert_eq!(wrong.parse::<ImageDigest>(), Err(NotADigest), "{wrong}");
        }
    }

    #[test]
    fn a_pinned_reference_names_its_digest() {
        let digest = ImageDigest::new([1; 32]);
        let pinned_reference = pinned("host:5000/a:1", Some(digest));
        assert_eq!(pinned_reference, format!("host:5000/a:1@{digest}"));
        assert_eq!(digest_of(&pinned_reference), Some(digest));
        assert_eq!(pinned(&pinned_reference, Some(ImageDigest::new([2; 32]))), pinned_reference);
        assert_eq!((pinned("a:1", None).as_ref(), digest_of("a:1")), ("a:1", None));
    }

    #[test]
    fn a_repository_is_spelled_without_dockers_own_registry() {
        let digest = ImageDigest::new([1; 32]);
        for (reference, short, tag) in [
            ("debian", "debian", None),
            ("debian:12", "debian", Some("12")),
            ("library/debian:12", "debian", Some("12")),
            ("docker.io/library/debian", "debian", None),
            ("index.docker.io/a/b:1", "a/b", Some("1")),
            ("localhost:5000/a/b", "localhost:5000/a/b", None),
            ("localhost:5000/a:1", "localhost:5000/a", Some("1")),
        ] {
            assert_eq!((repository(reference), tag_of(reference)), (short, tag));
            assert_eq!(repository(&pinned(reference, Some(digest))), short);
        }
    }

    #[test]
    fn a_fetch_brings_its_tag_and_the_digests_of_its_repository() {
        let (one, other) = (ImageDigest::new([1; 32]), ImageDigest::new([2; 32]));
        let (own, others) = (format!("a@{one}"), format!("b@{one}"));
        for (name, reference, came) in [
            ("a:latest", "docker.io/library/a", true),
            ("a:1", "a:1", true),
            ("a:2", "a:1", false),
            (&own, "a:1", true),
            (&others, "a:1", false),
            (&own, &format!("a:1@{one}"), true),
            (&own, &format!("a:1@{other}"), false),
            ("a:1", &format!("a:1@{one}"), false),
        ] {
            assert_eq!(came_with(name, reference), came, "{name} {reference}");
        }
    }
}
