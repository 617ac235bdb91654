//! HTTP/2 (RFC 9113): requests share connections, up to so many streams on each.
//!
//! # Invariants
//!
//! - A connection carries at most as many streams as the plan says and the target allows.
//! - While a connection is being made, those for whom it will have room wait for it and make none of their own.
//!
//! # Not here
//!
//! Frames, flow control and header compression: the `h2` crate.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use tidegate_model::scenario::plan::BODY_KEPT;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::fault::Fault;
use super::h1::{Answer, Keeps};
use super::io::Io;
use crate::Failure;

/// Bytes that the target may send on one stream, and on all of one connection, before they are read.
const WINDOW: (u32, u32) = (1 << 20, 16 << 20);

/// Fields of a request.
const FIELDS: usize = 128;

/// The shared connections of one thread, by place.
#[derive(Debug)]
pub struct Lines {
    places: RefCell<Vec<Place>>,
    /// Streams on one connection, at most.
    streams: u32,
    /// Bytes that went out and came in, over all connections, since they were last asked for.
    bytes: Rc<Bytes2>,
}

#[derive(Debug, Default)]
struct Bytes2 {
    out: Cell<u64>,
    back: Cell<u64>,
}

#[derive(Debug, Default)]
struct Place {
    lines: Vec<Rc<Line>>,
    /// Connections that are being made.
    making: u32,
    waiting: VecDeque<usize>,
    /// How often one could not be made, and why the last time.
    failed: (u64, Option<Fault>),
}

/// A shared connection.
#[derive(Debug)]
pub struct Line {
    send: SendRequest<Bytes>,
    streams: Cell<u32>,
    dead: Cell<bool>,
}

/// What a flow that needs a stream gets.
pub enum Got {
    /// A connection with room for it; it is counted already.
    Line(Rc<Line>),
    /// Leave to make one, if there may be one more.
    Make,
    /// One is being made; with how often that has failed so far.
    Wait(u64),
}

impl Lines {
    /// For so many places.
    pub fn new(places: usize, streams: u32) -> Self {
        Self {
            places: RefCell::new((0..places).map(|_| Place::default()).collect()),
            streams: streams.max(1),
            bytes: Rc::default(),
        }
    }

    /// A stream to a place, for a slot.
    pub fn take(&self, place: usize, slot: usize) -> Got {
        let mut places = self.places.borrow_mut();
        let place = &mut places[place];
        place.lines.retain(|line| !line.dead.get());
        let has_room = |line: &&Rc<Line>| {
            let allowed = u32::try_from(line.send.current_max_send_streams()).unwrap_or(u32::MAX);
            line.streams.get() < self.streams.min(allowed)
        };
        // The fullest that has room, so that those which aren't needed stay idle.
        if let Some(line) = place.lines.iter().filter(has_room).max_by_key(|line| line.streams.get()) {
            line.streams.set(line.streams.get() + 1);
            return Got::Line(Rc::clone(line));
        }
        if (place.waiting.len() as u64) < u64::from(place.making) * u64::from(self.streams - 1) {
            place.waiting.push_back(slot);
            return Got::Wait(place.failed.0);
        }
        Got::Make
    }

    /// Lets a slot wait for a stream, because there may be no more connections.
    pub fn wait(&self, place: usize, slot: usize) -> u64 {
        let mut places = self.places.borrow_mut();
        places[place].waiting.push_back(slot);
        places[place].failed.0
    }

    /// Waits no more.
    pub fn leave_line(&self, place: usize, slot: usize) {
        self.places.borrow_mut()[place].waiting.retain(|&waiting| waiting != slot);
    }

    /// Why a connection that was waited for could not be made.
    pub fn failed_since(&self, place: usize, before: u64) -> Option<Fault> {
        let places = self.places.borrow();
        let (times, fault) = &places[place].failed;
        if *times > before { fault.clone() } else { None }
    }

    /// A connection is being made.
    pub fn making(&self, place: usize) {
        self.places.borrow_mut()[place].making += 1;
    }

    /// It is made, or not; the maker has its first stream. Returns who is to look again.
    pub fn made(&self, place: usize, made: Result<&Rc<Line>, &Fault>) -> Vec<usize> {
        let mut places = self.places.borrow_mut();
        let place = &mut places[place];
        place.making -= 1;
        match made {
            Ok(line) => {
                line.streams.set(1);
                place.lines.push(Rc::clone(line));
            }
            Err(fault) => place.failed = (place.failed.0 + 1, Some(fault.clone())),
        }
        let count = place.waiting.len().min(self.streams as usize);
        place.waiting.drain(..count).collect()
    }

    /// A stream is over. Returns who is to look again.
    pub fn put(&self, place: usize, line: &Line, keep: bool) -> Option<usize> {
        line.streams.set(line.streams.get() - 1);
        if !keep {
            line.dead.set(true);
        }
        let mut places = self.places.borrow_mut();
        places[place].lines.retain(|line| !line.dead.get());
        places[place].waiting.pop_front()
    }

