//! What comes before the first request: bounds, PROXY headers, TLS, protocols.

use std::io::Write;

use tidegate_model::desired::{AcmeChallengeKind, Listener, ListenerGuard};

use super::super::*;
use super::kit::*;

const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn impatient(guard: fn(&mut ListenerGuard), listener: Listener) -> Listener {
    let mut listener = listener;
    guard(&mut listener.guard);
    listener
}

#[test]
fn beyond_the_bound_connections_are_closed_and_counted() {
    let mut rig = rig(vec![listener()]);
    rig.desired.bounds.connections = 2;
    rig.apply_desired();
    let mut seated: Vec<_> = (0..2).map(|_| rig.connect()).collect();
    seated.iter_mut().for_each(|client| drop(client.get("/")));

    rig.connect().expect_end();

    assert_eq!(rig.turned("full"), 1);
    assert_eq!(seated[0].get("/").status, 200);
}

#[test]
fn one_source_can_not_take_every_seat() {
    let mut rig = rig(vec![listener()]);
    rig.desired.bounds.connections_per_source = 1;
    rig.apply_desired();
    let mut seated = rig.connect();
    seated.get("/");

    rig.connect().expect_end();
    drop(seated);
    rig.wait_for_metric("tidegate_connections_open{listener=\"web\"}", 0);

    assert_eq!(rig.turned("source_full"), 1);
    assert_eq!(rig.connect().get("/").status, 200);
}

#[test]
fn a_proxy_header_says_who_the_visitor_is() {
    let rig = rig(vec![Listener { proxy_protocol: vec!["127.0.0.0/8".parse().unwrap()], ..listener() }]);
    let mut one = rig.connect();
    let mut two = rig.connect();

    one.send("PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n");
    two.io.write_all(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x08\xc6\x33\x64\x01\x12\x68\x00\x50").unwrap();

    assert!(one.get("/").body.contains("from 192.0.2.7:4711 "));
    assert!(one.get("/again").body.contains("from 192.0.2.7:4711 "));
    assert!(two.get("/").body.contains("from 192.0.2.8:4712 "));
}

#[test]
fn a_proxy_that_sends_no_header_or_half_of_one_is_turned_away() {
    let trusting = Listener { proxy_protocol: vec!["127.0.0.0/8".parse().unwrap()], ..listener() };
    let rig = rig(vec![impatient(|g| g.handshake_timeout = Duration::from_millis(50), trusting)]);
    let mut without = rig.connect();
    let mut half = rig.connect();

    without.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    half.send("PROXY TCP4 192.0.2.7");

    without.expect_end();
    half.expect_end();
    rig.wait_for_metric("tidegate_connections_refused_total{listener=\"web\",reason=\"bad_proxy_header\"}", 1);
    rig.wait_for_metric("tidegate_connections_refused_total{listener=\"web\",reason=\"late\"}", 1);
}

#[test]
fn a_header_from_somebody_who_is_no_proxy_is_a_bad_request() {
    let rig = rig(vec![Listener { proxy_protocol: vec!["192.0.2.0/24".parse().unwrap()], ..listener() }]);
    let mut client = rig.connect();

    client.send("PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n");

    assert_eq!(client.answer().unwrap().status, 400);
}

#[test]
fn http2_is_told_from_http1_by_its_preface_wherever_that_is_cut() {
    let rig = rig(vec![listener()]);
    for cut in [1, 3, 23, 24] {
        let mut client = rig.connect();

        client.send(&PREFACE[..cut]);
        client.send(&PREFACE[cut..]);

        client.expect(PREFACE);
    }
    let mut post = rig.connect();
    post.send("P");
    post.send("UT / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(post.answer().unwrap().body.starts_with("PUT / "));
}

#[test]
fn a_listener_without_http2_refuses_its_preface_and_one_without_http1_its_requests() {
    let only1 = rig(vec![Listener { http2: false, ..listener() }]);
    let only2 = rig(vec![Listener { http1: false, ..listener() }]);
    let (mut one, mut two) = (only1.connect(), only2.connect());

    one.send(PREFACE);
    let refused = (one.answer().unwrap().status, two.get("/").status);

    assert_eq!(refused, (505, 505));
    assert_eq!((only1.refused("version"), only2.refused("only_http2")), (1, 1));
}

#[test]
fn a_broken_preface_is_answered_by_goaway_and_what_may_be_meant_as_http1_by_400() {
    const GOAWAY: &str = "\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";
    let (both, only2) = (rig(vec![listener()]), rig(vec![Listener { http1: false, ..listener() }]));
    for broken in ["INVALID CONNECTION PREFACE\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        for rig in [&both, &only2] {
            let mut client = rig.connect();

            client.send(broken);

            client.expect(GOAWAY);
            client.expect_end();
        }
    }
    for bad in ["GET A B\r\n\r\n", "FROB /a JUNK\r\n\r\n", "HELLO WORLD\r\n\r\n"] {
        let mut client = both.connect();

        client.send(bad);

        assert_eq!(client.answer().unwrap().status, 400, "{bad:?}");
    }
    let mut late = both.connect();
    late.get("/");
    late.send("INVALID CONNECTION PREFACE\r\n\r\n");
    assert_eq!(late.answer().unwrap().status, 400);
    assert_eq!((both.refused("http2_preface"), both.refused("request_line")), (2, 4));
    assert_eq!(only2.refused("http2_preface"), 2);
}

#[test]
fn certificates_are_chosen_by_name_exact_before_wildcard_before_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let (default, default_der) = certificate(folder.path(), "default", &["default.test"]);
    let (wild, wild_der) = certificate(folder.path(), "wild", &["*.shop.test"]);
    let (exact, exact_der) = certificate(folder.path(), "exact", &["www.shop.test", "shop.test"]);
    let rig = rig(vec![tls_listener(vec![default, wild, exact])]);

    // Each client trusts only the certificate that it should be shown.
    for (name, root) in [
        ("default.test", &default_der),
        ("a.shop.test", &wild_der),
        ("www.shop.test", &exact_der),
        ("WWW.Shop.test", &exact_der),
        ("shop.test", &exact_der),
    ] {
        let mut client = rig.connect().tls(name, &["http/1.1"], root);
        let body = client.get("/").body;
        assert!(body.contains(&format!("sni {}", name.to_ascii_lowercase())), "{body}");
    }
    let mut deep = rig.connect().tls("a.b.shop.test", &[], &default_der);
    let failed = std::io::Read::read(&mut deep.io, &mut [0]).unwrap_err();
    assert!(failed.to_string().contains("only valid for DnsName(\"default.test\")"), "{failed}");
    assert_eq!(rig.handshakes("ok"), 5);
}

