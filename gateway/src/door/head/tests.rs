use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 4_096, headers: 16 };

fn check(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    HeadScanner::default().scan(bytes, LIMITS)
}

fn head(text: &str) -> Head {
    check(text.as_bytes()).expect("accepted").expect("complete")
}

#[test]
fn a_plain_request_is_accepted_and_its_end_is_known() {
    let text = "GET /a?b=c HTTP/1.1\r\nHost: shop.example.com:8080\r\nAccept: */*\r\n\r\n";
    let wire = format!("{text}GET /next");

    let head = head(&wire);

    assert_eq!(head, Head { skip: 0, len: text.len(), body: Body::Length(0), upgrade: false, absolute: None });
}

#[test]
fn the_framing_is_what_the_headers_say() {
    let length = head("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n");
    let chunked = head("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \tChunked \r\n\r\n");

    assert_eq!(length.body, Body::Length(7));
    assert_eq!(chunked.body, Body::Chunked);
}

#[test]
fn one_empty_line_before_a_request_is_ignored_and_two_are_not() {
    let one = head("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let two = check(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");

    assert_eq!(one.skip, 2);
    assert_eq!(two, Err(Refusal::RequestLine));
}

#[test]
fn what_two_parsers_might_read_differently_is_refused() {
    use Refusal as R;
    let with = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
    let cases = [
        (line("GET  / HTTP/1.1"), R::RequestLine),
        (line("GET / HTTP/1.1 "), R::RequestLine),
        (line("GET\t/ HTTP/1.1"), R::RequestLine),
        (line("GET /"), R::RequestLine),
        (line("GET / http/1.1"), R::RequestLine),
        (line("GET / HTTP/1.10"), R::RequestLine),
        (line(" GET / HTTP/1.1"), R::Method),
        (line("get / HTTP/1.1"), R::Method),
        (line("G\u{e9}T / HTTP/1.1"), R::Method),
        (line("G@T / HTTP/1.1"), R::Method),
        ("\x16\x03\x01\x02".to_owned(), R::Method),
        (line(&format!("{} / HTTP/1.1", "M".repeat(33))), R::LongMethod),
        (line("CONNECT a:443 HTTP/1.1"), R::Connect),
        (line("TRACE / HTTP/1.1"), R::Trace),
        (line("GET a HTTP/1.1"), R::Target),
        (line("GET a:443 HTTP/1.1"), R::Target),
        (line("GET * HTTP/1.1"), R::Target),
        (line("GET ftp://a/ HTTP/1.1"), R::Target),
        (line("GET http:///x HTTP/1.1"), R::Target),
        (line("GET http://u@a/ HTTP/1.1"), R::Target),
        (line("GET /a#b HTTP/1.1"), R::Target),
        (line("GET /a\u{e9} HTTP/1.1"), R::Target),
        (line("GET /a\0 HTTP/1.1"), R::Target),
        (line("GET /a\\b HTTP/1.1"), R::Target),
        (line("GET / HTTP/2.0"), R::Version),
        (line("GET / HTTP/1.2"), R::Version),
        (line("GET / HTTP/0.9"), R::Version),
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), R::BareLf),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(), R::BareLf),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), R::Host),
        (with("Host: b"), R::Host),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".to_owned(), R::Host),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), R::Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(), R::Host),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".to_owned(), R::Host),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n".to_owned(), R::Host),
        ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n".to_owned(), R::Host),
        ("GET / HTTP/1.1\r\nHost: [::g]\r\n\r\n".to_owned(), R::Host),
        (with("X: a\r\n b"), R::Folded),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_owned(), R::Folded),
        (with("X : a"), R::HeaderName),
        (with(": a"), R::HeaderName),
        (with("X"), R::HeaderName),
        (with("X\0: a"), R::HeaderName),
        (with("X@: a"), R::HeaderName),
        (with("X: a\0b"), R::HeaderValue),
        (with("X: a\rb"), R::HeaderValue),
        (with("X: a\r"), R::HeaderValue),
        (with("X: \x0bchunked"), R::HeaderValue),
        (with("Content-Length: 5\r\nContent-Length: 6"), R::ContentLength),
        (with("Content-Length: 5\r\ncontent-length: 5"), R::ContentLength),
        (with("Content-Length: 5, 5"), R::ContentLength),
        (with("Content-Length: +5"), R::ContentLength),
        (with("Content-Length: -5"), R::ContentLength),
        (with("Content-Length: 0x5"), R::ContentLength),
        (with("Content-Length: 5 5"), R::ContentLength),
        (with("Content-Length:"), R::ContentLength),
        (with("Content-Length: 05"), R::ContentLength),
        (with("Content_Length: 5"), R::Impostor),
        (with("X_Forwarded-For: 10.0.0.1"), R::Impostor),
        (with("Connection: close, Content-Length\r\nContent-Length: 5"), R::Nominated),
        (with("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5"), R::UpgradeBody),
        (with("Content-Length: 99999999999999999999"), R::ContentLength),
        (with("Transfer-Encoding: identity"), R::TransferEncoding),
        (with("Transfer-Encoding: xchunked"), R::TransferEncoding),
        (with("Transfer-Encoding: chunked, identity"), R::TransferEncoding),
        (with("Transfer-Encoding: \"chunked\""), R::TransferEncoding),
        (with("Transfer-Encoding:"), R::TransferEncoding),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), R::TransferEncoding),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), R::TransferEncoding),
        (with("Transfer-Encoding: gzip, chunked"), R::Coding),
        (with("Transfer-Encoding: chunked\r\nContent-Length: 5"), R::BothLengths),
        (with("Content-Length: 0\r\nTransfer-Encoding: chunked"), R::BothLengths),
    ];
    for (text, refusal) in cases {
        assert_eq!(check(text.as_bytes()), Err(refusal), "{text:?}");
    }
}

