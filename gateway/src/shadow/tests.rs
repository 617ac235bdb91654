//! Copies against real servers. What can be told without one is tested beside its code.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use smallvec::{SmallVec, smallvec};
use tidegate_model::desired::{
    Action, Address, Arm, Balance, Compare, Desired, EndpointSpec, Generation, HeaderEdits, Matches, Methods, OverCap,
    PathPattern, Retry, Rewrite, Route, RouteTimeouts, Service, Shadow, Split, Timeouts, UpstreamProtocol, UpstreamTls,
    Version as ServiceVersion, VersionRef, Weight,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::carry::UpstreamTlsReady;
use crate::compile::{Material, compile};
use crate::decide::{Head, Plan};
use crate::record::Metrics;
use crate::snapshot::Snapshot;

/// How long a test waits for a condition before it fails: more than any machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cap that bodies in these tests come close to.
const CAP: u64 = 1_000;

#[tokio::test]
async fn bodies_up_to_the_cap_arrive_byte_for_byte_and_longer_ones_follow_the_policy() {
    for over in [OverCap::Skip, OverCap::Truncate] {
        for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
            let target = Target::start(protocol).await;
            let kit = Kit::new(protocol, &[Shadow { over, ..shadow(0) }], &[&target]);
            for length in [0, 1, CAP - 1, CAP, CAP + 1, 5 * CAP] {
                for declared in [true, false] {
                    let body: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
                    let name = format!("/{length}/{declared}");
                    let framing = match declared {
                        true => (header::CONTENT_LENGTH, length.to_string()),
                        false => (header::TRANSFER_ENCODING, "chunked".into()),
                    };
                    let request = Request::post(&name).header(framing.0, framing.1).body(()).expect("a request");
                    let expected = if length <= CAP || over == OverCap::Truncate { 1 } else { 0 };

                    kit.pass(request, &body, 300);

                    let arrived = target.arrived(&name, expected).await;
                    for copy in arrived {
                        assert_eq!(copy.body, body[..length.min(CAP) as usize], "{name} {over:?} {protocol:?}");
                        assert_eq!(copy.header("content-length"), length.min(CAP).to_string());
                        assert_eq!(copy.headers.get("transfer-encoding"), None);
                        let mark = copy.headers.contains_key("x-tidegate-shadow-truncated");
                        assert_eq!(mark, length > CAP, "{name}");
                    }
                }
            }

            let (skipped, truncated) = if over == OverCap::Skip { (4, 0) } else { (0, 4) };
            kit.settled(12).await;
            assert_eq!(kit.dropped("body"), skipped);
            assert_eq!(kit.count("tidegate_shadow_truncated_total"), truncated);
            assert_eq!(target.total(), 12 - skipped);
        }
    }
}

