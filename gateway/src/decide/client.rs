//! Finds the visitor's address, and says what to forward about it.
//!
//! The connection's own address is a fact; what headers say is believed only as far as it was written by
//! trusted proxies. The header is read from the right, where the nearest proxy wrote; the first address that isn't
//! a trusted proxy's is the visitor's. Everything further left is the visitor's own claim.
//!
//! # Invariants
//!
//! - A peer that isn't trusted can't choose the address it is seen by.
//! - What can't be read (`unknown`, an obfuscated name, garbage) ends the walk: the last address that was
//!   vouched for is the visitor's.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tidegate_model::desired::ClientIp;

use super::key::{Network, legal_name};
use super::nets::NetSet;
use super::{Connection, Head};

/// Addresses that are read from one request. Beyond it the walk ends: nobody has 32 proxies in a row.
const MAX_HOPS: usize = 32;

/// Who asked, by way of whom.
pub static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How the visitor came: `http` or `https`.
pub static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that was asked for.
pub static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The client's certificate (RFC 9440). What a client says there itself is removed.
pub static CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// The rest of its chain. Removed too, and never sent: only the leaf says who somebody is.
pub static CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// Finds visitors' addresses. Made once for each snapshot.
#[derive(Clone, Debug)]
pub struct ClientFinder {
    trusted: NetSet,
    header: HeaderName,
    v6_prefix: u8,
}

/// What is told to the endpoint about the visitor. Each replaces whatever the request carries;
/// what a trusted proxy had said is contained already.
#[derive(Clone, Debug)]
pub struct Forwarding {
    /// X-Forwarded-For: what a trusted peer sent, and the peer.
    pub x_forwarded_for: HeaderValue,
    /// X-Forwarded-Proto: what a trusted peer sent, or how this connection came.
    pub x_forwarded_proto: HeaderValue,
    /// X-Forwarded-Host: what a trusted peer sent, or the request's host with its port. `None` without a host.
    pub x_forwarded_host: Option<HeaderValue>,
    /// Forwarded (RFC 7239): what a trusted peer sent, and this hop.
    pub forwarded: HeaderValue,
    /// Client-Cert (RFC 9440): the certificate that the client of this connection showed. Nobody else's word is taken.
    pub client_cert: Option<HeaderValue>,
}

impl ClientFinder {
    /// For the settings in force.
    pub fn new(config: &ClientIp) -> Self {
        Self { trusted: NetSet::new(&config.trusted), header: legal_name(&config.header), v6_prefix: config.v6_prefix }
    }

    /// The visitor's address.
    pub fn find(&self, headers: &HeaderMap, peer: SocketAddr) -> IpAddr {
        let peer = peer.ip().to_canonical();
        if !self.trusted.contains(peer) {
            return peer;
        }
        let mut client = peer;
        let lines = headers.get_all(&self.header).iter().rev();
        let hops = lines.flat_map(|line| line.as_bytes().rsplit(|&b| b == b',')).take(MAX_HOPS);
        for hop in hops {
            let Some(address) = self.parse(hop) else { break };
            client = address;
            if !self.trusted.contains(address) {
                break;
            }
        }
        client
    }

    /// What visitors of one network share.
    pub fn network(&self, client: IpAddr) -> Network {
        Network::of(client, self.v6_prefix)
    }

    /// Whether `peer` is one of the trusted proxies.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.contains(peer)
    }

    /// Whether the visitor came by https, as far as we and trusted proxies know, and to which port. Where a
    /// proxy in front ended TLS, its port is taken to be the scheme's own.
    pub fn came_by(&self, head: &Head<'_>, connection: &Connection) -> (bool, u16) {
        let direct = connection.tls.is_some();
        let https = match head.headers.get(&X_FORWARDED_PROTO) {
            Some(proto) if self.trusts(connection.peer.ip()) => proto.as_bytes().eq_ignore_ascii_case(b"https"),
            _ => direct,
        };
        match (https, https == direct) {
            (_, true) => (https, connection.local.port()),
            (true, false) => (true, 443),
            (false, false) => (false, 80),
        }
    }

    fn parse(&self, hop: &[u8]) -> Option<IpAddr> {
        let hop = std::str::from_utf8(hop).ok()?;
        if self.header == header::FORWARDED {
            let pairs = hop.split(';').filter_map(|pair| pair.split_once('='));
            let (_, value) = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
            return address(value.trim().trim_matches('"'));
        }
        address(hop.trim())
    }
}

