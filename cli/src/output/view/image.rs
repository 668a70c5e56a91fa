//! Images on nodes.

use std::collections::BTreeMap;

use dwell_core::instance::sanitize;
use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;
use serde::Serialize;
use tonic::Status;

use crate::archive::{Archive, Image};
use crate::failure::Failure;

/// The longest text of a node's that is shown, in bytes.
const TEXT_MAX: usize = 1024;

/// `dwell image ls`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ImagesView {
    /// The largest first.
    pub(crate) images: Vec<ImageView>,
    /// Nodes that could not be asked.
    pub(crate) problems: Vec<ProblemView>,
}

/// An image, wherever it is.
#[derive(Debug, Serialize)]
pub(crate) struct ImageView {
    pub(crate) id: String,
    /// What any node has it under.
    pub(crate) names: Vec<String>,
    pub(crate) size_bytes: u64,
    #[serde(serialize_with = "crate::output::time::serialize")]
    pub(crate) created_at: u64,
    /// In the order of their names.
    pub(crate) nodes: Vec<ImageOnNodeView>,
}

/// An image on a node.
#[derive(Debug, Serialize)]
pub(crate) struct ImageOnNodeView {
    pub(crate) node: String,
    pub(crate) names: Vec<String>,
    /// Made from it, running or not, whosever they are.
    pub(crate) containers: u32,
    pub(crate) uses: Vec<ImageUseView>,
    /// How many more instances need it than `uses` names.
    pub(crate) further_uses: u32,
    /// The node fetched it, and removes it by itself when nothing has needed it for long.
    pub(crate) fetched: bool,
    /// For how long nothing has needed it, as far as the node watched; only of one that was fetched.
    pub(crate) unused_ms: u64,
}

/// `dwell image rm` and `dwell image prune`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct RemovalsView {
    /// What was removed, or would be, in the order of nodes.
    pub(crate) removed: Vec<RemovalView>,
    /// Nodes that could not be asked or refused, and images that could not be removed.
    pub(crate) problems: Vec<ProblemView>,
}

/// An image that is gone from a node.
#[derive(Debug, Serialize)]
pub(crate) struct RemovalView {
    pub(crate) node: String,
    pub(crate) id: String,
    /// The names that were taken from it.
    pub(crate) names: Vec<String>,
    /// Whether nothing is left of it but layers that others have.
    pub(crate) whole: bool,
    /// With the layers that it shares with others.
    pub(crate) size_bytes: u64,
}

impl RemovalsView {
    /// Takes in what a node says.
    pub(crate) fn take_in(&mut self, said: v1::NodeImages) {
        let node = said.node;
        match said.answer.and_then(|answer| answer.says) {
            Some(Says::Removal(one)) if one.problem.is_empty() => self.removed.push(RemovalView {
                node,
                id: one.id,
                names: one.names,
                whole: one.whole,
                size_bytes: one.size_bytes,
            }),
            Some(Says::Removal(one)) => {
                let image = one.names.first().unwrap_or(&one.id);
                let problem = format!("{image}: {}", one.problem);
                self.problems.push(ProblemView::new(node, &problem, 0));
            }
            Some(_) => {}
            None => {
                self.problems.push(ProblemView::new(node, &said.problem, said.code));
            }
        }
    }

    /// In the order of nodes.
    pub(crate) fn sorted(mut self) -> Self {
        self.removed.sort_by(|a, b| a.node.cmp(&b.node));
        self.problems.sort_by(|a, b| a.node.cmp(&b.node));
        self
    }
}

/// An instance that needs an image.
#[derive(Debug, Serialize)]
pub(crate) struct ImageUseView {
    pub(crate) instance: String,
    /// `runs`, `next`, `fall-back` or `unknown`.
    pub(crate) role: &'static str,
}

/// A node that could not be asked, or did not do what it was asked.
#[derive(Debug, Serialize)]
pub(crate) struct ProblemView {
    pub(crate) node: String,
    pub(crate) problem: String,
    /// The node has no such image.
    #[serde(skip)]
    pub(crate) is_missing: bool,
}

impl ProblemView {
    /// What went wrong with a node, in the same words as if it had been all that was asked.
    pub(crate) fn of_status(node: String, status: Status) -> Self {
        Self { node, problem: Failure::from(status).to_string(), is_missing: false }
    }

    /// What a node said.
    pub(crate) fn new(node: String, problem: &str, code: i32) -> Self {
        let is_missing = code == i32::from(tonic::Code::NotFound);
        Self { node, problem: sanitize(problem, TEXT_MAX), is_missing }
    }
}

