//! One stream to the controller, from Hello to its end.
//!
//! One task does everything, so that nothing is shared: it reads what comes, and whenever the way out has
//! room it sends the most urgent of what is due, an acknowledgement, a report of what has changed, a
//! heartbeat, or log-ins over SSH. Nothing queues up behind a slow controller: what is due is worked out when it can be sent.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dwell_core::directory::DirectoryGap;
use dwell_core::id::Incarnation;
use dwell_core::instance::sanitize;
use dwell_core::node::Capacity;
use dwell_core::session::{
    AssignmentChange, Heartbeat, Hello, Lent, MergeError, RebootOrder, StatusReport, Welcome,
};
use dwell_core::skill::Skills;
use dwell_planner::Standing;
use dwell_planner::session::Stream;
use dwell_proto::pieces::Assembly;
use dwell_proto::v1::agent_message::Message as Up;
use dwell_proto::v1::controller_message::Message as Down;
use dwell_proto::v1::session_client::SessionClient;
use dwell_proto::{FromWireError, MESSAGE_MAX_BYTES, PROTOCOL, PROTOCOL_NEWEST, v1};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::{Ended, Session};
use crate::enroll::{self, EnrollError};
use crate::host_mark;
use crate::identity::{Identity, Validity, certificates, wall_clock};
use crate::volumes::Volumes;
use dwell_daemon::{Causes, Lane};

/// How long the controller may take to welcome the node.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);
/// Messages on their way out beside those that HTTP/2 holds.
const OUTGOING: usize = 2;
/// The least time between two reports; changes in between go together.
const REPORT_PAUSE: Duration = Duration::from_millis(10);
/// Bounds of what the controller may ask for.
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 100..=60_000;
/// Bounds of the wait after a renewal that failed.
const RENEW_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// The longest text of the controller that is logged, in bytes.
const REASON_MAX: usize = 500;

