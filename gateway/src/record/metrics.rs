//! Every metric, named and registered in one place; handles are resolved in `compile`.
//!
//! Series live as long as the configuration names what they measure: [`Metrics::retain`] forgets the rest after each
//! publish, so the number of series is bounded by the configuration and never by what clients send.
//!
//! # Not here
//!
//! Counting is in `handles`, its cells in `cells`, the families' names in `families`. The door registers its own
//! families on [`Metrics::registry`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use tidegate_model::desired::Generation;
use tidegate_model::time::Timestamp;

use super::cells::Level;
use super::families;
use super::handles::*;
use super::process::Process;
use super::shadows::*;
use super::table::{Exposed, Family, Table};
use crate::snapshot::Snapshot;

/// The registry and all families. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    registry: Registry,
    arms: Arc<Table<ARM_SLOTS, 0>>,
    routes: Arc<Table<ROUTE_SLOTS, 0>>,
    dyed_arms: Arc<Table<ARM_SLOTS, 0>>,
    dyed_routes: Arc<Table<ROUTE_SLOTS, 0>>,
    endpoints: Arc<Table<ENDPOINT_SLOTS, 2>>,
    services: Arc<Table<SERVICE_SLOTS, 3>>,
    limits: Arc<Table<LIMIT_SLOTS, 1>>,
    shadows: Arc<Table<SHADOW_SLOTS, 0>>,
    reloads: IntCounterVec,
    generation: IntGauge,
    last_success: Gauge,
    last_refused: IntGauge,
    access_log_dropped: IntCounter,
    access_log_errors: IntCounter,
}

/// What came of a change of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// It is in force.
    Applied,
    /// It says the same as the one in force.
    Unchanged,
    /// It was refused; the last good one stays.
    Refused,
}

