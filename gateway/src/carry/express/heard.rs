//! Reads an endpoint's answer head, strictly: what two readers could take for different lengths is refused.

use std::mem::MaybeUninit;

use http::Method;
use httparse::{Header, ParserConfig, Status};

use crate::door::chunk::ChunkScanner;

/// Header lines of an answer. One with more is a 502.
pub const MAX_HEADERS: usize = 256;

/// An answer that can't be carried: it isn't HTTP, or its end can't be told for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint's answer is malformed")]
pub struct BadAnswer;

/// How the end of an answer's body is found (RFC 9112 §6.3).
#[derive(Clone, Debug)]
pub enum Framing {
    /// After so many more bytes.
    Length(u64),
    /// By its chunking.
    Chunked(ChunkScanner),
    /// Where the endpoint closes.
    Close,
}

/// An answer's head.
pub struct Heard<'h, 'b> {
    parsed: &'h httparse::Response<'h, 'b>,
    /// The status, 100 to 999.
    pub status: u16,
    /// What the head says about the body's end, be there a body or not.
    pub declared: Framing,
    /// Whether a body follows: not after HEAD, nor with 1xx, 204 and 304.
    pub has_body: bool,
    /// Whether the endpoint keeps its connection open.
    pub keeps: bool,
}

/// Parses the head at the front of `bytes`: its length and itself; `None` while it isn't complete.
///
/// # Errors
///
/// See [`BadAnswer`].
pub fn parse<'h, 'b>(
    response: &mut httparse::Response<'h, 'b>,
    bytes: &'b [u8],
    space: &'h mut [MaybeUninit<Header<'b>>],
) -> Result<Option<usize>, BadAnswer> {
    match ParserConfig::default().parse_response_with_uninit_headers(response, bytes, space) {
        Ok(Status::Complete(length)) => Ok(Some(length)),
        Ok(Status::Partial) => Ok(None),
        Err(_) => Err(BadAnswer),
    }
}

impl<'h, 'b> Heard<'h, 'b> {
    /// What a parsed head means for the answer to `method`.
    ///
    /// # Errors
    ///
    /// Two lengths, a length beside a transfer coding, a coding that isn't `chunked` alone, a coding in HTTP/1.0, or a
    /// 101 that nobody asked for.
    pub fn new(parsed: &'h httparse::Response<'h, 'b>, method: &Method) -> Result<Self, BadAnswer> {
        let status = parsed.code.filter(|code| *code >= 100 && *code != 101).ok_or(BadAnswer)?;
        let http11 = parsed.version == Some(1);
        let (mut length, mut chunked) = (None, false);
        for header in parsed.headers.iter() {
            let name = header.name.as_bytes();
            if name.eq_ignore_ascii_case(b"content-length") {
                let value = number(header.value).ok_or(BadAnswer)?;
                if length.replace(value).is_some() {
                    return Err(BadAnswer);
                }
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                if chunked || !http11 || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(BadAnswer);
                }
                chunked = true;
            }
        }
        let declared = match (length, chunked) {
            (Some(_), true) => return Err(BadAnswer),
            (Some(length), false) => Framing::Length(length),
            (None, true) => Framing::Chunked(ChunkScanner::default()),
            (None, false) => Framing::Close,
        };
        let has_body = method != Method::HEAD && status >= 200 && !matches!(status, 204 | 304);
        let mut heard = Self { parsed, status, declared, has_body, keeps: http11 };
        heard.keeps = match http11 {
            true => !heard.nominates(b"close"),
            false => heard.nominates(b"keep-alive") && !heard.nominates(b"close"),
        };
        Ok(heard)
    }

    /// All header lines.
    pub fn headers(&self) -> &'h [Header<'b>] {
        self.parsed.headers
    }

    /// The reason phrase, which may be empty.
    pub fn reason(&self) -> &'b [u8] {
        self.parsed.reason.unwrap_or_default().as_bytes()
    }

    /// Whether Connection lists `name`.
    pub fn nominates(&self, name: &[u8]) -> bool {
        let lines = self.headers().iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
        lines.flat_map(|line| line.value.split(|b| *b == b',')).any(|one| one.trim_ascii().eq_ignore_ascii_case(name))
    }
}

/// Digits and nothing else.
fn number(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, framing and whether a body follows, or `bad`.
    fn heard(method: Method, head: &str) -> String {
        let mut space = [const { MaybeUninit::uninit() }; 8];
        let mut response = httparse::Response::new(&mut []);
        match parse(&mut response, head.as_bytes(), &mut space) {
            Ok(Some(length)) if length == head.len() => {}
            other => return format!("{other:?}"),
        }
        let Ok(heard) = Heard::new(&response, &method) else { return "bad".into() };
        let framing = match heard.declared {
            Framing::Length(length) => length.to_string(),
            Framing::Chunked(_) => "chunked".into(),
            Framing::Close => "close".into(),
        };
        format!("{} {framing} body {} keeps {}", heard.status, heard.has_body, heard.keeps)
    }

    #[test]
    fn the_end_of_a_body_is_found_as_the_rfc_says() {
        let get = |head: &str| heard(Method::GET, head);

        assert_eq!(get("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), "200 5 body true keeps true");
        assert_eq!(get("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"), "200 chunked body true keeps true");
        assert_eq!(get("HTTP/1.1 200 OK\r\nConnection: x, close\r\n\r\n"), "200 close body true keeps false");
        assert_eq!(get("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"), "200 5 body true keeps false");
        assert_eq!(get("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"), "304 5 body false keeps true");
        assert_eq!(get("HTTP/1.1 204 No Content\r\n\r\n"), "204 close body false keeps true");
        assert_eq!(heard(Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), "200 5 body false keeps true");
    }

    #[test]
    fn an_answer_whose_end_is_in_doubt_is_refused() {
        for lines in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: ",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
        ] {
            assert_eq!(heard(Method::GET, &format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n")), "bad", "{lines}");
        }
        assert_eq!(heard(Method::GET, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), "bad");
        assert_eq!(heard(Method::GET, "HTTP/1.1 101 Switching Protocols\r\n\r\n"), "bad");
    }
}
