//! Reads what a request is told apart by: for limits, stickiness and hashing.
//!
//! # Invariants
//!
//! - A key that is there but empty counts as absent, so that `uid=` doesn't put every
//!   anonymous visitor on the same arm or into the same bucket.
//! - Reading allocates only for a query parameter that is percent-encoded.

use std::borrow::Cow;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, header};
use tidegate_model::desired::Key;

use super::Head;
use crate::tls::Ja4;

/// A [`Key`] with its header name resolved.
#[derive(Clone, Debug)]
pub enum ReadyKey {
    /// See [`Key::ClientIp`].
    ClientIp,
    /// See [`Key::Network`].
    Network,
    /// See [`Key::Ja4`].
    Ja4,
    /// See [`Key::Header`].
    Header(HeaderName),
    /// See [`Key::Cookie`].
    Cookie(Box<str>),
    /// See [`Key::Query`].
    Query(Box<str>),
    /// See [`Key::Host`].
    Host,
    /// See [`Key::Path`].
    Path,
    /// See [`Key::Method`].
    Method,
}

/// A key's value. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Bytes of the request, or decoded ones.
    Bytes(Cow<'a, [u8]>),
    /// The visitor's network.
    Network(Network),
    /// The fingerprint of the TLS handshake.
    Ja4(Ja4),
}

impl Value<'_> {
    /// The bytes that are hashed. Text as it is; an address as its 4 or 16 octets, bits beyond the prefix zeroed.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Network(network) => network.as_bytes(),
            Self::Ja4(ja4) => ja4.as_str().as_bytes(),
        }
    }
}

/// Bits of an IPv4 address that the key `network` keeps: what is announced to the internet as one at the least.
pub const NETWORK_V4: u8 = 24;

/// The same of an IPv6 address: what a site usually gets (RFC 6177).
pub const NETWORK_V6: u8 = 48;

/// A visitor as keys see one: the address, cut to the prefix by which visitors are told apart, and what the TLS
/// handshake looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    octets: [u8; 16],
    len: u8,
    ja4: Option<Ja4>,
}

impl Network {
    /// `address`, where IPv6 keeps its first `v6_prefix` bits only: whoever has one address of
    /// a /64 has them all. IPv4-mapped addresses count as IPv4.
    pub fn of(address: IpAddr, v6_prefix: u8) -> Self {
        let mut octets = [0; 16];
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                octets[..4].copy_from_slice(&v4.octets());
                Self { octets, len: 4, ja4: None }
            }
            IpAddr::V6(v6) => {
                let drop = 128 - u32::from(v6_prefix.min(128));
                let mask = u128::MAX.checked_shl(drop).unwrap_or(0);
                octets = (v6.to_bits() & mask).to_be_bytes();
                Self { octets, len: 16, ja4: None }
            }
        }
    }

    /// The network that this one lies in, as [`NETWORK_V4`] and [`NETWORK_V6`] cut it.
    pub fn widened(mut self) -> Self {
        let kept = if self.len == 4 { NETWORK_V4 / 8 } else { NETWORK_V6 / 8 };
        self.octets[usize::from(kept)..].fill(0);
        self
    }

    /// The same visitor, whose TLS handshake looked like this.
    pub fn with_ja4(self, ja4: Option<Ja4>) -> Self {
        Self { ja4, ..self }
    }

    /// 4 or 16 octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }
}

impl ReadyKey {
    /// Resolves `key`.
    pub fn new(key: &Key) -> Self {
        match key {
            Key::ClientIp => Self::ClientIp,
            Key::Network => Self::Network,
            Key::Ja4 => Self::Ja4,
            Key::Header(name) => Self::Header(legal_name(name)),
            Key::Cookie(name) => Self::Cookie(name.as_str().into()),
            Key::Query(name) => Self::Query(name.as_str().into()),
            Key::Host => Self::Host,
            Key::Path => Self::Path,
            Key::Method => Self::Method,
        }
    }

    /// Whether this is the cookie called `name`.
    pub fn is_cookie(&self, name: &str) -> bool {
        matches!(self, Self::Cookie(cookie) if **cookie == *name)
    }

