//! `dwell image pull`: images on nodes before an instance needs them.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;

use super::super::{Fleet, name_parser};
use super::{Nodes, told};
use crate::failure::Failure;
use crate::output::view::{ProblemView, PullsView};
use crate::output::{OutputArgs, ProgressLine, Table, size};

/// Have nodes pull an image before an instance needs it
///
/// Nodes log in to its registry as the cluster does (`dwell registry login`), or as their own configuration says. One that
/// has an image of that name asks whether there is a newer one, and is content if the registry cannot be asked.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell image pull nginx:1.27
  dwell image pull ghcr.io/team/app:3 --pool storage
  dwell image pull ghcr.io/team/app:3 --node h1

What no instance needs within a while goes again: see `images` in agent.yaml. Exit code 1 says that a node does not have it.")]
pub(super) struct Pull {
    /// Which
    #[arg(value_parser = name_parser())]
    image: String,
    #[command(flatten)]
    nodes: Nodes,
    #[command(flatten)]
    output: OutputArgs,
}

impl Pull {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<ExitCode, Failure> {
        let (node, pool) = self.nodes.into_names();
        let request = v1::PullImageRequest { node, pool, image: self.image.clone() };
        let mut answers = fleet.client.pull_image(request).await?.into_inner();
        let mut view = PullsView { image: self.image, ..PullsView::default() };
        let mut under_way: BTreeMap<String, v1::ImageProgress> = BTreeMap::new();
        let mut line = ProgressLine::new();
        while let Some(said) = answers.message().await? {
            match said.answer.and_then(|answer| answer.says) {
                Some(Says::Progress(progress)) => {
                    under_way.insert(said.node, progress);
                }
                Some(Says::Done(_)) => {
                    under_way.remove(&said.node);
                    view.nodes.push(said.node);
                }
                // What else there may be is nothing to wait for.
                Some(_) => {}
                None => {
                    under_way.remove(&said.node);
                    view.problems.push(ProblemView::new(said.node, &said.problem, said.code));
                }
            }
            line.show(&progress(&view, &under_way));
        }
        drop(line);
        view.nodes.sort();
        view.problems.sort_by(|a, b| a.node.cmp(&b.node));
        self.output.print(&view, table)?;
        Ok(told(&view.problems))
    }
}

fn progress(view: &PullsView, under_way: &BTreeMap<String, v1::ImageProgress>) -> String {
    let sum = |of: fn(&v1::ImageProgress) -> u64| under_way.values().map(of).sum::<u64>();
    let done = view.nodes.len();
    format!(
        "{done} done, {} pulling: {} of {}, {} of {} layers",
        under_way.len(),
        size(sum(|one| one.bytes_done)),
        size(sum(|one| one.bytes)),
        sum(|one| one.layers_done.into()),
        sum(|one| one.layers.into()),
    )
}

fn table(view: &PullsView) -> String {
    if view.nodes.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["NODE", "IMAGE"]);
    for node in &view.nodes {
        table.row([node.clone(), view.image.clone()]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_adds_up_what_is_under_way() {
        let one =
            v1::ImageProgress { layers_done: 1, layers: 2, bytes_done: 1 << 20, bytes: 3 << 20 };
        let under_way = [("h1".to_owned(), one), ("h2".to_owned(), one)].into();
        let view = PullsView { nodes: vec!["h3".into()], ..PullsView::default() };
        let expected = "1 done, 2 pulling: 2.0 MiB of 6.0 MiB, 2 of 4 layers";
        assert_eq!(progress(&view, &under_way), expected);
        insta::assert_snapshot!(table(&PullsView { image: "a:1".into(), ..view }), @r"
        NODE  IMAGE
        h3    a:1
        ");
    }
}
