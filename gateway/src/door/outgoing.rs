//! What a carrier has written and the client hasn't got yet: small writes leave together.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use super::io::Io;

/// Bytes of an answer that are held back to leave in one packet. More than that, a flush, or a
/// carrier that has turned to reading sends them.
const WRITE_TOGETHER: usize = 4 << 10;

/// See the module.
#[derive(Debug, Default)]
pub struct Outgoing {
    held: Vec<u8>,
    /// Something was written since the last complete flush.
    dirty: bool,
}

impl Outgoing {
    /// Holds back one more piece.
    pub fn push(&mut self, bytes: &[u8]) {
        self.dirty = true;
        self.held.extend_from_slice(bytes);
    }

    /// Takes what a carrier writes, and passes on what is too much to hold back.
    pub fn poll_write(&mut self, io: &mut Io, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        if self.held.len() + total <= WRITE_TOGETHER {
            bufs.iter().for_each(|buf| self.push(buf));
            return Poll::Ready(Ok(total));
        }
        // What was held back leaves together with the first of the new bytes.
        let first = bufs.iter().find(|b| !b.is_empty()).map_or(&[][..], |b| b);
        while !self.held.is_empty() {
            let n = ready!(io.poll_write_vectored(cx, &[IoSlice::new(&self.held), IoSlice::new(first)]))?;
            let (held, new) = (n.min(self.held.len()), n.saturating_sub(self.held.len()));
            self.sent(held)?;
            if new > 0 {
                return Poll::Ready(Ok(new));
            }
        }
        self.poll_pass(io, cx, bufs)
    }

    /// Passes on what a carrier writes.
    pub fn poll_pass(&mut self, io: &mut Io, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.dirty = true;
        io.poll_write_vectored(cx, bufs)
    }

    /// Sends everything that was written.
    pub fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.dirty {
            return Poll::Ready(Ok(()));
        }
        while !self.held.is_empty() {
            let n = ready!(io.poll_write_vectored(cx, &[IoSlice::new(&self.held)]))?;
            self.sent(n)?;
        }
        ready!(io.poll_flush(cx))?;
        self.dirty = false;
        Poll::Ready(Ok(()))
    }

    /// Gives memory back while nothing happens.
    pub fn rest(&mut self) {
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }

    fn sent(&mut self, n: usize) -> io::Result<()> {
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.held.drain(..n);
        Ok(())
    }
}