/// What to tell the endpoint about the visitor who sent `headers` and asked for `authority` (host and port).
pub fn forwarding(headers: &HeaderMap, authority: &str, connection: &Connection, finder: &ClientFinder) -> Forwarding {
    let peer = connection.peer.ip().to_canonical();
    let trusted = finder.trusts(peer);
    let heard = |name: &HeaderName| if trusted { headers.get(name).cloned() } else { None };
    let own_proto = if connection.tls.is_some() { "https" } else { "http" };
    let host = HeaderValue::from_str(authority).ok().filter(|host| !host.is_empty());

    let mut hop = match peer {
        IpAddr::V4(v4) => format!("for={v4}"),
        IpAddr::V6(v6) => format!("for=\"[{v6}]\""),
    };
    if let Some(host) = host.as_ref().and_then(|host| host.to_str().ok()).filter(|host| !host.contains(['"', '\\'])) {
        let _ = write!(hop, ";host=\"{host}\""); // Writing to a String can't fail.
    }
    let _ = write!(hop, ";proto={own_proto}");

    Forwarding {
        x_forwarded_for: appended(trusted, headers, &X_FORWARDED_FOR, &peer.to_string()),
        x_forwarded_proto: heard(&X_FORWARDED_PROTO).unwrap_or(HeaderValue::from_static(own_proto)),
        x_forwarded_host: heard(&X_FORWARDED_HOST).or(host),
        forwarded: appended(trusted, headers, &header::FORWARDED, &hop),
        client_cert: connection.tls.as_ref().and_then(|tls| tls.client.as_ref()?.header.clone()),
    }
}

/// All lines of `name` that a trusted peer sent, and `own`, as one line.
fn appended(trusted: bool, headers: &HeaderMap, name: &HeaderName, own: &str) -> HeaderValue {
    let mut line = Vec::with_capacity(own.len());
    if trusted {
        for value in headers.get_all(name).iter().filter(|value| !value.is_empty()) {
            line.extend_from_slice(value.as_bytes());
            line.extend_from_slice(b", ");
        }
    }
    line.extend_from_slice(own.as_bytes());
    HeaderValue::try_from(line).expect("joined header values and an address are legal")
}

