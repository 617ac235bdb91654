//! Deadlines that Pingora doesn't keep: an endpoint's first byte, the whole exchange, and the body of an HTTP/2 client.
//!
//! The hooks in `proxy` say which deadline is next; [`Deadline::guard`] runs the exchange and, when
//! that moment passes, shuts the upstream socket down. Pingora then sees a broken connection, the hooks see
//! that the deadline was the cause, and the client gets a 504 in the ordinary way.
//!
//! An HTTP/2 upstream connection carries other people's streams too, so it is never shut down for one of
//! them: there the read timeout bounds silence, and only the total deadline ends the exchange.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tidegate_model::time::Timestamp;

use super::body::Body;
use crate::clock;

/// No socket may be shut down.
const NO_SOCKET: i32 = -1;

/// Who was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    /// The endpoint.
    Endpoint,
    /// The client, with its body.
    Client,
}

/// The next deadline of one exchange. Shared between the hooks and the guard, which run in the same task.
#[derive(Debug)]
pub struct Deadline {
    at: AtomicU64,
    socket: AtomicI32,
    passed: AtomicBool,
    /// The client's body, where it is watched. Locked by one task only.
    body: Mutex<Option<Body>>,
    body_at: AtomicU64,
}

impl Default for Deadline {
    fn default() -> Self {
        Self {
            at: AtomicU64::new(u64::MAX),
            socket: AtomicI32::new(NO_SOCKET),
            passed: AtomicBool::new(false),
            body: Mutex::new(None),
            body_at: AtomicU64::new(u64::MAX),
        }
    }
}

impl Deadline {
    /// From now on, `at` is the next deadline; `None` lifts it.
    pub fn set(&self, at: Option<Timestamp>) {
        self.at.store(at.map_or(u64::MAX, Timestamp::as_nanos), Relaxed);
    }

    /// From now on the client must bring its body.
    pub fn expect_body(&self, mut body: Body) {
        self.body_at.store(body.late(clock::now()).as_nanos(), Relaxed);
        *self.body() = Some(body);
    }

    /// The client's body is no longer waited for.
    pub fn body_ended(&self) {
        if self.body_at.swap(u64::MAX, Relaxed) != u64::MAX {
            *self.body() = None;
        }
    }

    /// Whether the client's body has come too slowly.
    pub fn client_was_slow(&self) -> bool {
        self.body().as_ref().is_some_and(Body::is_given_up)
    }

    fn body(&self) -> MutexGuard<'_, Option<Body>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next deadline has passed. Who was too slow? Nobody, when the body has come on meanwhile.
    fn pass(&self, at: u64) -> Option<Slow> {
        if self.at.load(Relaxed) == at {
            self.at.store(u64::MAX, Relaxed);
            self.passed.store(true, Relaxed);
            return Some(Slow::Endpoint);
        }
        let next = self.body().as_mut().map_or(Some(u64::MAX), |body| body.look(clock::now()).map(Timestamp::as_nanos));
        self.body_at.store(next.unwrap_or(u64::MAX), Relaxed);
        next.is_none().then_some(Slow::Client)
    }

    /// The socket to shut down; `None` where it is shared or closed.
    pub fn watch(&self, socket: Option<i32>) {
        self.socket.store(socket.unwrap_or(NO_SOCKET), Relaxed);
    }

    /// Whether a deadline has passed since the last [`Self::reset`].
    pub fn passed(&self) -> bool {
        self.passed.load(Relaxed)
    }

    /// Forgets the past, for another try.
    pub fn reset(&self) {
        self.passed.store(false, Relaxed);
        self.watch(None);
    }

    /// Runs `exchange` and enforces the deadline in force. `None` when it had to be dropped because its
    /// socket is shared.
    pub async fn guard<F: Future>(&self, exchange: F) -> Option<F::Output> {
        let mut exchange = pin!(exchange);
        let mut timer = pin!(None::<tokio::time::Sleep>);
        let mut armed = u64::MAX;
        poll_fn(|cx| {
            if let Poll::Ready(out) = exchange.as_mut().poll(cx) {
                return Poll::Ready(Some(out));
            }
            loop {
                let at = self.at.load(Relaxed).min(self.body_at.load(Relaxed));
                if at == u64::MAX {
                    return Poll::Pending;
                }
                if at != armed {
                    timer.set(Some(tokio::time::sleep_until(clock::instant(Timestamp::from_nanos(at)))));
                    armed = at;
                }
                let sleep = timer.as_mut().as_pin_mut().expect("armed above");
                if sleep.poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if self.pass(at).is_none() {
                    continue;
                }
                let socket = self.socket.swap(NO_SOCKET, Relaxed);
                if socket == NO_SOCKET {
                    return Poll::Ready(None);
                }
                // The exchange holds the socket open while it runs, so the number can't have been reused.
                let _ = nix::sys::socket::shutdown(socket, nix::sys::socket::Shutdown::Both);
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;

    fn in_a_moment() -> Option<Timestamp> {
        Some(clock::now() + Duration::from_millis(20))
    }

    #[tokio::test]
    async fn passed_deadline_breaks_the_socket_and_the_exchange_ends_by_itself() {
        let (mut ours, _endpoint) = UnixStream::pair().unwrap();
        let deadline = Deadline::default();
        deadline.watch(Some(ours.as_raw_fd()));
        deadline.set(in_a_moment());

        let read = deadline.guard(async { ours.read(&mut [0; 8]).await }).await;

        assert_eq!(read.expect("the exchange ran to its end").unwrap(), 0);
        assert!(deadline.passed());
    }

    #[tokio::test]
    async fn exchange_on_a_shared_socket_is_dropped() {
        let deadline = Deadline::default();
        deadline.set(in_a_moment());

        let ended = deadline.guard(std::future::pending::<()>()).await;

        assert_eq!(ended, None);
        assert!(deadline.passed());
    }

    #[tokio::test]
    async fn deadline_that_is_moved_while_waiting_counts_from_its_new_place() {
        let deadline = Deadline::default();
        deadline.set(Some(clock::now() + Duration::from_secs(3_600)));
        let brought_forward = async {
            tokio::task::yield_now().await;
            deadline.set(in_a_moment());
            std::future::pending::<()>().await;
        };

        let ended = deadline.guard(brought_forward).await;

        assert_eq!(ended, None, "an hour's deadline must not stand");
    }

    #[tokio::test]
    async fn lifted_deadline_never_passes() {
        let deadline = Deadline::default();
        deadline.set(in_a_moment());
        let work = async {
            deadline.set(None);
            tokio::time::sleep(Duration::from_millis(60)).await;
            7
        };

        assert_eq!(deadline.guard(work).await, Some(7));
        assert!(!deadline.passed());
    }
}
