//! Reads a Pingora head as `decide` sees it, and rewrites its target.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::{HeaderValue, Method, Uri};
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::RequestHeader;
use smallvec::SmallVec;
use tidegate_model::desired::Paths;
use tidegate_model::target::{self, BadTarget};

use crate::decide;
use crate::door::head::{is_host, is_length};
use crate::door::names;
use crate::door::refusal::Refusal;

/// The name of a host, as requests are matched by it: in lower case, without port and trailing dot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host(SmallVec<[u8; 48]>);

impl Host {
    /// From an authority as a client writes it.
    pub fn of(authority: &str) -> Self {
        let name = match authority.strip_prefix('[').and_then(|rest| rest.find(']')) {
            Some(end) => &authority[..end + 2],
            None => authority.rsplit_once(':').map_or(authority, |(name, _port)| name),
        };
        let mut host = SmallVec::from_slice(name.strip_suffix('.').unwrap_or(name).as_bytes());
        host.make_ascii_lowercase();
        Self(host)
    }

    /// The name; empty when there is none.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("invariant: made from text, changed in its ASCII letters only")
    }
}

/// The request's host: `:authority`, or else the Host header.
pub fn host(request: &RequestHeader) -> Host {
    Host::of(authority(request))
}

/// The authority as the client wrote it, port included; empty when there is none.
pub fn authority(request: &RequestHeader) -> &str {
    if let Some(authority) = request.uri.authority() {
        return authority.as_str();
    }
    request.headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default()
}

/// The head as `decide` sees it.
pub fn view<'a>(request: &'a RequestHeader, host: &'a str) -> decide::Head<'a> {
    let path = request.uri.path();
    decide::Head {
        method: &request.method,
        host,
        path: if path.is_empty() { "/" } else { path },
        query: request.uri.query(),
        headers: &request.headers,
        content_length: request.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok()),
        dyed: None,
    }
}

/// Checks an HTTP/2 head by the rules that the door has for HTTP/1, as far as Pingora and its parser
/// leave them open (RFC 9113 §8.2 and §8.3): what one version refuses isn't let in through the other.
///
/// # Errors
///
/// The rule that it breaks.
pub fn check_http2(request: &RequestHeader, max_headers: usize) -> std::result::Result<(), Refusal> {
    match request.method {
        Method::CONNECT => return Err(Refusal::Connect),
        Method::TRACE => return Err(Refusal::Trace),
        _ if request.method.as_str().bytes().any(|b| b.is_ascii_lowercase()) => return Err(Refusal::Method),
        _ => {}
    }
    if request.uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(Refusal::Target);
    }
    if !is_host(authority(request).as_bytes()) {
        return Err(Refusal::Host);
    }
    if request.headers.len() > max_headers {
        return Err(Refusal::TooManyHeaders);
    }
    let lengths = request.headers.get_all(CONTENT_LENGTH);
    if lengths.iter().count() > 1 || lengths.iter().any(|length| !is_length(length.as_bytes())) {
        return Err(Refusal::ContentLength);
    }
    for (name, value) in &request.headers {
        if names::is_impostor(name.as_str().as_bytes()) {
            return Err(Refusal::Impostor);
        }
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value.as_bytes() {
            return Err(Refusal::HeaderValue);
        }
    }
    Ok(())
}

/// Joins the pieces that HTTP/2 cuts cookies into: an HTTP/1 endpoint knows one Cookie header (RFC 9113 §8.2.3).
///
/// # Errors
///
/// Too many headers.
pub fn join_cookies(upstream: &mut RequestHeader) -> Result<()> {
    let mut pieces = upstream.headers.get_all(COOKIE).iter();
    if let (Some(first), Some(second)) = (pieces.next(), pieces.next()) {
        let mut joined = first.as_bytes().to_vec();
        for piece in std::iter::once(second).chain(pieces) {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(piece.as_bytes());
        }
        let illegal = || "cookies can't be joined";
        let joined = HeaderValue::from_bytes(&joined).or_err_with(ErrorType::InvalidHTTPHeader, illegal)?;
        upstream.insert_header(COOKIE, joined)?;
    }
    Ok(())
}

/// Brings path and query to the form in which they are matched and forwarded.
///
/// # Errors
///
/// Why they have none; the head is as it was then.
pub fn normalise(request: &mut RequestHeader, rules: &Paths) -> std::result::Result<(), BadTarget> {
    let written = request.uri.path_and_query().map_or("/", |target| target.as_str());
    if written == "*" && request.method != Method::OPTIONS {
        return Err(BadTarget::Form);
    }
    let Cow::Owned(normal) = target::normalise(written, rules)? else { return Ok(()) };
    set_target(request, &normal).map_err(|_| BadTarget::Byte)
}

/// Replaces path and query.
///
/// # Errors
///
/// `target` isn't a legal path and query.
pub fn set_target(upstream: &mut RequestHeader, target: &str) -> Result<()> {
    if upstream.uri.authority().is_none() {
        return upstream.set_raw_path(target.as_bytes());
    }
    let mut parts = upstream.uri.clone().into_parts();
    let illegal = || "the rewritten path isn't legal";
    parts.path_and_query = Some(target.parse().or_err_with(ErrorType::InvalidHTTPHeader, illegal)?);
    let uri = Uri::from_parts(parts).map_err(|e| Error::because(ErrorType::InvalidHTTPHeader, illegal(), e))?;
    upstream.set_uri(uri);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, host: Option<&str>) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        if let Some(host) = host {
            request.insert_header(HOST, host).unwrap();
        }
        request
    }

    #[test]
    fn host_is_lower_case_and_without_port() {
        for (written, expected) in [
            ("Shop.Example.com:8443", "shop.example.com"),
            ("shop.example.com.", "shop.example.com"),
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("10.0.0.1:80", "10.0.0.1"),
        ] {
            assert_eq!(host(&request("/", Some(written))).as_str(), expected);
        }
    }
}
