//! `seconds.csv`: one row for each second, for spreadsheets and notebooks. Times in milliseconds (RFC 4180).

use std::io::{self, Write};

use crate::Failure;
use crate::outcome::Outcome;

/// Writes the rows.
///
/// # Errors
///
/// What `to` says.
pub fn write(outcome: &Outcome, to: impl Write) -> io::Result<()> {
    let mut out = csv::Writer::from_writer(to);
    let mut head: Vec<String> =
        ["second", "due", "sent", "unsent", "good", "failed", "in_flight", "connections", "bytes_out", "bytes_in"]
            .map(str::to_owned)
            .to_vec();
    for of in ["response", "service"] {
        head.extend(["p50", "p90", "p99", "p99.9", "max"].map(|q| format!("{of}_{q}_ms")));
    }
    head.extend(["lag_p99_ms".to_owned(), "busiest_thread_cpu".to_owned()]);
    let kinds: Vec<Failure> = Failure::ALL.into_iter().filter(|kind| outcome.all.failures.contains_key(kind)).collect();
    head.extend(kinds.iter().map(|kind| format!("failed: {}", kind.text())));
    for step in &outcome.steps {
        head.extend([format!("{}: good", step.name), format!("{}: response_p99_ms", step.name)]);
    }
    out.write_record(head.iter().map(|name| inert(name)))?;

    let ms = |nanos: u64| format!("{:.3}", nanos as f64 / 1e6);
    for second in &outcome.seconds {
        let failed: u64 = second.failures.values().sum();
        let counts = [
            u64::from(second.at),
            second.due,
            second.sent,
            second.unsent,
            second.good,
            failed,
            second.in_flight,
            second.connections,
            second.bytes.0,
            second.bytes.1,
        ];
        let mut row: Vec<String> = counts.iter().map(u64::to_string).collect();
        row.extend(second.response.iter().chain(&second.service).map(|nanos| ms(*nanos)));
        row.extend([ms(second.lag), format!("{:.3}", second.cpu)]);
        row.extend(kinds.iter().map(|kind| second.failures.get(kind).copied().unwrap_or(0).to_string()));
        for index in 0..outcome.steps.len() {
            let (good, p99) = second.steps.get(index).copied().unwrap_or_default();
            row.extend([good.to_string(), ms(p99)]);
        }
        out.write_record(row)?;
    }
    out.flush()
}

/// A spreadsheet takes what begins like this for a formula, and names come from scenarios.
fn inert(name: &str) -> String {
    if name.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{name}") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn each_second_is_a_row_of_the_same_length_and_columns_add_up_to_the_outcome() {
        let mut run = sample::run(40);
        run.steps[0].name = "=cmd|'/c calc'!A1, \"x\"\n".to_owned();
        let mut text = Vec::new();

        write(&run, &mut text).unwrap();

        let mut rows = csv::Reader::from_reader(text.as_slice());
        let head = rows.headers().unwrap().clone();
        let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
        let column = |name: &str| head.iter().position(|it| it == name).unwrap();
        let sum = |name: &str| rows.iter().map(|row| row[column(name)].parse::<u64>().unwrap()).sum::<u64>();
        assert_eq!(rows.len(), 40);
        assert_eq!((sum("due"), sum("good"), sum("failed")), (run.all.due, run.all.good, run.all.failed()));
        assert_eq!(sum("failed: status 5xx"), run.all.failed());
        assert!(head.iter().all(|name| !name.starts_with('=')), "{head:?}");
    }
}