    /// The value in `head`, or `None` where it is absent or empty. Of several header lines
    /// or parameters of one name the first counts.
    pub fn read<'a>(&self, head: &Head<'a>, client: Network) -> Option<Value<'a>> {
        let bytes: Cow<'a, [u8]> = match self {
            Self::ClientIp => return Some(Value::Network(client)),
            Self::Network => return Some(Value::Network(client.widened())),
            Self::Ja4 => return client.ja4.map(Value::Ja4),
            Self::Header(name) => head.headers.get(name)?.as_bytes().into(),
            Self::Cookie(name) => cookie(head.headers, name)?.into(),
            Self::Query(name) => query(head.query?, name)?,
            Self::Host => head.host.as_bytes().into(),
            Self::Path => head.path.as_bytes().into(),
            Self::Method => {
                let method: &'a http::Method = head.method;
                method.as_str().as_bytes().into()
            }
        };
        (!bytes.is_empty()).then_some(Value::Bytes(bytes))
    }
}

/// A header name that `check` has proven legal.
pub(super) fn legal_name(name: &str) -> HeaderName {
    HeaderName::from_bytes(name.as_bytes()).expect("check refuses illegal header names")
}

/// The first cookie called `name`, over all Cookie lines (RFC 6265 §5.4; HTTP/2 splits them, RFC 9113 §8.2.3).
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get_all(header::COOKIE).iter().find_map(|line| {
        line.as_bytes().split(|&b| b == b';').find_map(|pair| {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(value.trim_ascii())
        })
    })
}

/// The first parameter called `name`, percent-decoded and with `+` as a space
/// (`application/x-www-form-urlencoded`, URL Standard §5.1). A parameter without `=` is empty.
pub fn query<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        decoded(key).eq(name.bytes()).then(|| {
            if value.bytes().any(|b| matches!(b, b'%' | b'+')) {
                Cow::Owned(decoded(value).collect())
            } else {
                Cow::Borrowed(value.as_bytes())
            }
        })
    })
}

/// Bytes of `text` percent-decoded; an incomplete escape stands for itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> + '_ {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        let escape = (byte == b'%').then(|| Some(hex(*bytes.get(at + 1)?)? << 4 | hex(*bytes.get(at + 2)?)?)).flatten();
        at += if escape.is_some() { 3 } else { 1 };
        Some(escape.unwrap_or(if byte == b'+' { b' ' } else { byte }))
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn cookies_are_found_across_several_lines_and_by_their_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("xuid=9; a=1 ;b = 2"));
        headers.append(header::COOKIE, HeaderValue::from_static("uid=42; uid=43"));

        assert_eq!(cookie(&headers, "uid"), Some(&b"42"[..]));
        assert_eq!(cookie(&headers, "a"), Some(&b"1"[..]));
        assert_eq!(cookie(&headers, "ui"), None);
    }

    #[test]
    fn query_takes_the_first_occurrence_decoded() {
        assert_eq!(query("a=1&b=x%20y+z&b=2", "b").as_deref(), Some(&b"x y z"[..]));
        assert_eq!(query("A=1&%61=2", "a").as_deref(), Some(&b"2"[..]));
        assert_eq!(query("a&b=1", "a").as_deref(), Some(&b""[..]));
        assert_eq!(query("a=%zz%4", "a").as_deref(), Some(&b"%zz%4"[..]));
        assert_eq!(query("ab=1", "a"), None);
    }

    #[test]
    fn addresses_of_one_ipv6_prefix_are_one_visitor_and_mapped_ones_are_ipv4() {
        let of = |text: &str, prefix| Network::of(text.parse().unwrap(), prefix);

        assert_eq!(of("2001:db8::1", 64), of("2001:db8::ffff:1", 64));
        assert_ne!(of("2001:db8::1", 64), of("2001:db8:0:1::1", 64));
        assert_ne!(of("2001:db8::1", 128), of("2001:db8::2", 128));
        assert_eq!(of("::ffff:10.0.0.1", 64), of("10.0.0.1", 64));
        assert_eq!(of("2001:db8::1", 0), of("fe80::1", 0));
        assert_eq!(of("10.0.0.1", 64).widened(), of("10.0.0.254", 64).widened());
        assert_ne!(of("10.0.0.1", 64).widened(), of("10.0.1.1", 64).widened());
        assert_eq!(of("2001:db8:7:1::1", 64).widened(), of("2001:db8:7:2::1", 64).widened());
        assert_ne!(of("2001:db8:7::1", 64).widened(), of("2001:db8:8::1", 64).widened());
    }
}
