//! The charts' numbers, second by second, as the page's script draws them.
//!
//! # Invariants
//!
//! - At most [`MOST_POINTS`] points and [`MOST_COLUMNS`] columns of the heat map, however long the run was: several
//!   seconds then share one. Their rates are averaged; of their percentiles the worst is shown, never a mean.

use serde::Serialize;

use crate::Failure;
use crate::outcome::{Outcome, Second, Series};
use crate::report::words;

/// Points on the time axis. A longer run has several seconds in each.
pub const MOST_POINTS: usize = 3_600;
/// Columns of the heat map: as many as a screen has room for.
const MOST_COLUMNS: usize = 600;
/// Lines in one chart of the target. What comes after isn't drawn, and the chart says so.
const MOST_LINES: usize = 14;
/// Charts of the target.
const MOST_CHARTS: usize = 24;

/// What the page's script reads.
#[derive(Debug, Serialize)]
pub struct Data {
    /// Seconds from the start.
    t: Vec<u32>,
    charts: Vec<Drawn>,
    spectrum: Spectrum,
}

/// A chart's numbers.
#[derive(Debug, Serialize)]
struct Drawn {
    id: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    unit: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    log: bool,
    /// Whether lines go on over missing points.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    gaps: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    series: Vec<Drawing>,
    /// Of the heat map: cells and counts of each column.
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<Vec<Vec<(u8, u64)>>>,
    /// Seconds in each column.
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Drawing {
    name: String,
    colour: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    dash: Option<[u8; 2]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    thin: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'static str>,
    v: Vec<Option<Rounded>>,
}

/// The percentile spectrum: `1 / (1 − q)` and milliseconds.
#[derive(Debug, Default, Serialize)]
struct Spectrum {
    x: Vec<Rounded>,
    response: Vec<Option<Rounded>>,
    service: Vec<Option<Rounded>>,
}

/// A chart, as the page's text names it.
#[derive(Debug, Serialize)]
pub struct Chart {
    id: String,
    title: String,
    /// What it shows in a sentence, for those who don't see it as well.
    says: String,
}

/// A number with four digits that matter: finer than a pixel, and half as long.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rounded(f64);

impl Serialize for Rounded {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 && self.0.abs() < 1e15 {
            return serializer.serialize_i64(self.0 as i64);
        }
        let digits = 3 - self.0.abs().log10().floor() as i32;
        let scale = 10f64.powi(digits.clamp(0, 12));
        serializer.serialize_f64((self.0 * scale).round() / scale)
    }
}

/// Seconds in each point.
pub fn width(outcome: &Outcome) -> usize {
    outcome.seconds.len().div_ceil(MOST_POINTS).max(1)
}

/// All charts, for the page and for its script.
pub fn charts(outcome: &Outcome) -> (Vec<Chart>, Data) {
    let width = width(outcome);
    let bins: Vec<&[Second]> = outcome.seconds.chunks(width).collect();
    let t = bins.iter().map(|bin| bin[0].at).collect();
    let mut pen = Pen { bins: &bins, charts: Vec::new(), drawn: Vec::new() };
    pen.rates(outcome);
    pen.times(outcome);
    pen.heat(outcome);
    pen.errors(outcome);
    pen.steps(outcome);
    pen.in_flight(outcome);
    pen.generator(outcome);
    pen.target(outcome, width);
    (pen.charts, Data { t, charts: pen.drawn, spectrum: spectrum(outcome) })
}

struct Pen<'a> {
    bins: &'a [&'a [Second]],
    charts: Vec<Chart>,
    drawn: Vec<Drawn>,
}

