//! How far one request reaches: the bytes of its head and body, and not one more.

use std::io;

use super::chunk::ChunkScanner;

/// How the end of a request's body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// By its length; 0 for a request without a body.
    Length(u64),
    /// By its chunking.
    Chunked,
}

/// What reads may yield.
#[derive(Debug)]
pub enum Framing {
    /// Everything: HTTP/2, and WebSockets once they are open.
    Open,
    /// So many bytes.
    Length(u64),
    /// The rest of the head, then a chunked body.
    Chunked {
        /// Bytes left of the head.
        head: usize,
        /// Where in the body the next byte stands.
        scanner: ChunkScanner,
    },
}

impl Framing {
    /// Tells whether the end of the request was reached.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Open => false,
            Self::Length(left) => *left == 0,
            Self::Chunked { head, scanner } => *head == 0 && scanner.is_done(),
        }
    }

    /// Tells how many of the next bytes belong to this request, and takes them for read.
    ///
    /// # Errors
    ///
    /// `InvalidData` for bad chunking.
    pub fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Open => Ok(bytes.len()),
            Self::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= n as u64;
                Ok(n)
            }
            Self::Chunked { head, scanner } => {
                let n = (*head).min(bytes.len());
                *head -= n;
                let body = scanner.scan(&bytes[n..]).map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))?;
                Ok(n + body)
            }
        }
    }
}
