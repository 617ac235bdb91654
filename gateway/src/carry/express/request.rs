//! A checked HTTP/1 head, read once.
//!
//! The door has checked every byte of it, so that reading it is only cutting it up.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use smallvec::SmallVec;
use tidegate_model::desired::Paths;
use tidegate_model::target::{self, BadTarget};

use crate::carry::head::Host;
use crate::decide;

/// Headers that fit in the map without growing it.
const USUAL_HEADERS: usize = 16;

/// A header line as it came: its name and value, without the whitespace around it.
pub type Line<'a> = (&'a [u8], &'a [u8]);

/// See the module.
pub struct Request {
    /// Its bytes, up to and including the empty line.
    bytes: Bytes,
    /// Where each header line's name and value begin and end in `bytes`.
    lines: SmallVec<[[u32; 4]; USUAL_HEADERS]>,
    /// The method.
    pub method: Method,
    target: (u32, u32),
    /// The target in its normal form, where it came in another.
    normal: Option<Box<str>>,
    /// The target's length up to its `?`.
    path: u32,
    /// The version.
    pub version: Version,
    /// All headers.
    pub headers: HeaderMap,
    /// The host that was asked for.
    pub host: Host,
}

impl Request {
    /// Reads a head that the door has checked. `None` for what it should not have let through, or what has more
    /// headers than a map can hold.
    pub fn read(head: &[u8]) -> Option<Self> {
        let bytes = Bytes::copy_from_slice(head);
        let first = line_end(&bytes, 0)?;
        let mut words = bytes[..first].split(|b| *b == b' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let version = match version {
            b"HTTP/1.1" => Version::HTTP_11,
            b"HTTP/1.0" => Version::HTTP_10,
            _ => return None,
        };
        let start = u32::try_from(method.len() + 1).ok()?;
        let end = start + u32::try_from(target.len()).ok()?;
        let path = target.iter().position(|b| *b == b'?').unwrap_or(target.len());
        std::str::from_utf8(target).ok()?;
        let mut request = Self {
            method: Method::from_bytes(method).ok()?,
            target: (start, end),
            normal: None,
            path: u32::try_from(path).ok()?,
            version,
            headers: HeaderMap::with_capacity(USUAL_HEADERS),
            host: Host::default(),
            lines: SmallVec::new(),
            bytes: Bytes::new(),
        };
        request.headers(&bytes, first + 2)?;
        request.bytes = bytes;
        request.host = Host::of(request.authority());
        Some(request)
    }

    fn headers(&mut self, bytes: &Bytes, mut from: usize) -> Option<()> {
        loop {
            let end = line_end(bytes, from)?;
            if end == from {
                return Some(());
            }
            let colon = from + bytes[from..end].iter().position(|b| *b == b':')?;
            let (mut start, mut stop) = (colon + 1, end);
            while start < stop && matches!(bytes[start], b' ' | b'\t') {
                start += 1;
            }
            while stop > start && matches!(bytes[stop - 1], b' ' | b'\t') {
                stop -= 1;
            }
            let name = HeaderName::from_bytes(&bytes[from..colon]).ok()?;
            let value = HeaderValue::from_maybe_shared(bytes.slice(start..stop)).ok()?;
            self.headers.try_append(name, value).ok()?;
            let at = |n: usize| u32::try_from(n).ok();
            self.lines.push([at(from)?, at(colon)?, at(start)?, at(stop)?]);
            from = end + 2;
        }
    }

    /// Brings the target to the form in which it is matched and forwarded.
    ///
    /// # Errors
    ///
    /// Why it has none.
    pub fn normalise(&mut self, rules: &Paths) -> Result<(), BadTarget> {
        let Cow::Owned(normal) = target::normalise(self.target(), rules)? else { return Ok(()) };
        // No longer than it was, which fitted.
        self.path = normal.find('?').unwrap_or(normal.len()) as u32;
        self.normal = Some(normal.into());
        Ok(())
    }

