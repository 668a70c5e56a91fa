//! Fetching images, and how far that has come.

use std::collections::{BTreeSet, HashMap};

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use dwell_core::instance::sanitize;
use futures_util::StreamExt;
use tokio::sync::watch;

use super::client::{QUICK, SLOW, limited, meaning, status};
use super::credentials::{Credentials, CredentialsError};
use dwell_engine::{EngineError, PullProgress};

/// How many layers are counted; an image can have 127.
const LAYERS_MAX: usize = 1_000;
/// The longest text of a registry's that is passed on, in bytes.
const REASON_MAX: usize = 512;
/// How many registries are remembered whose certificate is not trusted.
const DISTRUSTED_MAX: usize = 64;

/// How a pull failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: EngineError,
    cause: Option<Cause>,
}

impl From<EngineError> for Failed {
    fn from(error: EngineError) -> Self {
        Self { error, cause: None }
    }
}

/// Takes note of whether a registry's certificate was trusted; a pull that says nothing of that changes nothing.
pub(super) fn note_trust(
    distrusted: &mut BTreeSet<String>,
    registry: String,
    done: &Result<(), Failed>,
) {
    match done {
        Err(Failed { cause: Some(Cause::Certificate), .. })
            if distrusted.len() < DISTRUSTED_MAX =>
        {
            distrusted.insert(registry);
        }
        Ok(()) | Err(Failed { cause: Some(Cause::Login), .. }) => {
            distrusted.remove(&registry);
        }
        Err(_) => {}
    }
}

/// Fetches an image. If that fails, one that is there is good enough: somebody may have loaded it by
/// hand, where no registry is to be had.
pub(super) async fn pull(
    docker: &Docker,
    image: &str,
    credentials: Credentials,
    progress: &watch::Sender<PullProgress>,
) -> Result<(), Failed> {
    match fetch(docker, image, credentials, progress).await {
        Ok(()) => Ok(()),
        Err(failure) => unless_there(docker, image, failure).await,
    }
}

/// The same where the node's own credentials cannot be read: nothing is fetched.
pub(super) async fn without_credentials(
    docker: &Docker,
    image: &str,
    error: &CredentialsError,
) -> Result<(), EngineError> {
    let failure = EngineError::PullFailed {
        image: image.to_owned(),
        access: "by this node's own login".to_owned(),
        reason: sanitize(&error.to_string(), REASON_MAX),
        next: None,
        permanent: false,
    };
    unless_there(docker, image, failure).await
}

async fn unless_there<E>(docker: &Docker, image: &str, failure: E) -> Result<(), E> {
    match limited(QUICK, docker.inspect_image(image)).await {
        Ok(_) => Ok(()),
        Err(_) => Err(failure),
    }
}

/// A daemon that says nothing for [`SLOW`] counts as failing.
async fn fetch(
    docker: &Docker,
    image: &str,
    credentials: Credentials,
    progress: &watch::Sender<PullProgress>,
) -> Result<(), Failed> {
    let options =
        CreateImageOptions { from_image: Some(with_tag(image)), ..CreateImageOptions::default() };
    let refusal = Refusal::of(&credentials);
    let mut replies = docker.create_image(Some(options), None, credentials.into_docker());
    let mut layers = Layers::default();
    loop {
        let reply = limited(SLOW, async { replies.next().await.transpose() }).await;
        match reply.map_err(|error| refusal.failure(image, error))? {
            Some(reply) => {
                layers.take_in(&reply);
                progress.send_replace(layers.progress());
            }
            None => return Ok(()),
        }
    }
}

/// What to say of a registry that does not give an image.
struct Refusal {
    /// From where and as whom.
    access: String,
    /// The registry's host.
    registry: String,
    is_docker_hub: bool,
    /// What to do if it does not take the credentials.
    log_in: String,
}

impl Refusal {
    fn of(credentials: &Credentials) -> Self {
        Self {
            access: credentials.shown(),
            registry: credentials.registry().to_owned(),
            is_docker_hub: credentials.is_docker_hub(),
            log_in: credentials.next_step(),
        }
    }

    fn failure(&self, image: &str, error: Error) -> Failed {
        let status = status(&error);
        let said = match error {
            Error::DockerResponseServerError { message, .. } => message,
            Error::DockerStreamError { error } => error,
            error => return meaning(error, "pull an image", "").into(),
        };
        let cause = Cause::of(status, &said, image);
        // 404 is also what Docker says for a private image without the right to it.
        let permanent = cause == Some(Cause::Login) || matches!(status, Some(400 | 404));
        let error = EngineError::PullFailed {
            image: image.to_owned(),
            access: self.access.clone(),
            reason: sanitize(&said, REASON_MAX),
            next: cause.map(|cause| self.next_step(cause)),
            permanent,
        };
        Failed { error, cause }
    }

