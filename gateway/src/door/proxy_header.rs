//! The PROXY protocol, versions 1 and 2, strictly (haproxy.org/download/3.2/doc/proxy-protocol.txt).
//!
//! # Invariants
//!
//! - How a header is cut into reads makes no difference to the outcome.
//! - Not a byte behind the header is consumed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of a version 1 header, its CRLF included (specification, section 2.1).
const MAX_V1: usize = 107;

/// Bytes behind the fixed part of a version 2 header: addresses and extensions. More is refused.
const MAX_V2: usize = 4_096;

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxied {
    /// The connection is the proxy's own (a health check), or its origin is unknown or no IP
    /// address: the socket's addresses stay in force.
    Own,
    /// Where the connection came from, and where it went to.
    For {
        /// The visitor.
        source: SocketAddr,
        /// The address that the visitor connected to.
        destination: SocketAddr,
    },
}

/// The header is missing or malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the PROXY protocol header is missing or malformed")]
pub struct BadHeader;

/// Reads the header at the front of `bytes`, and tells its length. `None` when more bytes are needed.
///
/// # Errors
///
/// When no further byte could make it a legal header.
pub fn parse(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, BadHeader> {
    let begins = |with: &[u8]| {
        let n = bytes.len().min(with.len());
        bytes[..n] == with[..n]
    };
    if begins(V2_SIGNATURE) {
        return if bytes.len() < 16 { Ok(None) } else { v2(bytes) };
    }
    if !begins(b"PROXY ") {
        return Err(BadHeader);
    }
    let window = &bytes[..bytes.len().min(MAX_V1)];
    match window.iter().position(|b| *b == b'\n') {
        Some(end) => v1(&window[..end]).map(|proxied| Some((proxied, end + 1))),
        None if bytes.len() >= MAX_V1 => Err(BadHeader),
        None => Ok(None),
    }
}

fn v1(line: &[u8]) -> Result<Proxied, BadHeader> {
    let line = line.strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok()).ok_or(BadHeader)?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().ok_or(BadHeader)?;
    if family == "UNKNOWN" {
        return Ok(Proxied::Own); // Whatever follows is to be ignored.
    }
    let mut address = |v4: bool| {
        let ip: IpAddr = words.next().and_then(|word| word.parse().ok()).ok_or(BadHeader)?;
        if ip.is_ipv4() == v4 { Ok(ip) } else { Err(BadHeader) }
    };
    let v4 = match family {
        "TCP4" => true,
        "TCP6" => false,
        _ => return Err(BadHeader),
    };
    let (source, destination) = (address(v4)?, address(v4)?);
    let mut port = || {
        let word = words.next().ok_or(BadHeader)?;
        let plain = word.bytes().all(|b| b.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
        word.parse::<u16>().ok().filter(|_| plain).ok_or(BadHeader)
    };
    let proxied =
        Proxied::For { source: SocketAddr::new(source, port()?), destination: SocketAddr::new(destination, port()?) };
    if words.next().is_some() { Err(BadHeader) } else { Ok(proxied) }
}

/// `bytes` holds the fixed part at least.
fn v2(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, BadHeader> {
    let (version_and_command, family) = (bytes[12], bytes[13]);
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(BadHeader),
    };
    let addresses = match family {
        0x00 => 0,   // Unspecified.
        0x11 => 12,  // TCP over IPv4.
        0x21 => 36,  // TCP over IPv6.
        0x31 => 216, // A unix stream.
        // A health check may say what it likes, as the receiver is to ignore it.
        _ if local => 0,
        _ => return Err(BadHeader),
    };
    if length > MAX_V2 || (!local && length < addresses) {
        return Err(BadHeader);
    }
    let end = 16 + length;
    let Some(body) = bytes.get(16..end) else { return Ok(None) };
    let proxied = match family {
        0x11 if !local => {
            two(body, 4, |ip| Ipv4Addr::from(<[u8; 4]>::try_from(ip).expect("invariant: 4 bytes")).into())
        }
        0x21 if !local => {
            two(body, 16, |ip| Ipv6Addr::from(<[u8; 16]>::try_from(ip).expect("invariant: 16 bytes")).into())
        }
        _ => Proxied::Own,
    };
    Ok(Some((proxied, end)))
}

/// Two addresses of `width` bytes each, then their ports.
fn two(body: &[u8], width: usize, ip: impl Fn(&[u8]) -> IpAddr) -> Proxied {
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    Proxied::For {
        source: SocketAddr::new(ip(&body[..width]), port(2 * width)),
        destination: SocketAddr::new(ip(&body[width..2 * width]), port(2 * width + 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(source: &str, destination: &str) -> Proxied {
        Proxied::For { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn v2_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family][..], &length, body].concat()
    }

    #[test]
    fn version_1_names_both_ends() {
        let wire = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\nGET /";
        let six = b"PROXY TCP6 2001:db8::7 2001:db8::1 0 65535\r\n";

        assert_eq!(parse(wire), Ok(Some((made("192.0.2.7:56324", "198.51.100.1:443"), wire.len() - 5))));
        assert_eq!(parse(six), Ok(Some((made("[2001:db8::7]:0", "[2001:db8::1]:65535"), six.len()))));
        assert_eq!(parse(b"PROXY UNKNOWN whatever this is\r\n"), Ok(Some((Proxied::Own, 32))));
    }

    #[test]
    fn version_2_names_both_ends_and_its_extensions_are_skipped() {
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];
        let wire = v2_header(0x21, 0x11, &[&four[..], b"\x04\x00\x02xx"].concat());
        let mut six = [0_u8; 36];
        (six[15], six[31], six[33], six[35]) = (1, 2, 80, 81);

        assert_eq!(parse(&wire), Ok(Some((made("192.0.2.7:56324", "198.51.100.1:443"), wire.len()))));
        assert_eq!(parse(&v2_header(0x21, 0x21, &six)), Ok(Some((made("[::1]:80", "[::2]:81"), 52))));
    }

    #[test]
    fn a_proxys_own_connection_and_a_unix_client_keep_the_sockets_addresses() {
        for wire in [v2_header(0x20, 0, b""), v2_header(0x20, 0x11, &[0; 12]), v2_header(0x21, 0x31, &[0; 216])] {
            assert_eq!(parse(&wire), Ok(Some((Proxied::Own, wire.len()))));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_V1));
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 70000\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY\r\n",
            long.as_bytes(),
            &v2_header(0x31, 0x11, &[0; 12]),
            &v2_header(0x22, 0x11, &[0; 12]),
            &v2_header(0x21, 0x12, &[0; 12]),
            &v2_header(0x21, 0x11, &[0; 11]),
            &v2_header(0x21, 0x11, &[0; MAX_V2 + 1]),
        ] {
            assert_eq!(parse(bad), Err(BadHeader), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    fn wire() -> impl Strategy<Value = Vec<u8>> {
        let v2 = (
            0x1e_u8..0x23,
            prop::sample::select(vec![0_u8, 0x11, 0x12, 0x21, 0x31]),
            prop::collection::vec(any::<u8>(), 0..240),
        )
            .prop_map(|(command, family, body)| v2_header(command, family, &body));
        let v1 = "PROXY (TCP4|TCP6|UNKNOWN) ?(1\\.2\\.3\\.4|::1)? (1\\.2\\.3\\.4|::1) [0-9]{1,6} [0-9]{1,3}\r?\n?"
            .prop_map(String::into_bytes);
        let noise = prop::collection::vec(any::<u8>(), 0..130);
        (prop_oneof![v1, v2, noise], prop::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(head, tail)| [head, tail].concat())
    }

    proptest! {
        #[test]
        fn how_a_header_is_cut_makes_no_difference(wire in wire()) {
            let whole = parse(&wire);

            let first = (0..=wire.len()).map(|cut| parse(&wire[..cut])).find(|outcome| !matches!(outcome, Ok(None)));

            prop_assert_eq!(first.unwrap_or(Ok(None)), whole);
        }
    }
}
