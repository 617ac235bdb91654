//! Services: versions, endpoints, health, deadlines.

use std::collections::HashMap;
use std::time::Duration;

use super::Checker;
use super::names::Names;
use crate::config::{At, Eject, Endpoint, Health, Many, MethodSet, Retry, Service, Switch, Timeouts, UpstreamTls};
use crate::desired::{self, Address, EndpointSpec, Methods, Probe, ProbeKind, Version};
use crate::diagnostic::Diagnostic;
use crate::literal::{Class, Name, RetryWhen, Time};
use crate::problems::Span;

/// The version that `endpoints:` directly on a service stands for.
pub(super) const DEFAULT_VERSION: &str = "default";

/// Idle connections for each endpoint and core, where nothing was written.
const KEEP_IDLE: usize = 32;

/// Time between probes, where nothing was written.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// The longest a probe may take, where nothing was written.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

impl Checker<'_, '_> {
    pub(super) fn services(&mut self, names: &Names<'_, Service>) -> Vec<desired::Service> {
        names
            .entries()
            .map(|(name, service)| match service {
                Some(service) => self.service(name, service),
                None => nothing(&name.value.0),
            })
            .collect()
    }

    fn service(&mut self, name: &At<Name>, service: &Service) -> desired::Service {
        let label = &name.value.0;
        desired::Service {
            balance: service.balance.as_ref().map(|balance| balance.value.0.clone()).unwrap_or_default(),
            probe: match &service.health {
                Some(Switch::On(health)) => self.probe(label, health),
                Some(Switch::Off) | None => None,
            },
            eject: match &service.eject {
                Some(Switch::Off) => None,
                Some(Switch::On(eject)) => Some(self.eject(label, eject)),
                None => Some(desired::Eject::default()),
            },
            retry: match &service.retry {
                Some(Switch::Off) => desired::Retry { on_connect: false, attempts: 0, ..Default::default() },
                Some(Switch::On(retry)) => self.retry(retry),
                None => desired::Retry::default(),
            },
            timeouts: self.timeouts(label, service.timeouts.as_ref()),
            protocol: service.protocol.as_ref().map(|protocol| protocol.value.0).unwrap_or_default(),
            tls: service.tls.as_ref().map(|tls| self.upstream_tls(label, tls)),
            keep_idle: service.keep_idle.as_ref().map_or(KEEP_IDLE, |number| number.value.0 as usize),
            capacity: service.capacity.as_ref().map(|capacity| capacity.value.0).unwrap_or_default(),
            versions: self.versions(name, service),
            name: label.clone(),
        }
    }

    fn versions(&mut self, name: &At<Name>, service: &Service) -> Vec<Version> {
        let label = &name.value.0;
        match (&service.versions, &service.endpoints) {
            (Some(versions), Some(endpoints)) => {
                let diagnostic = Diagnostic::error(
                    "two-kinds-of-endpoints",
                    format!("service \"{label}\" has both versions and endpoints"),
                )
                .help("put these endpoints into a version: endpoints alone is short for one version named default");
                self.problems.add_with(endpoints.span, "these", (versions.span, "and these"), diagnostic);
                Vec::new()
            }
            (Some(versions), None) => {
                if versions.entries.is_empty() && !service.damaged {
                    let diagnostic = Diagnostic::error("no-versions", format!("service \"{label}\" has no versions"))
                        .help("write v1: {endpoints: [\"127.0.0.1:9001\"]}");
                    self.problems.add(versions.span, "nothing is listed here", diagnostic);
                }
                let entries = versions.entries.iter();
                entries
                    .map(|(version, body)| Version {
                        name: version.value.0.clone(),
                        endpoints: body
                            .as_ref()
                            .map(|body| self.endpoints(label, &version.value.0, &body.endpoints))
                            .unwrap_or_default(),
                    })
                    .collect()
            }
            (None, Some(endpoints)) => {
                let endpoints = self.endpoints(label, DEFAULT_VERSION, endpoints);
                vec![Version { name: DEFAULT_VERSION.into(), endpoints }]
            }
            (None, None) => {
                if !service.damaged {
                    let diagnostic = Diagnostic::error("no-versions", format!("service \"{label}\" has no versions"))
                        .help("write endpoints: [\"127.0.0.1:9001\"], or versions: {v1: {endpoints: […]}}");
                    self.problems.add(name.span, "it has neither versions nor endpoints", diagnostic);
                }
                Vec::new()
            }
        }
    }

