//! A view in words and columns. The terminal and the plain table show the same lines.

use super::view::{EndpointRow, LimitRow, ShadowRow, Traffic, View, short};

/// What a piece of text means. The terminal turns it into colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Quiet,
    Head,
    Good,
    Warn,
    Bad,
}

/// One line: pieces of text, each with its tone.
#[derive(Clone, Debug, Default)]
pub(super) struct Line(pub Vec<(String, Tone)>);

impl Line {
    /// Without tones.
    pub fn text(&self) -> String {
        self.0.iter().map(|(text, _)| text.as_str()).collect()
    }

    fn of(text: impl Into<String>, tone: Tone) -> Self {
        Self(vec![(text.into(), tone)])
    }
}

/// The first lines of [`lines`], which stay where they are while the rest scrolls.
pub(super) const FIXED_LINES: usize = 3;

/// Names keep this many columns, however narrow the terminal is.
const NARROWEST: usize = 4;
/// Errors from here on are worth a look, in percent.
const SOME_ERRORS: f64 = 0.1;
/// Errors from here on are trouble, in percent.
const MANY_ERRORS: f64 = 1.0;

/// Everything, in at most `width` columns: two lines about the gateway, an empty one, then the tables.
pub(super) fn lines(view: &View, width: usize) -> Vec<Line> {
    let mut out = vec![title(view), totals(view), Line::default()];
    out.extend(arms(view, width));
    if !view.shadows.is_empty() {
        out.push(Line::default());
        out.extend(shadows(&view.shadows, width));
    }
    if !view.limits.is_empty() {
        out.push(Line::default());
        out.extend(limits(&view.limits, width));
    }
    if !view.unwell.is_empty() {
        out.push(Line::default());
        out.extend(unwell(&view.unwell, width));
    }
    out
}

fn title(view: &View) -> Line {
    let stage = if view.stage == "serving" { Tone::Good } else { Tone::Warn };
    let mut pieces = vec![
        (format!("tidegate {}  ", view.version), Tone::Head),
        (view.stage.clone(), stage),
        (format!("  generation {}  up {}", view.generation, span(view.uptime_seconds)), Tone::Plain),
    ];
    if view.totals.refused {
        pieces.push(("  last change refused".to_owned(), Tone::Bad));
    }
    Line(pieces)
}

fn totals(view: &View) -> Line {
    let totals = &view.totals;
    let traffic = &totals.traffic;
    let all_up = totals.endpoints_up == totals.endpoints;
    let mut pieces = vec![
        (format!("{}/s", rate(traffic.rate)), Tone::Plain),
        ("  errors ".to_owned(), Tone::Quiet),
        (share(traffic.error_percent) + " %", errors_tone(traffic)),
        ("  p50 ".to_owned(), Tone::Quiet),
        (time(traffic.p50_seconds), Tone::Plain),
        ("  p99 ".to_owned(), Tone::Quiet),
        (time(traffic.p99_seconds), Tone::Plain),
        ("  in flight ".to_owned(), Tone::Quiet),
        (totals.in_flight.to_string(), Tone::Plain),
        ("  up ".to_owned(), Tone::Quiet),
        (format!("{}/{}", totals.endpoints_up, totals.endpoints), if all_up { Tone::Good } else { Tone::Bad }),
    ];
    if let Some(connections) = totals.connections {
        pieces.push(("  conns ".to_owned(), Tone::Quiet));
        pieces.push((connections.to_string(), Tone::Plain));
    }
    Line(pieces)
}

fn arms(view: &View, width: usize) -> Vec<Line> {
    let head = ["ROUTE", "VERSION", "WEIGHT", "RATE/S", "ERR %", "P50", "P99", "UP", "BUSY"];
    let rows = view.arms.iter().map(|row| {
        let own = row.version.is_empty();
        let up = match (row.up, row.endpoints) {
            (_, 0) => (if own { "" } else { "0/0" }.to_owned(), if own { Tone::Quiet } else { Tone::Bad }),
            (up, all) if up == all => (format!("{up}/{all}"), Tone::Good),
            (up, all) => (format!("{up}/{all}"), if up == 0 { Tone::Bad } else { Tone::Warn }),
        };
        let idle = row.traffic.rate == 0.0;
        let plain = if idle { Tone::Quiet } else { Tone::Plain };
        vec![
            (if row.route.is_empty() { "(no route)".to_owned() } else { row.route.clone() }, plain),
            (if own { "(gateway)".to_owned() } else { row.version.clone() }, plain),
            (row.weight.clone().unwrap_or_default(), plain),
            (rate(row.traffic.rate), plain),
            (share(row.traffic.error_percent), errors_tone(&row.traffic)),
            (time(row.traffic.p50_seconds), plain),
            (time(row.traffic.p99_seconds), plain),
            up,
            (row.in_flight.map(|n| n.to_string()).unwrap_or_default(), plain),
        ]
    });
    table(&head, rows.collect(), 2, width)
}

