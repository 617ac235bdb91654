//! One request and its answer on one connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::{Answer, Reader};
use crate::Failure;
use crate::engine::fault::Fault;
use crate::engine::io::Io;
use crate::engine::slots::Slots;

/// One request on its way.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// All of its bytes.
    pub request: &'a [u8],
    /// Reads the answer.
    pub reader: Reader,
    /// Bytes sent so far.
    pub out: u64,
    /// Bytes received so far.
    pub back: u64,
}

impl Exchange<'_> {
    /// Whether the target closed the connection, or reset it, before it said anything: it may have closed an idle
    /// connection at the moment when the request left.
    pub fn is_untouched(&self) -> bool {
        self.back == 0 && self.reader.is_untouched()
    }

    /// Sends and receives as far as it goes.
    ///
    /// An answer that is complete before the request is sent counts; the connection is of no use afterwards.
    fn poll(&mut self, io: &mut Io, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<(), Fault>> {
        let mut unsendable = None;
        if (self.out as usize) < self.request.len() {
            match self.poll_send(io, cx) {
                Poll::Ready(Err(err)) => unsendable = Some(err),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        match self.poll_receive(io, cx, buffer) {
            // What could not be sent explains it better, unless an answer says why.
            Poll::Ready(Err(_)) | Poll::Pending if unsendable.is_some() => {
                Poll::Ready(Err(Fault::of_exchange(&unsendable.unwrap_or_else(|| io::ErrorKind::Other.into()))))
            }
            done => done,
        }
    }

    fn poll_send(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while (self.out as usize) < self.request.len() {
            let sent = ready!(Pin::new(&mut *io).poll_write(cx, &self.request[self.out as usize..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out += sent as u64;
        }
        // TLS may have kept a part. It goes out with the next call, at the latest when it is polled for reading.
        Pin::new(io).poll_flush(cx)
    }

    fn poll_receive(&mut self, io: &mut Io, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<(), Fault>> {
        loop {
            let mut buf = ReadBuf::new(buffer);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut buf)).map_err(|err| Fault::of_exchange(&err))?;
            let got = buf.filled();
            if got.is_empty() {
                return Poll::Ready(self.reader.end());
            }
            self.back += got.len() as u64;
            if self.reader.feed(got)? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// The answer, and whether the connection may be used again.
    pub fn done(self) -> (Answer, bool) {
        let sent = self.out as usize == self.request.len();
        let (answer, reusable) = self.reader.done();
        (answer, reusable && sent)
    }
}

/// Sends a request and receives its answer, until the deadline of its slot.
pub async fn exchange(
    slots: &Slots,
    slot: usize,
    io: &mut Io,
    exchange: &mut Exchange<'_>,
    buffer: &std::cell::RefCell<Box<[u8]>>,
) -> Result<(), Fault> {
    std::future::poll_fn(|cx| {
        let done = exchange.poll(io, cx, &mut buffer.borrow_mut());
        if done.is_pending() && slots.is_expired(slot) {
            let text =
                if exchange.is_untouched() { "no answer in time" } else { "the answer was not complete in time" };
            return Poll::Ready(Err(Fault::new(Failure::Timeout, text)));
        }
        done
    })
    .await
}