/// The name of this run of the agent.
static RUN: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0_u8).max(1));

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The controller ended it, or the connection was lost.
    #[error("the stream ended: {reason}")]
    Ended {
        /// In the controller's words, or what the connection died of.
        reason: String,
    },
    /// The controller did not answer the Hello.
    #[error("the controller did not welcome this node within {} s", WELCOME_LIMIT.as_secs())]
    NoWelcome,
    /// It is another cluster's, although its certificate is from our CA.
    #[error("this is the controller of cluster {found:?}, this node is of {own:?}")]
    OtherCluster {
        /// What it said.
        found: String,
        /// What our identity says.
        own: String,
    },
    /// A message that makes no sense.
    #[error("the controller sent something that makes no sense")]
    Message(#[from] FromWireError),
    /// A message out of turn.
    #[error("the controller sent {0} out of turn")]
    OutOfTurn(&'static str),
    /// An assignment that cannot be merged.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// A change of the directory that does not fit.
    #[error(transparent)]
    Directory(#[from] DirectoryGap),
}

impl StreamError {
    fn of_status(status: &Status) -> Self {
        let words = if status.message().is_empty() {
            status.code().description()
        } else {
            status.message()
        };
        let cause = std::error::Error::source(status).map(|source| Causes(source).to_string());
        let reason = match cause {
            Some(cause) if !words.contains(&cause) => format!("{words}: {cause}"),
            _ => words.to_owned(),
        };
        Self::Ended { reason: sanitize(&reason, REASON_MAX) }
    }
}

/// Says Hello and serves the stream until it ends.
pub(super) async fn serve(
    session: &mut Session,
    channel: Channel,
    (validity, not_before): (Validity, Option<std::time::Instant>),
    heartbeat: &mut Duration,
) -> Result<Ended, StreamError> {
    let mut told = Stream::default();
    let capacity = session.capacity.borrow_and_update().clone();
    let statuses = session.statuses.borrow_and_update().clone();
    let holding = session.holding();
    let network = holding.assignment().map(|held| &held.network);
    let hello = Hello {
        protocol: PROTOCOL,
        protocol_newest: PROTOCOL_NEWEST,
        run: *RUN,
        address: *session.address.borrow_and_update(),
        capacity: Capacity::clone(&capacity),
        status: told.report(&holding, statuses.as_deref()).unwrap_or_default(),
        held: holding.position(),
        term: holding.term(),
        directory: session.directory.begin(),
        takes_pieces: true,
        durable: holding.controller_durable(),
        claims: holding.claims(),
        block: network.and_then(|network| network.block),
        routes_only: network.is_some_and(|network| network.block.is_none()),
        host_mark: session.host_mark.clone(),
        keeps_leases: true,
        fetches_ahead: true,
        carries: true,
        knows_blocks: true,
        knows_ranges: true,
        skills: Skills::ALL,
        lets_go: true,
        takes_over: true,
        moves_volumes: true,
        boot: Some(session.boot.clone()),
    };
    let (outgoing, receiver) = mpsc::channel(OUTGOING);
    let first = v1::AgentMessage { message: Some(Up::Hello((&hello).into())) };
    outgoing.send(first).await.map_err(|_| gone())?;

    let mut client = SessionClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let attaching = async {
        let mut incoming = client
            .attach(ReceiverStream::new(receiver))
            .await
            .map_err(|status| StreamError::of_status(&status))?
            .into_inner();
        match next(&mut incoming).await? {
            Down::Welcome(welcome) => Ok((incoming, Welcome::from(welcome))),
            other => Err(StreamError::OutOfTurn(kind(&other))),
        }
    };
    let (incoming, welcome) =
        timeout(WELCOME_LIMIT, attaching).await.map_err(|_| StreamError::NoWelcome)??;
    if welcome.cluster_id != session.identity.cluster_id {
        return Err(StreamError::OtherCluster {
            found: sanitize(&welcome.cluster_id, REASON_MAX),
            own: session.identity.cluster_id.clone(),
        });
    }
    if let Some(mark) = session.host_mark.clone() {
        let data_dir = session.data_dir.clone();
        // A machine that was taken in is not to wait for what hangs.
        let claimed = Lane::new("host-mark").run(move || host_mark::claim(&data_dir, &mark)).await;
        if let Err(error) = claimed {
            tracing::warn!(error = %Causes(&error), "cannot note in the data directory which machine this is");
        }
    }
    let pause_ms = welcome.heartbeat.0.clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end());
    *heartbeat = Duration::from_millis(pause_ms);
    tracing::info!(
        controller = session.controller, node = %session.identity.node, heartbeat_ms = pause_ms,
        "attached to the controller"
    );
    let now = Instant::now();
    let mut attached = Attached {
        channel,
        told,
        capacity,
        statuses_due: true,
        next_report: now,
        heartbeat: *heartbeat,
        next_heartbeat: now + *heartbeat,
        assembly: Assembly::default(),
        volumes: None,
        validity,
        renew_at: now + validity.renew_in(wall_clock()),
        not_before: not_before.map_or(now, Instant::from_std),
        renewal: None,
        incarnation: welcome.incarnation,
        session,
    };
    attached.compare_trust(&welcome.ca_pem);
    attached.run(incoming, outgoing).await
}

/// A renewal that is under way.
type Renewal = BoxFuture<'static, Result<Identity, EnrollError>>;

/// The state of a stream that was welcomed.
struct Attached<'a> {
    session: &'a mut Session,
    channel: Channel,
    /// What was sent of the assignment and the instances.
    told: Stream,
    /// What was sent of the host.
    capacity: Arc<Capacity>,
    /// Whether there may be something new of the instances.
    statuses_due: bool,
    next_report: Instant,
    heartbeat: Duration,
    next_heartbeat: Instant,
    /// What came of an assignment that comes in pieces.
    assembly: Assembly,
    /// The volumes that were told.
    volumes: Option<Arc<Volumes>>,
    validity: Validity,
    renew_at: Instant,
    /// No renewal for the sake of other CAs before that.
    not_before: Instant,
    renewal: Option<Renewal>,
    /// The history that the controller is in.
    incarnation: Incarnation,
}

