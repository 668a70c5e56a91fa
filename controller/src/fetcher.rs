//! Images for instances that are to go to another node: that node fetches them before the instance leaves its own.
//!
//! Owns nothing that lasts: what is to be fetched is read from the model again and again, and an image that is there already is
//! fetched in no time. A node is asked once for each image, however many instances come with it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use dwell_core::id::NodeName;
use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;
use dwell_proto::v1::images_order::What;
use dwell_proto::v1::open_tunnel::Purpose;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use crate::api::hearing::{Asked, Hearing};
use crate::model::{Arrival, ArrivalNews, Command, Model};
use crate::owner::Handle;
use crate::status::into_status;
use crate::tunnel::{Tunnel, Tunnels};

/// How often the model is asked at most, and at least.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(20);
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(5);
/// How many images are fetched at a time; others wait.
const FETCHES_MAX: usize = 32;
/// How long after a fetch that failed the next one begins.
const PAUSE: Duration = Duration::from_secs(15);

/// Which node is to have which image.
type Fetch = (NodeName, String);

/// Has nodes fetch what is to be fetched, until `stop` is cancelled.
pub(crate) async fn run(owner: Handle, tunnels: Tunnels, stop: CancellationToken) {
    let mut revisions = owner.revisions();
    let mut tasks: HashMap<Fetch, AbortOnDropHandle<()>> = HashMap::new();
    loop {
        revisions.mark_unchanged();
        let Ok(arrivals) = owner.read(Model::arrivals).await else { return };
        let wanted = by_fetch(arrivals);
        tasks.retain(|fetch, task| !task.is_finished() && wanted.contains_key(fetch));
        for fetch in wanted.into_keys() {
            if tasks.len() < FETCHES_MAX && !tasks.contains_key(&fetch) {
                let fetcher = Fetcher::new(&owner, &tunnels, fetch.clone());
                tasks.insert(fetch, AbortOnDropHandle::new(tokio::spawn(fetcher.work())));
            }
        }
        // Cancel-safe: nothing is lost when waiting ends early.
        tokio::select! {
            changed = timeout(LOOK_AT_LEAST_EVERY, revisions.changed()) => {
                if matches!(changed, Ok(Err(_))) {
                    return;
                }
            }
            () = stop.cancelled() => return,
        }
        sleep(LOOK_AT_MOST_EVERY).await;
    }
}

fn by_fetch(arrivals: Vec<Arrival>) -> BTreeMap<Fetch, Vec<Arrival>> {
    let mut found: BTreeMap<Fetch, Vec<Arrival>> = BTreeMap::new();
    for arrival in arrivals {
        let fetch = (arrival.to.clone(), arrival.image.clone());
        found.entry(fetch).or_default().push(arrival);
    }
    found
}

/// Has one node fetch one image.
struct Fetcher {
    owner: Handle,
    tunnels: Tunnels,
    node: NodeName,
    image: String,
}

impl Fetcher {
    fn new(owner: &Handle, tunnels: &Tunnels, (node, image): Fetch) -> Self {
        Self { owner: owner.clone(), tunnels: tunnels.clone(), node, image }
    }

    async fn work(self) {
        match self.fetch().await {
            Ok(()) => self.tell(ArrivalNews::There).await,
            Err(status) if status.code() == Code::Unimplemented => {
                let Self { node, image, .. } = &self;
                tracing::info!(%node, image, "the agent is of a version that fetches no image ahead; it does so when it needs it");
                self.tell(ArrivalNews::There).await;
            }
            Err(status) => {
                self.tell(ArrivalNews::Cannot(status.message().to_owned())).await;
                // If it is wanted still, it is tried again a little later.
                sleep(PAUSE).await;
            }
        }
    }

    async fn fetch(&self) -> Result<(), Status> {
        let Self { owner, tunnels, node, image } = self;
        let mut fetching = Fetching::begin(owner, tunnels, node, image).await?;
        while let Some(far) = fetching.next().await? {
            self.tell(ArrivalNews::Progress(far)).await;
        }
        Ok(())
    }

    /// Tells the model of all that wait for this image there.
    async fn tell(&self, news: ArrivalNews) {
        let Ok(arrivals) = self.owner.read(Model::arrivals).await else { return };
        let fetch = (self.node.clone(), self.image.clone());
        for arrival in by_fetch(arrivals).remove(&fetch).unwrap_or_default() {
            let instance = arrival.instance.clone();
            let noted = Command::NoteArrival { arrival, news: news.clone() };
            if let Err(error) = self.owner.command(noted).await {
                tracing::warn!(%instance, %error, "cannot note what came of fetching its image; it is tried again");
            }
        }
    }
}

/// An image that a node fetches if it has none of that reference.
pub(crate) struct Fetching {
    hearing: Hearing,
    tunnel: Tunnel,
}

impl Fetching {
    /// Asks the node.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub(crate) async fn begin(
        owner: &Handle,
        tunnels: &Tunnels,
        node: &NodeName,
        image: &str,
    ) -> Result<Self, Status> {
        let image = image.to_owned();
        let read = owner.read(move |model| (model.logins_for(&image), image)).await;
        let (logins, image) = read.map_err(|error| Status::unavailable(error.to_string()))?;
        let logins = (!logins.is_empty()).then(|| (&logins).into());
        let order = What::Ensure(v1::PullImage { image, logins });
        let hearing = Hearing::new(node.clone(), Asked::of(&order));
        let order = Purpose::Images(v1::ImagesOrder { what: Some(order) });
        let tunnel = tunnels.open(node, order).await.map_err(into_status)?;
        Ok(Self { hearing, tunnel })
    }

    /// How far it is, for people; `None` once it is there.
    ///
    /// # Errors
    /// What the node says; [`Code::Unimplemented`] if its agent does not know of this.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Status> {
        loop {
            match self.hearing.next(&mut self.tunnel).await?.says {
                Some(Says::Done(_)) => return Ok(None),
                Some(Says::Progress(far)) => return Ok(Some(words(&far))),
                _ => {}
            }
        }
    }
}

/// How far a fetch is, for people.
fn words(far: &v1::ImageProgress) -> String {
    match far.layers {
        0 => String::new(),
        layers => format!("{} of {layers} layers", far.layers_done),
    }
}
