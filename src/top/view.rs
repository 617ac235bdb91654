//! Two readings become one view: rates, shares and percentiles of what happened in between. Pure.

use std::collections::HashMap;

use serde::Serialize;

use super::scrape::{Arm, Endpoint, Reading, Sample, Shadow, Version};

/// What is shown.
#[derive(Clone, Debug, Serialize)]
pub(super) struct View {
    pub generation: u64,
    pub stage: String,
    pub version: String,
    pub uptime_seconds: f64,
    /// The time that rates are over.
    pub interval_seconds: f64,
    pub totals: Totals,
    pub arms: Vec<ArmRow>,
    pub shadows: Vec<ShadowRow>,
    pub limits: Vec<LimitRow>,
    /// Endpoints that don't take their full share.
    pub unwell: Vec<EndpointRow>,
}

/// All routes together.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Totals {
    #[serde(flatten)]
    pub traffic: Traffic,
    pub in_flight: u64,
    pub endpoints_up: usize,
    pub endpoints: usize,
    pub connections: Option<u64>,
    /// The newest configuration on offer was refused.
    pub refused: bool,
}

/// What passed, and how it went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Traffic {
    /// Requests a second.
    pub rate: f64,
    /// Share of 5xx, in percent; `None` without requests.
    pub error_percent: Option<f64>,
    /// Seconds; `None` without requests.
    pub p50_seconds: Option<f64>,
    /// Seconds; `None` without requests. Infinite beyond the last bucket.
    pub p99_seconds: Option<f64>,
}

/// One route and version.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ArmRow {
    /// Empty for requests that no route takes.
    pub route: String,
    /// `shop/v1`; empty for what the gateway answered by itself.
    pub version: String,
    /// As configured, in words: `95 %`, `drain`, `off`.
    pub weight: Option<String>,
    #[serde(flatten)]
    pub traffic: Traffic,
    pub up: usize,
    pub endpoints: usize,
    /// Of the version, whichever route they came by.
    pub in_flight: Option<u64>,
}

/// One route and shadow.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ShadowRow {
    pub route: String,
    pub version: String,
    pub sample_percent: f64,
    pub sent_rate: f64,
    pub dropped_rate: f64,
    /// Share of copies that got no answer, in percent.
    pub failed_percent: Option<f64>,
    /// Share of compared answers that differed in status or body, at most 100 %.
    pub mismatch_percent: Option<f64>,
    /// Since the series began.
    pub mismatches: u64,
    pub p99_seconds: Option<f64>,
}

/// One named limit.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LimitRow {
    pub limit: String,
    pub allowed_rate: f64,
    pub refused_rate: f64,
    pub banned_rate: f64,
    pub keys: u64,
}

/// An endpoint that doesn't take its full share.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EndpointRow {
    pub id: String,
    pub state: String,
    pub share_percent: f64,
    pub resting_seconds: Option<f64>,
    pub reason: Option<String>,
}

impl View {
    /// What happened between `before` and `after`.
    pub fn between(before: &Reading, after: &Reading) -> Self {
        let seconds = after.at.duration_since(before.at).as_secs_f64().max(f64::EPSILON);
        let deltas = Deltas::new(before, after, seconds);
        let snapshot = &after.snapshot;
        let versions: HashMap<String, &Version> = snapshot
            .services
            .iter()
            .flat_map(|service| service.versions.iter().map(move |v| (format!("{}/{}", service.name, v.name), v)))
            .collect();
        let endpoints = || versions.values().flat_map(|version| &version.endpoints);

        let mut arms = Vec::new();
        for route in &snapshot.routes {
            arms.extend(route.arms.iter().map(|arm| deltas.arm(&route.name, arm, versions.get(&arm.to).copied())));
            arms.extend(deltas.answers(&route.name));
        }
        arms.extend(deltas.answers(""));
        let shadows =
            snapshot.routes.iter().flat_map(|r| r.shadows.iter().map(|s| deltas.shadow(&r.name, s))).collect();
        let mut unwell: Vec<_> = endpoints().filter(|endpoint| endpoint.health.state != "up").map(unwell).collect();
        unwell.sort_by(|a, b| a.id.cmp(&b.id));

        Self {
            generation: snapshot.generation,
            stage: snapshot.stage.clone(),
            version: snapshot.version.clone(),
            uptime_seconds: snapshot.uptime_seconds,
            interval_seconds: seconds,
            totals: Totals {
                traffic: deltas.traffic(REQUESTS, REQUEST_SECONDS, &[]),
                in_flight: endpoints().map(|endpoint| endpoint.in_flight).sum(),
                endpoints_up: endpoints().filter(|endpoint| takes_traffic(endpoint)).count(),
                endpoints: endpoints().count(),
                connections: deltas.now("tidegate_connections_open", &[]).map(|n| n as u64),
                refused: deltas.now("tidegate_config_last_refused", &[]) == Some(1.0),
            },
            arms,
            shadows,
            limits: snapshot.limits.iter().map(|limit| deltas.limit(&limit.name)).collect(),
            unwell,
        }
    }
}

