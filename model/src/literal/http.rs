//! Pieces of HTTP: header names and values, methods, hosts, statuses.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Literal, Wrong};
use crate::desired::Key;

/// Whether `text` is a token (RFC 9110 §5.6.2).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A header's name, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderName(pub String);

impl Literal for HeaderName {
    const WHAT: &'static str = "a header name";
    const CODE: &'static str = "bad-header-name";
    const EXAMPLES: &'static [&'static str] = &["x-user"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.starts_with(':') {
            return Err(
                Wrong::new("a pseudo-header can't be named").help("host, path and method have keys of their own")
            );
        }
        if !is_token(text) || text.len() > 256 {
            let label = match text.chars().find(|char| !is_token(char.encode_utf8(&mut [0; 4]))) {
                Some(char) => format!("a header name can't hold {char:?}"),
                None => "this isn't a header name".into(),
            };
            return Err(Wrong::new(label).help("letters, digits and - are common, such as x-user"));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// A header's value (RFC 9110 §5.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderValue(pub String);

impl Literal for HeaderValue {
    const WHAT: &'static str = "a header value";
    const CODE: &'static str = "bad-header-value";
    const EXAMPLES: &'static [&'static str] = &["1"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let text = text.trim();
        match text.chars().find(|char| char.is_control() && *char != '\t') {
            Some('\n' | '\r') => Err(Wrong::new("a header value is one line")),
            Some(char) => Err(Wrong::new(format!("a header value can't hold {char:?}"))),
            None if text.len() > 8 << 10 => Err(Wrong::new("a header value has at most 8KiB")),
            None => Ok(Self(text.to_owned())),
        }
    }

    fn schema() -> Value {
        json!({"type": ["string", "number", "boolean"]})
    }
}

/// A media type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentType(pub String);

impl Literal for ContentType {
    const WHAT: &'static str = "a content type";
    const CODE: &'static str = "bad-content-type";
    const EXAMPLES: &'static [&'static str] = &["text/html; charset=utf-8", "application/json"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let value = HeaderValue::parse(text)?.0;
        let kind = value.split(';').next().unwrap_or("").trim();
        match kind.split_once('/') {
            Some((main, sub)) if is_token(main) && is_token(sub) => Ok(Self(value)),
            _ => Err(Wrong::new("this isn't a content type").help("write \"text/plain\" or \"application/json\"")),
        }
    }
}

/// A cookie's name (RFC 6265 §4.1.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CookieName(pub String);

impl Literal for CookieName {
    const WHAT: &'static str = "a cookie name";
    const CODE: &'static str = "bad-cookie-name";
    const EXAMPLES: &'static [&'static str] = &["uid"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        match is_token(text) && text.len() <= 256 {
            true => Ok(Self(text.to_owned())),
            false => {
                Err(Wrong::new("this isn't a cookie name").help("letters, digits, - and _ are common, such as uid"))
            }
        }
    }
}

/// A method. Lower case is taken for upper.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(pub String);

impl Literal for Method {
    const WHAT: &'static str = "a method";
    const CODE: &'static str = "bad-method";
    const EXAMPLES: &'static [&'static str] = &["GET", "POST"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if !is_token(text) || text.len() > 32 {
            return Err(Wrong::new("this isn't a method").help("write GET, or a list such as [GET, HEAD]"));
        }
        Ok(Self(text.to_ascii_uppercase()))
    }
}

/// A host without a port: a name in lower case, or an IP address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host(pub String);

