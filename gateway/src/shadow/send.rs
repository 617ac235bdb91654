//! Sends copies, on a thread of their own, and judges their answers.
//!
//! # Invariants
//!
//! - Every copy that arrives here ends once: not sent for want of an endpoint, or sent and finished.
//! - A copy ends by its deadline, connect included.
//! - What a shadow does is no evidence for ejection, and its times don't enter the balance of live
//!   traffic: an endpoint is judged by those whom it serves. A copy does count as in flight.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderName};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Uri, Version};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use rustls::pki_types::ServerName;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info};

use super::answer::{self, Answer, Recorder, Verdict};
use super::body::CopyBody;
use super::budget::ByteBudget;
use super::connect::{Connection, IDLE, Place, Pool};
use super::sampler::Sampler;
use super::tap::{CopyHead, ShadowCopy};
use crate::clock;
use crate::endpoint::Endpoint;
use crate::record::{Mismatch, ShadowDrop, ShadowResult};
use crate::snapshot::{ServiceEntry, ShadowEntry};

/// Bytes of an answer that nobody compares which are read so that its connection can be used again.
/// With more to come the connection is closed instead.
const DRAINED: usize = 64 << 10;

/// Tells the shadow's service that it got only the beginning of a body.
const TRUNCATED: HeaderName = HeaderName::from_static("x-tidegate-shadow-truncated");

/// What all copies share on their thread.
struct Sender {
    pool: Pool,
    budget: Arc<ByteBudget>,
    sampler: Sampler,
}

/// Sends what comes out of `queue`, until nobody can put anything in.
pub(super) async fn run(mut queue: mpsc::Receiver<ShadowCopy>, budget: Arc<ByteBudget>) {
    let sender = Arc::new(Sender { pool: Pool::default(), budget, sampler: Sampler::default() });
    let mut sweep = tokio::time::interval(IDLE);
    loop {
        tokio::select! {
            copy = queue.recv() => match copy {
                // Bounded by the sum of `max_in_flight`: each copy holds its slot.
                Some(copy) => drop(tokio::spawn(Arc::clone(&sender).send(copy))),
                None => return,
            },
            _ = sweep.tick() => sender.pool.sweep(),
        }
    }
}

impl Sender {
    async fn send(self: Arc<Self>, copy: ShadowCopy) {
        let ShadowCopy { entry, snapshot, capture, length, truncated, deadline, main, slot, .. } = copy;
        let head = capture.head.as_ref().expect("a tap sends nothing without a head");
        let service = &snapshot.services[entry.spec.to.service];
        let balancer = &service.versions[entry.spec.to.version].balance;
        let Ok(endpoint) = balancer.choose(copy.balance_hash, clock::now(), &mut rand::rng()).map(Arc::clone) else {
            return entry.metrics.dropped(ShadowDrop::NoEndpoint);
        };
        let in_flight = endpoint.enter();
        entry.metrics.sent();
        if truncated {
            entry.metrics.truncated();
        }
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());

        let started = Instant::now();
        let host = head.host(&endpoint);
        let outcome = match place(service, &endpoint, &host) {
            Ok(place) => {
                let body = CopyBody::new(Arc::clone(&capture), length);
                let request = head.request(&entry, &host, length, truncated, body);
                let exchange = self.exchange(&place, request, service.spec.keep_idle, &entry);
                let outcome = timeout_at(deadline, exchange).await.unwrap_or(Err(Failure::Late));
                if outcome.is_err() {
                    self.pool.forget_shared(&place);
                }
                outcome
            }
            Err(failure) => Err(failure),
        };
        let result = match &outcome {
            Ok(_) => ShadowResult::Answered,
            Err(Failure::Connect(_)) => ShadowResult::Connect,
            Err(Failure::Broken(_)) => ShadowResult::Reset,
            Err(Failure::Late) => ShadowResult::Timeout,
        };
        // The captured bytes and the places in flight are given back before anybody can see the copy as finished,
        // and before the wait for the main answer.
        drop((capture, snapshot, in_flight, slot));
        entry.metrics.finished(result, started.elapsed());
        match outcome {
            Ok(Some(answer)) => self.judge(&entry, main, &answer, method.as_str(), &path).await,
            Ok(None) => {}
            Err(failure) => {
                debug!(route = %entry.route, shadow = %entry.label, endpoint = %endpoint.id, %failure, "shadow copy failed");
            }
        }
    }

    /// Sends one request and reads its answer: `None` if nobody compares it.
    async fn exchange(
        &self,
        place: &Place,
        mut request: Request<CopyBody>,
        keep_idle: usize,
        entry: &ShadowEntry,
    ) -> Result<Option<Answer>, Failure> {
        let mut kept = self.pool.take(place);
        let (mut connection, response, sent_at) = loop {
            let fresh = kept.is_none();
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => Connection::open(place).await.map_err(Failure::Connect)?,
            };
            if connection.is_shared() {
                request = into_http2(request, place.tls.is_some());
            }
            let sent_at = Instant::now();
            match connection.send(request).await {
                Ok(response) => break (connection, response, sent_at),
                Err(mut failed) => match failed.take_message() {
                    // A kept connection had been closed; nothing was sent, so this isn't a second copy.
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(Failure::Broken(failed.into_error())),
                },
            }
        };
        let recorder = entry.spec.compare.as_ref().map(|rules| {
            let keep_json = rules.body && !rules.ignore.is_empty();
            Recorder::new(response.status().as_u16(), response.headers(), sent_at.elapsed(), keep_json, &self.budget)
        });
        let (answer, whole) = read(response, recorder).await?;
        if whole && connection.ready().await {
            self.pool.keep(place.clone(), connection, keep_idle);
        }
        Ok(answer)
    }

    async fn judge(
        &self,
        entry: &ShadowEntry,
        main: Option<watch::Receiver<Option<Arc<Answer>>>>,
        shadow: &Answer,
        method: &str,
        path: &str,
    ) {
        let (Some(rules), Some(mut main)) = (&entry.spec.compare, main) else { return };
        // The main answer may still be under way. It is waited for as long as a copy may take; its tap
        // going away ends the wait at once.
        let main = match timeout(entry.spec.timeout, main.wait_for(Option::is_some)).await {
            Ok(Ok(main)) => main.clone().expect("waited for it"),
            Ok(Err(_)) | Err(_) => return entry.metrics.incomparable(),
        };
        entry.metrics.first_bytes(main.first_byte, shadow.first_byte);
        if rules.latency && answer::much_later(&main, shadow) {
            entry.metrics.mismatch(Mismatch::Latency);
        }
        let at = match answer::compare(rules, &main, shadow) {
            Verdict::Match => return entry.metrics.compared(),
            Verdict::Incomparable(why) => {
                debug!(route = %entry.route, shadow = %entry.label, why, "shadow answer can't be compared");
                return entry.metrics.incomparable();
            }
            Verdict::Status => {
                entry.metrics.mismatch(Mismatch::Status);
                None
            }
            Verdict::Body(at) => {
                entry.metrics.mismatch(Mismatch::Body);
                at
            }
        };
        entry.metrics.compared();
        if let Some(unlogged) = self.sampler.admit(Instant::now()) {
            info!(
                target: "tidegate::shadow",
                route = %entry.route,
                shadow = %entry.label,
                method,
                path,
                main_status = main.status,
                shadow_status = shadow.status,
                main_hash = %format_args!("{:016x}", main.hash),
                shadow_hash = %format_args!("{:016x}", shadow.hash),
                at,
                unlogged,
                "shadow answer differs"
            );
        }
    }
}

