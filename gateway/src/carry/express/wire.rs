//! A connection to an endpoint: its socket, its alarm, and room for what passes.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tidegate_model::time::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep_until};

use crate::clock;
use crate::endpoint::Target;

/// Finds dead endpoints behind silent connections: after so long, then at this interval.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));

/// Bytes of each scratch list that an idle connection may keep. A longer one is given back.
const SCRATCH: usize = 4 << 10;

/// A socket to an endpoint.
#[derive(Debug)]
pub enum Wire {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

impl Wire {
    async fn open(target: &Target) -> io::Result<Self> {
        match target {
            Target::Tcp(address) => Self::tcp(*address).await,
            Target::Unix(path) => UnixStream::connect(path).await.map(Self::Unix),
        }
    }

    async fn tcp(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE.0).with_interval(KEEPALIVE.1).with_retries(3);
        SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
        Ok(Self::Tcp(tcp))
    }

    /// See [`TcpStream::poll_read_ready`].
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx),
            Self::Unix(unix) => unix.poll_read_ready(cx),
        }
    }

    /// See [`AsyncRead::poll_read`].
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }

    /// See [`AsyncWrite::poll_write`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = [IoSlice::new(bytes)];
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, &bytes),
            Self::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, &bytes),
        }
    }

    /// Whether an idle socket is still open and silent. Costs a system call only where the kernel has reported
    /// something.
    fn is_quiet(&self) -> bool {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(tcp) => tcp.try_read(&mut byte),
            Self::Unix(unix) => unix.try_read(&mut byte),
        };
        matches!(read, Err(err) if err.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Wakes an exchange at its deadline. It moves its timer only when that would go off too late, so that most exchanges
/// on a kept connection touch no timer at all.
#[derive(Debug)]
pub struct Alarm {
    timer: Pin<Box<Sleep>>,
    set: Timestamp,
}

impl Alarm {
    fn new(at: Timestamp) -> Self {
        Self { timer: Box::pin(sleep_until(clock::instant(at))), set: at }
    }

    /// Ready once `due` has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>, due: Timestamp) -> Poll<()> {
        if due < self.set {
            self.set(due);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.set >= due {
                return Poll::Ready(());
            }
            self.set(due);
        }
    }

    fn set(&mut self, at: Timestamp) {
        self.timer.as_mut().reset(clock::instant(at));
        self.set = at;
    }
}

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Conn {
    /// Its socket.
    pub wire: Wire,
    /// Wakes the exchange that uses it.
    pub alarm: Alarm,
    /// It has carried a request before.
    pub reused: bool,
    /// Bytes on their way to the endpoint.
    pub up: Vec<u8>,
    /// Bytes on their way to the client, besides those in the buffer.
    pub down: Vec<u8>,
}

impl Conn {
    /// Connects to `target`.
    ///
    /// # Errors
    ///
    /// The system's.
    pub async fn open(target: &Target, deadline: Timestamp) -> io::Result<Self> {
        let wire = Wire::open(target).await?;
        Ok(Self { wire, alarm: Alarm::new(deadline), reused: false, up: Vec::new(), down: Vec::new() })
    }

    /// Whether it may carry another request.
    pub fn is_fresh(&self) -> bool {
        self.wire.is_quiet()
    }

    /// Gives memory back before it waits for another request.
    pub fn rest(&mut self) {
        self.reused = true;
        for scratch in [&mut self.up, &mut self.down] {
            scratch.clear();
            if scratch.capacity() > SCRATCH {
                *scratch = Vec::new();
            }
        }
    }
}
