//! The report that people forward: one HTML file that needs nothing from anywhere.
//!
//! # Invariants
//!
//! - Names, examples and whatever else comes from scenarios and servers is escaped by the template, or stands in JSON in
//!   which `<`, `>` and `&` are escaped. Should something get through, the content security policy runs no script
//!   but ours, by its hash, and loads nothing.
//! - Every chart has a sentence, and every number in it a table.
//!
//! # Not here
//!
//! The charts' numbers are in [`series`], the sentences in [`card`], the tables in `tables`.

pub mod card;
pub mod series;
mod tables;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::Serde;
use minijinja::{Environment, context};

use crate::outcome::Outcome;
use crate::report::compare::Comparison;

const PAGE: &str = include_str!("../../../assets/report.html");
const STYLE: &str = include_str!("../../../assets/report.css");
const SCRIPT: &str = include_str!("../../../assets/report.js");
const UPLOT: &str = include_str!("../../../assets/uplot.min.js");
const UPLOT_STYLE: &str = include_str!("../../../assets/uplot.min.css");
const UPLOT_LICENCE: &str = include_str!("../../../assets/uplot.LICENSE");

/// Writes the page.
pub fn page(outcome: &Outcome, baseline: Option<&Comparison>) -> String {
    let (charts, data) = series::charts(outcome);
    let data = serde_json::to_string(&data).expect("plain numbers and names");
    let mut pages = Environment::new();
    pages.add_template("report.html", PAGE).expect("our own template");
    let page = pages.get_template("report.html").expect("it was added above");
    let filled = page.render(context! {
        name => outcome.name.as_str(),
        began => began(outcome.began),
        load => outcome.load.as_str(),
        model => format!("{} model", outcome.model),
        card => Serde(card::card(outcome)),
        tiles => Serde(card::tiles(outcome)),
        cautions => card::cautions(outcome),
        thresholds => Serde(&outcome.thresholds),
        baseline => Serde(baseline),
        width => series::width(outcome),
        charts => Serde(charts),
        moments => Serde(tables::moments(outcome)),
        spectrum => Serde(tables::spectrum(outcome)),
        steps => Serde(tables::steps(outcome)),
        errors => Serde(tables::errors(outcome)),
        statuses => Serde(tables::statuses(outcome)),
        health => Serde(tables::health(outcome)),
        workers => Serde(&outcome.generator.workers),
        version => env!("CARGO_PKG_VERSION"),
        licence => UPLOT_LICENCE,
        hashes => format!("{} {}", hash(UPLOT), hash(SCRIPT)),
        styles => format!("{UPLOT_STYLE}\n{STYLE}"),
        uplot => UPLOT,
        script => SCRIPT,
        data => inert(&data),
    });
    filled.expect("our own template takes what we give it")
}

/// JSON that no HTML parser can take for markup.
fn inert(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// A script's source as the content security policy names it (CSP Level 3, section 2.3.1).
fn hash(script: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(digest::digest(&digest::SHA256, script.as_bytes())))
}

fn began(unix_millis: u64) -> String {
    let millis = i64::try_from(unix_millis).unwrap_or(0);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(at) => at.to_zoned(jiff::tz::TimeZone::system()).strftime("%d %B %Y, %H:%M:%S (%Z)").to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests;
