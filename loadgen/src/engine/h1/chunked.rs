//! The chunked coding (RFC 9112, section 7.1), read as it comes. Extensions and trailers are skipped.

use crate::Failure;
use crate::engine::fault::Fault;

/// Bytes of a size line, or of all trailers. Beyond it the answer is malformed.
const LINE: u32 = 16_384;

/// Where in the coding the reader is.
#[derive(Debug)]
pub struct Chunked {
    at: At,
    /// Of the chunk that is read.
    left: u64,
    /// Digits of the size so far, or bytes of a line.
    seen: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    LineStart,
    Trailer,
    LastLf,
    Done,
}

impl Chunked {
    /// Before the first byte.
    pub fn new() -> Self {
        Self { at: At::Size, left: 0, seen: 0 }
    }

    /// Whether the last chunk and its trailers have been read.
    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Reads on, and gives each piece of the content to `content`. Returns how many bytes it took; fewer than there are
    /// when it is done.
    pub fn feed(&mut self, input: &[u8], content: &mut dyn FnMut(&[u8]) -> Result<(), Fault>) -> Result<usize, Fault> {
        let mut taken = 0;
        while taken < input.len() && self.at != At::Done {
            if self.at == At::Data {
                let piece = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len() - taken);
                content(&input[taken..taken + piece])?;
                taken += piece;
                self.left -= piece as u64;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            self.byte(input[taken])?;
            taken += 1;
        }
        Ok(taken)
    }

    fn byte(&mut self, byte: u8) -> Result<(), Fault> {
        self.at = match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.seen < 15 => {
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                self.left = self.left * 16 + u64::from(digit);
                self.seen += 1;
                At::Size
            }
            (At::Size, b';' | b' ' | b'\t') if self.seen > 0 => At::Extension,
            (At::Size, b'\r') if self.seen > 0 => At::SizeEnd,
            (At::Extension, b'\r') => At::SizeEnd,
            (At::Extension, b'\n') => return Err(malformed("a chunk's size ends without CR")),
            (At::Extension, _) => self.line(At::Extension)?,
            (At::SizeEnd, b'\n') => {
                self.seen = 0;
                if self.left == 0 { At::LineStart } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::LineStart, b'\r') => At::LastLf,
            (At::LineStart | At::Trailer, b'\n') => At::LineStart,
            (At::LineStart | At::Trailer, _) => self.line(At::Trailer)?,
            (At::LastLf, b'\n') => At::Done,
            _ => return Err(malformed("a chunk is not as its size says, or its size is no number")),
        };
        Ok(())
    }

    fn line(&mut self, at: At) -> Result<At, Fault> {
        self.seen += 1;
        if self.seen > LINE {
            Err(malformed("a chunk's extension or the trailers are longer than 16 KiB"))
        } else {
            Ok(at)
        }
    }
}

fn malformed(text: &'static str) -> Fault {
    Fault::new(Failure::Malformed, text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Content, bytes taken, and whether it is done; fed in pieces of `step` bytes.
    fn read(input: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), Fault> {
        let (mut chunked, mut content, mut taken) = (Chunked::new(), Vec::new(), 0);
        for piece in input.chunks(step) {
            taken += chunked.feed(piece, &mut |bytes| {
                content.extend_from_slice(bytes);
                Ok(())
            })?;
        }
        Ok((content, taken, chunked.is_done()))
    }

    #[test]
    fn extensions_and_trailers_are_skipped_and_what_follows_is_left() {
        let input = b"5;x=\"y\"\r\nhello\r\n6 \r\n world\r\n0\r\nSum: 1\r\n\r\nHTTP/1.1";

        for step in [1, 3, 100] {
            let (content, taken, done) = read(input, step).unwrap();

            assert_eq!((content.as_slice(), taken, done), (&b"hello world"[..], input.len() - 8, true), "{step}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_malformed() {
        for input in
            ["\r\n", "xyz\r\n", "-1\r\n", "5\r\nhelloo\r\n", "5\nhello", "ffffffffffffffffff\r\n", "5;x\nhello"]
        {
            let fault = read(input.as_bytes(), 100).unwrap_err();

            assert_eq!(fault.failure, Failure::Malformed, "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn any_content_in_any_pieces_is_read_back(content: Vec<u8>, size in 1_usize..50, step in 1_usize..50) {
            let mut input = Vec::new();
            for chunk in content.chunks(size) {
                input.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\n\r\n");

            prop_assert_eq!(read(&input, step).unwrap(), (content, input.len(), true));
        }

        #[test]
        fn no_bytes_make_it_panic(input: Vec<u8>, step in 1_usize..50) {
            let _ = read(&input, step);
        }
    }
}
