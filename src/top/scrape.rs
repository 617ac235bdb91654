//! Reads the admin listener: `/metrics` and `/snapshot`, each in one short HTTP exchange.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Deserialize;

/// For connecting, and between two reads. Beyond it the gateway counts as lost until the next try.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of one answer. 10,000 routes make about 30 MiB; a longer answer is an error.
const MOST_BYTES: u64 = 256 << 20;

/// The address of an admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Admin(String);

impl FromStr for Admin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        match authority.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Self(authority.to_owned())),
            _ => Err("expected HOST:PORT, such as 127.0.0.1:9900".to_owned()),
        }
    }
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that one look at the gateway told.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// When.
    pub at: Instant,
    /// What is counted.
    pub samples: Vec<Sample>,
    /// What is configured, and how its endpoints are.
    pub snapshot: Snapshot,
}

/// One line of the exposition format.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// The family, with `_bucket`, `_sum` or `_count` for histograms.
    pub name: String,
    /// Labels, in their order.
    pub labels: Vec<(String, String)>,
    /// Value.
    pub value: f64,
}

impl Sample {
    /// The value of a label; empty where there is none, which Prometheus holds to be the same.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// The part of `/snapshot` that is shown.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Snapshot {
    pub generation: u64,
    pub stage: String,
    pub version: String,
    pub uptime_seconds: f64,
    pub services: Vec<Service>,
    pub routes: Vec<Route>,
    pub limits: Vec<Named>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    pub name: String,
    pub versions: Vec<Version>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Version {
    pub name: String,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Endpoint {
    pub id: String,
    pub in_flight: u64,
    pub health: Health,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Health {
    pub state: String,
    pub reason: Option<String>,
    pub resting_seconds: Option<f64>,
    pub share: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Route {
    pub name: String,
    pub arms: Vec<Arm>,
    pub shadows: Vec<Shadow>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Arm {
    pub to: String,
    pub weight: serde_json::Value,
    pub percent: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Shadow {
    pub to: String,
    pub sample_percent: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    pub name: String,
}

impl Admin {
    /// Looks once.
    pub fn read(&self) -> anyhow::Result<Reading> {
        let look = || -> anyhow::Result<Reading> {
            let snapshot = serde_json::from_str(&self.get("/snapshot")?).context("/snapshot isn't what we know")?;
            let at = Instant::now();
            let samples = parse(&self.get("/metrics")?).context("/metrics isn't in the exposition format")?;
            Ok(Reading { at, samples, snapshot })
        };
        look().with_context(|| format!("could not read the gateway's admin listener at {self}"))
    }

    fn get(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = self.connect()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {self}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(MOST_BYTES).read_to_string(&mut answer)?;

        let (head, body) = answer.split_once("\r\n\r\n").context("the answer broke off")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status != "200" {
            bail!("{path} answered {status}: is this a Tidegate admin listener?");
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        if length.is_some_and(|length| length != body.len()) {
            bail!("the answer broke off");
        }
        Ok(body.to_owned())
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        let mut last = None;
        for address in self.0.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => return Ok(stream),
                Err(err) => last = Some(err),
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("the name has no address"), Into::into))
    }
}

/// Reads the exposition format 0.0.4. `None` where a line isn't in it.
pub(crate) fn parse(text: &str) -> Option<Vec<Sample>> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(sample).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = unquote(after)?;
            labels.push((key.to_owned(), value));
            rest = after;
        }
    }
    let value = rest.split_ascii_whitespace().next()?;
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

/// A label's value up to its closing quote, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}
