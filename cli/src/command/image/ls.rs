//! `dwell image ls`: which images there are, where, and what needs them.

use std::process::ExitCode;

use clap::Args;
use dwell_core::id::{NodeName, PoolName};
use dwell_proto::v1;

use super::super::Fleet;
use super::{text, told};
use crate::complete;
use crate::failure::Failure;
use crate::output::view::{ImageUseView, ImageView, ImagesView, Said};
use crate::output::{Now, OutputArgs, Table, or_dash, size};

/// How many digits of an id are shown, as Docker does.
const ID_DIGITS: usize = 12;
/// How many instances, and how many nodes, are named in a row.
const NAMED_MAX: usize = 3;

/// List the images on nodes, and what needs them
///
/// One row for each image, the largest first, with the nodes that have it. What needs an image are the instances whose
/// container is made from it, those that are to be made from it next, and those that would fall back to it.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell image ls
  dwell image ls h1
  dwell image ls --pool storage
  dwell image ls -o json | jq -r '.images[] | select(all(.nodes[]; .containers == 0)) | .names[]'

SIZE is what an image takes with the layers that it shares with others. UNUSED is how long nothing has needed one that
nodes fetched; they remove it after a while (`images` in agent.yaml). Exit code 1 says that a node could not be
asked.")]
pub(super) struct Ls {
    /// Only those on this node
    #[arg(add = complete::node(), conflicts_with = "pool")]
    node: Option<NodeName>,
    /// Only those on the nodes of this pool
    #[arg(long, add = complete::pool())]
    pool: Option<PoolName>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Ls {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<ExitCode, Failure> {
        let (node, pool) = (text(self.node.as_ref()), text(self.pool.as_ref()));
        let request = v1::ListImagesRequest { node, pool };
        let mut answers = fleet.client.list_images(request).await?.into_inner();
        let mut said = Said::default();
        while let Some(answer) = answers.message().await? {
            said.take_in(answer);
        }
        let view = said.into_view();
        let now = Now::read();
        self.output.print(&view, |view| table(view, now))?;
        Ok(told(&view.problems))
    }
}

fn table(view: &ImagesView, now: Now) -> String {
    if view.images.is_empty() {
        return "no images\n".into();
    }
    let mut table = Table::new(["IMAGE", "ID", "SIZE", "AGE", "UNUSED", "NODES", "USED BY"]);
    for image in &view.images {
        let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
        table.row([
            some(image.names.iter().map(String::as_str).filter(|name| is_told(image, name)), 1),
            id.chars().take(ID_DIGITS).collect(),
            size(image.size_bytes),
            now.age(Some(image.created_at)),
            unused(image),
            some(image.nodes.iter().map(|one| one.node.as_str()), NAMED_MAX),
            used_by(image),
        ]);
    }
    table.to_string()
}

/// Digests are only told of what has no tag.
fn is_told(image: &ImageView, name: &str) -> bool {
    !name.contains('@') || image.names.iter().all(|name| name.contains('@'))
}

/// The first of a list, and how many more there are.
fn some<'a>(all: impl Iterator<Item = &'a str>, most: usize) -> String {
    let all: Vec<&str> = all.collect();
    let named = all[..all.len().min(most)].join(", ");
    match all.len().saturating_sub(most) {
        0 => or_dash(&named),
        more => format!("{named}, {more} more"),
    }
}

/// How long nothing has needed it anywhere, of what nodes fetched.
fn unused(image: &ImageView) -> String {
    let fetched = image.nodes.iter().filter(|node| node.fetched).map(|node| node.unused_ms);
    match fetched.min() {
        Some(unused @ 1000..) => Now(unused.saturating_add(1)).age(Some(1)),
        _ => "-".into(),
    }
}

fn used_by(image: &ImageView) -> String {
    let word = |need: &ImageUseView| match need.role {
        "runs" => need.instance.clone(),
        role => format!("{} ({role})", need.instance),
    };
    let needs: Vec<String> = image.nodes.iter().flat_map(|node| &node.uses).map(word).collect();
    let further: u32 = image.nodes.iter().map(|node| node.further_uses).sum();
    let containers: u32 = image.nodes.iter().map(|node| node.containers).sum();
    match (needs.is_empty(), containers) {
        (true, 0) => "-".into(),
        (true, 1) => "1 container of others".into(),
        (true, others) => format!("{others} containers of others"),
        (false, _) => {
            let further = std::iter::repeat_n("", usize::try_from(further).unwrap_or(0));
            some(needs.iter().map(String::as_str).chain(further), NAMED_MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use dwell_proto::v1::image_use::Role;
    use dwell_proto::v1::images_answer::Says;

    use super::*;

    fn page(node: &str, images: Vec<v1::NodeImage>) -> v1::NodeImages {
        let says = Some(Says::Page(v1::ImagePage { images }));
        v1::NodeImages {
            node: node.into(),
            answer: Some(v1::ImagesAnswer { says }),
            ..Default::default()
        }
    }

    fn image(id: u8, names: &[&str], uses: &[(&str, Role)]) -> v1::NodeImage {
        let need = |&(instance, role): &(&str, Role)| v1::ImageUse {
            instance: instance.into(),
            role: role.into(),
        };
        v1::NodeImage {
            id: format!("sha256:{}", format!("{id:02x}").repeat(32)),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            size_bytes: u64::from(id) << 20,
            created_at_ms: 1_769_860_800_000,
            uses: uses.iter().map(need).collect(),
            ..v1::NodeImage::default()
        }
    }

    #[test]
    fn an_image_is_one_row_wherever_it_is() {
        let web = ["web:1", "web@sha256:00"];
        let mut said = Said::default();
        let mut others = image(3, &["other:1"], &[]);
        others.containers = 2;
        said.take_in(page("h2", vec![image(9, &web, &[("web-1", Role::Runs)]), others]));
        let mut many = image(9, &web, &[("web-0", Role::Runs), ("db-0", Role::FallBack)]);
        many.further_uses = 2;
        let mut old = image(1, &[], &[]);
        (old.fetched, old.unused_ms) = (true, 3_720_000);
        said.take_in(page("h1", vec![many, old]));
        said.take_in(page("h1", vec![image(2, &["x@sha256:00"], &[("x-0", Role::Next)])]));
        let problem = "h3 is\u{1b}[2J down".to_owned();
        said.take_in(v1::NodeImages { node: "h3".into(), problem, ..Default::default() });
        let view = said.into_view();
        insta::assert_snapshot!(table(&view, Now(1_769_860_860_000)), @r"
        IMAGE        ID            SIZE     AGE   UNUSED  NODES   USED BY
        web:1        090909090909  9.0 MiB  1m0s  -       h1, h2  web-0, db-0 (fall-back), web-1, 2 more
        other:1      030303030303  3.0 MiB  1m0s  -       h2      2 containers of others
        x@sha256:00  020202020202  2.0 MiB  1m0s  -       h1      x-0 (next)
        -            010101010101  1.0 MiB  1m0s  1h2m    h1      -
        ");
        assert_eq!(view.problems[0].problem, "h3 is [2J down");
        assert_eq!(table(&ImagesView::default(), Now(0)), "no images\n");
    }
}
