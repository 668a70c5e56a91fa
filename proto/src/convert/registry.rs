//! Logins at registries.

use std::fmt;

use dwell_core::id::Revision;
use dwell_core::registry::{RegistryHost, RegistryLogin, RegistryLogins};

use super::{FromWireError, parse};
use crate::v1;

impl From<&RegistryLogins> for v1::RegistryLogins {
    fn from(logins: &RegistryLogins) -> Self {
        let login = |(host, login): (&RegistryHost, &RegistryLogin)| v1::RegistryLogin {
            host: host.to_string(),
            username: login.username.clone(),
            password: login.password.expose().to_owned(),
            given: login.given.0,
        };
        Self { logins: logins.iter().map(login).collect() }
    }
}

impl TryFrom<v1::RegistryLogins> for RegistryLogins {
    type Error = FromWireError;

    fn try_from(wire: v1::RegistryLogins) -> Result<Self, FromWireError> {
        let read = |one: v1::RegistryLogin| {
            let login = RegistryLogin::new(one.username, one.password)
                .map_err(|error| FromWireError::new("registry_login", error.to_string()))?;
            let login = RegistryLogin { given: Revision(one.given), ..login };
            Ok((parse("registry_login.host", &one.host)?, login))
        };
        wire.logins.into_iter().map(read).collect()
    }
}

/// Shows whose login it is and never the password.
impl fmt::Debug for v1::RegistryLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, username, password: _, given: _ } = self;
        f.debug_struct("RegistryLogin")
            .field("host", host)
            .field("username", username)
            .finish_non_exhaustive()
    }
}

/// Shows whose login it is and never the password.
impl fmt::Debug for v1::SetRegistryLoginRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, username, password: _ } = self;
        let mut shown = f.debug_struct("SetRegistryLoginRequest");
        shown.field("host", host).field("username", username).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_pass_the_wire_whole_and_no_message_shows_a_password() {
        let host: RegistryHost = "registry.lan:5000".parse().unwrap();
        let login = RegistryLogin::new("ci".to_owned(), "hunter2".to_owned()).unwrap();
        let login = RegistryLogin { given: Revision(7), ..login };
        let logins = RegistryLogins::from([(host, login)]);
        let wire = v1::RegistryLogins::from(&logins);
        let request = v1::SetRegistryLoginRequest {
            host: "registry.lan:5000".to_owned(),
            username: "ci".to_owned(),
            password: "hunter2".to_owned(),
        };
        let whole = v1::Assignment { registries: Some(wire.clone()), ..Default::default() };
        for shown in [format!("{wire:?}"), format!("{request:?}"), format!("{whole:?}")] {
            assert!(shown.contains("registry.lan:5000") && !shown.contains("hunter2"), "{shown}");
        }
        assert_eq!(RegistryLogins::try_from(wire), Ok(logins));
    }

    #[test]
    fn a_login_that_makes_no_sense_is_refused_by_its_field() {
        let read = |host: &str, username: &str| {
            let login = v1::RegistryLogin {
                host: host.to_owned(),
                username: username.to_owned(),
                password: "x".to_owned(),
                given: 0,
            };
            RegistryLogins::try_from(v1::RegistryLogins { logins: vec![login] }).unwrap_err().field
        };
        assert_eq!(read("ghcr", "ci"), "registry_login.host");
        assert_eq!(read("ghcr.io", "c:i"), "registry_login");
    }
}
