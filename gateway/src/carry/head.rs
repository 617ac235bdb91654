//! Reads a Pingora head as `decide` sees it, and turns it into the head that an endpoint gets.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, FORWARDED, HOST};
use http::{Uri, Version};
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::RequestHeader;

use crate::decide::client::{self, ClientFinder};
use crate::decide::{self, Connection};

/// The request's host: `:authority`, or else the Host header; in lower case, without port and trailing dot.
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

/// Adds a word about who asked for what. Hop-by-hop headers are Pingora's to strip, and the door has made every
/// target origin-form.
///
/// # Errors
///
/// Too many headers.
pub fn forward(
    upstream: &mut RequestHeader,
    request: &RequestHeader,
    connection: &Connection,
    finder: &ClientFinder,
) -> Result<()> {
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
}