impl ReloadResult {
    fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry of its own with every family of the gateway.
    pub fn new() -> Self {
        let registry = Registry::new();
        let families = Families {
            arms: table(&registry, families::ARM_LABELS, families::ARM_FAMILIES),
            routes: table(&registry, families::ROUTE_LABELS, families::ROUTE_FAMILIES),
            dyed_arms: table(&registry, families::ARM_LABELS, families::DYED_ARM_FAMILIES),
            dyed_routes: table(&registry, families::ROUTE_LABELS, families::DYED_ROUTE_FAMILIES),
            endpoints: table(&registry, families::ENDPOINT_LABELS, families::ENDPOINT_FAMILIES),
            services: table(&registry, families::SERVICE_LABELS, families::SERVICE_FAMILIES),
            limits: table(&registry, families::LIMIT_LABELS, families::LIMIT_FAMILIES),
            shadows: table(&registry, families::SHADOW_LABELS, families::SHADOW_FAMILIES),
            reloads: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("tidegate_reloads_total", "Configurations that were offered, by what came of them."),
                    &["result"],
                ),
            ),
            generation: register(
                &registry,
                IntGauge::new("tidegate_config_generation", "Generation of the configuration in force."),
            ),
            last_success: register(
                &registry,
                Gauge::new(
                    "tidegate_config_last_success_timestamp_seconds",
                    "Unix time at which a configuration last came into force.",
                ),
            ),
            last_refused: register(
                &registry,
                IntGauge::new(
                    "tidegate_config_last_refused",
                    "1 while the newest configuration on offer stands refused, else 0.",
                ),
            ),
            access_log_dropped: register(
                &registry,
                IntCounter::new(
                    "tidegate_access_log_dropped_total",
                    "Access-log lines that were lost because the queue was full or the log could not be written.",
                ),
            ),
            access_log_errors: register(
                &registry,
                IntCounter::new("tidegate_access_log_errors_total", "Attempts to write the access log that failed."),
            ),
            registry,
        };
        families.introduce();
        families.registry.register(Box::new(Process::new())).expect("family names are unique");
        Self(Arc::new(families))
    }

    /// Where other parts register families of their own, once per process.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Everything as text in Prometheus' exposition format 0.0.4.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.0.registry.gather()).expect("our own families are consistent")
    }

    /// Handles for one route. The same names give handles on the same numbers.
    pub fn route(&self, route: &str) -> RouteMetrics {
        RouteMetrics { answers: self.0.routes.row(&[route]), own: ArmMetrics(self.0.arms.row(&[route, "", ""])) }
    }

    /// Handles for the dyed requests of one route; of those that no route takes where its name is empty.
    pub fn dyed_route(&self, route: &str) -> RouteMetrics {
        let own = ArmMetrics(self.0.dyed_arms.row(&[route, "", ""]));
        RouteMetrics { answers: self.0.dyed_routes.row(&[route]), own }
    }

    /// Handles for the dyed requests of one route and version.
    pub fn dyed_arm(&self, route: &str, service: &str, version: &str) -> ArmMetrics {
        ArmMetrics(self.0.dyed_arms.row(&[route, service, version]))
    }

    /// Handles for requests that no route takes.
    pub fn unrouted(&self) -> RouteMetrics {
        self.route("")
    }

    /// Handles for one route and version.
    pub fn arm(&self, route: &str, service: &str, version: &str) -> ArmMetrics {
        ArmMetrics(self.0.arms.row(&[route, service, version]))
    }

    /// Handles for one endpoint.
    pub fn endpoint(&self, service: &str, version: &str, endpoint: &str) -> EndpointMetrics {
        let row = self.0.endpoints.row(&[service, version, endpoint]);
        EndpointMetrics { in_flight: Level::new(&row, ENDPOINT_IN_FLIGHT), row }
    }

    /// Handles for one service.
    pub fn service(&self, service: &str) -> ServiceMetrics {
        ServiceMetrics(self.0.services.row(&[service]))
    }

    /// Handles for one named limit.
    pub fn limit(&self, limit: &str) -> LimitMetrics {
        LimitMetrics(self.0.limits.row(&[limit]))
    }

    /// Handles for the copies of one route to one version.
    pub fn shadow(&self, route: &str, service: &str, version: &str) -> ShadowMetrics {
        ShadowMetrics(self.0.shadows.row(&[route, service, version]))
    }

    /// Forgets the series of everything that `snapshot` doesn't name. Called after each publish, and after a
    /// refusal with the snapshot in force, because a refused configuration may have made rows.
    ///
    /// Handles that old requests still hold go on counting, unseen. A name that comes back starts at zero.
    pub fn retain(&self, snapshot: &Snapshot) {
        let mut arms = HashSet::new();
        let mut routes = HashSet::new();
        let mut shadows = HashSet::new();
        for route in &snapshot.routes {
            routes.insert(Arc::as_ptr(&route.metrics.answers));
            arms.insert(Arc::as_ptr(&route.metrics.own.0));
            arms.extend(route.arms.iter().map(|arm| Arc::as_ptr(&arm.metrics.0)));
            if let Some(dyed) = &route.dyed {
                routes.insert(Arc::as_ptr(&dyed.answers));
                arms.insert(Arc::as_ptr(&dyed.own.0));
            }
            arms.extend(route.arms.iter().filter_map(|arm| Some(Arc::as_ptr(&arm.dyed.as_ref()?.0))));
            shadows.extend(route.shadows.iter().map(|shadow| Arc::as_ptr(&shadow.metrics.0)));
        }
        let versions = snapshot.services.iter().flat_map(|service| &service.versions);
        let endpoints: HashSet<_> = versions
            .flat_map(|version| &version.endpoints)
            .map(|endpoint| Arc::as_ptr(&endpoint.metrics.row))
            .collect();
        let services: HashSet<_> = snapshot.desired.services.iter().map(|service| service.name.as_str()).collect();
        let limits: HashSet<_> = snapshot.desired.limits.iter().map(|limit| limit.name.as_str()).collect();

        let tables = &self.0;
        tables.arms.retain(|values, row| values[0].is_empty() || arms.contains(&Arc::as_ptr(row)));
        tables.routes.retain(|values, row| values[0].is_empty() || routes.contains(&Arc::as_ptr(row)));
        tables.dyed_arms.retain(|values, row| values[0].is_empty() || arms.contains(&Arc::as_ptr(row)));
        tables.dyed_routes.retain(|values, row| values[0].is_empty() || routes.contains(&Arc::as_ptr(row)));
        tables.shadows.retain(|_, row| shadows.contains(&Arc::as_ptr(row)));
        tables.endpoints.retain(|_, row| endpoints.contains(&Arc::as_ptr(row)));
        tables.services.retain(|values, _| services.contains(values[0].as_str()));
        tables.limits.retain(|values, _| limits.contains(values[0].as_str()));
    }

    /// Brings gauges up to date that time alone changes: a rest ends without anybody saying so. Called before
    /// each reading.
    pub fn refresh(&self, snapshot: &Snapshot, now: Timestamp) {
        let versions = snapshot.services.iter().flat_map(|service| &service.versions);
        for endpoint in versions.flat_map(|version| &version.endpoints) {
            endpoint.metrics.show(endpoint.health.fitness(now));
        }
        snapshot.limits.iter().for_each(|limit| limit.show());
        snapshot.services.iter().filter_map(|service| service.slo.as_ref()).for_each(|slo| slo.look(now));
    }

    /// Counts a configuration that was offered.
    pub fn reloaded(&self, result: ReloadResult) {
        self.0.reloads.with_label_values(&[result.label()]).inc();
        self.0.last_refused.set(i64::from(result == ReloadResult::Refused));
    }

    /// Shows which configuration is in force, and since when.
    pub fn in_force(&self, generation: Generation, since: SystemTime) {
        self.0.generation.set(i64::try_from(generation.0).unwrap_or(i64::MAX));
        let seconds = since.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        self.0.last_success.set(seconds);
    }

    /// Counts access-log lines that were lost.
    pub fn access_log_dropped(&self) -> &IntCounter {
        &self.0.access_log_dropped
    }

    /// Counts attempts to write the access log that failed.
    pub fn access_log_errors(&self) -> &IntCounter {
        &self.0.access_log_errors
    }
}

