//! The body of a request, read as the messages that it is made of: what is announced is judged before it is there.
//!
//! ```text
//!   header (5 bytes) ─▶ length: small enough? within the budget? ─▶ message, due in time ─▶ header …
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes};

use super::budget::{Account, Charge};
use super::{MESSAGE_TIME, SMALL_MAX_BYTES};

/// What gRPC puts before each message: whether it is compressed, and its length.
const HEADER_BYTES: usize = 5;

/// What a request may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The largest first message, in bytes.
    pub(super) first_max: usize,
    /// The largest of the other messages, in bytes; `None` if there is only one message.
    pub(super) later_max: Option<usize>,
    /// How long each of those may take, as long as it is waited for; `None` if nothing depends on that.
    pub(super) later_time: Option<Duration>,
    /// When the first message has to be there; if it is the only one, the end of the request as well. One that is
    /// announced as large may take [`MESSAGE_TIME`].
    pub(super) first_until: Instant,
}

/// A body that keeps its [`Terms`], or ends with a status that says how it does not.
pub(super) struct Bounded {
    inner: Body,
    terms: Terms,
    /// What unfinished messages count against.
    account: Option<Arc<Account>>,
    at: At,
    is_first: bool,
    /// For the message that has begun.
    charge: Option<Charge>,
    /// When what is awaited has to be there.
    due: Option<Pin<Box<Sleep>>>,
    /// Since when nobody waits for more: that time is not the sender's.
    unasked_since: Option<Instant>,
}

/// Where in the body we are.
enum At {
    Header { bytes: [u8; HEADER_BYTES], have: usize },
    Message { left: usize },
}

impl At {
    const BETWEEN: Self = Self::Header { bytes: [0; HEADER_BYTES], have: 0 };
}

impl Bounded {
    pub(super) fn new(inner: Body, terms: Terms, account: Option<Arc<Account>>) -> Self {
        Self {
            inner,
            terms,
            account,
            at: At::BETWEEN,
            is_first: true,
            charge: None,
            due: Some(Box::pin(sleep_until(terms.first_until))),
            unasked_since: None,
        }
    }

    /// Judges what has arrived.
    fn take(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            match &mut self.at {
                At::Header { bytes, have } => {
                    let (part, rest) = data.split_at(data.len().min(HEADER_BYTES - *have));
                    for byte in part {
                        bytes[*have] = *byte;
                        *have += 1;
                    }
                    data = rest;
                    if let (HEADER_BYTES, &mut [_, a, b, c, d]) = (*have, bytes) {
                        self.begin(u32::from_be_bytes([a, b, c, d]) as usize)?;
                    }
                }
                At::Message { left } => {
                    let here = data.len().min(*left);
                    *left -= here;
                    data = &data[here..];
                }
            }
            if let At::Message { left: 0 } = self.at {
                self.finish();
            }
        }
        let is_between = matches!(self.at, At::Header { have: 0, .. });
        if !is_between
            && self.due.is_none()
            && let Some(time) = self.terms.later_time
        {
            self.due = Some(Box::pin(sleep_until(Instant::now() + time)));
        }
        Ok(())
    }

    /// A message of this length is announced.
    fn begin(&mut self, length: usize) -> Result<(), Status> {
        let max = if self.is_first { Some(self.terms.first_max) } else { self.terms.later_max };
        let max = max.ok_or_else(|| {
            Status::invalid_argument("there is more than the one message that this call has")
        })?;
        if length > max {
            return Err(Status::out_of_range(format!(
                "a message of {length} bytes is announced; this call takes {max} here"
            )));
        }
        if let Some(account) = &self.account {
            self.charge = Some(account.charge(length)?);
        }
        if self.is_first && length > SMALL_MAX_BYTES {
            self.due = Some(Box::pin(sleep_until(Instant::now() + MESSAGE_TIME)));
        }
        self.at = At::Message { left: length };
        Ok(())
    }

    fn finish(&mut self) {
        self.charge = None;
        self.is_first = false;
        self.at = At::BETWEEN;
        // If it was the only one, the end of the request is due.
        if self.terms.later_max.is_some() {
            self.due = None;
        }
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        if let (Some(since), Some(due)) = (self.unasked_since.take(), &mut self.due) {
            let deadline = due.deadline() + since.elapsed();
            due.as_mut().reset(deadline);
        }
        // What is there is taken, however late somebody looks.
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
            let is_late =
                self.due.as_mut().is_some_and(|due| due.as_mut().poll(context).is_ready());
            if !is_late {
                return Poll::Pending;
            }
            self.due = None;
            let late = "what was begun on this stream was not said in time";
            return Poll::Ready(Some(Err(Status::deadline_exceeded(late))));
        };
        self.unasked_since = Some(Instant::now());
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(refusal) = self.take(data)
        {
            return Poll::Ready(Some(Err(refusal)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
