//! One connection from its first byte to its last.
//!
//! PROXY header → TLS → protocol → requests, each step with its deadline.
//!
//! # Invariants
//!
//! - While it waits for a request, a connection holds no buffer and no carrier.
//! - A connection that is draining ends at the next border between two requests, or after one more of them.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::Carrier;
use super::census::{Room, Seat};
use super::handshake::handshake;
use super::head::{Head, HeadLimits, HeadScanner};
use super::listener::Terms;
use super::metrics::{Handshake, Turned};
use super::preface::{self, HTTP2_PREFACE};
use super::proxy_header::{self, Proxied};
use super::refusal::Refusal;
use super::socket::Socket;
use super::stream::DoorStream;
use crate::decide::Connection;

/// Bytes of what we say on a socket that should speak TLS and doesn't, and how long we try.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a worker lends to each of its connections.
#[derive(Clone)]
pub struct Service {
    /// Carries the requests.
    pub carrier: Arc<dyn Carrier>,
    /// Turns true when the gateway wants to stop. One for each worker, so that cores share no lock.
    pub drain: watch::Receiver<bool>,
    /// How long a connection that waits for a request may go on doing so once the gateway drains, in milliseconds.
    /// One for each worker as well.
    pub quiet: Arc<AtomicU64>,
}

/// Serves a connection that was just accepted, until it ends.
pub async fn serve(tcp: TcpStream, peer: SocketAddr, terms: Arc<Terms>, room: Room, seat: Seat, service: Service) {
    let deadline = Instant::now() + terms.guard.handshake_timeout;
    // Boxed, so that the handshake's state is given back when it is over.
    let opened = timeout_at(deadline, Box::pin(open(tcp, peer, &terms, room, seat))).await;
    let (stream, connection) = match opened {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(_) if terms.tls.is_some() => return terms.metrics.handshake(Handshake::Late),
        Err(_) => return terms.metrics.turned(Turned::Late),
    };
    let mut visit = Visit { connection, terms, service };
    visit.run(stream).await;
}

/// Everything that comes before the protocol. `None` when the connection is over already.
async fn open(
    tcp: TcpStream,
    peer: SocketAddr,
    terms: &Arc<Terms>,
    room: Room,
    mut seat: Seat,
) -> Option<(Box<DoorStream>, Arc<Connection>)> {
    let local = canonical(tcp.local_addr().ok()?);
    let (mut peer, mut local) = (canonical(peer), local);
    let mut socket = Socket::new(tcp);
    if terms.is_proxy(peer.ip()) {
        match proxy_header(&mut socket).await {
            Ok(Proxied::For { source, destination }) => {
                (peer, local) = (canonical(source), canonical(destination));
                if terms.is_banned(peer.ip()) {
                    terms.metrics.turned(Turned::Banned);
                    return None;
                }
            }
            Ok(Proxied::Own) => {}
            Err(()) => {
                terms.metrics.turned(Turned::BadProxyHeader);
                return None;
            }
        }
    }
    if let Err(why) = seat.belongs_to(peer.ip(), room) {
        terms.metrics.turned(why);
        return None;
    }
    let (mut stream, tls) = match &terms.tls {
        None => (Box::new(DoorStream::over_socket(socket, peer, local)), None),
        Some(front) => {
            let ticket = seat.shakes_hands(room)?;
            let shaken = tokio::select! {
                biased;
                shaken = handshake(socket, front, terms, peer, local) => shaken,
                () = ticket.given_up() => {
                    terms.metrics.handshake(Handshake::Crowded);
                    None
                }
            };
            let (stream, facts) = shaken?;
            (stream, Some(Arc::new(facts)))
        }
    };
    stream.is_served(seat, Arc::clone(terms));
    let connection = Connection {
        peer,
        local,
        listener: Arc::clone(&terms.name),
        redirect_to: terms.redirect_to,
        tls,
        guard: Arc::clone(&terms.guard),
    };
    Some((stream, Arc::new(connection)))
}

/// An IPv4 client on an IPv6 socket is an IPv4 client.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

async fn proxy_header(socket: &mut Socket) -> Result<Proxied, ()> {
    loop {
        if let Some((proxied, length)) = proxy_header::parse(socket.ahead()).map_err(drop)? {
            socket.skip(length);
            return Ok(proxied);
        }
        if !matches!(socket.fill().await, Ok(1..)) {
            return Err(());
        }
    }
}

/// Answers a request that broke a rule, and closes so that the client can read the answer.
pub(super) async fn refuse(stream: &mut DoorStream, refusal: Refusal) {
    let say = async {
        let _ = match refusal {
            Refusal::Preface => stream.write_all(preface::BROKEN_PREFACE).await,
            _ => stream.write_all(refusal.answer().as_bytes()).await,
        };
        let _ = stream.flush().await;
    };
    let _ = timeout(LAST_WORDS, say).await;
    stream.close_unread().await;
}

/// What came of waiting for a request.
enum Next {
    /// One is there.
    Request(Head),
    /// The client, the idle timeout or the drain ended the connection.
    Over,
    /// One came that breaks a rule.
    Refused(Refusal),
}

struct Visit {
    connection: Arc<Connection>,
    terms: Arc<Terms>,
    service: Service,
}