#[test]
fn what_the_rules_allow_is_accepted() {
    for text in [
        "GET / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "M-SEARCH /a|b{c}\"d[e] HTTP/1.1\r\nHost: a_b.c:\r\n\r\n",
        "GET /?a=\\`b HTTP/1.1\r\nHost: a\r\napi_key: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\n",
        "GET /%00/../x HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n",
        "GET / HTTP/1.1\r\nhost:a\r\nX:\r\nY: caf\u{e9}\t!\r\n\r\n",
    ] {
        assert!(matches!(check(text.as_bytes()), Ok(Some(_))), "{text:?}");
    }
}

#[test]
fn long_heads_are_refused_by_what_is_long_about_them() {
    let target = format!("GET /{} HTTP/1.1\r\n", "x".repeat(LIMITS.bytes));
    let header = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(LIMITS.bytes));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(LIMITS.headers));

    assert_eq!(check(target.as_bytes()), Err(Refusal::LongTarget));
    assert_eq!(check(header.as_bytes()), Err(Refusal::LongHead));
    assert_eq!(check(many.as_bytes()), Err(Refusal::TooManyHeaders));
}

#[test]
fn an_absolute_target_decides_the_host_whatever_the_host_header_says() {
    let rewritten = |text: &str| {
        let head = head(text);
        String::from_utf8(head.origin_form(&text.as_bytes()[head.skip..]).expect("absolute")).unwrap()
    };

    let path = rewritten("GET http://a.com:81/x?y HTTP/1.1\r\nX: 1\r\nHOST: b.com\r\n\r\n");
    let query = rewritten("GET HTTPS://a.com?y HTTP/1.1\r\nHost: a.com\r\n\r\n");
    let bare = rewritten("\r\nGET http://a.com HTTP/1.0\r\n\r\n");
    let options = rewritten("OPTIONS http://a.com HTTP/1.1\r\nHost: a.com\r\n\r\n");

    assert_eq!(path, "GET /x?y HTTP/1.1\r\nHost: a.com:81\r\nX: 1\r\n\r\n");
    assert_eq!(query, "GET /?y HTTP/1.1\r\nHost: a.com\r\n\r\n");
    assert_eq!(bare, "GET / HTTP/1.0\r\nHost: a.com\r\n\r\n");
    assert_eq!(options, "OPTIONS * HTTP/1.1\r\nHost: a.com\r\n\r\n");
}

/// Pieces that heads are made of, good and bad.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "GET ",
        "POST ",
        "/",
        "/a",
        "*",
        "http://h/",
        " HTTP/1.1",
        " HTTP/1.0",
        "\r\n",
        "\r\n",
        "\r\n",
        "\n",
        "\r",
        "Host: a",
        "Host: b:80",
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Upgrade: x",
        "X: y",
        " ",
        ":",
        "\0",
        "\u{e9}",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn how_a_head_is_cut_makes_no_difference(body in pieces(), prefix in any::<bool>(), cuts in prop::collection::vec(0_usize..300, 0..4)) {
        let mut wire = if prefix { b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec() } else { Vec::new() };
        wire.extend(body);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(wire.len())).collect();
        cuts.push(wire.len());
        cuts.sort_unstable();

        let mut scanner = HeadScanner::default();
        let mut outcome = Ok(None);
        for cut in cuts {
            outcome = scanner.scan(&wire[..cut], LIMITS);
            if !matches!(outcome, Ok(None)) {
                break;
            }
        }

        prop_assert_eq!(outcome, check(&wire));
    }

    #[test]
    fn any_bytes_at_all_are_accepted_or_refused_but_never_panic(wire in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = check(&wire);
    }

    #[test]
    fn what_is_accepted_a_lenient_parser_reads_the_same(body in pieces()) {
        let mut wire = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        wire.extend(body);
        let Ok(Some(head)) = check(&wire) else { return Ok(()) };

        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(&wire);

        prop_assert_eq!(parsed, Ok(httparse::Status::Complete(head.skip + head.len)));
        let lines = wire[..head.len].iter().filter(|b| **b == b'\n').count();
        prop_assert_eq!(request.headers.len(), lines - 2);
    }
}
