//! Checks the raw bytes of an HTTP/1 request head, strictly (RFC 9112).
//!
//! What two parsers might read differently is how requests are smuggled, so the door refuses it
//! before any carrier parses the head again. One pass, as the bytes arrive, without allocation.
//!
//! # Invariants
//!
//! - How a head is cut into reads makes no difference to the outcome.
//! - An accepted head has exactly one framing: no body, one Content-Length, or `chunked`.
//! - An accepted HTTP/1.1 head has exactly one Host, and a target that begins with `/` or is `*`;
//!   an absolute target is rewritten to that form by [`Head::origin_form`].

use tidegate_model::target::{is_path_byte, is_query_byte};

use super::chunk::is_token;
use super::framing::Body;
use super::names;
use super::refusal::Refusal;

/// Bytes of a method. A longer one is refused with 501 (RFC 9112 §3).
const MAX_METHOD: usize = 32;

/// Bytes of a request target. A longer one is refused with 414: the URI type behind us holds 16-bit offsets.
const MAX_TARGET: usize = 65_000;

/// Bounds of a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes, request line and headers together.
    pub bytes: usize,
    /// Header lines.
    pub headers: usize,
}

/// What the door needs to know of a checked head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes in front of it: an empty line that RFC 9112 §2.2 lets us ignore.
    pub skip: usize,
    /// Its bytes, up to and including the empty line.
    pub len: usize,
    /// How its body ends.
    pub body: Body,
    /// It asks for a WebSocket. No other upgrade is carried.
    pub upgrade: bool,
    /// The authority of an absolute target, as a range behind `skip`.
    absolute: Option<(usize, usize)>,
}

impl Head {
    /// For a head with an absolute target: the same head with the target in origin form and the
    /// target's authority as its Host, whatever Host it came with (RFC 9112 §3.2.2).
    ///
    /// `bytes` begin with the head, behind what is skipped.
    pub fn origin_form(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (from, to) = self.absolute?;
        let head = &bytes[..self.len];
        let scheme = head.iter().position(|b| *b == b' ').expect("invariant: a checked request line has spaces") + 1;
        let mut new = Vec::with_capacity(head.len() + 16);
        new.extend_from_slice(&head[..scheme]);
        match head[to] {
            b'/' => {}
            // RFC 9112 §3.2.4: OPTIONS without a path means the server as a whole.
            b' ' if head.starts_with(b"OPTIONS ") => new.push(b'*'),
            _ => new.push(b'/'),
        }
        let mut lines = head[to..].split_inclusive(|b| *b == b'\n');
        new.extend_from_slice(lines.next().expect("invariant: a checked head has a request line"));
        new.extend_from_slice(b"Host: ");
        new.extend_from_slice(&head[from..to]);
        new.extend_from_slice(b"\r\n");
        for line in lines.filter(|line| !line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"host:"))) {
            new.extend_from_slice(line);
        }
        Some(new)
    }
}

/// Checks one head as it arrives.
#[derive(Clone, Debug, Default)]
pub struct HeadScanner {
    /// Up to here no line end is left to find.
    seen: usize,
    /// Where the current line begins.
    line: usize,
    /// Where the head begins: behind an ignored empty line.
    start: usize,
    /// Lines done.
    lines: usize,
    http10: bool,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    absolute: Option<(usize, usize)>,
}

