//! Keeps a client to its pace while it sends and takes, and watches its frames where it speaks HTTP/2.
//!
//! # Invariants
//!
//! - On an HTTP/1 connection nothing of this exists until the client is waited for, nor between two requests.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::task::{Context, Poll};

use pingora_core::protocols::l4::ext::get_tcp_info;

use super::DoorStream;
use crate::clock;
use crate::door::framing::Framing;
use crate::door::http2::{Abuse, FrameWatch};
use crate::door::listener::Terms;
use crate::door::pace::{Pace, Timer};
use crate::door::pulse::Pulse;
use crate::door::refusal::Refusal;

/// See the module.
pub struct Watch {
    body: Pace,
    read_timer: Timer,
    send: Pace,
    write_timer: Timer,
    /// Bytes that the client's kernel has taken, as of when we last looked.
    taken: u64,
    frames: Option<(FrameWatch, Arc<Pulse>)>,
}

impl Watch {
    fn new(terms: &Arc<Terms>, http2: bool) -> Self {
        let guard = &terms.guard;
        Self {
            body: Pace::new(guard.min_body_rate, guard.body_timeout),
            read_timer: Timer::default(),
            send: Pace::new(guard.min_send_rate, guard.send_timeout),
            write_timer: Timer::default(),
            taken: 0,
            frames: http2.then(|| (FrameWatch::new(guard), Arc::new(Pulse::new(Arc::clone(terms))))),
        }
    }

    /// So many bytes have come.
    pub fn came(&mut self, bytes: usize) {
        self.body.moved(bytes as u64, clock::now);
    }

    /// Ready when a body that is waited for comes too slowly.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let late = self.body.wait(clock::now());
        self.read_timer.poll_at(late, cx)
    }

    /// Ready when the client takes what is sent too slowly. How much it has taken is asked of the kernel, because a
    /// full send buffer accepts more only when a third of it has left, and to a slow client that takes minutes.
    fn poll_send(&mut self, socket: i32, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = clock::now();
            let late = self.send.wait(now);
            if self.write_timer.poll_at(late, cx).is_pending() {
                return Poll::Pending;
            }
            let taken = get_tcp_info(socket).map_or(0, |info| info.tcpi_bytes_acked);
            let fresh = taken.saturating_sub(std::mem::replace(&mut self.taken, taken));
            self.send.moved(fresh, || now);
            if self.send.wait(now) <= now {
                return Poll::Ready(());
            }
        }
    }
}

impl DoorStream {
    /// What an HTTP/2 carrier may know of the connection. `None` on one that isn't HTTP/2.
    pub fn pulse(&mut self) -> Option<Arc<Pulse>> {
        let (_, pulse) = self.watched()?.frames.as_ref()?;
        Some(Arc::clone(pulse))
    }

    fn watched(&mut self) -> Option<&mut Watch> {
        let terms = self.terms.as_ref()?;
        Some(self.watch.get_or_insert_with(|| Box::new(Watch::new(terms, self.http2))))
    }

    /// The client is waited for. Ready, with an error, when that takes too long.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.http2 {
            return self.poll_unfinished(cx);
        }
        if matches!(self.framing, Framing::Open) {
            return Poll::Pending;
        }
        let Some(watch) = self.watched() else { return Poll::Pending };
        watch.poll_body(cx).map(|()| Err(self.too_slow(Refusal::SlowBody)))
    }

    fn poll_unfinished(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(patience) = self.terms.as_ref().map(|terms| terms.guard.header_timeout) else { return Poll::Pending };
        let Some(watch) = self.watched() else { return Poll::Pending };
        let Some(since) = watch.frames.as_ref().and_then(|(frames, _)| frames.unfinished()) else {
            return Poll::Pending;
        };
        watch.read_timer.poll_at(since + patience, cx).map(|()| Err(self.abused(Abuse::Unfinished)))
    }

    /// The client doesn't take what is sent. Ready when that takes too long.
    pub(super) fn poll_stuck(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let socket = self.io.tcp().as_raw_fd();
        let Some(watch) = self.watched() else { return Poll::Pending };
        watch.poll_send(socket, cx).map(|()| {
            self.muted = true; // Nothing more gets through to it.
            self.too_slow(Refusal::SlowRead)
        })
    }

    /// The first `n` bytes of `bufs` were sent.
    pub(super) fn took(&mut self, bufs: &[IoSlice<'_>], n: usize) -> io::Result<()> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        watch.send.moved(n as u64, clock::now);
        let Some((frames, _)) = &mut watch.frames else { return Ok(()) };
        let (mut left, mut made) = (n, Ok(()));
        for buf in bufs {
            let sent = left.min(buf.len());
            left -= sent;
            made = made.and(frames.outbound(&buf[..sent], clock::now()));
        }
        made.map_err(|abuse| self.abused(abuse))
    }

    /// Looks at what an HTTP/2 client has sent.
    pub(super) fn watch_frames(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some((frames, pulse)) = self.watched().and_then(|watch| watch.frames.as_mut()) else { return Ok(()) };
        let judged = frames.inbound(bytes, clock::now());
        pulse.set(frames.data());
        judged.map_err(|abuse| self.abused(abuse))
    }

    fn too_slow(&self, why: Refusal) -> io::Error {
        if let Some(terms) = &self.terms {
            terms.metrics.refused(why);
        }
        io::ErrorKind::TimedOut.into()
    }

    /// Ends an HTTP/2 connection: says why, where that can be said, and nothing more.
    fn abused(&mut self, abuse: Abuse) -> io::Error {
        if let Some(terms) = &self.terms {
            terms.metrics.abused(abuse);
        }
        let goaway = self.watch.as_ref().and_then(|watch| watch.frames.as_ref()?.0.goaway());
        if let Some(goaway) = goaway.filter(|_| !self.muted) {
            self.out.push(&goaway);
            self.farewell = true;
        }
        self.muted = true;
        io::Error::other(abuse)
    }
}
