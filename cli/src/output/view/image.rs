//! Images on nodes.

use std::collections::BTreeMap;

use dwell_core::instance::sanitize;
use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;
use serde::Serialize;

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
            Some(Says::Done(_)) => {}
            None => {
                let problem = sanitize(&said.problem, TEXT_MAX);
                self.problems.push(ProblemView { node, problem });
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
