//! Each kind of bad target has a line of its own.

use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use tidegate_loadgen::{Failure, Outcome, StartError};
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{Check, Origin};

use crate::kit::{OK, adds_up, answering, failures, origin, plan, rate, request, run, server};

/// Runs twenty requests, and holds that all of them end in one kind of failure.
fn all_fail(plan: &Plan, failure: Failure) -> Outcome {
    let outcome = run(plan);
    adds_up(&outcome);
    assert_eq!(failures(&outcome), [(failure, 20)], "{:?}", outcome.all.examples);
    assert!(!outcome.all.examples[&failure].is_empty());
    outcome
}

fn against(answer: &'static [u8]) -> Plan {
    plan(origin(answering(answer).0), rate(100.0, 0.2))
}

#[test]
fn an_unknown_host_is_told_before_the_start() {
    let nowhere = Origin { tls: false, host: "no-such-host.invalid".to_owned(), port: 80 };

    let refused = tidegate_loadgen::run(&plan(nowhere, rate(1.0, 1.0)), &Default::default(), &mut |_| ());

    assert!(
        matches!(&refused, Err(StartError::Unresolved { host, .. }) if host == "no-such-host.invalid"),
        "{refused:?}"
    );
}

#[test]
fn a_host_that_is_unknown_among_others_is_counted() {
    let mut plan = against(OK);
    let mut lost = plan.flows[0].clone();
    lost.steps[0].origin.host = "no-such-host.invalid".to_owned();
    lost.steps[0].name = "lost".to_owned();
    plan.flows.push(lost);

    let outcome = run(&plan);

    adds_up(&outcome);
    let lost = &outcome.steps[1].tally;
    assert!(lost.due > 0);
    assert_eq!(lost.failures.get(&Failure::Dns), Some(&lost.due), "{lost:?}");
}

#[test]
fn a_port_that_nobody_listens_at_refuses() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

    all_fail(&plan(origin(address), rate(100.0, 0.2)), Failure::Refused);
}

#[test]
fn a_target_that_accepts_no_connection_times_out_while_connecting() {
    // Its queue of connections has room for one or two, and nobody takes them out.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _held: Vec<_> = (0..4)
        .map(|_| {
            let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            held.set_nonblocking(true).unwrap();
            let _ = held.connect(&address.into());
            held
        })
        .collect();
    let mut plan = plan(origin(address), rate(100.0, 0.2));
    plan.client.connect_timeout = Duration::from_millis(300);

    all_fail(&plan, Failure::ConnectTimeout);
}

#[test]
fn a_target_that_never_answers_times_out() {
    let (address, _) = server(|mut stream| {
        request(&mut stream);
        std::thread::park();
    });
    let mut plan = plan(origin(address), rate(100.0, 0.2));
    plan.flows[0].steps[0].timeout = Duration::from_millis(300);

    let outcome = all_fail(&plan, Failure::Timeout);

    assert!(outcome.all.service.min >= 299_000_000, "{:?}", outcome.all.service);
}

#[test]
fn a_body_that_never_ends_times_out_or_is_too_long() {
    let (address, _) = server(|mut stream| {
        request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(b"5\r\nhello\r\n").is_ok() {
            std::thread::yield_now();
        }
    });
    let mut plan = plan(origin(address), rate(100.0, 0.2));
    plan.flows[0].steps[0].timeout = Duration::from_millis(500);

    all_fail(&plan, Failure::Timeout);
    plan.flows[0].steps[0].timeout = Duration::from_secs(30);
    plan.flows[0].steps[0].checks.push(Check::AtMost(1_000));
    all_fail(&plan, Failure::TooLong);
}

#[test]
fn what_is_not_http_is_malformed() {
    for answer in [
        &b"SSH-2.0-OpenSSH_9.2p1\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01",
        b"HTTP/1.1 200 OK\r\nContent-Length: twelve\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ] {
        all_fail(&against(answer), Failure::Malformed);
    }
}

#[test]
fn a_connection_that_is_closed_within_an_answer_is_reset() {
    for part in [&b""[..], b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"] {
        let (address, _) = server(move |mut stream| {
            request(&mut stream);
            let _ = stream.write_all(part);
        });

        all_fail(&plan(origin(address), rate(100.0, 0.2)), Failure::Reset);
    }
}

#[test]
fn bad_statuses_are_told_apart() {
    let missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    let broken = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

    let outcome = all_fail(&against(missing), Failure::ClientError);
    all_fail(&against(broken), Failure::ServerError);

    assert_eq!(outcome.all.statuses[&404], 20);
}

#[test]
fn a_target_that_does_not_speak_tls_fails_the_handshake() {
    let mut plan = against(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let origin = &mut plan.flows[0].steps[0].origin;
    (origin.tls, origin.host) = (true, "localhost".to_owned());
    plan.client.resolve.insert("localhost".to_owned(), "127.0.0.1".parse().unwrap());

    // It waits for the end of a head that never comes; the record that is no record comes when it is closed.
    plan.client.connect_timeout = Duration::from_millis(500);
    let outcome = run(&plan);

    adds_up(&outcome);
    assert!(matches!(failures(&outcome)[..], [(Failure::Tls | Failure::ConnectTimeout, 20)]), "{:?}", outcome.all);
}