impl Literal for Host {
    const WHAT: &'static str = "a host";
    const CODE: &'static str = "bad-host";
    const EXAMPLES: &'static [&'static str] = &["shop.example.com"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if let Some(ip) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            return match ip.parse::<std::net::Ipv6Addr>() {
                Ok(ip) => Ok(Self(format!("[{ip}]"))),
                Err(_) => Err(Wrong::new(format!("\"{ip}\" isn't an IPv6 address"))),
            };
        }
        if let Ok(IpAddr::V6(ip)) = text.parse() {
            return Err(Wrong::new("an IPv6 address needs brackets").help(format!("write \"[{ip}]\"")));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_lowercase();
        if name.is_empty() {
            return Err(Wrong::new("this is empty").help("write \"shop.example.com\""));
        }
        if name.contains("://") {
            return Err(Wrong::new("this is a URL").help("write the host alone, such as \"shop.example.com\""));
        }
        if let Some((host, port)) = name.rsplit_once(':') {
            let help = format!("write \"{host}\"");
            let label = if port.parse::<u16>().is_ok() { "a host has no port here" } else { "a host can't hold ':'" };
            return Err(Wrong::new(label).help(help));
        }
        if let Some((host, _)) = name.split_once('/') {
            return Err(Wrong::new("a host has no path").help(format!("write \"{host}\"")));
        }
        if !name.is_ascii() {
            return Err(Wrong::new("a host is written in ASCII").help("write its \"xn--…\" form (punycode)"));
        }
        if name.len() > 253 {
            return Err(Wrong::new("a host has at most 253 characters"));
        }
        for label in name.split('.') {
            if label.is_empty() {
                return Err(Wrong::new("two dots in a row, or one in front"));
            }
            if label.len() > 63 {
                return Err(Wrong::new("a label of a host has at most 63 characters"));
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(Wrong::new(format!("\"{label}\" begins or ends with -")));
            }
            let odd = label.chars().find(|char| !char.is_ascii_alphanumeric() && !"-_".contains(*char));
            if let Some(char) = odd {
                return Err(Wrong::new(format!("a host can't hold {char:?}")));
            }
        }
        Ok(Self(name))
    }
}

/// A path that replaces another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewritePath(pub String);

impl Literal for RewritePath {
    const WHAT: &'static str = "a path";
    const CODE: &'static str = "bad-path";
    const EXAMPLES: &'static [&'static str] = &["/", "/v2"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if !text.starts_with('/') {
            return Err(Wrong::new("a path begins with /").help(format!("write \"/{text}\"")));
        }
        if text.ends_with("/**") || text.ends_with("/*") {
            let plain = text.trim_end_matches(['*', '/']);
            let help =
                format!("write \"{}\"; what follows a prefix is kept", if plain.is_empty() { "/" } else { plain });
            return Err(Wrong::new("a new path holds no *").help(help));
        }
        match text.chars().find(|char| char.is_control() || " ?#\\".contains(*char)) {
            Some('?') => Err(Wrong::new("a path has no query").help("the query of the request is kept")),
            Some(' ') => Err(Wrong::new("a path can't hold a space").help("write %20")),
            Some(char) => Err(Wrong::new(format!("a path can't hold {char:?}"))),
            None => Ok(Self(super::pattern::percent_encode(text))),
        }
    }
}

/// Inclusive ranges of statuses: `200-399`, `2xx`, `204`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectStatus(pub (u16, u16));

impl Literal for ExpectStatus {
    const WHAT: &'static str = "a status";
    const CODE: &'static str = "bad-status";
    const EXAMPLES: &'static [&'static str] = &["200", "2xx", "200-399"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |label: &str| Wrong::new(label).help("write 200, \"2xx\" or \"200-399\"");
        let status = |text: &str| match text.trim().parse::<u16>() {
            Ok(status @ 100..=599) => Ok(status),
            _ => Err(wrong(&format!("\"{}\" isn't a status from 100 to 599", text.trim()))),
        };
        if let Some(class) = text.strip_suffix("xx") {
            return match class.parse::<u16>() {
                Ok(class @ 1..=5) => Ok(Self((class * 100, class * 100 + 99))),
                _ => Err(wrong("only 1xx to 5xx exist")),
            };
        }
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let (from, to) = (status(from)?, status(to)?);
        if from > to {
            return Err(wrong("the range runs backwards"));
        }
        Ok(Self((from, to)))
    }

    fn schema() -> Value {
        json!({"type": ["string", "integer"]})
    }
}

/// The path of a file. A relative one starts at the folder of the file that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(pub PathBuf);

impl Literal for FilePath {
    const WHAT: &'static str = "a file";
    const CODE: &'static str = "bad-file";
    const EXAMPLES: &'static [&'static str] = &["tls/shop.crt", "/etc/tidegate/ca.pem"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() {
            return Err(Wrong::new("the file's name is missing"));
        }
        if text.starts_with("~/") {
            return Err(Wrong::new("~ isn't expanded").help("write the whole path"));
        }
        if text.contains('\0') {
            return Err(Wrong::new("a file's name can't hold NUL"));
        }
        if text.contains("-----BEGIN") {
            return Err(Wrong::new("this is the file's content").help("write the name of a PEM file"));
        }
        Ok(Self(PathBuf::from(text)))
    }
}

