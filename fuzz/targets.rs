//! What is fuzzed: each target takes any bytes at all, and panics when a promise is broken.
//!
//! `gateway/tests/fuzz.rs` feeds them for a few seconds in every test run, on the stable toolchain; `make fuzz FOR=10m` with
//! libFuzzer's coverage, for as long as you like. Both take these functions and these seeds.

use http::{HeaderMap, Method};
use tidegate_gateway::decide::Head;
use tidegate_gateway::decide::route::Router;
use tidegate_gateway::door::chunk::ChunkScanner;
use tidegate_gateway::door::framing::Body;
use tidegate_gateway::door::head::{HeadLimits, HeadScanner};
use tidegate_gateway::door::proxy_header::{self, Proxied};
use tidegate_gateway::tls::Ja4;
use tidegate_model::check::{SourceFile, check};
use tidegate_model::desired::{DotSegments, EscapedSlashes, Paths, Slashes};
use tidegate_model::diagnostic::{Colour, render_all};
use tidegate_model::target::normalise;

/// A target, inputs to begin with, and pieces that mean something to it.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Panics when a promise is broken. Tells what kind of input it was, so that new kinds can be kept.
    pub run: fn(&[u8]) -> u64,
    /// Inputs to begin with.
    pub seeds: &'static [&'static [u8]],
    /// Pieces to put in.
    pub words: &'static [&'static [u8]],
}

/// All targets.
pub const ALL: [Target; 7] = [
    Target {
        name: "config",
        run: config,
        seeds: &[
            include_bytes!("../configs/minimal.yaml"),
            include_bytes!("../model/tests/bad_configs/base.yaml"),
            b"version: 1\nroutes: [{name: a, match: {path: \"~ ^/(a|b)+$\"}, answer: {status: 204}}]\n",
        ],
        words: &[b"\n", b": ", b"- ", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"<<: *a", b"\t", b"\"", b"|\n", b"10m", b"50/s"],
    },
    Target {
        name: "matching",
        run: matching,
        seeds: &[
            b"version: 1\nroutes: [{name: a, match: {host: \"*.b\", path: /c/**, query: {d: e}}, answer: {}}]\n\0a.b\0/c/d\0d=%65",
            b"version: 1\nroutes: [{name: a, match: {path: \"~ ^/x[0-9]+\"}, answer: {}}]\n\0h\0/x1\0",
        ],
        words: &[b"\0", b"/", b"/**", b"*.", b".", b"%", b"?", b"=", b"&", b"~ ^/"],
    },
    Target {
        name: "proxy_header",
        run: proxy_header,
        seeds: &[
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65535\r\nGET / HTTP/1.1\r\n",
            b"PROXY UNKNOWN\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x01\0\x02",
            b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        ],
        words: &[b"PROXY ", b"TCP6 ", b"::1 ", b"\r\n", b"\0\x0c", b"\x21", b"\xff\xff"],
    },
    Target {
        name: "request_head",
        run: request_head,
        seeds: &[
            b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST http://b/c HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            b"OPTIONS * HTTP/1.0\r\nTransfer-Encoding: chunked\r\nConnection: close, x\r\n\r\n",
        ],
        words: &[
            b"\r\n", b"\n", b"\r", b": ", b" ", b"\t", b"\0", b"Host: a", b"Content-Length: 5", b"Transfer-Encoding: chunked",
            b"Upgrade: websocket", b"Connection: upgrade", b"HTTP/1.1", b"http://a", b"[::1]", b"X_Forwarded_For: 1", b"\x80",
        ],
    },
    Target {
        name: "chunked",
        run: chunked,
        seeds: &[b"5;a=\"b\"\r\nhello\r\n0\r\nX: y\r\n\r\nGET", b"a\r\n0123456789\r\n00\r\n\r\n", b"0\r\n\r\n"],
        words: &[b"\r\n", b"\n", b"\r", b"0", b"0\r\n\r\n", b";", b"\"", b"\\", b" ", b"ffff", b"X: y\r\n"],
    },
    Target {
        name: "client_hello",
        run: client_hello,
        seeds: &[b"\x16\x03\x01\0\x51\x01\0\0\x4d\x03\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x13\x01\x01\0\0\x22\0\0\0\x06\0\x04\0\0\x01a\0\x10\0\x05\0\x03\x02h\x32\0\x2b\0\x03\x02\x03\x04\0\x0d\0\x04\0\x02\x04\x03"],
        words: &[b"\x16\x03\x01", b"\x01\0\0", b"\x13\x01", b"\x0a\x0a", b"\0\x10", b"\x02h2", b"\xff\xff", b"\0\x2b", b"\xe9"],
    },
    Target {
        name: "target",
        run: target,
        seeds: &[b"/a/../b/%2e%2e/c?d", b"/a%2f..;x/%5c", b"//a/./%c0%af", b"/caf%c3%a9"],
        words: &[b"/", b"..", b".", b"%2e", b"%2F", b"%5c", b"%3b", b";", b"%00", b"%c0%af", b"?", b"#", b"\\", b"%25"],
    },
];

