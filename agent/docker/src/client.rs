//! The connection to a Docker daemon, and what its errors mean.
//!
//! Every request is a connection of its own to the daemon's socket, so there is nothing to go stale;
//! what is kept is only the version of the API that was agreed on. It is agreed on again whenever the
//! agent asks the daemon what it is or begins to listen to its events, since it may have been replaced
//! by another version in between.

use std::fmt::Display;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use dwell_core::instance::sanitize;

use dwell_engine::EngineError;

/// How errors name this engine.
pub(super) const NAME: &str = "docker";
/// How long a call may take that only reads or changes a little.
pub(super) const QUICK: Duration = Duration::from_secs(30);
/// How long a call may take that makes, starts or removes a container, on a busy host.
pub(super) const SLOW: Duration = Duration::from_secs(120);

/// The oldest API that is spoken: Docker 20.10, which Debian 12 has.
const API_MINIMUM: (usize, usize) = (1, 41);
/// How `dwell-oci` begins when it refuses to mount a path of the node. The container is to stay, however often that
/// happens: another one would be made with whatever the path leads to by then.
const MOUNT_REFUSED: &str = "dwell-oci: the mount at ";
/// The longest text of the daemon's that is passed on, in bytes.
const REASON_MAX: usize = 512;

/// How to reach a Docker daemon.
pub(super) struct Client {
    socket: PathBuf,
    agreed: Mutex<Option<Docker>>,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, agreed: Mutex::new(None) }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The daemon, by the version agreed on before, or now if there is none.
    pub(super) async fn docker(&self) -> Result<Docker, EngineError> {
        let agreed = self.agreed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match agreed {
            Some(docker) => Ok(docker),
            None => self.negotiate().await,
        }
    }

    /// The daemon, by a version agreed on now.
    pub(super) async fn negotiate(&self) -> Result<Docker, EngineError> {
        let path = self.socket.to_string_lossy();
        let fail = |error| meaning(error, "agree on a version of its API", "");
        let docker =
            Docker::connect_with_unix(&path, SLOW.as_secs(), API_DEFAULT_VERSION).map_err(fail)?;
        let docker = docker.with_request_modifier(with_readable_credentials);
        let docker = limited(QUICK, docker.negotiate_version()).await.map_err(fail)?;
        let version = docker.client_version();
        if (version.major_version, version.minor_version) < API_MINIMUM {
            return Err(EngineError::Refused {
                engine: NAME,
                operation: "agree on a version of its API",
                reason: format!("it offers {version}, and 1.41 (Docker 20.10) or later is needed"),
            });
        }
        *self.agreed.lock().unwrap_or_else(PoisonError::into_inner) = Some(docker.clone());
        Ok(docker)
    }
}

/// Docker reads credentials as base64 for URLs, and takes those that it cannot read for none: which password would be among
/// them depends on where in it a `?`, `>` or `~` stands. The library writes plain base64, so it is rewritten.
fn with_readable_credentials(mut request: BollardRequest) -> BollardRequest {
    if let Some(value) = request.headers_mut().get_mut("X-Registry-Auth")
        && let Ok(plain) = value.to_str()
        && let Ok(readable) = plain.replace('+', "-").replace('/', "_").parse()
    {
        *value = readable;
    }
    request
}

/// Gives a call so much time and no more.
pub(super) async fn limited<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(Error::RequestTimeoutError))
}

/// The status of the daemon's reply, if it sent one.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// What the daemon replied, for people.
pub(super) fn reason(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => sanitize(message, REASON_MAX),
        error => sanitize(&error.to_string(), REASON_MAX),
    }
}

