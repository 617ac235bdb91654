//! A client's connection as the carriers see it.
//!
//! The door reads ahead: it takes a whole request head off the socket, checks it, and hands the
//! carrier a stream that replays exactly that head and then the body. A carrier can't read past
//! the end of the request it was given, so a pipelined next request stays here until its turn.
//!
//! # Invariants
//!
//! - Between [`DoorStream::begin`] and the next one, reads yield the head and body of one
//!   request, and nothing else. Behind its end a read waits for the client to go away.
//! - No byte is lost: what arrives early waits in `ahead`, at most [`STASH`] and one read.
//! - The framing is lifted only when the carrier answers 101 to a request that asked for an upgrade.
//!
//! # Not here
//!
//! What the carrier writes passes through `answer`, how a connection ends is `ending`'s, and whether its client keeps to
//! its pace `watch`'s.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use pingora_core::protocols::SocketDigest;
use pingora_core::protocols::tls::SslDigest;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::census::Seat;
use super::chunk::ChunkScanner;
use super::frames::Frames;
use super::framing::{Body, Framing};
use super::head::Head;
use super::io::{GULP, Io};
use super::listener::Terms;
use super::outgoing::Outgoing;
use super::socket::Socket;
use watch::Watch;

mod answer;
mod ending;
mod facets;
mod watch;

/// Bytes that may wait behind the request being served. Beyond it the socket isn't read any
/// further until that request is done: TCP holds the client back.
const STASH: usize = 16 << 10;

/// A client's connection: TCP or TLS, with bytes that were read ahead.
pub struct DoorStream {
    io: Io,
    /// Read from the client and not yet by the carrier; the part before `at` is spent.
    ahead: Vec<u8>,
    at: usize,
    framing: Framing,
    /// Bytes of the request's head while it lies unread at the front of `ahead`.
    head: usize,
    /// How the request's body ends.
    body: Body,
    /// The client has closed its side.
    eof: bool,
    /// The request asked for an upgrade and hasn't been answered for good.
    may_upgrade: bool,
    /// Who waits behind the end of a request that may yet be upgraded.
    waiting: Option<Waker>,
    out: Outgoing,
    /// The final answer to this request has begun.
    answered: bool,
    /// The door has answered in the carrier's stead; what the carrier writes is for nobody.
    muted: bool,
    http2: bool,
    ssl: Option<Arc<SslDigest>>,
    socket: Arc<SocketDigest>,
    /// The terms that the client came under; `None` for one that isn't served.
    terms: Option<Arc<Terms>>,
    /// Keeps the client to its pace while that is needed.
    watch: Option<Box<Watch>>,
    /// We have a last word to say before we close.
    farewell: bool,
    /// Counts the connection as long as its socket is open.
    seat: Option<Seat>,
    /// Where an open WebSocket stands, on the way to the client.
    frames: Option<Box<Frames>>,
    closed: bool,
}

impl DoorStream {
    /// A plain connection, whose first bytes may have been read. `peer` and `local` are what the
    /// PROXY header says, or else the socket.
    pub(crate) fn over_socket(mut socket: Socket, peer: SocketAddr, local: SocketAddr) -> Self {
        let ahead = socket.take_ahead();
        let mut stream = Self::over(Io::Plain(socket), peer, local);
        stream.ahead = ahead;
        stream
    }

    /// A TLS connection behind its handshake.
    pub(crate) fn tls(tls: TlsStream<Socket>, ssl: SslDigest, peer: SocketAddr, local: SocketAddr) -> Self {
        let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let mut stream = Self::over(Io::Tls(Box::new(tls)), peer, local);
        stream.ssl = Some(Arc::new(ssl));
        if http2 {
            stream.becomes_http2();
        }
        stream
    }

    fn over(io: Io, peer: SocketAddr, local: SocketAddr) -> Self {
        let digest = SocketDigest::from_raw_fd(io.tcp().as_raw_fd());
        // Filled in, Pingora needn't ask the kernel. Setting a fresh cell can't fail.
        let _ = digest.peer_addr.set(Some(peer.into()));
        let _ = digest.local_addr.set(Some(local.into()));
        Self {
            io,
            ahead: Vec::new(),
            at: 0,
            framing: Framing::Length(0),
            head: 0,
            body: Body::Length(0),
            eof: false,
            may_upgrade: false,
            waiting: None,
            out: Outgoing::default(),
            answered: false,
            muted: false,
            http2: false,
            ssl: None,
            socket: Arc::new(digest),
            terms: None,
            watch: None,
            farewell: false,
            seat: None,
            frames: None,
            closed: false,
        }
    }

    /// Keeps the connection's place as long as the socket is open, and the client to `terms`.
    pub(crate) fn is_served(&mut self, seat: Seat, terms: Arc<Terms>) {
        self.seat = Some(seat);
        self.terms = Some(terms);
    }

