//! `docs/metrics.md` lists every family that the gateway exposes.
//!
//! `UPDATE=1 cargo test -p tidegate-gateway documented` writes it anew.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use prometheus::proto::{MetricFamily, MetricType};

use super::metrics::tests::busy;
use crate::acme::{AcmeMetrics, Book};
use crate::door::metrics::DoorMetrics;
use crate::guard::Guard;
use crate::guard::quota::QuotaMetrics;
use crate::recording::Recorder;
use crate::shadow::Shadows;

const INTRODUCTION: &str = "\
# Metrics

The admin listener serves these at `/metrics`, in Prometheus' text format. This page is made from the code
(`UPDATE=1 cargo test -p tidegate-gateway documented`).

Labels are bounded by the configuration: routes, services, versions, endpoints, limits and listeners by name, the rest
by closed sets. When a name leaves the configuration its series leave with it; a name that comes back starts at zero.

Statuses that are rare share one `code` for their class (`2xx`, `4xx`, …). A client that left before its answer counts
as `499`. Duration histograms have buckets from 0.1 ms to 30 s.

| To see | Ask |
|---|---|
| requests per second of each version | `sum by (route, service, version) (rate(tidegate_requests_total[1m]))` |
| share of errors of a canary | `sum by (version) (rate(tidegate_requests_total{code=~\"5.*\"}[5m])) / sum by (version) (rate(tidegate_requests_total[5m]))` |
| 99th percentile | `histogram_quantile(0.99, sum by (version, le) (rate(tidegate_request_duration_seconds_bucket[5m])))` |
| live and dyed requests side by side | `sum by (service) (rate(tidegate_requests_total[1m]))` and `sum by (service) (rate(tidegate_dyed_requests_total[1m]))` |
| endpoints that take no traffic | `tidegate_endpoint_up == 0` |
| a configuration that was refused | `tidegate_config_last_refused == 1` |
| shadow answers that differ | `rate(tidegate_shadow_mismatches_total[5m]) / on (route, service, version) group_left rate(tidegate_shadow_compared_total[5m])` |

| Family | Type | Labels | What it tells |
|---|---|---|---|
";

#[test]
fn every_family_is_documented_and_every_documented_one_exists() {
    let (metrics, _held) = busy();
    let door = DoorMetrics::register(metrics.registry()).unwrap();
    let _quotas = QuotaMetrics::register(metrics.registry()).unwrap();
    let _guard = Guard::register(metrics.registry()).unwrap();
    let _listener = door.listener("web");
    let _certificates = Book::new(AcmeMetrics::register(metrics.registry()).unwrap()).showing_one();
    Arc::new(Recorder::default()).register(metrics.registry()).unwrap();
    let _shadows = Shadows::start(1, metrics.registry()).unwrap();

    let mut page = INTRODUCTION.to_owned();
    for family in metrics.registry().gather() {
        writeln!(page, "| `{}` | {} | {} | {} |", family.name(), kind(&family), labels(&family), family.help())
            .unwrap();
    }

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "docs/metrics.md is stale: UPDATE=1 cargo test -p tidegate-gateway documented");
}

fn kind(family: &MetricFamily) -> &'static str {
    match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        other => panic!("{}: no family of ours is a {other:?}", family.name()),
    }
}

fn labels(family: &MetricFamily) -> String {
    let series = family.get_metric().first().expect("families without series aren't gathered");
    series.get_label().iter().map(|label| format!("`{}`", label.name())).collect::<Vec<_>>().join(", ")
}
