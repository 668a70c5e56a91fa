//! A connection's stream as `russh` has it: it can be told to pause reading, and be cut.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::intake::Intake;

/// A stream that is read only while [`Intake`] is open, and neither read nor written once it is cut. Reader and
/// writer have to be polled by the same task.
pub(crate) struct Gate<S> {
    stream: S,
    intake: Arc<Intake>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Gate<S> {
    /// A gate before `stream`.
    pub(crate) fn new(stream: S, intake: Arc<Intake>, cut: CancellationToken) -> Self {
        Self { stream, intake, cut: Box::pin(cut.cancelled_owned()), pause: None }
    }

    fn check_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Err(until) = ready!(self.intake.poll_open(context)) {
            ready!(self.pause_until(until).poll(context));
            self.pause = None;
        }
        Poll::Ready(())
    }

    fn pause_until(&mut self, until: Instant) -> Pin<&mut Sleep> {
        self.pause.get_or_insert_with(|| Box::pin(sleep_until(until))).as_mut()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_cut(context)?;
        ready!(self.poll_open(context));
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_cut(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
