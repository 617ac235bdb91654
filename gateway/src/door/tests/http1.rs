//! Requests on a plain connection.

use std::io::Write;

use super::kit::*;
use tidegate_model::desired::{Listener, ListenerGuard};

use super::super::*;

const HEAD: &str = "HTTP/1.1\r\nHost: a\r\n";

#[test]
fn a_connection_carries_one_request_after_another() {
    let rig = rig(vec![listener()]);
    let mut client = rig.connect();

    let first = client.get("/1");
    let second = client.get("/2");

    assert!(first.body.starts_with("GET /1 HTTP/1.1 from 127.0.0.1:"), "{first:?}");
    assert!(second.body.starts_with("GET /2 HTTP/1.1 from 127.0.0.1:"), "{second:?}");
    assert_eq!(rig.metric("tidegate_connections_total{listener=\"web\"}"), 1);
}

#[test]
fn pipelined_requests_are_carried_one_by_one_and_none_sees_the_next() {
    let rig = rig(vec![listener()]);
    let mut client = rig.connect();

    client.send(&format!(
        "POST /1 {HEAD}Content-Length: 5\r\n\r\nhello\
         POST /2 {HEAD}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n\
         GET /3 {HEAD}\r\n\r\n\
         GET http://b/4 {HEAD}\r\n"
    ));
    let bodies: Vec<_> = (0..4).map(|_| client.answer().unwrap().body).collect();

    let rest: Vec<_> = bodies.iter().map(|body| body.split_once(" beyond ").unwrap().1).collect();
    assert_eq!(rest, ["nothing\nhello", "nothing\n3\r\nabc\r\n0\r\nX: y\r\n\r\n", "nothing\n", "nothing\n"]);
    assert!(bodies[3].starts_with("GET /4 HTTP/1.1"), "{bodies:?}");
}

#[test]
fn a_request_that_trickles_in_byte_by_byte_is_carried() {
    let rig = rig(vec![listener()]);
    let mut client = rig.connect();

    for byte in format!("POST /slow {HEAD}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").bytes() {
        client.io.write_all(&[byte]).unwrap();
    }

    assert!(client.answer().unwrap().body.ends_with("2\r\nhi\r\n0\r\n\r\n"));
}

#[test]
fn a_large_body_arrives_whole() {
    let rig = rig(vec![listener()]);
    let mut client = rig.connect();
    let body = "0123456789abcdef".repeat(1 << 16);

    client.send(&format!("POST / {HEAD}Content-Length: {}\r\n\r\n{body}", body.len()));

    assert!(client.answer().unwrap().body.ends_with(&body));
    assert_eq!(client.get("/next").status, 200);
}

#[test]
fn a_client_that_pipelines_and_closes_its_side_still_gets_its_answers() {
    let rig = rig(vec![listener()]);
    let mut client = rig.connect();

    client.send(&format!("GET /1 {HEAD}\r\nGET /2 {HEAD}\r\n"));
    client.io.shutdown(std::net::Shutdown::Write).unwrap();

    assert!(client.answer().unwrap().body.contains("beyond nothing"));
    assert!(client.answer().unwrap().body.contains("beyond eof"));
    client.expect_end();
}

#[test]
fn a_request_that_breaks_a_rule_is_answered_and_counted_and_the_next_connection_served() {
    let rig = rig(vec![listener()]);
    let long = format!("GET /{} {HEAD}\r\n", "x".repeat(40 << 10));
    let wide = format!("GET / {HEAD}X: {}\r\n\r\n", "x".repeat(40 << 10));
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", 400, "host"),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, "version"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405, "connect"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400, "both_lengths"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "unknown_coding"),
        (&long, 414, "long_target"),
        (&wide, 431, "long_head"),
    ];
    for (text, status, reason) in cases {
        let mut client = rig.connect();

        client.send(text);
        let answer = client.answer().unwrap();

        assert_eq!((answer.status, rig.refused(reason)), (status, 1), "{reason}");
        assert!(answer.head.contains("Connection: close\r\n"));
        client.expect_end();
        assert_eq!(rig.connect().get("/").status, 200);
    }
}