    fn endpoints(&mut self, service: &str, version: &str, written: &Many<Endpoint>) -> Vec<EndpointSpec> {
        let mut seen: HashMap<Address, Span> = HashMap::new();
        let mut ready = Vec::with_capacity(written.items.len());
        for (at, endpoint) in written.items.iter().enumerate() {
            let span = endpoint.address.span;
            let address = match &endpoint.address.value.0 {
                Address::Unix(path) => Address::Unix(self.resolve(path, span)),
                other => other.clone(),
            };
            self.places.push((format!("services.{service}.versions.{version}.endpoints.{at}"), span));
            if let Some(first) = seen.insert(address.clone(), span) {
                let diagnostic =
                    Diagnostic::error("duplicate-endpoint", format!("{service}/{version} lists {address} twice"))
                        .help("give an endpoint a larger share with {address: …, weight: 2}");
                self.problems.add_with(span, "again here", (first, "first here"), diagnostic);
                continue;
            }
            ready.push(EndpointSpec {
                address,
                weight: endpoint.weight.as_ref().map_or(1, |weight| weight.value.0 as u32),
            });
        }
        ready
    }

    fn probe(&mut self, service: &str, health: &Health) -> Option<Probe> {
        let every = health.every.as_ref().map_or(PROBE_EVERY, |time| time.value.0);
        let timeout = health.timeout.as_ref().map_or(PROBE_TIMEOUT.min(every), |time| time.value.0);
        if let Some(written) = health.timeout.as_ref().filter(|_| timeout > every) {
            let message = format!("a probe of service \"{service}\" may take longer than the time between two");
            let diagnostic = Diagnostic::error("probe-timeout", message).help("make timeout at most as long as every");
            match &health.every {
                Some(every) => self.problems.add_with(written.span, "longer than", (every.span, "this"), diagnostic),
                None => self.problems.add(written.span, "every is 5s by default", diagnostic),
            }
        }
        let tcp = health.tcp.as_ref().filter(|tcp| tcp.value.0);
        let kind = match (&health.path, tcp) {
            (Some(path), None) => {
                let text = &path.value.0;
                let legal = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
                if !legal {
                    let diagnostic =
                        Diagnostic::error("bad-path", format!("health.path of service \"{service}\" isn't a path"))
                            .help("write \"/healthz\"; a query is possible");
                    self.problems.add(path.span, "it begins with / and is ASCII without spaces", diagnostic);
                }
                let host = health.host.as_ref().map(|host| {
                    let odd = !host.value.0.bytes().all(|byte| byte.is_ascii_graphic()) || host.value.0.contains('/');
                    if odd || host.value.0.is_empty() {
                        let diagnostic =
                            Diagnostic::error("bad-host", format!("health.host of service \"{service}\" isn't a host"))
                                .help("write \"shop.example.com\", with a port where needed");
                        self.problems.add(host.span, "this can't be a Host header", diagnostic);
                    }
                    host.value.0.clone()
                });
                let expect = health.expect.as_ref().map(|many| many.items.iter().map(|range| range.value.0).collect());
                ProbeKind::Http { path: text.clone(), host, expect: expect.unwrap_or_else(|| vec![(200, 399)]) }
            }
            (None, Some(_)) => {
                let host = health.host.as_ref().map(|host| ("host", host.span));
                let expect = health.expect.as_ref().map(|expect| ("expect", expect.span));
                for (key, span) in [host, expect].into_iter().flatten() {
                    let diagnostic = Diagnostic::error("unused-key", format!("{key} has no meaning for a TCP probe"))
                        .help("remove it, or ask a path");
                    self.problems.add(span, "nothing is asked by HTTP", diagnostic);
                }
                ProbeKind::Tcp
            }
            (Some(_), Some(tcp)) => {
                let diagnostic = Diagnostic::error(
                    "two-kinds-of-probe",
                    format!("health of service \"{service}\" has both path and tcp"),
                )
                .help("keep path: it tells more");
                self.problems.add(tcp.span, "either of them", diagnostic);
                ProbeKind::Tcp
            }
            (None, None) => {
                if !health.damaged {
                    let diagnostic = Diagnostic::error(
                        "missing-key",
                        format!("health of service \"{service}\" doesn't say what to ask"),
                    )
                    .help("write path: /healthz, or tcp: true");
                    self.problems.add(health.span, "path or tcp is missing here", diagnostic);
                }
                return None;
            }
        };
        Some(Probe {
            kind,
            every,
            timeout,
            up_after: health.up_after.as_ref().map_or(2, |number| number.value.0 as u32),
            down_after: health.down_after.as_ref().map_or(3, |number| number.value.0 as u32),
        })
    }

    fn eject(&mut self, service: &str, eject: &Eject) -> desired::Eject {
        let default = desired::Eject::default();
        let rest = eject.r#for.as_ref().map_or(default.rest, |time| time.value.0);
        let max_rest = eject.max_for.as_ref().map_or(default.max_rest.max(rest), |time| time.value.0);
        if let Some(written) = eject.max_for.as_ref().filter(|_| max_rest < rest) {
            let message = format!("the longest rest in service \"{service}\" is shorter than the first");
            let diagnostic = Diagnostic::error("bad-rest", message).help("make max_for at least as long as for");
            self.problems.add(written.span, "too short", diagnostic);
        }
        desired::Eject {
            consecutive: eject.consecutive_5xx.as_ref().map_or(default.consecutive, |number| number.value.0 as u32),
            rate: eject.failure_rate.as_ref().map(|rate| rate.value.0),
            rest,
            max_rest,
            max_percent: eject.max.as_ref().map_or(default.max_percent, |percent| percent.value.0 as u8),
            panic_percent: eject.panic.as_ref().map_or(default.panic_percent, |percent| percent.value.0 as u8),
            slow_start: eject.slow_start.as_ref().map_or(default.slow_start, |time| time.value.0),
        }
    }

