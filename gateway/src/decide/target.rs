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

#[cfg(test)]
mod tests {
    use super::super::testkit::{Asked, route};
    use super::*;

    fn rewritten_to(prefix: &str, to: &str, path: &str) -> String {
        let matched = route("r", &format!("- {prefix}/**")).matches.path;
        rewrite(&PathRewrite::Prefix(to.into()), &Asked::get("h", path).query("q=1").head(), &matched)
    }

    /// The table of Gateway API's ReplacePrefixMatch.
    #[test]
    fn a_prefix_is_replaced_with_or_without_trailing_slashes() {
        for (to, path, expected) in [
            ("/xyz", "/foo/bar", "/xyz/bar?q=1"),
            ("/xyz/", "/foo/bar", "/xyz/bar?q=1"),
            ("/xyz", "/foo/", "/xyz/?q=1"),
            ("/xyz", "/foo", "/xyz?q=1"),
            ("/xyz/", "/foo/", "/xyz/?q=1"),
            ("/", "/foo/bar", "/bar?q=1"),
            ("/", "/foo/", "/?q=1"),
            ("/", "/foo", "/?q=1"),
            ("", "/foo/bar", "/bar?q=1"),
            ("", "/foo", "/?q=1"),
        ] {
            assert_eq!(rewritten_to("/foo", to, path), expected, "{path} by {to:?}");
        }
        assert_eq!(rewritten_to("", "/v2", "/foo"), "/v2/foo?q=1");
        assert_eq!(rewritten_to("", "/v2", "/"), "/v2/?q=1");
    }

    #[test]
    fn the_whole_path_is_replaced_where_no_prefix_was_matched() {
        let head = Asked::get("h", "/foo");

        for rewrite_to in [PathRewrite::Full("/new".into()), PathRewrite::Prefix("/new".into())] {
            assert_eq!(rewrite(&rewrite_to, &head.head(), &PathPattern::Exact("/foo".into())), "/new");
        }
    }

    fn location_of(redirect: &Redirect, https: bool, port: u16) -> String {
        let asked = Asked::get("shop.example.com", "/a/b").query("q=1");
        location(redirect, &asked.head(), &PathPattern::Prefix("/a".into()), https, port)
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let keep = Redirect { scheme: None, host: None, port: None, path: None, status: 302 };
        let scheme = |scheme: &str| Some(scheme.to_owned());

        assert_eq!(location_of(&keep, false, 80), "http://shop.example.com/a/b?q=1");
        assert_eq!(location_of(&keep, false, 8080), "http://shop.example.com:8080/a/b?q=1");
        assert_eq!(location_of(&keep, true, 443), "https://shop.example.com/a/b?q=1");
        let https = Redirect { scheme: scheme("https"), ..keep.clone() };
        assert_eq!(location_of(&https, false, 8080), "https://shop.example.com/a/b?q=1");
        let port = Redirect { scheme: scheme("https"), port: Some(8443), ..keep.clone() };
        assert_eq!(location_of(&port, false, 8080), "https://shop.example.com:8443/a/b?q=1");
        let host =
            Redirect { host: Some("www.example.com".into()), path: Some(PathRewrite::Prefix("/z".into())), ..keep };
        assert_eq!(location_of(&host, true, 443), "https://www.example.com/z/b?q=1");
    }

    #[test]
    fn the_redirect_to_tls_keeps_host_path_and_query_and_needs_a_host() {
        let asked = Asked::get("shop.example.com", "/a").query("q=1");

        assert_eq!(to_tls(&asked.head(), 443).unwrap(), "https://shop.example.com/a?q=1");
        assert_eq!(to_tls(&asked.head(), 8443).unwrap(), "https://shop.example.com:8443/a?q=1");
        assert_eq!(to_tls(&Asked::get("", "/a").head(), 443), None);
        assert_eq!([permanent(&Method::GET), permanent(&Method::HEAD), permanent(&Method::POST)], [301, 301, 308]);
    }
}