impl Families {
    /// Makes series that should be seen before their first count, and those that never change.
    fn introduce(&self) {
        for result in [ReloadResult::Applied, ReloadResult::Unchanged, ReloadResult::Refused] {
            self.reloads.with_label_values(&[result.label()]);
        }
        let build = register(
            &self.registry,
            IntGaugeVec::new(
                Opts::new("tidegate_build_info", "Always 1; labelled with what is running."),
                &["version"],
            ),
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    }
}

fn table<const N: usize, const G: usize>(
    registry: &Registry,
    labels: &'static [&'static str],
    families: &'static [Family],
) -> Arc<Table<N, G>> {
    let table = Table::new(labels, families);
    registry.register(Box::new(Exposed(Arc::clone(&table)))).expect("family names are unique");
    table
}

/// Registers a metric whose name and labels are our own constants.
fn register<M: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("names and labels of our own families are valid");
    registry.register(Box::new(metric.clone())).expect("family names are unique");
    metric
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use tidegate_model::desired::{Desired, Key, Limit};

    use super::*;
    use crate::compile::{Material, compile};
    use crate::decide::Reason;

    /// One of everything, counted once.
    pub(in crate::record) fn busy() -> (Metrics, impl Sized) {
        let metrics = Metrics::new();
        let arm = metrics.arm("shop", "shop", "v1");
        arm.finished(200, Duration::from_millis(3));
        arm.bytes(10, 2_000);
        let dyed = metrics.dyed_arm("shop", "shop", "v1");
        dyed.finished(200, Duration::from_millis(3));
        metrics.dyed_route("shop").answered(Reason::DyedShed, 503, Duration::from_micros(20));
        let route = metrics.unrouted();
        route.answered(Reason::NoRoute, 404, Duration::from_micros(20));
        let endpoint = metrics.endpoint("shop", "v1", "127.0.0.1:9001");
        endpoint.in_flight.inc();
        endpoint.tried(TryResult::Ok);
        endpoint.first_byte(Duration::from_millis(2));
        endpoint.probed(true, true);
        endpoint.ejected(EjectionCause::Consecutive);
        let service = metrics.service("shop");
        service.retried(RetryResult::Ok);
        service.budget_exhausted();
        service.dyed_shed(DyedShed::Slo);
        let limit = metrics.limit("per_ip");
        limit.decided(LimitResult::Refused);
        limit.keys(7);
        let shadow = metrics.shadow("shop", "shop", "next");
        shadow.sent();
        shadow.finished(ShadowResult::Answered, Duration::from_millis(9));
        shadow.mismatch(Mismatch::Body);
        metrics.reloaded(ReloadResult::Applied);
        metrics.in_force(Generation(3), UNIX_EPOCH + Duration::from_millis(1_500));
        (metrics, (arm, route, endpoint, service, limit, shadow))
    }

    #[test]
    fn promtool_finds_nothing_to_complain_about() {
        let (metrics, _held) = busy();

        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is installed (Debian: prometheus)");
        promtool.stdin.take().unwrap().write_all(metrics.render().as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();

        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }

    #[test]
    fn same_names_count_on_the_same_series() {
        let metrics = Metrics::new();

        metrics.arm("shop", "shop", "v1").finished(200, Duration::from_millis(1));
        metrics.arm("shop", "shop", "v1").finished(200, Duration::from_millis(1));

        let text = metrics.render();
        let line = "tidegate_requests_total{route=\"shop\",service=\"shop\",version=\"v1\",code=\"200\"} 2";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn ejected_endpoint_is_not_up_until_it_returns() {
        let metrics = Metrics::new();
        let endpoint = metrics.endpoint("shop", "v1", "127.0.0.1:9001");
        let up = |text: &str| text.lines().find(|l| l.starts_with("tidegate_endpoint_up{")).unwrap().ends_with(" 1");

        assert!(up(&metrics.render()));
        endpoint.ejected(EjectionCause::Rate);
        assert!(!up(&metrics.render()));
        endpoint.returned();
        assert!(up(&metrics.render()));
        endpoint.probed(false, false);
        assert!(!up(&metrics.render()));
    }

    fn snapshot(metrics: &Metrics, limits: &[&str], previous: Option<&Snapshot>) -> Snapshot {
        let limit = |name: &&str| Limit {
            name: (*name).to_owned(),
            keys: vec![Key::Path],
            interval: Duration::from_secs(1),
            burst: 1,
            window: Duration::from_secs(1),
            per_window: 1,
            over: 429,
            challenge: false,
            ban: None,
            shared: false,
        };
        let generation = Generation(previous.map_or(1, |snapshot| snapshot.generation().0 + 1));
        let desired = Desired { generation, limits: limits.iter().map(limit).collect(), ..Desired::default() };
        compile(Arc::new(desired), previous, &Material::default(), metrics)
    }

    #[test]
    fn series_leave_with_what_they_measure_and_begin_anew_when_it_comes_back() {
        let metrics = Metrics::new();
        let lines = |of: &str| metrics.render().lines().filter(|line| line.contains(of)).count();
        let both = snapshot(&metrics, &["per_ip", "login"], None);
        metrics.limit("login").decided(LimitResult::Refused);

        let one = snapshot(&metrics, &["per_ip"], Some(&both));
        metrics.retain(&one);

        assert_eq!(lines("limit=\"login\""), 0);
        assert!(lines("limit=\"per_ip\"") > 0);
        metrics.retain(&snapshot(&metrics, &["per_ip", "login"], Some(&one)));
        assert_eq!(lines("limit=\"login\",result=\"refused\"} 0"), 1);
    }

    #[test]
    fn series_of_a_refused_configuration_leave_and_requests_without_a_route_stay_counted() {
        let metrics = Metrics::new();
        let in_force = snapshot(&metrics, &[], None);
        metrics.unrouted().answered(Reason::NoRoute, 404, Duration::ZERO);

        metrics.arm("from-a-refused-file", "shop", "v1").finished(200, Duration::ZERO);
        metrics.retain(&in_force);

        let text = metrics.render();
        assert!(!text.contains("from-a-refused-file"), "{text}");
        assert!(text.contains("tidegate_answers_total{route=\"\",reason=\"no_route\"} 1"), "{text}");
    }
}
