//! What `/snapshot` shows: the configuration in force, with what is known of each endpoint right now.
//!
//! `tidegate top` reads it too: fields are added, and neither renamed nor removed.

use serde::Serialize;
use tidegate_model::desired::{Balance, Generation, Key, Limit, Listener, Purpose, Weight};
use tidegate_model::time::Timestamp;

use super::Stage;
use crate::endpoint::Endpoint;
use crate::health::HealthReport;
use crate::snapshot::{RouteEntry, ServiceEntry, ShadowEntry, Snapshot};

/// The whole page.
#[derive(Debug, Serialize)]
pub(super) struct View {
    generation: Generation,
    stage: &'static str,
    uptime_seconds: f64,
    version: &'static str,
    listeners: Vec<ListenerView>,
    services: Vec<ServiceView>,
    routes: Vec<RouteView>,
    limits: Vec<LimitView>,
    /// Banned sources and networks, and those that are remembered; `/bans` lists them.
    bans: usize,
}

#[derive(Debug, Serialize)]
struct ListenerView {
    name: String,
    bind: String,
    tls: bool,
    protocols: Vec<&'static str>,
    redirect_to_port: Option<u16>,
}

#[derive(Debug, Serialize)]
struct ServiceView {
    name: String,
    balance: String,
    under_attack: bool,
    /// Requests that may wait for answers at once; `null`: no bound now.
    capacity: Option<u32>,
    versions: Vec<VersionView>,
}

#[derive(Debug, Serialize)]
struct VersionView {
    name: String,
    endpoints: Vec<EndpointView>,
}

#[derive(Debug, Serialize)]
struct EndpointView {
    id: String,
    address: String,
    weight: u32,
    in_flight: u32,
    /// Moving average of the time to first byte; `None` before the first answer.
    latency_ms: Option<f64>,
    health: HealthReport,
}

#[derive(Debug, Serialize)]
struct RouteView {
    name: String,
    arms: Vec<ArmView>,
    shadows: Vec<ShadowView>,
    limits: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ArmView {
    to: String,
    /// A number, `drain` or `off`.
    weight: WeightView,
    /// Its share of people who are new, in percent.
    percent: f64,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum WeightView {
    Share(u32),
    Word(&'static str),
}

#[derive(Debug, Serialize)]
struct ShadowView {
    to: String,
    sample_percent: f64,
    in_flight: usize,
}

#[derive(Debug, Serialize)]
struct LimitView {
    name: String,
    key: Vec<String>,
    tokens: u32,
    window_seconds: f64,
    burst: u32,
}

impl View {
    /// What `snapshot` looks like at `now`.
    pub fn of(snapshot: &Snapshot, stage: Stage, now: Timestamp) -> Self {
        let desired = &snapshot.desired;
        Self {
            generation: desired.generation,
            stage: match stage {
                Stage::Starting => "starting",
                Stage::Serving => "serving",
                Stage::Draining | Stage::Replaced => "draining",
            },
            uptime_seconds: now.since(Timestamp::ZERO).as_secs_f64(),
            version: env!("CARGO_PKG_VERSION"),
            listeners: desired.listeners.iter().map(listener).collect(),
            services: snapshot.services.iter().map(|entry| service(entry, now)).collect(),
            routes: desired
                .routes
                .iter()
                .zip(&snapshot.routes)
                .map(|(spec, entry)| {
                    let limits = spec.limits.iter().map(|index| desired.limits[*index].name.clone()).collect();
                    route(&spec.name, limits, entry)
                })
                .collect(),
            limits: desired.limits.iter().map(limit).collect(),
            bans: snapshot.guard.bans.len(),
        }
    }
}

fn listener(spec: &Listener) -> ListenerView {
    let mut protocols = Vec::new();
    if spec.http2 {
        protocols.push(if spec.tls.is_some() { "h2" } else { "h2c" });
    }
    if spec.http1 {
        protocols.push("http/1.1");
    }
    ListenerView {
        name: spec.name.clone(),
        bind: spec.bind.to_string(),
        tls: spec.tls.is_some(),
        protocols,
        redirect_to_port: match spec.purpose {
            Purpose::Route => None,
            Purpose::RedirectToTls { port } => Some(port),
        },
    }
}

fn service(entry: &ServiceEntry, now: Timestamp) -> ServiceView {
    let versions = entry.spec.versions.iter().zip(&entry.versions).map(|(spec, version)| VersionView {
        name: spec.name.clone(),
        endpoints: version
            .endpoints
            .iter()
            .zip(&version.weights)
            .map(|(at, weight)| endpoint(at, *weight, now))
            .collect(),
    });
    ServiceView {
        name: entry.spec.name.clone(),
        balance: balance(&entry.spec.balance),
        under_attack: entry.gate.is_attack(),
        capacity: entry.gate.limit(),
        versions: versions.collect(),
    }
}

fn endpoint(endpoint: &Endpoint, weight: u32, now: Timestamp) -> EndpointView {
    let latency = endpoint.latency_nanos();
    EndpointView {
        id: endpoint.id.to_string(),
        address: endpoint.target.to_string(),
        weight,
        in_flight: endpoint.in_flight(),
        latency_ms: (latency > 0).then(|| latency as f64 / 1e6),
        health: endpoint.health.describe(now),
    }
}

fn route(name: &str, limits: Vec<String>, entry: &RouteEntry) -> RouteView {
    let share = |weight| if let Weight::Share(share) = weight { u64::from(share) } else { 0 };
    let total: u64 = entry.arms.iter().map(|arm| share(arm.weight)).sum();
    let arms = entry.arms.iter().map(|arm| ArmView {
        to: arm.label.to_string(),
        weight: match arm.weight {
            Weight::Share(share) => WeightView::Share(share),
            Weight::Drain => WeightView::Word("drain"),
            Weight::Off => WeightView::Word("off"),
        },
        percent: if total == 0 { 0.0 } else { share(arm.weight) as f64 * 100.0 / total as f64 },
    });
    RouteView {
        name: name.to_owned(),
        arms: arms.collect(),
        shadows: entry.shadows.iter().map(|s| shadow(s)).collect(),
        limits,
    }
}

fn shadow(entry: &ShadowEntry) -> ShadowView {
    ShadowView {
        to: entry.label.to_string(),
        sample_percent: f64::from(entry.spec.sample) / 100.0,
        in_flight: entry.in_flight.load(std::sync::atomic::Ordering::Relaxed),
    }
}

fn limit(spec: &Limit) -> LimitView {
    LimitView {
        name: spec.name.clone(),
        key: spec.keys.iter().map(key).collect(),
        tokens: spec.per_window,
        window_seconds: spec.window.as_secs_f64(),
        burst: spec.burst,
    }
}

fn balance(balance: &Balance) -> String {
    match balance {
        Balance::P2c => "p2c".into(),
        Balance::RoundRobin => "round_robin".into(),
        Balance::LeastConn => "least_conn".into(),
        Balance::Hash(by) => format!("hash {}", key(by)),
    }
}

/// A key as the configuration writes it.
fn key(key: &Key) -> String {
    match key {
        Key::ClientIp => "client_ip".into(),
        Key::Network => "network".into(),
        Key::Ja4 => "ja4".into(),
        Key::Header(name) => format!("header:{name}"),
        Key::Cookie(name) => format!("cookie:{name}"),
        Key::Query(name) => format!("query:{name}"),
        Key::Host => "host".into(),
        Key::Path => "path".into(),
        Key::Method => "method".into(),
    }
}
