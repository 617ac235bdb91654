//! JA4: a fingerprint of the software at the other end, from its ClientHello.
//!
//! `t13d1516h2_8daaf6152771_e5627efa2ab1`: over TCP, TLS 1.3, with a server name, 15 cipher suites, 16 extensions,
//! first protocol `h2`; then hashes of the sorted suites, and of the sorted extensions with the signature algorithms.
//! The specification is FoxIO's (`technical_details/JA4.md` of FoxIO-LLC/ja4); JA4 itself, unlike the rest of JA4+, is
//! free to use (BSD).
//!
//! # Invariants
//!
//! - How the ClientHello is cut into records makes no difference, nor do GREASE values (RFC 8701).
//! - Nothing that a client sends makes it panic or take more than the ClientHello's own size.

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

/// Content type of a handshake record, and type of the message in it (RFC 8446 §5.1, §4).
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

const SERVER_NAME: u16 = 0;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

/// Values of a list that are kept without an allocation.
type Values = SmallVec<[u16; 32]>;

/// A JA4 fingerprint: 36 ASCII characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ja4([u8; Ja4::LENGTH]);

impl Ja4 {
    /// Characters of a fingerprint.
    pub const LENGTH: usize = 36;

    /// The fingerprint of the ClientHello that `records` begin with; `None` if it isn't whole or isn't one.
    pub fn of(records: &[u8]) -> Option<Self> {
        let message = message(records)?;
        Some(Hello::read(&message)?.fingerprint())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("invariant: a fingerprint is ASCII")
    }
}

impl fmt::Debug for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of the ClientHello, put together from its records. The usual single record is borrowed.
fn message(records: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut reader = Reader(records);
    let mut joined = Cow::Borrowed(&[][..]);
    loop {
        if let [CLIENT_HELLO, a, b, c, body @ ..] = &*joined {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if body.len() >= length {
                return Some(match joined {
                    Cow::Borrowed(joined) => Cow::Borrowed(&joined[4..4 + length]),
                    Cow::Owned(mut joined) => Cow::Owned(joined.drain(4..4 + length).collect()),
                });
            }
        } else if joined.len() >= 4 {
            return None;
        }
        if reader.u8()? != HANDSHAKE {
            return None;
        }
        reader.u16()?;
        let fragment = reader.list16()?.0;
        match &mut joined {
            Cow::Borrowed([]) => joined = Cow::Borrowed(fragment),
            joined => joined.to_mut().extend_from_slice(fragment),
        }
    }
}

/// What of a ClientHello counts for its fingerprint, without GREASE.
#[derive(Default)]
struct Hello<'a> {
    version: u16,
    suites: Values,
    extensions: Values,
    signatures: Values,
    named: bool,
    protocol: &'a [u8],
}

impl<'a> Hello<'a> {
    /// Reads the body of a ClientHello (RFC 8446 §4.1.2).
    fn read(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let mut hello = Self { version: reader.u16()?, ..Self::default() };
        reader.take(32)?; // Random.
        reader.list8()?; // Session id.
        hello.suites = reader.list16()?.values()?;
        reader.list8()?; // Compression methods.
        if reader.0.is_empty() {
            return Some(hello); // Before TLS 1.2 there may be no extensions.
        }
        let mut extensions = reader.list16()?;
        while !extensions.0.is_empty() {
            let kind = extensions.u16()?;
            let mut content = extensions.list16()?;
            if is_grease(kind) {
                continue;
            }
            hello.extensions.push(kind);
            match kind {
                SERVER_NAME => hello.named = true,
                SIGNATURE_ALGORITHMS => hello.signatures = content.list16()?.values()?,
                ALPN => hello.protocol = content.list16()?.list8()?.0,
                SUPPORTED_VERSIONS => hello.version = content.list8()?.values()?.into_iter().max()?,
                _ => {}
            }
        }
        Some(hello)
    }

    fn fingerprint(mut self) -> Ja4 {
        let mut out = [b'_'; Ja4::LENGTH];
        out[0] = b't';
        out[1..3].copy_from_slice(version(self.version));
        out[3] = if self.named { b'd' } else { b'i' };
        out[4..6].copy_from_slice(&count(self.suites.len()));
        out[6..8].copy_from_slice(&count(self.extensions.len()));
        out[8..10].copy_from_slice(&ends(self.protocol));
        self.suites.sort_unstable();
        hash(&mut out[11..23], &self.suites, &[]);
        self.extensions.retain(|kind| !matches!(*kind, SERVER_NAME | ALPN));
        self.extensions.sort_unstable();
        hash(&mut out[24..36], &self.extensions, &self.signatures);
        Ja4(out)
    }
}

fn version(number: u16) -> &'static [u8; 2] {
    match number {
        0x0304 => b"13",
        0x0303 => b"12",
        0x0302 => b"11",
        0x0301 => b"10",
        0x0300 => b"s3",
        0x0002 => b"s2",
        _ => b"00",
    }
}

fn count(n: usize) -> [u8; 2] {
    let n = n.min(99) as u8;
    [b'0' + n / 10, b'0' + n % 10]
}

/// The first and last character of the first protocol; of its hexadecimal form, where one isn't alphanumeric.
fn ends(protocol: &[u8]) -> [u8; 2] {
    let (Some(&first), Some(&last)) = (protocol.first(), protocol.last()) else { return *b"00" };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [first, last];
    }
    [hex_digit(first >> 4), hex_digit(last & 15)]
}

/// The first characters of the hash of `sorted`, and of `after` behind an underscore. Zeros for an empty list.
fn hash(out: &mut [u8], sorted: &[u16], after: &[u16]) {
    if sorted.is_empty() {
        return out.fill(b'0');
    }
    let mut text: SmallVec<[u8; 512]> = SmallVec::new();
    for list in [sorted, after] {
        for (at, value) in list.iter().enumerate() {
            if at > 0 {
                text.push(b',');
            } else if !text.is_empty() {
                text.push(b'_');
            }
            text.extend([12, 8, 4, 0].map(|shift| hex_digit((value >> shift) as u8 & 15)));
        }
    }
    let hash = Sha256::digest(&text);
    for (at, letter) in out.iter_mut().enumerate() {
        let byte = hash[at / 2];
        *letter = hex_digit(if at % 2 == 0 { byte >> 4 } else { byte & 15 });
    }
}

fn hex_digit(value: u8) -> u8 {
    b"0123456789abcdef"[usize::from(value)]
}

/// Whether a value stands for nothing and only keeps servers tolerant (RFC 8701 §2): `0x0a0a`, `0x1a1a`, …
fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}

/// Reads what TLS writes: numbers, and lists behind their length.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn list8(&mut self) -> Option<Reader<'a>> {
        let length = self.u8()?;
        self.take(length.into()).map(Reader)
    }

    fn list16(&mut self) -> Option<Reader<'a>> {
        let length = self.u16()?;
        self.take(length.into()).map(Reader)
    }

    /// All numbers of a list, without GREASE.
    fn values(mut self) -> Option<Values> {
        let mut values = Values::new();
        while !self.0.is_empty() {
            let value = self.u16()?;
            if !is_grease(value) {
                values.push(value);
            }
        }
        Some(values)
    }
}

#[cfg(test)]
mod tests;
