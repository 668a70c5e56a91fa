//! What an agent asks of the software that runs containers.
//!
//! [`Engine`] is the only way from the agent to containers; the crate `dwell-docker` speaks to a Docker daemon,
//! `fake` keeps containers in memory and fails on request. What is said here of all engines, `contract` checks of any. An engine keeps no state of dwell's: what
//! a container is of stands in its labels, so that any agent can take over after any crash.
//!
//! Invariants:
//! - an engine shows and touches only containers with the label of its own cluster, but for one that is named to it in a call for
//!   containers that dwell did not make, and that has no label of dwell's;
//! - every call is idempotent in its effect: asking for what is already so succeeds;
//! - every call but [`Engine::wait`] ends in bounded time, also when the daemon does not answer
//!   ([`EngineError::Unavailable`]); a call that was dropped or timed out may have taken effect;
//! - no main process is ever started outside its instance's sandbox.
//!
//! ```text
//!            create            start                 ends, stop
//!   (none) ─────────▶ Created ───────▶ Running ─────────────────▶ Exited ──▶ (none)
//!                        │                ▲          start           │   remove
//!                        │                └──────────────────────────┘     ▲
//!                        └─────────────────────────────────────────────────┘
//! ```

#[cfg(feature = "contract")]
pub mod contract;
pub mod death;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod turns;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dwell_core::clock::Timestamp;
use dwell_core::foreign::{Foreign, ForeignRestart};
use dwell_core::id::{InstanceName, VolumeName};
use dwell_core::image::ImageDigest;
use dwell_core::instance::Assigned;
use dwell_core::node::EngineInfo;
use dwell_core::quantity::Bytes;
use dwell_core::registry::RegistryLogins;
use dwell_core::sandbox::Slot;
use dwell_core::session::SeenVolume;
use dwell_core::workload::{Enforced, Limits};
use futures_util::stream::BoxStream;
use tokio::io::AsyncWrite;
use tokio::sync::watch;

pub use dwell_core::container::{
    Container, ContainerId, ContainerState, Details, Event, EventKind,
};
pub use error::EngineError;
pub use turns::VolumeTurns;

/// What a container uses; `None` where nothing is counted, such as by a kernel without that controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory that cannot be taken from it: without the part of its page cache that nobody has used lately.
    pub memory: Option<Bytes>,
    /// Processes and threads together.
    pub pids: Option<u32>,
}

/// An engine that any task can use.
pub type SharedEngine = Arc<dyn Engine>;

/// Software that runs containers.
#[async_trait]
pub trait Engine: Send + Sync {
    /// What the engine is and whether instances can be started with it.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] if it does not answer.
    async fn info(&self) -> Result<EngineReport, EngineError>;

    /// Asks for a sign of life, which costs the engine next to nothing.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] if it gives none.
    async fn ping(&self) -> Result<(), EngineError>;

    /// All containers of this cluster, running or not, in no order.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`], [`EngineError::Other`].
    async fn list(&self) -> Result<Vec<Container>, EngineError>;

    /// One container, with everything that [`Container`] can hold.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is none, or it is not of this cluster.
    async fn inspect(&self, id: &ContainerId) -> Result<Container, EngineError>;

    /// Makes a container for an instance, in one of its sandboxes, without starting it. Its image has to be there.
    ///
    /// # Errors
    /// [`EngineError::AlreadyExists`] if there is one of this instance and generation,
    /// [`EngineError::ImageMissing`] if the image has to be pulled first,
    /// [`EngineError::VolumeMissing`] if one of its kept volumes is not there,
    /// [`EngineError::Refused`] if asking again without a change is pointless,
    /// [`EngineError::RuntimeMissing`] if a container could not be put into its sandbox.
    async fn create_in(&self, slot: Slot, assigned: &Assigned) -> Result<ContainerId, EngineError>;

    /// As [`Engine::create_in`], in the usual sandbox.
    ///
    /// # Errors
    /// As that.
    async fn create(&self, assigned: &Assigned) -> Result<ContainerId, EngineError> {
        self.create_in(Slot::A, assigned).await
    }

    /// Makes ready what the start of a container needs on the node, and makes sure that no process is left of the
    /// containers in `remains`, of the same instance, which do not run. To be called before each start.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; [`EngineError::Other`] if a process is left and cannot be ended, or one of `remains`
    /// runs after all.
    async fn make_ready(
        &self,
        id: &ContainerId,
        assigned: &Assigned,
        remains: &BTreeSet<ContainerId>,
    ) -> Result<(), EngineError>;

    /// Ends what runs in the sandboxes of an instance in containers that the engine does not know: it may have been given
    /// another store, or have lost what it knew. What others run there is left alone.
    ///
    /// # Errors
    /// [`EngineError::Other`] if something cannot be ended.
    async fn end_unlisted(&self, instance: &InstanceName) -> Result<(), EngineError>;

