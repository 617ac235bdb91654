//! Active probes: asks every endpoint now and then how it is, before visitors have to find out.
//!
//! The loop is dull: look at the snapshot, start the probes that are due, take in
//! the results, wait. When to probe is decided in `schedule`; what a result means
//! for the endpoint in [`Health::probed`](super::Health::probed); how to ask is in `ask`.
//!
//! # Invariants
//!
//! - A death is noticed within `down_after × max(1.1 × every, timeout) + timeout`, as
//!   long as no more than [`AT_ONCE`] probes want to be under way.
//! - Opinions survive reloads. Where a service's probe is removed, its opinions are forgotten.
//! - Probes stop when the future is dropped.
//!
//! # Not here
//!
//! Ejection needs no loop, since a rest ends by time alone; but somebody has to say so,
//! and that is done here too.

mod ask;
mod schedule;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustls_pki_types::ServerName;
use tidegate_model::desired::{Probe, ProbeKind, UpstreamProtocol};
use tidegate_model::time::Timestamp;
use tokio::task::{Id, JoinError, JoinSet};
use tracing::{info, warn};

use self::ask::{Question, Tls, ask};
use self::schedule::{Schedule, Ticket};
use super::{Change, ProbeRules};
use crate::endpoint::{Endpoint, EndpointId, Target};
use crate::snapshot::{ServiceEntry, Snapshot};

/// Probes under way at once. Beyond it they wait, the longest overdue first, and deaths are noticed later.
pub const AT_ONCE: usize = 64;
/// How often the loop looks for a new snapshot and for rests that are over.
const LOOK: Duration = Duration::from_millis(250);