impl Attached<'_> {
    async fn run(
        mut self,
        mut incoming: Streaming<v1::ControllerMessage>,
        outgoing: mpsc::Sender<v1::AgentMessage>,
    ) -> Result<Ended, StreamError> {
        loop {
            let now = Instant::now();
            if self.renewal.is_none() && self.renew_at <= now {
                let (session, channel) = (&self.session, self.channel.clone());
                let (data_dir, identity) = (session.data_dir.clone(), session.identity.clone());
                self.renewal =
                    Some(Box::pin(
                        async move { enroll::renew(&data_dir, &identity, channel).await },
                    ));
            }
            let (due, wake_at) = (self.is_due(now), self.wake_at(now));
            // Cancel-safe: reading a message and waiting for a permit, a change or a time lose nothing
            // when another branch is taken, and the renewal is kept between rounds.
            tokio::select! {
                message = next(&mut incoming) => self.take(message?)?,
                permit = outgoing.reserve(), if due => {
                    let permit = permit.map_err(|_| gone())?;
                    if let Some(message) = self.most_urgent(now) {
                        permit.send(v1::AgentMessage { message: Some(message) });
                    }
                }
                Ok(()) = self.session.statuses.changed() => self.statuses_due = true,
                // What was seen may be told with a later revision now.
                Ok(()) = self.session.stored.changed() => self.statuses_due = true,
                Ok(()) = self.session.fenced.changed() => self.statuses_due = true,
                () = self.session.ssh_events.changed() => {}
                Ok(()) = self.session.volumes.changed() => {}
                Ok(()) = self.session.reboot_failed.changed() => self.next_heartbeat = now,
                // An engine that came or went decides about what is placed here.
                Ok(()) = self.session.capacity.changed() => self.next_heartbeat = now,
                Ok(()) = self.session.address.changed() => return Ok(Ended::Readdressed),
                renewed = completed(&mut self.renewal) => match renewed {
                    Ok(identity) => return Ok(Ended::Renewed(Box::new(identity))),
                    Err(error) => self.postpone_renewal(&error),
                },
                () = sleep_until(wake_at) => {}
            }
        }
    }

    fn take(&mut self, message: Down) -> Result<(), StreamError> {
        match message {
            Down::AssignmentPiece(piece) => match self.assembly.take(piece)? {
                Some(assignment) => self.take(Down::Assignment(assignment)),
                None => Ok(()),
            },
            Down::Assignment(assignment) => {
                let snapshot = assignment.base_revision == 0;
                let (changed, removed) = (assignment.instances.len(), assignment.removed.len());
                let change = AssignmentChange::try_from(assignment)?;
                let position = change.position();
                self.session.merge(change)?;
                tracing::debug!(revision = %position.revision, snapshot, changed, removed, "assignment");
                self.told.received(position);
                if self.lacks_leases() {
                    self.next_heartbeat = Instant::now();
                }
                Ok(())
            }
            Down::OpenTunnel(open) => {
                self.session.tunnels.open(self.channel.clone(), open);
                Ok(())
            }
            Down::Directory(change) => {
                self.session.directory.apply(change.try_into()?)?;
                Ok(())
            }
            Down::Lent(lent) => {
                self.hear_lent(lent.into());
                Ok(())
            }
            Down::Trust(trust) => {
                self.compare_trust(&trust.ca_pem);
                Ok(())
            }
            Down::Reboot(order) => {
                self.hear_reboot(order.into());
                Ok(())
            }
            Down::Welcome(_) => Err(StreamError::OutOfTurn("a second welcome")),
        }
    }

    /// Whether something is to run that is not lent to the node.
    fn lacks_leases(&self) -> bool {
        let (now, leases) = (self.session.clock.now(), self.session.leases.borrow());
        let held = self.session.assignment.borrow();
        let mut all = held.iter().flat_map(|held| held.instances.values());
        let is_lacking = |standing| matches!(standing, Standing::Left { .. } | Standing::Over);
        all.any(|one| is_lacking(leases.standing(one, now)))
    }

    /// A heartbeat was answered.
    fn hear_lent(&mut self, lent: Lent) {
        let Some(sent_at) = self.told.answered(lent.heartbeat) else { return };
        let held = self.session.assignment.borrow().clone();
        let all = held.iter().flat_map(|held| held.instances.values());
        let now = self.session.clock.now();
        self.session.leases.send_modify(|leases| leases.hear(lent, sent_at, all, now));
    }

    /// The controller orders a reboot, or does so again. One of another history than it is in is not believed.
    fn hear_reboot(&self, order: RebootOrder) {
        if order.incarnation != self.incarnation {
            tracing::warn!(
                number = order.number,
                "passing over an order to reboot of another history"
            );
            return;
        }
        self.session.reboot_orders.send_if_modified(|last| {
            let is_new = last.as_ref() != Some(&order);
            *last = Some(order);
            is_new
        });
    }

    /// The CAs that the controller names come with a certificate; if they are others than this node has, it renews its
    /// own. An earlier controller names none.
    fn compare_trust(&mut self, ca_pem: &str) {
        if ca_pem.is_empty() || is_same_trust(ca_pem, &self.session.identity.ca_pem) {
            return;
        }
        tracing::info!(
            "the cluster trusts other authorities than this node; renewing the certificate"
        );
        self.renew_at = self.renew_at.min(Instant::now().max(self.not_before));
    }

    /// Whether there may be something to send now.
    fn is_due(&self, now: Instant) -> bool {
        self.told.is_to_acknowledge(&self.session.holding())
            || (self.statuses_due && self.next_report <= now)
            || self.next_heartbeat <= now
            || self.volumes_to_tell().is_some()
            || !self.session.ssh_events.is_empty()
    }

    /// The next time at which something becomes due by itself.
    fn wake_at(&self, now: Instant) -> Instant {
        let report = self.statuses_due.then_some(self.next_report);
        let renewal = self.renewal.is_none().then_some(self.renew_at);
        let times = [Some(self.next_heartbeat), report, renewal].into_iter().flatten();
        // What is due already waits for a permit and not for a time.
        times.filter(|&at| at > now).min().unwrap_or(now + self.heartbeat)
    }

    /// What to send now, if there is something after all.
    fn most_urgent(&mut self, now: Instant) -> Option<Up> {
        if let Some(acknowledge) = self.told.acknowledge(&self.session.holding()) {
            return Some(Up::Acknowledge((&acknowledge).into()));
        }
        if self.statuses_due && self.next_report <= now {
            self.statuses_due = false;
            let statuses = self.session.statuses.borrow_and_update().clone();
            let report = self.told.report(&self.session.holding(), statuses.as_deref());
            if let Some(report) = report {
                self.next_report = now + REPORT_PAUSE;
                return Some(Up::Status((&report).into()));
            }
        }
        if self.next_heartbeat <= now {
            self.next_heartbeat = now + self.heartbeat;
            let capacity = self.session.capacity.borrow_and_update().clone();
            let changed = capacity != self.capacity;
            self.capacity = capacity;
            let capacity = changed.then(|| Capacity::clone(&self.capacity));
            let number = self.told.beat(&self.session.holding(), self.session.clock.now());
            let reboot_failed = self.session.reboot_failed.borrow_and_update().clone();
            return Some(Up::Heartbeat((&Heartbeat { number, capacity, reboot_failed }).into()));
        }
        if let Some(volumes) = self.volumes_to_tell() {
            let report = StatusReport {
                seen_under: volumes.seen_under,
                volumes: Some(volumes.there.clone()),
                ..StatusReport::default()
            };
            self.volumes = Some(volumes);
            return Some(Up::Status((&report).into()));
        }
        self.session.ssh_events.take().map(|events| Up::SshEvents((&events).into()))
    }

    /// The volumes there are to tell of; `None` if they are told, or not to be told yet. A report says that its
    /// revision was taken up by the instances, so the volumes wait until that was said of them.
    fn volumes_to_tell(&self) -> Option<Arc<Volumes>> {
        let now = self.session.volumes.borrow().clone()?;
        let is_new = self.volumes.as_ref() != Some(&now);
        (is_new && self.told.has_reported(now.seen_under)).then_some(now)
    }

    fn postpone_renewal(&mut self, error: &EnrollError) {
        let left = self.validity.until.since(wall_clock());
        let wait = (left / 10).clamp(RENEW_RETRY.0, RENEW_RETRY.1);
        self.renew_at = Instant::now() + wait;
        tracing::warn!(
            error = %Causes(error), retry_s = wait.as_secs(), left_s = left.as_secs(),
            "cannot renew this node's certificate; trying again"
        );
    }
}

