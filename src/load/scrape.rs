//! What the target says of itself while it is under load: Prometheus metrics, read once a second (exposition format
//! 0.0.4), as lines on the report's time axis.
//!
//! # Invariants
//!
//! - Rates and percentiles are of what came between two readings. A counter that went down began anew.
//! - A reading that fails leaves a gap; it never disturbs the run.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::str::FromStr;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tidegate_loadgen::outcome::Series;

use crate::top::scrape::{Sample, parse};

/// Between two readings.
const EVERY: Duration = Duration::from_secs(1);
/// For connecting, and between two reads. Beyond it the reading is left out.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of one answer. A longer one is left out.
const MOST_BYTES: u64 = 64 << 20;
/// Lines of one source. What comes after is left out.
const MOST_SERIES: usize = 400;

/// Where metrics are read: `http://HOST:PORT/PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    authority: String,
    path: String,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WANTED: &str = "expected http://HOST:PORT/PATH, such as http://127.0.0.1:9900/metrics";
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let (authority, path) = rest.find('/').map_or((rest, "/metrics"), |at| rest.split_at(at));
        let wrong = |c: char| c.is_control() || c.is_whitespace();
        match authority.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() && !rest.contains(wrong) => {
                Ok(Self { authority: authority.to_owned(), path: path.to_owned() })
            }
            _ => Err(WANTED.to_owned()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

impl Source {
    fn read(&self) -> anyhow::Result<Vec<Sample>> {
        let mut last = None;
        for address in self.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => return self.ask(stream),
                Err(err) => last = Some(err),
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("the name has no address"), Into::into))
    }

    /// By HTTP/1.0, so that the answer ends with the connection and isn't chunked.
    fn ask(&self, mut stream: TcpStream) -> anyhow::Result<Vec<Sample>> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "GET {} HTTP/1.0\r\nHost: {}\r\nAccept: text/plain\r\n\r\n", self.path, self.authority)?;
        let mut answer = String::new();
        stream.take(MOST_BYTES).read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer broke off")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        anyhow::ensure!(status == "200", "it answered {status}");
        parse(body).context("the answer isn't in Prometheus' exposition format")
    }
}

/// Reads on threads of its own, from the first second to the last.
pub struct Scraper(Vec<(Sender<()>, JoinHandle<Lines>)>);

impl Scraper {
    /// Reads each source once, to see that it is there, and then once a second.
    ///
    /// # Errors
    ///
    /// A source can't be read: better before the run than after it.
    pub fn begin(sources: &[Source]) -> anyhow::Result<Self> {
        let mut threads = Vec::new();
        for source in sources {
            let mut lines = Lines::new(&source.authority);
            lines.take(unix(), &source.read().with_context(|| format!("can't read the metrics at {source}"))?);
            let (end, ended) = mpsc::channel::<()>();
            let source = source.clone();
            let read = move || {
                let mut next = Instant::now() + EVERY;
                while let Err(RecvTimeoutError::Timeout) =
                    ended.recv_timeout(next.saturating_duration_since(Instant::now()))
                {
                    next = (next + EVERY).max(Instant::now());
                    if let Ok(samples) = source.read() {
                        lines.take(unix(), &samples);
                    }
                }
                lines
            };
            threads.push((end, std::thread::Builder::new().name("metrics".to_owned()).spawn(read)?));
        }
        Ok(Self(threads))
    }

    /// Ends, and gives what was read, in seconds from `began` (Unix milliseconds).
    pub fn end(self, began: u64) -> Vec<Series> {
        let began = began as f64 / 1e3;
        let mut out = Vec::new();
        for (end, thread) in self.0 {
            drop(end);
            out.extend(thread.join().map(|lines| lines.series(began)).unwrap_or_default());
        }
        out
    }
}

fn unix() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// How a family becomes a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What it gained, a second.
    Rate,
    /// As it stands.
    Level,
    /// The share of what it gained under codes 5xx, in percent.
    ServerErrors,
    /// The 99th percentile of what its buckets gained, in milliseconds.
    P99,
}

/// A family that is known.
struct Known {
    family: &'static str,
    /// Labels that lines are told apart by; the others are added up.
    by: &'static [&'static str],
    kind: Kind,
    scale: f64,
    what: &'static str,
    unit: &'static str,
}

const fn known(
    family: &'static str,
    by: &'static [&'static str],
    kind: Kind,
    scale: f64,
    what: &'static str,
    unit: &'static str,
) -> Known {
    Known { family, by, kind, scale, what, unit }
}

