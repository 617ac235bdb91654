//! Writes the gateway's own answers: one write, and the connection goes on where it may.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::ready;

use http::{StatusCode, Version};
use pingora_core::protocols::http::date::get_cached_date;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::request::Request;
use crate::carry::pingora::DRAIN_TIMEOUT;
use crate::carry::respond::Reply;
use crate::decide::Answer;
use crate::door::framing::Body;
use crate::door::stream::DoorStream;
use crate::exchange::Exchange;

/// Bytes of an unread body that are read and thrown away, so that the connection can go on. Where more is announced
/// the answer says `Connection: close`; where more comes the connection is closed.
pub const DRAIN_BYTES: u64 = 512 << 10;

/// Bytes drained at once.
const DRAIN_STEP: usize = 8 << 10;

/// What became of an answer.
pub struct Sent {
    /// Bytes of its body.
    pub bytes: u64,
    /// The connection can carry another request, once this one's body is out of the way.
    pub goes_on: bool,
}

/// Writes `answer` to the client of `request`. After an `early` one, given before the body was looked at, the connection
/// may go on; one that is given in the middle of the body ends it.
pub async fn send(
    stream: &mut DoorStream,
    request: &Request,
    exchange: &Exchange,
    answer: &Answer,
    early: bool,
) -> Sent {
    let reply = Reply::new(answer, exchange, &request.method, &request.headers);
    // Whoever waits for `100 Continue` may send its body or not: only a close settles what comes next.
    let long = matches!(stream.body(), Body::Length(length) if length > DRAIN_BYTES);
    let settled = stream.is_request_read() || (early && !long && !request.expects_continue());
    let keep = request.keeps_alive() && !exchange.last && settled;
    let mut out = Vec::with_capacity(512 + reply.body.len());
    head(&mut out, &reply, request.version, keep);
    out.extend_from_slice(&reply.body);
    let written = async {
        stream.write_all(&out).await?;
        stream.flush().await
    };
    if written.await.is_err() {
        return Sent { bytes: 0, goes_on: false };
    }
    Sent { bytes: reply.body.len() as u64, goes_on: keep }
}

fn head(out: &mut Vec<u8>, reply: &Reply, version: Version, keep: bool) {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    status_line(out, status.as_str().as_bytes(), status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in &reply.lines {
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
    if let Some(length) = reply.length {
        number_line(out, b"Content-Length", length as u64);
    }
    line(out, b"Date", get_cached_date().as_bytes());
    connection_line(out, version, keep);
    out.extend_from_slice(b"\r\n");
}

/// Writes a status line.
pub fn status_line(out: &mut Vec<u8>, status: &[u8], reason: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status);
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Writes a header line.
pub fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes a header line with a number.
pub fn number_line(out: &mut Vec<u8>, name: &[u8], value: u64) {
    line(out, name, itoa::Buffer::new().format(value).as_bytes());
}

/// Says whether the connection goes on, where the version doesn't say it (RFC 9112 §9.3).
pub fn connection_line(out: &mut Vec<u8>, version: Version, keep: bool) {
    match (keep, version) {
        (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
        (true, Version::HTTP_10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (true, _) => {}
    }
}

/// Reads the rest of the request's body and throws it away. True when the connection can carry another request.
pub async fn drain(stream: &mut DoorStream) -> bool {
    if stream.is_request_read() {
        return true;
    }
    let all = async {
        let mut left = DRAIN_BYTES;
        while !stream.is_request_read() {
            let n = poll_fn(|cx| {
                let mut space = [const { std::mem::MaybeUninit::<u8>::uninit() }; DRAIN_STEP];
                let mut buf = ReadBuf::uninit(&mut space);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf))?;
                std::task::Poll::Ready(io::Result::Ok(buf.filled().len()))
            });
            match n.await {
                Ok(n @ 1..) if n as u64 <= left => left -= n as u64,
                _ => return false,
            }
        }
        true
    };
    timeout(DRAIN_TIMEOUT, all).await.unwrap_or(false)
}
