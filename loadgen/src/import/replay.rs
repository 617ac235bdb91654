//! Replays traffic with its own spacing.
//!
//! Two things can be changed, each from 10 to 500 percent:
//!
//! - **Speed** compresses or stretches time. At 300 % the gaps between requests are a third, so the same requests come at
//!   three times their rate in a third of the time.
//! - **Volume** keeps the time and changes how many come. At 300 % each request is sent three times, its copies spread over
//!   the gap to the next one; at 30 %, three of ten are sent, evenly chosen.
//!
//! # Invariants
//!
//! - Order is kept, and at 100 % every gap is what it was, to the microsecond.
//! - Where the traffic is sent is said by whoever replays it, never by the file.
//! - Speed and volume draw no dice: equal arguments, equal plan.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{
    Arrival, Client, Feeder, Flow, Load, Order, Origin, Piece, Rows, Step, Template, Value,
};

use super::{Traffic, shape};

/// Kinds of requests that the report tells apart. Those beyond are put together by method.
const KINDS: usize = 100;

/// Arrivals of one replay, copies included. More are refused.
const MAX_ARRIVALS: usize = 20_000_000;

/// Percentages of speed and volume.
pub const PERCENT: std::ops::RangeInclusive<f64> = 10.0..=500.0;

/// How traffic is replayed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it is sent.
    pub target: Origin,
    /// How fast, in percent.
    pub speed: f64,
    /// How much, in percent.
    pub volume: f64,
    /// Whether requests name the host that they were recorded for; else the target's.
    pub keep_host: bool,
    /// How requests are carried.
    pub client: Client,
    /// Flows that may be under way at once.
    pub most_in_flight: u32,
}

/// The fields of the one feeder: what differs between requests of a kind.
const TARGET: usize = 0;
const LINES: usize = 1;
const BODY: usize = 2;

/// Plans the replay of `traffic`, which was read from `path`.
///
/// # Errors
///
/// A percentage is out of its range, or there would be too many arrivals.
pub fn plan(path: &Path, traffic: &Traffic, options: &Options) -> anyhow::Result<Plan> {
    for (what, percent) in [("speed", options.speed), ("volume", options.volume)] {
        if !PERCENT.contains(&percent) {
            bail!("a replay's {what} is from {}% to {}%, not {percent}%", PERCENT.start(), PERCENT.end());
        }
    }
    let kinds = shape::kinds(&traffic.requests, options.keep_host, KINDS);
    let mut flow_of = vec![0_u32; traffic.requests.len()];
    let mut flows = Vec::with_capacity(kinds.len());
    for (at, kind) in kinds.iter().enumerate() {
        for request in &kind.requests {
            flow_of[*request] = at as u32;
        }
        let has_body = kind.requests.iter().any(|at| {
            let request = &traffic.requests[*at];
            request.body.is_some() || request.body_base64.is_some()
        });
        let mut step = Step::get(kind.name.clone(), options.target.clone(), fed(TARGET));
        step.method.clone_from(&kind.method);
        step.lines = Some(fed(LINES));
        step.body = has_body.then(|| fed(BODY));
        if let Some((_, host)) = kind.origin.split_once("://").filter(|_| options.keep_host) {
            step.headers.push(("host".into(), Template::text(host)));
        }
        flows.push(Flow { name: kind.name.clone(), weight: kind.requests.len() as f64, steps: vec![step] });
    }
    let mut rows = Rows::new(3);
    for request in &traffic.requests {
        let mut lines = String::new();
        for (name, value) in &request.headers {
            lines.push_str(name);
            lines.push_str(": ");
            lines.push_str(value);
            lines.push_str("\r\n");
        }
        rows.push([request.target.as_bytes(), lines.as_bytes(), &request.body()]);
    }
    let times: Vec<u64> = traffic.requests.iter().map(|request| request.at_us).collect();
    let arrivals = arrivals(&spread(&times), options)?;
    let arrivals = arrivals.into_iter().map(|(at, row)| Arrival { at, flow: flow_of[row as usize], row });
    Ok(Plan {
        name: path.file_stem().map_or("replay".into(), |stem| stem.to_string_lossy().into_owned()),
        load: Load::Recorded { arrivals: arrivals.collect(), most_in_flight: options.most_in_flight },
        flows,
        feeders: vec![Feeder {
            name: "request".into(),
            path: path.to_owned(),
            fields: vec!["target".into(), "headers".into(), "body".into()],
            rows,
            order: Order::Given,
        }],
        client: options.client.clone(),
        thresholds: Vec::new(),
        stops: Vec::new(),
        mark: None,
        seed: 1,
    })
}

fn fed(field: usize) -> Template {
    Template { pieces: vec![Piece::Value(Value::Fed { feeder: 0, field })] }
}