/// Of Tidegate, of the Prometheus client libraries, of Micrometer and the JVM's own exporter, and of node_exporter.
const KNOWN: [Known; 12] = [
    known("tidegate_requests_total", &["service", "version"], Kind::Rate, 1.0, "requests by version", "/s"),
    known("tidegate_requests_total", &["service", "version"], Kind::ServerErrors, 100.0, "5xx by version", "%"),
    known("tidegate_request_duration_seconds_bucket", &["service", "version"], Kind::P99, 1e3, "p99 by version", "ms"),
    known("tidegate_upstream_in_flight", &["service", "version"], Kind::Level, 1.0, "in flight by version", ""),
    known("process_cpu_seconds_total", &[], Kind::Rate, 1.0, "CPU", "cores"),
    known("process_cpu_usage", &[], Kind::Level, 100.0, "CPU of the JVM", "%"),
    known("process_resident_memory_bytes", &[], Kind::Level, 1.0, "memory", "bytes"),
    known("jvm_memory_used_bytes", &["area"], Kind::Level, 1.0, "memory of the JVM", "bytes"),
    known("jvm_gc_pause_seconds_sum", &[], Kind::Rate, 100.0, "time in garbage collection", "%"),
    known("jvm_gc_collection_seconds_sum", &[], Kind::Rate, 100.0, "time in garbage collection", "%"),
    known("node_network_receive_bytes_total", &["device"], Kind::Rate, 1.0, "network, received a second", "bytes"),
    known("node_network_transmit_bytes_total", &["device"], Kind::Rate, 1.0, "network, sent a second", "bytes"),
];

/// What one reading said of one line.
#[derive(Clone, Debug, Default)]
struct Seen {
    sum: f64,
    /// Of which with a code 5xx.
    errors: f64,
    /// Upper bounds in seconds, with cumulative counts.
    buckets: Vec<(f64, f64)>,
}

/// A reading, by place in [`KNOWN`] and label values.
type Readings = BTreeMap<(usize, String), Seen>;

/// The lines of one source.
struct Lines {
    source: String,
    /// The last reading, and when it was taken.
    last: Option<(f64, Readings)>,
    points: BTreeMap<(usize, String), Vec<(f64, f64)>>,
}

impl Lines {
    fn new(source: &str) -> Self {
        Self { source: source.to_owned(), last: None, points: BTreeMap::new() }
    }

    /// One more reading, at `at` in Unix seconds.
    fn take(&mut self, at: f64, samples: &[Sample]) {
        let now = self.seen(samples);
        for (key, seen) in &now {
            let known = &KNOWN[key.0];
            let value = match (&self.last, known.kind) {
                (_, Kind::Level) => Some(seen.sum),
                (Some((then, last)), kind) if at > *then => {
                    seen.since(last.get(key).cloned().unwrap_or_default(), at - then, kind)
                }
                _ => None,
            };
            let room = self.points.len() < MOST_SERIES || self.points.contains_key(key);
            if let Some(value) = value.filter(|value| value.is_finite() && room) {
                self.points.entry(key.clone()).or_default().push((at, value * known.scale));
            }
        }
        self.last = Some((at, now));
    }

    fn seen(&self, samples: &[Sample]) -> Readings {
        let mut out = Readings::new();
        for sample in samples {
            for (place, known) in KNOWN.iter().enumerate().filter(|(_, known)| known.family == sample.name) {
                if sample.label("device") == "lo" {
                    continue;
                }
                let seen = out.entry((place, self.of(known, sample))).or_default();
                seen.sum += sample.value;
                if sample.label("code").starts_with('5') {
                    seen.errors += sample.value;
                }
                if let (Kind::P99, Ok(bound)) = (known.kind, sample.label("le").parse::<f64>()) {
                    match seen.buckets.iter_mut().find(|(known, _)| *known == bound) {
                        Some((_, count)) => *count += sample.value,
                        None => seen.buckets.push((bound, sample.value)),
                    }
                }
            }
        }
        out.values_mut().for_each(|seen| seen.buckets.sort_by(|a, b| a.0.total_cmp(&b.0)));
        out
    }

    fn of(&self, known: &Known, sample: &Sample) -> String {
        let values: Vec<&str> = known.by.iter().map(|name| sample.label(name)).collect();
        match values.iter().all(|value| value.is_empty()) {
            true if known.family.starts_with("tidegate_") => "the gateway's own answers".to_owned(),
            true => self.source.clone(),
            false => values.join("/"),
        }
    }

    fn series(self, began: f64) -> Vec<Series> {
        let series = |((place, of), points): ((usize, String), Vec<(f64, f64)>)| {
            let known = &KNOWN[place];
            let points = points.into_iter().map(|(at, value)| (at - began, value)).filter(|it| it.0 >= 0.0).collect();
            Series { what: known.what.to_owned(), of, unit: known.unit.to_owned(), points }
        };
        self.points.into_iter().map(series).filter(|series| !series.points.is_empty()).collect()
    }
}

