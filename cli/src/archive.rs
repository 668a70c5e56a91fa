//! An archive of images, as `docker save` writes it: what is in it, and the part of it to send.
//!
//! It is read in place, as often as it is sent, and never held in memory. What a node has already is left out by leaving out
//! the files of those layers, headers and all; the rest is sent byte for byte.
//!
//! One that has an image for several platforms, as containerd's image store saves it, is never sent as a whole: each node gets the files
//! of its own platform, and a list that names only these.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::platforms::Group;
use crate::failure::Failure;

mod platforms;

/// The largest file with a list or a configuration that is read, in bytes.
const TEXT_MAX: u64 = 16 << 20;
/// How many files an archive may have.
const FILES_MAX: usize = 100_000;
/// The list of the images in it.
const LIST: &str = "manifest.json";
/// What tar rounds sizes up to, in bytes.
const BLOCK: u64 = 512;
/// How tar ends.
const END: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];

/// An archive on this machine.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    /// In their order.
    entries: Vec<Entry>,
    /// What is in it, each image once: for the platform that `docker save` puts first.
    pub(crate) images: Vec<Image>,
    /// Those of them that are in it for several platforms.
    groups: Vec<Group>,
}

/// What of an archive is meant for nodes of one architecture.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) images: Vec<Image>,
    /// The list of images to send in place of the archive's own, if the rest of it is not to be sent.
    list: Option<Vec<u8>>,
}

impl Cut {
    /// Whether it is the archive as it is.
    pub(crate) fn is_whole(&self) -> bool {
        self.list.is_none()
    }
}

/// An image in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// The digest of its configuration, `sha256:…`.
    pub(crate) id: String,
    /// `NAME:TAG`.
    pub(crate) names: Vec<String>,
    /// From the lowest on.
    pub(crate) layers: Vec<Layer>,
    /// The file that is its configuration.
    config: String,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Of its files, `sha256:…`.
    pub(crate) digest: String,
    /// How much the archive has of it.
    pub(crate) size: u64,
    /// The file that it is.
    path: String,
}

/// A file of the archive, or another entry.
#[derive(Debug)]
struct Entry {
    path: String,
    /// Where its headers begin, its content begins, and all of it ends.
    span: (u64, u64, u64),
    size: u64,
}

/// An entry of `manifest.json`.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Archive {
    /// Looks an archive over. Blocks.
    ///
    /// # Errors
    /// [`Failure::Usage`] if it is none, or has an image without a name.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let refuse = |problem: String| Failure::Usage(format!("{shown}: {problem}"));
        let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
        Self::of(file).map_err(refuse)
    }

    /// Looks an open file over.
    pub(crate) fn of(file: File) -> Result<Self, String> {
        let mut start = [0; 2];
        if file.read_at(&mut start, 0).is_ok_and(|read| read == 2) && start == [0x1f, 0x8b] {
            return Err("it is compressed; unpack it with gunzip first".to_owned());
        }
        let (entries, links) =
            entries(&file).map_err(|error| format!("it is no archive that tar knows: {error}"))?;
        let files: BTreeMap<&str, &Entry> =
            entries.iter().map(|entry| (entry.path.as_str(), entry)).collect();
        let text = |path: &str| -> Result<Vec<u8>, String> {
            let entry = files.get(plain(path)).ok_or_else(|| format!("{path} is not in it"))?;
            if entry.size > TEXT_MAX {
                return Err(format!("its {path} has {} bytes, which is too much", entry.size));
            }
            let mut text = vec![0; usize::try_from(entry.size).unwrap_or(0)];
            file.read_exact_at(&mut text, entry.span.1).map_err(|error| error.to_string())?;
            Ok(text)
        };
        let manifests = text(LIST)
            .map_err(|problem| format!("{problem}: it is no archive as `docker save` writes it"))?;
        let manifests: Vec<Manifest> = serde_json::from_slice(&manifests)
            .map_err(|error| format!("its manifest.json makes no sense: {error}"))?;
        let layer = |path: &str, digest: String| {
            let path = target(plain(path), &links);
            let size = files.get(path.as_str()).map(|entry| entry.size);
            let size = size.ok_or_else(|| format!("{path} is not in it"))?;
            Ok(Layer { digest, size, path })
        };
        let image = |Manifest { config: path, repo_tags, layers }: Manifest| {
            let config = text(&path)?;
            let id = format!("sha256:{:x}", Sha256::digest(&config));
            let config: Config = serde_json::from_slice(&config)
                .map_err(|error| format!("its {path} makes no sense: {error}"))?;
            let digests = &config.rootfs.diff_ids;
            if digests.len() != layers.len() {
                return Err(format!("image {id} has other layers than its configuration says"));
            }
            let layers = layers.iter().zip(digests).map(|(path, of)| layer(path, of.clone()));
            let layers = layers.collect::<Result<Vec<_>, String>>()?;
            let (names, path) = (repo_tags.unwrap_or_default(), plain(&path).to_owned());
            Ok((Image { id, names, layers, config: path }, config))
        };
        let images = manifests.into_iter().map(|manifest| Ok(image(manifest)?.0));
        let images = images.collect::<Result<Vec<Image>, String>>()?;
        if let Some(Image { id, .. }) = images.iter().find(|image| image.names.is_empty()) {
            return Err(format!(
                "image {id} has no name in it; save it by a name and not by its id"
            ));
        }
        if images.is_empty() {
            return Err("there is no image in it".to_owned());
        }
        let groups = platforms::groups(&text, &image);
        Ok(Self { file, entries, images, groups })
    }

    /// What nodes of an architecture get of it, which is all if that is nothing or no image has several platforms.
    ///
    /// # Errors
    /// What an image is there for, if not for that.
    pub(crate) fn cut(&self, arch: &str) -> Result<Cut, String> {
        let is_whole = |image: &Image| platforms::of(&self.groups, image).is_none();
        if self.images.iter().all(is_whole) {
            return Ok(Cut { images: self.images.clone(), list: None });
        }
        let images = self.images.iter().map(|image| {
            match platforms::of(&self.groups, image) {
                // Of a node that was never heard of nothing is known.
                Some(group) if !arch.is_empty() => group.choose(image, arch),
                _ => Ok(image.clone()),
            }
        });
        let images = images.collect::<Result<Vec<_>, String>>()?;
        let list = images.iter().map(|image| Manifest {
            config: image.config.clone(),
            repo_tags: Some(image.names.clone()),
            layers: image.layers.iter().map(|layer| layer.path.clone()).collect(),
        });
        let list = serde_json::to_vec(&list.collect::<Vec<_>>());
        Ok(Cut { images, list: Some(list.map_err(|error| error.to_string())?) })
    }

    /// What to send of it if the first layers of each image need not come.
    pub(crate) fn part(&self, cut: &Cut, held: &[u32]) -> Part<'_> {
        let mut wanted = BTreeSet::new();
        let mut spared = BTreeSet::new();
        for (nth, image) in cut.images.iter().enumerate() {
            let held = held.get(nth).map_or(0, |&held| usize::try_from(held).unwrap_or(0));
            for (nth, layer) in image.layers.iter().enumerate() {
                if nth < held { &mut spared } else { &mut wanted }.insert(layer.path.as_str());
            }
            wanted.insert(image.config.as_str());
        }
        let is_sent = |entry: &&Entry| {
            let path = entry.path.as_str();
            wanted.contains(path) || (cut.is_whole() && !spared.contains(path))
        };
        let sent = self.entries.iter().filter(is_sent);
        let spans: Vec<(u64, u64)> = sent.map(|entry| (entry.span.0, entry.span.2)).collect();
        let mut rest = cut.list.as_deref().map(listed).unwrap_or_default();
        rest.extend(END);
        Part { file: &self.file, spans, rest }
    }
}