/// An address, with or without port and brackets. IPv4-mapped ones come out as IPv4.
fn address(text: &str) -> Option<IpAddr> {
    let bracketed = |text: &str| {
        let (inside, after) = text.strip_prefix('[')?.split_once(']')?;
        let port_or_nothing = after.is_empty() || after.strip_prefix(':')?.parse::<u16>().is_ok();
        port_or_nothing.then(|| inside.parse::<Ipv6Addr>().ok()).flatten().map(IpAddr::V6)
    };
    let ip =
        text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|addr| addr.ip())).or_else(|| bracketed(text));
    ip.map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Asked, from};
    use super::*;

    fn finder(header: &str) -> ClientFinder {
        let trusted = ["10.0.0.0/8", "2001:db8:1::/48"].map(|net| net.parse().unwrap()).to_vec();
        ClientFinder::new(&ClientIp { trusted, header: header.into(), v6_prefix: 64 })
    }

    fn found(header: &str, peer: &str, lines: &[&str]) -> String {
        let asked = lines.iter().fold(Asked::get("h", "/"), |asked, line| asked.header(header, line));
        finder(header).find(&asked.headers, from(peer).peer).to_string()
    }

    #[test]
    fn a_peer_that_is_not_trusted_is_the_visitor_whatever_it_says() {
        assert_eq!(found("x-forwarded-for", "192.0.2.9", &["198.51.100.1"]), "192.0.2.9");
        assert_eq!(found("forwarded", "192.0.2.9", &["for=198.51.100.1"]), "192.0.2.9");
    }

    #[test]
    fn the_nearest_address_that_is_not_a_trusted_proxy_is_the_visitor() {
        let xff = |lines: &[&str]| found("x-forwarded-for", "10.0.0.1", lines);

        assert_eq!(xff(&["198.51.100.1"]), "198.51.100.1");
        assert_eq!(xff(&["1.1.1.1, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(xff(&["1.1.1.1, 198.51.100.1", "10.0.0.2,10.0.0.3"]), "198.51.100.1");
        assert_eq!(xff(&["10.0.0.9, 10.0.0.2"]), "10.0.0.9");
        assert_eq!(xff(&[]), "10.0.0.1");
    }

    #[test]
    fn ports_brackets_and_mapped_addresses_are_understood() {
        let xff = |line: &str| found("x-forwarded-for", "::ffff:10.0.0.1", &[line]);

        assert_eq!(xff("198.51.100.1:4711"), "198.51.100.1");
        assert_eq!(xff("[2001:db8::7]:4711"), "2001:db8::7");
        assert_eq!(xff("[2001:db8::7]"), "2001:db8::7");
        assert_eq!(xff("2001:db8::7"), "2001:db8::7");
        assert_eq!(xff("::ffff:198.51.100.1"), "198.51.100.1");
    }

    #[test]
    fn what_cannot_be_read_ends_the_walk_at_the_last_address_vouched_for() {
        let xff = |line: &str| found("x-forwarded-for", "10.0.0.1", &[line]);

        for garbage in ["unknown", "_hidden", "", "1.2.3", "1.2.3.4:99999", "[::1", "::1]:80", "[::1]x", "a\u{e9}"] {
            assert_eq!(xff(garbage), "10.0.0.1", "{garbage}");
            assert_eq!(xff(&format!("198.51.100.1, {garbage}, 10.0.0.2")), "10.0.0.2", "{garbage}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        let forwarded = |line: &str| found("forwarded", "10.0.0.1", &[line]);

        assert_eq!(forwarded("for=198.51.100.1;proto=https;by=10.0.0.1"), "198.51.100.1");
        assert_eq!(forwarded("proto=https; For=\"[2001:db8::7]:4711\", for=10.0.0.2"), "2001:db8::7");
        assert_eq!(forwarded("for=198.51.100.1, for=unknown"), "10.0.0.1");
        assert_eq!(forwarded("by=198.51.100.1"), "10.0.0.1");
    }

    #[test]
    fn a_header_that_holds_one_address_may_be_named() {
        assert_eq!(found("cf-connecting-ip", "10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
    }

    #[test]
    fn a_walk_ends_after_so_many_hops() {
        let hops = format!("198.51.100.1, {}", vec!["10.0.0.2"; MAX_HOPS].join(", "));

        assert_eq!(found("x-forwarded-for", "10.0.0.1", &[&hops]), "10.0.0.2");
    }

    #[test]
    fn a_trusted_proxy_that_ended_tls_says_so_and_nobody_else_can() {
        let asked = Asked::get("h", "/").header("x-forwarded-proto", "https");
        let by = |peer: &str| finder("x-forwarded-for").came_by(&asked.head(), &from(peer));

        assert_eq!(by("10.0.0.1"), (true, 443));
        assert_eq!(by("192.0.2.7"), (false, 8080));
    }

    #[test]
    fn a_trusted_peer_is_appended_to_and_any_other_is_replaced() {
        let asked = Asked::get("shop.example.com", "/")
            .header("host", "shop.example.com:8080")
            .header("x-forwarded-for", "198.51.100.1")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "www.example.com")
            .header("forwarded", "for=198.51.100.1");
        let told = |peer: &str| {
            let told = forwarding(&asked.headers, "shop.example.com:8080", &from(peer), &finder("x-forwarded-for"));
            let host = told.x_forwarded_host.unwrap();
            [told.x_forwarded_for, told.x_forwarded_proto, host, told.forwarded]
                .map(|value| value.to_str().unwrap().to_owned())
        };

        assert_eq!(
            told("10.0.0.1"),
            [
                "198.51.100.1, 10.0.0.1",
                "https",
                "www.example.com",
                "for=198.51.100.1, for=10.0.0.1;host=\"shop.example.com:8080\";proto=http",
            ]
        );
        assert_eq!(
            told("2001:db8::7"),
            [
                "2001:db8::7",
                "http",
                "shop.example.com:8080",
                "for=\"[2001:db8::7]\";host=\"shop.example.com:8080\";proto=http",
            ]
        );
    }
}
