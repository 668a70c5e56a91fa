//! `dwell image push`: images from this machine straight to nodes.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use dwell_core::id::{NodeName, PoolName};
use dwell_core::instance::sanitize;
use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;
use dwell_proto::v1::push_image_input::Input;
use tokio::process::Command;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::super::Fleet;
use super::{text, told};
use crate::archive::{Archive, Cut};
use crate::client::Client;
use crate::complete;
use crate::failure::Failure;
use crate::lists;
use crate::output::view::{ProblemView, PushedView, PushesView};
use crate::output::{OutputArgs, ProgressLine, Table, size};

/// How many nodes are sent to at a time.
const NODES_MAX: usize = 4;
/// The largest piece in one message, in bytes, and how many may wait for the way.
const PIECE_MAX: usize = 256 * 1024;
const WAITING_MAX: usize = 4;
/// How often progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// The longest text of `docker` that is shown, in bytes.
const SAID_MAX: usize = 1024;

/// Put an image of this machine on nodes, without a registry
///
/// The image is taken from this machine's Docker (`docker save`), or from an archive, and sent through the controller. A
/// node that has it is passed over, and of layers only those travel that a node does not have. Of an image for several
/// platforms each node gets its own.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell image push team/app:dev
  dwell image push team/app:dev --to h1
  dwell image push team/app:dev --pool build
  dwell image push --from-file app.tar

Nodes keep a pushed image as any that they fetched: until nothing has needed it for a while (`images` in agent.yaml). To run it,
declare it by its name: a node that has an image of that name asks no registry. Exit code 1 says that a node did not take it.")]
pub(super) struct Push {
    /// Which, as Docker here knows it
    #[arg(required_unless_present = "from_file", conflicts_with = "from_file")]
    image: Option<String>,
    /// An archive as `docker save` writes it, not compressed
    #[arg(long, value_name = "TAR", value_hint = clap::ValueHint::FilePath)]
    from_file: Option<PathBuf>,
    /// Only to this node
    #[arg(long, add = complete::node(), conflicts_with = "pool")]
    to: Option<NodeName>,
    /// Only to the nodes of this pool
    #[arg(long, add = complete::pool())]
    pool: Option<PoolName>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Push {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<ExitCode, Failure> {
        // Where to is known before anything large is done.
        let nodes = self.nodes(&mut fleet.client).await?;
        let (archive, _directory) = match (&self.from_file, &self.image) {
            (Some(path), _) => (open(path).await?, None),
            (None, Some(image)) => {
                let (archive, directory) = saved(image).await?;
                (archive, Some(directory))
            }
            (None, None) => return Err(Failure::Usage("name an image".into())),
        };
        let archive = Arc::new(archive);
        let sent = Arc::new(AtomicU64::new(0));
        let turns = Arc::new(Semaphore::new(NODES_MAX));
        let count = nodes.len();
        let mut pushes = JoinSet::new();
        for (node, arch) in nodes {
            let (client, archive) = (fleet.client.clone(), Arc::clone(&archive));
            let (turns, sent) = (Arc::clone(&turns), Arc::clone(&sent));
            pushes.spawn(async move {
                let _turn = turns.acquire_owned().await.ok();
                let pushed = match archive.cut(&arch) {
                    Ok(cut) => push(&client, &archive, &Arc::new(cut), &node, &sent).await,
                    Err(problem) => Err(Status::failed_precondition(problem)),
                };
                (node, pushed)
            });
        }
        let mut view = PushesView::new(&archive);
        let mut line = ProgressLine::new();
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        loop {
            // Cancel-safe: both branches wait for a next one.
            tokio::select! {
                pushed = pushes.join_next() => match pushed {
                    None => break,
                    Some(Ok((_, Ok(pushed)))) => view.nodes.push(pushed),
                    Some(Ok((node, Err(status)))) => {
                        view.problems.push(ProblemView::of_status(node, status));
                    }
                    Some(Err(error)) => return Err(Failure::Other(error.to_string())),
                },
                _ = ticks.tick() => {}
            }
            let done = view.nodes.len() + view.problems.len();
            line.show(&format!(
                "{} sent, {done} of {count} nodes done",
                size(sent.load(Ordering::Relaxed))
            ));
        }
        drop(line);
        let view = view.sorted();
        self.output.print(&view, table)?;
        Ok(told(&view.problems))
    }

    /// The nodes that are meant and run instances, with their architectures.
    async fn nodes(&self, client: &mut Client) -> Result<Vec<(String, String)>, Failure> {
        let (found, _) = lists::nodes(client, &text(self.to.as_ref())).await?;
        let pool = text(self.pool.as_ref());
        let has_engine = |node: &v1::Node| {
            node.capacity.as_ref().is_none_or(|capacity| !capacity.engines.is_empty())
        };
        let meant = found.into_iter().filter(|node| pool.is_empty() || node.pool == pool);
        let arch = |node: v1::Node| (node.name, node.capacity.unwrap_or_default().arch);
        let nodes: Vec<_> = meant.filter(has_engine).map(arch).collect();
        match (&self.to, nodes.is_empty()) {
            (_, false) => Ok(nodes),
            (Some(node), true) => Err(Failure::NotFound(format!(
                "there is no node {node} that runs instances; see `dwell node ls`"
            ))),
            (None, true) => Err(Failure::NotFound(
                "no node is meant; see `dwell node ls` for names and pools".into(),
            )),
        }
    }
}

/// Saves an image of this machine's Docker in a directory of its own, which goes with what is returned.
async fn saved(image: &str) -> Result<(Archive, tempfile::TempDir), Failure> {
    let directory = tempfile::Builder::new().prefix("dwell-push").tempdir()?;
    let path = directory.path().join("images.tar");
    let mut docker = Command::new("docker");
    docker.args(["save", "--output"]).arg(&path).arg("--").arg(image);
    let saving = docker.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = saving.await.map_err(|error| {
        Failure::Usage(format!(
            "cannot run `docker save`: {error}; is Docker on this machine? An archive can be given with --from-file"
        ))
    })?;
    if !output.status.success() {
        let said = sanitize(&String::from_utf8_lossy(&output.stderr), SAID_MAX);
        return Err(Failure::Usage(format!("`docker save {image}` failed: {said}")));
    }
    Ok((open(&path).await?, directory))
}

async fn open(path: &Path) -> Result<Archive, Failure> {
    let path = path.to_owned();
    #[expect(clippy::disallowed_methods, reason = "nothing else blocks in this program")]
    let opening = tokio::task::spawn_blocking(move || Archive::open(&path));
    opening.await.map_err(|error| Failure::Other(error.to_string()))?
}

/// Sends a node what it wants of an archive. If that is not enough for it after all, because layers went meanwhile or its engine
/// wants them, it is sent everything, once.
async fn push(
    client: &Client,
    archive: &Arc<Archive>,
    cut: &Arc<Cut>,
    node: &str,
    sent: &Arc<AtomicU64>,
) -> Result<PushedView, Status> {
    let mut held = Vec::new();
    let from = (archive, cut);
    match attempt(client.clone(), from, node, false, sent, &mut held).await {
        Err(_) if held.iter().any(|&held| held > 0) => {
            attempt(client.clone(), from, node, true, sent, &mut held).await
        }
        done => done,
    }
}

async fn attempt(
    mut client: Client,
    (archive, cut): (&Arc<Archive>, &Arc<Cut>),
    node: &str,
    whole: bool,
    sent: &Arc<AtomicU64>,
    held: &mut Vec<u32>,
) -> Result<PushedView, Status> {
    let (sender, inputs) = mpsc::channel(WAITING_MAX);
    let input = |input| v1::PushImageInput { input: Some(input) };
    let gone = |_| Status::unavailable("the controller does not listen");
    sender.send(input(Input::Offer(offer(cut, node, whole)))).await.map_err(gone)?;
    let mut answers = client.push_image(ReceiverStream::new(inputs)).await?.into_inner();
    let mut pushed = PushedView::new(node, &cut.images);
    loop {
        let answer = answers.message().await?.and_then(|answer| answer.says);
        match answer {
            Some(Says::Wanted(wanted)) if wanted.nothing => pushed.had_it = true,
            Some(Says::Wanted(wanted)) => {
                held.clone_from(&wanted.layers_held);
                let part = archive.part(cut, held);
                pushed.sent_bytes = part.size();
                pushed.held_layers = held.iter().map(|&held| u64::from(held)).sum();
                let (archive, cut, held) = (Arc::clone(archive), Arc::clone(cut), held.clone());
                let (sender, sent) = (sender.clone(), Arc::clone(sent));
                // It ends when the archive has been sent or nobody takes it any more; what came of it is answered.
                #[expect(
                    clippy::disallowed_methods,
                    reason = "nothing else blocks in this program"
                )]
                let sending = tokio::task::spawn_blocking(move || {
                    let part = archive.part(&cut, &held);
                    let taken = part.send(PIECE_MAX, |piece| {
                        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                        sender.blocking_send(input(Input::Data(piece.into()))).is_ok()
                    });
                    if taken.is_ok() {
                        sender.blocking_send(input(Input::End(true))).ok();
                    }
                });
                drop(sending);
            }
            Some(Says::Done(_)) => return Ok(pushed),
            // What else there may be is nothing to wait for.
            Some(_) => {}
            None => {
                return Err(Status::unavailable(format!("node {node} said nothing in the end")));
            }
        }
    }
}