/// The file with the list of images, as an archive has it.
fn listed(list: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(list.len() as u64);
    header.set_mode(0o644);
    // Short enough for any header.
    header.set_path(LIST).ok();
    header.set_cksum();
    let mut file = [header.as_bytes(), list].concat();
    file.resize(file.len().next_multiple_of(BLOCK as usize), 0);
    file
}

/// What of an archive is sent.
pub(crate) struct Part<'a> {
    file: &'a File,
    spans: Vec<(u64, u64)>,
    /// What comes after them.
    rest: Vec<u8>,
}

impl Part<'_> {
    /// How many bytes it has.
    pub(crate) fn size(&self) -> u64 {
        self.spans.iter().map(|(start, end)| end - start).sum::<u64>() + self.rest.len() as u64
    }

    /// Gives it in pieces of at most `most` bytes, until nobody takes them any more. Blocks.
    ///
    /// # Errors
    /// As the file's.
    pub(crate) fn send(
        &self,
        most: usize,
        mut take: impl FnMut(Vec<u8>) -> bool,
    ) -> io::Result<()> {
        for &(start, end) in &self.spans {
            let mut at = start;
            while at < end {
                let left = usize::try_from(end - at).unwrap_or(usize::MAX);
                let mut piece = vec![0; left.min(most)];
                self.file.read_exact_at(&mut piece, at)?;
                at += piece.len() as u64;
                if !take(piece) {
                    return Ok(());
                }
            }
        }
        for piece in self.rest.chunks(most) {
            if !take(piece.to_vec()) {
                break;
            }
        }
        Ok(())
    }
}

/// All entries, and where links lead to.
fn entries(file: &File) -> io::Result<(Vec<Entry>, BTreeMap<String, String>)> {
    let mut reader = io::BufReader::new(file);
    reader.rewind()?;
    let mut archive = tar::Archive::new(reader);
    let (mut entries, mut links, mut start) = (Vec::new(), BTreeMap::new(), 0);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entries.len() >= FILES_MAX {
            return Err(io::Error::other(format!("it has more than {FILES_MAX} files")));
        }
        let path = plain(&entry.path()?.to_string_lossy()).to_owned();
        if let Some(link) = entry.link_name()? {
            let link = link.to_string_lossy();
            // A hard link says the place in the archive, a symbolic one the way from its own.
            let is_hard = entry.header().entry_type().is_hard_link();
            let leads_to = if is_hard { plain(&link).to_owned() } else { way(&path, &link) };
            links.insert(path.clone(), leads_to);
        }
        let (content, size) = (entry.raw_file_position(), entry.size());
        let end = content + size.div_ceil(BLOCK) * BLOCK;
        entries.push(Entry { path, span: (start, content, end), size });
        start = end;
        // Whatever is cut off is not noticed by skipping it.
        if size > 0 && file.read_at(&mut [0], content + size - 1)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((entries, links))
}

/// Where a link leads to in the end.
fn target(path: &str, links: &BTreeMap<String, String>) -> String {
    let mut path = path;
    // Links that lead in a circle lead nowhere.
    for _ in 0..8 {
        match links.get(path) {
            Some(next) => path = next,
            None => break,
        }
    }
    path.to_owned()
}

/// Where a symbolic link at `path` leads to.
fn way(path: &str, link: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A path without what means nothing at its begin.
fn plain(path: &str) -> &str {
    path.trim_start_matches("./").trim_start_matches('/')
}

#[cfg(test)]
mod tests;