/// What an error means to the one who asked for `operation` on the container `id`.
pub(super) fn meaning(error: Error, operation: &'static str, id: impl Display) -> EngineError {
    match error {
        Error::DockerResponseServerError { status_code, message } => {
            let reason = sanitize(&message, REASON_MAX);
            match status_code {
                404 => EngineError::NotFound { id: id.to_string() },
                _ if message.contains(MOUNT_REFUSED) => {
                    EngineError::Refused { engine: NAME, operation, reason }
                }
                400 | 403 if !may_pass(&message) => {
                    EngineError::Refused { engine: NAME, operation, reason }
                }
                _ => EngineError::Other { engine: NAME, operation, reason },
            }
        }
        Error::RequestTimeoutError
        | Error::SocketNotFoundError(_)
        | Error::IOError { .. }
        | Error::HyperResponseError { .. }
        | Error::HyperLegacyError { .. } => unavailable(&error),
        // All others are replies that make no sense: JSON of another shape, or half of it.
        error => EngineError::Other {
            engine: NAME,
            operation,
            reason: sanitize(&format!("malformed reply: {error}"), REASON_MAX),
        },
    }
}

/// A reply that makes no sense.
pub(super) fn malformed(operation: &'static str, what: &str) -> EngineError {
    EngineError::Other { engine: NAME, operation, reason: format!("malformed reply: {what}") }
}

/// The daemon does not answer, with the innermost cause, which is the telling one.
pub(super) fn unavailable(error: &dyn std::error::Error) -> EngineError {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    EngineError::Unavailable { engine: NAME, reason: sanitize(&innermost.to_string(), REASON_MAX) }
}

/// The one place but [`MOUNT_REFUSED`] where the text of an error decides: whether a start that Docker answers with 400
/// may succeed later all the same.
///
/// Docker answers 400 if the text of the runtime's error has "no such file or directory" in it, which
/// it takes for a command that the image does not have. That is permanent; but `dwell-oci`, which
/// begins its messages with its name, says the same of a sandbox that is not there yet.
fn may_pass(message: &str) -> bool {
    message.contains("dwell-oci:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status_code: u16, message: &str) -> Error {
        Error::DockerResponseServerError { status_code, message: message.to_owned() }
    }

    #[test]
    fn meanings() {
        let not_found =
            "OCI runtime create failed: exec: \"x\": executable file not found in $PATH";
        let no_sandbox = "OCI runtime create failed: dwell-oci: cannot open \"/run/dwell/netns/web-0\": \
                          No such file or directory (os error 2): unknown";
        let mount = "OCI runtime create failed: dwell-oci: the mount at \"/data\" is refused: \"/srv/a\" is not \
                     there any more: No such file or directory: unknown";
        let table = [
            (reply(400, mount), "docker refused to start it: OCI runtime create failed"),
            (reply(500, mount), "docker refused to start it: OCI runtime create failed"),
            (reply(404, "No such container: x"), "container c1 does not exist"),
            (reply(400, not_found), "docker refused to start it: OCI runtime create failed"),
            (reply(400, no_sandbox), "docker failed to start it: OCI runtime create failed"),
            (reply(500, "no space left"), "docker failed to start it: no space left"),
            (reply(500, "a\u{1b}[31m\nb"), "docker failed to start it: a [31m b"),
            (Error::RequestTimeoutError, "docker does not answer (Timeout error)"),
            (
                Error::SocketNotFoundError("/x".to_owned()),
                "docker does not answer (Socket not found: /x)",
            ),
            (
                Error::JsonDataError { message: "no".to_owned(), column: 1 },
                "docker failed to start it: malformed reply",
            ),
        ];
        for (error, text) in table {
            let shown = meaning(error, "start it", "c1").to_string();
            assert!(shown.starts_with(text), "{shown:?} is not {text:?}");
        }
    }

    #[test]
    fn the_innermost_cause_is_told() {
        let inner = std::io::Error::other("connection refused");
        let error = Error::IOError { err: std::io::Error::other(inner) };
        assert!(matches!(
            meaning(error, "x", ""),
            EngineError::Unavailable { reason, .. } if reason == "connection refused"
        ));
    }
}
