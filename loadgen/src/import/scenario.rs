//! Writes a scenario from traffic, for people to go on with.
//!
//! Of a log or a recording: a flow for each kind of request, weighted by how often it came, its targets in a feeder, so that
//! popular ones stay popular; the rate is the one that was seen. Of a HAR file: one flow, whose steps are the visit's requests
//! in turn, with the visitor's pauses.
//!
//! # Invariants
//!
//! - What is written is accepted by `check`, without warnings (a test holds this).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tidegate_model::scenario::recording::Request;

use super::{Format, Traffic, shape};

/// Flows of one scenario. Rarer kinds are put together.
const FLOWS: usize = 25;

/// Steps of one visit. Those behind it are left out, and that is said.
const STEPS: usize = 200;

/// Rows of one feeder. More are thinned evenly.
const ROWS: usize = 50_000;

/// A pause shorter than this is the browser's, not the visitor's.
const LEAST_PAUSE_MS: u64 = 100;

/// Headers that a scenario keeps. Others are noise in a file that people read.
const HEADERS: [&str; 6] =
    ["accept", "accept-encoding", "accept-language", "content-type", "user-agent", "x-requested-with"];

/// A scenario, and the files of its feeders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The scenario's text.
    pub scenario: String,
    /// Names beside the scenario, and contents.
    pub files: Vec<(PathBuf, String)>,
    /// What was left out, as sentences for people.
    pub notes: Vec<String>,
}

/// Writes a scenario that sends `traffic` to `target` (an origin). `path` is where the scenario will be: feeders' files
/// begin with its name.
pub fn write(traffic: &Traffic, path: &Path, source: &Path, target: &str) -> Written {
    let stem = path.file_stem().map_or("traffic".into(), |stem| stem.to_string_lossy().into_owned());
    let mut written = Written { scenario: String::new(), files: Vec::new(), notes: Vec::new() };
    let out = &mut written.scenario;
    let source = source.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let source: String = source.chars().filter(|char| !char.is_control()).collect();
    let _ = writeln!(out, "# Imported from {source} ({}).", traffic.format.text());
    let _ = writeln!(out, "version: 1\nname: {}\ntarget: {}", quoted(&stem), quoted(target));
    match traffic.format {
        Format::Har => visit(traffic, &mut written),
        _ => mixture(traffic, &stem, &mut written),
    }
    written.scenario.push_str("thresholds: [\"errors < 1%\"]\n");
    written
}

/// One flow: the requests of a visit in turn.
fn visit(traffic: &Traffic, written: &mut Written) {
    let out = &mut written.scenario;
    out.push_str("# Visits that begin. Each has all the steps below.\nload: {rate: 1/s, for: 5m}\nflows:\n  - name: visit\n    steps:\n");
    let kinds = shape::kinds(&traffic.requests, false, STEPS);
    let mut seen = vec![0; kinds.len()];
    for (at, request) in traffic.requests.iter().enumerate().take(STEPS) {
        let kind = kinds.iter().position(|kind| kind.requests.contains(&at)).unwrap_or(0);
        seen[kind] += 1;
        let name = match seen[kind] {
            1 => kinds[kind].name.clone(),
            many => format!("{}.{many}", kinds[kind].name),
        };
        let _ = writeln!(out, "      - name: {}", quoted(&name));
        step(request, &encoded(&url(request, traffic)), "        ", out);
        if let Some(next) = traffic.requests.get(at + 1).filter(|_| at + 1 < STEPS) {
            let pause = next.at_us.saturating_sub(request.at_us + request.took_us) / 1_000;
            if pause >= LEAST_PAUSE_MS {
                let _ = writeln!(out, "        think: {pause}ms");
            }
        }
    }
    if traffic.requests.len() > STEPS {
        written.notes.push(format!("{} requests behind the first {STEPS} left out", traffic.requests.len() - STEPS));
    }
}

/// The URL of a request: the path alone where it goes to the first one's origin, which the target stands for.
fn url(request: &Request, traffic: &Traffic) -> String {
    match traffic.requests.first() {
        Some(first) if first.origin != request.origin => format!("{}{}", request.origin, request.target),
        _ => request.target.clone(),
    }
}

