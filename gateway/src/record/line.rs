//! One access-log line: a JSON object, written by hand into a buffer that is already there.
//!
//! # Invariants
//!
//! - A line is valid JSON and valid UTF-8 without a raw newline, whatever bytes the client sent.
//! - A line is bounded: [`FIELD_BYTES`] holds for every text in it.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate_model::desired::Generation;

use super::handles::reason_label;
use crate::decide::{Reason, TlsFacts};
use crate::endpoint::Target;
use crate::tls::Ja4;

/// Bytes of one text in a line. A longer one is cut and ends with `…`.
const FIELD_BYTES: usize = 4_096;

/// What is remembered of one request.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// When its head arrived.
    pub time: SystemTime,
    /// Its id.
    pub id: &'a str,
    /// The visitor's address, as trusted proxies report it.
    pub client: IpAddr,
    /// Who is at the other end of the socket.
    pub peer: SocketAddr,
    /// Method.
    pub method: &'a str,
    /// Host, without port.
    pub host: &'a str,
    /// Path as it was received.
    pub path: &'a str,
    /// Query without its `?`.
    pub query: Option<&'a str>,
    /// `HTTP/1.1`, `HTTP/2`, …
    pub protocol: &'static str,
    /// Status that the client got; 499 when it left before.
    pub status: u16,
    /// Why the gateway answered by itself, where it did.
    pub reason: Option<Reason>,
    /// Name of the route.
    pub route: Option<&'a str>,
    /// `shop/v1`.
    pub version: Option<&'a str>,
    /// The last endpoint that was tried.
    pub endpoint: Option<&'a Target>,
    /// Tries at endpoints; 0 where the gateway answered by itself.
    pub attempts: u32,
    /// Bytes of the request body.
    pub received: u64,
    /// Bytes of the response body.
    pub sent: u64,
    /// From the head to the last byte of the answer.
    pub took: Duration,
    /// From the request being sent upstream to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// User-Agent, as sent.
    pub user_agent: Option<&'a [u8]>,
    /// Referer, as sent.
    pub referer: Option<&'a [u8]>,
    /// W3C trace id.
    pub trace: Option<&'a str>,
    /// Name of the run, where it is dyed.
    pub dyed: Option<&'a str>,
    /// The configuration that it was served by.
    pub generation: Generation,
    /// TLS facts of its connection.
    pub tls: Option<&'a TlsFacts>,
}

impl Entry<'_> {
    /// Appends the line and its newline to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        write_time(out, self.time);
        out.push(b'"');
        text(out, "id", self.id);
        shown(out, "client", &self.client);
        shown(out, "peer", &self.peer);
        text(out, "method", self.method);
        text(out, "host", self.host);
        text(out, "path", self.path);
        maybe(out, "query", self.query);
        text(out, "protocol", self.protocol);
        number(out, "status", u64::from(self.status));
        maybe(out, "reason", self.reason.map(reason_label));
        maybe(out, "route", self.route);
        maybe(out, "version", self.version);
        match self.endpoint {
            Some(endpoint) => shown(out, "endpoint", endpoint),
            None => null(out, "endpoint"),
        }
        number(out, "attempts", u64::from(self.attempts));
        number(out, "bytes_in", self.received);
        number(out, "bytes_out", self.sent);
        millis(out, "duration_ms", Some(self.took));
        millis(out, "upstream_ttfb_ms", self.first_byte);
        maybe(out, "user_agent", self.user_agent.map(String::from_utf8_lossy).as_deref());
        maybe(out, "referer", self.referer.map(String::from_utf8_lossy).as_deref());
        maybe(out, "trace_id", self.trace);
        maybe(out, "dyed", self.dyed);
        number(out, "generation", self.generation.0);
        maybe(out, "tls_version", self.tls.map(|tls| tls.version));
        maybe(out, "sni", self.tls.and_then(|tls| tls.sni.as_deref()));
        maybe(out, "ja4", self.tls.and_then(|tls| tls.ja4.as_ref()).map(Ja4::as_str));
        maybe(out, "client_subject", self.tls.and_then(|tls| tls.client.as_ref()).map(|client| &*client.subject));
        out.extend_from_slice(b"}\n");
    }
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn null(out: &mut Vec<u8>, name: &str) {
    key(out, name);
    out.extend_from_slice(b"null");
}

fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    key(out, name);
    serde_json::to_writer(out, &*cut(value)).expect("writing text into memory can't fail");
}

fn maybe(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    match value {
        Some(value) => text(out, name, value),
        None => null(out, name),
    }
}

