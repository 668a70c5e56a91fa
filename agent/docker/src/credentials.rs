//! With what a node logs in to registries: by its own configuration or, where that says nothing, by the cluster's logins.
//!
//! What the configuration names (files, helpers) is read anew for each pull, so that a token that was renewed counts at
//! once. If it cannot be read, the pull fails and says so: to go on with other credentials, or with none, would hide it.

pub(crate) mod helper;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use dwell_core::registry::{LoginError, PASSWORD_MAX, RegistryHost, RegistryLogin, RegistryLogins};
use dwell_core::session::Assignment;
use dwell_daemon::paths::{PathHangs, PathLooks};
use tokio::sync::watch;

pub use self::helper::{HelperName, NotAHelper};

/// How long a file of a password may take to answer.
const FILE_LIMIT: Duration = Duration::from_secs(5);
/// How Docker's own registry is named where logins are kept.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// How a node logs in to a registry by its own configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnLogin {
    /// By a password.
    Password {
        /// As whom.
        username: String,
        /// The file that has it, and nothing else but perhaps a line break at its end.
        file: PathBuf,
    },
    /// By a token that the registry gave out for this, also called a refresh token.
    IdentityToken {
        /// The file that has it, likewise.
        file: PathBuf,
    },
    /// By whatever a program says.
    Helper(HelperName),
}

/// All that a node knows of logins.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// By its own configuration.
    pub own: BTreeMap<RegistryHost, OwnLogin>,
    /// What has the cluster's.
    pub assignment: Option<watch::Receiver<Option<Arc<Assignment>>>>,
}

/// Where credentials are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Nowhere,
    Node,
    Cluster,
}

/// What a registry is shown.
#[derive(Clone, PartialEq)]
pub(super) struct Credentials {
    registry: Option<RegistryHost>,
    source: Source,
    docker: Option<DockerCredentials>,
}

/// Why the credentials of a node's own configuration cannot be used. None of them says a secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialsError {
    #[error("cannot read {}, which agent.yaml names under `registries`: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Hangs(#[from] PathHangs),
    #[error("{0}; see `registries` in agent.yaml")]
    Login(#[from] LoginError),
    #[error("{name}, which agent.yaml names under `registries`, {problem}")]
    Helper { name: String, problem: String },
}

impl Registries {
    /// The credentials for an image; of the cluster's logins, those in `logins` first.
    pub(super) async fn of(
        &self,
        image: &str,
        logins: &RegistryLogins,
        paths: &PathLooks,
    ) -> Result<Credentials, CredentialsError> {
        let registry = RegistryHost::of(image);
        let nothing =
            Credentials { registry: registry.clone(), source: Source::Nowhere, docker: None };
        let Some(host) = registry.clone() else { return Ok(nothing) };
        if let Some(own) = self.own.get(&host) {
            let docker = Some(own.read(&host, paths).await?);
            return Ok(Credentials { registry, source: Source::Node, docker });
        }
        let assignment = self.assignment.as_ref().and_then(|held| held.borrow().clone());
        let told = assignment.as_ref().and_then(|assignment| assignment.registries.get(&host));
        let login = logins.get(&host).or(told).cloned();
        Ok(login.map_or(nothing, |login| Credentials {
            docker: Some(by_password(&host, login)),
            source: Source::Cluster,
            registry,
        }))
    }
}

impl OwnLogin {
    async fn read(
        &self,
        host: &RegistryHost,
        paths: &PathLooks,
    ) -> Result<DockerCredentials, CredentialsError> {
        match self {
            Self::Password { username, file } => {
                let password = read(file, paths).await?;
                Ok(by_password(host, RegistryLogin::new(username.clone(), password)?))
            }
            Self::IdentityToken { file } => {
                let token = read(file, paths).await?;
                if token.is_empty() {
                    return Err(LoginError::Password.into());
                }
                Ok(by_token(host, token))
            }
            Self::Helper(name) => {
                let said = name.ask(key(host)).await.map_err(|problem| {
                    CredentialsError::Helper { name: name.program(), problem }
                })?;
                match said.username.as_str() {
                    "<token>" => Ok(by_token(host, said.secret)),
                    _ => Ok(by_password(host, RegistryLogin::new(said.username, said.secret)?)),
                }
            }
        }
    }
}

/// How a registry is named where logins are kept, to Docker and to helpers.
fn key(host: &RegistryHost) -> &str {
    if host.is_docker_hub() { DOCKER_HUB_KEY } else { host.as_str() }
}

fn by_password(host: &RegistryHost, login: RegistryLogin) -> DockerCredentials {
    DockerCredentials {
        username: Some(login.username),
        password: Some(login.password.expose().to_owned()),
        serveraddress: Some(key(host).to_owned()),
        ..DockerCredentials::default()
    }
}

fn by_token(host: &RegistryHost, token: String) -> DockerCredentials {
    DockerCredentials {
        identitytoken: Some(token),
        serveraddress: Some(key(host).to_owned()),
        ..DockerCredentials::default()
    }
}

/// Reads a secret from a file, without the line break that an editor puts at its end.
async fn read(path: &Path, paths: &PathLooks) -> Result<String, CredentialsError> {
    let file = path.to_owned();
    let look = move || {
        let mut text = String::new();
        // One byte more, and two for the line break: what is too long is refused and not cut.
        File::open(file)?.take(PASSWORD_MAX as u64 + 3).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = paths.look(path, FILE_LIMIT, look).await?;
    let mut text =
        text.map_err(|source| CredentialsError::File { path: path.to_owned(), source })?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    if text.len() > PASSWORD_MAX {
        return Err(LoginError::Password.into());
    }
    Ok(text)
}

impl Credentials {
    /// For the daemon.
    pub(super) fn into_docker(self) -> Option<DockerCredentials> {
        self.docker
    }

    /// From where an image was to come and as whom, for people.
    pub(super) fn shown(&self) -> String {
        let registry = self.registry.as_ref().map_or("its registry", RegistryHost::as_str);
        let username = self.docker.as_ref().and_then(|docker| docker.username.as_ref());
        match (self.source, username) {
            (Source::Nowhere, _) => format!("from {registry} without credentials"),
            (_, Some(name)) => format!("from {registry} as {name:?}"),
            (_, None) => format!("from {registry} with an identity token"),
        }
    }

    /// What to do about a registry that refuses these credentials.
    pub(super) fn next_step(&self) -> String {
        let registry = self.registry.as_ref().map_or("HOST", RegistryHost::as_str);
        match self.source {
            Source::Nowhere => format!("log in with `dwell registry login {registry}`"),
            Source::Cluster => format!("correct that with `dwell registry login {registry}`"),
            Source::Node => {
                format!(
                    "correct `registries` in this node's agent.yaml, where {registry} has an entry"
                )
            }
        }
    }

    /// The registry's host.
    pub(super) fn registry(&self) -> &str {
        self.registry.as_ref().map_or("HOST", RegistryHost::as_str)
    }

    /// Whether it is Docker's own.
    pub(super) fn is_docker_hub(&self) -> bool {
        self.registry.as_ref().is_some_and(RegistryHost::is_docker_hub)
    }
}

/// Says as whom, and never with what.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

#[cfg(test)]
mod tests;
