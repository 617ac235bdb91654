//! Makes of a plan what the threads need: names are resolved, certificates read, requests turned into bytes. All of it
//! before the first arrival is due.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{Arrival, Check, Client, Feeder, From, Load, Origin, Protocol, Step, Think};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::connect::Place;
use super::h1::Keeps;
use super::http2::translate;
use super::tls;
use super::wire::Wire;
use super::{Deal, StartError};
use crate::examine::Examiner;

/// What threads share, and only read.
#[derive(Debug)]
pub struct Prepared {
    /// Where steps are sent to; each origin once.
    pub places: Vec<Place>,
    /// All steps of all flows.
    pub steps: Vec<Request>,
    /// The steps of each flow, and the sum of the weights up to and with it.
    pub flows: Vec<(Range<usize>, f64)>,
    /// How requests are carried.
    pub client: Client,
    /// What all dice start from.
    pub seed: u64,
    /// The arrivals of a recording; empty without one.
    pub recorded: Vec<Arrival>,
    /// Rows that templates take values from.
    pub feeders: Arc<[Feeder]>,
}

/// A step, ready to be sent.
#[derive(Debug)]
pub struct Request {
    /// The index of its place.
    pub place: usize,
    /// Its bytes.
    pub wire: Wire,
    /// The same for HTTP/2, where nothing in it is filled.
    pub http2: Option<(http::Request<()>, Bytes)>,
    /// In nanoseconds.
    pub timeout: u64,
    /// Whether its answer has no body, whatever it says (HEAD).
    pub bodiless: bool,
    /// Whether it may be sent twice (RFC 9110, section 9.2.2).
    pub idempotent: bool,
    /// Bytes that its answer's body may have.
    pub at_most: u64,
    /// What is kept of answers.
    pub keeps: Keeps,
    /// Looks at answers.
    pub examiner: Examiner,
    /// How long the visitor thinks afterwards.
    pub think: Option<Think>,
}

impl Prepared {
    /// Prepares a plan.
    ///
    /// # Errors
    ///
    /// When no name can be resolved, or a certificate can't be read.
    pub fn new(plan: &Plan) -> Result<Self, StartError> {
        let mut origins: Vec<&Origin> = plan.steps().map(|step| &step.origin).collect();
        origins.sort();
        origins.dedup();
        let tls = tls::config(&plan.client, origins.iter().any(|origin| origin.tls))?;
        let places =
            origins.iter().map(|origin| place(origin, &plan.client, tls.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if let Some(place) = places.first()
            && places.iter().all(|place| place.addresses.is_empty())
        {
            return Err(StartError::Unresolved { host: origins[0].host.clone(), why: place.unresolved.clone() });
        }
        let mut flows = Vec::new();
        let (mut first, mut weight) = (0, 0.0);
        for flow in &plan.flows {
            weight += flow.weight;
            flows.push((first..first + flow.steps.len(), weight));
            first += flow.steps.len();
        }
        let mut steps = Vec::new();
        if plan.steps().any(|step| !step.messages.is_empty()) {
            return Err(StartError::WebSocket);
        }
        for flow in &plan.flows {
            let examiners = Examiner::of(flow).map_err(|err| StartError::Check(err.to_string()))?;
            for (step, examiner) in flow.steps.iter().zip(examiners) {
                let place = origins.binary_search(&&step.origin).unwrap_or(0);
                steps.push(request(step, &plan.client, place, examiner));
            }
        }
        Ok(Self {
            places,
            steps,
            flows,
            client: plan.client.clone(),
            seed: plan.seed,
            recorded: match &plan.load {
                Load::Recorded { arrivals, .. } => arrivals.clone(),
                Load::Open { .. } | Load::Closed { .. } => Vec::new(),
            },
            feeders: plan.feeders.as_slice().into(),
        })
    }

    /// The flow of an arrival, and the row that it was recorded with. The same for every thread, worker and run of the
    /// same seed.
    pub fn flow(&self, ordinal: u64) -> (usize, u32) {
        let recorded = usize::try_from(ordinal).ok().and_then(|index| self.recorded.get(index));
        let (index, row) = match recorded {
            Some(arrival) => (arrival.flow as usize, arrival.row),
            None if self.flows.len() == 1 => (0, 0),
            None => {
                let dice = xxh3_64_with_seed(&ordinal.to_le_bytes(), self.seed) as f64 / 2_f64.powi(64);
                let all = self.flows.last().map_or(0.0, |flow| flow.1);
                (self.flows.partition_point(|flow| flow.1 <= dice * all), 0)
            }
        };
        (index.min(self.flows.len() - 1), row)
    }

    /// The steps of a flow.
    pub fn steps_of(&self, flow: usize) -> Range<usize> {
        self.flows[flow].0.clone()
    }

    /// The address that the next connection comes from.
    pub fn source(&self, connection: u64, deal: Deal) -> Option<IpAddr> {
        let sources = &self.client.sources;
        // Threads begin at different places, so that few connections use them all.
        let at = connection.wrapping_add(deal.index);
        (!sources.is_empty()).then(|| sources[usize::try_from(at % sources.len() as u64).unwrap_or(0)])
    }
}

fn place(origin: &Origin, client: &Client, tls: Option<&Arc<rustls::ClientConfig>>) -> Result<Place, StartError> {
    let known = client.resolve.get(&origin.host).copied().or_else(|| origin.host.parse().ok());
    let found = match known {
        Some(address) => Ok(vec![SocketAddr::new(address, origin.port)]),
        None => (origin.host.as_str(), origin.port).to_socket_addrs().map(Iterator::collect),
    };
    let (mut addresses, unresolved): (Vec<SocketAddr>, _) = match found {
        Ok(addresses) => (addresses, "the name has no address".to_owned()),
        Err(err) => (Vec::new(), err.to_string()),
    };
    // Connections from an IPv4 address go to IPv4 addresses only, and so for IPv6.
    if let Some(source) = client.sources.first() {
        addresses.retain(|address| address.is_ipv4() == source.is_ipv4());
    }
    let tls = match tls.filter(|_| origin.tls) {
        Some(config) => Some((Arc::clone(config), tls::name(&origin.host)?)),
        None => None,
    };
    Ok(Place { addresses, liked: AtomicUsize::new(0), unresolved, tls })
}

fn request(step: &Step, client: &Client, place: usize, examiner: Examiner) -> Request {
    let in_head = step.checks.iter().any(|check| matches!(check, Check::Header(..)))
        || step.takes.iter().any(|take| matches!(take.from, From::Header(_) | From::Cookie(_)));
    let wire = Wire::new(step, client);
    let http2 = match &wire {
        Wire::Fixed(bytes) if client.protocol == Protocol::Http2 => translate(bytes, step.origin.tls),
        Wire::Fixed(_) | Wire::Filled(_) => None,
    };
    Request {
        place,
        wire,
        http2,
        timeout: u64::try_from(step.timeout.as_nanos()).unwrap_or(u64::MAX),
        bodiless: step.method == "HEAD",
        idempotent: ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"].contains(&step.method.as_str()),
        at_most: examiner.at_most().unwrap_or(u64::MAX),
        keeps: Keeps { head: in_head, body: examiner.wants_body() },
        examiner,
        think: step.think,
    }
}
