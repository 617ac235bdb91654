//! `Desired → Snapshot`: builds the indexes, and hands on what must outlive a snapshot.
//!
//! A plain function of its arguments: files were read into [`Material`] before. Endpoints, buckets,
//! budgets and rotations are taken over from the previous snapshot by name, so that a reload forgets nothing.
//!
//! # Not here
//!
//! Whether the configuration makes sense: `model::check`. Making it visible: `snapshot::Publisher`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use tidegate_model::desired::{
    Action, Address, Desired, EndpointSpec, HeaderEdits, Route, RouteTimeouts, Service, Shadow, Split, Timeouts,
    Version,
};

use crate::carry::UpstreamTlsReady;
use crate::decide::balance::Balancer;
use crate::decide::limit::LimitState;
use crate::decide::route::Router;
use crate::decide::split::Splitter;
use crate::decide::{Entrance, RouteRules};
use crate::endpoint::{Endpoint, EndpointId, Target};
use crate::guard::Guard;
use crate::guard::dyed;
use crate::guard::gate::Gate;
use crate::guard::lists::Lists;
use crate::guard::slo::Slo;
use crate::guard::token::Keys;
use crate::health::RetryBudget;
use crate::record::Metrics;
use crate::recording::Recorder;
use crate::snapshot::{ArmEntry, ReadyEdits, RouteEntry, ServiceEntry, ShadowEntry, Snapshot, VersionEntry};
use crate::tls::ClientPolicies;

/// What a configuration refers to outside itself, read beforehand.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// TLS to endpoints, by index of the service. Shorter than the services where none follows.
    pub upstream_tls: Vec<Option<Arc<UpstreamTlsReady>>>,
    /// Addresses of endpoints that are named by host.
    pub names: HashMap<(String, u16), Vec<SocketAddr>>,
    /// Lists of networks that were read from files.
    pub lists: Lists,
    /// Signs what visitors carry, where the configuration names a secret. Else the guard's own does.
    pub keys: Option<Keys>,
    /// Keys that marks of dyed traffic are signed with, where the configuration names any.
    pub dyed: Option<dyed::Keys>,
    /// Who records.
    pub recorder: Arc<Recorder>,
    /// What is known about attackers and everybody else.
    pub guard: Arc<Guard>,
    /// Whom listeners ask for a certificate, by name of the listener.
    pub clients: HashMap<String, Arc<ClientPolicies>>,
}

/// Builds the snapshot for `desired`.
pub fn compile(desired: Arc<Desired>, previous: Option<&Snapshot>, material: &Material, metrics: &Metrics) -> Snapshot {
    let before = Before::new(previous);
    let services: Vec<_> = desired
        .services
        .iter()
        .enumerate()
        .map(|(index, spec)| service(index, spec, &desired, &before, material, metrics))
        .collect();
    let lists = &material.lists;
    let routes = desired.routes.iter().map(|spec| route(spec, &desired, &services, &before, lists, metrics)).collect();
    let limits = desired
        .limits
        .iter()
        .map(|spec| match before.limits.get(spec.name.as_str()) {
            Some(state) if state.same_definition(spec, desired.bounds.limit_keys) => Arc::clone(state),
            _ => Arc::new(
                LimitState::new(spec, desired.bounds.limit_keys)
                    .counted_on(metrics.limit(&spec.name))
                    .telling(Arc::clone(&material.guard.soon)),
            ),
        })
        .collect();
    let keys = material.keys.as_ref().unwrap_or_else(|| material.guard.crowd.keys());
    Snapshot {
        entrance: Entrance::new(&desired, &material.lists, Some(keys))
            .with_clients(material.clients.clone())
            .with_dyed(material.dyed.clone()),
        router: Router::build(&desired.routes),
        routes,
        services,
        limits,
        recorder: Arc::clone(&material.recorder),
        dyed_unrouted: desired.dyed.as_ref().map(|_| metrics.dyed_route("")),
        guard: Arc::clone(&material.guard),
        desired,
    }
}