#[test]
fn bad_chunking_is_answered_and_counted_once() {
    let rig = rig(vec![listener()]);
    let mut client = rig.connect();

    client.send(&format!("POST / {HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n"));

    assert_eq!(client.answer().unwrap().status, 400);
    client.expect_end();
    assert_eq!(rig.refused("bad_chunking"), 1);
}

#[test]
fn a_head_has_one_deadline_in_all_however_often_a_byte_comes() {
    let guard = ListenerGuard { header_timeout: Duration::from_millis(150), ..ListenerGuard::default() };
    let rig = rig(vec![Listener { guard, ..listener() }]);
    let mut client = rig.connect();
    let mut writer = client.io.try_clone().unwrap();

    let trickle = std::thread::spawn(move || {
        let _ = writer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ");
        while writer.write_all(b"x").is_ok() {
            std::thread::yield_now();
        }
    });
    let answer = client.answer();

    // The trickle may fill the head before its time is up on a fast machine: both bounds refuse.
    assert!(matches!(answer.map(|a| a.status), Some(408 | 431)));
    drop(client);
    trickle.join().unwrap();
}

#[test]
fn a_head_that_stops_halfway_is_answered_408() {
    let guard = ListenerGuard { header_timeout: Duration::from_millis(50), ..ListenerGuard::default() };
    let rig = rig(vec![Listener { guard, ..listener() }]);
    let mut client = rig.connect();

    client.send("GET / HTTP/1.1\r\nHo");

    assert_eq!(client.answer().unwrap().status, 408);
    assert_eq!(rig.refused("late"), 1);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let guard = ListenerGuard { idle_timeout: Duration::from_millis(50), ..ListenerGuard::default() };
    let rig = rig(vec![Listener { guard, ..listener() }]);
    let mut client = rig.connect();

    client.get("/");

    client.expect_end();
    rig.wait_for_metric("tidegate_connections_open{listener=\"web\"}", 0);
}

#[test]
fn the_last_request_that_a_connection_may_carry_says_so() {
    let guard = ListenerGuard { max_requests: 2, ..ListenerGuard::default() };
    let rig = rig(vec![Listener { guard, ..listener() }]);
    let mut client = rig.connect();

    let first = client.get("/");
    let second = client.get("/");

    assert!(!first.head.contains("close") && second.head.contains("Connection: close"));
    client.expect_end();
}

#[test]
fn a_websocket_passes_both_ways_once_it_is_open() {
    let rig = rig(vec![listener()]);
    let mut client = rig.connect();

    // The first frame comes early, before the 101.
    client.send(&format!("GET /upgrade {HEAD}Connection: upgrade\r\nUpgrade: websocket\r\n\r\nearly"));
    assert_eq!(client.answer().unwrap().status, 101);
    client.expect("early");
    client.send("frame");

    client.expect("frame");
}

#[test]
fn a_refused_upgrade_leaves_an_ordinary_connection() {
    let rig = rig(vec![listener()]);
    let mut client = rig.connect();

    client.send(&format!("GET /no {HEAD}Connection: upgrade\r\nUpgrade: h2c\r\n\r\nGET /next {HEAD}\r\n"));

    assert!(client.answer().unwrap().body.contains("beyond nothing"));
    assert!(client.answer().unwrap().body.starts_with("GET /next"));
}

#[test]
fn an_answer_to_an_unread_body_reaches_the_client() {
    let rig = rig(vec![listener()]);
    let mut client = rig.connect();

    client.send(&format!("POST /early {HEAD}Content-Length: 1000000\r\n\r\n"));
    let answer = client.answer().unwrap();
    let _ = client.io.write_all(&[b'x'; 300_000]);

    assert_eq!(answer.status, 413);
    client.expect_end();
    rig.wait_for_metric("tidegate_connections_open{listener=\"web\"}", 0);
}
