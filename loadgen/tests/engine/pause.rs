//! The pause oracle: a target that stands still for P of every T. What a schedule of requests must then see follows from
//! arithmetic; a generator that waits for answers before it asks again sees next to nothing of it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tidegate_loadgen::Outcome;

use crate::kit::{OK, adds_up, origin, plan, rate, response, run};

/// Lengths in seconds.
struct Case {
    pause: f64,
    period: f64,
    rate: f64,
    lasts: f64,
    /// How far a quantile or the mean may be from the oracle, as a part of it.
    tolerance: f64,
}

/// A target of one thread that stands still for `pause` of every `period`, first at the end of the first period, counted
/// from its first request. Gives the nanoseconds that it worked.
fn target(pause: Duration, period: Duration) -> (SocketAddr, Arc<AtomicU64>) {
    // Room for all who connect while it stands still: the usual 128 drop the rest, who try again only a second later.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(4_096).unwrap();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let worked = Arc::new(AtomicU64::new(0));
    let work = Arc::clone(&worked);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let mut began = false;
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if !std::mem::replace(&mut began, true) {
                    tokio::task::spawn_local(stand_still(Instant::now(), pause, period));
                }
                let _ = stream.set_nodelay(true);
                tokio::task::spawn_local(serve(stream, Arc::clone(&work)));
            }
        });
    });
    (address, worked)
}

async fn stand_still(began: Instant, pause: Duration, period: Duration) {
    for k in 1.. {
        let from = began + period * k - pause;
        tokio::time::sleep_until(from.into()).await;
        // The thread, and with it all of its connections.
        std::thread::sleep((from + pause).saturating_duration_since(Instant::now()));
    }
}

async fn serve(stream: tokio::net::TcpStream, work: Arc<AtomicU64>) {
    let mut buffer = [0; 4_096];
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        let began = Instant::now();
        match stream.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                assert!(buffer[..read].ends_with(b"\r\n\r\n"), "requests come whole");
                if stream.try_write(OK).is_err() {
                    return;
                }
            }
            Err(_) => {}
        }
        work.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
}

/// What each arrival must see, ascending, in seconds.
fn oracle(case: &Case, busy: f64) -> Vec<f64> {
    let count = (case.rate * case.lasts) as usize;
    let mut times: Vec<f64> = (0..count)
        .map(|j| {
            let within = (j as f64 / case.rate) % case.period;
            let mut since = within - (case.period - case.pause);
            if since < 0.0 && j as f64 / case.rate >= case.period {
                since += case.period;
            }
            if since < 0.0 { 0.0 } else { (case.pause - since * (1.0 - busy)).max(0.0) }
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

fn holds(case: &Case) -> Outcome {
    let (address, worked) = target(Duration::from_secs_f64(case.pause), Duration::from_secs_f64(case.period));
    let outcome = run(&plan(origin(address), rate(case.rate, case.lasts)));

    adds_up(&outcome);
    assert_eq!(outcome.all.good as f64, case.rate * case.lasts, "{:?}", outcome.all);
    let busy = worked.load(Ordering::Relaxed) as f64 / 1e9 / case.lasts;
    let times = oracle(case, busy);
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    println!("P {} s, T {} s, {}/s for {} s, busy {busy:.3}", case.pause, case.period, case.rate, case.lasts);
    let mut wrong = Vec::new();
    let mut near = |what: &str, seen: f64, wanted: f64| {
        println!("  {what:>6}: seen {seen:.4} s, wanted {wanted:.4} s, {:+.2} %", (seen / wanted - 1.0) * 100.0);
        if (seen - wanted).abs() > wanted * case.tolerance {
            wrong.push(format!("{what}: {seen} instead of {wanted}"));
        }
    };
    for q in [0.95, 0.99, 0.999] {
        let index = ((times.len() as f64 * q) as usize).min(times.len() - 1);
        near(&format!("p{}", q * 100.0), response(&outcome, q), times[index]);
    }
    near("mean", outcome.all.response.mean / 1e9, mean);
    assert!(wrong.is_empty(), "{wrong:?}");
    outcome
}

fn full() -> bool {
    std::env::var_os("TIDEGATE_FULL").is_some()
}

#[test]
fn response_times_count_from_when_requests_were_due() {
    let outcome = holds(&if full() {
        Case { pause: 1.0, period: 10.0, rate: 200.0, lasts: 60.0, tolerance: 0.02 }
    } else {
        Case { pause: 0.4, period: 2.0, rate: 100.0, lasts: 6.0, tolerance: 0.25 }
    });

    // Requests that left in the pause waited as long from the send; nothing was held back.
    assert!(outcome.all.service.max as f64 >= outcome.all.response.max as f64 * 0.9, "{:?}", outcome.all.service);
}

#[test]
fn a_run_that_ends_while_the_target_stands_still_counts_what_waits() {
    holds(&if full() {
        Case { pause: 1.0, period: 10.0, rate: 200.0, lasts: 39.5, tolerance: 0.02 }
    } else {
        Case { pause: 0.4, period: 2.0, rate: 100.0, lasts: 5.8, tolerance: 0.25 }
    });
}
