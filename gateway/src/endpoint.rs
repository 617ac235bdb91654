//! An endpoint's living state: what must outlive any snapshot.
//!
//! One `Endpoint` exists for each (service, version, address) as long as some
//! snapshot names it; `compile` hands it on by id. Balance reads it, carry and
//! health write it, each through a few relaxed atomics: a request that sees a
//! value a microsecond old chooses no worse.
//!
//! # Not here
//!
//! Opinions are formed in `health`; this is only where they are kept.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tidegate_model::time::Timestamp;

use crate::health::Health;
use crate::record::EndpointMetrics;

/// Names an endpoint for as long as it is configured: `shop/v1@127.0.0.1:9001`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(Arc<str>);

impl EndpointId {
    /// The id of `address` within `version` of `service`.
    pub fn new(service: &str, version: &str, address: &str) -> Self {
        Self(format!("{service}/{version}@{address}").into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One place where a version runs, with everything we have learnt about it.
pub struct Endpoint {
    /// Its name.
    pub id: EndpointId,
    /// Where to connect.
    pub target: Target,
    /// Handles to its metrics.
    pub metrics: EndpointMetrics,
    /// What probes and traffic say about it.
    pub health: Health,
    hot: Hot,
}

/// What every request writes, on cache lines of its own (two, because processors fetch them in pairs): the
/// fields around it are read by every core all the time.
#[derive(Default)]
#[repr(align(128))]
struct Hot {
    in_flight: AtomicU32,
    latency_nanos: AtomicU64,
    last_used: AtomicU64,
}

impl Endpoint {
    /// A new endpoint that nothing is known about: assumed fit.
    pub fn new(id: EndpointId, target: Target, metrics: EndpointMetrics) -> Self {
        Self { id, target, metrics, health: Health::default(), hot: Hot::default() }
    }

    /// Requests being served right now by this gateway.
    pub fn in_flight(&self) -> u32 {
        self.hot.in_flight.load(Relaxed)
    }

    /// Counts one request in until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.hot.in_flight.fetch_add(1, Relaxed);
        self.metrics.in_flight.inc();
        InFlight(Arc::clone(self))
    }

    /// Exponentially weighted time to first byte in nanoseconds; 0 when unknown.
    pub fn latency_nanos(&self) -> u64 {
        self.hot.latency_nanos.load(Relaxed)
    }

    /// Takes one time to first byte into the moving average (weight 1/8, as TCP's SRTT, RFC 6298).
    pub fn observe_latency(&self, nanos: u64, now: Timestamp) {
        let old = self.hot.latency_nanos.load(Relaxed);
        let new = if old == 0 { nanos } else { old - old / 8 + nanos / 8 };
        self.hot.latency_nanos.store(new.max(1), Relaxed);
        self.hot.last_used.store(now.as_nanos(), Relaxed);
    }

    /// When the latency was last observed.
    pub fn last_used(&self) -> Timestamp {
        Timestamp::from_nanos(self.hot.last_used.load(Relaxed))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.id)
    }
}

/// Holds a request's place in an endpoint's in-flight count.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    /// The endpoint that is being used.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.hot.in_flight.fetch_sub(1, Relaxed);
        self.0.metrics.in_flight.dec();
    }
}
