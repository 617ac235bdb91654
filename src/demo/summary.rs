//! What a demo run says about its traffic: a line each second, a table at the end.

use std::fmt::Write;
use std::time::Duration;

use super::visitors::{Outcomes, Tally};

/// One line about the last second.
pub fn line(elapsed: Duration, tally: &Tally) -> String {
    let total = tally.succeeded() + tally.failed();
    let mut text = format!("{:>4}s {total:>5}/s", elapsed.as_secs());
    for (version, outcomes) in &tally.versions {
        let share = percent(outcomes.succeeded + outcomes.failed, total);
        write!(text, "  {version} {share}").expect("a string never refuses");
    }
    let slowest = tally.versions.values().map(|outcomes| outcomes.latency.value_at_quantile(0.99)).max();
    write!(text, "  failed {}  p99 {}", tally.failed(), millis(slowest.unwrap_or(0))).expect("a string never refuses");
    text
}

/// The table at the end.
pub fn table(elapsed: Duration, tally: &Tally) -> String {
    let total = tally.succeeded() + tally.failed();
    let mut text =
        format!("{:<10} {:>9} {:>8} {:>8} {:>10} {:>10}\n", "version", "requests", "share", "errors", "p50", "p99");
    for (version, outcomes) in &tally.versions {
        row(&mut text, version, outcomes, total);
    }
    let mut sum = Outcomes::default();
    for outcomes in tally.versions.values() {
        sum.succeeded += outcomes.succeeded;
        sum.failed += outcomes.failed;
        sum.latency.add(&outcomes.latency).expect("all histograms have the same bounds");
    }
    row(&mut text, "all", &sum, total);
    let rate = total as f64 / elapsed.as_secs_f64().max(0.001);
    write!(text, "{:.1} s, {rate:.0} requests per second", elapsed.as_secs_f64()).expect("a string never refuses");
    text
}

fn row(text: &mut String, name: &str, outcomes: &Outcomes, total: u64) {
    let requests = outcomes.succeeded + outcomes.failed;
    let [p50, p99] = [0.5, 0.99].map(|q| millis(outcomes.latency.value_at_quantile(q)));
    writeln!(
        text,
        "{name:<10} {requests:>9} {:>8} {:>8} {p50:>10} {p99:>10}",
        percent(requests, total),
        outcomes.failed
    )
    .expect("a string never refuses");
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".into() } else { format!("{:.1}%", part as f64 * 100.0 / whole as f64) }
}

fn millis(micros: u64) -> String {
    format!("{:.1} ms", micros as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_requests_share_errors_and_percentiles_by_version() {
        let mut tally = Tally::default();
        for millis in 1..=95 {
            tally.count("v1", true, Duration::from_millis(millis));
        }
        for _ in 0..4 {
            tally.count("v2", true, Duration::from_millis(2));
        }
        tally.count("v2", false, Duration::from_millis(8));

        let table = table(Duration::from_secs(2), &tally);

        insta::assert_snapshot!(table, @r"
        version     requests    share   errors        p50        p99
        v1                95    95.0%        0    48.0 ms    95.0 ms
        v2                 5     5.0%        1     2.0 ms     8.0 ms
        all              100   100.0%        1    45.0 ms    94.0 ms
        2.0 s, 50 requests per second
        ");
    }

    #[test]
    fn a_second_without_traffic_is_a_line_too() {
        let line = line(Duration::from_secs(3), &Tally::default());

        assert_eq!(line, "   3s     0/s  failed 0  p99 0.0 ms");
    }
}
