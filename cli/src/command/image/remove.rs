//! `dwell image rm` and `dwell image prune`.

use std::process::ExitCode;

use clap::Args;
use dwell_proto::v1;

use super::super::{Fleet, name_parser};
use super::{Nodes, told};
use crate::failure::Failure;
use crate::output::view::RemovalsView;
use crate::output::{OutputArgs, Table, size};

/// How many digits of an id are shown, as Docker does.
const ID_DIGITS: usize = 12;

/// Remove an image from nodes
///
/// A node refuses to remove what an instance of it runs, is to run or would fall back to, and what any container is
/// made from. A name is taken from an image, with its digests; with the last name the image goes.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell image rm team/app:3
  dwell image rm team/app:3 --node h1
  dwell image rm sha256:4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1

Without --node or --pool all nodes are meant. Nodes that do not have it are passed over if another one does. Exit code 1
says that a node refused or could not be asked.")]
pub(super) struct Rm {
    /// Which, by a name or its id
    #[arg(value_parser = name_parser())]
    image: String,
    #[command(flatten)]
    nodes: Nodes,
    #[command(flatten)]
    output: OutputArgs,
}

/// Remove the images that nothing needs
///
/// What an instance runs, is to run or would fall back to stays, and so does what any container is made from. Nodes do
/// the same by themselves with what nothing has needed for long: see `images` in agent.yaml.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell image prune --dry-run
  dwell image prune --node h1
  dwell image prune --all          # also images that were not fetched by dwell, such as those that Docker built

Exit code 1 says that a node could not be asked, or could not remove something.")]
pub(super) struct Prune {
    /// Also images that dwell did not fetch
    #[arg(long)]
    all: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    nodes: Nodes,
    #[command(flatten)]
    output: OutputArgs,
}

impl Rm {
    pub(super) async fn run(self, fleet: Fleet) -> Result<ExitCode, Failure> {
        let (node, pool) = self.nodes.into_names();
        let request =
            v1::RemoveImagesRequest { node, pool, image: self.image, ..Default::default() };
        remove(fleet, request, self.output).await
    }
}

impl Prune {
    pub(super) async fn run(self, fleet: Fleet) -> Result<ExitCode, Failure> {
        let (node, pool) = self.nodes.into_names();
        let Self { all, dry_run, .. } = self;
        let request = v1::RemoveImagesRequest { node, pool, all, dry_run, ..Default::default() };
        remove(fleet, request, self.output).await
    }
}

async fn remove(
    mut fleet: Fleet,
    request: v1::RemoveImagesRequest,
    output: OutputArgs,
) -> Result<ExitCode, Failure> {
    let dry_run = request.dry_run;
    let mut answers = fleet.client.remove_images(request).await?.into_inner();
    let mut view = RemovalsView::default();
    while let Some(answer) = answers.message().await? {
        view.take_in(answer);
    }
    let mut view = view.sorted();
    // That some nodes do not have it is what was wanted.
    if !view.removed.is_empty() {
        view.problems.retain(|one| !one.is_missing);
    }
    output.print(&view, |view| table(view, dry_run))?;
    Ok(told(&view.problems))
}

fn table(view: &RemovalsView, dry_run: bool) -> String {
    if view.removed.is_empty() {
        return if dry_run { "nothing would be removed\n" } else { "nothing was removed\n" }.into();
    }
    let what = if dry_run { "WOULD BE REMOVED" } else { "REMOVED" };
    let mut table = Table::new(["NODE", what, "ID", "SIZE"]);
    for one in &view.removed {
        let id = one.id.strip_prefix("sha256:").unwrap_or(&one.id);
        let names = if one.names.is_empty() { "-".into() } else { one.names.join(" ") };
        // What else has it has its bytes as well.
        let size = if one.whole { size(one.size_bytes) } else { "name only".into() };
        table.row([one.node.clone(), names, id.chars().take(ID_DIGITS).collect(), size]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use dwell_proto::v1::images_answer::Says;

    use super::*;

    #[test]
    fn removals_for_people() {
        let removal = |node: &str, id: &str, names: &[&str], whole, problem: &str| {
            let removal = v1::ImageRemoval {
                id: format!("sha256:{}", id.repeat(32)),
                names: names.iter().map(|&name| name.to_owned()).collect(),
                whole,
                size_bytes: 5 << 20,
                problem: problem.into(),
            };
            let answer = Some(v1::ImagesAnswer { says: Some(Says::Removal(removal)) });
            v1::NodeImages { node: node.into(), answer, ..Default::default() }
        };
        let mut view = RemovalsView::default();
        view.take_in(removal("h2", "01", &["a:1", "a@sha256:00"], true, ""));
        view.take_in(removal("h1", "02", &["b:1"], false, ""));
        view.take_in(removal("h1", "03", &[], true, ""));
        view.take_in(removal("h1", "04", &["c:1"], true, "docker does not answer"));
        let view = view.sorted();
        insta::assert_snapshot!(table(&view, false), @r"
        NODE  REMOVED          ID            SIZE
        h1    b:1              020202020202  name only
        h1    -                030303030303  5.0 MiB
        h2    a:1 a@sha256:00  010101010101  5.0 MiB
        ");
        assert_eq!(view.problems[0].problem, "c:1: docker does not answer");
        assert_eq!(table(&RemovalsView::default(), true), "nothing would be removed\n");
    }
}
