//! HTTP/2: streams share connections, and what goes wrong is told as with HTTP/1.1.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tidegate_loadgen::Failure;
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{Load, Protocol, Template};

use crate::kit::{adds_up, failures, origin, plan, rate, run};

/// What the target does with a request.
#[derive(Clone, Copy)]
enum Does {
    /// Answers with as many bytes as it was sent, and two.
    Echo,
    Refuse,
    Reset,
    Nothing,
}

/// A target that speaks HTTP/2 with prior knowledge. Counts its connections.
fn target(does: Does) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let accepted = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&accepted);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, does));
            }
        });
    });
    (address, accepted)
}

async fn serve(stream: tokio::net::TcpStream, does: Does) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut held = Vec::new();
    while let Some(Ok((request, mut answer))) = connection.accept().await {
        match does {
            Does::Refuse => answer.send_reset(h2::Reason::REFUSED_STREAM),
            Does::Reset => answer.send_reset(h2::Reason::INTERNAL_ERROR),
            Does::Nothing => held.push((request, answer)),
            Does::Echo => {
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    let mut length = 2;
                    while let Some(Ok(piece)) = body.data().await {
                        length += piece.len();
                        let _ = body.flow_control().release_capacity(piece.len());
                    }
                    let head = http::Response::new(());
                    if let Ok(mut stream) = answer.send_response(head, false) {
                        let _ = stream.send_data(Bytes::from(vec![b'x'; length]), true);
                    }
                });
            }
        }
    }
}

fn against(does: Does, load: Load) -> (Plan, Arc<AtomicU64>) {
    let (address, accepted) = target(does);
    let mut plan = plan(origin(address), load);
    plan.client.protocol = Protocol::Http2;
    (plan, accepted)
}

#[test]
fn requests_share_a_connection_on_each_thread() {
    let (plan, accepted) = against(Does::Echo, rate(200.0, 1.0));

    let outcome = run(&plan);

    adds_up(&outcome);
    assert_eq!(outcome.all.good, 200, "{:?}", outcome.all);
    assert_eq!(accepted.load(Ordering::Relaxed), 2);
    assert!(outcome.all.bytes_in > 400 && outcome.all.bytes_out > 400, "{:?}", outcome.all);
}

#[test]
fn more_streams_than_fit_one_connection_open_another() {
    let (mut plan, accepted) = against(Does::Nothing, rate(100.0, 0.2));
    plan.client.streams = 5;
    plan.client.threads = 1;
    plan.flows[0].steps[0].timeout = std::time::Duration::from_millis(900);

    let outcome = run(&plan);

    adds_up(&outcome);
    assert_eq!(failures(&outcome), [(Failure::Timeout, 20)]);
    assert_eq!(accepted.load(Ordering::Relaxed), 4);
}

#[test]
fn a_body_is_sent_and_the_answer_counted() {
    let (mut plan, _) = against(Does::Echo, rate(50.0, 0.2));
    let step = &mut plan.flows[0].steps[0];
    step.method = "POST".to_owned();
    step.body = Some(Template::text("x".repeat(100_000)));

    let outcome = run(&plan);

    adds_up(&outcome);
    assert_eq!(outcome.all.good, 10, "{:?}", outcome.all);
    assert!(outcome.all.bytes_in > 1_000_000 && outcome.all.bytes_out > 1_000_000, "{:?}", outcome.all);
}

#[test]
fn refused_and_reset_streams_are_told_apart() {
    for (does, failure) in [(Does::Refuse, Failure::Refusal), (Does::Reset, Failure::Reset)] {
        let (plan, _) = against(does, rate(100.0, 0.2));

        let outcome = run(&plan);

        adds_up(&outcome);
        assert_eq!(failures(&outcome), [(failure, 20)], "{:?}", outcome.all);
    }
}

#[test]
fn nobody_listening_refuses_everyone_who_waits_for_the_connection() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut plan = plan(origin(address), rate(200.0, 0.2));
    plan.client.protocol = Protocol::Http2;

    let outcome = run(&plan);

    adds_up(&outcome);
    assert_eq!(failures(&outcome), [(Failure::Refused, 40)]);
}