#[test]
fn the_protocol_on_tls_is_what_was_negotiated() {
    let folder = tempfile::tempdir().unwrap();
    let (files, root) = certificate(folder.path(), "a", &["a.test"]);
    let rig = rig(vec![tls_listener(vec![files])]);

    let mut two = rig.connect().tls("a.test", &["h2", "http/1.1"], &root);
    two.send(PREFACE);
    two.expect(PREFACE);
    let mut one = rig.connect().tls("a.test", &["http/1.1"], &root);
    let mut none = rig.connect().tls("a.test", &[], &root);

    assert_eq!((one.get("/").status, none.get("/").status), (200, 200));
    assert_eq!(two.io.conn.alpn_protocol(), Some(&b"h2"[..]));
}

#[test]
fn what_is_no_tls_on_a_tls_port_is_told_so_or_closed_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (files, root) = certificate(folder.path(), "a", &["a.test"]);
    let rig = rig(vec![tls_listener(vec![files])]);

    let plain = rig.connect().get("/");
    let mut noise = rig.connect();
    noise.send("\x00\x01garbage");
    noise.expect_end();
    let mut broken = rig.connect();
    broken.io.write_all(b"\x16\x03\x01\x00\x05\xff\xff\xff\xff\xff").unwrap();
    let _ = std::io::Read::read_to_end(&mut broken.io, &mut Vec::new());
    drop(rig.connect());

    assert_eq!(plain.status, 400);
    assert!(plain.body.contains("TLS"));
    assert_eq!(rig.handshakes("plain_http"), 1);
    rig.wait_for_metric("tidegate_tls_handshakes_total{listener=\"web\",result=\"garbage\"}", 2);
    assert_eq!(rig.connect().tls("a.test", &[], &root).get("/").status, 200);
}

#[test]
fn a_client_that_never_finishes_its_handshake_is_closed_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = certificate(folder.path(), "a", &["a.test"]);
    let listener = impatient(|g| g.handshake_timeout = Duration::from_millis(50), tls_listener(vec![files]));
    let rig = rig(vec![listener]);
    let (mut silent, mut slow) = (rig.connect(), rig.connect());

    slow.send("\x16\x03\x01\x01");

    silent.expect_end();
    slow.expect_end();
    rig.wait_for_metric("tidegate_tls_handshakes_total{listener=\"web\",result=\"late\"}", 2);
}

#[test]
fn a_proxy_header_comes_before_the_handshake_even_in_one_packet_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (files, root) = certificate(folder.path(), "a", &["a.test"]);
    let trusting = Listener { proxy_protocol: vec!["127.0.0.1/32".parse().unwrap()], ..tls_listener(vec![files]) };
    let rig = rig(vec![trusting]);
    let mut tls = rig.connect().tls("a.test", &[], &root);
    let mut first = b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n".to_vec();

    tls.io.conn.write_tls(&mut first).unwrap();
    tls.io.sock.write_all(&first).unwrap();

    assert!(tls.get("/").body.contains("from [2001:db8::7]:4711 sni a.test"));
}

#[test]
fn an_acme_authority_is_shown_the_challenge_of_its_name_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (files, root) = certificate(folder.path(), "a", &["a.test"]);
    let rig = rig(vec![tls_listener(vec![files])]);
    rig.challenges.pose(AcmeChallengeKind::TlsAlpn01, "a.test", "token.thumb");

    let mut authority = rig.connect().tls_to_anyone("a.test", &["acme-tls/1"]);
    authority.expect_end();
    let mut both = rig.connect().tls("a.test", &["acme-tls/1", "http/1.1"], &root);
    let visitor = both.get("/").status;
    rig.challenges.withdraw(AcmeChallengeKind::TlsAlpn01, "a.test");
    let mut late = rig.connect().tls_to_anyone("a.test", &["acme-tls/1"]);
    let refused = std::io::Read::read(&mut late.io, &mut [0]).unwrap_err();

    assert_eq!(authority.io.conn.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    assert_eq!(visitor, 200);
    assert!(refused.to_string().contains("fatal alert"), "{refused}");
    assert_eq!((rig.handshakes("acme_challenge"), rig.handshakes("ok")), (1, 1));
}