fn shadows(rows: &[ShadowRow], width: usize) -> Vec<Line> {
    let head = ["SHADOW OF", "VERSION", "SAMPLE", "SENT/S", "DROP/S", "FAIL %", "P99", "DIFF %", "DIFFS"];
    let rows = rows.iter().map(|row| {
        let trouble = |percent: Option<f64>| if percent.unwrap_or(0.0) > 0.0 { Tone::Warn } else { Tone::Plain };
        vec![
            (row.route.clone(), Tone::Plain),
            (row.version.clone(), Tone::Plain),
            (format!("{} %", short(row.sample_percent)), Tone::Plain),
            (rate(row.sent_rate), Tone::Plain),
            (rate(row.dropped_rate), if row.dropped_rate > 0.0 { Tone::Warn } else { Tone::Plain }),
            (share(row.failed_percent), trouble(row.failed_percent)),
            (time(row.p99_seconds), Tone::Plain),
            (share(row.mismatch_percent), trouble(row.mismatch_percent)),
            (row.mismatches.to_string(), if row.mismatches > 0 { Tone::Warn } else { Tone::Plain }),
        ]
    });
    table(&head, rows.collect(), 2, width)
}

fn limits(rows: &[LimitRow], width: usize) -> Vec<Line> {
    let head = ["LIMIT", "PASSED/S", "REFUSED/S", "BANNED/S", "KEYS"];
    let rows = rows.iter().map(|row| {
        let trouble = |rate: f64| if rate > 0.0 { Tone::Warn } else { Tone::Plain };
        vec![
            (row.limit.clone(), Tone::Plain),
            (rate(row.allowed_rate), Tone::Plain),
            (rate(row.refused_rate), trouble(row.refused_rate)),
            (rate(row.banned_rate), trouble(row.banned_rate)),
            (row.keys.to_string(), Tone::Plain),
        ]
    });
    table(&head, rows.collect(), 1, width)
}

fn unwell(rows: &[EndpointRow], width: usize) -> Vec<Line> {
    let mut out = vec![Line::of("ENDPOINTS THAT AREN'T WELL", Tone::Head)];
    for row in rows {
        let (state, tone) = match (row.state.as_str(), row.resting_seconds) {
            ("resting", Some(left)) => (format!("ejected, back in {}", span(left)), Tone::Bad),
            ("resting", None) => ("ejected".to_owned(), Tone::Bad),
            ("warming", _) => (format!("warming up, at {} %", short(row.share_percent)), Tone::Warn),
            ("down", _) => ("down by its probe".to_owned(), Tone::Bad),
            (other, _) => (other.to_owned(), Tone::Warn),
        };
        let mut line = vec![(format!("{}  ", row.id), Tone::Plain), (state, tone)];
        if let Some(reason) = &row.reason {
            line.push((format!("  {reason}"), Tone::Quiet));
        }
        out.push(Line(fit(line, width)));
    }
    out
}

/// Cuts a line to `width` characters.
fn fit(pieces: Vec<(String, Tone)>, width: usize) -> Vec<(String, Tone)> {
    let mut left = width;
    let mut out = Vec::new();
    for (text, tone) in pieces {
        let text = cut(&text, left);
        left -= text.chars().count();
        out.push((text, tone));
    }
    out
}

/// Lines up `rows` under `head`: the first `names` columns to the left, the others to the right.
///
/// Numbers are never cut: where it gets narrow, names are.
fn table(head: &[&str], rows: Vec<Vec<(String, Tone)>>, names: usize, width: usize) -> Vec<Line> {
    let mut widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let longest = rows.iter().map(|row| row[column].0.chars().count()).max().unwrap_or(0);
            longest.max(head[column].chars().count()).max(if column < names { 0 } else { 6 })
        })
        .collect();
    let gaps = 2 * (names - 1) + head.len() - names;
    let numbers: usize = widths[names..].iter().sum();
    let room = width.saturating_sub(numbers + gaps).max(NARROWEST * names);
    while widths[..names].iter().sum::<usize>() > room {
        let longest = widths[..names].iter_mut().max().expect("every table has a column of names");
        *longest -= 1;
    }

    let line = |cells: Vec<(String, Tone)>| {
        let mut out = Vec::new();
        for (column, (text, tone)) in cells.into_iter().enumerate() {
            let width = widths[column];
            let text = cut(&text, width);
            let gap = if column == 0 {
                ""
            } else if column < names {
                "  "
            } else {
                " "
            };
            let text = if column < names { format!("{gap}{text:width$}") } else { format!("{gap}{text:>width$}") };
            out.push((text, tone));
        }
        Line(out)
    };
    let head = head.iter().map(|name| ((*name).to_owned(), Tone::Head)).collect();
    std::iter::once(line(head)).chain(rows.into_iter().map(line)).collect()
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        out.push('…');
    }
    out
}

fn errors_tone(traffic: &Traffic) -> Tone {
    match traffic.error_percent {
        None => Tone::Quiet,
        Some(percent) if percent >= MANY_ERRORS => Tone::Bad,
        Some(percent) if percent >= SOME_ERRORS => Tone::Warn,
        Some(_) => Tone::Good,
    }
}

fn rate(rate: f64) -> String {
    if rate >= 10_000.0 { format!("{:.1}k", rate / 1_000.0) } else { short(rate) }
}

fn share(percent: Option<f64>) -> String {
    match percent {
        None => "-".to_owned(),
        Some(some) if some > 0.0 && some < 0.05 => "<0.1".to_owned(), // Never nothing where there is something.
        Some(some) => short(some),
    }
}

fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds.is_infinite() => ">30s".to_owned(),
        Some(seconds) if seconds >= 1.0 => format!("{}s", short(seconds)),
        Some(seconds) if seconds >= 0.001 => format!("{}ms", short(seconds * 1e3)),
        Some(seconds) => format!("{:.2}ms", seconds * 1e3),
    }
}

fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}
