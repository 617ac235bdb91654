//! Listeners, routes and actions, one at a time.

use crate::kit::client::{self, send};
use crate::kit::{Client, Gateway, Mood, Origin, get, request};
use std::time::Duration;

/// One service `app` with one endpoint `$app`; routes follow.
const APP: &str = "
services:
  app: {endpoints: [\"$app\"], eject: off}
routes:
";

/// [`APP`] with these routes.
fn app(routes: &str) -> String {
    format!("{APP}{routes}")
}

#[tokio::test]
async fn a_redirect_listener_sends_people_to_the_same_url_by_https() {
    let origin = Origin::start("v1").await;
    let config = "
listeners:
  web: {bind: \"$web\", redirect_to: tls}
  tls: {bind: \"$tls\", certificates: [{cert: $dir/tls/shop.crt, key: $dir/tls/shop.key}]}
services: {app: {endpoints: [\"$app\"]}}
routes: [{name: all, match: {path: /**}, to: app}]
";
    let gateway = Gateway::start(config, &[("app", &origin)]).await;

    let answer = get(gateway.web(), "http://shop.example.com/cart?item=7").await.unwrap();

    assert!([301, 308].contains(&answer.status), "{}", answer.status);
    let port = gateway.tls().port();
    assert_eq!(answer.header("location"), format!("https://shop.example.com:{port}/cart?item=7"));
    assert_eq!(origin.hits(), 0);
}

#[tokio::test]
async fn a_redirect_changes_what_it_names_and_keeps_the_rest() {
    let routes = "
  - {name: old, match: {path: /old/**}, redirect: {scheme: https, host: new.example.com, prefix: /new, status: 301}}
  - {name: moved, match: {path: /moved}, redirect: {path: /here}}
";
    let gateway = Gateway::start(&app(routes), &[("app", &"127.0.0.1:1")]).await;

    let old = get(gateway.web(), "http://shop.example.com/old/a/b?c=d").await.unwrap();
    let moved = get(gateway.web(), "http://shop.example.com/moved").await.unwrap();

    assert_eq!((old.status, old.header("location")), (301, "https://new.example.com/new/a/b?c=d"));
    assert_eq!(moved.status, 302);
    let port = gateway.web().port();
    let here = moved.header("location");
    assert!(
        ["http://shop.example.com/here".into(), format!("http://shop.example.com:{port}/here")].contains(&here.into()),
        "{here}"
    );
}

#[tokio::test]
async fn a_fixed_answer_comes_from_the_gateway_itself() {
    let routes = "
  - {name: robots, match: {path: /robots.txt}, answer: {status: 200, content_type: text/plain, body: \"Disallow: /\"}}
";
    let gateway = Gateway::start(&app(routes), &[("app", &"127.0.0.1:1")]).await;

    let answer = get(gateway.web(), "/robots.txt").await.unwrap();
    let head = send(gateway.web(), "HEAD", "/robots.txt", &[], "").await.unwrap();

    assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain"));
    assert_eq!(answer.text(), "Disallow: /");
    assert_eq!((head.status, head.header("content-length"), head.text()), (200, "11", String::new()));
}

#[tokio::test]
async fn an_unknown_path_is_404_and_an_unknown_host_too() {
    let origin = Origin::start("v1").await;
    let routes = "  - {name: shop, match: {host: shop.example.com, path: /shop/**}, to: app}\n";
    let gateway = Gateway::start(&app(routes), &[("app", &origin)]).await;

    let known = get(gateway.web(), "http://shop.example.com/shop/1").await.unwrap();
    let path = get(gateway.web(), "http://shop.example.com/shopping").await.unwrap();
    let host = get(gateway.web(), "http://other.example.com/shop/1").await.unwrap();

    assert_eq!((known.status, path.status, host.status), (200, 404, 404));
    assert_eq!(origin.hits(), 1);
}

#[tokio::test]
async fn the_most_specific_route_wins_whatever_the_order_in_the_file() {
    let answers = |name: &str, rule: &str| {
        format!("  - {{name: {name}, match: {{{rule}}}, answer: {{status: 200, body: {name}}}}}\n")
    };
    let routes: String = [
        ("everything", "path: /**"),
        ("prefix", "path: /a/**"),
        ("longer", "path: /a/b/**"),
        ("exact", "path: /a/b"),
        ("method", "path: /a/**, method: DELETE"),
        ("header", "path: /a/**, headers: {x-beta: \"1\"}"),
        ("query", "path: /a/**, query: {beta: \"1\"}"),
        ("cookie", "path: /a/**, cookies: {beta: \"1\"}"),
        ("wild", "host: \"*.wild.example.com\", path: /**"),
        ("host", "host: one.wild.example.com, path: /**"),
    ]
    .iter()
    .map(|(name, rule)| answers(name, rule))
    .collect();
    let gateway = Gateway::start(&app(&routes), &[("app", &"127.0.0.1:1")]).await;

    let mut said = Vec::new();
    for (method, url, headers) in [
        ("GET", "http://x/z", &[][..]),
        ("GET", "http://x/a/z", &[]),
        ("GET", "http://x/a/b/z", &[]),
        ("GET", "http://x/a/b", &[]),
        ("DELETE", "http://x/a/z", &[]),
        ("GET", "http://x/a/z", &[("x-beta", "1")]),
        ("GET", "http://x/a/z?beta=1", &[]),
        ("GET", "http://x/a/z", &[("cookie", "other=2; beta=1")]),
        ("GET", "http://two.wild.example.com/a/b", &[]),
        ("GET", "http://one.wild.example.com/a/b", &[]),
    ] {
        said.push(send(gateway.web(), method, url, headers, "").await.unwrap().text());
    }

    let expected = ["everything", "prefix", "longer", "exact", "method", "header", "query", "cookie", "wild", "host"];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn a_rewrite_changes_path_and_host_and_keeps_the_query() {
    let origin = Origin::start("v1").await;
    let routes = "
  - {name: api, match: {path: /api/**}, to: app, rewrite: {prefix: /v2, host: inner.example.com}}
  - {name: full, match: {path: /full}, to: app, rewrite: {path: /other}}
";
    let gateway = Gateway::start(&app(routes), &[("app", &origin)]).await;

    get(gateway.web(), "http://shop.example.com/api/items?page=2").await.unwrap();
    get(gateway.web(), "http://shop.example.com/full?x=1").await.unwrap();

    let seen = origin.seen();
    assert_eq!((seen[0].path.as_str(), seen[0].host.as_str()), ("/v2/items?page=2", "inner.example.com"));
    assert_eq!((seen[1].path.as_str(), seen[1].host.as_str()), ("/other?x=1", "shop.example.com"));
}

#[tokio::test]
async fn headers_are_removed_set_and_added_both_ways() {
    let origin = Origin::start("v1").await;
    origin.set(Mood::Reply(vec![("server", "secret/1.0"), ("x-kept", "yes"), ("x-many", "one")], "hello"));
    let routes = "
  - name: edited
    match: {path: /**}
    to: app
    request_headers: {remove: [x-drop], set: {x-set: new}, add: {x-many: two}}
    response_headers: {remove: [server], set: {x-frame-options: DENY}, add: {x-many: two}}
";
    let gateway = Gateway::start(&app(routes), &[("app", &origin)]).await;

    let headers = [("x-drop", "1"), ("x-set", "old"), ("x-many", "one")];
    let answer = send(gateway.web(), "GET", "/", &headers, "").await.unwrap();

    let seen = origin.last();
    assert_eq!((seen.header("x-drop"), seen.header("x-set")), (String::new(), "new".into()));
    assert_eq!(seen.header("x-many"), "one, two");
    assert_ne!(answer.header("server"), "secret/1.0");
    assert_eq!((answer.header("x-kept"), answer.header("x-frame-options")), ("yes", "DENY"));
    assert_eq!(answer.headers.get_all("x-many").iter().count(), 2);
}

#[tokio::test]
async fn cors_answers_a_preflight_itself_and_marks_the_real_answer() {
    let origin = Origin::start("v1").await;
    let routes = "
  - name: api
    match: {path: /api/**}
    to: app
    cors: {origins: [\"https://app.example.com\"], methods: [GET, PUT], headers: [x-token], credentials: true, max_age: 10m}
";
    let gateway = Gateway::start(&app(routes), &[("app", &origin)]).await;

    let ask = [("origin", "https://app.example.com"), ("access-control-request-method", "PUT")];
    let preflight = send(gateway.web(), "OPTIONS", "/api/x", &ask, "").await.unwrap();
    let hits_after_preflight = origin.hits();
    let real = send(gateway.web(), "GET", "/api/x", &ask[..1], "").await.unwrap();
    let stranger = send(gateway.web(), "GET", "/api/x", &[("origin", "https://evil.example.com")], "").await.unwrap();

    assert!([200, 204].contains(&preflight.status));
    assert_eq!(hits_after_preflight, 0);
    assert_eq!(preflight.header("access-control-allow-origin"), "https://app.example.com");
    assert!(preflight.header("access-control-allow-methods").contains("PUT"));
    assert_eq!(preflight.header("access-control-max-age"), "600");
    assert_eq!(real.header("access-control-allow-origin"), "https://app.example.com");
    assert_eq!(real.header("access-control-allow-credentials"), "true");
    assert_eq!(stranger.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn what_a_stranger_says_about_his_address_is_not_passed_on() {
    let origin = Origin::start("v1").await;
    let gateway = Gateway::start(&app("  - {name: all, match: {path: /**}, to: app}\n"), &[("app", &origin)]).await;

    let lies = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example.com"),
        ("forwarded", "for=6.6.6.6"),
    ];
    send(gateway.web(), "GET", "http://shop.example.com/", &lies, "").await.unwrap();

    let seen = origin.last();
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.header("x-forwarded-proto"), "http");
    assert!(seen.header("x-forwarded-host").starts_with("shop.example.com"));
    assert!(!seen.header("forwarded").contains("6.6.6.6"));
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_its_list_is_continued() {
    let origin = Origin::start("v1").await;
    let config =
        format!("client_ip: {{trusted: [127.0.0.0/8]}}\n{}", app("  - {name: all, match: {path: /**}, to: app}\n"));
    let gateway = Gateway::start(&config, &[("app", &origin)]).await;

    let word = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "a.example")];
    send(gateway.web(), "GET", "http://shop.example.com/", &word, "").await.unwrap();

    let seen = origin.last();
    assert_eq!(seen.header("x-forwarded-for").replace(' ', ""), "203.0.113.9,127.0.0.1");
    assert_eq!(
        (seen.header("x-forwarded-proto"), seen.header("x-forwarded-host")),
        ("https".into(), "a.example".into())
    );
}

#[tokio::test]
async fn every_request_has_an_id_of_its_own_on_its_way_up() {
    let origin = Origin::start("v1").await;
    let gateway = Gateway::start(&app("  - {name: all, match: {path: /**}, to: app}\n"), &[("app", &origin)]).await;
    let mut client = Client::h1(gateway.web()).await.unwrap();

    client.get("http://shop.example.com/1").await.unwrap();
    client.get("http://shop.example.com/2").await.unwrap();

    let ids: Vec<_> = origin.seen().iter().map(|seen| seen.header("x-request-id")).collect();
    assert!(ids.iter().all(|id| id.len() >= 16), "{ids:?}");
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_trace_is_passed_on_with_the_same_trace_id() {
    let origin = Origin::start("v1").await;
    let gateway = Gateway::start(&app("  - {name: all, match: {path: /**}, to: app}\n"), &[("app", &origin)]).await;

    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    send(gateway.web(), "GET", "/", &[("traceparent", trace), ("tracestate", "a=b")], "").await.unwrap();

    let seen = origin.last();
    assert!(seen.header("traceparent").starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
    assert_eq!(seen.header("tracestate"), "a=b");
}

#[tokio::test]
async fn an_origin_that_takes_too_long_is_answered_504_at_the_deadline() {
    let origin = Origin::start("v1").await;
    origin.set(Mood::Slow(Duration::from_secs(10)));
    let routes = "  - {name: all, match: {path: /**}, to: app, timeouts: {first_byte: 300ms}}\n";
    let gateway = Gateway::start(&app(routes), &[("app", &origin)]).await;

    let began = std::time::Instant::now();
    let answer = get(gateway.web(), "/").await.unwrap();

    assert_eq!(answer.status, 504);
    assert!((Duration::from_millis(290)..Duration::from_secs(3)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_is_told_when_its_connection_ends_with_a_failed_exchange() {
    let origin = Origin::start("v1").await;
    origin.set(Mood::Reset);
    let gateway = Gateway::start(&app("  - {name: all, match: {path: /**}, to: app}\n"), &[("app", &origin)]).await;
    let mut client = Client::h1(gateway.web()).await.unwrap();

    let failed = client.get("http://x/").await.unwrap();
    let next = client.get("http://x/").await;

    assert_eq!(failed.status, 502);
    let closes = failed.header("connection").eq_ignore_ascii_case("close");
    assert_eq!(closes, next.is_err(), "{:?} said {:?}", failed.headers, next.map(|answer| answer.status));
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_413_whether_its_length_is_declared_or_not() {
    let origin = Origin::start("v1").await;
    let routes = "  - {name: all, match: {path: /**}, to: app, max_body: 1KiB}\n";
    let gateway = Gateway::start(&app(routes), &[("app", &origin)]).await;

    let fits = send(gateway.web(), "POST", "/", &[], vec![b'x'; 1024]).await.unwrap();
    let declared = send(gateway.web(), "POST", "/", &[], vec![b'x'; 1025]).await.unwrap();
    let chunk = "x".repeat(0x400);
    let chunked = client::raw(
        gateway.web(),
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
             400\r\n{chunk}\r\n400\r\n{chunk}\r\n0\r\n\r\n"
        ),
    )
    .await
    .unwrap();

    assert_eq!((fits.status, declared.status), (200, 413));
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked:?}");
}

#[tokio::test]
async fn an_origin_that_is_down_is_answered_502_or_503() {
    let down = Origin::start("v1").await.kill();
    let gateway = Gateway::start(&app("  - {name: all, match: {path: /**}, to: app}\n"), &[("app", &down)]).await;

    let answer = get(gateway.web(), "/").await.unwrap();

    assert!([502, 503].contains(&answer.status), "{}", answer.status);
    gateway.until_metric("tidegate_requests_total", &[], 1.0).await;
}

#[tokio::test]
async fn an_origin_that_talks_nonsense_is_answered_502_and_the_next_request_is_served() {
    let origin = Origin::start("v1").await;
    let gateway = Gateway::start(&app("  - {name: all, match: {path: /**}, to: app}\n"), &[("app", &origin)]).await;

    origin.set(Mood::Garbage);
    let garbage = get(gateway.web(), "/").await.unwrap();
    origin.set(Mood::Reset);
    let reset = get(gateway.web(), "/").await.unwrap();
    origin.set(Mood::Ok);
    let good = get(gateway.web(), "/").await.unwrap();

    assert_eq!((garbage.status, reset.status, good.status), (502, 502, 200));
}

#[tokio::test]
async fn access_lists_refuse_with_403_and_deny_wins() {
    let routes = "
  - {name: closed, match: {path: /closed}, access: {allow: [127.0.0.0/8], deny: [127.0.0.1/32]}, answer: {status: 200}}
  - {name: open, match: {path: /open}, access: {allow: [127.0.0.0/8]}, answer: {status: 200}}
";
    let gateway = Gateway::start(&app(routes), &[("app", &"127.0.0.1:1")]).await;

    let closed = get(gateway.web(), "/closed").await.unwrap();
    let open = get(gateway.web(), "/open").await.unwrap();

    assert_eq!((closed.status, open.status), (403, 200));
}

#[tokio::test]
async fn a_limit_refuses_with_429_and_says_when_to_come_back() {
    let config = format!(
        "limits: {{login: {{key: \"header:x-user\", rate: 3/m}}}}\n{}",
        app("  - {name: login, match: {path: /login}, limits: [login], answer: {status: 200}}\n")
    );
    let gateway = Gateway::start(&config, &[("app", &"127.0.0.1:1")]).await;
    let mut client = Client::h1(gateway.web()).await.unwrap();

    let mut answers = Vec::new();
    for user in ["ann", "ann", "ann", "ann", "ben"] {
        answers.push(client.send(request("POST", "http://x/login", &[("x-user", user)], "")).await.unwrap());
    }

    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 200, 429, 200]);
    let wait: u64 = answers[3].header("retry-after").parse().expect("Retry-After is a number of seconds");
    assert!((1..=20).contains(&wait), "{wait}");
    assert!(answers[3].headers.keys().any(|name| name.as_str().starts_with("ratelimit")), "{:?}", answers[3].headers);
}

#[tokio::test]
async fn a_kept_connection_carries_many_requests_and_answers() {
    let origin = Origin::start("v1").await;
    let gateway = Gateway::start(&app("  - {name: all, match: {path: /**}, to: app}\n"), &[("app", &origin)]).await;
    let mut client = Client::h1(gateway.web()).await.unwrap();

    for n in 0..200 {
        let body = "x".repeat(n * 37);
        let answer = client.send(request("POST", "http://x/echo", &[], body.clone())).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.text(), if n == 0 { "v1 /echo\n".to_owned() } else { body });
    }

    assert!(origin.connections() <= 4, "upstream connections are kept too: {}", origin.connections());
}

#[tokio::test]
async fn sigterm_lets_a_request_in_flight_finish() {
    let origin = Origin::start("v1").await;
    let mut gateway = Gateway::start(&app("  - {name: all, match: {path: /**}, to: app}\n"), &[("app", &origin)]).await;
    origin.set(Mood::Slow(Duration::from_millis(700)));
    let web = gateway.web();
    let slow = tokio::spawn(async move { get(web, "/slow").await });
    crate::kit::eventually("the origin has the request", || async { origin.hits() == 1 }).await;

    gateway.signal("TERM");
    let answer = slow.await.unwrap().unwrap();
    let status = gateway.until_ended().await;

    assert_eq!(answer.status, 200);
    assert!(status.success(), "{status}");
}
