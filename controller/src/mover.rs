//! Volumes on their way from one node to another: the bytes go through here.
//!
//! ```text
//!   model: what is to be copied ─▶ one task for each instance: pass ─▶ pass ─▶ "copied"        (it runs)
//!                                                            pass ─▶ adopt ─▶ "adopted"        (it is stopped)
//!   pass: sender ─ Tunnel ─▶ here ─ Tunnel ─▶ receiver, a few messages at a time
//! ```
//!
//! Owns nothing that lasts: what is to be done is read from the model again and again, and all that agents are asked can be asked
//! again. A task ends when the model wants it no more, and with it what the agents do.

use std::collections::HashMap;
use std::time::Duration;

use dwell_core::id::{InstanceName, NodeName, Revision, VolumeName};
use dwell_proto::v1;
use dwell_proto::v1::open_tunnel::Purpose;
use dwell_proto::v1::tunnel_up::Message;
use dwell_proto::v1::volume_order::What;
use dwell_proto::v1::volume_part::Part;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use crate::fetcher::Fetching;
use crate::model::{Command, Model, VolumeJob, VolumeMoveNews};
use crate::owner::Handle;
use crate::tunnel::{Tunnel, Tunnels};

/// How often the model is asked what is to be done.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How many running instances' volumes are copied at a time; others wait for their turn. One that is stopped for it never waits.
const COPIES_MAX: usize = 4;
/// How often the model is told of those that wait.
const TELL_OF_WAITING_EVERY: Duration = Duration::from_secs(30);
/// How long after a pass that failed, or that came to nothing, the next one begins.
const PAUSE: Duration = Duration::from_secs(5);
/// How often it is told how far a pass is.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// For how long an agent may say nothing.
const SILENCE: Duration = Duration::from_secs(120);
/// How often the volumes are copied while the instance runs.
const PASSES_MAX: usize = 4;
/// A pass in which less than this was sent is the last one while the instance runs, in bytes.
const LITTLE: u64 = 32 << 20;

/// Why a pass did not come to its end.
enum Broken {
    /// It may work the next time.
    Interrupted(String),
    /// It will not.
    Failed(String),
}

/// Which copy of which move.
type Step = (InstanceName, Revision, bool);