impl HeadScanner {
    /// Looks at everything read so far, of which earlier calls have seen a prefix.
    /// `None` while the head isn't complete.
    ///
    /// # Errors
    ///
    /// The first rule that the head breaks; the scanner is of no use afterwards.
    pub fn scan(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<Head>, Refusal> {
        loop {
            // Garbage, or TLS on a plain port, needn't wait for a line end that never comes.
            if self.lines == 0 && bytes.get(self.line).is_some_and(|b| !is_token(*b) && *b != b'\r' && *b != b'\n') {
                return Err(Refusal::Method);
            }
            let Some(found) = bytes[self.seen..].iter().position(|b| *b == b'\n') else {
                self.seen = bytes.len();
                self.bounded(bytes.len(), limits)?;
                return Ok(None);
            };
            let end = self.seen + found;
            self.bounded(end + 1, limits)?;
            let Some(line) = bytes[self.line..end].strip_suffix(b"\r") else { return Err(Refusal::BareLf) };
            self.seen = end + 1;
            let from = std::mem::replace(&mut self.line, end + 1);
            if line.is_empty() {
                if self.lines > 0 {
                    return self.finish(end + 1).map(Some);
                }
                if from > 0 {
                    return Err(Refusal::RequestLine);
                }
                self.start = end + 1;
                continue;
            }
            self.lines += 1;
            if self.lines == 1 {
                self.request_line(line)?;
            } else if self.lines - 1 > limits.headers {
                return Err(Refusal::TooManyHeaders);
            } else {
                self.header(line)?;
            }
        }
    }

    fn bounded(&self, end: usize, limits: HeadLimits) -> Result<(), Refusal> {
        if end - self.start <= limits.bytes {
            Ok(())
        } else if self.lines == 0 {
            Err(Refusal::LongTarget)
        } else {
            Err(Refusal::LongHead)
        }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let mut parts = line.split(|b| *b == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::RequestLine);
        };
        // Methods are case-sensitive and all known ones are in capitals. `get` is refused, because
        // an endpoint that takes it for GET would be reached past every rule about GET.
        if method.is_empty() || !method.iter().all(|b| is_token(*b) && !b.is_ascii_lowercase()) {
            return Err(Refusal::Method);
        }
        self.http10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(Refusal::Version),
            _ => return Err(Refusal::RequestLine),
        };
        if method.len() > MAX_METHOD {
            return Err(Refusal::LongMethod);
        }
        match method {
            b"CONNECT" => return Err(Refusal::Connect),
            b"TRACE" => return Err(Refusal::Trace),
            _ => {}
        }
        if target.len() > MAX_TARGET {
            return Err(Refusal::LongTarget);
        }
        if !is_target(target) {
            return Err(Refusal::Target);
        }
        match target {
            [b'/', ..] => Ok(()),
            b"*" if method == b"OPTIONS" => Ok(()),
            _ => {
                let (from, to) = authority(target).ok_or(Refusal::Target)?;
                let before = method.len() + 1;
                self.absolute = Some((before + from, before + to));
                Ok(())
            }
        }
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Refusal> {
        if matches!(line[0], b' ' | b'\t') {
            return Err(Refusal::Folded);
        }
        let colon = line.iter().position(|b| !is_token(*b)).ok_or(Refusal::HeaderName)?;
        if colon == 0 || line[colon] != b':' {
            return Err(Refusal::HeaderName);
        }
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        // RFC 9110 §5.5; a bare CR and NUL are among what this leaves out.
        if !value.iter().all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..)) {
            return Err(Refusal::HeaderValue);
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                if self.hosts > 1 || !is_host(trim(value)) {
                    return Err(Refusal::Host);
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = trim(value).eq_ignore_ascii_case(b"websocket"),
            10 if name.eq_ignore_ascii_case(b"connection")
                && !value.split(|b| *b == b',').map(trim).all(names::may_be_nominated) =>
            {
                return Err(Refusal::Nominated);
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = length(trim(value)).ok_or(Refusal::ContentLength)?;
                if self.length.replace(length).is_some() {
                    return Err(Refusal::ContentLength);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if std::mem::replace(&mut self.chunked, true) {
                    return Err(Refusal::TransferEncoding);
                }
                let value = trim(value);
                if !value.eq_ignore_ascii_case(b"chunked") {
                    let last = value.rsplit(|b| *b == b',').next().map(trim);
                    // RFC 9112 §6.1 and §6.3: unknown codings are 501; a body that isn't chunked last has no end.
                    let framed = last.is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
                    return Err(if framed { Refusal::Coding } else { Refusal::TransferEncoding });
                }
            }
            _ if names::is_impostor(name) => return Err(Refusal::Impostor),
            _ => {}
        }
        Ok(())
    }

    fn finish(&self, end: usize) -> Result<Head, Refusal> {
        if self.chunked && self.length.is_some() {
            return Err(Refusal::BothLengths);
        }
        if self.chunked && self.http10 {
            return Err(Refusal::TransferEncoding);
        }
        if self.hosts == 0 && !self.http10 {
            return Err(Refusal::Host);
        }
        let body = if self.chunked { Body::Chunked } else { Body::Length(self.length.unwrap_or(0)) };
        let upgrade = self.upgrade && !self.http10;
        if upgrade && body != Body::Length(0) {
            return Err(Refusal::UpgradeBody);
        }
        Ok(Head { skip: self.start, len: end - self.start, body, upgrade, absolute: self.absolute })
    }
}

/// Tells whether path and query hold nothing but bytes that may stand there.
fn is_target(target: &[u8]) -> bool {
    let end = target.iter().position(|b| *b == b'?').unwrap_or(target.len());
    target[..end].iter().all(|b| is_path_byte(*b)) && target[end..].iter().all(|b| is_query_byte(*b))
}

/// Where the authority of an absolute http or https URI begins and ends.
fn authority(target: &[u8]) -> Option<(usize, usize)> {
    let colon = target.iter().position(|b| *b == b':')?;
    let scheme = &target[..colon];
    if !(scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https")) {
        return None;
    }
    let rest = target[colon..].strip_prefix(b"://")?;
    let from = colon + 3;
    let to = from + rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    is_host(&target[from..to]).then_some((from, to))
}

/// Tells whether `value` is a host with an optional port (RFC 9110 §7.2, RFC 3986 §3.2.2).
/// An empty one is refused: no http URI has it.
pub(crate) fn is_host(value: &[u8]) -> bool {
    let (host, port) = if value.first() == Some(&b'[') {
        let Some(end) = value.iter().position(|b| *b == b']') else { return false };
        let inside = &value[1..end];
        let legal = std::str::from_utf8(inside).is_ok_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
        if !legal {
            return false;
        }
        (&value[..=end], &value[end + 1..])
    } else {
        let end = value.iter().position(|b| *b == b':').unwrap_or(value.len());
        let name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(b);
        if !value[..end].iter().all(name) {
            return false;
        }
        (&value[..end], &value[end..])
    };
    let port_is_legal = match port {
        [] | [b':'] => true,
        [b':', digits @ ..] => number(digits).is_some_and(|port| port <= u64::from(u16::MAX)),
        _ => false,
    };
    !host.is_empty() && port_is_legal
}

/// Tells whether `value` is a Content-Length.
pub(crate) fn is_length(value: &[u8]) -> bool {
    length(value).is_some()
}

/// A Content-Length. `010` is refused: a parser that takes it for octal reads another length.
fn length(digits: &[u8]) -> Option<u64> {
    if digits.len() > 1 && digits[0] == b'0' { None } else { number(digits) }
}

/// Digits and nothing else, as far as they fit.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    digits.iter().try_fold(0_u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(d - b'0')))
}

/// Without the optional whitespace around it.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests;