fn offer(cut: &Cut, node: &str, whole: bool) -> v1::ImageOffer {
    let image = |image: &crate::archive::Image| v1::OfferedImage {
        id: image.id.clone(),
        names: image.names.clone(),
        layers: image
            .layers
            .iter()
            .map(|layer| v1::OfferedLayer { digest: layer.digest.clone(), size_bytes: layer.size })
            .collect(),
    };
    let images = cut.images.iter().map(image).collect();
    v1::ImageOffer { node: node.to_owned(), images, whole }
}

fn table(view: &PushesView) -> String {
    if view.nodes.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["NODE", "IMAGE", "SENT", "LAYERS"]);
    for one in &view.nodes {
        let (sent, layers) = if one.had_it {
            ("has it already".into(), "-".into())
        } else {
            let sent = one.layers.saturating_sub(one.held_layers);
            (size(one.sent_bytes), format!("{sent} of {}", one.layers))
        };
        table.row([one.node.clone(), view.images.join(" "), sent, layers]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_for_people() {
        let pushed = |node: &str, had_it, sent_bytes, held_layers| PushedView {
            node: node.into(),
            had_it,
            sent_bytes,
            layers: 5,
            held_layers,
        };
        let view = PushesView {
            images: vec!["app:1".into()],
            layers: 5,
            nodes: vec![pushed("h2", false, 5 << 20, 3), pushed("h1", true, 0, 0)],
            problems: Vec::new(),
        };
        insta::assert_snapshot!(table(&view.sorted()), @r"
        NODE  IMAGE  SENT            LAYERS
        h1    app:1  has it already  -
        h2    app:1  5.0 MiB         2 of 5
        ");
    }
}
