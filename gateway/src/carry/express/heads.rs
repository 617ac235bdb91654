//! Heads as they are written: the client's for the endpoint, and the endpoint's for the client.

use http::header::HOST;
use http::{HeaderName, HeaderValue, Method};
use pingora_core::protocols::http::date::get_cached_date;
use pingora_error::Result;
use smallvec::SmallVec;

use super::heard::{Framing, Heard};
use super::reply::{connection_line, line, number_line, status_line};
use super::request::{Line, Request};
use crate::carry::edit;
use crate::decide::Plan;
use crate::door::framing::Body;
use crate::exchange::Exchange;

/// The lines of a head, where they were read; nothing is copied before it is written.
#[derive(Default)]
pub struct Lines<'a>(SmallVec<[Line<'a>; 32]>);

impl<'a> edit::Head<'a> for Lines<'a> {
    fn set(&mut self, name: &'a HeaderName, value: &'a HeaderValue) -> Result<()> {
        self.remove(name);
        self.add(name, value)
    }
    fn add(&mut self, name: &'a HeaderName, value: &'a HeaderValue) -> Result<()> {
        self.0.push((name.as_str().as_bytes(), value.as_bytes()));
        Ok(())
    }
    fn remove(&mut self, name: &HeaderName) {
        let name = name.as_str().as_bytes();
        self.0.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }
}

impl<'a> Lines<'a> {
    /// Adds a line, unless it concerns one connection only, or us alone.
    pub fn pass(&mut self, name: &'a [u8], value: &'a [u8]) {
        if !is_hop_by_hop(name) && !is_for_the_proxy(name) {
            self.0.push((name, value));
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.0 {
            line(out, name, value);
        }
    }
}

/// Whether a field concerns one connection only (RFC 9110 §7.6.1). The caller sees to what Connection itself lists.
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    let names: &[&[u8]] = match name.len() {
        2 => &[b"te"],
        7 => &[b"trailer", b"upgrade"],
        10 => &[b"connection", b"keep-alive"],
        14 => &[b"http2-settings"],
        16 => &[b"proxy-connection"],
        17 => &[b"transfer-encoding"],
        _ => &[],
    };
    names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Whether a request's field is meant for us alone (RFC 9110 §11.7).
fn is_for_the_proxy(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"proxy-authorization") || name.eq_ignore_ascii_case(b"proxy-authenticate")
}

/// Writes the head that the endpoint gets for an HTTP/1 request.
pub fn to_endpoint(out: &mut Vec<u8>, request: &Request, exchange: &Exchange, plan: &Plan, body: Body) {
    let told = exchange.forwarding(&request.headers, request.authority());
    let host = exchange.snapshot.desired.routes[plan.route].rewrite.host.as_deref();
    let mut lines = Lines::default();
    for (name, value) in request.lines() {
        let value = match host {
            Some(host) if name.eq_ignore_ascii_case(HOST.as_str().as_bytes()) => host.as_bytes(),
            _ => value,
        };
        lines.pass(name, value);
    }
    let edited = edit::to_endpoint(&mut lines, exchange, plan, &told);
    debug_assert!(edited.is_ok(), "a list has room for every line");
    write_request(out, &request.method, plan.target.as_deref().unwrap_or(request.target()), &lines, body);
}

/// Writes a request's head, whose `lines` are as the endpoint gets them.
pub fn write_request(out: &mut Vec<u8>, method: &Method, target: &str, lines: &Lines<'_>, body: Body) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    lines.write(out);
    if body == Body::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the head that the client gets for an endpoint's final answer. `keep` says whether its connection goes on.
pub fn to_client(out: &mut Vec<u8>, heard: &Heard<'_, '_>, request: &Request, exchange: &Exchange, keep: bool) {
    let mut lines = Lines::default();
    let mut dated = false;
    for header in heard.headers() {
        let name = header.name.as_bytes();
        if is_hop_by_hop(name) || name.eq_ignore_ascii_case(b"content-length") || heard.nominates(name) {
            continue;
        }
        dated |= name.eq_ignore_ascii_case(b"date");
        lines.0.push((name, header.value));
    }
    if let Some(plan) = exchange.plan.as_deref() {
        let edited = edit::to_client(&mut lines, exchange, plan);
        debug_assert!(edited.is_ok(), "a list has room for every line");
    }

    status_line(out, itoa::Buffer::new().format(heard.status).as_bytes(), heard.reason());
    lines.write(out);
    match heard.declared {
        Framing::Length(length) if heard.status != 204 => number_line(out, b"Content-Length", length),
        Framing::Chunked(_) if heard.status != 204 => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::Close if heard.has_body => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
    if !dated {
        line(out, b"Date", get_cached_date().as_bytes());
    }
    connection_line(out, request.version, keep);
    out.extend_from_slice(b"\r\n");
}

/// Writes an interim answer (1xx) as the client gets it.
pub fn interim(out: &mut Vec<u8>, heard: &Heard<'_, '_>) {
    status_line(out, itoa::Buffer::new().format(heard.status).as_bytes(), heard.reason());
    for header in heard.headers() {
        let name = header.name.as_bytes();
        if !is_hop_by_hop(name) && !heard.nominates(name) {
            line(out, name, header.value);
        }
    }
    out.extend_from_slice(b"\r\n");
}
