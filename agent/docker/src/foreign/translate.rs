//! What a container of somebody else's is in dwell's words: pure, from what Docker says of it.
//!
//! Everything that Docker can say of a container is one of three: the template says it as well, it is different afterwards and that does
//! no harm ([`Foreign::changes`]), or it forbids to adopt the container ([`Foreign::obstacles`]). What loosens the hold on a
//! container, or that its program may rely on, forbids.

mod confined;
mod held;
mod network;
mod process;
mod storage;

pub(super) use process::{is_of_compose, restart};
pub(super) use storage::has_own_files as own_files;

use std::collections::BTreeMap;

use bollard::models::{
    ContainerConfig, ContainerInspectResponse, FilesystemChange, HostConfig, ImageConfig,
    ImageInspect, Volume,
};
use dwell_core::foreign::{Foreign, SENTENCES_MAX};
use dwell_core::image::{digest_of, pinned, repository};
use dwell_core::instance::{MESSAGE_MAX, sanitize};
use dwell_core::quantity::Bytes;
use dwell_core::workload::Template;
use dwell_engine::ContainerId;

/// What Docker says of a container, and what else has to be known of it.
pub(super) struct Facts {
    /// The container, with the size of its own files.
    pub(super) seen: ContainerInspectResponse,
    /// The image that it was made from.
    pub(super) image: ImageInspect,
    /// What is different in its file system from the image.
    pub(super) changed: Vec<FilesystemChange>,
    /// Its volumes, as far as they were found.
    pub(super) volumes: Vec<Volume>,
    /// The names of other containers that mount a volume, by the volume.
    pub(super) sharers: BTreeMap<String, Vec<String>>,
    /// Why paths of the node may not be mounted, by path.
    pub(super) refused: BTreeMap<String, String>,
}

/// What is said of a container beside its template.
#[derive(Default)]
struct Findings {
    changes: Vec<String>,
    obstacles: Vec<String>,
}

impl Findings {
    fn change(&mut self, sentence: impl AsRef<str>) {
        push(&mut self.changes, sentence.as_ref());
    }

    fn forbid(&mut self, sentence: impl AsRef<str>) {
        push(&mut self.obstacles, sentence.as_ref());
    }
}

fn push(all: &mut Vec<String>, sentence: &str) {
    if all.len() < SENTENCES_MAX {
        all.push(sanitize(sentence, MESSAGE_MAX));
    }
}

/// What of Docker's words is looked at, with defaults for what is not said.
struct Said<'a> {
    config: &'a ContainerConfig,
    host: &'a HostConfig,
    image: &'a ImageConfig,
    facts: &'a Facts,
}

/// Translates a running container.
pub(super) fn translate(facts: &Facts) -> Foreign {
    let (config, host, image) = (
        facts.seen.config.clone().unwrap_or_default(),
        facts.seen.host_config.clone().unwrap_or_default(),
        facts.image.config.clone().unwrap_or_default(),
    );
    let said = Said { config: &config, host: &host, image: &image, facts };
    let mut findings = Findings::default();
    let mut template = Template::of_image(image_name(&said));
    process::translate(&said, &mut template, &mut findings);
    confined::translate(&said, &mut template, &mut findings);
    held::translate(&said, &mut template, &mut findings);
    network::translate(&said, &mut template, &mut findings);
    let volumes = storage::mounts(&said, &mut template, &mut findings);
    let own_files = storage::own_files(&said);
    let name = facts.seen.name.as_deref().unwrap_or_default().trim_start_matches('/');
    Foreign {
        id: ContainerId(facts.seen.id.clone().unwrap_or_default()),
        name: sanitize(name, MESSAGE_MAX),
        own_files: own_files.or_else(|| template.image.is_empty().then_some(Bytes(0))),
        template,
        volumes,
        restart: restart(host.restart_policy.as_ref()),
        changes: findings.changes,
        obstacles: findings.obstacles,
    }
}

/// The name by which the image of a container is found again, here and elsewhere; empty if none leads to it. It names the digest
/// where there is one: the tag may have moved since.
fn image_name(said: &Said<'_>) -> String {
    let tags = said.facts.image.repo_tags.as_deref().unwrap_or_default();
    let digests = said.facts.image.repo_digests.as_deref().unwrap_or_default();
    let asked = said.config.image.as_deref().unwrap_or_default();
    let tagged = |tag: &&String| **tag == asked || **tag == format!("{asked}:latest");
    if digest_of(asked).is_some()
        && digests.iter().any(|known| digest_of(known) == digest_of(asked))
    {
        return asked.to_owned();
    }
    let tag = tags.iter().find(tagged).map(|_| asked.to_owned()).or_else(|| tags.first().cloned());
    match tag {
        Some(tag) => {
            let own = digests.iter().filter(|known| repository(known) == repository(&tag));
            pinned(&tag, own.filter_map(|known| digest_of(known)).min()).into_owned()
        }
        None => digests.first().cloned().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