    fn retry(&mut self, retry: &Retry) -> desired::Retry {
        let default = desired::Retry::default();
        let mut ready = desired::Retry {
            attempts: retry.attempts.as_ref().map_or(default.attempts, |number| number.value.0 as u32),
            methods: retry.methods.as_ref().map_or(default.methods.clone(), |methods| self.methods(methods)),
            budget_percent: retry.budget.as_ref().map_or(default.budget_percent, |percent| percent.value.0 as u32),
            ..default
        };
        if let Some(when) = &retry.when {
            self.refuse_twins(when.items.iter().map(|when| (&when.value, when.span)), "reason");
            ready.on_connect = false;
            for when in &when.items {
                match when.value {
                    RetryWhen::Connect => ready.on_connect = true,
                    RetryWhen::Reset => ready.on_reset = true,
                    RetryWhen::Timeout => ready.on_timeout = true,
                    RetryWhen::Status(from, to) => ready.on_status.extend(from..=to),
                }
            }
            ready.on_status.sort_unstable();
            ready.on_status.dedup();
        }
        ready
    }

    pub(super) fn methods(&mut self, methods: &MethodSet) -> Methods {
        match methods {
            MethodSet::Class(class) => match class.value.0 {
                Class::Safe => Methods::Safe,
                Class::Idempotent => Methods::Idempotent,
                Class::Any => Methods::Any,
            },
            MethodSet::Only(list, _) => {
                self.refuse_twins(list.iter().map(|method| (&method.value, method.span)), "method");
                Methods::Only(list.iter().map(|method| method.value.0.clone()).collect())
            }
        }
    }

    fn timeouts(&mut self, service: &str, written: Option<&Timeouts>) -> desired::Timeouts {
        let default = desired::Timeouts::default();
        let Some(written) = written else { return default };
        let who = format!("service \"{service}\"");
        self.within_total(&who, &[("connect", &written.connect), ("first_byte", &written.first_byte)], &written.total);
        desired::Timeouts {
            connect: written.connect.as_ref().map_or(default.connect, |time| time.value.0),
            first_byte: written.first_byte.as_ref().map_or(default.first_byte, |time| time.value.0),
            idle: written.idle.as_ref().map_or(default.idle, |time| time.value.0),
            total: written.total.as_ref().map(|time| time.value.0),
        }
    }

    /// Reports a deadline that can never be reached, since the total one comes first.
    pub(super) fn within_total(&mut self, who: &str, parts: &[(&str, &Option<At<Time>>)], total: &Option<At<Time>>) {
        let Some(total) = total else { return };
        for (key, part) in parts {
            let Some(part) = part.as_ref().filter(|part| part.value > total.value) else { continue };
            let message = format!("timeouts of {who}: {key} is longer than total");
            let diagnostic =
                Diagnostic::error("timeouts", message).help("total holds for the whole exchange, retries included");
            self.problems.add_with(part.span, "longer than", (total.span, "this"), diagnostic);
        }
    }

    fn upstream_tls(&mut self, service: &str, tls: &UpstreamTls) -> desired::UpstreamTls {
        let insecure = tls.insecure.as_ref().filter(|flag| flag.value.0);
        if let Some(flag) = insecure {
            let message = format!("service \"{service}\" accepts any certificate");
            let diagnostic = Diagnostic::warning("insecure", message)
                .help("name its authority instead: ca: FILE")
                .note("whoever stands between can read and change everything");
            self.problems.add(flag.span, "nothing is verified", diagnostic);
        }
        let key = format!("services.{service}.tls");
        desired::UpstreamTls {
            ca: tls.ca.as_ref().map(|ca| {
                self.places.push((format!("{key}.ca"), ca.span));
                self.resolve(&ca.value.0, ca.span)
            }),
            sni: tls.sni.as_ref().map(|sni| sni.value.0.clone()),
            client: tls.client.as_ref().map(|client| self.certificate(client, &format!("{key}.client"))),
            insecure: insecure.is_some(),
        }
    }
}

/// Stands in for a service that was refused, so that indices stay what they are.
fn nothing(name: &str) -> desired::Service {
    desired::Service {
        name: name.into(),
        balance: desired::Balance::default(),
        probe: None,
        eject: None,
        retry: desired::Retry::default(),
        timeouts: desired::Timeouts::default(),
        protocol: desired::UpstreamProtocol::default(),
        tls: None,
        capacity: desired::Capacity::default(),
        keep_idle: KEEP_IDLE,
        versions: Vec::new(),
    }
}