impl Pen<'_> {
    fn add(&mut self, title: &str, says: String, drawn: Drawn) {
        let id = format!("chart{}", self.charts.len());
        self.charts.push(Chart { id: id.clone(), title: title.to_owned(), says });
        self.drawn.push(Drawn { id, ..drawn });
    }

    /// A sum over the bin, a second.
    fn rate(&self, of: impl Fn(&Second) -> u64) -> Vec<Option<Rounded>> {
        let rate = |bin: &&[Second]| bin.iter().map(&of).sum::<u64>() as f64 / bin.len() as f64;
        self.bins.iter().map(|bin| Some(Rounded(rate(bin)))).collect()
    }

    /// The worst of the bin, in the unit that `scale` makes of it.
    fn worst(&self, scale: f64, of: impl Fn(&Second) -> u64) -> Vec<Option<Rounded>> {
        let worst = |bin: &&[Second]| bin.iter().map(&of).max().filter(|value| *value > 0);
        self.bins.iter().map(|bin| worst(bin).map(|value| Rounded(value as f64 * scale))).collect()
    }

    fn rates(&mut self, outcome: &Outcome) {
        let mut series = vec![
            line("due", 7, self.rate(|s| s.due)).dashed(),
            line("sent", 6, self.rate(|s| s.sent)),
            line("good answers", 3, self.rate(|s| s.good)),
            line("failed", 2, self.rate(|s| s.failures.values().sum())),
        ];
        if outcome.all.unsent > 0 {
            series.push(line("not sent", 4, self.rate(|s| s.unsent)).dashed());
        }
        let peak = |of: fn(&Second) -> u64| outcome.seconds.iter().map(of).max().unwrap_or(0);
        let says = format!(
            "Requests that were due by the schedule, sent, and answered well, each second. At most {} were due and {} \
             were answered well in one second.",
            words::count(peak(|s| s.due)),
            words::count(peak(|s| s.good))
        );
        self.add("Offered, sent and completed", says, Drawn { unit: "/s", series, ..drawn() });
    }

    fn times(&mut self, outcome: &Outcome) {
        let says = match outcome.seconds.iter().max_by_key(|s| s.response[2]).filter(|s| s.response[2] > 0) {
            None => "Nothing was answered.".to_owned(),
            Some(worst) => format!(
                "Solid: from when a request was due. Dashed: from when it was sent. Where they part, requests waited to \
                 be sent. The worst p99 of a second was {}, at {}.",
                words::time(worst.response[2]),
                words::span(u64::from(worst.at))
            ),
        };
        const MS: f64 = 1e-6;
        let series = vec![
            line("response p50", 3, self.worst(MS, |s| s.response[0])),
            line("p90", 5, self.worst(MS, |s| s.response[1])),
            line("p99", 2, self.worst(MS, |s| s.response[2])),
            line("p99.9", 4, self.worst(MS, |s| s.response[3])).thin(),
            line("max", 7, self.worst(MS, |s| s.response[4])).thin(),
            line("service p50", 3, self.worst(MS, |s| s.service[0])).dashed(),
            line("service p99", 1, self.worst(MS, |s| s.service[2])).dashed(),
        ];
        self.add("Response and service time", says, Drawn { unit: "ms", log: true, series, ..drawn() });
    }

    fn heat(&mut self, outcome: &Outcome) {
        if outcome.seconds.iter().all(|second| second.cells.is_empty()) {
            return;
        }
        let width = outcome.seconds.len().div_ceil(MOST_COLUMNS).max(1);
        let column = |bin: &[Second]| {
            let mut counts = [0_u64; 128];
            for (cell, count) in bin.iter().flat_map(|second| &second.cells) {
                counts[usize::from(*cell).min(127)] += count;
            }
            (0_u8..128).zip(counts).filter(|(_, count)| *count > 0).collect()
        };
        let columns = Some(outcome.seconds.chunks(width).map(column).collect());
        let says = "Each cell is one span of time and one of response times; the stronger its colour, the more requests \
                    ended in it. Two bands are two kinds of answers; a rising edge is a queue.";
        let drawn = Drawn { columns, width: Some(width), ..drawn() };
        self.add("Where response times lie", says.to_owned(), drawn);
    }

    fn errors(&mut self, outcome: &Outcome) {
        let kinds: Vec<Failure> =
            Failure::ALL.into_iter().filter(|kind| outcome.all.failures.contains_key(kind)).collect();
        if kinds.is_empty() {
            return;
        }
        let of = |kind: Failure| move |second: &Second| second.failures.get(&kind).copied().unwrap_or(0);
        let line = |(index, kind): (usize, &Failure)| {
            let line = line(kind.text(), 1 + index % 7, self.rate(of(*kind)));
            if index >= 7 { line.dashed() } else { line }
        };
        let series = kinds.iter().enumerate().map(line).collect();
        let worst = kinds.iter().max_by_key(|kind| outcome.all.failures[kind]).map_or("", |kind| kind.text());
        let says = format!("Failures a second, by kind. The most frequent: {worst}.");
        self.add("Errors by kind", says, Drawn { unit: "/s", series, ..drawn() });
    }

    fn steps(&mut self, outcome: &Outcome) {
        if outcome.steps.len() < 2 {
            return;
        }
        let shown = outcome.steps.iter().take(MOST_LINES).enumerate();
        let of = |index: usize| move |second: &Second| second.steps.get(index).map_or(0, |step| step.1);
        let line = |(index, step): (usize, &crate::outcome::StepOutcome)| {
            let line = line(&step.name, 1 + index % 7, self.worst(1e-6, of(index)));
            if index >= 7 { line.dashed() } else { line }
        };
        let series = shown.map(line).collect();
        let more = outcome.steps.len().saturating_sub(MOST_LINES);
        let mut says = "The response time that 99 of 100 requests of a step stayed within, each second.".to_owned();
        if more > 0 {
            says.push_str(&format!(" {more} more steps are in the table alone."));
        }
        self.add("Response p99 by step", says, Drawn { unit: "ms", log: true, series, ..drawn() });
    }

    fn in_flight(&mut self, outcome: &Outcome) {
        let most = |of: fn(&Second) -> u64| outcome.seconds.iter().map(of).max().unwrap_or(0);
        let says = format!(
            "Open at each second's end. At most {} were under way, on {} connections.",
            words::count(most(|s| s.in_flight)),
            words::count(most(|s| s.connections))
        );
        let peak = |of: fn(&Second) -> u64| -> Vec<Option<Rounded>> {
            let peak = |bin: &&[Second]| Rounded(bin.iter().map(of).max().unwrap_or(0) as f64);
            self.bins.iter().map(|bin| Some(peak(bin))).collect()
        };
        let series =
            vec![line("in flight", 2, peak(|s| s.in_flight)), line("connections", 1, peak(|s| s.connections)).dashed()];
        self.add("In flight and connections", says, Drawn { series, ..drawn() });
    }

    fn generator(&mut self, outcome: &Outcome) {
        let busiest = outcome.generator.threads.iter().copied().fold(0.0, f64::max);
        let says = format!(
            "How late the generator itself was, and how busy. Its busiest thread used {} of a core.",
            words::share(busiest)
        );
        let cpu = |bin: &&[Second]| Rounded(bin.iter().map(|s| s.cpu).fold(0.0, f64::max) * 100.0);
        let cpu = self.bins.iter().map(|bin| Some(cpu(bin))).collect();
        let series =
            vec![line("lag p99", 2, self.worst(1e-6, |s| s.lag)), Drawing { unit: Some("%"), ..line("CPU", 1, cpu) }];
        self.add("The generator's lag and CPU", says, Drawn { unit: "ms", series, ..drawn() });
    }

    fn target(&mut self, outcome: &Outcome, width: usize) {
        let mut kinds: Vec<&str> = Vec::new();
        for series in &outcome.target {
            if !kinds.contains(&series.what.as_str()) && kinds.len() < MOST_CHARTS {
                kinds.push(&series.what);
            }
        }
        for what in kinds {
            let all: Vec<&Series> = outcome.target.iter().filter(|series| series.what == what).collect();
            let unit = unit(&all[0].unit);
            let line = |(index, series): (usize, &&Series)| {
                let line = line(&series.of, 1 + index % 7, self.resampled(series, width));
                if index >= 7 { line.dashed() } else { line }
            };
            let series: Vec<_> = all.iter().take(MOST_LINES).enumerate().map(line).collect();
            let mut says = "As the target itself measured it.".to_owned();
            if all.len() > MOST_LINES {
                says.push_str(&format!(" {} more are left out.", all.len() - MOST_LINES));
            }
            let title = format!("Target: {what}");
            self.add(&title, says, Drawn { unit, gaps: true, series, ..drawn() });
        }
    }

    /// A series' points at the bins' places: the largest of each bin.
    fn resampled(&self, series: &Series, width: usize) -> Vec<Option<Rounded>> {
        let mut out: Vec<Option<Rounded>> = vec![None; self.bins.len()];
        for (at, value) in series.points.iter().filter(|(at, value)| *at >= 0.0 && value.is_finite()) {
            if let Some(slot) = out.get_mut((*at / width as f64) as usize) {
                *slot = Some(Rounded(slot.map_or(*value, |other| other.0.max(*value))));
            }
        }
        out
    }
}