/// `dwell image pull`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct PullsView {
    pub(crate) image: String,
    /// Those that have it now, in the order of their names.
    pub(crate) nodes: Vec<String>,
    /// Nodes that do not.
    pub(crate) problems: Vec<ProblemView>,
}

/// `dwell image push`.
#[derive(Debug, Serialize)]
pub(crate) struct PushesView {
    /// The names in the archive.
    pub(crate) images: Vec<String>,
    /// How many layers its images have, for the platform that the archive puts first.
    pub(crate) layers: u64,
    pub(crate) nodes: Vec<PushedView>,
    /// Nodes that did not take it.
    pub(crate) problems: Vec<ProblemView>,
}

/// A node that has the images now.
#[derive(Debug, Serialize)]
pub(crate) struct PushedView {
    pub(crate) node: String,
    /// It had them before, and nothing was sent.
    pub(crate) had_it: bool,
    pub(crate) sent_bytes: u64,
    /// How many layers the images have, for its platform.
    pub(crate) layers: u64,
    /// How many layers it had.
    pub(crate) held_layers: u64,
}

impl PushesView {
    pub(crate) fn new(archive: &Archive) -> Self {
        let images = archive.images.iter().flat_map(|image| &image.names).cloned().collect();
        let layers = layers(&archive.images);
        Self { images, layers, nodes: Vec::new(), problems: Vec::new() }
    }

    /// In the order of nodes.
    pub(crate) fn sorted(mut self) -> Self {
        self.nodes.sort_by(|a, b| a.node.cmp(&b.node));
        self.problems.sort_by(|a, b| a.node.cmp(&b.node));
        self
    }
}

impl PushedView {
    pub(crate) fn new(node: &str, images: &[Image]) -> Self {
        let (node, layers) = (node.to_owned(), layers(images));
        Self { node, had_it: false, sent_bytes: 0, layers, held_layers: 0 }
    }
}

fn layers(images: &[Image]) -> u64 {
    images.iter().map(|image| image.layers.len() as u64).sum()
}

/// What nodes have said so far.
#[derive(Debug, Default)]
pub(crate) struct Said {
    images: BTreeMap<String, ImageView>,
    problems: Vec<ProblemView>,
}

impl Said {
    /// Takes in what a node says.
    pub(crate) fn take_in(&mut self, said: v1::NodeImages) {
        let node = said.node;
        match said.answer.and_then(|answer| answer.says) {
            Some(Says::Page(page)) => {
                page.images.into_iter().for_each(|image| self.add(&node, image));
            }
            Some(_) => {}
            None => {
                self.problems.push(ProblemView::new(node, &said.problem, said.code));
            }
        }
    }

    fn add(&mut self, node: &str, wire: v1::NodeImage) {
        let image = self.images.entry(wire.id.clone()).or_insert_with(|| ImageView {
            id: wire.id.clone(),
            names: Vec::new(),
            size_bytes: wire.size_bytes,
            created_at: wire.created_at_ms,
            nodes: Vec::new(),
        });
        image.names.extend(wire.names.iter().cloned());
        image.nodes.push(ImageOnNodeView {
            node: node.to_owned(),
            names: wire.names,
            containers: wire.containers,
            uses: wire.uses.into_iter().map(Into::into).collect(),
            further_uses: wire.further_uses,
            fetched: wire.fetched,
            unused_ms: wire.unused_ms,
        });
    }

    /// All that was said.
    pub(crate) fn into_view(self) -> ImagesView {
        let mut images: Vec<ImageView> = self.images.into_values().collect();
        for image in &mut images {
            // Tags are what people know it by.
            image.names.sort_by(|a, b| (a.contains('@'), a).cmp(&(b.contains('@'), b)));
            image.names.dedup();
            image.nodes.sort_by(|a, b| a.node.cmp(&b.node));
        }
        images
            .sort_by(|a, b| (b.size_bytes, &a.names, &a.id).cmp(&(a.size_bytes, &b.names, &b.id)));
        let mut problems = self.problems;
        problems.sort_by(|a, b| a.node.cmp(&b.node));
        ImagesView { images, problems }
    }
}

impl From<v1::ImageUse> for ImageUseView {
    fn from(wire: v1::ImageUse) -> Self {
        use v1::image_use::Role;
        let role = match wire.role() {
            Role::Runs => "runs",
            Role::Next => "next",
            Role::FallBack => "fall-back",
            Role::Unspecified => "unknown",
        };
        Self { instance: wire.instance, role }
    }
}