/// Reads an answer, and tells whether it was read to its end.
async fn read(
    mut response: Response<Incoming>,
    mut recorder: Option<Recorder>,
) -> Result<(Option<Answer>, bool), Failure> {
    let mut drained = 0;
    let mut whole = true;
    while let Some(frame) = response.frame().await {
        let Ok(chunk) = frame.map_err(Failure::Broken)?.into_data() else { continue };
        if !wants(&mut recorder, &chunk, &mut drained) {
            whole = false;
            break;
        }
    }
    Ok((recorder.map(Recorder::end), whole))
}

fn wants(recorder: &mut Option<Recorder>, chunk: &Bytes, drained: &mut usize) -> bool {
    match recorder {
        Some(recorder) => recorder.chunk(chunk),
        None => {
            *drained += chunk.len();
            *drained <= DRAINED
        }
    }
}

/// Why a copy that was sent has no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("could not connect: {0}")]
    Connect(io::Error),
    #[error("the exchange broke off: {0}")]
    Broken(hyper::Error),
    #[error("its deadline passed")]
    Late,
}

fn place(service: &ServiceEntry, endpoint: &Endpoint, host: &HeaderValue) -> Result<Place, Failure> {
    let invalid = |_| Failure::Connect(io::Error::new(io::ErrorKind::InvalidInput, "the host is no TLS server name"));
    let tls = match &service.tls {
        None => None,
        Some(tls) => {
            let host = Authority::try_from(host.as_bytes()).ok();
            let name = tls.sni.as_deref().or(host.as_ref().map(Authority::host)).unwrap_or_default();
            let name = name.trim_start_matches('[').trim_end_matches(']');
            Some((Arc::clone(&tls.client_config), ServerName::try_from(name.to_owned()).map_err(invalid)?))
        }
    };
    Ok(Place { target: endpoint.target.clone(), protocol: service.spec.protocol, tls })
}

impl CopyHead {
    /// The Host that the client's request had: a copy keeps it. A request without one names the endpoint.
    fn host(&self, endpoint: &Endpoint) -> HeaderValue {
        let authority = || self.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        let own = || HeaderValue::from_str(&endpoint.target.to_string()).ok();
        let given = self.headers.get(HOST).cloned().or_else(authority).or_else(own);
        given.unwrap_or(HeaderValue::from_static("localhost"))
    }

    fn request(
        &self,
        entry: &ShadowEntry,
        host: &HeaderValue,
        length: u64,
        truncated: bool,
        body: CopyBody,
    ) -> Request<CopyBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.version_mut() = Version::HTTP_11;
        let target = self.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(target);
        let headers: &mut HeaderMap = request.headers_mut();
        *headers = self.headers.clone();
        headers.insert(HOST, host.clone());
        for (name, value) in &entry.mark {
            headers.insert(name.clone(), value.clone());
        }
        if truncated {
            headers.insert(TRUNCATED, HeaderValue::from_static("1"));
        }
        if self.has_body || length > 0 {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        request
    }
}

/// HTTP/2 says the Host in `:authority` (RFC 9113 §8.3.1).
fn into_http2(mut request: Request<CopyBody>, tls: bool) -> Request<CopyBody> {
    let host = request.headers_mut().remove(HOST);
    if let Some(authority) = host.and_then(|host| Authority::try_from(host.as_bytes()).ok()) {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(authority);
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    }
    *request.version_mut() = Version::HTTP_2;
    request
}