    /// Path and query, in normal form once they were brought to it.
    pub fn target(&self) -> &str {
        if let Some(normal) = &self.normal {
            return normal;
        }
        std::str::from_utf8(&self.bytes[self.target.0 as usize..self.target.1 as usize]).unwrap_or("/")
    }

    /// The header lines in the order in which they came.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.lines.iter().map(|line| {
            let [name, colon, start, stop] = line.map(|at| at as usize);
            (&self.bytes[name..colon], &self.bytes[start..stop])
        })
    }

    /// Host as the client wrote it, port included; empty when there is none.
    pub fn authority(&self) -> &str {
        self.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
    }

    /// The head as `decide` sees it.
    pub fn view(&self) -> decide::Head<'_> {
        let (path, query) = self.target().split_at(self.path as usize);
        decide::Head {
            method: &self.method,
            host: self.host.as_str(),
            path,
            query: query.strip_prefix('?'),
            headers: &self.headers,
            content_length: self.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok()),
            dyed: None,
        }
    }

    /// Whether the client wants the connection to go on (RFC 9112 §9.3).
    pub fn keeps_alive(&self) -> bool {
        let says = |word: &str| self.connection_options().any(|option| option.eq_ignore_ascii_case(word.as_bytes()));
        match self.version {
            Version::HTTP_11 => !says("close"),
            _ => says("keep-alive") && !says("close"),
        }
    }

    /// Whether the client waits for a `100 Continue` before it sends its body.
    pub fn expects_continue(&self) -> bool {
        self.headers.contains_key(EXPECT)
    }

    /// What the Connection header lists.
    pub fn connection_options(&self) -> impl Iterator<Item = &[u8]> {
        let lines = self.headers.get_all(CONNECTION).iter();
        lines.flat_map(|line| line.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii)
    }
}

/// Where the line that begins at `from` ends: at its CRLF.
fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    let end = from + bytes[from..].iter().position(|b| *b == b'\n')?;
    (end > from && bytes[end - 1] == b'\r').then(|| end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Request {
        Request::read(head.as_bytes()).unwrap()
    }

    #[test]
    fn a_head_is_cut_into_its_parts() {
        let request = read("GET /a/b?c=d?e HTTP/1.1\r\nHost: Shop.Example.com:8080\r\nX-A:\t 1 2 \r\nX-A:\r\n\r\n");

        let view = request.view();

        assert_eq!((view.method.as_str(), view.host, view.path), ("GET", "shop.example.com", "/a/b"));
        assert_eq!(view.query, Some("c=d?e"));
        let lines: Vec<_> = request.lines().collect();
        assert_eq!(lines[1..], [(&b"X-A"[..], &b"1 2"[..]), (b"X-A", b"")]);
        assert_eq!(view.headers.get_all("x-a").iter().count(), 2);
    }

    #[test]
    fn a_target_is_viewed_in_its_normal_form_and_a_bad_one_is_refused() {
        let mut request = read("GET /a/../%62?c=/../d HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut bad = read("GET /../b HTTP/1.1\r\nHost: x\r\n\r\n");

        request.normalise(&Paths::default()).unwrap();

        assert_eq!(
            (request.target(), request.view().path, request.view().query),
            ("/b?c=/../d", "/b", Some("c=/../d"))
        );
        assert_eq!(bad.normalise(&Paths::default()), Err(BadTarget::AboveRoot));
    }

    #[test]
    fn connections_go_on_by_the_rules_of_their_version() {
        let keeps = |version: &str, connection: &str| {
            read(&format!("GET / HTTP/{version}\r\nHost: x\r\nConnection: {connection}\r\n\r\n")).keeps_alive()
        };

        assert_eq!([keeps("1.1", ""), keeps("1.1", "x, Close"), keeps("1.1", "keep-alive")], [true, false, true]);
        assert_eq!([keeps("1.0", ""), keeps("1.0", "Keep-Alive"), keeps("1.0", "close")], [false, true, false]);
    }
}