    /// Copies files and directories of a container that has ended into one that was never started, each with all that is in it:
    /// owners, modes and links as they are, times to the second. What the new container has at the same place is replaced, and what
    /// else it has in a directory stays. Directories above that it lacks are made. If it fails, some of it may have been copied; to
    /// copy again sets that right. Bounded by [`CARRIED_MAX`](dwell_core::workload::CARRIED_MAX).
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for either container; [`EngineError::Refused`] if it is more than that, or the new container
    /// has something there that cannot be replaced; [`EngineError::Other`] if the one runs or the other was started.
    async fn carry(
        &self,
        from: &ContainerId,
        into: &ContainerId,
        paths: &[String],
    ) -> Result<Carried, EngineError>;

    /// Starts a container in its instance's sandbox, which has to exist; a running one is left alone.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Refused`] if its command cannot be executed or what it mounts of the node
    /// cannot be had, [`EngineError::RuntimeMissing`].
    async fn start(&self, id: &ContainerId) -> Result<(), EngineError>;

    /// Writes again what the runtime is told of a container before it starts it, as [`Engine::start`] does by itself. So
    /// the container can be started by others, too. Its sandbox has to exist.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; [`EngineError::Refused`] if it mounts what is not allowed on this node;
    /// [`EngineError::Other`].
    async fn tell_runtime(&self, id: &ContainerId) -> Result<(), EngineError>;

    /// Asks the main process to end, kills it after `grace`, and returns when it has ended; one that
    /// is not running is left alone.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unavailable`].
    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError>;

    /// Returns the exit code of the main process once it is not running, at once if it is not now.
    /// Has no time limit of its own.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unavailable`] if the engine goes away meanwhile.
    async fn wait(&self, id: &ContainerId) -> Result<i32, EngineError>;

    /// Removes a container, killing what runs in it; its named volumes stay. One that is gone is fine.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`], [`EngineError::Other`].
    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError>;

    /// Containers of others that bear this cluster's label, as the last list showed them.
    fn strangers(&self) -> BTreeSet<String>;

    /// Files on the node that the engine keeps for containers of this cluster which are gone, for people. None are
    /// those of a container that is being made.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`], [`EngineError::Other`].
    async fn leftovers(&self) -> Result<BTreeSet<PathBuf>, EngineError>;

    /// Removes what [`Engine::leftovers`] finds.
    ///
    /// # Errors
    /// As [`Engine::leftovers`]; [`EngineError::Other`] for the first that cannot be removed, after trying all.
    async fn sweep(&self) -> Result<(), EngineError>;

    /// All volumes of this cluster's instances, and the copies that are still to become volumes, in no order.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`], [`EngineError::Other`].
    async fn volumes(&self) -> Result<Vec<SeenVolume>, EngineError>;

    /// The directory of a volume.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unavailable`].
    async fn volume_data(
        &self,
        instance: &InstanceName,
        name: &VolumeName,
    ) -> Result<PathBuf, EngineError>;

    /// Makes the directory for a copy of another node's volume, or finds it. It is no volume, and no container gets it, before
    /// [`Engine::adopt_copy`].
    ///
    /// # Errors
    /// [`EngineError::Refused`] if there is such a volume that is no copy of this move; [`EngineError::Unavailable`],
    /// [`EngineError::Other`].
    async fn begin_copy(&self, copy: &VolumeCopy) -> Result<CopyPlace, EngineError>;

    /// Makes a copy the volume that it is of, whole: whatever crashes, there is the copy or the volume with all of it. Nothing
    /// happens if it has become that already.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is neither; [`EngineError::Refused`] as for [`Engine::begin_copy`].
    async fn adopt_copy(&self, copy: &VolumeCopy) -> Result<(), EngineError>;

    /// Deletes a volume with everything in it, and a copy that was to become it. One that is not there is fine.
    ///
    /// # Errors
    /// [`EngineError::Other`] while a container has it, [`EngineError::Unavailable`].
    async fn remove_volume(
        &self,
        instance: &InstanceName,
        name: &VolumeName,
    ) -> Result<(), EngineError>;

    /// What a running container is that dwell did not make, by its name or id.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; [`EngineError::NotRunning`]; [`EngineError::Refused`] if it has a label of dwell's, or cannot be
    /// looked at as it is; [`EngineError::Unavailable`], [`EngineError::Other`].
    async fn foreign(&self, name: &str) -> Result<Foreign, EngineError>;

