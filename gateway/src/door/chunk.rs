//! Finds the end of a chunked body, and refuses bad chunking (RFC 9112 §7.1).
//!
//! The scanner looks at the bytes as they pass and changes none. It is stricter than the
//! carriers: CRLF ends every line, sizes are plain hexadecimal, and lines are bounded.
//!
//! # Invariants
//!
//! - Where a body is cut into reads makes no difference to the answer.

/// Bytes of one chunk-size line, extensions included. A longer line is refused.
const MAX_LINE: usize = 1_024;

/// Bytes of the trailer section. A longer one is refused.
const MAX_TRAILERS: usize = 16 << 10;

/// Chunking that breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chunked body is malformed")]
pub struct BadChunk;

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In the hexadecimal size; whether a digit was seen.
    Size { digits: u8 },
    /// After the size, in whitespace that must lead to a semicolon.
    Gap,
    /// In the extensions.
    Extension,
    /// In a quoted string of the extensions.
    Quoted,
    /// After a backslash in a quoted string.
    Escaped,
    /// After the CR of the size line.
    SizeLf,
    /// In the data.
    Data,
    /// At the CR behind the data.
    DataCr,
    /// At the LF behind the data.
    DataLf,
    /// At the first byte of a trailer line.
    TrailerStart,
    /// Inside a trailer line; whether its colon was seen.
    Trailer { colon: bool },
    /// After the CR of a trailer line.
    TrailerLf,
    /// After the CR of the empty line that ends the body.
    EndLf,
    /// Behind the end.
    Done,
}

/// A state machine over the bytes of one chunked body.
#[derive(Clone, Debug)]
pub struct ChunkScanner {
    at: At,
    /// Bytes left of the current chunk.
    left: u64,
    /// Bytes of the current line, or of all trailers.
    line: usize,
}

impl Default for ChunkScanner {
    fn default() -> Self {
        Self { at: At::Size { digits: 0 }, left: 0, line: 0 }
    }
}

impl ChunkScanner {
    /// Tells whether the end of the body was reached.
    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Looks at the next bytes and tells how many of them belong to this body: all of
    /// them, unless the body ends among them.
    ///
    /// # Errors
    ///
    /// [`BadChunk`] at the first byte that breaks the rules; the scanner is of no use afterwards.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        self.decode(bytes, |_| {})
    }

    /// As [`Self::scan`], and hands each piece of the body's data to `data`.
    ///
    /// # Errors
    ///
    /// As [`Self::scan`].
    pub fn decode(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, BadChunk> {
        let mut i = 0;
        while i < bytes.len() && self.at != At::Done {
            if self.at == At::Data {
                let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - i);
                data(&bytes[i..i + step]);
                self.left -= step as u64;
                i += step;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            self.at = self.step(bytes[i])?;
            i += 1;
        }
        Ok(i)
    }

    fn step(&mut self, byte: u8) -> Result<At, BadChunk> {
        self.line += 1;
        let bound = if matches!(self.at, At::Trailer { .. } | At::TrailerStart) { MAX_TRAILERS } else { MAX_LINE };
        if self.line > bound {
            return Err(BadChunk);
        }
        match (self.at, byte) {
            (At::Size { digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).expect("invariant: matched as a hexadecimal digit");
                // What fills 64 bits is negative to some; no honest body comes near.
                self.left = self.left.checked_mul(16).ok_or(BadChunk)? + u64::from(digit);
                if digits == 16 || self.left > i64::MAX as u64 {
                    return Err(BadChunk);
                }
                Ok(At::Size { digits: digits + 1 })
            }
            (At::Size { digits: 0 }, _) => Err(BadChunk),
            (At::Size { .. } | At::Extension, b'\r') => Ok(At::SizeLf),
            // RFC 9112 §7.1.1: chunk-ext begins with optional whitespace and a semicolon. Whitespace before the CRLF is
            // refused, as is a line that ends within quotes: a parser that honours the quotes goes on reading.
            (At::Size { .. } | At::Gap, b';') => Ok(At::Extension),
            (At::Size { .. } | At::Gap, b' ' | b'\t') => Ok(At::Gap),
            (At::Extension, b'"') | (At::Escaped, b'\t' | b' '..=b'~' | 0x80..) => Ok(At::Quoted),
            (At::Extension, b'\t' | b' '..=b'~' | 0x80..) | (At::Quoted, b'"') => Ok(At::Extension),
            (At::Quoted, b'\\') => Ok(At::Escaped),
            (At::Quoted, b'\t' | b' '..=b'~' | 0x80..) => Ok(At::Quoted),
            (At::SizeLf, b'\n') => {
                self.line = 0;
                Ok(if self.left == 0 { At::TrailerStart } else { At::Data })
            }
            (At::DataCr, b'\r') => Ok(At::DataLf),
            (At::DataLf, b'\n') => {
                self.line = 0;
                Ok(At::Size { digits: 0 })
            }
            (At::TrailerStart, b'\r') => Ok(At::EndLf),
            (At::TrailerStart, _) if is_token(byte) => Ok(At::Trailer { colon: false }),
            (At::Trailer { colon: false }, b':') => Ok(At::Trailer { colon: true }),
            (At::Trailer { colon: false }, _) if is_token(byte) => Ok(At::Trailer { colon: false }),
            (At::Trailer { colon: true }, b'\r') => Ok(At::TrailerLf),
            (At::Trailer { colon: true }, b'\t' | b' '..=b'~' | 0x80..) => Ok(At::Trailer { colon: true }),
            (At::TrailerLf, b'\n') => Ok(At::TrailerStart),
            (At::EndLf, b'\n') => Ok(At::Done),
            _ => Err(BadChunk),
        }
    }
}