fn kind(of: impl std::fmt::Debug) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    format!("{of:?}").hash(&mut hasher);
    hasher.finish()
}

/// Any text is a valid configuration, or a list of diagnostics that can be rendered.
pub fn config(bytes: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(bytes).into_owned();
    match check(&[SourceFile { path: "edge.yaml".into(), text }]) {
        Ok(checked) => kind((checked.desired.routes.len(), checked.desired.services.len(), checked.warnings.len())),
        Err(diagnostics) => {
            assert!(!diagnostics.is_empty(), "a refusal says why");
            assert!(!render_all(&diagnostics, Colour::Off).is_empty());
            kind(diagnostics.iter().map(|diagnostic| diagnostic.code).collect::<Vec<_>>())
        }
    }
}

/// No request makes the router panic, whatever the routes are. Configuration, host, path and query, apart by NUL.
pub fn matching(bytes: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default();
    let (config, host, path, query) = (next(), next(), next(), next());
    let Ok(checked) = check(&[SourceFile { path: "edge.yaml".into(), text: config.to_owned() }]) else { return 0 };
    let routes = &checked.desired.routes;
    let headers = HeaderMap::new();
    let query = (!query.is_empty()).then_some(query);
    let head = Head { method: &Method::GET, host, path, query, headers: &headers, content_length: None, dyed: None };

    let found = Router::build(routes).find(&head);

    assert!(found.is_none_or(|index| index < routes.len()));
    kind((found, routes.len()))
}

/// PROXY headers: never a length beyond the input, and complete only with the last byte.
pub fn proxy_header(bytes: &[u8]) -> u64 {
    let parsed = proxy_header::parse(bytes);
    if let Ok(Some((_, length))) = parsed {
        assert!(length <= bytes.len());
        for end in 0..length {
            assert!(matches!(proxy_header::parse(&bytes[..end]), Ok(None)), "complete before its last byte");
        }
    }
    kind(parsed.map(|found| found.map(|(proxied, length)| (proxied == Proxied::Own, length))))
}

/// Request heads: scanned byte by byte and at once they come to the same; an accepted one has one frame and one host, also for
/// a parser that is more lenient, and its origin form is accepted for the same.
pub fn request_head(bytes: &[u8]) -> u64 {
    let limits = HeadLimits { bytes: 4_096, headers: 32 };
    let whole = HeadScanner::default().scan(bytes, limits);

    let mut scanner = HeadScanner::default();
    let mut piecewise = Ok(None);
    for end in 0..=bytes.len() {
        piecewise = scanner.scan(&bytes[..end], limits);
        if !matches!(piecewise, Ok(None)) {
            break;
        }
    }
    assert_eq!(whole, piecewise);

    let Ok(Some(head)) = whole else { return kind(whole) };
    let wire = &bytes[head.skip..head.skip + head.len];
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut lines);
    assert_eq!(request.parse(wire), Ok(httparse::Status::Complete(wire.len())), "others find another end");
    let count = |name: &str| request.headers.iter().filter(|line| line.name.eq_ignore_ascii_case(name)).count();
    let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
    match head.body {
        Body::Chunked => assert_eq!((lengths, codings), (0, 1)),
        Body::Length(0) => assert!(lengths <= 1 && codings == 0),
        Body::Length(_) => assert_eq!((lengths, codings), (1, 0)),
    }
    assert!(count("host") == 1 || request.version == Some(0) && count("host") == 0);
    if let Some(origin_form) = head.origin_form(wire) {
        let roomy = HeadLimits { bytes: 8_192, headers: 64 };
        let again = HeadScanner::default().scan(&origin_form, roomy);
        let Ok(Some(again)) = again else { panic!("the origin form is refused: {again:?}") };
        assert_eq!((again.body, again.upgrade, again.len), (head.body, head.upgrade, origin_form.len()));
        assert!(again.origin_form(&origin_form).is_none(), "the origin form is absolute still");
    }
    kind((head.skip, lengths, codings, head.upgrade, request.version, head.origin_form(wire).is_some()))
}