/// A flow for each kind of request, by weight.
fn mixture(traffic: &Traffic, stem: &str, written: &mut Written) {
    let requests = &traffic.requests;
    let seconds = requests.last().map_or(0.0, |last| last.at_us as f64 / 1e6).max(1.0);
    let rate = crate::estimate::rounded(requests.len() as f64 / seconds);
    let out = &mut written.scenario;
    let _ = writeln!(out, "# {} requests in {seconds:.0} s: this is their mean rate.", requests.len());
    let _ = writeln!(out, "load: {{rate: {rate}/s, for: 5m, spacing: poisson}}");
    let mut feeders = String::new();
    let mut flows = String::new();
    for (number, kind) in shape::kinds(requests, false, FLOWS).into_iter().enumerate() {
        let _ = writeln!(flows, "  - name: {}\n    weight: {}", quoted(&kind.name), kind.requests.len());
        let first = &requests[kind.requests[0]];
        let is_one = kind.requests.iter().all(|at| requests[*at].target == first.target);
        if is_one {
            step(first, &encoded(&first.target), "    ", &mut flows);
            continue;
        }
        let feeder = format!("targets{}", number + 1);
        let file = format!("{stem}.{}.csv", kind.name);
        let thin = kind.requests.len().div_ceil(ROWS);
        let mut rows = String::from("target\n");
        for at in kind.requests.iter().step_by(thin) {
            let _ = writeln!(rows, "\"{}\"", requests[*at].target.replace('"', "%22"));
        }
        let _ = writeln!(feeders, "  {feeder}: {{file: {}, order: random}}", quoted(&file));
        step(first, &format!("{{{{ {feeder}.target }}}}"), "    ", &mut flows);
        written.files.push((PathBuf::from(file), rows));
    }
    if !feeders.is_empty() {
        let _ = write!(written.scenario, "feeders:\n{feeders}");
    }
    let _ = write!(written.scenario, "flows:\n{flows}");
}

/// Writes what a step sends to `url`, which is a template already.
fn step(request: &Request, url: &str, indent: &str, out: &mut String) {
    let key = request.method.to_ascii_lowercase();
    match key.as_str() {
        "get" | "head" | "post" | "put" | "patch" | "delete" | "options" => {
            let _ = writeln!(out, "{indent}{key}: {}", quoted(url));
        }
        _ => {
            let _ = writeln!(out, "{indent}send: {}", quoted(&format!("{} {url}", request.method)));
        }
    }
    let mut kept: Vec<&(String, String)> =
        request.headers.iter().filter(|(name, _)| HEADERS.contains(&name.to_ascii_lowercase().as_str())).collect();
    kept.dedup_by(|a, b| a.0.eq_ignore_ascii_case(&b.0));
    if !kept.is_empty() {
        let _ = writeln!(out, "{indent}headers:");
        for (name, value) in kept {
            let _ = writeln!(out, "{indent}  {}: {}", name.to_ascii_lowercase(), quoted(&escaped(value)));
        }
    }
    let has_body = !matches!(key.as_str(), "get" | "head");
    if let Some(body) = request.body.as_ref().filter(|_| has_body) {
        let _ = writeln!(out, "{indent}body: {}", quoted(&escaped(body)));
    }
    // An answer that was a redirect or an error then is no error now.
    if request.status >= 400 && request.status < 600 {
        let _ = writeln!(out, "{indent}check: {{status: {}}}", request.status);
    }
}

/// `url` with what clients send and no URL may hold percent-encoded, braces of templates among it.
fn encoded(url: &str) -> String {
    let mut text = String::with_capacity(url.len());
    for char in url.chars() {
        match char {
            '"' | '#' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}' => {
                let _ = write!(text, "%{:02X}", char as u32);
            }
            _ => text.push(char),
        }
    }
    text
}

/// `text` as a YAML text: JSON's quoting is a part of YAML's.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// `text` as a template that is only text.
fn escaped(text: &str) -> String {
    text.replace("{{", "{{ \"{{\" }}")
}