    /// Stops a container that dwell did not make, and has nobody start it again by itself. One that has ended is fine.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Refused`] if it has a label of dwell's, [`EngineError::Unavailable`],
    /// [`EngineError::Other`].
    async fn stop_foreign(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError>;

    /// Makes an image of all that a stopped container which dwell did not make has in its own file system, unless there is an
    /// image of that name. Without a name, only makes sure that its own image has all of it.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; [`EngineError::Refused`] if something would be lost without an image, or it has a label of
    /// dwell's; [`EngineError::Other`] if it runs; [`EngineError::Unavailable`].
    async fn keep_foreign(&self, id: &ContainerId, image: Option<&str>) -> Result<(), EngineError>;

    /// The directory of a volume that is not dwell's.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unavailable`].
    async fn foreign_volume(&self, volume: &str) -> Result<PathBuf, EngineError>;

    /// Undoes [`Engine::stop_foreign`]: what may still be about to end is stopped first, and started after that. One that is as it
    /// was is left alone, as far as that can be told.
    ///
    /// # Errors
    /// As [`Engine::stop_foreign`]; what keeps it from starting.
    async fn start_foreign(
        &self,
        id: &ContainerId,
        grace: Duration,
        restart: ForeignRestart,
    ) -> Result<(), EngineError>;

    /// What a container uses at the moment; nothing is counted of one that does not run.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unavailable`].
    async fn usage(&self, id: &ContainerId) -> Result<Usage, EngineError>;

    /// Sets the limits of a container, also while it runs. Zero takes a limit away. Those that cannot be enforced are left
    /// out, which is no failure: [`EngineReport::enforced`] and each container's details say which.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Refused`].
    async fn update_limits(&self, id: &ContainerId, limits: Limits) -> Result<(), EngineError>;

    /// Fetches an image, or finds that it is there: in its newest form, or in any if none can be had. `logins` count more than
    /// those that its node was told, and less than the node's own.
    ///
    /// # Errors
    /// [`EngineError::PullFailed`], [`EngineError::Unavailable`].
    async fn pull(
        &self,
        image: &str,
        logins: &RegistryLogins,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(), EngineError>;

    /// All images, whosever they are, in no order.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`], [`EngineError::Other`].
    async fn images(&self) -> Result<Vec<Image>, EngineError>;

    /// Which image a reference means now; `None` if none is there that a container could be made from by it.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`], [`EngineError::Other`].
    async fn find_image(&self, reference: &str) -> Result<Option<ImageDigest>, EngineError>;

    /// Takes a name, `NAME:TAG` or `NAME@DIGEST`, from an image; with the last one the image goes, and its layers that no
    /// other has. One without a name goes by its id. What is not there is fine.
    ///
    /// # Errors
    /// [`EngineError::Other`] if a container is made from it, [`EngineError::Unavailable`].
    async fn remove_image(&self, name: &str) -> Result<(), EngineError>;

    /// How many of an image's first layers an archive of it need not have for [`Engine::load_images`], because this engine
    /// has them.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`], [`EngineError::Other`].
    async fn spared_layers(&self, layers: &[ImageDigest]) -> Result<usize, EngineError>;

    /// Puts the images of an archive, as `docker save` writes it, here under the names in it, also if others went by them. If the
    /// archive ends with an error, or this is dropped, no image of it is there that was not before.
    ///
    /// # Errors
    /// [`EngineError::Other`] if it makes no sense of the archive, [`EngineError::Unavailable`].
    async fn load_images(&self, archive: ArchiveStream) -> Result<(), EngineError>;

    /// What happens to the cluster's containers from the moment of this call on. The same event may
    /// come twice, and none is promised to come: what counts is what [`Engine::inspect`] says. The
    /// stream ends, or yields one last error, when the engine goes away; call again then, and list.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`].
    async fn events(&self) -> Result<BoxStream<'static, Result<Event, EngineError>>, EngineError>;

    /// What a container wrote. The engine is read only as fast as the stream is.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unavailable`].
    async fn logs(
        &self,
        id: &ContainerId,
        options: &LogOptions,
    ) -> Result<OutputStream, EngineError>;

    /// What was kept of the output of an instance's newest container that is gone, its last lines; `None` if nothing was.
    ///
    /// # Errors
    /// [`EngineError::Other`].
    async fn previous_output(
        &self,
        instance: &InstanceName,
    ) -> Result<Option<Vec<u8>>, EngineError>;

    /// Starts a further command in a running container.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::NotRunning`], [`EngineError::Refused`].
    async fn exec(
        &self,
        id: &ContainerId,
        request: &ExecRequest,
    ) -> Result<ExecSession, EngineError>;

    /// Attaches to a container's main process: what it has printed so far and prints from now on, its input if its template gives
    /// it one, its terminal and its end. Of one that has ended there is what it printed and its exit code. If it is of a job and has an
    /// input, who attaches within a few seconds of its start gets all of its output, lines without an end included.
    ///
    /// To hang it up ([`ExecControl::hang_up`]) is to kill it if it has not ended a few seconds later.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::NotRunning`] if it was never started.
    async fn attach(&self, id: &ContainerId) -> Result<ExecSession, EngineError>;
}

/// What an engine says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineReport {
    /// Versions and readiness; not ready without the runtime that puts containers into sandboxes.
    pub info: EngineInfo,
    /// Why it cannot run any instance, as it is configured; no container is made then.
    pub unfit: Option<&'static str>,
    /// The limits that it can hold containers to; others are left out when they are asked for.
    pub enforced: Enforced,
    /// The directory of its images and containers, if it has one.
    pub data_root: Option<PathBuf>,
    /// The registries whose certificate it did not trust when it was last asked to pull from them.
    pub distrusted: BTreeSet<String>,
}

/// A copy of another node's volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeCopy {
    /// Whose volume it becomes.
    pub instance: InstanceName,
    /// The volume's name.
    pub name: VolumeName,
    /// The path at which the image asked for it, if no declaration did.
    pub image_path: Option<String>,
    /// Names the move that it is made for.
    pub of_move: u64,
}

