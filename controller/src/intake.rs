//! What a request may make us hold before it has said anything that counts: bounds in bytes, time and number, for those
//! without a certificate and for nodes, enforced before any service sees the request.
//!
//! | who | call | first message | later messages |
//! |---|---|---|---|
//! | anyone without a certificate | all | 32 KiB, within the time of the [visit](crate::listen::Visit), and the request's end too | none |
//! | a node | `Renew` | 64 KiB in 10 s, and the request's end too | none |
//! | a node | `Carry` | 1 KiB in 10 s | 16 MiB each, in any time: whoever asked for the tunnel may read slowly |
//! | a node | `Attach` | 16 MiB in 10 s up to 64 KiB, else in 60 s | 16 MiB in 60 s each |
//!
//! A `Hello` says everything that is on the node, so it may be large; what is announced of a message counts against a
//! [budget](budget) of its node and of all nodes until the message is there. `Renew` and `Carry` are for members: whoever
//! was removed, or whose name is another host's, is refused before anything is read.
//!
//! Whoever is beyond a bound is refused, never kept waiting: what waits would be held by HTTP/2 instead.
//!
//! Owns: how much each node has begun and not finished, in a table with an entry for each node that has.

mod body;
mod budget;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use self::body::{Bounded, Terms};
use self::budget::Budget;
use crate::listen::{Peer, Visit};
use crate::owner::Handle;
use crate::refusals::{Reason, Refusals};
use crate::session::Caller;

/// The largest request of someone without a certificate, in bytes.
pub(crate) const JOIN_MAX_BYTES: usize = 32 << 10;
/// The largest message of a node that is not to be large, in bytes.
const SMALL_MAX_BYTES: usize = 64 << 10;
/// The largest name of a tunnel with what is around it, in bytes.
const TUNNEL_NAME_MAX_BYTES: usize = 1 << 10;
/// How long a node may take to say what it has begun a request for.
const FIRST_MESSAGE_TIME: Duration = Duration::from_secs(10);
/// How long a message may take that has begun.
const MESSAGE_TIME: Duration = Duration::from_secs(60);

/// Puts the bounds before a server.
#[derive(Clone)]
pub(crate) struct IntakeLayer(Arc<Shared>);

struct Shared {
    owner: Handle,
    budget: Budget,
    refusals: Refusals,
}

/// A server behind the bounds.
#[derive(Clone)]
pub(crate) struct Intake<S> {
    shared: Arc<Shared>,
    inner: S,
}

impl IntakeLayer {
    pub(crate) fn new(owner: Handle, refusals: Refusals) -> Self {
        Self(Arc::new(Shared { owner, budget: Budget::default(), refusals }))
    }
}

impl<S> Layer<S> for IntakeLayer {
    type Service = Intake<S>;

    fn layer(&self, inner: S) -> Intake<S> {
        Intake { shared: Arc::clone(&self.0), inner }
    }
}

impl<S> Service<Request<Body>> for Intake<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Response<Body>, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().cloned();
        match peer {
            Some(Peer::Anonymous(visit)) => self.of_visitor(&visit, request),
            Some(Peer::Certified { identity, from }) => match Caller::try_from(&*identity) {
                Ok(caller) => match self.of_node(&caller, request) {
                    Ok(future) => future,
                    Err(refusal) => {
                        let detail = format!("node {}: {}", caller.node, refusal.message());
                        self.shared.refusals.note(Reason::Bounds, Some(from), &detail);
                        Box::pin(std::future::ready(Ok(refusal.into_http())))
                    }
                },
                // A person's.
                Err(_) => Box::pin(self.inner.call(request)),
            },
            Some(Peer::Local) | None => Box::pin(self.inner.call(request)),
        }
    }
}

impl<S> Intake<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    fn of_visitor(
        &mut self,
        visit: &Arc<Visit>,
        request: Request<Body>,
    ) -> BoxFuture<Response<Body>, S::Error> {
        let terms = Terms {
            first_max: JOIN_MAX_BYTES,
            later_max: None,
            later_time: None,
            first_until: visit.heard_until(),
        };
        let unanswered = visit.begin();
        let request = request.map(|body| Body::new(Bounded::new(body, terms, None)));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(unanswered);
            answer
        })
    }

    fn of_node(
        &mut self,
        caller: &Caller,
        request: Request<Body>,
    ) -> Result<BoxFuture<Response<Body>, S::Error>, Status> {
        let call = Call::of(request.uri().path());
        if call.is_for_members() {
            caller.check_member(&self.shared.owner)?;
        }
        let account = self.shared.budget.account(&caller.enrolment);
        let opening = account.open(call)?;
        let terms = call.terms();
        let request = request.map(|body| Body::new(Bounded::new(body, terms, Some(account))));
        let answer = self.inner.call(request);
        Ok(Box::pin(async move {
            // For a stream this is when it has begun: the first message was read and judged.
            let answer = answer.await;
            drop(opening);
            answer
        }))
    }
}

/// What a node asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    Attach,
    Carry,
    Renew,
    /// All else, which is small or refused.
    Other,
}

impl Call {
    fn of(path: &str) -> Self {
        match path {
            "/dwell.v1.Session/Attach" => Self::Attach,
            "/dwell.v1.Session/Carry" => Self::Carry,
            "/dwell.v1.Session/Renew" => Self::Renew,
            _ => Self::Other,
        }
    }

    /// A removed node attaches as well, to be told to run nothing.
    fn is_for_members(self) -> bool {
        matches!(self, Self::Carry | Self::Renew)
    }

    /// How many of these a node may have begun at once and not yet got to the point of. One of each is what an agent needs,
    /// but for tunnels, which come in bursts; the others are for what it lost on the way.
    fn openings_max(self) -> usize {
        match self {
            Self::Attach | Self::Renew => 4,
            Self::Carry => dwell_proto::STREAMS_MAX as usize,
            Self::Other => 16,
        }
    }

    fn terms(self) -> Terms {
        let largest = Some(dwell_proto::MESSAGE_MAX_BYTES);
        let (first_max, later_max, later_time) = match self {
            Self::Attach => (dwell_proto::MESSAGE_MAX_BYTES, largest, Some(MESSAGE_TIME)),
            Self::Carry => (TUNNEL_NAME_MAX_BYTES, largest, None),
            Self::Renew | Self::Other => (SMALL_MAX_BYTES, None, None),
        };
        let first_until = Instant::now() + FIRST_MESSAGE_TIME;
        Terms { first_max, later_max, later_time, first_until }
    }
}