#[tokio::test]
async fn a_copy_is_the_request_that_the_main_endpoint_got() {
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let target = Target::start(protocol).await;
        let kit = Kit::new(protocol, &[shadow(0)], &[&target]);
        let request = Request::put("/a%20b/../c?q=%31&q=2")
            .header("host", "shop.example.com:8443")
            .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .header("x-forwarded-for", "192.0.2.7")
            .header("x-shadow", "forged")
            .header("x-two", "1")
            .header("x-two", "2")
            .header("connection", "keep-alive, x-hop, te")
            .header("keep-alive", "timeout=5")
            .header("x-hop", "1")
            .header("te", "trailers")
            .header("expect", "100-continue")
            .header("content-length", "2")
            .body(())
            .expect("a request");

        kit.pass(request, b"hi", 1);

        let copy = &target.arrived("/a%20b/../c?q=%31&q=2", 1).await[0];
        assert_eq!(copy.method, Method::PUT);
        let host = match protocol {
            UpstreamProtocol::Http2 => copy.authority.as_deref().expect(":authority"),
            _ => copy.header("host"),
        };
        assert_eq!(host, "shop.example.com:8443");
        assert_eq!(copy.header("traceparent"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(copy.header("x-forwarded-for"), "192.0.2.7");
        assert_eq!(copy.headers.get_all("x-shadow").iter().collect::<Vec<_>>(), ["1"]);
        assert_eq!(copy.headers.get_all("x-two").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(copy.header("te"), "trailers");
        for absent in ["connection", "keep-alive", "x-hop", "expect", "x-tidegate-shadow-truncated"] {
            assert_eq!(copy.headers.get(absent), None, "{absent}");
        }
    }
}

#[tokio::test]
async fn a_get_without_a_body_arrives_without_one() {
    let target = Target::start(UpstreamProtocol::Http1).await;
    let kit = Kit::new(UpstreamProtocol::Http1, &[shadow(0)], &[&target]);

    kit.pass(Request::get("/").body(()).expect("a request"), b"", 1);

    let copy = &target.arrived("/", 1).await[0];
    assert_eq!((copy.body.len(), copy.headers.get("content-length")), (0, None));
}

#[tokio::test]
async fn tls_and_unix_sockets_are_reached_like_any_other_endpoint() {
    let authority = rcgen::generate_simple_self_signed(["shop.example.com".into()]).expect("a certificate");
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2, UpstreamProtocol::Auto] {
        let target = Target::start_tls(protocol, &authority).await;
        let kit = Kit::with_tls(protocol, &[shadow(0)], &target, &authority);

        kit.pass(Request::get("/").header("host", "shop.example.com:1").body(()).expect("a request"), b"", 1);

        let copy = &target.arrived("/", 1).await[0];
        let version = if protocol == UpstreamProtocol::Http1 { Version::HTTP_11 } else { Version::HTTP_2 };
        assert_eq!(copy.version, version);
    }

    let folder = tempfile::tempdir().expect("a folder");
    let target = Target::start_unix(folder.path().join("app.sock")).await;
    let kit = Kit::new(UpstreamProtocol::Http1, &[shadow(0)], &[&target]);

    kit.pass(Request::get("/unix").body(()).expect("a request"), b"", 1);

    target.arrived("/unix", 1).await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_a_failed_connect() {
    let authority = rcgen::generate_simple_self_signed(["other.example.com".into()]).expect("a certificate");
    let target = Target::start_tls(UpstreamProtocol::Http1, &authority).await;
    let kit = Kit::with_tls(UpstreamProtocol::Http1, &[shadow(0)], &target, &authority);

    kit.pass(Request::get("/").header("host", "shop.example.com").body(()).expect("a request"), b"", 1);

    kit.settled(1).await;
    assert_eq!((kit.finished("connect"), target.total()), (1, 0));
}

#[tokio::test]
async fn three_hundred_percent_are_exactly_three_copies_and_each_target_gets_its_own() {
    let targets = [Target::start(UpstreamProtocol::Http1).await, Target::start(UpstreamProtocol::Http1).await];
    let kit = Kit::new(UpstreamProtocol::Http1, &[shadow(0), shadow(1)], &[&targets[0], &targets[1]]);

    kit.pass_copies(post("/", 5), b"hello", 2, smallvec![(0, 3), (1, 1)]);

    kit.settled(4).await;
    assert_eq!(targets.each_ref().map(Target::total), [3, 1]);
    assert!(targets[0].arrived("/", 3).await.iter().all(|copy| copy.body == b"hello"[..]));
}

#[tokio::test]
async fn ten_thousand_copies_for_a_closed_port_hold_nothing_in_the_end() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("its address");
    let to_nobody = Shadow { max_in_flight: 20_000, ..shadow(0) };
    let kit = Kit::at(UpstreamProtocol::Http1, &[to_nobody], vec![Address::Tcp(closed)]);
    let body = vec![7; 512];

    for _ in 0..10_000 {
        kit.pass(post("/", 512), &body, 100);
    }

    kit.settled(10_000).await;
    assert_eq!(kit.finished("connect") + kit.dropped("queue") + kit.dropped("in_flight"), 10_000);
    assert!(kit.finished("connect") > 0);
    kit.empty().await;
}

#[tokio::test]
async fn a_black_hole_costs_its_timeout_and_then_gives_everything_back() {
    // The kernel accepts into its backlog; nobody ever reads or answers.
    let hole = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = Address::Tcp(hole.local_addr().expect("its address"));
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let short = Shadow { timeout: Duration::from_millis(50), max_in_flight: 100, ..shadow(0) };
        let kit = Kit::at(protocol, &[short], vec![address.clone()]);

        for _ in 0..100 {
            kit.pass(post("/", 5), b"hello", 5);
        }

        kit.settled(100).await;
        assert_eq!(kit.finished("timeout"), 100, "{protocol:?}");
        kit.empty().await;
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_is_cut_off_by_the_same_timeout() {
    let target = Target::start(UpstreamProtocol::Http1).await;
    let short = Shadow { timeout: Duration::from_millis(50), ..shadow(0) };
    let kit = Kit::new(UpstreamProtocol::Http1, &[short], &[&target]);

    kit.pass(Request::get("/gated-body").body(()).expect("a request"), b"", 1);

    kit.settled(1).await;
    assert_eq!(kit.finished("timeout"), 1);
    kit.empty().await;
}

#[tokio::test]
async fn beyond_max_in_flight_copies_are_dropped_until_one_has_ended() {
    let target = Target::start(UpstreamProtocol::Http1).await;
    target.gate.close();
    let kit = Kit::new(UpstreamProtocol::Http1, &[Shadow { max_in_flight: 2, ..shadow(0) }], &[&target]);

    for _ in 0..5 {
        kit.pass(post("/gated", 5), b"hello", 5);
    }
    target.arrived("/gated", 2).await;

    assert_eq!((kit.dropped("in_flight"), target.total()), (3, 2));
    assert!(kit.shadows.bytes_held() > 0);
    target.gate.open();
    kit.settled(5).await;
    kit.empty().await;
    kit.pass(post("/gated", 5), b"hello", 5);
    kit.settled(6).await;
    assert_eq!(target.total(), 3);
}

#[tokio::test]
async fn what_passes_the_byte_budget_is_dropped_and_the_rest_goes_back_to_it() {
    let target = Target::start(UpstreamProtocol::Http1).await;
    target.gate.close();
    let kit = Kit::new(UpstreamProtocol::Http1, &[shadow(0)], &[&target]);
    kit.shadows.set_bytes(5_000);
    let body = vec![1; 900];

    for _ in 0..10 {
        kit.pass(post("/gated", 900), &body, 900);
        assert!(kit.shadows.bytes_held() <= 5_000);
    }

    let sent = 10 - kit.dropped("memory");
    assert_eq!(sent, 2, "each copy is charged its head and its body");
    target.arrived("/gated", 2).await;
    target.gate.open();
    kit.settled(10).await;
    kit.empty().await;
}

#[tokio::test]
async fn a_request_that_breaks_off_sends_nothing_and_is_counted() {
    let target = Target::start(UpstreamProtocol::Http1).await;
    let kit = Kit::new(UpstreamProtocol::Http1, &[shadow(0)], &[&target]);
    let mut tap = kit.open(&post("/", 10), smallvec![(0, 2)]).expect("a tap");
    tap.request(&post("/", 10).into_parts().0);
    tap.chunk(&Bytes::from_static(b"half"));

    drop(tap);

    assert_eq!((kit.dropped("incomplete"), kit.shadows.bytes_held()), (2, 0));
    kit.pass(post("/after", 0), b"", 1);
    target.arrived("/after", 1).await;
    assert_eq!(target.total(), 1);
}

#[tokio::test]
async fn upgrades_and_requests_without_copies_have_no_tap() {
    let kit = Kit::at(UpstreamProtocol::Http1, &[shadow(0)], vec![]);
    let plain = Request::get("/").body(()).expect("a request");
    let websocket = Request::get("/").header("upgrade", "websocket").body(()).expect("a request");
    let connect = Request::connect("shop:1").body(()).expect("a request");

    assert!(kit.open(&plain, smallvec![]).is_none());
    assert!(kit.open(&plain, smallvec![(0, 0)]).is_none());
    assert!(kit.open(&websocket, smallvec![(0, 1)]).is_none());
    assert!(kit.open(&connect, smallvec![(0, 1)]).is_none());
    assert!(kit.open(&plain, smallvec![(0, 1)]).is_some());
}

#[tokio::test]
async fn a_version_without_endpoints_drops_the_copy_and_says_why() {
    let kit = Kit::at(UpstreamProtocol::Http1, &[shadow(0)], vec![]);

    kit.pass(post("/", 5), b"hello", 5);

    kit.settled(1).await;
    assert_eq!(kit.dropped("no_endpoint"), 1);
    kit.empty().await;
}

#[tokio::test]
async fn a_full_queue_drops_copies_instead_of_waiting() {
    let (shadows, mut queue) = Shadows::unstarted(u64::MAX, 2);
    let kit = Kit::over(shadows, UpstreamProtocol::Http1, &[shadow(0)], vec![], Material::default());

    kit.pass_copies(post("/", 5), b"hello", 5, smallvec![(0, 5)]);

    assert_eq!(kit.dropped("queue"), 3);
    assert_eq!(kit.snapshot.routes[0].shadows[0].in_flight.load(Relaxed), 2);
    while queue.try_recv().is_ok() {}
    kit.empty().await;
}

#[tokio::test]
async fn held_bytes_are_shown_while_they_are_held() {
    let registry = prometheus::Registry::new();
    let shadows = Shadows::start(u64::MAX, &registry).expect("a thread");
    let kit = Kit::over(shadows, UpstreamProtocol::Http1, &[shadow(0)], vec![], Material::default());
    let shown = || registry.gather()[0].get_metric()[0].get_gauge().get_value();

    let mut tap = kit.open(&post("/", 600), smallvec![(0, 1)]).expect("a tap");
    tap.request(&post("/", 600).into_parts().0);
    tap.chunk(&Bytes::from(vec![1; 600]));

    assert_eq!(registry.gather()[0].name(), "tidegate_shadow_held_bytes");
    assert!((600.0..4_096.0).contains(&shown()), "{}", shown());
    drop(tap);
    assert_eq!(shown(), 0.0);
}

#[tokio::test]
async fn connections_are_used_again_and_one_that_was_closed_costs_no_copy() {
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let target = Target::start(protocol).await;
        let kit = Kit::new(protocol, &[shadow(0)], &[&target]);
        for number in 1..=3 {
            kit.pass(post("/", 5), b"hello", 5);
            kit.settled(number).await;
        }
        let before = target.connections();

        target.hang_up().await;
        kit.pass(post("/", 5), b"hello", 5);

        kit.settled(4).await;
        assert_eq!((before, target.connections()), (1, 2));
        assert_eq!((kit.finished("answered"), target.total()), (4, 4), "{protocol:?}");
    }
}

#[tokio::test]
async fn answers_are_compared_by_what_the_shadow_asks_for() {
    let target = Target::start(UpstreamProtocol::Http1).await;
    let compare = Compare { status: true, body: true, latency: false, ignore: vec!["$.id".into()] };
    let kit = Kit::new(UpstreamProtocol::Http1, &[Shadow { compare: Some(compare), ..shadow(0) }], &[&target]);
    const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
    // Targets echo the request's body with the headers below, and the status that the path names.
    type Row = (&'static str, &'static str, u16, &'static [(&'static str, &'static str)], &'static str, &'static str);
    let table: &[Row] = &[
        ("/200", "same", 200, &[], "same", "match"),
        ("/200", "one", 200, &[], "two", "body"),
        ("/500", "same", 200, &[], "same", "status"),
        ("/json", r#"{"id":1,"n":1}"#, 200, JSON, r#"{"n":1, "id":2}"#, "match"),
        ("/json", r#"{"id":1,"n":1}"#, 200, JSON, r#"{"n":2, "id":2}"#, "body"),
        ("/200", "same", 200, &[("content-encoding", "gzip")], "same", "incomparable"),
    ];

    let mut expected = BTreeMap::<&str, u64>::new();
    for (number, (path, shadow_body, status, headers, main_body, verdict)) in (1..).zip(table) {
        let mut tap = kit.carry(post(path, shadow_body.len()), shadow_body.as_bytes(), 3, smallvec![(0, 1)]);
        tap.main_answer_head(100, &HeaderMap::new(), Duration::ZERO);
        tap.main_answer_head(*status, &header_map(headers), Duration::from_millis(1));
        for chunk in main_body.as_bytes().chunks(2) {
            tap.main_answer_chunk(&Bytes::copy_from_slice(chunk));
        }
        tap.main_answer_end();
        *expected.entry(verdict).or_default() += 1;

        until(|| kit.verdicts().values().sum::<u64>() == number).await;
        let seen = kit.verdicts();
        assert_eq!(seen.get(verdict), expected.get(verdict), "{path} {shadow_body} {main_body}: {seen:?}");
    }
    assert_eq!(kit.count("tidegate_shadow_first_byte_seconds_count"), 6);
    assert_eq!(kit.count("tidegate_shadow_main_first_byte_seconds_count"), 6);
    kit.empty().await;
}

#[tokio::test]
async fn a_main_answer_that_was_retried_or_never_came_is_not_compared_with() {
    let target = Target::start(UpstreamProtocol::Http1).await;
    let compare = Compare { status: true, body: true, ..Compare::default() };
    let kit = Kit::new(UpstreamProtocol::Http1, &[Shadow { compare: Some(compare), ..shadow(0) }], &[&target]);

    let mut retried = kit.carry(post("/200", 4), b"same", 4, smallvec![(0, 1)]);
    retried.main_answer_head(502, &HeaderMap::new(), Duration::ZERO);
    retried.main_answer_chunk(&Bytes::from_static(b"broken"));
    retried.restart_attempt();
    retried.chunk(&Bytes::from_static(b"same"));
    retried.end();
    retried.main_answer_head(200, &HeaderMap::new(), Duration::ZERO);
    retried.main_answer_chunk(&Bytes::from_static(b"same"));
    retried.main_answer_end();
    let mut cut_off = kit.carry(post("/200", 4), b"same", 4, smallvec![(0, 1)]);
    cut_off.main_answer_head(200, &HeaderMap::new(), Duration::ZERO);
    drop(cut_off);

    until(|| kit.verdicts().values().sum::<u64>() == 2).await;
    assert_eq!(kit.verdicts(), BTreeMap::from([("match", 1), ("incomparable", 1)]));
    assert_eq!(target.total(), 2);
}

#[tokio::test]
async fn a_slow_main_answer_is_waited_for_without_holding_a_place_in_flight() {
    let target = Target::start(UpstreamProtocol::Http1).await;
    let compare = Some(Compare { status: true, ..Compare::default() });
    let kit = Kit::new(UpstreamProtocol::Http1, &[Shadow { compare, max_in_flight: 1, ..shadow(0) }], &[&target]);

    let mut slow = kit.carry(post("/200", 0), b"", 1, smallvec![(0, 1)]);
    kit.settled(1).await;
    let quick = kit.carry(post("/200", 0), b"", 1, smallvec![(0, 1)]);
    kit.settled(2).await;
    slow.main_answer_head(200, &HeaderMap::new(), Duration::ZERO);
    slow.main_answer_end();
    drop(quick);

    until(|| kit.verdicts().values().sum::<u64>() == 2).await;
    assert_eq!(kit.verdicts(), BTreeMap::from([("match", 1), ("incomparable", 1)]));
}

#[tokio::test]
async fn a_much_later_first_byte_is_a_mismatch_of_latency_only() {
    let target = Target::start(UpstreamProtocol::Http1).await;
    target.gate.close();
    let compare = Some(Compare { status: true, latency: true, ..Compare::default() });
    let kit = Kit::new(UpstreamProtocol::Http1, &[Shadow { compare, ..shadow(0) }], &[&target]);
    let started = std::time::Instant::now();

    let mut tap = kit.carry(post("/gated", 0), b"", 1, smallvec![(0, 1)]);
    tap.main_answer_head(200, &HeaderMap::new(), Duration::from_millis(1));
    tap.main_answer_end();
    target.arrived("/gated", 1).await;
    until(|| started.elapsed() > Duration::from_millis(150)).await;
    target.gate.open();

    until(|| kit.count("tidegate_shadow_compared_total") == 1).await;
    assert_eq!(kit.labelled("tidegate_shadow_mismatches_total", "kind", "latency"), 1);
    assert_eq!(kit.labelled("tidegate_shadow_mismatches_total", "kind", "status"), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Attempts may stop anywhere and cut the body into other pieces each time; the last one shows all of it.
    #[test]
    fn every_byte_is_captured_once_however_often_it_passes(
        body in prop::collection::vec(any::<u8>(), 0..60),
        attempts in prop::collection::vec((0..60_usize, 1..20_usize), 0..4),
        last in 1..20_usize,
        cap in 0..60_u64,
        over in prop_oneof![Just(OverCap::Skip), Just(OverCap::Truncate)],
    ) {
        let (shadows, mut queue) = Shadows::unstarted(u64::MAX, 8);
        let spec = Shadow { max_body: cap, over, ..shadow(0) };
        let kit = Kit::over(shadows, UpstreamProtocol::Http1, &[spec], vec![], Material::default());
        let request = Request::post("/").body(()).expect("a request");

        let mut tap = kit.open(&request, smallvec![(0, 1)]).expect("a tap");
        for (stop, piece) in attempts {
            tap.restart_attempt();
            tap.request(&request.clone().into_parts().0);
            body[..stop.min(body.len())].chunks(piece).for_each(|chunk| tap.chunk(&Bytes::copy_from_slice(chunk)));
        }
        tap.restart_attempt();
        tap.request(&request.into_parts().0);
        body.chunks(last).for_each(|chunk| tap.chunk(&Bytes::copy_from_slice(chunk)));
        tap.end();
        tap.restart_attempt();
        body.chunks(last).for_each(|chunk| tap.chunk(&Bytes::copy_from_slice(chunk)));
        tap.end();
        drop(tap);

        let too_long = body.len() as u64 > cap;
        match queue.try_recv() {
            Ok(copy) => {
                prop_assert_eq!(&copy.capture.chunks.concat()[..], &body[..body.len().min(cap as usize)]);
                prop_assert_eq!(copy.length, cap.min(body.len() as u64));
                prop_assert_eq!(copy.truncated, too_long);
                prop_assert!(!too_long || over == OverCap::Truncate);
            }
            Err(_) => prop_assert!(too_long && over == OverCap::Skip),
        }
        prop_assert!(queue.try_recv().is_err());
        prop_assert_eq!(kit.shadows.bytes_held(), 0);
    }
}

/// A gateway's side of shadows: a route `shop` to `main/v0`, whose copies go to `next/v0`, `next/v1`, ….
struct Kit {
    shadows: Arc<Shadows>,
    snapshot: Arc<Snapshot>,
    metrics: Metrics,
}

impl Kit {
    fn new(protocol: UpstreamProtocol, specs: &[Shadow], targets: &[&Target]) -> Self {
        Self::at(protocol, specs, targets.iter().map(|target| target.address.clone()).collect())
    }

    fn at(protocol: UpstreamProtocol, specs: &[Shadow], addresses: Vec<Address>) -> Self {
        let shadows = Shadows::start(u64::MAX, &prometheus::Registry::new()).expect("a thread");
        Self::over(shadows, protocol, specs, addresses, Material::default())
    }

    fn with_tls(protocol: UpstreamProtocol, specs: &[Shadow], target: &Target, authority: &Certificate) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, authority.cert.pem()).expect("a file");
        let tls = UpstreamTlsReady::load(&UpstreamTls { ca: Some(ca), ..UpstreamTls::default() }).expect("good files");
        let material = Material { upstream_tls: vec![None, Some(Arc::new(tls))], ..Material::default() };
        let shadows = Shadows::start(u64::MAX, &prometheus::Registry::new()).expect("a thread");
        Self::over(shadows, protocol, specs, vec![target.address.clone()], material)
    }

    fn over(
        shadows: Arc<Shadows>,
        protocol: UpstreamProtocol,
        specs: &[Shadow],
        addresses: Vec<Address>,
        material: Material,
    ) -> Self {
        let nowhere = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 9)));
        let version = |(index, address): (usize, Option<Address>)| ServiceVersion {
            name: format!("v{index}"),
            endpoints: address.into_iter().map(|address| EndpointSpec { address, weight: 1 }).collect(),
        };
        let addresses = addresses.into_iter().map(Some).chain([None]);
        let arm = Arm { version: VersionRef { service: 0, version: 0 }, weight: Weight::Share(1) };
        let desired = Desired {
            generation: Generation(1),
            services: vec![
                service("main", UpstreamProtocol::Http1, vec![version((0, Some(nowhere)))]),
                service("next", protocol, addresses.enumerate().map(version).collect()),
            ],
            routes: vec![Route {
                name: "shop".into(),
                matches: Matches {
                    hosts: vec![],
                    path: PathPattern::Prefix(String::new()),
                    dyed: None,
                    methods: vec![],
                    headers: vec![],
                    query: vec![],
                    cookies: vec![],
                },
                action: Action::Forward(Split { arms: vec![arm], ..Split::default() }),
                limits: vec![],
                access: Default::default(),
                rewrite: Rewrite::default(),
                request_headers: HeaderEdits::default(),
                response_headers: HeaderEdits::default(),
                cors: None,
                timeouts: RouteTimeouts::default(),
                max_body: None,
                priority: Default::default(),
                challenge: Default::default(),
                shadows: specs.to_vec(),
            }],
            ..Desired::default()
        };
        let metrics = Metrics::new();
        let snapshot = Arc::new(compile(Arc::new(desired), None, &material, &metrics));
        Self { shadows, snapshot, metrics }
    }

    fn open(&self, request: &Request<()>, copies: SmallVec<[(usize, u32); 1]>) -> Option<Box<Tap>> {
        let plan = Plan {
            route: 0,
            arm: 0,
            version: VersionRef { service: 0, version: 0 },
            endpoint: Arc::clone(&self.snapshot.services[0].versions[0].endpoints[0]),
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            balance_hash: 0,
            target: None,
            answer_headers: SmallVec::new(),
            copies,
            cookies: None,
            seat: crate::guard::gate::Seat::anywhere(),
        };
        let length = request.headers().get(header::CONTENT_LENGTH);
        let head = Head {
            method: request.method(),
            host: "",
            path: request.uri().path(),
            query: request.uri().query(),
            headers: request.headers(),
            content_length: length.map(|value| value.to_str().expect("text").parse().expect("a number")),
            dyed: None,
        };
        Tap::open(&self.shadows, &self.snapshot, &plan, &head)
    }

    /// Carries a request as far as its body's end, in pieces of `piece` bytes.
    fn carry(&self, request: Request<()>, body: &[u8], piece: usize, copies: SmallVec<[(usize, u32); 1]>) -> Box<Tap> {
        let mut tap = self.open(&request, copies).expect("a tap");
        tap.request(&request.into_parts().0);
        body.chunks(piece).for_each(|chunk| tap.chunk(&Bytes::copy_from_slice(chunk)));
        tap.end();
        tap
    }

    /// Carries a request to its end, if there is still a copy to make.
    fn pass_copies(&self, request: Request<()>, body: &[u8], piece: usize, copies: SmallVec<[(usize, u32); 1]>) {
        if let Some(mut tap) = self.open(&request, copies) {
            tap.request(&request.into_parts().0);
            body.chunks(piece).for_each(|chunk| tap.chunk(&Bytes::copy_from_slice(chunk)));
            tap.end();
        }
    }

    fn pass(&self, request: Request<()>, body: &[u8], piece: usize) {
        self.pass_copies(request, body, piece, smallvec![(0, 1)]);
    }

    /// The sum of all series of `family` that have this label.
    fn labelled(&self, family: &str, label: &str, value: &str) -> u64 {
        let wanted = format!("{label}=\"{value}\"");
        self.sum(|line| line.starts_with(&format!("{family}{{")) && line.contains(&wanted))
    }

    fn count(&self, family: &str) -> u64 {
        self.sum(|line| line.starts_with(&format!("{family}{{")))
    }

    fn sum(&self, wanted: impl Fn(&str) -> bool) -> u64 {
        let text = self.metrics.render();
        let values = text.lines().filter(|line| wanted(line)).filter_map(|line| line.rsplit_once(' '));
        values.map(|(_, value)| value.parse::<u64>().expect("a whole number")).sum()
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.labelled("tidegate_shadow_dropped_total", "reason", reason)
    }

    fn finished(&self, result: &str) -> u64 {
        self.labelled("tidegate_shadow_finished_total", "result", result)
    }

    /// What comparisons found, without what they never did.
    fn verdicts(&self) -> BTreeMap<&'static str, u64> {
        let mismatch = |kind| self.labelled("tidegate_shadow_mismatches_total", "kind", kind);
        let (status, body) = (mismatch("status"), mismatch("body"));
        let matches = self.count("tidegate_shadow_compared_total").saturating_sub(status + body);
        let incomparable = self.count("tidegate_shadow_incomparable_total");
        let all = [("match", matches), ("status", status), ("body", body), ("incomparable", incomparable)];
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Waits until `copies` copies were dropped or have finished.
    async fn settled(&self, copies: u64) {
        let ended = || self.count("tidegate_shadow_dropped_total") + self.count("tidegate_shadow_finished_total");
        until(|| ended() >= copies).await;
        assert_eq!(ended(), copies);
    }

    /// Waits until no copy holds a byte or a place in flight.
    async fn empty(&self) {
        let in_flight =
            || self.snapshot.routes[0].shadows.iter().map(|entry| entry.in_flight.load(Relaxed)).sum::<usize>();
        until(|| self.shadows.bytes_held() == 0 && in_flight() == 0).await;
    }
}

