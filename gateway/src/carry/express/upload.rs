//! The request's body on its way to the endpoint, read once however often it is sent.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::door::chunk::ChunkScanner;
use crate::door::framing::Body;
use crate::door::stream::DoorStream;
use crate::recording::Reel;

/// Bytes of a body that are kept so that it can be sent again. A longer one can't be.
const KEPT: usize = 64 << 10;

/// Bytes read from the client at once.
const STEP: usize = 16 << 10;

/// See the module.
pub struct Upload {
    /// Reads the client's chunking, where it has one (HTTP/1).
    chunks: Option<ChunkScanner>,
    /// Whether the endpoint gets it in chunks: its length isn't known.
    chunked: bool,
    /// What was read so far, while it can be sent again.
    kept: Vec<u8>,
    keeps: bool,
    /// Takes the body down, where somebody records.
    pub reel: Option<Box<Reel>>,
    /// Bytes of the body that came from the client.
    pub received: u64,
    /// All of it was read.
    pub done: bool,
}

impl Upload {
    /// The body of a request whose head was passed over. `keeps` says whether the request may be sent again.
    pub fn new(stream: &DoorStream, keeps: bool) -> Self {
        let chunked = stream.body() == Body::Chunked;
        let chunks = chunked.then(ChunkScanner::default);
        Self { chunks, chunked, kept: Vec::new(), keeps, reel: None, received: 0, done: stream.is_request_read() }
    }

    /// The body of an HTTP/2 request, which the client cuts into frames. `done` when there is nothing more to come.
    pub fn of_frames(body: Body, done: bool, keeps: bool) -> Self {
        Self { chunks: None, chunked: body == Body::Chunked, kept: Vec::new(), keeps, reel: None, received: 0, done }
    }

    /// Whether the request can be sent once more.
    pub fn is_repeatable(&self) -> bool {
        self.keeps
    }

    /// Begins another try: writes what was read already, and tells how many bytes of the body that is.
    pub fn restart(&self, out: &mut Vec<u8>) -> u64 {
        frame(out, &self.kept, self.chunked);
        if self.done {
            self.close(out);
        }
        self.kept.len() as u64
    }

    /// All of the body was read: writes its end.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        self.done = true;
        self.close(out);
    }

    fn close(&self, out: &mut Vec<u8>) {
        if self.chunked {
            out.extend_from_slice(LAST_CHUNK);
        }
    }

    /// Reads on, writes what came into `out`, and tells how many bytes of the body that is.
    ///
    /// # Errors
    ///
    /// The client has left, or its chunking is malformed; the door has told it so.
    pub fn poll_more(
        &mut self,
        stream: &mut DoorStream,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<io::Result<u64>> {
        let mut space = [const { MaybeUninit::<u8>::uninit() }; STEP];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf))?;
        let bytes = buf.filled();
        if bytes.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let before = self.received;
        match self.chunks.take() {
            None => self.pass(bytes, out),
            Some(mut chunks) => {
                let read = chunks.decode(bytes, |data| self.pass(data, out));
                self.chunks = Some(chunks);
                read.map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))?;
            }
        }
        if stream.is_request_read() {
            self.end(out);
        }
        Poll::Ready(Ok(self.received - before))
    }

    /// Writes a piece that came from the client.
    pub fn pass(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if let Some(reel) = &mut self.reel {
            reel.chunk(self.received, data);
        }
        self.received += data.len() as u64;
        if self.keeps && self.kept.len() + data.len() <= KEPT {
            self.kept.extend_from_slice(data);
        } else {
            self.keeps = false;
            self.kept = Vec::new();
        }
        frame(out, data, self.chunked);
    }
}

/// What ends a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes a piece of a body, as a chunk where the body is `chunked`.
pub fn frame(out: &mut Vec<u8>, data: &[u8], chunked: bool) {
    if !chunked {
        return out.extend_from_slice(data);
    }
    if data.is_empty() {
        return; // An empty chunk would end the body.
    }
    let digits = (usize::BITS - data.len().leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(data.len() >> (4 * digit)) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_say_their_length_and_no_chunk_is_empty() {
        for (length, size) in [(0, ""), (1, "1"), (15, "f"), (16, "10"), (4_096, "1000"), (0x12345, "12345")] {
            let mut out = Vec::new();

            frame(&mut out, &vec![b'x'; length], true);

            let expected = if length == 0 { String::new() } else { format!("{size}\r\n{}\r\n", "x".repeat(length)) };
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