/// `times` (ascending microseconds) with those of whole seconds spread over their second. Logs in the combined format say
/// no more than the second; where every time is a whole one, the requests of a second are taken to have come evenly.
fn spread(times: &[u64]) -> Vec<u64> {
    const SECOND: u64 = 1_000_000;
    if times.iter().any(|time| time % SECOND != 0) {
        return times.to_vec();
    }
    let mut spread = Vec::with_capacity(times.len());
    for second in times.chunk_by(|a, b| a == b) {
        let many = second.len() as u64;
        spread.extend((0..many).map(|at| second[0] + at * SECOND / many));
    }
    spread
}

/// When each request is sent, and which it is: by speed and volume.
fn arrivals(times: &[u64], options: &Options) -> anyhow::Result<Vec<(Duration, u32)>> {
    let (speed, volume) = (options.speed / 100.0, options.volume / 100.0);
    let expected = times.len() as f64 * volume;
    if expected > MAX_ARRIVALS as f64 {
        bail!("these are {expected:.0} requests, more than {MAX_ARRIVALS}; take a part of the recording");
    }
    let mut arrivals = Vec::with_capacity(expected as usize + 1);
    let mut sent = 0_u64;
    for (at, time) in times.iter().enumerate() {
        // So many should have been sent with this one: the remainder goes on to the next.
        let due = ((at + 1) as f64 * volume + 1e-9).floor() as u64;
        let copies = due - sent;
        sent = due;
        let gap = times.get(at + 1).map_or(0.0, |next| (next - time) as f64);
        for copy in 0..copies {
            let micros = (*time as f64 + gap * copy as f64 / copies as f64) / speed;
            arrivals.push((Duration::from_nanos((micros * 1e3).round() as u64), at as u32));
        }
    }
    if arrivals.is_empty() {
        bail!("at {}% of its volume nothing is left of {} requests", options.volume, times.len());
    }
    let first = arrivals[0].0; // Thinning may have left out the first.
    for (at, _) in &mut arrivals {
        *at -= first;
    }
    Ok(arrivals)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn options(speed: f64, volume: f64) -> Options {
        Options {
            target: Origin { tls: false, host: "127.0.0.1".into(), port: 80 },
            speed,
            volume,
            keep_host: false,
            client: Client::default(),
            most_in_flight: 100,
        }
    }

    fn sent(times: &[u64], speed: f64, volume: f64) -> Vec<(u128, u32)> {
        let arrivals = arrivals(times, &options(speed, volume)).unwrap();
        arrivals.into_iter().map(|(at, row)| (at.as_micros(), row)).collect()
    }

    #[test]
    fn speed_divides_gaps_and_keeps_requests() {
        assert_eq!(sent(&[0, 300, 900], 100.0, 100.0), [(0, 0), (300, 1), (900, 2)]);
        assert_eq!(sent(&[0, 300, 900], 300.0, 100.0), [(0, 0), (100, 1), (300, 2)]);
        assert_eq!(sent(&[0, 300, 900], 50.0, 100.0), [(0, 0), (600, 1), (1_800, 2)]);
    }

    #[test]
    fn volume_spreads_copies_over_the_gap_and_keeps_the_time() {
        assert_eq!(sent(&[0, 300, 900], 100.0, 200.0), [(0, 0), (150, 0), (300, 1), (600, 1), (900, 2), (900, 2)]);
        assert_eq!(sent(&[0, 300, 900], 100.0, 150.0), [(0, 0), (300, 1), (600, 1), (900, 2)]);
    }

    #[test]
    fn thinning_takes_its_share_evenly() {
        let times: Vec<u64> = (0..10).map(|at| at * 100).collect();

        let rows: Vec<u32> = sent(&times, 100.0, 30.0).into_iter().map(|(_, row)| row).collect();

        assert_eq!(rows, [3, 6, 9]);
    }

    #[test]
    fn whole_seconds_are_spread_and_finer_times_are_not() {
        assert_eq!(spread(&[0, 0, 0, 0, 2_000_000]), [0, 250_000, 500_000, 750_000, 2_000_000]);
        assert_eq!(spread(&[0, 0, 5]), [0, 0, 5]);
    }

    #[test]
    fn a_percentage_out_of_its_range_is_refused() {
        let traffic = Traffic { format: super::super::Format::Har, requests: Vec::new(), notes: Vec::new() };

        let refused = plan(Path::new("x"), &traffic, &options(501.0, 100.0)).unwrap_err();

        assert_eq!(refused.to_string(), "a replay's speed is from 10% to 500%, not 501%");
    }

    proptest! {
        #[test]
        fn arrivals_ascend_and_their_number_is_the_volume(
            gaps in prop::collection::vec(0_u64..100_000, 1..200),
            speed in 10.0..=500.0,
            volume in 100.0..=500.0,
        ) {
            let times: Vec<u64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();

            let arrivals = arrivals(&times, &options(speed, volume)).unwrap();

            prop_assert!(arrivals.is_sorted_by_key(|(at, _)| *at));
            prop_assert_eq!(arrivals.len(), (times.len() as f64 * volume / 100.0 + 1e-9) as usize);
        }
    }
}
