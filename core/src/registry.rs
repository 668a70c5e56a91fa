//! Registries of images: which one a reference means, and how a node logs in to it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::Revision;

/// The most registries that logins are kept for.
pub const LOGINS_MAX: usize = 64;
/// The longest user name, in bytes.
pub const USERNAME_MAX: usize = 256;
/// The longest password, in bytes: some registries give out tokens of several thousand.
pub const PASSWORD_MAX: usize = 16 * 1024;
/// The longest host with its port, in bytes.
const HOST_MAX: usize = 260;
/// Docker's own registry, which a reference without a host means.
const DOCKER_HUB: &str = "docker.io";

/// A registry, by `HOST` or `HOST:PORT` as references name it, in lower case. Docker's own is `docker.io`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RegistryHost(String);

/// Why a text names no registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a registry's HOST or HOST:PORT as image references begin with, such as ghcr.io or registry.lan:5000; \
     leave out https:// and what follows the host"
)]
pub struct NotARegistry(String);

impl RegistryHost {
    /// Docker's own registry.
    #[must_use]
    pub fn docker_hub() -> Self {
        Self(DOCKER_HUB.to_owned())
    }

    /// The registry of an image reference; `None` if what stands in the place of its host cannot be one.
    #[must_use]
    pub fn of(reference: &str) -> Option<Self> {
        match reference.split_once('/') {
            Some((first, _)) if is_host(first) => first.parse().ok(),
            _ => Some(Self::docker_hub()),
        }
    }

    /// Whether this is Docker's own registry.
    #[must_use]
    pub fn is_docker_hub(&self) -> bool {
        self.0 == DOCKER_HUB
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether the first part of a reference is a host, and not the first part of a name at Docker's own registry.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost")
}

impl FromStr for RegistryHost {
    type Err = NotARegistry;

    fn from_str(text: &str) -> Result<Self, NotARegistry> {
        let refused = || NotARegistry(text.chars().take(HOST_MAX).collect());
        let lower = text.to_ascii_lowercase();
        let (host, port) = match lower.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (lower.as_str(), None),
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let is_name = !host.is_empty()
            && host.bytes().all(is_plain)
            && !host.starts_with(['.', '-'])
            && !host.ends_with(['.', '-']);
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_address = address.is_some_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok());
        let is_port = |port: &str| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && matches!(port.parse::<u16>(), Ok(1..))
        };
        let fits = lower.len() <= HOST_MAX && is_host(&lower) && port.is_none_or(is_port);
        if !fits || !(is_name || is_address) {
            return Err(refused());
        }
        Ok(match lower.as_str() {
            "index.docker.io" => Self::docker_hub(),
            _ => Self(lower),
        })
    }
}

impl TryFrom<String> for RegistryHost {
    type Error = NotARegistry;

    fn try_from(text: String) -> Result<Self, NotARegistry> {
        text.parse()
    }
}

impl From<RegistryHost> for String {
    fn from(host: RegistryHost) -> Self {
        host.0
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A text that nobody is to see: whatever prints it says only that there is one. It is stored and sent as it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for whoever has to use it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How to log in to a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryLogin {
    /// As whom.
    pub username: String,
    /// With what: a password or an access token.
    pub password: Secret,
    /// When it was given, as a revision of the controller's model: the same one given again is another.
    #[serde(default)]
    pub given: Revision,
}

/// The logins of a cluster, by registry.
pub type RegistryLogins = BTreeMap<RegistryHost, RegistryLogin>;

/// Why a login cannot be used. It never says the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Without a name, with one that HTTP cannot carry, or too long.
    #[error(
        "the user name has to have 1 to {USERNAME_MAX} bytes, without a colon and control characters"
    )]
    Username,
    /// None, or too long.
    #[error("the password has to have 1 to {PASSWORD_MAX} bytes, without NUL")]
    Password,
}

impl RegistryLogin {
    /// A login, checked.
    ///
    /// # Errors
    /// [`LoginError`] if a registry could not be sent it.
    pub fn new(username: String, password: String) -> Result<Self, LoginError> {
        let is_odd = |character: char| character == ':' || character.is_control();
        if username.is_empty() || username.len() > USERNAME_MAX || username.contains(is_odd) {
            return Err(LoginError::Username);
        }
        if password.is_empty() || password.len() > PASSWORD_MAX || password.contains('\0') {
            return Err(LoginError::Password);
        }
        Ok(Self { username, password: Secret::new(password), given: Revision(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_means_the_registry_that_it_begins_with_and_dockers_own_without_one() {
        for (reference, registry) in [
            ("debian", "docker.io"),
            ("debian:12", "docker.io"),
            ("team/app:1", "docker.io"),
            ("docker.io/team/app", "docker.io"),
            ("index.docker.io/team/app@sha256:00", "docker.io"),
            ("localhost/app", "localhost"),
            ("localhost:5000/a/b", "localhost:5000"),
            ("GHCR.io/team/app:1.2", "ghcr.io"),
            ("10.0.0.1:5000/app:1@sha256:00", "10.0.0.1:5000"),
            ("[2001:db8::1]:5000/app", "[2001:db8::1]:5000"),
        ] {
            let found = RegistryHost::of(reference).map(|host| host.to_string());
            assert_eq!(found.as_deref(), Some(registry), "{reference}");
        }
        assert_eq!(RegistryHost::of("a.b:port/app"), None);
    }

    #[test]
    fn what_no_reference_can_begin_with_is_no_registry() {
        assert!("Index.Docker.io".parse::<RegistryHost>().unwrap().is_docker_hub());
        for text in [
            "",
            "ghcr",
            "https://ghcr.io",
            "ghcr.io/team",
            "ghcr.io:",
            "ghcr.io:0",
            "ghcr.io:70000",
            "ghcr.io:+5",
            ":5000",
            ".io",
            "-a.io",
            "a b.io",
            "[::g]:5000",
            "ü.io",
        ] {
            let refused = text.parse::<RegistryHost>().unwrap_err().to_string();
            assert!(refused.contains("such as ghcr.io"), "{text}");
        }
        assert!(format!("{}.io", "a".repeat(300)).parse::<RegistryHost>().is_err());
    }

    #[test]
    fn a_login_never_shows_its_password() {
        let login = RegistryLogin::new("ci".into(), "hunter2".into()).unwrap();
        assert_eq!(
            format!("{login:?}"),
            r#"RegistryLogin { username: "ci", password: (secret), given: Revision(0) }"#
        );
        let stored = serde_json::to_string(&login).unwrap();
        let read: RegistryLogin = serde_json::from_str(&stored).unwrap();
        assert_eq!((read.password.expose(), &read), ("hunter2", &login));
    }

    #[test]
    fn logins_that_cannot_be_sent_are_refused() {
        for name in ["", "a:b", "a\nb", &"a".repeat(USERNAME_MAX + 1)] {
            let refused = RegistryLogin::new(name.into(), "x".into());
            assert_eq!(refused, Err(LoginError::Username), "{name:?}");
        }
        for password in ["", "a\0b", &"a".repeat(PASSWORD_MAX + 1)] {
            let refused = RegistryLogin::new("ci".into(), password.into());
            assert_eq!(refused, Err(LoginError::Password));
        }
        assert!(RegistryLogin::new("_json_key".into(), "{\n}".into()).is_ok());
    }
}
