//! Takes traffic from elsewhere: access logs, HAR files and recordings become scenarios, or are replayed.
//!
//! Whatever the format, it is read into [`Traffic`]: requests with their times. From there, `scenario` writes a file that
//! people go on editing, and `replay` makes a plan.
//!
//! # Invariants
//!
//! - Only safe methods (RFC 9110 §9.2.1) are taken, unless somebody says otherwise: a log of yesterday's orders must not
//!   order again.
//! - Credentials are not carried over: cookies and authorization stay behind.
//! - Lines that can't be read are counted, and the first few are told.

mod har;
mod log;
pub mod replay;
pub mod scenario;
mod shape;

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use tidegate_model::scenario::recording::{self, LINE_BYTES, REDACTED, Request, SECRET_FIELDS};

/// Requests that are read of one file. Those behind it are left out, and that is said.
pub const MAX_REQUESTS: usize = 5_000_000;

/// Bytes of targets, fields and bodies together. A file with more is refused: it is kept in memory.
const MAX_BYTES: usize = 2 << 30;

/// Bytes of a HAR file. It is one JSON document, so it is read whole.
const HAR_BYTES: u64 = 512 << 20;

/// Lines that can't be read, of which so many are told.
const TOLD: usize = 3;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A recording of `tidegate record`.
    Recording,
    /// The gateway's own access log.
    GatewayLog,
    /// The common or combined log format of nginx and Apache.
    CombinedLog,
    /// An HTTP archive of a browser (HAR 1.2).
    Har,
}

impl Format {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Recording => "recording",
            Self::GatewayLog => "access log of a gateway",
            Self::CombinedLog => "access log in the common or combined format",
            Self::Har => "HTTP archive (HAR)",
        }
    }
}

/// Requests that were taken from a file.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// What the file was.
    pub format: Format,
    /// The requests by time; `at_us` counts from the first one.
    pub requests: Vec<Request>,
    /// What was left out, and why, as sentences for people.
    pub notes: Vec<String>,
}

/// What is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// Whether methods that change something are taken, too.
    pub unsafe_methods: bool,
    /// Whether requests of a HAR file to other hosts than its first are taken, too.
    pub all_hosts: bool,
}

/// Reads the file at `path`, whatever of [`Format`] it is.
///
/// # Errors
///
/// The file can't be read, is none of the formats, or holds nothing that may be taken.
pub fn read(path: &Path, choice: Choice) -> anyhow::Result<Traffic> {
    let file = File::open(path).with_context(|| format!("{} can't be opened", path.display()))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let format = sniff(reader.fill_buf().with_context(|| format!("{} can't be read", path.display()))?)
        .with_context(|| format!("{} is neither a recording, an access log nor a HAR file", path.display()))?;
    let mut gather = Gather { choice, ..Gather::default() };
    match format {
        Format::Har => {
            let mut text = Vec::new();
            reader.take(HAR_BYTES + 1).read_to_end(&mut text)?;
            if text.len() as u64 > HAR_BYTES {
                bail!("{} has more than {HAR_BYTES} bytes", path.display());
            }
            har::read(&text, &mut gather).with_context(|| format!("{} isn't a HAR file", path.display()))?;
        }
        _ => lines(reader, format, &mut gather).with_context(|| format!("{} can't be read", path.display()))?,
    }
    gather.finish(format)
}

/// What a file is, by its beginning.
fn sniff(start: &[u8]) -> Option<Format> {
    let text = String::from_utf8_lossy(&start[..start.len().min(8 << 10)]);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let first = text.lines().next()?;
    if first.starts_with("{\"recording\"") {
        return Some(Format::Recording);
    }
    if first.starts_with("{\"time\"") {
        return Some(Format::GatewayLog);
    }
    if text.starts_with('{') && text.contains("\"log\"") {
        return Some(Format::Har);
    }
    text.lines().take(TOLD).any(|line| log::combined(line).is_ok()).then_some(Format::CombinedLog)
}