/// The units that the script knows; another one isn't shown.
fn unit(name: &str) -> &'static str {
    ["/s", "ms", "%", "cores", "bytes"].into_iter().find(|known| *known == name).unwrap_or("")
}

fn drawn() -> Drawn {
    Drawn { id: String::new(), unit: "", log: false, gaps: false, series: Vec::new(), columns: None, width: None }
}

fn line(name: &str, colour: usize, v: Vec<Option<Rounded>>) -> Drawing {
    Drawing { name: name.to_owned(), colour, dash: None, thin: false, unit: None, v }
}

impl Drawing {
    fn dashed(self) -> Self {
        Self { dash: Some([6, 4]), ..self }
    }

    fn thin(self) -> Self {
        Self { thin: true, ..self }
    }
}

/// Points at each tenth of a nine, as far as there are requests to stand for them.
fn spectrum(outcome: &Outcome) -> Spectrum {
    let (Some(response), service) = (outcome.all.response.whole(), outcome.all.service.whole()) else {
        return Spectrum::default();
    };
    if response.is_empty() {
        return Spectrum::default();
    }
    let service = service.filter(|it| !it.is_empty());
    let mut out = Spectrum::default();
    let last = (response.len() as f64).log10();
    for step in 0..=(last * 20.0).ceil() as usize {
        let x = 10f64.powf((step as f64 / 20.0).min(last));
        let q = 1.0 - 1.0 / x;
        out.x.push(Rounded(x));
        out.response.push(Some(Rounded(response.value_at_quantile(q) as f64 / 1e6)));
        out.service.push(service.as_ref().map(|it| Rounded(it.value_at_quantile(q) as f64 / 1e6)));
    }
    out
}
