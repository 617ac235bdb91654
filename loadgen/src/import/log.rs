//! Access logs, line by line.

use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::fmt::strtime;
use regex::Regex;
use serde::Deserialize;
use tidegate_model::scenario::recording::Request;

/// A line of the gateway's own access log: what of it is needed. Its `path` and `query` are as they were received.
#[derive(Deserialize)]
struct GatewayLine {
    time: String,
    method: String,
    host: String,
    path: String,
    query: Option<String>,
    status: u64,
    user_agent: Option<String>,
    referer: Option<String>,
    tls_version: Option<String>,
}

/// Reads a line of the gateway's own access log.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn gateway(line: &str) -> Result<Request, String> {
    let line: GatewayLine = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let time: Timestamp = line.time.parse().map_err(|_| format!("\"{}\" isn't a time", line.time))?;
    let scheme = if line.tls_version.is_some() { "https" } else { "http" };
    let target = match line.query.as_deref() {
        Some(query) => format!("{}?{query}", line.path),
        None => line.path,
    };
    Ok(Request {
        at_us: micros(time)?,
        method: line.method,
        origin: if line.host.is_empty() { String::new() } else { format!("{scheme}://{}", line.host) },
        target,
        headers: fields(line.user_agent.as_deref(), line.referer.as_deref()),
        status: line.status,
        ..Request::default()
    })
}

/// Reads a line in the common or combined log format. Its times have whole seconds: requests of one second come at once,
/// and `replay` and `scenario` space them.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn combined(line: &str) -> Result<Request, String> {
    static FORM: LazyLock<Regex> = LazyLock::new(|| {
        let form = r#"^\S+ \S+ .*?\[([^\]]+)\] "((?:[^"\\]|\\.)*)" (\d{3}) (?:\d+|-)(?: "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)")?"#;
        Regex::new(form).expect("the expression is written here")
    });
    let groups = FORM.captures(line).ok_or("this isn't the common or combined log format")?;
    let text = |group: usize| groups.get(group).map_or("", |found| found.as_str());
    let time = strtime::parse("%d/%b/%Y:%H:%M:%S %z", text(1))
        .and_then(|time| time.to_timestamp())
        .map_err(|_| format!("\"{}\" isn't a time", text(1)))?;
    let request = unescape(text(2));
    let mut words = request.split(' ');
    let (Some(method), Some(target), Some(_), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Err(format!("\"{request}\" isn't a request line"));
    };
    let status = text(3).parse().unwrap_or(0);
    let field = |group: usize| Some(unescape(text(group))).filter(|value| !value.is_empty() && value != "-");
    Ok(Request {
        at_us: micros(time)?,
        method: method.to_owned(),
        target: target.to_owned(),
        headers: fields(field(5).as_deref(), field(4).as_deref()),
        status,
        ..Request::default()
    })
}

fn fields(user_agent: Option<&str>, referer: Option<&str>) -> Vec<(String, String)> {
    let named = [("user-agent", user_agent), ("referer", referer)];
    named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect()
}

fn micros(time: Timestamp) -> Result<u64, String> {
    u64::try_from(time.as_microsecond()).map_err(|_| "its time is before 1970".into())
}

/// Undoes the escapes of nginx and Apache: `\x22`, `\"`, `\\`.
fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let hex = after.get(1..3).filter(|_| *byte == b'\\' && after.first() == Some(&b'x'));
        let hex = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (hex, after.first()) {
            (Some(value), _) => {
                bytes.push(value);
                rest = &after[3..];
            }
            (None, Some(escaped)) if *byte == b'\\' => {
                bytes.push(*escaped);
                rest = &after[1..];
            }
            _ => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
