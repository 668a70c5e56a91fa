//! What a lab shall be like, and what is written down of one for other processes.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Image, Layout};

/// What a lab shall be like.
#[derive(Clone, Debug)]
pub struct LabConfig {
    pub(super) name: String,
    pub(super) hosts: usize,
    pub(super) live_restore: bool,
    pub(super) images: Vec<Image>,
    pub(super) say: fn(&str),
}

impl LabConfig {
    /// A lab of one host, with the images of the demonstration, without live-restore, that says nothing of its progress.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            hosts: 1,
            live_restore: false,
            images: vec![Image::Hello, Image::Sshd],
            say: |_| {},
        }
    }

    /// With so many hosts, 1 to [`super::MAX_HOSTS`].
    #[must_use]
    pub fn hosts(self, hosts: usize) -> Self {
        Self { hosts, ..self }
    }

    /// With containers that outlive their `dockerd`, or not.
    #[must_use]
    pub fn live_restore(self, live_restore: bool) -> Self {
        Self { live_restore, ..self }
    }

    /// With only these images on the hosts.
    #[must_use]
    pub fn images(self, images: &[Image]) -> Self {
        Self { images: images.to_vec(), ..self }
    }

    /// Telling its progress to `say`, a line at a time.
    #[must_use]
    pub fn say(self, say: fn(&str)) -> Self {
        Self { say, ..self }
    }
}

/// What `lab.json` says of a lab to other processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) layout: Layout,
    pub(super) hosts: usize,
    /// Where dwell's programs are.
    pub(super) programs: PathBuf,
}

impl Description {
    pub(super) fn read(name: &str) -> Result<Self> {
        let path = Layout::new(name, 0)?.description();
        let text = fs::read(&path).with_context(|| {
            format!(
                "there is no lab {name} ({} cannot be read); `dwell-lab up` makes one",
                path.display()
            )
        })?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is not the description of a lab", path.display()))
    }

    pub(super) fn write(&self) -> Result<()> {
        let path = self.layout.description();
        fs::write(&path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