/// A place in a JSON value: `$.time`, `items[*].id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(pub String);

impl Literal for JsonPath {
    const WHAT: &'static str = "a JSON path";
    const CODE: &'static str = "bad-json-path";
    const EXAMPLES: &'static [&'static str] = &["$.time", "items[*].id"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |label: &str| Wrong::new(label).help("write \"$.time\", \"items[*].id\" or \"lines[0].price\"");
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        if rest.is_empty() {
            return Err(wrong("this would leave out everything"));
        }
        let mut first = rest.len() == text.len();
        while !rest.is_empty() {
            if let Some(inside) = rest.strip_prefix('[') {
                let (index, after) = inside.split_once(']').ok_or_else(|| wrong("a ] is missing"))?;
                if index != "*" && index.parse::<u32>().is_err() {
                    return Err(wrong(&format!("\"{index}\" isn't an index or *")));
                }
                rest = after;
            } else {
                let name = match rest.strip_prefix('.') {
                    Some(name) if !first => name,
                    None if first => rest,
                    _ => return Err(wrong("a dot or [ belongs between names")),
                };
                let end = name.find(['.', '[']).unwrap_or(name.len());
                if end == 0 {
                    return Err(wrong("a name is missing"));
                }
                rest = &name[end..];
            }
            first = false;
        }
        Ok(Self(text.to_owned()))
    }
}

/// An origin, as browsers send it: `https://shop.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(pub String);

impl Literal for Origin {
    const WHAT: &'static str = "an origin";
    const CODE: &'static str = "bad-origin";
    const EXAMPLES: &'static [&'static str] = &["https://shop.example.com", "https://*.example.com", "*"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |label: &str| {
            Wrong::new(label).help("write \"https://shop.example.com\", \"https://*.example.com\" or \"*\"")
        };
        if text == "*" || text == "null" {
            return Ok(Self(text.to_owned()));
        }
        let lower = text.to_ascii_lowercase();
        let Some((scheme, host)) = lower.split_once("://") else {
            return Err(wrong("the scheme is missing"));
        };
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
            return Err(wrong("this isn't a scheme"));
        }
        if host.contains('/') {
            return Err(wrong("an origin has no path, not even a /"));
        }
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (host, None),
        };
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(wrong("this isn't a port"));
        }
        Host::parse(name.strip_prefix("*.").unwrap_or(name)).map_err(|error| wrong(&error.label))?;
        Ok(Self(lower))
    }
}

/// What a request is told apart by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKey(pub Key);

impl Literal for TokenKey {
    const WHAT: &'static str = "a key";
    const CODE: &'static str = "bad-key-of-request";
    const EXAMPLES: &'static [&'static str] =
        &["client_ip", "network", "ja4", "header:x-user", "cookie:uid", "query:id", "host", "path", "method"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write client_ip, network, ja4, header:NAME, cookie:NAME, query:NAME, host, path or method";
        let key = match text.split_once(':') {
            Some(("header", name)) => Key::Header(HeaderName::parse(name)?.0),
            Some(("cookie", name)) => Key::Cookie(CookieName::parse(name)?.0),
            Some(("query", "")) => return Err(Wrong::new("the parameter's name is missing").help(FORM)),
            Some(("query", name)) => Key::Query(name.to_owned()),
            Some((kind, _)) => return Err(Wrong::new(format!("\"{kind}\" isn't a kind of key")).help(FORM)),
            None => match text {
                "client_ip" => Key::ClientIp,
                "network" => Key::Network,
                "ja4" => Key::Ja4,
                "host" => Key::Host,
                "path" => Key::Path,
                "method" => Key::Method,
                "header" | "cookie" | "query" => {
                    let label = format!("the {text}'s name is missing");
                    return Err(Wrong::new(label).help(format!("write \"{text}:NAME\"")));
                }
                _ => return Err(Wrong::new("this isn't a key").help(FORM)),
            },
        };
        Ok(Self(key))
    }
}
