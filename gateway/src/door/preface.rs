//! What is spoken on a plain listener that takes HTTP/1 and HTTP/2, by a client's first bytes.
//!
//! # Invariants
//!
//! - Bytes that could be meant as a request of HTTP/1, however ill made, are never taken for HTTP/2.

/// The client's half of the HTTP/2 preface (RFC 9113 §3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What we say when it is broken: our half of the preface, an empty SETTINGS, and GOAWAY with PROTOCOL_ERROR (RFC 9113
/// §3.4, §6.8).
pub const BROKEN_PREFACE: &[u8] = &[
    0, 0, 0, 4, 0, 0, 0, 0, 0, // SETTINGS, on stream 0.
    0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // GOAWAY: no stream, error 1.
];

/// How much of the preface nothing but HTTP/2 begins with.
const FIRST_LINE: usize = 14;

/// Methods that a client of HTTP/1 may have meant.
const METHODS: [&[u8]; 9] = [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE"];

/// Whether `bytes`, the first of a connection, are a preface of HTTP/2 gone wrong: they begin like it, or their first line
/// has the shape of its first line, three words in capitals, and nothing of HTTP/1: no method that is known, no target,
/// no version.
pub fn is_broken(bytes: &[u8]) -> bool {
    if bytes.starts_with(&HTTP2_PREFACE[..FIRST_LINE]) {
        return !HTTP2_PREFACE.starts_with(&bytes[..bytes.len().min(HTTP2_PREFACE.len())]);
    }
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return false };
    let mut words = bytes[..end].split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    let capitals = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_uppercase);
    [method, target, version].into_iter().all(capitals) && !METHODS.contains(&method)
}

/// Whether `bytes`, the first of a connection to a listener that speaks only HTTP/2, are a request of HTTP/1: who sends
/// one can read our answer.
pub fn is_http1(bytes: &[u8]) -> bool {
    METHODS.iter().any(|method| bytes.strip_prefix(*method).is_some_and(|rest| rest.first() == Some(&b' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_only_be_http2_gone_wrong_is_told_from_bad_requests() {
        let broken: [&[u8]; 4] = [
            b"INVALID CONNECTION PREFACE\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
            b"PRI * HTTP/2.0\r\n\r\nXX",
            b"PRI * HTTP/2.0\n\nSM\n\n",
        ];
        let others: [&[u8]; 12] = [
            HTTP2_PREFACE,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04",
            b"PRI * HTTP/2.0\r\n",
            b"GET / HTTP/1.1\r\n",
            b"GET A B\r\n",
            b"GET /a http/1.1\r\n",
            b"FROB /a HTTP/1.1\r\n",
            b"FROB /a JUNK\r\n",
            b"HELLO\r\n",
            b"HELLO WORLD\r\n",
            b"INVALID CONNECTION PREFACE",
            b"\x16\x03\x01\r\n",
        ];

        assert!(broken.iter().all(|bytes| is_broken(bytes)));
        assert!(others.iter().all(|bytes| !is_broken(bytes)));
    }
}
