//! The run in a few lines, for the terminal.

use crate::judge::quantile;
use crate::outcome::{Distribution, Outcome};
use crate::report::compare::Comparison;
use crate::report::html::card;
use crate::report::words;

/// Kinds of errors that are listed.
const MOST_KINDS: usize = 10;

/// The lines. `colours` for a terminal that shows them.
pub fn lines(outcome: &Outcome, baseline: Option<&Comparison>, colours: bool) -> Vec<String> {
    let card = card::card(outcome);
    let tone = match (colours, card.tone) {
        (false, _) => ("", ""),
        (true, "good") => ("\x1b[1;32m", "\x1b[0m"),
        (true, "bad") => ("\x1b[1;31m", "\x1b[0m"),
        (true, _) => ("\x1b[1;33m", "\x1b[0m"),
    };
    let mut out = vec![format!("{} · {} ({} model)", plain(&outcome.name), plain(&outcome.load), outcome.model)];
    out.push(format!("{}{} {}{}: {}", tone.0, card.sign, card.word, tone.1, card.sentence));
    out.extend(card.reasons.iter().map(|reason| format!("  - {}", plain(reason))));
    if !card.advice.is_empty() {
        out.push(card.advice.to_owned());
    }
    out.push(String::new());
    out.extend(numbers(outcome));
    if !outcome.thresholds.is_empty() {
        out.push(String::new());
        let width = outcome.thresholds.iter().map(|it| it.text.chars().count()).max().unwrap_or(0);
        out.extend(outcome.thresholds.iter().map(|it| {
            let (sign, text) = (if it.holds { "✓" } else { "✗" }, plain(&it.text));
            format!("{sign} {text:width$}  it was {}", it.seen)
        }));
    }
    if let Some(baseline) = baseline {
        out.push(String::new());
        out.push(format!("against the baseline: {}: {}", baseline.word, plain(&baseline.sentence)));
    }
    let cautions = card::cautions(outcome);
    if !cautions.is_empty() {
        out.push(String::new());
        out.extend(cautions.iter().map(|caution| format!("note: {caution}")));
    }
    out
}

fn numbers(outcome: &Outcome) -> Vec<String> {
    let all = &outcome.all;
    let seconds = (outcome.took as f64 / 1e9).max(1e-9);
    let rate = |count: u64| words::rate(count as f64 / seconds);
    let failed: u64 = all.failed();
    let mut out = vec![format!(
        "due {} ({})  sent {}  unsent {}  good {} ({})  failed {}",
        words::count(all.due),
        rate(all.due),
        words::count(all.sent),
        words::count(all.unsent),
        words::count(all.good),
        rate(all.good),
        words::count(failed)
    )];
    let head = ["mean", "p50", "p90", "p99", "p99.9", "max"].map(|name| format!("{name:>10}")).concat();
    out.push(format!("{:<9}{head}", ""));
    for (name, times) in [("response", &all.response), ("service", &all.service), ("lag", &outcome.generator.lag)] {
        out.push(format!("{name:<9}{}", cells(times)));
    }
    let mut kinds: Vec<_> = all.failures.iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    out.extend(kinds.iter().take(MOST_KINDS).map(|(kind, count)| {
        let example = all.examples.get(kind).map_or(String::new(), |text| format!(" ({})", plain(text)));
        format!("{:>9}  {}{example}", words::count(**count), kind.text())
    }));
    let cpu: Vec<String> =
        outcome.generator.threads.iter().map(|share| words::share((share * 100.0).round() / 100.0)).collect();
    out.push(format!(
        "generator: CPU of its threads {}; {} of memory",
        cpu.join(", "),
        words::bytes(outcome.generator.memory as f64)
    ));
    out
}

fn cells(times: &Distribution) -> String {
    let said = |value: Option<u64>| format!("{:>10}", value.map_or_else(|| "-".to_owned(), words::time));
    let mean = (times.count > 0).then_some(times.mean.round() as u64);
    let quantiles = [0.5, 0.9, 0.99, 0.999, 1.0].map(|q| said(quantile(times, q)));
    format!("{}{}", said(mean), quantiles.concat())
}

/// What servers and scenarios say may hold what moves a cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn summary_says_the_verdict_first_and_colours_only_where_asked() {
        let mut run = sample::run(40);
        run.name = "evil\u{1b}[2J".to_owned();

        let (bare, coloured) = (lines(&run, None, false).join("\n"), lines(&run, None, true).join("\n"));

        assert!(bare.lines().nth(1).unwrap().starts_with("✗ Failed: 1 of 3 thresholds do not hold."), "{bare}");
        assert!(bare.contains("✗ p99 < 200ms") && bare.contains("✓ errors < 1%"), "{bare}");
        assert!(!bare.contains('\u{1b}') && coloured.contains("\u{1b}[1;31m✗ Failed\u{1b}[0m"), "{coloured}");
    }
}
