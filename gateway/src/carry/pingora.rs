//! The carrier that speaks every protocol: Pingora's proxy, driven request by request.
//!
//! One per core, so that each core has its own pool of upstream connections. The door hands it a
//! stream whose next request head is complete; it hands the stream back when that exchange is over.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use pingora_core::apps::{HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{self, H2Accept, H2Options, HttpSession as Http2Session};
use pingora_core::protocols::{Digest, Stream};
use pingora_core::server::configuration::ServerConf;
use pingora_http::ResponseHeader;
use pingora_proxy::HttpProxy;
use tidegate_model::desired::ListenerGuard;
use tokio::sync::{Notify, watch};
use tracing::debug;

use crate::carry::body::Body;
use crate::carry::deadline::Deadline;
use crate::clock;
use crate::decide::Connection;
use crate::door::Carrier;
use crate::door::pulse::Pulse;
use crate::door::refusal::Refusal;
use crate::door::stream::DoorStream;
use crate::exchange::Exchange;
use crate::proxy::{BEGUN, Proxy, Shared};

/// Upstream connections that one core keeps idle, over all endpoints. Beyond it the oldest is closed.
const IDLE_UPSTREAM_CONNECTIONS: usize = 2_048;

/// Malformed streams that one HTTP/2 connection may send before it is closed.
const MALFORMED_STREAMS: usize = 32;

/// How long an HTTP/2 client without streams may take to confirm a GOAWAY. It may have begun a stream before it heard of
/// it (RFC 9113 §6.8), so this is longer than any usual way to a client and back.
const GOAWAY: Duration = Duration::from_secs(3);

/// How much later than the door Pingora gives up on a body.
const AFTER_THE_DOOR: Duration = Duration::from_secs(5);

/// Streams reset by us for a client's mistakes, over the life of a connection. Beyond it the connection is closed
/// with ENHANCE_YOUR_CALM, as it is when the door finds that they come too fast.
const MADE_RESETS: usize = 1_024;

/// Bytes of an answer that wait for one stream's client. Beyond it the endpoint isn't read any further.
const SEND_BUFFER: usize = 128 << 10;

/// Unread bytes of a request body that are drained, so that the connection can be used again, take at most this long.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// One core's carrier.
pub struct PingoraCarrier {
    shared: Arc<Shared>,
    proxy: Arc<HttpProxy<Proxy>>,
    /// Turns true when the door drains: answers that start after that say `Connection: close`.
    drain: watch::Receiver<bool>,
}

impl PingoraCarrier {
    /// A carrier with its own upstream pool. `drain` turns true when the gateway is about to stop.
    pub fn new(shared: Arc<Shared>, drain: watch::Receiver<bool>) -> Self {
        let conf = ServerConf {
            threads: 1,
            upstream_keepalive_pool_size: IDLE_UPSTREAM_CONNECTIONS,
            // Attempts are counted by `proxy`; this only has to be out of the way.
            max_retries: 16,
            ..ServerConf::default()
        };
        let mut proxy = HttpProxy::new(Proxy::new(Arc::clone(&shared)), Arc::new(conf));
        proxy.handle_init_modules();
        Self { shared, proxy: Arc::new(proxy), drain }
    }

    /// Whether the gateway is about to stop.
    pub fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }

    /// An exchange whose head has just arrived: from here on it sees one snapshot.
    fn begin(&self, connection: Arc<Connection>, last: bool) -> Exchange {
        Exchange::new(connection, last, self.shared.snapshot.load_full(), clock::now())
    }

    async fn exchange(
        &self,
        session: ServerSession,
        mut exchange: Exchange,
        body: Option<Body>,
    ) -> Option<ReusedHttpStream> {
        let deadline = Arc::new(Deadline::default());
        if let Some(body) = body {
            deadline.expect_body(body);
        }
        exchange.deadline = Some(Arc::clone(&deadline));
        let begun = Cell::new(Some(exchange));
        let work = BEGUN.scope(begun, self.proxy.process_new_http(session, &self.drain));
        deadline.guard(work).await.flatten()
    }

    /// Carries the exchange of an HTTP/2 stream, decided or not, of which nothing but the head was read. `body` is what its
    /// client must bring.
    pub async fn carry_stream(&self, session: Http2Session, exchange: Exchange, body: Option<Body>) {
        self.exchange(ServerSession::new_http2(session), exchange, body).await;
    }

    /// Carries an HTTP/1 exchange, decided or not, whose head lies unread at the front of `stream`.
    pub async fn carry(&self, stream: Box<DoorStream>, exchange: Exchange) -> Option<Box<DoorStream>> {
        let body_timeout = exchange.connection.guard.body_timeout;
        let mut session = ServerSession::new_http1(stream as Stream);
        // The door is stricter, and gives up first.
        session.set_read_timeout(Some(body_timeout + AFTER_THE_DOOR));
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        // What is left of a body is drained after an early answer, so the connection may go on.
        session.set_close_on_response_before_downstream_finish(false);
        let reused = self.exchange(session, exchange, None).await?;
        let (stream, _settings) = reused.consume();
        stream.into_any().downcast::<DoorStream>().ok()
    }
}

#[async_trait]
impl Carrier for PingoraCarrier {
    async fn http1(
        self: Arc<Self>,
        stream: Box<DoorStream>,
        connection: Arc<Connection>,
        last: bool,
    ) -> Option<Box<DoorStream>> {
        let exchange = self.begin(connection, last);
        self.carry(stream, exchange).await
    }