impl Visit {
    async fn run(&mut self, mut stream: Box<DoorStream>) {
        match self.speaks_http2(&mut stream).await {
            Some(true) => {
                stream.becomes_http2();
                let carrier = Arc::clone(&self.service.carrier);
                carrier.http2(stream, Arc::clone(&self.connection), self.service.drain.clone()).await;
            }
            Some(false) => self.http1(stream).await,
            None => {}
        }
    }

    /// Finds out what is spoken. On a plain socket by the first bytes; `None` when there are none.
    async fn speaks_http2(&mut self, stream: &mut DoorStream) -> Option<bool> {
        if stream.is_http2() {
            return Some(true);
        }
        if !self.terms.http2 || (self.connection.tls.is_some() && self.terms.http1) {
            return Some(false);
        }
        if stream.ahead().is_empty() && !self.idle(stream).await {
            return None;
        }
        let decided = timeout(self.terms.guard.handshake_timeout, async {
            while stream.ahead().len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(stream.ahead()) {
                if !matches!(poll_fn(|cx| stream.poll_fill(cx)).await, Ok(1..)) {
                    return None;
                }
            }
            Some(stream.ahead().starts_with(HTTP2_PREFACE))
        });
        let Ok(decided) = decided.await else {
            self.terms.metrics.turned(Turned::Late);
            return None;
        };
        if decided? {
            return Some(true);
        }
        let refusal = match self.terms.http1 {
            _ if preface::is_broken(stream.ahead()) => Refusal::Preface,
            false if preface::is_http1(stream.ahead()) => Refusal::OnlyHttp2,
            false => Refusal::Preface,
            true => return Some(false),
        };
        self.terms.metrics.refused(refusal);
        refuse(stream, refusal).await;
        None
    }

    async fn http1(&mut self, mut stream: Box<DoorStream>) {
        let mut served: u32 = 0;
        loop {
            let head = match self.next(&mut stream).await {
                Next::Request(head) => head,
                Next::Over => return stream.close().await,
                Next::Refused(refusal) => {
                    let guessed = served == 0 && self.terms.http2 && self.connection.tls.is_none();
                    let broken = guessed && preface::is_broken(stream.ahead());
                    let refusal = if broken { Refusal::Preface } else { refusal };
                    self.terms.metrics.refused(refusal);
                    return refuse(&mut stream, refusal).await;
                }
            };
            served = served.saturating_add(1);
            let bound = self.terms.guard.max_requests;
            let last = *self.service.drain.borrow() || (bound > 0 && served >= bound);
            stream.begin(&head);
            let carrier = Arc::clone(&self.service.carrier);
            let Some(back) = carrier.http1(stream, Arc::clone(&self.connection), last).await else { return };
            stream = back;
            if last || !stream.is_request_read() {
                return stream.close().await;
            }
        }
    }

    async fn next(&mut self, stream: &mut DoorStream) -> Next {
        if stream.ahead().is_empty() && !self.idle(stream).await {
            return Next::Over;
        }
        let limits = HeadLimits { bytes: self.terms.guard.max_header_bytes, headers: self.terms.guard.max_headers };
        match timeout(self.terms.guard.header_timeout, read_head(stream, limits)).await {
            Ok(next) => next,
            Err(_) => Next::Refused(Refusal::Late),
        }
    }

    /// Waits for the next byte. False when the connection is over instead.
    ///
    /// While the gateway drains, that is after a quiet time, and not at once where another gateway has taken over:
    /// whoever sends a request now gets an answer that says `Connection: close`.
    async fn idle(&mut self, stream: &mut DoorStream) -> bool {
        stream.rest();
        let patience = Instant::now() + self.terms.guard.idle_timeout;
        let drain = &mut self.service.drain;
        if !*drain.borrow_and_update() {
            tokio::select! {
                biased;
                read = poll_fn(|cx| stream.poll_fill(cx)) => return matches!(read, Ok(1..)),
                _ = drain.changed() => {}
                () = sleep_until(patience) => return false,
            }
        }
        let quiet = Duration::from_millis(self.service.quiet.load(Ordering::Relaxed));
        let patience = patience.min(Instant::now() + quiet);
        tokio::select! {
            biased;
            read = poll_fn(|cx| stream.poll_fill(cx)) => matches!(read, Ok(1..)),
            () = sleep_until(patience) => false,
        }
    }
}

async fn read_head(stream: &mut DoorStream, limits: HeadLimits) -> Next {
    let mut scanner = HeadScanner::default();
    loop {
        match scanner.scan(stream.ahead(), limits) {
            Ok(Some(head)) => return Next::Request(head),
            Ok(None) => {}
            Err(refusal) => return Next::Refused(refusal),
        }
        if !matches!(poll_fn(|cx| stream.poll_fill(cx)).await, Ok(1..)) {
            return Next::Over;
        }
    }
}

/// Bytes of the task that [`serve`] is, for a test.
#[cfg(test)]
pub fn size_of_serve() -> usize {
    fn of<A, B, C, D, E, F, R>(_: impl FnOnce(A, B, C, D, E, F) -> R) -> usize {
        size_of::<R>()
    }
    of(serve)
}
