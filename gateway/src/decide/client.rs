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

use super::access::NetSet;
use super::key::{Network, legal_name};
use super::{Connection, Head};

/// Addresses that are read from one request. Beyond it the walk ends: nobody has 32 proxies in a row.
const MAX_HOPS: usize = 32;

/// Who asked, by way of whom.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How the visitor came: `http` or `https`.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that was asked for.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

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
    /// The visitor's address.
    pub client: IpAddr,
    /// Whether the peer is one of the trusted proxies.
    pub trusted: bool,
    /// X-Forwarded-For: what a trusted peer sent, and the peer.
    pub x_forwarded_for: HeaderValue,
    /// X-Forwarded-Proto: what a trusted peer sent, or how this connection came.
    pub x_forwarded_proto: HeaderValue,
    /// X-Forwarded-Host: what a trusted peer sent, or the request's host with its port. `None` without a host.
    pub x_forwarded_host: Option<HeaderValue>,
    /// Forwarded (RFC 7239): what a trusted peer sent, and this hop.
    pub forwarded: HeaderValue,
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

    /// Whether the visitor came by https, as far as we and trusted proxies know.
    pub fn is_https(&self, head: &Head<'_>, connection: &Connection) -> bool {
        match head.headers.get(X_FORWARDED_PROTO) {
            Some(proto) if self.trusts(connection.peer.ip()) => proto.as_bytes().eq_ignore_ascii_case(b"https"),
            _ => connection.tls.is_some(),
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

/// What to tell the endpoint about the visitor behind `head`, who asked for `authority` (host and port).
pub fn forwarding(head: &Head<'_>, authority: &str, connection: &Connection, finder: &ClientFinder) -> Forwarding {
    let peer = connection.peer.ip().to_canonical();
    let trusted = finder.trusts(peer);
    let heard = |name: HeaderName| if trusted { head.headers.get(name).cloned() } else { None };
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
        client: finder.find(head.headers, connection.peer),
        trusted,
        x_forwarded_for: appended(trusted, head.headers, X_FORWARDED_FOR, &peer.to_string()),
        x_forwarded_proto: heard(X_FORWARDED_PROTO).unwrap_or(HeaderValue::from_static(own_proto)),
        x_forwarded_host: heard(X_FORWARDED_HOST).or(host),
        forwarded: appended(trusted, head.headers, header::FORWARDED, &hop),
    }
}

/// All lines of `name` that a trusted peer sent, and `own`, as one line.
fn appended(trusted: bool, headers: &HeaderMap, name: HeaderName, own: &str) -> HeaderValue {
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
