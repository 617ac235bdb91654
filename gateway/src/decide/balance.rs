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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use tidegate_model::desired::Key;

    use super::*;
    use crate::endpoint::{EndpointId, Target};
    use crate::health::ProbeRules;
    use crate::record::Metrics;

    const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

    fn endpoints(count: u16) -> Vec<Arc<Endpoint>> {
        let metrics = Metrics::new();
        let endpoint = |n: u16| {
            let address = format!("127.0.0.1:{}", 9_000 + n);
            let target = Target::Tcp(address.parse().unwrap());
            Arc::new(Endpoint::new(
                EndpointId::new("shop", "v1", &address),
                target,
                metrics.endpoint("shop", "v1", &address),
            ))
        };
        (0..count).map(endpoint).collect()
    }

    fn down(endpoint: &Endpoint) {
        let rules = ProbeRules { up_after: 1, down_after: 1, slow_start: Duration::ZERO };
        endpoint.health.probed(&rules, Err("refused".into()), NOW);
    }

    fn balancer(policy: Balance, panic: u8, endpoints: &[Arc<Endpoint>], weights: &[u32]) -> Balancer {
        Balancer::new(&policy, panic, endpoints, weights, None)
    }

    /// How often each endpoint is chosen in `turns`, with a new hash each time.
    fn counts(balancer: &Balancer, endpoints: &[Arc<Endpoint>], turns: u32) -> Vec<u32> {
        let mut dice = StdRng::seed_from_u64(7);
        let mut counts = vec![0; endpoints.len()];
        for _ in 0..turns {
            let hash = dice.random();
            let chosen = balancer.choose(hash, NOW, &mut dice).unwrap();
            counts[endpoints.iter().position(|e| Arc::ptr_eq(e, chosen)).unwrap()] += 1;
        }
        counts
    }

    fn policies() -> [Balance; 4] {
        [Balance::P2c, Balance::RoundRobin, Balance::LeastConn, Balance::Hash(Key::Path)]
    }

    #[test]
    fn every_policy_shares_evenly_among_equals_and_leaves_the_unfit_out() {
        let all = endpoints(4);
        down(&all[2]);
        for policy in policies() {
            let counts = counts(&balancer(policy.clone(), 0, &all, &[1; 4]), &all, 3_000);

            assert_eq!(counts[2], 0, "{policy:?}");
            assert!([0, 1, 3].iter().all(|&n| (900..1_100).contains(&counts[n])), "{policy:?}: {counts:?}");
        }
    }

    #[test]
    fn every_policy_heeds_weights_when_nothing_is_in_flight() {
        let all = endpoints(2);
        for policy in policies() {
            let counts = counts(&balancer(policy.clone(), 0, &all, &[3, 1]), &all, 4_000);

            assert!((2_880..3_120).contains(&counts[0]), "{policy:?}: {counts:?}");
        }
    }

    #[test]
    fn below_the_panic_threshold_all_count_and_at_it_only_the_fit() {
        let all = endpoints(4);
        down(&all[0]);
        down(&all[1]);
        for policy in policies() {
            let calm = counts(&balancer(policy.clone(), 50, &all, &[1; 4]), &all, 1_000);
            let panic = counts(&balancer(policy.clone(), 51, &all, &[1; 4]), &all, 1_000);

            assert_eq!(calm[..2], [0, 0], "{policy:?}");
            assert!(panic.iter().all(|&count| count > 150), "{policy:?}: {panic:?}");
        }
    }

    #[test]
    fn nobody_fit_without_panic_and_nobody_at_all_are_told_apart() {
        let all = endpoints(2);
        all.iter().for_each(|endpoint| down(endpoint));
        let mut dice = StdRng::seed_from_u64(7);

        let unfit = balancer(Balance::P2c, 0, &all, &[1; 2]);
        let empty = balancer(Balance::P2c, 40, &[], &[]);

        assert_eq!(unfit.choose(0, NOW, &mut dice).unwrap_err(), Nobody::AllUnfit);
        assert_eq!(empty.choose(0, NOW, &mut dice).unwrap_err(), Nobody::Empty);
    }

    #[test]
    fn round_robin_goes_strictly_in_turn_and_on_after_a_reload() {
        let all = endpoints(3);
        let mut dice = StdRng::seed_from_u64(7);
        let mut balancer = balancer(Balance::RoundRobin, 0, &all, &[1; 3]);

        let turns: Vec<_> = (0..7)
            .map(|_| {
                balancer = Balancer::new(&Balance::RoundRobin, 0, &all, &[1; 3], Some(&balancer));
                Arc::clone(balancer.choose(0, NOW, &mut dice).unwrap())
            })
            .collect();

        assert!(
            turns.iter().zip(all.iter().cycle()).all(|(chosen, expected)| Arc::ptr_eq(chosen, expected)),
            "{turns:?}"
        );
    }

    #[test]
    fn least_conn_takes_the_one_with_the_fewest_in_flight_for_its_weight() {
        let all = endpoints(3);
        let _busy: Vec<_> = [(0, 2), (1, 3), (2, 1)]
            .iter()
            .flat_map(|&(n, times)| (0..times).map(|_| all[n as usize].enter()).collect::<Vec<_>>())
            .collect();

        assert_eq!(counts(&balancer(Balance::LeastConn, 0, &all, &[1; 3]), &all, 50), [0, 0, 50]);
        assert_eq!(counts(&balancer(Balance::LeastConn, 0, &all, &[1, 4, 1]), &all, 50), [0, 50, 0]);
    }

    #[test]
    fn p2c_avoids_the_busy_and_the_slow_but_not_the_unknown() {
        let all = endpoints(2);
        let share_of_first =
            |endpoints: &[Arc<Endpoint>]| counts(&balancer(Balance::P2c, 0, endpoints, &[1; 2]), endpoints, 1_000)[0];
        all[0].observe_latency(2_000_000_000, NOW);
        let beside_unknown = share_of_first(&all);
        all[1].observe_latency(1_000_000, NOW);
        let slow = share_of_first(&all);
        let others = endpoints(2);
        let _busy: Vec<_> = (0..19).map(|_| others[0].enter()).collect();
        let busy = share_of_first(&others);

        assert!((400..600).contains(&beside_unknown), "{beside_unknown}");
        assert!(slow < 10, "{slow}");
        assert!((20..80).contains(&busy), "{busy}");
    }

    #[test]
    fn a_slow_endpoint_is_tried_again_when_its_latency_is_long_ago() {
        let all = endpoints(2);
        all[0].observe_latency(2_000_000_000, NOW);
        let later = NOW + LATENCY_HALF_LIFE * 11;
        all[1].observe_latency(1_000_000, later);

        let mut dice = StdRng::seed_from_u64(7);
        let balancer = balancer(Balance::P2c, 0, &all, &[1; 2]);
        let tried = (0..1_000).filter(|_| Arc::ptr_eq(balancer.choose(0, later, &mut dice).unwrap(), &all[0])).count();

        assert!(tried > 250, "{tried}");
    }

    #[test]
    fn a_retry_goes_to_a_fit_one_not_tried_then_to_an_unfit_one_then_nowhere() {
        let all = endpoints(3);
        down(&all[2]);
        let mut dice = StdRng::seed_from_u64(7);
        for policy in policies() {
            let balancer = balancer(policy, 0, &all, &[1; 3]);
            let mut next = |tried: &[usize]| {
                let tried: Vec<_> = tried.iter().map(|&n| Arc::clone(&all[n])).collect();
                let next = balancer.another(&tried, 7, NOW, &mut dice);
                next.map(|next| all.iter().position(|e| Arc::ptr_eq(e, next)).unwrap())
            };

            assert_eq!(next(&[0]), Some(1));
            assert_eq!(next(&[0, 1]), Some(2));
            assert_eq!(next(&[0, 1, 2]), None);
        }
    }

    #[test]
    fn the_only_endpoint_is_tried_again() {
        let one = endpoints(1);
        let balancer = balancer(Balance::P2c, 0, &one, &[1]);

        let next = balancer.another(&one, 0, NOW, &mut StdRng::seed_from_u64(7));

        assert!(Arc::ptr_eq(next.unwrap(), &one[0]));
    }

    #[test]
    fn the_slow_starting_get_their_growing_share() {
        let all = endpoints(2);
        let rules = ProbeRules { up_after: 1, down_after: 1, slow_start: Duration::from_secs(10) };
        all[0].health.probed(&rules, Err("refused".into()), Timestamp::ZERO);
        all[0].health.probed(&rules, Ok("200".into()), NOW);
        let Fitness::Fit(share) = all[0].health.fitness(NOW) else { panic!("it is back") };
        let expected = f64::from(share) / f64::from(share + 1_000) * 4_000.0;
        for policy in policies() {
            let first = f64::from(counts(&balancer(policy.clone(), 0, &all, &[1; 2]), &all, 4_000)[0]);

            assert!((first - expected).abs() < 80.0, "{policy:?}: {first} of {expected}");
        }
    }

    proptest! {
        #[test]
        fn hash_loses_only_the_keys_of_the_endpoint_that_left(weights in prop::collection::vec(1u32..10, 2..8), gone in 0usize..8, keys in prop::collection::vec(any::<u64>(), 50)) {
            let all = endpoints(weights.len() as u16);
            let gone = gone % all.len();
            let balancer = balancer(Balance::Hash(Key::Path), 0, &all, &weights);
            let mut dice = StdRng::seed_from_u64(7);
            let mut ask = || -> Vec<_> { keys.iter().map(|&key| Arc::clone(balancer.choose(key, NOW, &mut dice).unwrap())).collect() };

            let before = ask();
            down(&all[gone]);
            let after = ask();

            for (was, is) in before.iter().zip(&after) {
                prop_assert!(!Arc::ptr_eq(is, &all[gone]));
                prop_assert!(Arc::ptr_eq(was, &all[gone]) || Arc::ptr_eq(was, is));
            }
        }

        #[test]
        fn a_round_of_weighted_round_robin_is_exact(weights in prop::collection::vec(1u32..30, 1..8)) {
            let all = endpoints(weights.len() as u16);
            let unit = weights.iter().fold(0, |unit, &weight| gcd(unit, weight.into())) as u32;
            let round = weights.iter().sum::<u32>() / unit;

            let counts = counts(&balancer(Balance::RoundRobin, 0, &all, &weights), &all, round);

            prop_assert_eq!(counts, weights.iter().map(|weight| weight / unit).collect::<Vec<_>>());
        }
    }
}