/// Chunked bodies: cut anywhere they end at the same byte, and an independent reader ends there too.
pub fn chunked(bytes: &[u8]) -> u64 {
    let mut whole = ChunkScanner::default();
    let end = whole.scan(bytes);
    let mut scanner = ChunkScanner::default();
    let mut piecewise = Ok(0);
    for byte in bytes {
        match scanner.scan(std::slice::from_ref(byte)) {
            Ok(n) => piecewise = piecewise.map(|sum| sum + n),
            Err(bad) => {
                piecewise = Err(bad);
                break;
            }
        }
    }
    assert_eq!(end, piecewise);
    if let Ok(end) = end
        && whole.is_done()
    {
        assert_eq!(read_chunks(&bytes[..end]), Some(end), "another reader ends elsewhere");
    }
    kind((format!("{scanner:?}").split("left").next(), end.is_ok()))
}

/// Where a reader ends that takes what is before the first CRLF for a chunk's line, and knows nothing of quotes.
fn read_chunks(bytes: &[u8]) -> Option<usize> {
    let line = |from: usize| Some(from + bytes.get(from..)?.windows(2).position(|pair| pair == b"\r\n")?);
    let mut at = 0;
    loop {
        let end = line(at)?;
        let digits = bytes[at..end].split(|byte| b"; \t".contains(byte)).next()?;
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        at = end + 2;
        if size == 0 {
            break;
        }
        at = at.checked_add(size)?;
        if bytes.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    loop {
        let end = line(at)?;
        let empty = end == at;
        at = end + 2;
        if empty {
            return Some(at);
        }
    }
}

/// ClientHellos: a fingerprint is 36 printable characters, and what follows the hello doesn't change it.
pub fn client_hello(bytes: &[u8]) -> u64 {
    let Some(fingerprint) = Ja4::of(bytes) else { return 0 };
    let text = fingerprint.as_str();
    assert!(text.len() == Ja4::LENGTH && text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
    let mut more = bytes.to_vec();
    more.extend_from_slice(b"\x17\x03\x03");
    assert_eq!(Ja4::of(&more), Some(fingerprint));
    kind(text.get(..10))
}

/// Targets: the normal form of a normal form is itself, is a path, and has no dot segment for anybody who unescapes it once.
pub fn target(bytes: &[u8]) -> u64 {
    let Ok(text) = std::str::from_utf8(bytes) else { return 0 };
    let mut outcomes = Vec::new();
    for dot_segments in [DotSegments::Resolve, DotSegments::Refuse, DotSegments::Keep] {
        for slashes in [Slashes::Merge, Slashes::Keep] {
            for escaped_slashes in [EscapedSlashes::Keep, EscapedSlashes::Refuse, EscapedSlashes::Decode] {
                let rules = Paths { dot_segments, slashes, escaped_slashes };
                let normal = normalise(text, &rules);
                outcomes.push(normal.as_ref().map(|normal| normal.matches('/').count().min(4)).map_err(|bad| *bad));
                let Ok(normal) = normal else { continue };
                assert!(normal.starts_with('/') || normal == "*");
                assert!(normal.len() <= text.len(), "a target grew");
                assert_eq!(normalise(&normal, &rules).as_deref(), Ok(&*normal), "{rules:?}");
                let path = normal.split('?').next().unwrap_or_default();
                let merged = slashes == Slashes::Merge && path.contains("//");
                assert!(!merged, "slashes in a row in {normal}");
                if dot_segments != DotSegments::Keep {
                    let careless = path.replace("%2F", "/").replace("%5C", "/").replace("%3B", ";");
                    let walks = careless.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
                    assert!(!walks.clone().any(|segment| matches!(segment, "." | "..")), "a way out in {normal}");
                }
            }
        }
    }
    kind(outcomes)
}
