//! Which page answers which request.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, ORIGIN};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Body;
use serde::Serialize;
use tokio::sync::oneshot;

use super::bans::{self, Said};
use super::{AdminState, Life, Stage, record, routes, snapshot};
use crate::acme::Asked;
use crate::clock;
use crate::recording::{Busy, Lines};
use crate::source::{Reason, ReloadRequest, Verdict};

/// How long `/reload` waits for its outcome before it answers 504. The reload itself goes on.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

const INDEX: &str = "\
Tidegate admin

GET  /metrics    everything that is counted, for Prometheus
GET  /healthz    200 while the process lives
GET  /readyz     200 while it takes traffic, 503 while it starts or drains
GET  /snapshot   the configuration in force, with live endpoints, as JSON
GET  /routes     routes in order of precedence, as JSON (Accept: text/plain for a table)
GET  /bans       who is banned, as JSON (?limit=, ?after=, ?covering=ADDRESS)
POST /bans       bans a network; DELETE /bans?network=… frees it (`tidegate bans` does both)
GET  /certificates  certificates with their end, next renewal and last error, as JSON
POST /certificates/renew?name=NAME  orders the certificate of a name now
POST /record     live requests as JSON lines, as they come (`tidegate record` asks for it)
POST /reload     reads the configuration again, as SIGHUP does
";

/// Answers one request.
pub(super) async fn answer<B>(
    request: Request<B>,
    state: &AdminState,
    life: &Life,
) -> Result<Response<Either<Full<Bytes>, Lines>>, Infallible>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let mut answer =
        if request.uri().path() == "/record" && request.method() == Method::POST && !comes_from_a_page(&request) {
            record(&request, state, life)
        } else {
            answer_from(request, state).await?.map(Either::Left)
        };
    if state.readiness.stage() == Stage::Replaced {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close")); // The next one knows better.
    }
    Ok(answer)
}

async fn answer_from<B>(request: Request<B>, state: &AdminState) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let (method, path) = (request.method(), request.uri().path());
    let allowed = match path {
        "/" | "/metrics" | "/healthz" | "/readyz" | "/snapshot" | "/routes" | "/certificates" => "GET, HEAD",
        "/reload" | "/record" | "/certificates/renew" => "POST",
        "/bans" => "GET, HEAD, POST, DELETE",
        _ => return Ok(page(StatusCode::NOT_FOUND, TEXT, format!("no page has this path\n\n{INDEX}"))),
    };
    if !allowed.split(", ").any(|word| word == method.as_str()) {
        let mut answer = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("{path} takes {allowed}\n"));
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return Ok(answer);
    }
    if !method.is_safe() && comes_from_a_page(&request) {
        return Ok(page(StatusCode::FORBIDDEN, TEXT, "this can't be asked for by a web page\n"));
    }
    Ok(match path {
        "/" => page(StatusCode::OK, TEXT, INDEX),
        "/metrics" => metrics(state),
        "/healthz" => page(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => ready(state),
        "/snapshot" => {
            json(StatusCode::OK, &snapshot::View::of(&state.slot.load(), state.readiness.stage(), clock::now()))
        }
        "/routes" => routes(&request, state),
        "/bans" => banned(request, state).await,
        "/certificates" => json(StatusCode::OK, &state.certificates.rows()),
        "/certificates/renew" => renew(&request, state),
        _ => reload(state).await,
    })
}

/// Browsers say where a request that changes something comes from. No web page has business here.
fn comes_from_a_page<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(ORIGIN)
}

/// Begins a recording.
fn record<B>(request: &Request<B>, state: &AdminState, life: &Life) -> Response<Either<Full<Bytes>, Lines>> {
    let no = |status, sentence: String| page(status, TEXT, sentence).map(Either::Left);
    let snapshot = state.slot.load();
    let wish = match record::wish(request.uri().query().unwrap_or_default(), &snapshot.desired) {
        Ok(wish) => wish,
        Err(sentence) => return no(StatusCode::BAD_REQUEST, sentence),
    };
    let lasts = wish.lasts;
    match snapshot.recorder.begin(wish, clock::now()) {
        Ok(lines) => {
            life.extend(lasts);
            let mut answer = Response::new(Either::Right(lines));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jsonl"));
            answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            answer
        }
        Err(Busy) => no(StatusCode::CONFLICT, "two recordings are under way already; wait for one to end\n".into()),
    }
}

