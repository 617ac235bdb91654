//! Heads between an HTTP/2 client and an HTTP/1 endpoint.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_error::{ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::carry::express::heads::{Lines, is_hop_by_hop, write_request};
use crate::carry::express::heard::{Framing, Heard};
use crate::carry::{edit, head};
use crate::decide::Plan;
use crate::door::framing::Body;
use crate::exchange::Exchange;

/// Lines of an answer that the gateway adds, usually.
const ADDED: usize = 4;

/// Writes the head that the endpoint gets for an HTTP/2 request.
pub fn to_endpoint(out: &mut Vec<u8>, request: &RequestHeader, exchange: &Exchange, plan: &Plan, body: Body) {
    let authority = head::authority(request);
    let told = exchange.forwarding(&request.headers, authority);
    let cookies = joined_cookies(&request.headers);
    let host = exchange.snapshot.desired.routes[plan.route].rewrite.host.as_deref().unwrap_or(authority);
    let mut lines = Lines::default();
    lines.pass(b"Host", host.as_bytes());
    for (name, value) in &request.headers {
        if *name != HOST && !(*name == COOKIE && cookies.is_some()) {
            lines.pass(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    if let Some(cookies) = &cookies {
        lines.pass(b"cookie", cookies);
    }
    let edited = edit::to_endpoint(&mut lines, exchange, plan, &told);
    debug_assert!(edited.is_ok(), "a list has room for every line");
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    write_request(out, &request.method, plan.target.as_deref().unwrap_or(target), &lines, body);
}

/// The pieces that HTTP/2 cuts cookies into, joined; `None` where there is nothing to join (RFC 9113 §8.2.3).
fn joined_cookies(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut pieces = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let (first, second) = (pieces.next()?, pieces.next()?);
    let mut joined = [first, second].join(&b"; "[..]);
    for piece in pieces {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(piece);
    }
    Some(joined)
}

/// The head that the client gets for an endpoint's final answer, which was `heard` at the front of `bytes`.
///
/// # Errors
///
/// A name or value that HTTP/2 can't carry; too many headers.
pub fn to_client(heard: &Heard<'_, '_>, bytes: &[u8], exchange: &Exchange) -> Result<Box<ResponseHeader>> {
    let illegal = || "the endpoint's answer has an illegal header";
    // All values share one copy of the head.
    let shared = Bytes::copy_from_slice(bytes);
    let mut answer = ResponseHeader::build_no_case(heard.status, Some(heard.headers().len() + ADDED))?;
    for header in heard.headers() {
        let name = header.name.as_bytes();
        if is_hop_by_hop(name) || name.eq_ignore_ascii_case(b"content-length") || heard.nominates(name) {
            continue;
        }
        let name = HeaderName::from_bytes(name).or_err_with(ErrorType::InvalidHTTPHeader, illegal)?;
        // An empty value may point anywhere.
        let value = if header.value.is_empty() { Bytes::new() } else { shared.slice(place(bytes, header.value)) };
        let value = HeaderValue::from_maybe_shared(value).or_err_with(ErrorType::InvalidHTTPHeader, illegal)?;
        answer.append_header(name, value)?;
    }
    if let Some(plan) = exchange.plan.as_deref() {
        edit::to_client(&mut answer, exchange, plan)?;
    }
    match heard.declared {
        Framing::Length(length) if heard.status != 204 => answer.insert_header(CONTENT_LENGTH, length)?,
        _ => {}
    }
    Ok(Box::new(answer))
}

/// Where in `bytes` a piece of it lies.
fn place(bytes: &[u8], piece: &[u8]) -> std::ops::Range<usize> {
    let start = piece.as_ptr().addr() - bytes.as_ptr().addr();
    start..start + piece.len()
}
