//! The transport below a client's connection: TCP, or TLS over it.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::socket::Socket;

/// Bytes taken off the socket at once while a head is read. They pass over the stack, so that a
/// connection without a request owns no buffer.
pub const GULP: usize = 8 << 10;

/// How long a connection that ends before its request was read lingers.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes read and thrown away while lingering. Beyond it the connection is closed at once.
const LINGER_BYTES: usize = 512 << 10;

/// See the module.
pub enum Io {
    /// Plain TCP.
    Plain(Socket),
    /// TLS behind its handshake.
    Tls(Box<TlsStream<Socket>>),
    /// Nothing: what a stream that was dropped leaves behind. Nobody can reach it.
    Gone,
}

impl Io {
    /// See [`AsyncRead::poll_read`].
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(tls) => match ready!(Pin::new(tls).poll_read(cx, buf)) {
                // A client that hangs up without close_notify has hung up all the same. Truncation can't
                // hurt: every request says itself how long it is.
                Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                other => Poll::Ready(other),
            },
            Self::Gone => gone(),
        }
    }

    /// See [`AsyncWrite::poll_write_vectored`].
    pub fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Self::Gone => gone(),
        }
    }

    /// See [`AsyncWrite::poll_flush`].
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::Gone => gone(),
        }
    }

    /// See [`AsyncWrite::poll_shutdown`].
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Gone => gone(),
        }
    }

    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket.tcp(),
            Self::Tls(tls) => tls.get_ref().0.tcp(),
            Self::Gone => unreachable!("invariant: only a dropped stream has no socket"),
        }
    }

    /// Says that no more will come, then reads and throws away until the client closes too. The
    /// kernel would reset the connection over unread bytes, and the client might lose its answer.
    /// Ends after [`LINGER`] or [`LINGER_BYTES`].
    pub async fn linger(&mut self) {
        let polite = async {
            poll_fn(|cx| self.poll_shutdown(cx)).await?;
            let mut left = LINGER_BYTES;
            while left > 0 {
                let read = poll_fn(|cx| {
                    let mut space = [const { MaybeUninit::<u8>::uninit() }; GULP];
                    let mut buf = ReadBuf::uninit(&mut space);
                    ready!(self.poll_read(cx, &mut buf))?;
                    Poll::Ready(io::Result::Ok(buf.filled().len()))
                });
                match read.await? {
                    0 => break,
                    n => left = left.saturating_sub(n),
                }
            }
            io::Result::Ok(())
        };
        let _ = timeout(LINGER, polite).await;
    }
}

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}