fn metrics(state: &AdminState) -> Response<Full<Bytes>> {
    state.metrics.refresh(&state.slot.load(), clock::now());
    page(StatusCode::OK, EXPOSITION, state.metrics.render())
}

fn ready(state: &AdminState) -> Response<Full<Bytes>> {
    let notes: Vec<String> = state.source.note().into_iter().chain(state.certificates.note()).collect();
    match (state.readiness.stage(), (!notes.is_empty()).then(|| notes.join("; "))) {
        // A refused change is no reason to take a gateway out of service: it serves the last good one.
        (Stage::Serving, Some(note)) => page(StatusCode::OK, TEXT, format!("ok: {note}\n")),
        (Stage::Serving, None) => page(StatusCode::OK, TEXT, "ok\n"),
        (Stage::Starting, _) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "starting: no listener is open yet\n"),
        (Stage::Draining, _) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining: no new connection is taken\n"),
        // Whoever asks over an old connection wants to know of the address, not of this process.
        (Stage::Replaced, _) => page(StatusCode::OK, TEXT, "ok: another gateway has taken over\n"),
    }
}

fn routes<B>(request: &Request<B>, state: &AdminState) -> Response<Full<Bytes>> {
    let rows = routes::in_order(&state.slot.load().desired);
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.trim_start().starts_with("text/plain") {
        page(StatusCode::OK, TEXT, routes::table(&rows))
    } else {
        json(StatusCode::OK, &rows)
    }
}

async fn banned<B>(request: Request<B>, state: &AdminState) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let guard = Arc::clone(&state.slot.load().guard);
    match bans::answer(request, &guard.bans).await {
        Said::Page(page) => json(StatusCode::OK, &page),
        Said::Ban(ban) => json(StatusCode::CREATED, &ban),
        Said::Freed(network) => json(StatusCode::OK, &serde_json::json!({"freed": network})),
        Said::No(status, sentence) => page(status, TEXT, sentence),
    }
}

/// Orders a certificate again.
fn renew<B>(request: &Request<B>, state: &AdminState) -> Response<Full<Bytes>> {
    let Some(name) = request.uri().query().and_then(|query| query.strip_prefix("name=")) else {
        return page(StatusCode::BAD_REQUEST, TEXT, "which one? write /certificates/renew?name=shop.example.com\n");
    };
    match state.certificates.ask(name) {
        Asked::Ordering => {
            page(StatusCode::ACCEPTED, TEXT, "it is ordered now; /certificates tells what comes of it\n")
        }
        Asked::Unknown => page(StatusCode::NOT_FOUND, TEXT, "no certificate that is ordered has this name\n"),
        Asked::TooSoon => page(StatusCode::TOO_MANY_REQUESTS, TEXT, "it was asked for just before\n"),
    }
}

async fn reload(state: &AdminState) -> Response<Full<Bytes>> {
    let (reply, outcome) = oneshot::channel();
    if state.reload.try_send(ReloadRequest { reason: Reason::Command, reply }).is_err() {
        return page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "another reload is under way, or the gateway stops\n");
    }
    match tokio::time::timeout(RELOAD_TIMEOUT, outcome).await {
        Ok(Ok(done)) if done.result == Verdict::Refused => {
            page(StatusCode::UNPROCESSABLE_ENTITY, TEXT, done.diagnostics)
        }
        Ok(Ok(done)) => json(StatusCode::OK, &done),
        Ok(Err(_)) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the gateway stops\n"),
        Err(_) => page(StatusCode::GATEWAY_TIMEOUT, TEXT, "the reload is still under way; look at /snapshot later\n"),
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let mut body = serde_json::to_vec_pretty(value).expect("our own views have text keys and finite numbers");
    body.push(b'\n');
    page(status, JSON, body)
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
