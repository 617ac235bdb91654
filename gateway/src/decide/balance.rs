//! Chooses an endpoint within a version.
//!
//! | policy | chooses |
//! |---|---|
//! | p2c | between two at random, in proportion to weight / ((in-flight + 1) × latency) |
//! | round_robin | in turn; by weight, spread evenly over each round |
//! | least_conn | the fewest in flight for its weight; ties in proportion to weight |
//! | hash | by weighted rendezvous on the key: losing an endpoint moves only its own keys |
//!
//! P2c draws between its two rather than taking the better one outright: under light load the better
//! one would be the same each time, and neither weights nor slow start would mean anything.
//!
//! # Invariants
//!
//! - A resting or down endpoint is chosen only in panic: when fewer than `panic_percent` of the version's
//!   endpoints are fit, all of them count with their full weight, whoever says what.
//! - A choice costs at most a walk over the version's endpoints (p2c: two looks, unless one is unfit).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rand::Rng;
use smallvec::SmallVec;
use tidegate_model::desired::Balance;
use tidegate_model::split::{ArmSeed, SEED};
use tidegate_model::time::Timestamp;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Head;
use super::key::{Network, ReadyKey};
use crate::endpoint::Endpoint;
use crate::health::Fitness;

/// After so long unused, half of what we knew of an endpoint's latency is forgotten, and so on:
/// one that was slow once is tried again.
const LATENCY_HALF_LIFE: Duration = Duration::from_secs(10);

/// What balancing one version needs to remember.
pub struct Balancer {
    policy: Policy,
    panic_percent: u8,
    members: Vec<Member>,
}

struct Member {
    endpoint: Arc<Endpoint>,
    weight: u32,
    seed: ArmSeed,
}

enum Policy {
    P2c,
    /// Shared with the balancer of the generation before, so that a reload doesn't restart the rotation.
    RoundRobin(Arc<AtomicU64>),
    LeastConn,
    Hash(ReadyKey),
}

/// Why there is no endpoint to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// The version has none.
    Empty,
    /// None is fit, and panic is off.
    AllUnfit,
}

/// Endpoints that may be chosen, with their effective weights in thousandths.
type Able = SmallVec<[(u32, u64); 32]>;

impl Balancer {
    /// For `endpoints`, in that order; takes over the rotation of `previous`. `panic_percent` is 0 without ejection.
    pub fn new(
        policy: &Balance,
        panic_percent: u8,
        endpoints: &[Arc<Endpoint>],
        weights: &[u32],
        previous: Option<&Self>,
    ) -> Self {
        let policy = match policy {
            Balance::P2c => Policy::P2c,
            Balance::RoundRobin => Policy::RoundRobin(match previous.map(|previous| &previous.policy) {
                Some(Policy::RoundRobin(turn)) => Arc::clone(turn),
                _ => Arc::default(),
            }),
            Balance::LeastConn => Policy::LeastConn,
            Balance::Hash(key) => Policy::Hash(ReadyKey::new(key)),
        };
        let member = |(endpoint, &weight): (&Arc<Endpoint>, &u32)| Member {
            endpoint: Arc::clone(endpoint),
            weight: weight.max(1),
            seed: ArmSeed::new("", endpoint.id.as_str()),
        };
        Self { policy, panic_percent, members: endpoints.iter().zip(weights).map(member).collect() }
    }

    /// The hash that [`Self::choose`] goes by: of the balance key, or by chance where there is none.
    pub fn hash(&self, head: &Head<'_>, client: Network, dice: &mut impl Rng) -> u64 {
        match &self.policy {
            Policy::Hash(key) => match key.read(head, client) {
                Some(value) => xxh3_64_with_seed(value.as_bytes(), SEED),
                None => dice.random(),
            },
            _ => 0,
        }
    }

    /// The endpoint for a new request.
    pub fn choose(&self, hash: u64, now: Timestamp, dice: &mut impl Rng) -> Result<&Arc<Endpoint>, Nobody> {
        if let (Policy::P2c, 3..) = (&self.policy, self.members.len())
            && let Some(member) = self.two_looks(now, dice)
        {
            return Ok(&member.endpoint);
        }
        let able = self.able(now)?;
        Ok(&self.among(&able, hash, now, dice).endpoint)
    }

    /// The endpoint for a request that failed on `tried`: a fit one that hasn't failed it, else any that
    /// hasn't, else the only one there is.
    pub fn another(
        &self,
        tried: &[Arc<Endpoint>],
        hash: u64,
        now: Timestamp,
        dice: &mut impl Rng,
    ) -> Option<&Arc<Endpoint>> {
        if let [only] = &self.members[..] {
            return Some(&only.endpoint);
        }
        let untried =
            |&(index, _): &(u32, u64)| !tried.iter().any(|t| Arc::ptr_eq(t, &self.members[index as usize].endpoint));
        let fit: Able = self.fit(now).into_iter().filter(untried).collect();
        let able = if fit.is_empty() { self.everybody().into_iter().filter(untried).collect() } else { fit };
        (!able.is_empty()).then(|| &self.among(&able, hash, now, dice).endpoint)
    }

    /// Two distinct endpoints at random, if both are fit: then panic or not makes no difference.
    fn two_looks(&self, now: Timestamp, dice: &mut impl Rng) -> Option<&Member> {
        let a = dice.random_range(0..self.members.len());
        let b = (a + dice.random_range(1..self.members.len())) % self.members.len();
        let weigh = |index: usize| match self.members[index].endpoint.health.fitness(now) {
            Fitness::Fit(share) => Some((index as u32, u64::from(self.members[index].weight) * u64::from(share))),
            Fitness::Resting | Fitness::Down => None,
        };
        Some(self.better(weigh(a)?, weigh(b)?, now, dice))
    }

