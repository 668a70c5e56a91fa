//! Images that an archive has for several platforms.
//!
//! ```text
//!   index.json ──▶ an index for each such image ──▶ a manifest for each platform ──▶ configuration and layers
//! ```
//!
//! `docker save` lists platforms as well whose files it does not have: one counts if all of it is there.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Config, Image, Manifest};

/// How many indexes and manifests are looked at.
const LOOKS_MAX: usize = 1_000;

/// An image for several platforms.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// By `OS/ARCHITECTURE` and variant; without names.
    platforms: BTreeMap<(String, String), Image>,
}

/// An index of the OCI's, or a manifest of one image.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

impl Descriptor {
    /// Where an archive has it.
    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replacen(':', "/", 1))
    }
}

/// All images that are there for more than one platform. `text` reads a file of the archive, and `image` an image.
pub(super) fn groups(
    text: &dyn Fn(&str) -> Result<Vec<u8>, String>,
    image: &dyn Fn(Manifest) -> Result<(Image, Config), String>,
) -> Vec<Group> {
    let mut looks = 0;
    let mut read = |path: &str| -> Option<Index> {
        looks += 1;
        (looks <= LOOKS_MAX).then(|| serde_json::from_slice(&text(path).ok()?).ok())?
    };
    let Some(all) = read("index.json") else { return Vec::new() };
    let mut groups = Vec::new();
    for index in all.manifests {
        let mut group = Group::default();
        for manifest in read(&index.path()).map(|index| index.manifests).unwrap_or_default() {
            let Some(Index { config: Some(config), layers, .. }) = read(&manifest.path()) else {
                continue;
            };
            let layers = layers.iter().map(Descriptor::path).collect();
            let manifest = Manifest { config: config.path(), repo_tags: None, layers };
            let Ok((image, config)) = image(manifest) else { continue };
            // Where it was built and of what stands beside it as an image of no platform.
            if config.architecture != "unknown" {
                let platform = format!("{}/{}", config.os, config.architecture);
                group.platforms.insert((platform, config.variant), image);
            }
        }
        if group.platforms.len() > 1 {
            groups.push(group);
        }
    }
    groups
}

/// The platforms of an image, if it is there for several.
pub(super) fn of<'a>(groups: &'a [Group], image: &Image) -> Option<&'a Group> {
    groups.iter().find(|group| group.platforms.values().any(|one| one.id == image.id))
}

impl Group {
    /// The image for an architecture in the words of Linux: of several variants the one that runs on all of it.
    pub(super) fn choose(&self, image: &Image, arch: &str) -> Result<Image, String> {
        let wanted = format!("linux/{}", architecture(arch));
        let mut found = self.platforms.iter();
        let chosen = found.find(|((platform, _), _)| *platform == wanted).map(|(_, one)| one);
        let names = || image.names.clone();
        chosen.map(|chosen| Image { names: names(), ..chosen.clone() }).ok_or_else(|| {
            let shown = |(platform, variant): &(String, String)| match variant.as_str() {
                "" => platform.clone(),
                variant => format!("{platform}/{variant}"),
            };
            let platforms: Vec<String> = self.platforms.keys().map(shown).collect();
            format!(
                "this node runs {wanted}, and the archive has {} for {}; pull or build it for {wanted} and save it again",
                image.names.join(", "),
                platforms.join(", ")
            )
        })
    }
}

/// A processor architecture in the words of images.
fn architecture(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}