/// Copies what is to be copied, until `stop` is cancelled.
pub(crate) async fn run(owner: Handle, tunnels: Tunnels, stop: CancellationToken) {
    let mut tasks: HashMap<Step, AbortOnDropHandle<()>> = HashMap::new();
    let mut told_of_waiting: Option<Instant> = None;
    loop {
        let Ok(jobs) = owner.read(Model::volume_moves).await else { return };
        tasks
            .retain(|step, task| !task.is_finished() && jobs.iter().any(|job| job.step() == *step));
        let (begun, waiting) = next(jobs, |step| tasks.contains_key(step), tasks.len());
        for job in begun {
            let (step, mover) = (job.step(), Mover::new(&owner, &tunnels, job));
            tasks.insert(step, AbortOnDropHandle::new(tokio::spawn(mover.work())));
        }
        if told_of_waiting.is_none_or(|told| told.elapsed() >= TELL_OF_WAITING_EVERY) {
            told_of_waiting = (!waiting.is_empty()).then(Instant::now);
            for job in waiting {
                Mover::new(&owner, &tunnels, job).tell(VolumeMoveNews::Waits).await;
            }
        }
        // Cancel-safe: nothing is lost when sleeping ends early.
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Which of the jobs begin now, and which wait, while so many are `busy`. Those that are stopped come first and need no turn: they
/// are down for as long as they wait.
fn next(
    mut jobs: Vec<VolumeJob>,
    is_begun: impl Fn(&Step) -> bool,
    mut busy: usize,
) -> (Vec<VolumeJob>, Vec<VolumeJob>) {
    jobs.retain(|job| !is_begun(&job.step()));
    jobs.sort_by_key(|job| !job.is_final);
    jobs.into_iter().partition(|job| {
        let begins = job.is_final || busy < COPIES_MAX;
        busy += usize::from(begins);
        begins
    })
}

impl VolumeJob {
    fn step(&self) -> Step {
        (self.instance.clone(), self.of_move, self.is_final)
    }
}

/// Copies the volumes of one instance.
struct Mover {
    owner: Handle,
    tunnels: Tunnels,
    job: VolumeJob,
    /// What each volume takes, as far as its node has said.
    sizes: HashMap<VolumeName, u64>,
    /// What was sent so far, in bytes.
    sent: u64,
    told: Instant,
}

impl Mover {
    fn new(owner: &Handle, tunnels: &Tunnels, job: VolumeJob) -> Self {
        let (owner, tunnels) = (owner.clone(), tunnels.clone());
        Self { owner, tunnels, job, sizes: HashMap::new(), sent: 0, told: Instant::now() }
    }

    async fn work(mut self) {
        let news = match self.copy().await {
            Ok(()) if self.job.is_final => VolumeMoveNews::Adopted,
            Ok(()) => VolumeMoveNews::Copied,
            Err(Broken::Interrupted(problem)) => {
                tracing::info!(instance = %self.job.instance, problem, "a copy of volumes was interrupted; it is tried again");
                VolumeMoveNews::Interrupted(problem)
            }
            Err(Broken::Failed(problem)) => VolumeMoveNews::Failed(problem),
        };
        self.tell(news).await;
        // If the model still wants the same, it wants it a little later.
        sleep(PAUSE).await;
    }

    async fn copy(&mut self) -> Result<(), Broken> {
        let volumes = self.job.volumes.clone();
        if self.job.is_final {
            for volume in &volumes {
                self.pass(volume).await?;
            }
            for volume in &volumes {
                self.adopt(volume).await?;
            }
            return Ok(());
        }
        self.fetch_image().await?;
        for _ in 0..PASSES_MAX {
            let before = self.sent;
            for volume in &volumes {
                self.pass(volume).await?;
            }
            if self.sent.saturating_sub(before) < LITTLE {
                break;
            }
        }
        Ok(())
    }

    /// Where it goes is its image before it is stopped.
    async fn fetch_image(&mut self) -> Result<(), Broken> {
        let (to, image) = (self.job.to.clone(), self.job.image.clone());
        match self.fetch(&to, &image).await {
            Err(status) if status.code() != Code::Unimplemented => {
                let problem = format!("{to} cannot fetch {image}: {}", status.message());
                Err(Broken::Interrupted(problem))
            }
            _ => Ok(()),
        }
    }

    async fn fetch(&mut self, to: &NodeName, image: &str) -> Result<(), Status> {
        let mut fetching = Fetching::begin(&self.owner, &self.tunnels, to, image).await?;
        while fetching.next().await?.is_some() {
            self.goes_on().await;
        }
        Ok(())
    }

    async fn tell(&self, news: VolumeMoveNews) {
        let (instance, of_move) = (self.job.instance.clone(), self.job.of_move);
        let command = Command::NoteVolumeMove { instance, of_move, news };
        if let Err(error) = self.owner.command(command).await {
            tracing::warn!(instance = %self.job.instance, %error, "cannot note how far a copy of volumes is; it is done again");
        }
    }

    /// Something came: says so now and then.
    async fn goes_on(&mut self) {
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let bytes = self.sizes.values().sum();
            self.tell(VolumeMoveNews::Progress { bytes, sent: self.sent }).await;
        }
    }

    async fn open(
        &self,
        node: &NodeName,
        (name, image_path): &(VolumeName, Option<String>),
        what: What,
    ) -> Result<Tunnel, Broken> {
        let order = v1::VolumeOrder {
            instance: self.job.instance.to_string(),
            volume: name.to_string(),
            copy: self.job.of_move.0,
            image_path: image_path.clone().unwrap_or_default(),
            is_final: self.job.is_final,
            what: Some(what),
        };
        let opened = self.tunnels.open(node, Purpose::Volume(order)).await;
        opened.map_err(|error| Broken::Interrupted(error.to_string()))
    }

    /// Brings the copy of one volume up to date.
    async fn pass(&mut self, volume: &(VolumeName, Option<String>)) -> Result<(), Broken> {
        let (from, to) = (self.job.from.clone(), self.job.to.clone());
        let mut receiver = self.open(&to, volume, What::Receive(true)).await?;
        let mut sender = self.open(&from, volume, What::Send(true)).await?;
        loop {
            // Cancel-safe: a message is either had or still to come.
            let (from_receiver, heard) = tokio::select! {
                part = hear(&mut receiver, &to) => (true, part?),
                part = hear(&mut sender, &from) => (false, part?),
            };
            let passed_on = match (from_receiver, &heard) {
                (true, Part::Done(_)) => return Ok(()),
                (true, Part::Adopted(_)) if self.job.is_final => return Ok(()),
                (true, Part::Adopted(_)) => {
                    return Err(Broken::Failed(format!("{to} has volume {} already", volume.0)));
                }
                (_, Part::Compared(_)) => None,
                (true, _) => Some((&sender, &from)),
                (false, part) => {
                    match part {
                        Part::Total(total) => {
                            self.sizes.insert(volume.0.clone(), total.bytes);
                        }
                        Part::Data(piece) => self.sent += piece.data.len() as u64,
                        _ => {}
                    }
                    Some((&receiver, &to))
                }
            };
            if let Some((end, node)) = passed_on {
                let part = v1::VolumePart { part: Some(heard) };
                let message = v1::TunnelDown { volume: Some(part), ..v1::TunnelDown::default() };
                let sent = timeout(SILENCE, end.down.send(message)).await;
                if !matches!(sent, Ok(Ok(()))) && from_receiver {
                    return Err(gone(node));
                }
                if !matches!(sent, Ok(Ok(()))) {
                    // It says why, if it can.
                    return Err(match hear(&mut receiver, &to).await {
                        Err(broken) => broken,
                        Ok(_) => gone(&to),
                    });
                }
            }
            self.goes_on().await;
        }
    }

    /// Has the copy of one volume become the volume.
    async fn adopt(&mut self, volume: &(VolumeName, Option<String>)) -> Result<(), Broken> {
        let to = self.job.to.clone();
        let mut tunnel = self.open(&to, volume, What::Adopt(true)).await?;
        match hear(&mut tunnel, &to).await? {
            Part::Adopted(true) => Ok(()),
            _ => Err(gone(&to)),
        }
    }
}

fn gone(node: &NodeName) -> Broken {
    Broken::Interrupted(format!("{node} has ended the copy"))
}

/// The next thing that a node says.
async fn hear(tunnel: &mut Tunnel, node: &NodeName) -> Result<Part, Broken> {
    let message = timeout(SILENCE, tunnel.up.message()).await.map_err(|_| {
        let silence = SILENCE.as_secs();
        Broken::Interrupted(format!("{node} has said nothing for {silence} s"))
    })?;
    match message.ok().flatten().and_then(|message| message.message) {
        Some(Message::Volume(v1::VolumePart { part: Some(part) })) => Ok(part),
        Some(Message::Error(error)) => {
            let problem = format!("{node}: {}", error.message);
            match Code::from(error.code) {
                Code::FailedPrecondition | Code::InvalidArgument | Code::NotFound => {
                    Err(Broken::Failed(problem))
                }
                _ => Err(Broken::Interrupted(problem)),
            }
        }
        _ => Err(gone(node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(instance: &str, is_final: bool) -> VolumeJob {
        VolumeJob {
            instance: instance.parse().unwrap(),
            of_move: Revision(1),
            from: "n1".parse().unwrap(),
            to: "n2".parse().unwrap(),
            image: "a".to_owned(),
            is_final,
            volumes: Vec::new(),
        }
    }

    fn names(jobs: &[VolumeJob]) -> Vec<String> {
        jobs.iter().map(|job| job.instance.to_string()).collect()
    }

    #[test]
    fn those_that_are_stopped_wait_for_nobody() {
        let running = ["a-0", "b-0", "c-0", "d-0", "e-0"].map(|name| job(name, false));
        let jobs = running.into_iter().chain([job("y-0", true), job("z-0", true)]).collect();
        let (begun, waiting) = next(jobs, |step| step.0.to_string() == "a-0", 1);
        assert_eq!(names(&begun), ["y-0", "z-0", "b-0"]);
        assert_eq!(names(&waiting), ["c-0", "d-0", "e-0"]);
        let (begun, waiting) = next(vec![job("x-0", false), job("z-0", true)], |_| false, 4);
        assert_eq!(names(&begun), ["z-0"]);
        assert_eq!(names(&waiting), ["x-0"]);
    }
}