/// A value whose text may need escapes, but which is never long.
fn shown(out: &mut Vec<u8>, name: &str, value: &impl fmt::Display) {
    let mut buffer = [0_u8; 128];
    let mut room = &mut buffer[..];
    if write!(room, "{value}").is_ok() {
        let left = room.len();
        let used = buffer.len() - left;
        text(out, name, &String::from_utf8_lossy(&buffer[..used]));
    } else {
        text(out, name, &value.to_string());
    }
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    key(out, name);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three decimals.
fn millis(out: &mut Vec<u8>, name: &str, value: Option<Duration>) {
    let Some(value) = value else { return null(out, name) };
    let micros = value.as_micros();
    key(out, name);
    out.extend_from_slice(itoa::Buffer::new().format(micros / 1_000).as_bytes());
    out.push(b'.');
    digits(out, (micros % 1_000) as u64, 3);
}

fn cut(value: &str) -> Cow<'_, str> {
    if value.len() <= FIELD_BYTES {
        return Cow::Borrowed(value);
    }
    let end = value.floor_char_boundary(FIELD_BYTES);
    Cow::Owned(format!("{}…", &value[..end]))
}

/// Writes `time` as RFC 3339 in UTC with milliseconds. Times before 1970 become 1970.
fn write_time(out: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let fields = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (second / 3_600, 2, b':'),
        (second / 60 % 60, 2, b':'),
        (second % 60, 2, b'.'),
        (u64::from(since.subsec_millis()), 3, b'Z'),
    ];
    for (value, width, after) in fields {
        digits(out, value, width);
        out.push(after);
    }
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01. Counts in years that begin in March, so
/// that the leap day is the last of its year, and in eras of 400 years, which all have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // From 0000-03-01.
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn digits(out: &mut Vec<u8>, value: u64, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (value / 10_u64.pow(place) % 10) as u8);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const ENDPOINT: Target = Target::Tcp(SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9_001));

    pub(in crate::record) fn entry() -> Entry<'static> {
        Entry {
            time: UNIX_EPOCH + Duration::from_millis(1_795_377_600_042),
            id: "5e0e",
            client: IpAddr::from([203, 0, 113, 9]),
            peer: SocketAddr::from(([10, 0, 0, 1], 40_001)),
            method: "GET",
            host: "shop.example.com",
            path: "/cart",
            query: Some("a=1"),
            protocol: "HTTP/2",
            status: 200,
            reason: None,
            route: Some("shop"),
            version: Some("shop/v1"),
            endpoint: Some(&ENDPOINT),
            attempts: 1,
            received: 0,
            sent: 512,
            took: Duration::from_micros(3_042),
            first_byte: Some(Duration::from_micros(2_900)),
            user_agent: Some(b"curl/8"),
            referer: None,
            trace: None,
            dyed: None,
            generation: Generation(7),
            tls: None,
        }
    }

    fn line(entry: &Entry<'_>) -> String {
        let mut out = Vec::new();
        entry.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn line_holds_every_field_in_one_order() {
        insta::assert_snapshot!(line(&entry()).trim_end(), @r#"{"time":"2026-11-22T20:00:00.042Z","id":"5e0e","client":"203.0.113.9","peer":"10.0.0.1:40001","method":"GET","host":"shop.example.com","path":"/cart","query":"a=1","protocol":"HTTP/2","status":200,"reason":null,"route":"shop","version":"shop/v1","endpoint":"127.0.0.1:9001","attempts":1,"bytes_in":0,"bytes_out":512,"duration_ms":3.042,"upstream_ttfb_ms":2.900,"user_agent":"curl/8","referer":null,"trace_id":null,"dyed":null,"generation":7,"tls_version":null,"sni":null,"ja4":null,"client_subject":null}"#);
    }

    #[test]
    fn days_become_dates_across_leap_years() {
        let date = |days| civil(days);

        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(11_017), (2000, 3, 1));
        assert_eq!(date(20_779), (2026, 11, 22));
        assert_eq!(date(47_540), (2100, 2, 28));
        assert_eq!(date(47_541), (2100, 3, 1));
    }

    #[test]
    fn long_field_is_cut_at_a_character() {
        let path = format!("/{}", "ü".repeat(FIELD_BYTES));

        let line = line(&Entry { path: &path, ..entry() });

        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        let logged = json["path"].as_str().unwrap();
        assert!(logged.ends_with("ü…") && logged.len() <= FIELD_BYTES + "…".len(), "{} bytes", logged.len());
    }

    proptest! {
        #[test]
        fn line_is_one_line_of_json_whatever_the_client_sent(agent: Vec<u8>, path: String, host: String) {
            let line = line(&Entry { user_agent: Some(&agent), path: &path, host: &host, ..entry() });

            let json: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(json["path"].as_str().unwrap(), &path);
            prop_assert_eq!(json["user_agent"].as_str().unwrap(), String::from_utf8_lossy(&agent));
            prop_assert_eq!(line.matches('\n').count(), 1);
        }
    }
}
