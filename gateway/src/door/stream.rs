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

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use pingora_core::protocols::SocketDigest;
use pingora_core::protocols::tls::SslDigest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::census::Seat;
use super::chunk::ChunkScanner;
use super::frames::{Frames, GOING_AWAY};
use super::framing::{Body, Framing};
use super::head::Head;
use super::io::{GULP, Io};
use super::listener::Terms;
use super::outgoing::Outgoing;
use super::refusal::Refusal;
use super::socket::Socket;
use watch::Watch;

mod facets;
mod watch;

/// Bytes that may wait behind the request being served. Beyond it the socket isn't read any
/// further until that request is done: TCP holds the client back.
const STASH: usize = 16 << 10;

/// How long a connection that ends tries to send the rest of its answer.
const SEND_REST: Duration = Duration::from_secs(5);

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

    /// Answers bad chunking itself, unless the carrier has begun to: a carrier only sees a body
    /// that can't be read, and would hang up without a word.
    fn refuse(&mut self, err: io::Error) -> io::Error {
        if let Some(terms) = &self.terms {
            terms.metrics.refused(Refusal::BadChunking);
        }
        if !self.answered {
            self.out.push(Refusal::BadChunking.answer().as_bytes());
            self.muted = true;
        }
        err
    }

    /// Notices where the final answer begins, and whether it opens a WebSocket. Carriers write a
    /// head in one piece.
    fn watch_answer(&mut self, bytes: &[u8]) {
        let switches = bytes.starts_with(b"HTTP/1.1 101");
        if bytes.starts_with(b"HTTP/1.1 1") && !switches {
            return; // 100 and 103 come before the real answer.
        }
        self.answered = true;
        if switches && std::mem::take(&mut self.may_upgrade) {
            self.framing = Framing::Open;
            self.frames = opens_websocket(bytes).then(Box::default);
            if let Some(waker) = self.waiting.take() {
                waker.wake();
            }
        }
    }

    /// Closes politely: sends what is left, says that no more will come, and, where the client
    /// may still be talking, listens for a moment so that it can read the answer.
    pub async fn close(&mut self) {
        let unread = self.has_unread();
        self.closed = true;
        let sent = timeout(SEND_REST, poll_fn(|cx| self.out.poll_flush(&mut self.io, cx))).await;
        match sent {
            Ok(Ok(())) if unread => self.io.linger().await,
            Ok(Ok(())) => drop(timeout(SEND_REST, poll_fn(|cx| self.io.poll_shutdown(cx))).await),
            _ => {}
        }
    }

    /// Closes where the client is known to have more to say.
    pub(crate) async fn close_unread(&mut self) {
        self.framing = Framing::Length(u64::MAX);
        self.close().await;
    }

    /// Tells the client of a WebSocket that is cut off why, if that can be said at once.
    fn say_going_away(&mut self) {
        if self.closed || !self.frames.as_ref().is_some_and(|frames| frames.may_add()) {
            return;
        }
        let mut cx = Context::from_waker(Waker::noop());
        self.out.push(GOING_AWAY);
        if matches!(self.out.poll_flush(&mut self.io, &mut cx), Poll::Ready(Ok(()))) {
            let _ = self.io.poll_shutdown(&mut cx); // Closing follows, one way or the other.
        }
    }

    fn has_unread(&self) -> bool {
        !self.eof && !self.http2 && (!self.framing.is_done() || !self.ahead().is_empty())
    }
}

/// Whether this answer, which switches protocols, opens a WebSocket, and frames follow right behind it.
fn opens_websocket(head: &[u8]) -> bool {
    const ACCEPT: &[u8] = b"\r\nsec-websocket-accept:";
    head.ends_with(b"\r\n\r\n") && head.windows(ACCEPT.len()).any(|some| some.eq_ignore_ascii_case(ACCEPT))
}

impl Drop for DoorStream {
    /// A carrier that gives up on a request drops its stream. The client may still be sending,
    /// and should be able to read the answer nonetheless.
    fn drop(&mut self) {
        if self.seat.as_ref().is_some_and(Seat::is_cut_off) {
            return self.say_going_away();
        }
        if self.closed || !(self.farewell || self.has_unread()) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut io = std::mem::replace(&mut self.io, Io::Gone);
        let mut out = std::mem::take(&mut self.out);
        let seat = self.seat.take();
        runtime.spawn(async move {
            let _seat = seat; // It counts as a connection until it is one no more.
            let sent = timeout(SEND_REST, poll_fn(|cx| out.poll_flush(&mut io, cx))).await;
            if matches!(sent, Ok(Ok(()))) {
                io.linger().await;
            }
        });
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

impl AsyncWrite for DoorStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.muted {
            return Poll::Ready(Ok(bufs.iter().map(|b| b.len()).sum()));
        }
        if let Some(frames) = &mut this.frames {
            let n = ready!(this.out.poll_write(&mut this.io, cx, bufs))?;
            let mut left = n;
            for buf in bufs {
                let some = buf.len().min(left);
                frames.pass(&buf[..some]);
                left -= some;
            }
            return Poll::Ready(Ok(n));
        }
        if !this.answered {
            this.watch_answer(bufs.iter().find(|b| !b.is_empty()).map_or(&[], |b| b));
        }
        let written = if this.http2 {
            // It collects its frames itself.
            this.out.poll_pass(&mut this.io, cx, bufs)
        } else {
            this.out.poll_write(&mut this.io, cx, bufs)
        };
        match written {
            Poll::Pending => this.poll_stuck(cx).map(Err),
            Poll::Ready(Ok(n)) => Poll::Ready(this.took(bufs, n).map(|()| n)),
            Poll::Ready(Err(err)) => Poll::Ready(Err(err)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match this.out.poll_flush(&mut this.io, cx) {
            Poll::Pending => this.poll_stuck(cx).map(Err),
            flushed => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.out.poll_flush(&mut this.io, cx))?;
        this.io.poll_shutdown(cx)
    }
}