/// The previous snapshot, by name.
#[derive(Default)]
struct Before<'a> {
    services: HashMap<&'a str, &'a ServiceEntry>,
    versions: HashMap<&'a str, &'a VersionEntry>,
    endpoints: HashMap<&'a EndpointId, &'a Arc<Endpoint>>,
    routes: HashMap<&'a str, &'a RouteEntry>,
    limits: HashMap<&'a str, &'a Arc<LimitState>>,
}

impl<'a> Before<'a> {
    fn new(previous: Option<&'a Snapshot>) -> Self {
        let Some(previous) = previous else { return Self::default() };
        let versions = || previous.services.iter().flat_map(|s| &s.versions);
        Self {
            services: previous.services.iter().map(|s| (s.spec.name.as_str(), s)).collect(),
            versions: versions().map(|v| (&*v.label, v)).collect(),
            endpoints: versions().flat_map(|v| &v.endpoints).map(|e| (&e.id, e)).collect(),
            routes: previous.desired.routes.iter().map(|r| r.name.as_str()).zip(&previous.routes).collect(),
            limits: previous.desired.limits.iter().map(|l| l.name.as_str()).zip(&previous.limits).collect(),
        }
    }
}

fn service(
    index: usize,
    spec: &Service,
    desired: &Desired,
    before: &Before<'_>,
    material: &Material,
    metrics: &Metrics,
) -> ServiceEntry {
    let percent = spec.retry.budget_percent;
    let old = before.services.get(spec.name.as_str());
    let budget = |known: Option<&Arc<RetryBudget>>| {
        let budget = known.map_or_else(|| Arc::new(RetryBudget::new(percent)), Arc::clone);
        budget.set_percent(percent);
        budget
    };
    let counters = metrics.service(&spec.name);
    let shed = desired.dyed.as_ref().and_then(|dyed| dyed.shed.as_ref());
    let slo = shed.map(|shed| match old.and_then(|old| old.slo.as_ref()) {
        Some(slo) if slo.means(shed) => Arc::clone(slo),
        _ => Arc::new(Slo::new(&spec.name, shed, counters.clone())),
    });
    if slo.is_none() {
        counters.dyed_shedding(false);
    }
    let gate = match old {
        Some(old) => {
            old.gate.set_capacity(spec.capacity);
            Arc::clone(&old.gate)
        }
        None => {
            let known = Arc::clone(&material.guard.crowd.known);
            Arc::new(Gate::new(&spec.name, spec.capacity, known, counters.clone()))
        }
    };
    ServiceEntry {
        versions: spec.versions.iter().map(|v| version(spec, v, before, material, metrics)).collect(),
        budget: budget(old.map(|old| &old.budget)),
        dyed_budget: budget(old.map(|old| &old.dyed_budget)),
        slo,
        gate,
        tls: material.upstream_tls.get(index).cloned().flatten(),
        metrics: counters,
        spec: Arc::new(spec.clone()),
    }
}

fn version(
    service: &Service,
    spec: &Version,
    before: &Before<'_>,
    material: &Material,
    metrics: &Metrics,
) -> VersionEntry {
    let label: Arc<str> = format!("{}/{}", service.name, spec.name).into();
    let (endpoints, weights): (Vec<_>, Vec<_>) = spec
        .endpoints
        .iter()
        .flat_map(|endpoint| targets(endpoint, material).into_iter().map(|target| (target, endpoint.weight)))
        .map(|(target, weight)| {
            let address = target.to_string();
            let id = EndpointId::new(&service.name, &spec.name, &address);
            let endpoint = match before.endpoints.get(&id) {
                Some(known) => Arc::clone(known),
                None => Arc::new(Endpoint::new(id, target, metrics.endpoint(&service.name, &spec.name, &address))),
            };
            (endpoint, weight)
        })
        .unzip();
    let rotation = before.versions.get(&*label).map(|old| &old.balance);
    let panic_percent = service.eject.as_ref().map_or(0, |eject| eject.panic_percent);
    let balance = Balancer::new(&service.balance, panic_percent, &endpoints, &weights, rotation);
    VersionEntry { label, endpoints, weights, balance }
}

