//! Where a request is sent instead: redirects, and rewrites of its path (Gateway API semantics).

use std::fmt::Write;

use http::Method;
use tidegate_model::desired::{PathPattern, PathRewrite, Redirect};

use super::Head;

/// The status of a redirect that nobody chose one for: 301 where clients keep the method anyway,
/// 308 where 301 would turn a POST into a GET (RFC 9110 §15.4).
pub(super) fn permanent(method: &Method) -> u16 {
    if matches!(*method, Method::GET | Method::HEAD) { 301 } else { 308 }
}

/// The same URL by https on `port`. `None` when the request names no host to send it to.
pub(super) fn to_tls(head: &Head<'_>, port: u16) -> Option<String> {
    (!head.host.is_empty()).then(|| url("https", head.host, port, path_of(head), head.query))
}

/// The Location that `redirect` asks for. A request without a host gets a relative one where no host is configured.
pub(super) fn location(
    redirect: &Redirect,
    head: &Head<'_>,
    matched: &PathPattern,
    https: bool,
    listener_port: u16,
) -> String {
    let came_by = if https { "https" } else { "http" };
    let scheme = redirect.scheme.as_deref().unwrap_or(came_by);
    let port = redirect.port.unwrap_or(match &redirect.scheme {
        Some(scheme) => own_port(scheme),
        None => listener_port,
    });
    let path = redirect.path.as_ref().map(|rewrite| rewritten(rewrite, head.path, matched));
    let path = path.as_deref().unwrap_or(path_of(head));
    match redirect.host.as_deref().unwrap_or(head.host) {
        "" => with_query(path.to_owned(), head.query),
        host => url(scheme, host, port, path, head.query),
    }
}

/// Path and query to send upstream after `rewrite`.
pub(super) fn rewrite(rewrite: &PathRewrite, head: &Head<'_>, matched: &PathPattern) -> String {
    with_query(rewritten(rewrite, head.path, matched), head.query)
}

/// `path` with what `matched` matched replaced. Where a route matches no prefix, the whole path is replaced.
fn rewritten(rewrite: &PathRewrite, path: &str, matched: &PathPattern) -> String {
    let (to, rest) = match (rewrite, matched) {
        (PathRewrite::Prefix(to), PathPattern::Prefix(prefix)) => {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            (to, path.strip_prefix(prefix).unwrap_or_default())
        }
        (PathRewrite::Prefix(to) | PathRewrite::Full(to), _) => (to, ""),
    };
    // `/abc/` and `/x` join to `/abc/x`; the rest is empty or begins with a slash.
    let joined = if rest.is_empty() { to.clone() } else { format!("{}{rest}", to.strip_suffix('/').unwrap_or(to)) };
    if joined.starts_with('/') { joined } else { format!("/{joined}") }
}

/// The path for a URL: `*` (OPTIONS for the whole server) has none.
fn path_of<'a>(head: &Head<'a>) -> &'a str {
    if head.path == "*" { "" } else { head.path }
}

fn own_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

fn url(scheme: &str, host: &str, port: u16, path: &str, query: Option<&str>) -> String {
    let mut url = String::with_capacity(scheme.len() + host.len() + path.len() + query.map_or(0, str::len) + 12);
    url.push_str(scheme);
    url.push_str("://");
    url.push_str(host);
    if port != own_port(scheme) {
        let _ = write!(url, ":{port}"); // Writing to a String can't fail.
    }
    url.push_str(path);
    with_query(url, query)
}

fn with_query(mut text: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    text
}
