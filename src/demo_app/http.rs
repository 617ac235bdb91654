//! The shop's pages: one function from a request to an answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::mood::Shop;

/// The largest body that `/echo` and gRPC give back, in bytes. A longer one is answered 413.
const ECHO_CAP: usize = 16 << 20;

/// How long a dying shop waits for its last answer to leave.
const LAST_WORDS: Duration = Duration::from_millis(50);

const VERSION: HeaderName = HeaderName::from_static("x-version");
const INSTANCE: HeaderName = HeaderName::from_static("x-instance");
const BODY_SHA256: HeaderName = HeaderName::from_static("x-body-sha256");

type Body = Either<Full<Bytes>, WithTrailers>;
type WithTrailers = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

/// Answers one request.
pub async fn answer(request: Request<Incoming>, shop: Arc<Shop>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path();
    let mut response = if let Some(page) = path.strip_prefix("/_demo/") {
        control(page, request.method(), request.uri().query().unwrap_or_default(), &shop)
    } else if path == "/healthz" {
        if shop.healthy() { text(StatusCode::OK, "ok\n") } else { text(StatusCode::SERVICE_UNAVAILABLE, "not well\n") }
    } else {
        serve(request, &shop).await
    };
    if let Ok(version) = HeaderValue::from_str(&shop.version) {
        response.headers_mut().insert(VERSION, version);
    }
    if let Ok(instance) = HeaderValue::from_str(&shop.instance) {
        response.headers_mut().insert(INSTANCE, instance);
    }
    Ok(response)
}

/// What visitors see.
async fn serve(request: Request<Incoming>, shop: &Arc<Shop>) -> Response<Body> {
    let hit = shop.hit();
    let (parts, body) = request.into_parts();
    shop.remember(&parts);
    let slowness = shop.slowness();
    if !slowness.is_zero() {
        tokio::time::sleep(slowness).await;
    }
    if shop.fails(hit) {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "failing, as you asked\n");
    }

    if parts.uri.path() == "/ws" {
        return websocket(Request::from_parts(parts, body));
    }
    if parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return grpc(body).await;
    }
    match parts.uri.path() {
        "/echo" => echo(&parts.headers, body).await,
        "/sha256" => digest(body).await,
        path => {
            // Reading the body to its end keeps the connection usable.
            let _ = drain(body).await;
            json(
                StatusCode::OK,
                &json!({"version": shop.version, "instance": shop.instance, "path": path, "hits": hit}),
            )
        }
    }
}

/// The switches: `slow?ms=`, `fail?rate=`, `unhealthy`, `die`, `ok` (POST), `stats`, `requests` (GET).
fn control(page: &str, method: &Method, query: &str, shop: &Shop) -> Response<Body> {
    match (method, page) {
        (&Method::GET, "stats") => return json(StatusCode::OK, &shop.stats()),
        (&Method::GET, "requests") => return json(StatusCode::OK, &shop.recent()),
        (&Method::POST, "slow") => match parameter(query, "ms") {
            Ok(millis) => shop.become_slow(millis.unwrap_or(2_000)),
            Err(answer) => return *answer,
        },
        (&Method::POST, "fail") => match parameter(query, "rate") {
            Ok(percent) => shop.become_failing(percent.unwrap_or(100)),
            Err(answer) => return *answer,
        },
        (&Method::POST, "unhealthy") => shop.become_unhealthy(),
        (&Method::POST, "ok") => shop.become_ok(),
        (&Method::POST, "die") => {
            tokio::spawn(async {
                tokio::time::sleep(LAST_WORDS).await;
                std::process::exit(1);
            });
            return text(StatusCode::OK, "dying\n");
        }
        _ => {
            return text(
                StatusCode::NOT_FOUND,
                "GET stats, requests; POST slow?ms=2000, fail?rate=100, unhealthy, die, ok\n",
            );
        }
    }
    json(StatusCode::OK, &shop.stats())
}

/// The number behind `name=` in a query, where there is one.
fn parameter<T: std::str::FromStr>(query: &str, name: &str) -> Result<Option<T>, Box<Response<Body>>> {
    let Some(value) = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')) else {
        return Ok(None);
    };
    value.parse().map(Some).map_err(|_| {
        Box::new(text(StatusCode::BAD_REQUEST, &format!("{name} must be a whole number, not {value:?}\n")))
    })
}

/// Gives the body back, with its digest in a header.
async fn echo(request: &HeaderMap, body: Incoming) -> Response<Body> {
    let Ok(body) = Limited::new(body, ECHO_CAP).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "too long to echo\n");
    };
    let body = body.to_bytes();
    let digest = hex(&Sha256::digest(&body));
    let mut response = Response::new(Either::Left(Full::new(body)));
    if let Some(kind) = request.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    response.headers_mut().insert(BODY_SHA256, HeaderValue::from_str(&digest).expect("hex is a legal header value"));
    response
}

/// Reads a body of any length, and tells its length and digest.
async fn digest(mut body: Incoming) -> Response<Body> {
    let mut digest = Sha256::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return text(StatusCode::BAD_REQUEST, "the body broke off\n");
        };
        if let Some(data) = frame.data_ref() {
            length += data.len();
            digest.update(data);
        }
    }
    json(StatusCode::OK, &json!({"bytes": length, "sha256": hex(&digest.finalize())}))
}

async fn drain(mut body: Incoming) -> anyhow::Result<()> {
    while let Some(frame) = body.frame().await {
        frame.context("the body broke off")?;
    }
    Ok(())
}

/// Answers a unary gRPC call with its own message, and status 0 in the trailers.
async fn grpc(body: Incoming) -> Response<Body> {
    let message = Limited::new(body, ECHO_CAP).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed_unsync();
    let mut response = Response::new(Either::Right(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Upgrades, and sends every message back.
fn websocket(mut request: Request<Incoming>) -> Response<Body> {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        return text(StatusCode::UPGRADE_REQUIRED, "this page speaks WebSocket\n");
    };
    let accept = derive_accept_key(key.as_bytes());
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else { return };
        // Small buffers: the library's own default is 128 KiB for each connection.
        let config = WebSocketConfig::default().read_buffer_size(4 << 10).write_buffer_size(0);
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        use futures_util::{SinkExt, StreamExt};
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                break;
            }
        }
    });
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response
        .headers_mut()
        .insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).expect("base64 is a legal header value"));
    response
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", body.to_owned().into())
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let mut body = serde_json::to_vec(value).expect("these values have string keys only");
    body.push(b'\n');
    typed(status, "application/json", body.into())
}

fn typed(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;

    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string never refuses");
        text
    })
}