/// Probes the endpoints of whatever snapshot is in force. Runs until it is dropped.
///
/// `clock` tells the process's monotonic time, the same that requests are judged by.
pub async fn run(slot: Arc<ArcSwap<Snapshot>>, clock: impl Fn() -> Timestamp) {
    let mut prober = Prober::new(StdRng::from_os_rng());
    loop {
        let snapshot = slot.load_full();
        prober.look_at(&snapshot, clock());
        tell_returns(&snapshot, clock());
        drop(snapshot); // So that one that was replaced can go while we wait.

        prober.start_due(clock());
        let pause = prober.next_due().map_or(LOOK, |due| due.since(clock()).min(LOOK));
        tokio::select! {
            Some(result) = prober.under_way.join_next_with_id() => prober.take_in(result, clock()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Says which endpoints are back from their rest.
fn tell_returns(snapshot: &Snapshot, now: Timestamp) {
    let versions = snapshot.services.iter().flat_map(|service| &service.versions);
    for endpoint in versions.flat_map(|version| &version.endpoints) {
        if endpoint.health.returned(now) {
            endpoint.metrics.returned();
            info!(endpoint = %endpoint.id, "endpoint returned");
        }
    }
}

/// What is needed to probe one endpoint.
struct Job {
    endpoint: Arc<Endpoint>,
    rules: ProbeRules,
    question: Question,
}

/// The loop's memory.
struct Prober {
    /// The snapshot that the schedule was made from. Its generation wouldn't do: addresses behind names change
    /// within one.
    seen: Weak<Snapshot>,
    schedule: Schedule<Arc<Job>>,
    under_way: JoinSet<Result<String, String>>,
    tickets: HashMap<Id, (EndpointId, Ticket)>,
    rng: StdRng,
}

impl Prober {
    fn new(rng: StdRng) -> Self {
        Self { seen: Weak::new(), schedule: Schedule::new(), under_way: JoinSet::new(), tickets: HashMap::new(), rng }
    }

    /// Takes over the endpoints of `snapshot`, unless it did so before.
    fn look_at(&mut self, snapshot: &Arc<Snapshot>, now: Timestamp) {
        let offered = Arc::downgrade(snapshot);
        if self.seen.ptr_eq(&offered) {
            return;
        }
        self.seen = offered;
        for gone in self.schedule.sync(snapshot.services.iter().flat_map(jobs), now, &mut self.rng) {
            gone.endpoint.health.forget_probe(now);
            gone.endpoint.metrics.unprobed();
        }
    }

    fn start_due(&mut self, now: Timestamp) {
        let free = AT_ONCE.saturating_sub(self.under_way.len());
        for (id, ticket, job) in self.schedule.due(now, free) {
            let task = self.under_way.spawn(async move { ask(&job.question).await });
            self.tickets.insert(task.id(), (id, ticket));
        }
    }

    fn next_due(&self) -> Option<Timestamp> {
        // With every place taken, only a result lets us go on.
        if self.under_way.len() < AT_ONCE { self.schedule.next_due() } else { None }
    }

    fn take_in(&mut self, result: Result<(Id, Result<String, String>), JoinError>, now: Timestamp) {
        let (task, outcome) = match result {
            Ok(done) => done,
            Err(broken) => (broken.id(), Err("the probe itself broke".to_owned())),
        };
        let Some((id, ticket)) = self.tickets.remove(&task) else { return };
        let Some(job) = self.schedule.finished(&id, ticket, now, &mut self.rng) else { return };

        let endpoint = &job.endpoint;
        let (good, said) = (outcome.is_ok(), outcome.clone().unwrap_or_else(|wrong| wrong));
        let change = endpoint.health.probed(&job.rules, outcome, now);
        endpoint.metrics.probed(good, !endpoint.health.is_down());
        match change {
            Some(Change::Up) => info!(endpoint = %id, "endpoint up"),
            Some(Change::Down) => warn!(endpoint = %id, reason = said, "endpoint down"),
            None => {}
        }
    }
}

/// One job for each endpoint of `service`, if it has a probe.
fn jobs(service: &ServiceEntry) -> impl Iterator<Item = (EndpointId, Probe, Arc<Job>)> {
    let config = service.tls.as_ref().map(|tls| offering(&tls.client_config, service.spec.protocol));
    let endpoints = service.versions.iter().flat_map(|version| &version.endpoints);
    service.spec.probe.iter().flat_map(move |probe| {
        let config = config.clone();
        endpoints.clone().map(move |endpoint| {
            let tls = config.clone().map(|config| Tls {
                config,
                name: server_name(service.tls.as_ref().and_then(|tls| tls.sni.as_deref()), probe, &endpoint.target),
            });
            let job = Job {
                endpoint: Arc::clone(endpoint),
                rules: ProbeRules {
                    up_after: probe.up_after,
                    down_after: probe.down_after,
                    slow_start: service.spec.eject.as_ref().map_or(Duration::ZERO, |eject| eject.slow_start),
                },
                question: Question {
                    target: endpoint.target.clone(),
                    kind: probe.kind.clone(),
                    protocol: service.spec.protocol,
                    tls,
                    timeout: probe.timeout,
                },
            };
            (endpoint.id.clone(), probe.clone(), Arc::new(job))
        })
    })
}

/// The service's TLS settings, offering what the service speaks.
fn offering(config: &rustls::ClientConfig, protocol: UpstreamProtocol) -> Arc<rustls::ClientConfig> {
    let protocols: &[&[u8]] = match protocol {
        UpstreamProtocol::Http1 => &[b"http/1.1"],
        UpstreamProtocol::Http2 => &[b"h2"],
        UpstreamProtocol::Auto => &[b"h2", b"http/1.1"],
    };
    let mut config = config.clone();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// The name that is sent and verified: the service's, else the probe's host, else the address.
fn server_name(sni: Option<&str>, probe: &Probe, target: &Target) -> ServerName<'static> {
    let host = match &probe.kind {
        ProbeKind::Http { host, .. } => host.as_deref().and_then(|host| host.parse::<http::uri::Authority>().ok()),
        ProbeKind::Tcp => None,
    };
    let written = sni.or(host.as_ref().map(|authority| authority.host()));
    let named = written.and_then(|name| ServerName::try_from(name.to_owned()).ok());
    named.unwrap_or_else(|| match target {
        Target::Tcp(addr) => ServerName::IpAddress(addr.ip().into()),
        Target::Unix(_) => ServerName::try_from("localhost").expect("localhost is a DNS name"),
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::sync::atomic::AtomicU16;
    use std::sync::atomic::Ordering::Relaxed;

    use bytes::Bytes;
    use http::Response;
    use http_body_util::Empty;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tidegate_model::desired::{
        Address, Balance, Desired, Eject, EndpointSpec, Generation, Retry, Service, Timeouts, Version,
    };
    use tokio::net::TcpListener;

    use super::*;
    use crate::compile::{Material, compile};
    use crate::health::Fitness;
    use crate::record::Metrics;

    fn quick() -> Probe {
        Probe {
            kind: ProbeKind::Http { path: "/healthz".into(), host: None, expect: vec![(200, 399)] },
            every: Duration::from_millis(10),
            timeout: Duration::from_secs(5),
            up_after: 2,
            down_after: 3,
        }
    }

    fn desired(generation: u64, addr: SocketAddr, probe: Option<Probe>) -> Arc<Desired> {
        let endpoint = EndpointSpec { address: Address::Tcp(addr), weight: 1 };
        let service = Service {
            name: "shop".into(),
            balance: Balance::P2c,
            probe,
            eject: Some(Eject { slow_start: Duration::from_secs(3_600), ..Eject::default() }),
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            protocol: UpstreamProtocol::Http1,
            tls: None,
            capacity: Default::default(),
            keep_idle: 1,
            versions: vec![Version { name: "v1".into(), endpoints: vec![endpoint] }],
        };
        Arc::new(Desired { generation: Generation(generation), services: vec![service], ..Desired::default() })
    }

    /// Answers every request with the status that is set.
    async fn answering(status: Arc<AtomicU16>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let status = Arc::clone(&status);
                let answer = service_fn(move |_| {
                    let answer = Response::builder().status(status.load(Relaxed)).body(Empty::<Bytes>::new());
                    async { Ok::<_, Infallible>(answer.unwrap()) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        addr
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let patience = Duration::from_secs(20);
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(patience, waiting).await.is_ok(), "not within {patience:?}: {what}");
    }

    #[tokio::test]
    async fn an_endpoint_goes_down_comes_up_slowly_and_is_let_be_once_its_probe_is_removed() {
        let status = Arc::new(AtomicU16::new(200));
        let addr = answering(Arc::clone(&status)).await;
        let (metrics, material) = (Metrics::new(), Material::default());
        let first = compile(desired(1, addr, Some(quick())), None, &material, &metrics);
        let endpoint = Arc::clone(&first.services[0].versions[0].endpoints[0]);
        let slot = Arc::new(ArcSwap::from_pointee(first));
        let clock = crate::clock::now;
        let said = |what: &str| endpoint.health.describe(clock()).probe.as_deref() == Some(what);
        let _prober = JoinSet::from_iter([run(Arc::clone(&slot), clock)]);

        until("it is probed", || said("answered 200")).await;
        assert_eq!(endpoint.health.fitness(clock()), Fitness::Fit(1_000));
        status.store(503, Relaxed);
        until("it goes down", || endpoint.health.fitness(clock()) == Fitness::Down).await;
        assert!(said("answered 503"));
        status.store(204, Relaxed);
        until("it comes up slowly", || endpoint.health.fitness(clock()) == Fitness::Fit(100)).await;
        status.store(500, Relaxed);
        until("it goes down again", || endpoint.health.fitness(clock()) == Fitness::Down).await;

        let next = compile(desired(2, addr, None), Some(&slot.load()), &material, &metrics);
        slot.store(Arc::new(next));

        until("its opinion is forgotten", || endpoint.health.fitness(clock()) == Fitness::Fit(1_000)).await;
        assert_eq!(endpoint.health.describe(clock()).probe, None);
    }

    #[tokio::test]
    async fn addresses_that_change_within_a_generation_are_probed_too() {
        let status = Arc::new(AtomicU16::new(200));
        let addr = answering(Arc::clone(&status)).await;
        let (metrics, material) = (Metrics::new(), Material::default());
        let mut nothing = Desired::clone(&desired(1, addr, Some(quick())));
        nothing.services[0].versions[0].endpoints.clear();
        let slot = Arc::new(ArcSwap::from_pointee(compile(Arc::new(nothing), None, &material, &metrics)));
        let mut prober = Prober::new(StdRng::seed_from_u64(7));
        prober.look_at(&slot.load_full(), Timestamp::ZERO);
        assert_eq!(prober.next_due(), None);

        slot.store(Arc::new(compile(desired(1, addr, Some(quick())), Some(&slot.load()), &material, &metrics)));
        prober.look_at(&slot.load_full(), Timestamp::ZERO);

        assert!(prober.next_due().is_some());
    }

    #[test]
    fn the_name_that_is_verified_is_the_services_then_the_probes_host_then_the_address() {
        let target = Target::Tcp("127.0.0.1:8443".parse().unwrap());
        let hosted = Probe {
            kind: ProbeKind::Http { path: "/".into(), host: Some("shop.internal:8443".into()), expect: vec![] },
            ..quick()
        };

        let names = [(Some("sni.internal"), &hosted), (None, &hosted), (None, &quick())]
            .map(|(sni, probe)| server_name(sni, probe, &target).to_str().into_owned());

        assert_eq!(names, ["sni.internal", "shop.internal", "127.0.0.1"]);
    }
}