    async fn http2(
        self: Arc<Self>,
        stream: Box<DoorStream>,
        connection: Arc<Connection>,
        drain: watch::Receiver<bool>,
    ) {
        let facts = Arc::clone(&connection);
        let carry = move |session, body| {
            let (carrier, connection) = (Arc::clone(&self), Arc::clone(&connection));
            async move {
                let exchange = carrier.begin(connection, false);
                carrier.carry_stream(session, exchange, body).await;
            }
        };
        serve_http2(stream, &facts, drain, carry).await;
    }
}

/// Serves an HTTP/2 connection until it ends: has each of its streams carried, in a task of its own. `carry` is given
/// the stream's session, and its body where one must come.
pub async fn serve_http2<F: Future<Output = ()> + Send + 'static>(
    mut stream: Box<DoorStream>,
    connection: &Connection,
    mut drain: watch::Receiver<bool>,
    carry: impl Fn(Http2Session, Option<Body>) -> F + Send + Sync,
) {
    let Some(pulse) = stream.pulse() else { return };
    let stream = stream as Stream;
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    });
    let handshake = server::handshake(stream, Some(options(&connection.guard)));
    let mut http2 = match tokio::time::timeout(connection.guard.handshake_timeout, handshake).await {
        Ok(Ok(http2)) => http2,
        Ok(Err(error)) => return debug!(%error, "http2 preface refused"),
        Err(_) => return debug!("http2 preface came too late"),
    };

    let idle = connection.guard.idle_timeout;
    let streams = Arc::new(Streams::default());
    let mut malformed = 0;
    let mut draining = *drain.borrow();
    if draining {
        http2.graceful_shutdown();
    }
    loop {
        let accepted = tokio::select! {
            biased;
            changed = drain.changed(), if !draining => {
                // A closed channel means the door itself is gone.
                draining = changed.is_err() || *drain.borrow();
                if draining {
                    http2.graceful_shutdown();
                }
                continue;
            }
            accepted = Http2Session::from_h2_conn(&mut http2, Arc::clone(&digest)) => accepted,
            // A client that doesn't confirm our GOAWAY, and asks for nothing, isn't waited for.
            () = streams.idle_for(GOAWAY), if draining => return debug!("http2 connection closed without a word"),
            () = streams.idle_for(idle), if !draining => {
                draining = true;
                http2.graceful_shutdown();
                continue;
            }
        };
        match accepted {
            Err(error) => return debug!(%error, "http2 connection ended"),
            Ok(None) => return,
            Ok(Some(H2Accept::Rejected)) => {
                malformed += 1;
                if malformed > MALFORMED_STREAMS {
                    return debug!("http2 connection closed for malformed streams");
                }
            }
            Ok(Some(H2Accept::Session(mut session))) => {
                if session.req_header().headers.len() > connection.guard.max_headers {
                    pulse.refused(Refusal::TooManyHeaders);
                    refuse(&mut session);
                    continue;
                }
                session.set_write_timeout(Some(connection.guard.send_timeout));
                let place = streams.enter();
                let body = body(&session, &connection.guard, &pulse);
                let carried = carry(session, body);
                tokio::spawn(async move {
                    let _place = place;
                    carried.await;
                });
            }
        }
    }
}

/// How HTTP/2 is spoken with clients of a listener.
fn options(guard: &ListenerGuard) -> H2Options {
    let streams = guard.max_streams as usize;
    let mut options = server::default_h2_options();
    options
        .max_concurrent_streams(guard.max_streams)
        .max_header_list_size(u32::try_from(guard.max_header_bytes).unwrap_or(u32::MAX))
        // A page that is left resets all its streams at once, maybe before we have looked at any of them. How often
        // that may happen is the door's to say, which lets at most four times its bound pass in one go.
        .max_pending_accept_reset_streams(streams + 4 * guard.http2.resets.count as usize)
        .max_concurrent_reset_streams(streams.max(1))
        .max_local_error_reset_streams(Some(MADE_RESETS))
        .max_send_buffer_size(SEND_BUFFER);
    options
}

/// The body that a client must bring from now on. gRPC calls are conversations, in which silence is nobody's fault.
fn body(session: &Http2Session, guard: &ListenerGuard, pulse: &Arc<Pulse>) -> Option<Body> {
    (!is_grpc(session) && !session.is_body_empty())
        .then(|| Body::new(Arc::clone(pulse), guard.min_body_rate, guard.body_timeout))
}

/// Whether the request is a gRPC call.
pub fn is_grpc(session: &Http2Session) -> bool {
    let kind = session.req_header().headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Answers a request with more headers than its listener allows.
fn refuse(session: &mut Http2Session) {
    let answer = ResponseHeader::build(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, None)
        .and_then(|answer| session.write_response_header(Box::new(answer), true));
    if let Err(error) = answer {
        debug!(%error, "http2 client left before it was refused");
    }
}

/// Streams in flight on one HTTP/2 connection.
#[derive(Default)]
struct Streams {
    open: AtomicUsize,
    last_left: Notify,
}

impl Streams {
    fn enter(self: &Arc<Self>) -> Place {
        self.open.fetch_add(1, Relaxed);
        Place(Arc::clone(self))
    }

    /// Returns when no stream has been open for `span`.
    async fn idle_for(&self, span: Duration) {
        while self.open.load(Relaxed) != 0 {
            self.last_left.notified().await;
        }
        tokio::time::sleep(span).await;
    }
}

struct Place(Arc<Streams>);

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Relaxed) == 1 {
            self.0.last_left.notify_one();
        }
    }
}