fn service(name: &str, protocol: UpstreamProtocol, versions: Vec<ServiceVersion>) -> Service {
    Service {
        name: name.into(),
        balance: Balance::P2c,
        probe: None,
        eject: None,
        retry: Retry::default(),
        timeouts: Timeouts::default(),
        protocol,
        tls: None,
        capacity: Default::default(),
        keep_idle: 16,
        versions,
    }
}

/// A generous shadow to `next/v{version}`.
fn shadow(version: usize) -> Shadow {
    Shadow {
        to: VersionRef { service: 1, version },
        sample: 10_000,
        max_body: CAP,
        over: OverCap::Skip,
        max_in_flight: 1_000,
        timeout: PATIENCE,
        methods: Methods::Any,
        mark: BTreeMap::from([("x-shadow".into(), "1".into())]),
        compare: None,
    }
}

fn post(path: &str, length: usize) -> Request<()> {
    Request::post(path).header("content-length", length).body(()).expect("a request")
}

fn header_map(lines: &[(&str, &str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
}

/// Waits for a condition.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the condition comes true");
}

type Certificate = rcgen::CertifiedKey<rcgen::KeyPair>;

/// A server that remembers what arrives and echoes it. Paths: `/gated` answers once the gate is open, `/gated-body`
/// never ends its answer, `/json` says so, and a number is the status.
struct Target {
    address: Address,
    gate: Gate,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    arrived: Mutex<Vec<Arrived>>,
    connections: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Clone, Debug)]
