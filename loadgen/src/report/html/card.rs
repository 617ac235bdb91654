//! What the run comes to, in words: the verdict, key numbers, and what to be careful about.

use serde::Serialize;

use crate::judge::quantile;
use crate::outcome::{Outcome, Verdict};
use crate::report::words;

/// The verdict, for people who read nothing else.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Card {
    /// One to three words.
    pub word: String,
    /// Stands before the word; the colour isn't all that tells them apart.
    pub sign: &'static str,
    /// `good`, `warn` or `bad`.
    pub tone: &'static str,
    /// One sentence, or two.
    pub sentence: String,
    /// Why.
    pub reasons: Vec<String>,
    /// What to do.
    pub advice: &'static str,
}

/// A key number.
#[derive(Debug, Serialize)]
pub struct Tile {
    name: &'static str,
    value: String,
    note: String,
    class: &'static str,
}

/// The verdict in words.
pub fn card(outcome: &Outcome) -> Card {
    let thresholds = outcome.thresholds.len();
    let broken = outcome.thresholds.iter().filter(|it| !it.holds).count();
    let seen = seen(outcome);
    let after = |at: f64| words::span(at.max(0.0).round() as u64);
    let (word, sign, tone, sentence, reasons, advice) = match &outcome.verdict {
        Verdict::Passed if thresholds == 0 => {
            let advice = "No threshold was set, so nothing was judged. Say what must hold, such as \"p99 < 200ms\" and \
                          \"errors < 0.1%\", and the next run has a verdict.";
            ("Done, nothing to judge by", "●", "good", seen, vec![], advice)
        }
        Verdict::Passed => {
            let all = if thresholds == 1 {
                "The threshold holds.".to_owned()
            } else {
                format!("All {thresholds} thresholds hold.")
            };
            ("Passed", "✓", "good", format!("{all} {seen}"), vec![], "")
        }
        Verdict::Failed { reasons } => {
            let share = if thresholds == 1 {
                "The threshold does not hold.".to_owned()
            } else {
                format!("{broken} of {thresholds} thresholds do not hold.")
            };
            ("Failed", "✗", "bad", format!("{share} {seen}"), reasons.clone(), "")
        }
        Verdict::GeneratorLimited { reasons } => {
            let sentence = "The load generator itself could not keep up, so these numbers say little about the target. \
                            Neither a pass nor a failure can be read from them.";
            let advice = "Give the generator more cores or a machine of its own, spread it over several, or \
                          ask for less.";
            ("Can't tell: generator-limited", "?", "warn", sentence.to_owned(), reasons.clone(), advice)
        }
        Verdict::Stopped { reason, at } => {
            let sentence = format!("A stop condition ended the run after {}. Up to then: {seen}", after(*at));
            ("Stopped early", "✗", "bad", sentence, vec![reason.clone()], "")
        }
        Verdict::Interrupted { at } => {
            let sentence = format!("Somebody ended the run after {}. Up to then: {seen}", after(*at));
            (
                "Interrupted",
                "●",
                "warn",
                sentence,
                vec![],
                "Thresholds were looked at, but the run was shorter than planned.",
            )
        }
    };
    Card { word: word.to_owned(), sign, tone, sentence, reasons, advice }
}

/// What a visitor would have met, in a sentence.
fn seen(outcome: &Outcome) -> String {
    let all = &outcome.all;
    if all.due == 0 {
        return "No request was due.".to_owned();
    }
    let Some(p99) = quantile(&all.response, 0.99) else {
        return format!("Of {} requests none was sent.", words::count(all.due));
    };
    let bad = all.due.saturating_sub(all.good);
    let errors = match bad {
        0 => "and every one was answered well".to_owned(),
        1 => "and 1 had no good answer".to_owned(),
        _ => format!("and {} ({}) had no good answer", words::count(bad), words::share(bad as f64 / all.due as f64)),
    };
    let seconds = outcome.took as f64 / 1e9;
    let rate = if seconds > 0.0 { all.due as f64 / seconds } else { 0.0 };
    format!(
        "At {} for {}, 99 of 100 requests took at most {}, {errors}.",
        words::rate(rate).replace("/s", " requests a second"),
        words::span(seconds.round() as u64),
        words::time(p99)
    )
}

/// The key numbers.
pub fn tiles(outcome: &Outcome) -> Vec<Tile> {
    let all = &outcome.all;
    let seconds = (outcome.took as f64 / 1e9).max(1e-9);
    let rate = |count: u64| words::rate(count as f64 / seconds);
    let bad = all.due.saturating_sub(all.good);
    let share = if all.due == 0 { 0.0 } else { bad as f64 / all.due as f64 };
    let at = |q: f64| {
        let said = |nanos: Option<u64>| nanos.map_or_else(|| "–".to_owned(), words::time);
        (said(quantile(&all.response, q)), format!("service {}", said(quantile(&all.service, q))))
    };
    let time = |name: &'static str, (value, note): (String, String)| Tile { name, value, note, class: "" };
    let mut tiles = vec![
        Tile { name: "Offered", value: rate(all.due), note: format!("{} due", words::count(all.due)), class: "" },
        Tile {
            name: "Answered well",
            value: rate(all.good),
            note: format!("{} good", words::count(all.good)),
            class: "",
        },
        Tile {
            name: "Errors",
            value: words::share(share),
            note: format!("{} of {}", words::count(bad), words::count(all.due)),
            class: if bad > 0 { "no" } else { "yes" },
        },
        time("Median response", at(0.5)),
        time("p99 response", at(0.99)),
        time("p99.9 response", at(0.999)),
        time("Slowest", at(1.0)),
    ];
    if all.unsent > 0 {
        let note = "no room: too many were under way".to_owned();
        tiles.push(Tile { name: "Never sent", value: words::count(all.unsent), note, class: "no" });
    }
    tiles
}

/// The values beyond a percentile that it takes to trust it.
const ENOUGH: f64 = 10.0;

/// What a reader could be misled by.
pub fn cautions(outcome: &Outcome) -> Vec<String> {
    let all = &outcome.all;
    let mut out = Vec::new();
    if outcome.model == "closed" {
        out.push(
            "This was a closed model: visitors wait for an answer before they ask again, so a slow target is asked less. \
             Its times leave out what real visitors would have waited meanwhile."
                .to_owned(),
        );
    }
    if all.unsent > 0 {
        out.push(format!(
            "{} requests ({}) were due and never sent, because as many as allowed were under way. They count as errors; \
             the times leave them out and would be longer with them.",
            words::count(all.unsent),
            words::share(all.unsent as f64 / all.due.max(1) as f64)
        ));
    }
    if let (Some(response), Some(service)) = (quantile(&all.response, 0.99), quantile(&all.service, 0.99))
        && response as f64 > 2.0 * service as f64
        && response > 5_000_000
    {
        out.push(format!(
            "At p99 the target took {} from the send, but {} passed from when requests were due: most of the time they \
             waited to be sent. The response time is what visitors feel.",
            words::time(service),
            words::time(response)
        ));
    }
    let beyond = |q: f64| all.response.count as f64 * (1.0 - q);
    if all.response.count > 0 && beyond(0.999) < ENOUGH {
        let which = if beyond(0.99) < ENOUGH { "p99 and p99.9 rest" } else { "p99.9 rests" };
        out.push(format!(
            "With {} requests, {which} on fewer than ten of them: a longer run tells more.",
            words::count(all.response.count)
        ));
    }
    out
}