    /// What was read ahead and belongs to no request yet.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead[self.at..]
    }

    /// Opens the stream for one request, whose checked head lies in [`DoorStream::ahead`].
    pub fn begin(&mut self, head: &Head) {
        self.at += head.skip;
        assert!(head.len <= self.ahead().len(), "invariant: the head was read before the request begins");
        let mut len = head.len;
        if let Some(origin_form) = head.origin_form(self.ahead()) {
            self.at += len;
            len = origin_form.len();
            self.ahead.splice(..self.at, origin_form);
            self.at = 0;
        }
        self.framing = match head.body {
            Body::Length(n) => Framing::Length((len as u64).saturating_add(n)),
            Body::Chunked => Framing::Chunked { head: len, scanner: ChunkScanner::default() },
        };
        self.head = len;
        self.body = head.body;
        self.may_upgrade = head.upgrade;
        self.answered = false;
        self.waiting = None;
    }

    /// The head of the request that [`DoorStream::begin`] opened, as long as nothing of it was read.
    pub fn head(&self) -> &[u8] {
        &self.ahead()[..self.head]
    }

    /// How the body of that request ends.
    pub fn body(&self) -> Body {
        self.body
    }

    /// Whether that request has an Upgrade header that hasn't been answered.
    pub fn may_upgrade(&self) -> bool {
        self.may_upgrade
    }

    /// Passes over the head: whoever has read it in place goes on with the body.
    pub fn skip_head(&mut self) {
        let head = std::mem::take(&mut self.head);
        match &mut self.framing {
            Framing::Open => {}
            Framing::Length(left) => *left -= head as u64,
            Framing::Chunked { head, .. } => *head = 0,
        }
        self.at += head;
        self.tidy();
    }

    /// Makes this an HTTP/2 connection: reads and writes pass straight through.
    pub fn becomes_http2(&mut self) {
        self.framing = Framing::Open;
        self.answered = true;
        self.http2 = true;
    }

    /// Tells whether HTTP/2 is spoken.
    pub fn is_http2(&self) -> bool {
        self.http2
    }

    /// Tells whether the request that [`DoorStream::begin`] opened was read to its end.
    pub fn is_request_read(&self) -> bool {
        self.framing.is_done()
    }

    /// Reads more bytes ahead; 0 when the client has closed. Holds no buffer while it waits.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.out.poll_flush(&mut self.io, cx))?;
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        self.poll_gulp(cx)
    }

    /// Gives memory back while nothing happens on the connection.
    pub(crate) fn rest(&mut self) {
        if self.ahead().is_empty() {
            (self.ahead, self.at) = (Vec::new(), 0);
        }
        self.watch = None;
        self.out.rest();
    }

    fn poll_gulp(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [const { MaybeUninit::<u8>::uninit() }; GULP];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(self.io.poll_read(cx, &mut buf))?;
        let bytes = buf.filled();
        self.eof |= bytes.is_empty();
        self.ahead.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Frees what is spent, or at least moves the rest to the front when that is cheap.
    fn tidy(&mut self) {
        if self.at == self.ahead.len() {
            self.ahead.clear();
            self.at = 0;
        } else if self.at > STASH {
            self.ahead.drain(..self.at);
            self.at = 0;
        }
    }

    /// Yields bytes that were read ahead, as far as they belong to this request.
    fn replay(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        self.head = 0;
        let n = self.ahead().len().min(buf.remaining());
        let bytes = &self.ahead[self.at..self.at + n];
        let n = match self.framing.take(bytes) {
            Ok(n) => n,
            Err(err) => return Err(self.refuse(err)),
        };
        buf.put_slice(&self.ahead[self.at..self.at + n]);
        self.at += n;
        self.tidy();
        Ok(())
    }

    /// Reads for this request; what turns out to lie behind its end goes to `ahead`.
    fn poll_direct(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let Poll::Ready(read) = self.io.poll_read(cx, buf) else { return self.poll_late(cx) };
        read?;
        let fresh = &buf.filled()[before..];
        if fresh.is_empty() {
            self.eof = true;
            return Poll::Ready(Ok(()));
        }
        if let Some(watch) = &mut self.watch {
            watch.came(fresh.len());
        }
        let n = match self.framing.take(fresh) {
            Ok(n) => n,
            Err(err) => {
                buf.set_filled(before);
                return Poll::Ready(Err(self.refuse(err)));
            }
        };
        self.ahead.extend_from_slice(&fresh[n..]);
        buf.set_filled(before + n);
        Poll::Ready(Ok(()))
    }

    /// Behind the end of the request: waits for the client to go away. Bytes that come
    /// instead are the next request's.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.may_upgrade {
            self.waiting = Some(cx.waker().clone());
        }
        while !self.eof && self.ahead().len() < STASH {
            ready!(self.poll_gulp(cx))?;
        }
        // A client that pipelines and then closes its side still wants its answers.
        if self.eof && self.ahead().is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl fmt::Debug for DoorStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorStream")
            .field("fd", &self.io.tcp().as_raw_fd())
            .field("tls", &self.ssl.is_some())
            .field("framing", &self.framing)
            .field("ahead", &self.ahead().len())
            .finish_non_exhaustive()
    }
}

impl AsyncRead for DoorStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // A carrier that turns to reading has nothing to add for the moment.
        if let Poll::Ready(Err(err)) = this.out.poll_flush(&mut this.io, cx) {
            return Poll::Ready(Err(err));
        }
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.framing.is_done() {
            return self.poll_gone(cx);
        }
        let before = buf.filled().len();
        if self.ahead().is_empty() {
            ready!(self.poll_direct(cx, buf))?;
        } else {
            self.replay(buf)?;
        }
        if self.http2
            && let Err(err) = self.watch_frames(&buf.filled()[before..])
        {
            buf.set_filled(before);
            return Poll::Ready(Err(err));
        }
        Poll::Ready(Ok(()))
    }
}
