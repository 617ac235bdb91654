//! The answers that the gateway gives by itself, in the client's own terms.

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use smallvec::SmallVec;

use super::edit::{self, REQUEST_ID};
use crate::decide::Answer;
use crate::exchange::Exchange;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Lines of an answer.
type Lines = SmallVec<[(HeaderName, HeaderValue); 6]>;

/// An answer as it is written, whatever the protocol.
#[derive(Debug)]
pub struct Reply {
    /// The status. A gRPC client gets 200, and the rest in `grpc-status`.
    pub status: u16,
    /// All lines, save those that concern the connection and the body's length.
    pub lines: Lines,
    /// Content-Length; `None` where there is none to be said (RFC 9110 §8.6).
    pub length: Option<usize>,
    /// The body as it is sent: none for HEAD.
    pub body: Bytes,
}

impl Reply {
    /// What the client that asked with `method` and `headers` gets for `answer`: with the request's id, and with what
    /// the route says about answers. A gRPC client gets it as a trailers-only gRPC status, since it wouldn't
    /// understand anything else (gRPC over HTTP/2, "Responses").
    pub fn new(answer: &Answer, exchange: &Exchange, method: &Method, headers: &HeaderMap) -> Self {
        let mut lines: Lines = answer.headers.iter().cloned().collect();
        lines.extend(exchange.id.iter().map(|id| (REQUEST_ID.clone(), id.clone())));
        if let Some(route) = answer.route {
            let applied = edit::apply(&mut lines, &exchange.snapshot.routes[route].response_headers);
            debug_assert!(applied.is_ok(), "a list has room for every line");
        }
        let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        if is_grpc && answer.status >= 400 {
            return Self::grpc(answer, lines);
        }
        // 204 and 304 have no body and so no length.
        let bodiless = matches!(answer.status, 204 | 304);
        let body = if bodiless || method == Method::HEAD { Bytes::new() } else { answer.body.clone() };
        Self { status: answer.status, lines, length: (!bodiless).then_some(answer.body.len()), body }
    }

    /// Its head as Pingora writes it.
    ///
    /// # Errors
    ///
    /// Too many headers.
    pub fn head(&self) -> Result<Box<ResponseHeader>> {
        let mut head = ResponseHeader::build(self.status, Some(self.lines.len() + 3))?;
        for (name, value) in &self.lines {
            head.append_header(name.clone(), value.clone())?;
        }
        if let Some(length) = self.length {
            head.insert_header(CONTENT_LENGTH, length)?;
        }
        Ok(Box::new(head))
    }

    fn grpc(answer: &Answer, mut lines: Lines) -> Self {
        let message: String =
            answer.body.iter().filter(|b| (0x20..0x7f).contains(*b) && **b != b'%').map(|b| *b as char).collect();
        lines.retain(|(name, _)| *name != CONTENT_TYPE);
        lines.push((CONTENT_TYPE, HeaderValue::from_static("application/grpc")));
        lines.push((GRPC_STATUS, HeaderValue::from_static(grpc_status(answer.status))));
        lines.extend(HeaderValue::try_from(message).ok().map(|message| (GRPC_MESSAGE, message)));
        Self { status: 200, lines, length: None, body: Bytes::new() }
    }
}

impl edit::Head<'_> for Lines {
    fn set(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<()> {
        edit::Head::remove(self, name);
        self.add(name, value)
    }
    fn add(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<()> {
        self.push((name.clone(), value.clone()));
        Ok(())
    }
    fn remove(&mut self, name: &HeaderName) {
        self.retain(|(known, _)| known != name);
    }
}

/// The gRPC status for an HTTP status (gRPC, "HTTP to gRPC Status Code Mapping").
fn grpc_status(status: u16) -> &'static str {
    match status {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}