    /// Bytes out and in since they were last asked for.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes.out.take(), self.bytes.back.take())
    }

    /// Begins to speak HTTP/2 on a connection. What it gives besides must be driven for as long as it lives.
    ///
    /// # Errors
    ///
    /// When the target chose another protocol, or closed the connection.
    pub async fn begin(&self, io: Io) -> Result<(Rc<Line>, impl Future<Output = ()> + use<>), Fault> {
        if let Io::Tls(tls) = &io
            && tls.get_ref().1.alpn_protocol() != Some(b"h2")
        {
            return Err(Fault::new(Failure::Tls, "the target does not speak HTTP/2 (by ALPN)"));
        }
        let io = Counted { io, bytes: Rc::clone(&self.bytes) };
        let (send, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW.0)
            .initial_connection_window_size(WINDOW.1)
            .handshake(io)
            .await
            .map_err(|err| fault(&err))?;
        let line = Rc::new(Line { send, streams: Cell::new(0), dead: Cell::new(false) });
        let weak = Rc::downgrade(&line);
        let drive = async move {
            // Its error reaches the streams as well.
            let _ = connection.await;
            if let Some(line) = weak.upgrade() {
                line.dead.set(true);
            }
        };
        Ok((line, drive))
    }
}

impl Line {
    /// Sends a request and receives its answer. The caller has the deadline.
    ///
    /// # Errors
    ///
    /// When there is no complete answer, or its body is longer than is allowed.
    pub async fn exchange(
        &self,
        request: Request<()>,
        body: Bytes,
        at_most: u64,
        keeps: Keeps,
    ) -> Result<Answer, Fault> {
        let mut send = self.send.clone();
        poll_fn(|cx| send.poll_ready(cx)).await.map_err(|err| self.broken(&err))?;
        let (answer, mut stream) = send.send_request(request, body.is_empty()).map_err(|err| self.broken(&err))?;
        if !body.is_empty() {
            stream.send_data(body, true).map_err(|err| self.broken(&err))?;
        }
        let (head, mut content) = answer.await.map_err(|err| self.broken(&err))?.into_parts();
        let mut answer = Answer { status: head.status.as_u16(), ..Answer::default() };
        if keeps.head {
            answer.headers = head.headers;
        }
        while let Some(piece) = content.data().await {
            let piece = piece.map_err(|err| self.broken(&err))?;
            let _ = content.flow_control().release_capacity(piece.len());
            answer.length += piece.len() as u64;
            if answer.length > at_most {
                return Err(Fault::new(Failure::TooLong, format!("the answer's body has more than {at_most} bytes")));
            }
            if keeps.body {
                let room = BODY_KEPT - answer.body.len().min(BODY_KEPT);
                answer.body.extend_from_slice(&piece[..piece.len().min(room)]);
            }
        }
        Ok(answer)
    }

    /// What went wrong. Unless it was about one stream only, the connection is of no more use.
    fn broken(&self, err: &h2::Error) -> Fault {
        if !err.is_reset() {
            self.dead.set(true);
        }
        fault(err)
    }
}

fn fault(err: &h2::Error) -> Fault {
    let failure = if err.is_io() {
        Failure::Reset
    } else if err.is_go_away() && err.is_remote() || err.reason() == Some(h2::Reason::REFUSED_STREAM) {
        Failure::Refusal
    } else if err.is_remote() {
        Failure::Reset
    } else {
        Failure::Malformed
    };
    Fault::new(failure, err.to_string())
}

/// The request of HTTP/2 that says what this one of HTTP/1.1 says, and its body; `None` where there is none.
pub fn translate(bytes: &[u8], tls: bool) -> Option<(Request<()>, Bytes)> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes).ok()? else { return None };
    let mut headers = HeaderMap::new();
    let mut authority = "";
    for field in head.headers.iter() {
        if field.name.eq_ignore_ascii_case("host") {
            authority = std::str::from_utf8(field.value).ok()?;
        } else if !field.name.eq_ignore_ascii_case("connection") {
            // Names are lower case on the wire (RFC 9113, section 8.2.1), and so they are here.
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
        }
    }
    let scheme = if tls { "https" } else { "http" };
    let mut request = Request::builder()
        .method(head.method?)
        .uri(format!("{scheme}://{authority}{}", head.path?))
        .version(Version::HTTP_2)
        .body(())
        .ok()?;
    *request.headers_mut() = headers;
    Some((request, Bytes::copy_from_slice(&bytes[length..])))
}

/// Counts bytes.
struct Counted {
    io: Io,
    bytes: Rc<Bytes2>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let poll = pin!(&mut self.io).poll_read(cx, buf);
        self.bytes.back.set(self.bytes.back.get() + (buf.filled().len() - before) as u64);
        poll
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let poll = pin!(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(sent)) = poll {
            self.bytes.out.set(self.bytes.out.get() + sent as u64);
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        pin!(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        pin!(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_the_same_in_both_protocols() {
        let bytes = b"POST /a?b HTTP/1.1\r\nHost: shop.example:81\r\nX-A: 1\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";

        let (request, body) = translate(bytes, true).unwrap();

        assert_eq!(
            (request.method().as_str(), request.uri().to_string().as_str()),
            ("POST", "https://shop.example:81/a?b")
        );
        assert_eq!((request.headers().len(), request.headers()["x-a"].as_bytes()), (2, &b"1"[..]));
        assert_eq!(body, "hi");
    }
}