    fn next_step(&self, cause: Cause) -> String {
        let Self { registry, log_in, .. } = self;
        match cause {
            Cause::Login => log_in.clone(),
            Cause::Clock => {
                "are the clock of this node and the registry's certificate right?".to_owned()
            }
            // Docker asks its own registry under other names than this one.
            Cause::Certificate if self.is_docker_hub => {
                "put the certificate of the CA into this node's own trust store \
                 (update-ca-certificates), and restart Docker"
                    .to_owned()
            }
            Cause::Certificate => format!(
                "put the certificate of the registry's CA into /etc/docker/certs.d/{registry}/ca.crt on this node"
            ),
            Cause::NoTls => format!(
                "give the registry a certificate, or list {registry} under insecure-registries in this node's \
                 /etc/docker/daemon.json"
            ),
        }
    }
}

/// Why a registry does not give an image, where somebody can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// It does not know us, or gives us nothing.
    Login,
    /// Its certificate is not trusted.
    Certificate,
    /// Its certificate is out of date, or this node's clock is wrong.
    Clock,
    /// It speaks no TLS.
    NoTls,
}

impl Cause {
    /// Docker passes on what the registry said under a status of its own, mostly 500, so that only its words tell. If they change,
    /// the next step is missing from the message, and a refusal is tried again sooner than it need be.
    fn of(status: Option<u16>, said: &str, image: &str) -> Option<Self> {
        let said = without_names(&said.to_lowercase(), &image.to_lowercase());
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if has(&["certificate has expired or is not yet valid"]) {
            Some(Self::Clock)
        } else if has(&["x509:", "failed to verify certificate"]) {
            Some(Self::Certificate)
        } else if has(&["server gave http response to https client"]) {
            Some(Self::NoTls)
        } else if matches!(status, Some(401 | 403))
            || has(&[
                "unauthorized",
                "authentication required",
                "no basic auth credentials",
                "access denied",
                "access to the resource is denied",
                "401 unauthorized",
                "403 forbidden",
            ])
        {
            Some(Self::Login)
        } else {
            None
        }
    }
}

/// A failure's text without URLs, paths and what the reference is made of: names are free to be words that matter.
fn without_names(said: &str, image: &str) -> String {
    let parts: Vec<&str> = image.split(['/', ':', '@']).filter(|part| !part.is_empty()).collect();
    let is_name = |word: &str| {
        let word = word.trim_matches(|sign: char| !sign.is_alphanumeric());
        let begins = |part: &&str| {
            word.strip_prefix(part)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
        };
        word.contains('/') || parts.iter().any(begins)
    };
    let words: Vec<&str> = said.split_whitespace().filter(|word| !is_name(word)).collect();
    words.join(" ")
}

/// Docker takes a name alone for all tags of it.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

/// The layers of an image that is being fetched: bytes there and to come, and whether it is complete.
#[derive(Default)]
pub(super) struct Layers(HashMap<String, (u64, u64, bool)>);

