//! The body of a copy: the chunks that were captured, shared between copies.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::tap::Capture;

/// Hands out the first bytes of a captured body, without copying them.
pub struct CopyBody {
    capture: Arc<Capture>,
    next: usize,
    left: u64,
}

impl CopyBody {
    /// The first `length` bytes.
    pub(super) fn new(capture: Arc<Capture>, length: u64) -> Self {
        Self { capture, next: 0, left: length }
    }
}

impl Body for CopyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let chunk = self.capture.chunks.get(self.next).expect("a copy is no longer than what was captured");
        let chunk = chunk.slice(..chunk.len().min(usize::try_from(self.left).unwrap_or(usize::MAX)));
        self.next += 1;
        self.left -= chunk.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