const REQUESTS: &str = "tidegate_requests_total";
const REQUEST_SECONDS: &str = "tidegate_request_duration_seconds_bucket";

/// Samples with what they gained, by the value of their first label.
type Groups<'a> = HashMap<&'a str, Vec<(&'a Sample, f64)>>;

/// What counters did in the interval, by family.
struct Deltas<'a> {
    seconds: f64,
    /// By family and the value of the first label (a route or a limit), so that thousands of routes stay cheap.
    families: HashMap<&'a str, Groups<'a>>,
}

impl<'a> Deltas<'a> {
    fn new(before: &'a Reading, after: &'a Reading, seconds: f64) -> Self {
        let old: HashMap<_, f64> = before.samples.iter().map(|s| ((&s.name, &s.labels), s.value)).collect();
        let mut families: HashMap<&str, Groups<'_>> = HashMap::new();
        for sample in &after.samples {
            let was = old.get(&(&sample.name, &sample.labels)).copied().unwrap_or(0.0);
            // A counter that went down began anew: the gateway restarted, or the name left and came back.
            let delta = if sample.value < was { sample.value } else { sample.value - was };
            let group = sample.labels.first().map_or("", |(_, value)| value);
            families.entry(&sample.name).or_default().entry(group).or_default().push((sample, delta));
        }
        Self { seconds, families }
    }

    /// The samples of a family that carry `labels`, with what they gained. The first of `labels` is the family's own
    /// first one.
    fn of<'s>(&'s self, family: &str, labels: &'s [(&str, &str)]) -> impl Iterator<Item = &'s (&'a Sample, f64)> {
        let groups = self.families.get(family);
        let (one, all) = match labels.first() {
            Some((_, group)) => (groups.and_then(|groups| groups.get(group)), None),
            None => (None, groups.map(HashMap::values)),
        };
        let carries = move |sample: &Sample| labels.iter().all(|(name, value)| sample.label(name) == *value);
        one.into_iter().chain(all.into_iter().flatten()).flatten().filter(move |(sample, _)| carries(sample))
    }

    fn gained(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        self.of(family, labels).map(|(_, delta)| delta).fold(0.0, |sum, delta| sum + delta)
    }

    /// The sum of the present values; `None` where the family has no such series.
    fn now(&self, family: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.of(family, labels).map(|(sample, _)| sample.value).reduce(|a, b| a + b)
    }

    fn traffic(&self, requests: &str, seconds: &str, labels: &[(&str, &str)]) -> Traffic {
        let count = self.gained(requests, labels);
        let errors = self.of(requests, labels).filter(|(sample, _)| sample.label("code").starts_with('5'));
        let failed = errors.fold(0.0, |sum, (_, delta)| sum + delta);
        Traffic {
            rate: count / self.seconds,
            error_percent: percent(failed, count),
            p50_seconds: self.quantile(0.5, seconds, labels),
            p99_seconds: self.quantile(0.99, seconds, labels),
        }
    }

    /// The `q`-quantile of the interval, by linear interpolation within its bucket, as Prometheus does it.
    fn quantile(&self, q: f64, buckets: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut cumulative: Vec<(f64, f64)> = Vec::new();
        for (sample, delta) in self.of(buckets, labels) {
            let bound = sample.label("le").parse().unwrap_or(f64::INFINITY);
            match cumulative.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += delta,
                None => cumulative.push((bound, *delta)),
            }
        }
        cumulative.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total = cumulative.last().map_or(0.0, |(_, count)| *count);
        if total <= 0.0 {
            return None;
        }

