//! What goes to the client: the carrier's answer, and now and then one of our own in its stead.
//!
//! # Invariants
//!
//! - Once the door has answered, nothing of the carrier's reaches the client.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::DoorStream;
use crate::door::framing::Framing;
use crate::door::refusal::Refusal;

impl DoorStream {
    /// Answers bad chunking itself, unless the carrier has begun to: a carrier only sees a body
    /// that can't be read, and would hang up without a word.
    pub(super) fn refuse(&mut self, err: io::Error) -> io::Error {
        if let Some(terms) = &self.terms {
            terms.metrics.refused(Refusal::BadChunking);
        }
        if !self.answered {
            self.out.push(Refusal::BadChunking.answer().as_bytes());
            self.muted = true;
        }
        err
    }

    /// Notices where the final answer begins, and whether it opens a WebSocket. Carriers write a
    /// head in one piece.
    fn watch_answer(&mut self, bytes: &[u8]) {
        let switches = bytes.starts_with(b"HTTP/1.1 101");
        if bytes.starts_with(b"HTTP/1.1 1") && !switches {
            return; // 100 and 103 come before the real answer.
        }
        self.answered = true;
        if switches && std::mem::take(&mut self.may_upgrade) {
            self.framing = Framing::Open;
            self.frames = opens_websocket(bytes).then(Box::default);
            if let Some(waker) = self.waiting.take() {
                waker.wake();
            }
        }
    }
}

/// Whether this answer, which switches protocols, opens a WebSocket, and frames follow right behind it.
fn opens_websocket(head: &[u8]) -> bool {
    const ACCEPT: &[u8] = b"\r\nsec-websocket-accept:";
    head.ends_with(b"\r\n\r\n") && head.windows(ACCEPT.len()).any(|some| some.eq_ignore_ascii_case(ACCEPT))
}

impl AsyncWrite for DoorStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.muted {
            return Poll::Ready(Ok(bufs.iter().map(|b| b.len()).sum()));
        }
        if let Some(frames) = &mut this.frames {
            let n = ready!(this.out.poll_write(&mut this.io, cx, bufs))?;
            let mut left = n;
            for buf in bufs {
                let some = buf.len().min(left);
                frames.pass(&buf[..some]);
                left -= some;
            }
            return Poll::Ready(Ok(n));
        }
        if !this.answered {
            this.watch_answer(bufs.iter().find(|b| !b.is_empty()).map_or(&[], |b| b));
        }
        let written = if this.http2 {
            // It collects its frames itself.
            this.out.poll_pass(&mut this.io, cx, bufs)
        } else {
            this.out.poll_write(&mut this.io, cx, bufs)
        };
        match written {
            Poll::Pending => this.poll_stuck(cx).map(Err),
            Poll::Ready(Ok(n)) => Poll::Ready(this.took(bufs, n).map(|()| n)),
            Poll::Ready(Err(err)) => Poll::Ready(Err(err)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match this.out.poll_flush(&mut this.io, cx) {
            Poll::Pending => this.poll_stuck(cx).map(Err),
            flushed => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.out.poll_flush(&mut this.io, cx))?;
        this.io.poll_shutdown(cx)
    }
}