/// Where a copy is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyPlace {
    /// In this directory.
    Open(PathBuf),
    /// It has become the volume.
    Adopted,
}

/// What was copied from one container into another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// How much it was, as far as the engine counts it.
    pub size: Bytes,
    /// Of what was asked for, what there was not.
    pub missing: Vec<String>,
}

/// An archive of images, in pieces as they come.
pub type ArchiveStream = BoxStream<'static, std::io::Result<tokio_util::bytes::Bytes>>;

/// An image that is on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// By which the engine knows it.
    pub id: ImageDigest,
    /// All that it goes by, as `NAME:TAG` and `NAME@DIGEST`, in the engine's spelling. It can be without any.
    pub names: BTreeSet<String>,
    /// What it takes on the disk, with the layers that it shares with others.
    pub size: Bytes,
    /// When it was made, wherever that was.
    pub created_at: Timestamp,
    /// How many containers are made from it, running or not, whosever they are.
    pub containers: u32,
}

/// How far a pull has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Layers that are there.
    pub layers_done: u32,
    /// Layers known of so far.
    pub layers: u32,
    /// Bytes fetched of the layers known of.
    pub bytes_done: u64,
    /// Bytes to fetch of the layers known of.
    pub bytes: u64,
}

/// Which part of the output of a container is wanted, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on with what is written from now on, until the container ends.
    pub follow: bool,
    /// Begin at most this many lines before the end; `None` begins with the first.
    pub tail: Option<u32>,
    /// Leave out what was written before.
    pub since: Option<Timestamp>,
    /// Put the time (RFC 3339, UTC) before each line.
    pub timestamps: bool,
}

/// Pieces of output, as they come; not cut at lines.
pub type OutputStream = BoxStream<'static, Result<Output, EngineError>>;

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// From the standard output, or from a terminal.
    Stdout(tokio_util::bytes::Bytes),
    /// From the standard error.
    Stderr(tokio_util::bytes::Bytes),
}

/// A command to run beside a container's main process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The command and its arguments, not empty.
    pub command: Vec<String>,
    /// Variables beside the container's own, as `NAME=VALUE`.
    pub environment: Vec<String>,
    /// User, or `user:group`; the container's if empty.
    pub user: String,
    /// Working directory; the container's if empty.
    pub working_dir: String,
    /// Whether it gets an input.
    pub stdin: bool,
    /// The size of its terminal, if it gets one.
    pub terminal: Option<TerminalSize>,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// A command that runs in a container. Dropping it closes the command's input and stops reading its
/// output, but does not end it: that is what [`ExecControl::hang_up`] is for.
pub struct ExecSession {
    /// What is written here is the command's input; shutting it down ends that input.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// The command's output; the engine is read only as fast as this is. Ends when the command does.
    pub output: OutputStream,
    /// For all else.
    pub control: Box<dyn ExecControl>,
}

/// What can be done to a command that runs in a container.
#[async_trait]
pub trait ExecControl: Send + Sync {
    /// Tells the command that its terminal has another size.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`], [`EngineError::NotRunning`].
    async fn resize(&self, size: TerminalSize) -> Result<(), EngineError>;

    /// The exit code, or `None` while the command still runs. Ask when the output has ended.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`], [`EngineError::NotFound`] if its container was removed.
    async fn exit_code(&self) -> Result<Option<i32>, EngineError>;

    /// Ends the command as losing its terminal would (`SIGHUP`), for when the one who asked for it is
    /// gone. One that has ended is fine.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`].
    async fn hang_up(&self) -> Result<(), EngineError>;

    /// Kills the command and everything that it started and that is still there. One that has ended is fine.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`].
    async fn kill(&self) -> Result<(), EngineError>;
}
