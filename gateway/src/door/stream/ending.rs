//! How a connection ends: with what is left to say, and so that the client can read it.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::timeout;

use super::DoorStream;
use crate::door::census::Seat;
use crate::door::frames::GOING_AWAY;
use crate::door::framing::Framing;
use crate::door::io::Io;

/// How long a connection that ends tries to send the rest of its answer.
const SEND_REST: Duration = Duration::from_secs(5);

impl DoorStream {
    /// Closes politely: sends what is left, says that no more will come, and, where the client
    /// may still be talking, listens for a moment so that it can read the answer.
    pub async fn close(&mut self) {
        let unread = self.has_unread();
        self.closed = true;
        let sent = timeout(SEND_REST, poll_fn(|cx| self.out.poll_flush(&mut self.io, cx))).await;
        match sent {
            Ok(Ok(())) if unread => self.io.linger().await,
            Ok(Ok(())) => drop(timeout(SEND_REST, poll_fn(|cx| self.io.poll_shutdown(cx))).await),
            _ => {}
        }
    }

    /// Closes where the client is known to have more to say.
    pub(crate) async fn close_unread(&mut self) {
        self.framing = Framing::Length(u64::MAX);
        self.close().await;
    }

    /// Tells the client of a WebSocket that is cut off why, if that can be said at once.
    fn say_going_away(&mut self) {
        if self.closed || !self.frames.as_ref().is_some_and(|frames| frames.may_add()) {
            return;
        }
        let mut cx = Context::from_waker(Waker::noop());
        self.out.push(GOING_AWAY);
        if matches!(self.out.poll_flush(&mut self.io, &mut cx), Poll::Ready(Ok(()))) {
            let _ = self.io.poll_shutdown(&mut cx); // Closing follows, one way or the other.
        }
    }

    fn has_unread(&self) -> bool {
        !self.eof && !self.http2 && (!self.framing.is_done() || !self.ahead().is_empty())
    }
}

impl Drop for DoorStream {
    /// A carrier that gives up on a request drops its stream. The client may still be sending,
    /// and should be able to read the answer nonetheless.
    fn drop(&mut self) {
        if self.seat.as_ref().is_some_and(Seat::is_cut_off) {
            return self.say_going_away();
        }
        if self.closed || !(self.farewell || self.has_unread()) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut io = std::mem::replace(&mut self.io, Io::Gone);
        let mut out = std::mem::take(&mut self.out);
        let seat = self.seat.take();
        runtime.spawn(async move {
            let _seat = seat; // It counts as a connection until it is one no more.
            let sent = timeout(SEND_REST, poll_fn(|cx| out.poll_flush(&mut io, cx))).await;
            if matches!(sent, Ok(Ok(()))) {
                io.linger().await;
            }
        });
    }
}