struct Arrived {
    method: Method,
    uri: Uri,
    authority: Option<String>,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
}

impl Arrived {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("{name} is there")).to_str().expect("text")
    }
}

#[derive(Clone)]
struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    fn close(&self) {
        self.0.send_replace(false);
    }

    fn open(&self) {
        self.0.send_replace(true);
    }
}

impl Target {
    fn new(address: Address) -> Self {
        Self { address, gate: Gate(Arc::new(watch::Sender::new(true))), state: Arc::default() }
    }

    async fn start(protocol: UpstreamProtocol) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = Self::new(Address::Tcp(listener.local_addr().expect("its address")));
        let (state, gate) = (Arc::clone(&target.state), target.gate.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, protocol == UpstreamProtocol::Http2, &state, &gate);
            }
        });
        target
    }

    async fn start_unix(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).expect("a socket");
        let target = Self::new(Address::Unix(path));
        let (state, gate) = (Arc::clone(&target.state), target.gate.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, false, &state, &gate);
            }
        });
        target
    }

    async fn start_tls(protocol: UpstreamProtocol, authority: &Certificate) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = Self::new(Address::Tcp(listener.local_addr().expect("its address")));
        let (state, gate) = (Arc::clone(&target.state), target.gate.clone());
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(authority.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("default versions")
            .with_no_client_auth()
            .with_single_cert(vec![authority.cert.der().clone()], key.into())
            .expect("a good certificate");
        let h2 = protocol != UpstreamProtocol::Http1;
        config.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, h2, &state, &gate);
                }
            }
        });
        target
    }

    /// Requests that have arrived in all.
    fn total(&self) -> u64 {
        self.state.arrived.lock().expect("no panic").len() as u64
    }

    /// Connections that were opened in all.
    fn connections(&self) -> usize {
        self.state.connections.lock().expect("no panic").len()
    }

    /// Closes every connection.
    async fn hang_up(&self) {
        let handles: Vec<_> = self
            .state
            .connections
            .lock()
            .expect("no panic")
            .iter_mut()
            .map(|c| std::mem::replace(c, tokio::spawn(async {})))
            .collect();
        for handle in handles {
            handle.abort();
            let _ = handle.await;
        }
    }

    /// The requests for `target`, once there are `count` of them.
    async fn arrived(&self, target: &str, count: usize) -> Vec<Arrived> {
        let matching = || {
            let arrived = self.state.arrived.lock().expect("no panic");
            let matching = arrived.iter().filter(|a| a.uri.path_and_query().expect("a path").as_str() == target);
            matching.cloned().collect::<Vec<_>>()
        };
        until(|| matching().len() >= count).await;
        matching()
    }
}

fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, h2: bool, state: &Arc<State>, gate: &Gate) {
    let (seen, gate) = (Arc::clone(state), gate.clone());
    let service = service_fn(move |request| echo(request, Arc::clone(&seen), gate.clone()));
    let io = TokioIo::new(stream);
    let connection = tokio::spawn(async move {
        if h2 {
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
        } else {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        }
    });
    state.connections.lock().expect("no panic").push(connection);
}

async fn echo(
    request: Request<Incoming>,
    state: Arc<State>,
    gate: Gate,
) -> Result<Response<Either<Full<Bytes>, Endless>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = head.uri.path().to_owned();
    state.arrived.lock().expect("no panic").push(Arrived {
        authority: head.uri.authority().map(ToString::to_string),
        method: head.method,
        uri: head.uri,
        version: head.version,
        headers: head.headers,
        body: body.clone(),
    });
    if path == "/gated" {
        let _ = gate.0.subscribe().wait_for(|open| *open).await;
    }
    let mut response = match path.as_str() {
        "/gated-body" => Response::new(Either::Right(Endless)),
        _ => Response::new(Either::Left(Full::new(body))),
    };
    if path == "/json" {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    *response.status_mut() = path[1..].parse().unwrap_or(StatusCode::OK);
    Ok(response)
}

/// A body of which nothing ever comes.
struct Endless;

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}
