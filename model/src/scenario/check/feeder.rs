//! Feeders: their files, and whether what they hold can stand where templates put it.

use super::flow::Flows;
use super::{Checker, ReadFeeder, load, short};
use crate::config::Table as Written;
use crate::diagnostic::{Diagnostic, Place};
use crate::literal::Name;
use crate::problems::Span;
use crate::scenario::plan::{Feeder, Load, Order, Rows};
use crate::scenario::template::BUILT_IN;
use crate::scenario::written;

/// What a feeder's file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Names of the fields.
    pub fields: Vec<String>,
    /// The rows.
    pub rows: Rows,
}

/// Why a feeder's file can't be used.
#[derive(Clone, Debug, PartialEq)]
pub struct BadFile {
    /// What is wrong, in a few words: `it has no rows`.
    pub what: String,
    /// Where in the file.
    pub at: Option<(Place, String)>,
    /// What to try.
    pub help: Option<String>,
}

/// Feeders that were checked.
pub(super) struct Feeders {
    pub(super) ready: Vec<Feeder>,
    /// Names and fields, for templates; no fields where the file could not be read.
    pub(super) known: Vec<(String, Option<Vec<String>>)>,
    pub(super) spans: Vec<Span>,
}

impl Checker<'_, '_> {
    pub(super) fn feeders(&mut self, written: &Written<Name, written::Feeder>, read: ReadFeeder<'_>) -> Feeders {
        let mut feeders = Feeders { ready: Vec::new(), known: Vec::new(), spans: Vec::new() };
        for (name, feeder) in &written.entries {
            let text = name.value.0.clone();
            if BUILT_IN.contains(&text.as_str()) {
                let diagnostic = Diagnostic::error("reserved-name", format!("a feeder can't be called \"{text}\""))
                    .help("templates use this word for something else; take another name");
                self.problems.add(name.span, "this word is taken", diagnostic);
            }
            let mut ready = Feeder {
                name: text.clone(),
                path: std::path::PathBuf::new(),
                fields: Vec::new(),
                rows: Rows::new(1),
                order: Order::Sequential,
            };
            let mut fields = None;
            if let Some(feeder) = feeder {
                ready.order = feeder.order.as_ref().map_or(Order::Sequential, |order| order.value.0);
                ready.path = self.folder.join(&feeder.file.value.0);
                match read(&ready.path) {
                    Ok(table) => {
                        fields = Some(table.fields.clone());
                        (ready.fields, ready.rows) = (table.fields, table.rows);
                    }
                    Err(bad) => {
                        let mut diagnostic =
                            Diagnostic::error("bad-feeder", format!("feeder \"{text}\" can't be used: {}", bad.what));
                        diagnostic.help = bad.help;
                        if let Some((place, label)) = bad.at {
                            diagnostic = diagnostic.related(place, label);
                        }
                        self.problems.add(feeder.file.span, "this file", diagnostic);
                    }
                }
            }
            feeders.ready.push(ready);
            feeders.known.push((text, fields));
            feeders.spans.push(name.span);
        }
        feeders
    }

    /// Warns of feeders that nobody uses, and of unique ones that will run dry.
    pub(super) fn enough_rows(&mut self, feeders: &Feeders, flows: &Flows, load: &Load) {
        let weights: f64 = flows.ready.iter().map(|flow| flow.weight).sum();
        for (at, feeder) in feeders.ready.iter().enumerate() {
            let users = flows.ready.iter().zip(&flows.feeders).filter(|(_, used)| used.contains(&at));
            let share: f64 = users.map(|(flow, _)| flow.weight).sum::<f64>() / weights.max(f64::MIN_POSITIVE);
            if share <= 0.0 {
                if self.problems.errors() == 0 {
                    let message = format!("no template names feeder \"{}\"", feeder.name);
                    let field = feeder.fields.first().map_or("name", String::as_str);
                    let diagnostic = Diagnostic::warning("unused-feeder", message)
                        .help(format!("write {{{{ {}.{field} }}}} where its values belong", feeder.name));
                    self.problems.add(feeders.spans[at], "its rows are never sent", diagnostic);
                }
                continue;
            }
            let Load::Open { stages, .. } = load else { continue };
            let needed = (load::arrivals(stages) * share).ceil();
            let rows = feeder.rows.len();
            if feeder.order == Order::Unique && rows > 0 && needed > rows as f64 {
                let message = format!(
                    "feeder \"{}\" will run dry: it has {rows} rows, and about {} arrivals take one each",
                    feeder.name,
                    short(needed)
                );
                let diagnostic = Diagnostic::warning("feeder-too-short", message)
                    .help("add rows, or write order: sequential where a row may come twice")
                    .note("arrivals that find no row fail as \"feeder ran dry\"");
                self.problems.add(feeders.spans[at], "there aren't enough rows", diagnostic);
            }
        }
    }
}
