//! Addresses: where to listen, where endpoints are, whole networks.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::{Host, Literal, Wrong};
use crate::desired::Address;

/// Where to listen. Port 0 takes any free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind(pub SocketAddr);

impl Literal for Bind {
    const WHAT: &'static str = "an address with a port";
    const CODE: &'static str = "bad-address";
    const EXAMPLES: &'static [&'static str] = &["0.0.0.0:8080", "127.0.0.1:9900", "[::]:443"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        let both = |port: &str| {
            format!(
                "write \"0.0.0.0:{port}\" for every IPv4 address, \"[::]:{port}\" for IPv6 too, or \"127.0.0.1:{port}\""
            )
        };
        if text.parse::<u16>().is_ok() {
            return Err(Wrong::new("the address is missing").help(both(text)));
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            let example = SocketAddr::new(ip, 8080);
            return Err(Wrong::new("the port is missing").help(format!("write \"{example}\"")));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(Wrong::new("this isn't an address").help(both("8080")));
        };
        if port.parse::<u16>().is_err() {
            return Err(Wrong::new(format!("\"{port}\" isn't a port from 0 to 65535")));
        }
        match host {
            "" | "*" => Err(Wrong::new("the address is missing").help(both(port))),
            "localhost" => Err(Wrong::new("a name can't be listened on").help(format!("write \"127.0.0.1:{port}\""))),
            _ => Err(Wrong::new(format!("\"{host}\" isn't an IP address")).help(both(port))),
        }
    }
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointAddress(pub Address);

impl Literal for EndpointAddress {
    const WHAT: &'static str = "an endpoint";
    const CODE: &'static str = "bad-endpoint";
    const EXAMPLES: &'static [&'static str] = &["10.0.0.7:8080", "app.internal:8080", "unix:/run/app.sock"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write \"10.0.0.7:8080\", \"app.internal:8080\" or \"unix:/run/app.sock\"";
        let wrong = |label: &str| Wrong::new(label).help(FORM);
        for scheme in ["http://", "https://"] {
            if let Some(rest) = text.strip_prefix(scheme) {
                let plain = rest.split('/').next().unwrap_or(rest);
                let help = match scheme {
                    "https://" => format!("write \"{plain}\", and tls: {{}} on the service"),
                    _ => format!("write \"{plain}\""),
                };
                return Err(Wrong::new("an endpoint is an address, not a URL").help(help));
            }
        }
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() || path.contains('\0') {
                return Err(wrong("the path of the socket is missing"));
            }
            return Ok(Self(Address::Unix(PathBuf::from(path))));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 {
                return Err(wrong("an endpoint can't have port 0"));
            }
            return Ok(Self(Address::Tcp(address)));
        }
        if text.parse::<IpAddr>().is_ok() {
            let help =
                if text.contains(':') { format!("write \"[{text}]:8080\"") } else { format!("write \"{text}:8080\"") };
            return Err(Wrong::new("the port is missing").help(help));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(wrong("the port is missing"));
        };
        if host.contains('/') || port.contains('/') {
            return Err(wrong("an endpoint has no path"));
        }
        let Ok(port @ 1..) = port.parse::<u16>() else {
            return Err(wrong(&format!("\"{port}\" isn't a port from 1 to 65535")));
        };
        let host = Host::parse(host).map_err(|wrong| Wrong::new(wrong.label).help(FORM))?.0;
        if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return Err(wrong(&format!("\"{host}\" isn't an IP address")));
        }
        Ok(Self(Address::Name(host, port)))
    }
}

/// Where a Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrl {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The number of the database.
    pub database: u16,
}

impl Literal for RedisUrl {
    const WHAT: &'static str = "the URL of a Redis";
    const CODE: &'static str = "bad-redis";
    const EXAMPLES: &'static [&'static str] = &["redis://127.0.0.1:6379", "redis://redis.internal:6379/2"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write \"redis://127.0.0.1:6379\", with \"/2\" behind it for another database than 0";
        let wrong = |label: &str| Wrong::new(label).help(FORM);
        let Some(rest) = text.strip_prefix("redis://") else {
            return Err(wrong(if text.starts_with("rediss://") {
                "TLS isn't spoken here"
            } else {
                "redis:// is missing"
            }));
        };
        if rest.contains('@') {
            return Err(Wrong::new("a password has no place here").help("put it into a file: password_file"));
        }
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match database {
            "" => 0,
            number => number.parse().map_err(|_| wrong("the database isn't a number"))?,
        };
        let (host, port) = match authority.parse::<SocketAddr>() {
            Ok(address) => (address.ip().to_string(), address.port()),
            Err(_) => {
                let (host, port) = authority.split_once(':').unwrap_or((authority, "6379"));
                let port = port.parse().map_err(|_| wrong("the port isn't a number from 1 to 65535"))?;
                (Host::parse(host).map_err(|wrong| Wrong::new(wrong.label).help(FORM))?.0, port)
            }
        };
        if port == 0 {
            return Err(wrong("the port isn't a number from 1 to 65535"));
        }
        Ok(Self { host, port, database })
    }
}

/// A network: `10.0.0.0/8`. A single address is a network of one. Host bits are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl Literal for Network {
    const WHAT: &'static str = "a network";
    const CODE: &'static str = "bad-network";
    const EXAMPLES: &'static [&'static str] = &["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write \"10.0.0.0/8\", \"2001:db8::/32\" or a single address";
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self(net.trunc()));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self(IpNet::from(ip)));
        }
        let label = match text.split_once('/') {
            Some((ip, bits)) => match ip.parse::<IpAddr>() {
                Ok(ip) => {
                    let most = if ip.is_ipv4() { 32 } else { 128 };
                    format!("\"{bits}\" isn't a prefix length from 0 to {most}")
                }
                Err(_) => format!("\"{ip}\" isn't an IP address"),
            },
            None => "this isn't an IP address".into(),
        };
        Err(Wrong::new(label).help(FORM))
    }
}
