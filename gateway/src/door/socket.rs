//! A TCP socket with bytes that were read before it was known what they are: a PROXY header,
//! a TLS handshake, an HTTP/2 preface.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes taken off the socket at once while we find out what is spoken.
const SIP: usize = 1 << 10;

/// See the module.
#[derive(Debug)]
pub struct Socket {
    tcp: TcpStream,
    ahead: Vec<u8>,
    at: usize,
}

impl Socket {
    /// A fresh connection.
    pub fn new(tcp: TcpStream) -> Self {
        Self { tcp, ahead: Vec::new(), at: 0 }
    }

    /// The socket itself.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// What was read ahead.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead[self.at..]
    }

    /// Hands out what was read ahead; it won't be read again from here.
    pub fn take_ahead(&mut self) -> Vec<u8> {
        let mut ahead = std::mem::take(&mut self.ahead);
        ahead.drain(..std::mem::take(&mut self.at));
        ahead
    }

    /// Throws away the first `n` bytes that were read ahead.
    pub fn skip(&mut self, n: usize) {
        assert!(n <= self.ahead().len(), "invariant: only bytes that were read are skipped");
        self.at += n;
        if self.ahead().is_empty() {
            (self.ahead, self.at) = (Vec::new(), 0);
        }
    }

    /// Reads more bytes ahead; 0 when the client has closed. Safe to cancel.
    pub async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let mut space = [const { MaybeUninit::<u8>::uninit() }; SIP];
            let mut buf = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buf))?;
            self.ahead.extend_from_slice(buf.filled());
            Poll::Ready(Ok(buf.filled().len()))
        })
        .await
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead().is_empty() {
            return Pin::new(&mut self.tcp).poll_read(cx, buf);
        }
        let n = self.ahead().len().min(buf.remaining());
        buf.put_slice(&self.ahead()[..n]);
        self.skip(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