fn lines(mut reader: impl BufRead, format: Format, gather: &mut Gather) -> anyhow::Result<()> {
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        line.clear();
        let read = (&mut reader).take(LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        number += 1;
        if line.len() > LINE_BYTES {
            bail!("line {number} is longer than {LINE_BYTES} bytes");
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        if text.trim().is_empty() {
            continue;
        }
        let request = match format {
            Format::Recording => match recording::read_line(text) {
                Ok(recording::Line::Request(request)) => Ok(*request),
                Ok(recording::Line::Head(_)) => continue,
                Ok(recording::Line::End(end)) => {
                    gather.lost = end.lost;
                    continue;
                }
                // An unknown version changes what everything behind it means.
                Err(error) if number == 1 => bail!(error),
                Err(error) => Err(error),
            },
            Format::GatewayLog => log::gateway(text),
            Format::CombinedLog | Format::Har => log::combined(text),
        };
        match request {
            Ok(request) => gather.add(request)?,
            Err(error) => gather.refuse(number, &error),
        }
    }
}

/// Collects requests, and counts what is left out.
#[derive(Default)]
struct Gather {
    choice: Choice,
    requests: Vec<Request>,
    bytes: usize,
    unread: u64,
    told: Vec<String>,
    unsafe_ones: u64,
    odd: u64,
    beyond: u64,
    secrets: u64,
    cut: u64,
    elsewhere: u64,
    lost: u64,
}

impl Gather {
    /// Adds a request, unless it is left out.
    fn add(&mut self, mut request: Request) -> anyhow::Result<()> {
        let is_safe = matches!(request.method.as_str(), "GET" | "HEAD" | "OPTIONS");
        if !is_safe && !self.choice.unsafe_methods {
            self.unsafe_ones += 1;
            return Ok(());
        }
        let is_token = request.method.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let is_target = request.target.starts_with('/') && request.target.bytes().all(|byte| byte.is_ascii_graphic());
        if request.method.is_empty()
            || !is_token
            || !is_target
            || matches!(request.method.as_str(), "CONNECT" | "TRACE")
        {
            self.odd += 1;
            return Ok(());
        }
        if self.requests.len() >= MAX_REQUESTS {
            self.beyond += 1;
            return Ok(());
        }
        let before = request.headers.len();
        request.headers.retain(|(name, value)| is_carried(name) && value != REDACTED && is_value(value));
        self.secrets += (before - request.headers.len()) as u64;
        self.cut += u64::from(request.cut > 0);
        self.bytes += request.target.len()
            + request.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
            + request.body.as_ref().or(request.body_base64.as_ref()).map_or(0, String::len);
        if self.bytes > MAX_BYTES {
            bail!("its requests have more than {MAX_BYTES} bytes together; take a part of it");
        }
        self.requests.push(request);
        Ok(())
    }

    fn refuse(&mut self, line: u64, error: &str) {
        self.unread += 1;
        if self.told.len() < TOLD {
            self.told.push(format!("line {line}: {error}"));
        }
    }

    fn finish(mut self, format: Format) -> anyhow::Result<Traffic> {
        self.requests.sort_by_key(|request| request.at_us); // Stable: equal times keep the order of the file.
        let first = self.requests.first().map_or(0, |request| request.at_us);
        for request in &mut self.requests {
            request.at_us -= first;
        }
        let mut notes = Vec::new();
        let mut note = |count: u64, text: String| {
            if count > 0 {
                notes.push(text);
            }
        };
        let many = |count: u64, one: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") };
        note(self.unread, format!("{} could not be read ({})", many(self.unread, "line"), self.told.join("; ")));
        note(
            self.unsafe_ones,
            format!(
                "{} left out whose methods may change something; --unsafe-methods takes them, too",
                many(self.unsafe_ones, "request")
            ),
        );
        note(self.odd, format!("{} left out that nobody can send again", many(self.odd, "request")));
        note(
            self.elsewhere,
            format!("{} to other hosts left out; --all-hosts takes them, too", many(self.elsewhere, "request")),
        );
        note(
            self.secrets,
            format!("{} with credentials, or of one connection only, left out", many(self.secrets, "header field")),
        );
        note(
            self.cut,
            format!("{} without their bodies, which were too long to be recorded", many(self.cut, "request")),
        );
        note(self.lost, format!("{} missing that the recorder could not keep up with", many(self.lost, "request")));
        note(self.beyond, format!("{} behind the first {MAX_REQUESTS} left out", many(self.beyond, "request")));
        if self.requests.is_empty() {
            let why = if notes.is_empty() { String::new() } else { format!(": {}", notes.join("; ")) };
            bail!("there is nothing to take in this {}{why}", format.text());
        }
        Ok(Traffic { format, requests: self.requests, notes })
    }
}

/// Whether a header field is carried over: no credential, nothing that frames a message or belongs to a connection.
fn is_carried(name: &str) -> bool {
    const OWN: [&str; 14] = [
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-for",
        "x-forwarded-proto",
    ];
    let lower = name.to_ascii_lowercase();
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    is_name && !OWN.contains(&lower.as_str()) && !SECRET_FIELDS.contains(&lower.as_str())
}

/// Whether a header field's value can be sent.
fn is_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b'\t' || byte >= b' ' && byte != 127)
}

#[cfg(test)]
mod tests;