    fn able(&self, now: Timestamp) -> Result<Able, Nobody> {
        if self.members.is_empty() {
            return Err(Nobody::Empty);
        }
        let fit = self.fit(now);
        if fit.len() * 100 < self.members.len() * usize::from(self.panic_percent) {
            return Ok(self.everybody());
        }
        if fit.is_empty() { Err(Nobody::AllUnfit) } else { Ok(fit) }
    }

    fn fit(&self, now: Timestamp) -> Able {
        let weigh = |(index, member): (usize, &Member)| match member.endpoint.health.fitness(now) {
            Fitness::Fit(share) => Some((index as u32, u64::from(member.weight) * u64::from(share.max(1)))),
            Fitness::Resting | Fitness::Down => None,
        };
        self.members.iter().enumerate().filter_map(weigh).collect()
    }

    fn everybody(&self) -> Able {
        self.members.iter().enumerate().map(|(index, m)| (index as u32, u64::from(m.weight) * 1_000)).collect()
    }

    /// Chooses by policy among `able`, which isn't empty.
    fn among(&self, able: &[(u32, u64)], hash: u64, now: Timestamp, dice: &mut impl Rng) -> &Member {
        if let [(only, _)] = able {
            return &self.members[*only as usize];
        }
        match &self.policy {
            Policy::P2c => {
                let a = dice.random_range(0..able.len());
                let b = (a + dice.random_range(1..able.len())) % able.len();
                self.better(able[a], able[b], now, dice)
            }
            Policy::RoundRobin(turn) => self.in_turn(able, turn.fetch_add(1, Relaxed)),
            Policy::LeastConn => self.least_loaded(able, dice),
            Policy::Hash(_) => {
                let key = hash.to_le_bytes();
                // Weights are thousandths; u32 holds 1,000 × 1,000.
                let score =
                    |&(index, weight): &(u32, u64)| self.members[index as usize].seed.score(&key, weight as u32);
                let nearest = able.iter().min_by(|a, b| score(a).total_cmp(&score(b)));
                &self.members[nearest.expect("able is not empty").0 as usize]
            }
        }
    }

    fn better(&self, a: (u32, u64), b: (u32, u64), now: Timestamp, dice: &mut impl Rng) -> &Member {
        let [(first, first_latency), (second, second_latency)] = [a, b].map(|(index, _)| {
            let member = &self.members[index as usize];
            (member, latency(&member.endpoint, now))
        });
        // An unknown latency is taken for the other one's: optimistic enough to be tried at once, not to be flooded.
        let (first_latency, second_latency) = match (first_latency, second_latency) {
            (Some(x), Some(y)) => (x, y),
            _ => (1.0, 1.0),
        };
        let pull = |member: &Member, weight: u64, latency: f64| {
            weight as f64 / ((f64::from(member.endpoint.in_flight()) + 1.0) * latency)
        };
        let (p, q) = (pull(first, a.1, first_latency), pull(second, b.1, second_latency));
        if dice.random::<f64>() * (p + q) < p { first } else { second }
    }

    /// Each round of `total` turns reaches every position once, so a round is exact; the stride
    /// is near the golden section of it, so heavy endpoints don't come in runs. Equal weights go strictly in turn.
    fn in_turn(&self, able: &[(u32, u64)], turn: u64) -> &Member {
        let unit = able.iter().fold(0, |unit, &(_, weight)| gcd(unit, weight)).max(1);
        let total: u64 = able.iter().map(|&(_, weight)| weight / unit).sum();
        let stride = if total == able.len() as u64 { 1 } else { coprime_stride(total) };
        let mut at = (u128::from(turn) * u128::from(stride) % u128::from(total)) as u64;
        for &(index, weight) in able {
            match at.checked_sub(weight / unit) {
                Some(rest) => at = rest,
                None => return &self.members[index as usize],
            }
        }
        unreachable!("the position is below the sum of the weights")
    }

    fn least_loaded(&self, able: &[(u32, u64)], dice: &mut impl Rng) -> &Member {
        let mut best = (able[0], self.members[able[0].0 as usize].endpoint.in_flight());
        let mut tied = able[0].1;
        for &(index, weight) in &able[1..] {
            let in_flight = self.members[index as usize].endpoint.in_flight();
            match (u64::from(in_flight) * best.0.1).cmp(&(u64::from(best.1) * weight)) {
                std::cmp::Ordering::Less => (best, tied) = (((index, weight), in_flight), weight),
                std::cmp::Ordering::Equal => {
                    tied += weight;
                    if dice.random_range(0..tied) < weight {
                        best = ((index, weight), in_flight);
                    }
                }
                std::cmp::Ordering::Greater => {}
            }
        }
        &self.members[best.0.0 as usize]
    }
}

/// The moving average in nanoseconds, halved for each half-life since it was last observed; `None` when unknown.
fn latency(endpoint: &Endpoint, now: Timestamp) -> Option<f64> {
    let nanos = endpoint.latency_nanos();
    let idle = now.since(endpoint.last_used()).as_secs_f64() / LATENCY_HALF_LIFE.as_secs_f64();
    (nanos > 0).then(|| (nanos as f64 * (-idle).exp2()).max(1.0))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn coprime_stride(total: u64) -> u64 {
    let golden = ((total as f64) * 0.618_033_988_749_895) as u64;
    (golden.max(1)..=total).find(|&stride| gcd(stride, total) == 1).unwrap_or(1)
}