/// Tells whether `byte` may stand in a token (RFC 9110 §5.6.2): a method or a field name.
pub(crate) const fn is_token(byte: u8) -> bool {
    matches!(byte,
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*'
        | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn end_of(bytes: &[u8]) -> Result<Option<usize>, BadChunk> {
        let mut scanner = ChunkScanner::default();
        let n = scanner.scan(bytes)?;
        Ok(scanner.is_done().then_some(n))
    }

    #[test]
    fn a_body_ends_behind_its_last_chunk_and_not_a_byte_later() {
        let body = b"5\r\nhello\r\n0\r\n\r\n";
        let mut wire = body.to_vec();
        wire.extend_from_slice(b"GET / HTTP/1.1\r\n");

        let end = end_of(&wire);

        assert_eq!(end, Ok(Some(body.len())));
    }

    #[test]
    fn extensions_and_trailers_belong_to_the_body() {
        let body = b"5 ;a=b; c=\"d;\\\"\"; e \r\nhello\r\n0\r\nChecksum: 1\r\nX:\r\n\r\n";

        assert_eq!(end_of(body), Ok(Some(body.len())));
    }

    #[test]
    fn chunking_that_others_might_read_differently_is_refused() {
        for bad in [
            "\r\n",
            " 5\r\nhello",
            "+5\r\nhello",
            "-5\r\nhello",
            "0x5\r\nhello",
            "5\nhello\n",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "5\r\nhello\r\r",
            "g\r\n",
            "5\rX",
            "11111111111111111\r\n",
            "ffffffffffffffff\r\n",
            "fffffffffffffffff\r\n",
            "0\r\n\n",
            "0\r\n X: folded\r\n",
            "0\r\nbad name: 1\r\n",
            "0\r\nX: a\nY: b\r\n\r\n",
            "5;a=\0b\r\n",
            "5 \r\nhello",
            "5;a=b\nhello",
            "5;a=b\rhello",
            "5;a=\"b\r\n",
            "5;a=\"b\\\"\r\n",
        ] {
            assert_eq!(end_of(bad.as_bytes()), Err(BadChunk), "{bad:?}");
        }
    }

    #[test]
    fn an_endless_chunk_extension_and_endless_trailers_are_refused() {
        let long = format!("5;{}", "x".repeat(MAX_LINE));
        let trailers = format!("0\r\n{}", "X: y\r\n".repeat(MAX_TRAILERS / 6 + 1));

        assert_eq!(end_of(long.as_bytes()), Err(BadChunk));
        assert_eq!(end_of(trailers.as_bytes()), Err(BadChunk));
    }

    proptest! {
        #[test]
        fn where_a_body_is_cut_makes_no_difference(
            wire in prop::collection::vec(prop::sample::select(b"0015af;\r\n\r\n: xX".to_vec()), 0..64),
            cut in 0_usize..64,
        ) {
            let cut = cut.min(wire.len());
            let mut scanner = ChunkScanner::default();

            let pieces = scanner.scan(&wire[..cut]).and_then(|first| {
                if first < cut { Ok(first) } else { scanner.scan(&wire[cut..]).map(|second| first + second) }
            });

            let mut whole = ChunkScanner::default();
            prop_assert_eq!(pieces, whole.scan(&wire));
        }

        #[test]
        fn every_well_formed_body_is_found_whole(chunks in prop::collection::vec(1_usize..600, 0..6), rest in "[a-z]{0,9}") {
            let mut wire = Vec::new();
            for size in chunks {
                wire.extend_from_slice(format!("{size:x}\r\n").as_bytes());
                wire.extend(std::iter::repeat_n(b'z', size));
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let end = wire.len();
            wire.extend_from_slice(rest.as_bytes());

            prop_assert_eq!(end_of(&wire), Ok(Some(end)));
        }
    }
}