        let rank = q * total;
        let at = cumulative.iter().position(|(_, count)| *count >= rank)?;
        let (bound, count) = cumulative[at];
        let (from, below) = if at == 0 { (0.0, 0.0) } else { cumulative[at - 1] };
        if bound.is_infinite() {
            return Some(f64::INFINITY);
        }
        Some(from + (bound - from) * (rank - below) / (count - below).max(f64::EPSILON))
    }

    fn arm(&self, route: &str, arm: &Arm, version: Option<&Version>) -> ArmRow {
        let (service, name) = arm.to.split_once('/').unwrap_or((&arm.to, ""));
        let labels = [("route", route), ("service", service), ("version", name)];
        let endpoints = version.map_or(&[][..], |version| &version.endpoints);
        ArmRow {
            route: route.to_owned(),
            version: arm.to.clone(),
            weight: Some(match arm.weight.as_str() {
                Some(word) => word.to_owned(),
                None => format!("{} %", short(arm.percent)),
            }),
            traffic: self.traffic(REQUESTS, REQUEST_SECONDS, &labels),
            up: endpoints.iter().filter(|endpoint| takes_traffic(endpoint)).count(),
            endpoints: endpoints.len(),
            in_flight: Some(endpoints.iter().map(|endpoint| endpoint.in_flight).sum()),
        }
    }

    /// What the gateway answered by itself on `route`; `None` if it never did.
    fn answers(&self, route: &str) -> Option<ArmRow> {
        let labels = [("route", route), ("service", ""), ("version", "")];
        self.now(REQUESTS, &labels).filter(|count| *count > 0.0)?;
        Some(ArmRow {
            route: route.to_owned(),
            version: String::new(),
            weight: None,
            traffic: self.traffic(REQUESTS, REQUEST_SECONDS, &labels),
            up: 0,
            endpoints: 0,
            in_flight: None,
        })
    }

    fn shadow(&self, route: &str, shadow: &Shadow) -> ShadowRow {
        let (service, name) = shadow.to.split_once('/').unwrap_or((&shadow.to, ""));
        let labels = [("route", route), ("service", service), ("version", name)];
        let done = self.gained("tidegate_shadow_finished_total", &labels);
        let answered =
            self.gained("tidegate_shadow_finished_total", &[&labels[..], &[("result", "answered")]].concat());
        let differed =
            |kind| self.gained("tidegate_shadow_mismatches_total", &[&labels[..], &[("kind", kind)]].concat());
        let compared = self.gained("tidegate_shadow_compared_total", &labels);
        ShadowRow {
            route: route.to_owned(),
            version: shadow.to.clone(),
            sample_percent: shadow.sample_percent,
            sent_rate: self.gained("tidegate_shadow_sent_total", &labels) / self.seconds,
            dropped_rate: self.gained("tidegate_shadow_dropped_total", &labels) / self.seconds,
            failed_percent: percent(done - answered, done),
            // One answer may differ in both; the larger of the two is the least that is true.
            mismatch_percent: percent(differed("status").max(differed("body")), compared),
            mismatches: self.now("tidegate_shadow_mismatches_total", &labels).unwrap_or(0.0) as u64,
            p99_seconds: self.quantile(0.99, "tidegate_shadow_duration_seconds_bucket", &labels),
        }
    }

    fn limit(&self, limit: &str) -> LimitRow {
        let rate = |result| {
            self.gained("tidegate_limit_decisions_total", &[("limit", limit), ("result", result)]) / self.seconds
        };
        LimitRow {
            limit: limit.to_owned(),
            allowed_rate: rate("allowed"),
            refused_rate: rate("refused"),
            banned_rate: rate("banned"),
            keys: self.now("tidegate_limit_keys", &[("limit", limit)]).unwrap_or(0.0) as u64,
        }
    }
}

fn takes_traffic(endpoint: &Endpoint) -> bool {
    matches!(endpoint.health.state.as_str(), "up" | "warming")
}

fn unwell(endpoint: &Endpoint) -> EndpointRow {
    EndpointRow {
        id: endpoint.id.clone(),
        state: endpoint.health.state.clone(),
        share_percent: f64::from(endpoint.health.share) / 10.0,
        resting_seconds: endpoint.health.resting_seconds,
        reason: endpoint.health.reason.clone(),
    }
}

fn percent(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| (part * 100.0 / whole).min(100.0))
}

/// A number with one decimal below ten and none above, and never a needless `.0`.
pub(super) fn short(number: f64) -> String {
    let text = if number < 9.95 { format!("{number:.1}") } else { format!("{number:.0}") };
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}