impl Layers {
    pub(super) fn take_in(&mut self, reply: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&reply.id, &reply.status) else { return };
        // The first reply has the tag for an id; only these words are about layers.
        let complete = matches!(status.as_str(), "Pull complete" | "Already exists");
        let downloading = status == "Downloading";
        if !(complete || downloading || status == "Pulling fs layer") {
            return;
        }
        if self.0.len() >= LAYERS_MAX && !self.0.contains_key(id) {
            return;
        }
        let layer = self.0.entry(id.clone()).or_default();
        if let Some(detail) = reply.progress_detail.as_ref().filter(|_| downloading) {
            let bytes = |count: Option<i64>| u64::try_from(count.unwrap_or(0)).unwrap_or(0);
            (layer.0, layer.1) = (bytes(detail.current), bytes(detail.total));
        }
        if complete {
            (layer.0, layer.2) = (layer.1, true);
        }
    }

    pub(super) fn progress(&self) -> PullProgress {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        PullProgress {
            layers_done: count(self.0.values().filter(|layer| layer.2).count()),
            layers: count(self.0.len()),
            bytes_done: self.0.values().map(|layer| layer.0).fold(0, u64::saturating_add),
            bytes: self.0.values().map(|layer| layer.1).fold(0, u64::saturating_add),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_means_its_latest() {
        for (image, asked) in [
            ("debian", "debian:latest"),
            ("debian:12", "debian:12"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("a@sha256:00", "a@sha256:00"),
        ] {
            assert_eq!(with_tag(image), asked);
        }
    }

    #[test]
    fn progress_counts_layers_and_bytes() {
        let mut layers = Layers::default();
        for reply in [
            r#"{"status":"Pulling from library/debian","id":"12"}"#,
            r#"{"status":"Pulling fs layer","id":"a"}"#,
            r#"{"status":"Already exists","id":"b"}"#,
            r#"{"status":"Downloading","id":"a","progressDetail":{"current":5,"total":10}}"#,
            r#"{"status":"Extracting","id":"a","progressDetail":{"current":1,"total":10}}"#,
        ] {
            layers.take_in(&serde_json::from_str(reply).unwrap());
        }
        let half = PullProgress { layers_done: 1, layers: 2, bytes_done: 5, bytes: 10 };
        assert_eq!(layers.progress(), half);
        layers.take_in(&serde_json::from_str(r#"{"status":"Pull complete","id":"a"}"#).unwrap());
        assert_eq!(layers.progress(), PullProgress { layers_done: 2, bytes_done: 10, ..half });
    }

    fn refusal() -> Refusal {
        Refusal {
            access: "from ghcr.io as \"ci\"".to_owned(),
            registry: "ghcr.io".to_owned(),
            is_docker_hub: false,
            log_in: "correct that".to_owned(),
        }
    }

    fn replied(status_code: u16, message: &str) -> EngineError {
        let message = message.to_owned();
        let error = Error::DockerResponseServerError { status_code, message };
        refusal().failure("ghcr.io/a", error).error
    }

    #[test]
    fn which_failures_are_permanent() {
        assert!(replied(404, "no").is_permanent());
        assert!(replied(400, "invalid reference format").is_permanent());
        assert!(!replied(500, "no").is_permanent());
        let cut = Error::DockerStreamError { error: "eof".to_owned() };
        assert!(!refusal().failure("a", cut).error.is_permanent());
    }

    #[test]
    fn what_an_image_is_called_says_nothing_of_why_it_was_not_pulled() {
        for (image, said) in [
            (
                "ghcr.io/team/unauthorized-page",
                "failed to resolve reference \"ghcr.io/team/unauthorized-page:latest\": dial tcp 10.0.0.1:443: i/o timeout",
            ),
            (
                "ghcr.io/team/unauthorized",
                "Get \"https://ghcr.io/token?scope=repository%3Ateam%2Funauthorized%3Apull\": EOF",
            ),
            ("unauthorized:1", "manifest for unauthorized:1 not found: manifest unknown"),
            (
                "unauthorized.lan:5000/a",
                "dial tcp: lookup unauthorized.lan on 10.0.0.1:53: no such host",
            ),
            ("ghcr.io/a:unauthorized", "manifest tagged by \"unauthorized\" is not found"),
        ] {
            assert_eq!(Cause::of(Some(500), said, image), None, "{said}");
        }
        let said = "Head \"https://ghcr.io/v2/team/unauthorized-page/manifests/1\": unauthorized: authentication required";
        let cause = Cause::of(Some(500), said, "ghcr.io/team/unauthorized-page:1");
        assert_eq!(cause, Some(Cause::Login));
    }

    #[test]
    fn an_expired_certificate_and_dockers_own_registry_have_next_steps_of_their_own() {
        let said = "Get \"https://ghcr.io/v2/\": tls: failed to verify certificate: x509: certificate has expired or is \
                    not yet valid: current time 2020-01-01T00:00:00Z is before 2026-01-01T00:00:00Z";
        let failure = replied(500, said);
        assert!(!failure.is_permanent());
        assert!(failure.to_string().contains("clock of this node"), "{failure}");
        let hub = Refusal { is_docker_hub: true, ..refusal() }.next_step(Cause::Certificate);
        assert!(hub.contains("trust store") && !hub.contains("certs.d"), "{hub}");
    }

    #[test]
    fn a_certificate_counts_as_not_trusted_until_the_registry_was_heard() {
        let mut distrusted = BTreeSet::new();
        let mut note = |said: Option<&str>| {
            let failed = |said: &str| {
                let error = Error::DockerStreamError { error: said.to_owned() };
                refusal().failure("a", error)
            };
            note_trust(
                &mut distrusted,
                "ghcr.io".to_owned(),
                &said.map_or(Ok(()), |said| Err(failed(said))),
            );
            distrusted.contains("ghcr.io")
        };
        assert!(note(Some("x509: certificate signed by unknown authority")));
        assert!(note(Some("connection refused")), "that says nothing of it");
        assert!(!note(Some("no basic auth credentials")));
        let expired = "x509: certificate has expired or is not yet valid: current time";
        assert!(!note(Some(expired)), "that says nothing of the CA");
        assert!(note(Some("x509: certificate signed by unknown authority")));
        assert!(note(Some(expired)));
        assert!(!note(None));
    }

    #[test]
    fn a_refused_pull_says_where_as_whom_why_and_what_next() {
        for (status, said) in [
            (500, "Head \"https://ghcr.io/v2/a/manifests/1\": no basic auth credentials"),
            (
                500,
                "Head \"https://ghcr.io/v2/a/manifests/1\": unauthorized: authentication required",
            ),
            (
                404,
                "pull access denied for a, repository does not exist or may require 'docker login': denied",
            ),
            (403, "forbidden"),
        ] {
            let failure = replied(status, said);
            assert!(failure.is_permanent(), "{said}");
            assert_eq!(
                failure.to_string(),
                format!(
                    "pull of image ghcr.io/a from ghcr.io as \"ci\" failed: {said}; correct that"
                )
            );
        }
        let distrusted = replied(
            500,
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        );
        assert!(!distrusted.is_permanent(), "the node can be mended");
        assert!(
            distrusted.to_string().ends_with("/etc/docker/certs.d/ghcr.io/ca.crt on this node")
        );
        let plain = replied(500, "http: server gave HTTP response to HTTPS client");
        assert!(plain.to_string().contains("insecure-registries"), "{plain}");
        let other = replied(500, "manifest unknown").to_string();
        assert!(other.ends_with("failed: manifest unknown"), "{other}");
    }
}
