//! Where requests go: origins, paths and URLs whose hosts are written out.

use super::super::plan::Origin;
use crate::literal::{Host, Literal, Method, Wrong};

/// An origin: `https://shop.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeUrl(pub Origin);

impl Literal for WholeUrl {
    const WHAT: &'static str = "an origin";
    const CODE: &'static str = "bad-url";
    const EXAMPLES: &'static [&'static str] = &["https://shop.example.com", "http://127.0.0.1:8080"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let (origin, target) = split_url(text)?;
        match (origin, target) {
            (Some(origin), "" | "/") => Ok(Self(origin)),
            (Some(_), _) => {
                Err(Wrong::new("the path doesn't belong here")
                    .help("write it into the steps, such as \"get: /item/7\""))
            }
            (None, _) => Err(match Host::parse(text) {
                Ok(host) => Wrong::new("the scheme is missing").help(format!("write \"https://{}\"", host.0)),
                Err(_) => Wrong::new("this isn't a URL").help("write \"https://shop.example.com\""),
            }),
        }
    }
}

/// A path, or a whole URL whose host is written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlOrPath {
    /// Where it goes; `None`: to the scenario's target.
    pub origin: Option<Origin>,
    /// Path and query, not yet parsed as a template.
    pub target: String,
}

impl Literal for UrlOrPath {
    const WHAT: &'static str = "a path or URL";
    const CODE: &'static str = "bad-url";
    const EXAMPLES: &'static [&'static str] = &["/item/{{ random(1, 5000) }}", "https://api.example.com/v1/items"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let text = text.trim();
        let (origin, target) = split_url(text)?;
        let target = match target {
            "" if origin.is_some() => "/".to_owned(),
            "" => return Err(Wrong::new("the path is missing").help("write \"/\" for the front page")),
            _ if target.starts_with('?') && origin.is_some() => format!("/{target}"),
            _ => target.to_owned(),
        };
        if !target.starts_with('/') && !target.starts_with("{{") {
            return Err(Wrong::new("a path begins with /").help(format!("write \"/{target}\", or a whole URL")));
        }
        // What stands between braces isn't sent.
        let mut sent = String::new();
        let mut rest = target.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            sent.push_str(before);
            rest = after.split_once("}}").map_or("", |(_, after)| after);
        }
        sent.push_str(rest);
        match sent.chars().find(|char| char.is_control() || " #\"<>\\^`{|}".contains(*char)) {
            Some(' ') => Err(Wrong::new("a URL can't hold a space").help("write %20")),
            Some('#') => Err(Wrong::new("a fragment is never sent").help("leave out what begins with #")),
            Some(char) => Err(Wrong::new(format!("a URL can't hold {char:?}")).help("percent-encode it")),
            None if !sent.is_ascii() => Err(Wrong::new("a URL is written in ASCII").help("percent-encode the rest")),
            None => Ok(Self { origin, target }),
        }
    }
}

/// Splits a URL into origin and the rest. Without a scheme there is no origin.
fn split_url(text: &str) -> Result<(Option<Origin>, &str), Wrong> {
    if text.starts_with('/') || text.starts_with("{{") {
        return Ok((None, text));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let (host, rest) = text.split_at(text.find(['/', ':']).unwrap_or(text.len()));
        let has_host = !rest.is_empty() && (host.contains('.') || host == "localhost");
        return match has_host {
            true => {
                Err(Wrong::new("the scheme is missing").help(format!("write \"http://{text}\" or \"https://{text}\"")))
            }
            false => Ok((None, text)),
        };
    };
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "https" | "wss" => true,
        "http" | "ws" => false,
        _ => return Err(Wrong::new(format!("\"{scheme}\" isn't a scheme that is spoken")).help("write http or https")),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.contains("{{") || authority.contains("}}") {
        return Err(Wrong::new("a template can't choose the host")
            .help("write the host out: which hosts a run sends to is known before it starts"));
    }
    if authority.contains('@') {
        return Err(Wrong::new("a URL holds no name and password here").help("write an authorization header"));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let number = port.parse::<u16>().ok().filter(|port| *port > 0);
            (host, number.ok_or_else(|| Wrong::new(format!("\"{port}\" isn't a port")))?)
        }
        _ => (authority, if tls { 443 } else { 80 }),
    };
    let host = Host::parse(host)?.0;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((Some(Origin { tls, host, port }), target))
}

/// A method, and a path or URL: `PURGE /item/7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLine {
    /// The method.
    pub method: String,
    /// Where to.
    pub url: UrlOrPath,
}

impl Literal for RequestLine {
    const WHAT: &'static str = "a method and a path or URL";
    const CODE: &'static str = "bad-request-line";
    const EXAMPLES: &'static [&'static str] = &["PURGE /item/7"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let form = || Wrong::new("a method and a path belong here").help("write \"PURGE /item/7\", for example");
        let (method, url) = text.trim().split_once(' ').ok_or_else(form)?;
        if method.eq_ignore_ascii_case("connect") {
            return Err(Wrong::new("CONNECT asks for a tunnel, and there is nothing to measure in it"));
        }
        Ok(Self { method: Method::parse(method)?.0, url: UrlOrPath::parse(url)? })
    }
}