impl Seen {
    /// What it comes to since an earlier reading, so many seconds ago.
    fn since(&self, last: Self, seconds: f64, kind: Kind) -> Option<f64> {
        // A counter that went down began anew.
        let last = if last.sum > self.sum { Self::default() } else { last };
        let gained = self.sum - last.sum;
        match kind {
            Kind::Rate => Some(gained / seconds),
            Kind::Level => Some(self.sum),
            Kind::ServerErrors => (gained > 0.0).then(|| ((self.errors - last.errors) / gained).clamp(0.0, 1.0)),
            Kind::P99 => {
                let before = |bound: f64| last.buckets.iter().find(|it| it.0 == bound).map_or(0.0, |it| it.1);
                let gained: Vec<_> = self.buckets.iter().map(|(bound, n)| (*bound, n - before(*bound))).collect();
                quantile(0.99, &gained)
            }
        }
    }
}

/// By linear interpolation within a bucket, as Prometheus does it; the last finite bound where it lies beyond.
fn quantile(q: f64, cumulative: &[(f64, f64)]) -> Option<f64> {
    let total = cumulative.last().map(|it| it.1).filter(|total| *total > 0.0)?;
    let rank = q * total;
    let at = cumulative.iter().position(|(_, count)| *count >= rank)?;
    let (from, below) = if at == 0 { (0.0, 0.0) } else { cumulative[at - 1] };
    let (bound, count) = cumulative[at];
    if bound.is_infinite() {
        return Some(from);
    }
    Some(from + (bound - from) * (rank - below) / (count - below).max(f64::EPSILON))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(readings: &[(f64, &str)]) -> Vec<Series> {
        let mut lines = Lines::new("127.0.0.1:9900");
        readings.iter().for_each(|(at, text)| lines.take(*at, &parse(text).unwrap()));
        lines.series(100.0)
    }

    fn points(series: &[Series], what: &str, of: &str) -> Vec<(f64, f64)> {
        series.iter().find(|it| it.what == what && it.of == of).map(|it| it.points.clone()).unwrap_or_default()
    }

    const BEFORE: &str = "
tidegate_requests_total{route=\"a\",service=\"shop\",version=\"v1\",code=\"200\"} 1000
tidegate_request_duration_seconds_bucket{route=\"a\",service=\"shop\",version=\"v1\",le=\"0.1\"} 1000
tidegate_request_duration_seconds_bucket{route=\"a\",service=\"shop\",version=\"v1\",le=\"+Inf\"} 1000
process_cpu_seconds_total 10
process_resident_memory_bytes 5000
jvm_gc_pause_seconds_sum{action=\"minor\"} 1
node_network_receive_bytes_total{device=\"lo\"} 10
";
    const AFTER: &str = "
tidegate_requests_total{route=\"a\",service=\"shop\",version=\"v1\",code=\"200\"} 1160
tidegate_requests_total{route=\"b\",service=\"shop\",version=\"v1\",code=\"503\"} 40
tidegate_request_duration_seconds_bucket{route=\"a\",service=\"shop\",version=\"v1\",le=\"0.1\"} 1200
tidegate_request_duration_seconds_bucket{route=\"a\",service=\"shop\",version=\"v1\",le=\"+Inf\"} 1200
process_cpu_seconds_total 11
process_resident_memory_bytes 6000
jvm_gc_pause_seconds_sum{action=\"minor\"} 1.5
node_network_receive_bytes_total{device=\"lo\"} 99
";

    #[test]
    fn two_readings_become_rates_shares_and_percentiles_on_the_runs_time_axis() {
        let series = lines(&[(100.0, BEFORE), (102.0, AFTER)]);

        assert_eq!(points(&series, "requests by version", "shop/v1"), [(2.0, 100.0)]);
        assert_eq!(points(&series, "5xx by version", "shop/v1"), [(2.0, 20.0)]);
        assert_eq!(points(&series, "p99 by version", "shop/v1"), [(2.0, 99.0)]);
        assert_eq!(points(&series, "CPU", "127.0.0.1:9900"), [(2.0, 0.5)]);
        assert_eq!(points(&series, "memory", "127.0.0.1:9900"), [(0.0, 5_000.0), (2.0, 6_000.0)]);
        assert_eq!(points(&series, "time in garbage collection", "127.0.0.1:9900"), [(2.0, 25.0)]);
        assert!(series.iter().all(|it| it.of != "lo"));
    }

    #[test]
    fn counter_that_began_anew_is_no_negative_rate() {
        let series = lines(&[(100.0, AFTER), (101.0, "process_cpu_seconds_total 0.5")]);

        assert_eq!(points(&series, "CPU", "127.0.0.1:9900"), [(1.0, 0.5)]);
    }

    #[test]
    fn source_needs_a_port_and_has_a_usual_path() {
        let read = |text: &str| text.parse::<Source>().map(|it| it.to_string());

        assert_eq!(read("127.0.0.1:9900").as_deref(), Ok("http://127.0.0.1:9900/metrics"));
        assert_eq!(read("http://h:1/actuator/prometheus").as_deref(), Ok("http://h:1/actuator/prometheus"));
        assert!(["https://h:1/", "h", "http://h:1/a b", ":1"].iter().all(|it| read(it).is_err()));
    }
}