/// The result of the renewal once there is one; never, while none is under way.
async fn completed(renewal: &mut Option<Renewal>) -> Result<Identity, EnrollError> {
    match renewal {
        Some(running) => {
            let result = running.await;
            *renewal = None;
            result
        }
        None => std::future::pending().await,
    }
}

/// The next message. One without content is of a newer controller and is passed over.
async fn next(incoming: &mut Streaming<v1::ControllerMessage>) -> Result<Down, StreamError> {
    loop {
        match incoming.message().await {
            Ok(Some(v1::ControllerMessage { message: Some(message) })) => return Ok(message),
            Ok(Some(v1::ControllerMessage { message: None })) => {}
            Ok(None) => {
                return Err(StreamError::Ended { reason: "the controller closed it".into() });
            }
            Err(status) => return Err(StreamError::of_status(&status)),
        }
    }
}

/// Whether two texts have the same certificates, in whatever lines.
fn is_same_trust(one: &str, other: &str) -> bool {
    matches!((certificates(one), certificates(other)), (Ok(one), Ok(other)) if one == other)
}

fn kind(message: &Down) -> &'static str {
    match message {
        Down::Welcome(_) => "a welcome",
        Down::Assignment(_) => "an assignment",
        Down::OpenTunnel(_) => "a tunnel",
        Down::Directory(_) => "a directory",
        Down::AssignmentPiece(_) => "a piece of an assignment",
        Down::Trust(_) => "whom to trust",
        Down::Lent(_) => "what is lent",
        Down::Reboot(_) => "an order to reboot",
    }
}

fn gone() -> StreamError {
    StreamError::Ended { reason: "the connection is lost".to_owned() }
}