fn targets(endpoint: &EndpointSpec, material: &Material) -> Vec<Target> {
    match &endpoint.address {
        Address::Tcp(address) => vec![Target::Tcp(*address)],
        Address::Unix(path) => vec![Target::Unix(path.clone())],
        Address::Name(host, port) => {
            let known = material.names.get(&(host.clone(), *port));
            known.into_iter().flatten().map(|address| Target::Tcp(*address)).collect()
        }
    }
}

fn route(
    spec: &Route,
    desired: &Desired,
    services: &[ServiceEntry],
    before: &Before<'_>,
    lists: &Lists,
    metrics: &Metrics,
) -> RouteEntry {
    let old = before.routes.get(spec.name.as_str());
    let nothing = Split::default();
    let split = match &spec.action {
        Action::Forward(split) => split,
        Action::Redirect(_) | Action::Answer(_) => &nothing,
    };
    let arms: Vec<ArmEntry> = split
        .arms
        .iter()
        .map(|arm| {
            let service = &services[arm.version.service];
            let version = &service.versions[arm.version.version];
            let name = &service.spec.versions[arm.version.version].name;
            ArmEntry {
                version: arm.version,
                weight: arm.weight,
                label: Arc::clone(&version.label),
                metrics: metrics.arm(&spec.name, &service.spec.name, name),
                dyed: desired.dyed.as_ref().map(|_| metrics.dyed_arm(&spec.name, &service.spec.name, name)),
            }
        })
        .collect();
    let labels: Vec<_> = arms.iter().map(|arm| Arc::clone(&arm.label)).collect();
    let splitter = match &spec.action {
        Action::Forward(split) => Some(Splitter::new(split, &labels, old.and_then(|o| o.splitter.as_ref()))),
        Action::Redirect(_) | Action::Answer(_) => None,
    };
    RouteEntry {
        rules: RouteRules::new(spec, lists),
        splitter,
        timeouts: arms
            .iter()
            .map(|arm| timeouts(&desired.services[arm.version.service].timeouts, &spec.timeouts))
            .collect(),
        request_headers: edits(&spec.request_headers),
        response_headers: edits(&spec.response_headers),
        shadows: spec.shadows.iter().enumerate().map(|(i, s)| shadow(i, s, spec, services, old, metrics)).collect(),
        metrics: metrics.route(&spec.name),
        dyed: desired.dyed.as_ref().map(|_| metrics.dyed_route(&spec.name)),
        arms,
    }
}

fn timeouts(service: &Timeouts, route: &RouteTimeouts) -> Timeouts {
    Timeouts {
        connect: route.connect.unwrap_or(service.connect),
        first_byte: route.first_byte.unwrap_or(service.first_byte),
        idle: route.idle.unwrap_or(service.idle),
        total: route.total.or(service.total),
    }
}

fn shadow(
    index: usize,
    spec: &Shadow,
    route: &Route,
    services: &[ServiceEntry],
    old: Option<&&RouteEntry>,
    metrics: &Metrics,
) -> Arc<ShadowEntry> {
    let service = &services[spec.to.service];
    let version = &service.versions[spec.to.version];
    let in_flight = old
        .and_then(|old| old.shadows.get(index))
        .filter(|known| known.label == version.label)
        .map(|known| Arc::clone(&known.in_flight))
        .unwrap_or_default();
    Arc::new(ShadowEntry {
        spec: spec.clone(),
        route: route.name.as_str().into(),
        label: Arc::clone(&version.label),
        mark: lines(&spec.mark),
        in_flight,
        metrics: metrics.shadow(&route.name, &service.spec.name, &service.spec.versions[spec.to.version].name),
    })
}

fn edits(edits: &HeaderEdits) -> ReadyEdits {
    ReadyEdits {
        remove: edits.remove.iter().map(|name| header_name(name)).collect(),
        set: lines(&edits.set),
        add: lines(&edits.add),
    }
}

fn lines(lines: &std::collections::BTreeMap<String, String>) -> Vec<(HeaderName, HeaderValue)> {
    lines
        .iter()
        .map(|(name, value)| {
            let value = HeaderValue::from_str(value).expect("check has proven header values legal");
            (header_name(name), value)
        })
        .collect()
}

fn header_name(name: &str) -> HeaderName {
    HeaderName::try_from(name).expect("check has proven header names legal")
}
