//! Reads a Pingora head as `decide` sees it, and turns it into the head that an endpoint gets.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, FORWARDED, HOST};
use http::{Uri, Version};
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::RequestHeader;

use crate::decide::client::{self, ClientFinder};
use crate::decide::{self, Connection};

/// The request's host: from an absolute target or `:authority` before the Host header (RFC 9112 §3.2.2), in
/// lower case, without port and trailing dot.
pub fn host(request: &RequestHeader) -> Cow<'_, str> {
    let written = authority(request);
    let name = match written.strip_prefix('[').and_then(|rest| rest.find(']')) {
        Some(end) => &written[..end + 2],
        None => written.rsplit_once(':').map_or(written, |(name, _port)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// The authority as the client wrote it, port included; empty when there is none.
pub fn authority(request: &RequestHeader) -> &str {
    if let Some(authority) = request.uri.authority() {
        return authority.as_str();
    }
    if let Some((authority, _)) = absolute(request.raw_path()) {
        return authority;
    }
    request.headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default()
}

/// Splits an absolute-form target into authority and path.
fn absolute(target: &[u8]) -> Option<(&str, &str)> {
    let target = std::str::from_utf8(target).ok()?;
    if target.starts_with('/') || target == "*" {
        return None;
    }
    let (_scheme, rest) = target.split_once("://")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// The head as `decide` sees it.
pub fn view<'a>(request: &'a RequestHeader, host: &'a str) -> decide::Head<'a> {
    let (path, query) = match absolute(request.raw_path()) {
        Some((_, target)) => match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        },
        None => (request.uri.path(), request.uri.query()),
    };
    decide::Head {
        method: &request.method,
        host,
        path: if path.is_empty() { "/" } else { path },
        query,
        headers: &request.headers,
        content_length: request.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok()),
    }
}

/// The protocol's name, for the log.
pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP",
    }
}

/// Makes the head that came from the client one that a proxy may send on: an origin-form target, and a word about
/// who asked for what. Hop-by-hop headers are Pingora's to strip.
///
/// # Errors
///
/// The target or host can't be written as a head.
pub fn forward(
    upstream: &mut RequestHeader,
    request: &RequestHeader,
    connection: &Connection,
    finder: &ClientFinder,
) -> Result<()> {
    make_origin_form(upstream)?;
    let host = host(request);
    let told = client::forwarding(&view(request, &host), authority(request), connection, finder);
    upstream.insert_header(client::X_FORWARDED_FOR, told.x_forwarded_for)?;
    upstream.insert_header(client::X_FORWARDED_PROTO, told.x_forwarded_proto)?;
    match told.x_forwarded_host {
        Some(host) => upstream.insert_header(client::X_FORWARDED_HOST, host)?,
        None => drop(upstream.remove_header(&client::X_FORWARDED_HOST)),
    }
    upstream.insert_header(FORWARDED, told.forwarded)
}

/// Makes an absolute-form target origin-form, as endpoints expect it (RFC 9112 §3.2.1), and keeps its host.
///
/// # Errors
///
/// The target or host can't be written as a head.
fn make_origin_form(upstream: &mut RequestHeader) -> Result<()> {
    let Some((authority, target)) = absolute(upstream.raw_path()) else { return Ok(()) };
    let authority = authority.to_owned();
    let target = match target.as_bytes().first() {
        Some(b'/') => target.to_owned(),
        _ => format!("/{target}"),
    };
    upstream.set_raw_path(target.as_bytes())?;
    upstream.insert_header(HOST, authority)
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
            assert_eq!(host(&request("/", Some(written))), expected);
        }
    }

    #[test]
    fn absolute_target_wins_over_the_host_header() {
        let request = request("http://Real.example:81/a?b=1", Some("other.example"));

        let host = host(&request);
        let view = view(&request, &host);

        assert_eq!((view.host, view.path, view.query), ("real.example", "/a", Some("b=1")));
    }

    #[test]
    fn absolute_target_reaches_the_endpoint_in_origin_form() {
        let mut request = request("http://real.example:81?b=1", Some("other.example"));

        make_origin_form(&mut request).unwrap();

        assert_eq!(request.raw_path(), b"/?b=1");
        assert_eq!(request.headers[HOST], "real.example:81");
    }
}
