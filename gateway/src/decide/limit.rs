//! Named rate limits: exact token buckets in bounded memory, with bans on repetition.
//!
//! A bucket is one number, the moment at which it will be full again (GCRA). A request may
//! pass if that moment is less than a whole bucket away.
//!
//! # Invariants
//!
//! - In any span of time a key passes at most `burst + span / interval` times, over all routes
//!   that name the limit and over all cores, as long as its bucket is remembered.
//! - At most `max_keys` buckets are remembered. What is forgotten first is what is full again
//!   soonest; a bucket that is full already says nothing and is forgotten without loss.
//! - A visitor can't aim at another's bucket: keys are hashed with SipHash under a random key.
//!
//! # Why short mutexes
//!
//! Taking a token reads and writes a map, which lock-free would need a fixed table that forgets
//! early when a row is full, and then isn't exact. A shard is held for some tens of nanoseconds
//! and there are up to 64 of them, so two cores seldom meet.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::HeaderValue;
use tidegate_model::desired::{Ban, Key, Limit};
use tidegate_model::time::Timestamp;

use super::Head;
use super::key::{Network, ReadyKey};
use crate::record::{LimitMetrics, LimitResult};

/// Most shards of a limit's buckets. A power of two.
const MAX_SHARDS: usize = 64;

/// Keys that are worth a shard of their own. With few in each, chance would fill one long before the others.
const KEYS_PER_SHARD: usize = 1_024;

/// The buckets and bans of one named limit. Handed on by `compile` while its definition stays the same.
pub struct LimitState {
    limit: Limit,
    max_keys: usize,
    keys: Vec<ReadyKey>,
    /// By the client's address alone: bans are of sources.
    by_source: bool,
    interval: u64,
    /// A full bucket, in nanoseconds.
    depth: u64,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    policy: HeaderValue,
    quoted: String,
    metrics: LimitMetrics,
}

type Shard = HashMap<BucketId, Bucket, BuildHasherDefault<AsItIs>>;

/// What became of a request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has one.
    Taken {
        /// Tokens left.
        remaining: u32,
        /// When the bucket is full again, in nanoseconds from now.
        reset: u64,
    },
    /// There is none.
    Refused {
        /// When there is one, in nanoseconds from now.
        retry_after: u64,
    },
    /// There is none, and it was asked for too often: the source is to be banned. Only where the limit is by the
    /// client's address; the ban is the table's (`guard::bans`), not the bucket's.
    Punished {
        /// When there is one, in nanoseconds from now.
        retry_after: u64,
    },
    /// The key is banned.
    Banned {
        /// Until then.
        until: Timestamp,
    },
}

/// Names a bucket: the hash of its key's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BucketId(u64);

impl LimitState {
    /// Empty buckets for `limit`, at most `max_keys` of them.
    pub fn new(limit: &Limit, max_keys: usize) -> Self {
        let interval = u64::try_from(limit.interval.as_nanos()).unwrap_or(u64::MAX).max(1);
        let quoted = format!("\"{}\"", limit.name.replace('\\', "\\\\").replace('"', "\\\""));
        let window = limit.window.as_secs().max(1);
        let policy = HeaderValue::try_from(format!("{quoted};q={};w={window}", limit.per_window));
        Self {
            keys: limit.keys.iter().map(ReadyKey::new).collect(),
            by_source: limit.keys == [Key::ClientIp],
            interval,
            depth: interval.saturating_mul(u64::from(limit.burst.max(1))),
            hasher: RandomState::new(),
            shards: (0..shards_for(max_keys)).map(|_| Mutex::default()).collect(),
            policy: policy.unwrap_or_else(|_| HeaderValue::from_static("\"limit\"")),
            quoted,
            limit: limit.clone(),
            max_keys,
            metrics: LimitMetrics::default(),
        }
    }

    /// Counts what it decides on `metrics` instead of nowhere.
    pub fn counted_on(self, metrics: LimitMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// Whether buckets may be handed on to `limit`: everything that gives them meaning is the same.
    pub fn same_definition(&self, limit: &Limit, max_keys: usize) -> bool {
        self.limit == *limit && self.max_keys == max_keys
    }

    /// What the configuration says.
    pub fn spec(&self) -> &Limit {
        &self.limit
    }

    /// `"per_ip";q=50;w=1`, the item for RateLimit-Policy.
    pub fn policy(&self) -> &HeaderValue {
        &self.policy
    }

    /// The name as a structured-field string, quotes included.
    pub fn quoted_name(&self) -> &str {
        &self.quoted
    }

    /// The bucket of `head`. A missing key counts as the empty value.
    pub fn bucket(&self, head: &Head<'_>, client: Network) -> BucketId {
        let mut hasher = self.hasher.build_hasher();
        for key in &self.keys {
            let value = key.read(head, client);
            let bytes = value.as_ref().map_or(&[][..], |value| value.as_bytes());
            hasher.write_usize(bytes.len()); // So that values can't run into each other.
            hasher.write(bytes);
        }
        BucketId(hasher.finish())
    }

    /// Tells what [`Self::try_take`] would, without taking a token or counting a refusal.
    pub fn peek(&self, id: BucketId, now: Timestamp) -> Outcome {
        let bucket = self.shard(id).get(&id).copied().unwrap_or_default();
        self.ask(&bucket, now).0
    }

    /// Takes a token, or counts a refusal, which may begin a ban.
    pub fn try_take(&self, id: BucketId, now: Timestamp) -> Outcome {
        let outcome = self.take(id, now);
        self.metrics.decided(match outcome {
            Outcome::Taken { .. } => LimitResult::Allowed,
            Outcome::Refused { .. } | Outcome::Punished { .. } => LimitResult::Refused,
            Outcome::Banned { .. } => LimitResult::Banned,
        });
        outcome
    }

    fn take(&self, id: BucketId, now: Timestamp) -> Outcome {
        let mut shard = self.shard(id);
        let known = shard.get(&id).copied();
        let mut bucket = known.unwrap_or_default();
        let (mut outcome, full_at) = self.ask(&bucket, now);
        match (outcome, &self.limit.ban) {
            (Outcome::Taken { .. }, _) => bucket.full_at = full_at,
            (Outcome::Refused { .. }, Some(ban)) => {
                bucket.strikes = bucket.strikes.another(ban, now);
                if let Some(until) = bucket.strikes.banned_until() {
                    self.metrics.banned();
                    outcome = match outcome {
                        Outcome::Refused { retry_after } if self.by_source => {
                            bucket.strikes = Strikes::default(); // Whom the table frees is free.
                            Outcome::Punished { retry_after }
                        }
                        _ => Outcome::Banned { until },
                    };
                }
            }
            _ => return outcome, // Nothing to remember.
        }
        if known.is_none() {
            self.make_room(&mut shard, now);
        }
        shard.insert(id, bucket);
        outcome
    }

    /// Shows how many buckets are remembered right now.
    pub fn show(&self) {
        self.metrics.keys(self.remembered());
    }

    fn remembered(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// The outcome, and when the bucket would be full again if a token were taken.
    fn ask(&self, bucket: &Bucket, now: Timestamp) -> (Outcome, u64) {
        if let Some(until) = bucket.strikes.banned_until()
            && until > now
        {
            return (Outcome::Banned { until }, bucket.full_at);
        }
        let full_at = bucket.full_at.max(now.as_nanos()).saturating_add(self.interval);
        let reset = full_at - now.as_nanos();
        if reset > self.depth {
            return (Outcome::Refused { retry_after: reset - self.depth }, full_at);
        }
        let remaining = u32::try_from((self.depth - reset) / self.interval).unwrap_or(u32::MAX);
        (Outcome::Taken { remaining, reset }, full_at)
    }

    fn shard(&self, id: BucketId) -> MutexGuard<'_, Shard> {
        // The upper bits choose the shard, because the map uses the lower ones. A panic can't leave a bucket half written.
        self.shards[(id.0 >> 58) as usize % self.shards.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more. When the shard is full it forgets full buckets, and if that
    /// frees less than a sixteenth, the sixteenth that is full again soonest: so a key that is
    /// new costs sixteen steps on average, however many attackers there are.
    fn make_room(&self, shard: &mut Shard, now: Timestamp) {
        let room = (self.max_keys / self.shards.len()).max(1);
        if shard.len() < room {
            return;
        }
        let ban = self.limit.ban.as_ref();
        shard.retain(|_, bucket| bucket.matters_until(ban) > now.as_nanos());
        let surplus = (shard.len() + room / 16 + 1).saturating_sub(room);
        if surplus > 0 && !shard.is_empty() {
            let mut moments: Vec<u64> = shard.values().map(|bucket| bucket.matters_until(ban)).collect();
            let last = surplus.min(moments.len()) - 1;
            let (_, &mut border, _) = moments.select_nth_unstable(last);
            self.metrics.forgot(last as u64 + 1);
            let mut left = surplus;
            shard.retain(|_, bucket| {
                let forget = left > 0 && bucket.matters_until(ban) <= border;
                left -= usize::from(forget);
                !forget
            });
        }
    }
}

/// A power of two.
fn shards_for(max_keys: usize) -> usize {
    (max_keys / KEYS_PER_SHARD).clamp(1, MAX_SHARDS).next_power_of_two()
}

/// 16 bytes, so that a million keys with their map stay below 64 MiB.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Nanoseconds; in the past for a full bucket.
    full_at: u64,
    strikes: Strikes,
}

impl Bucket {
    /// Until when this bucket differs from a new one.
    fn matters_until(&self, ban: Option<&Ban>) -> u64 {
        let strikes = match ban {
            Some(ban) if self.strikes.count() > 0 => (self.strikes.moment() + self.strikes.memory(ban)).as_nanos(),
            _ => 0,
        };
        self.full_at.max(strikes)
    }
}

/// Refusals since the first of them, or a ban, in 8 bytes: a moment in milliseconds (39 bits, 17 years), how often
/// there was a ban (5 bits), and a count (20 bits).
#[derive(Clone, Copy, Debug, Default)]
struct Strikes(u64);

impl Strikes {
    const COUNT_BITS: u32 = 20;
    const TIMES_BITS: u32 = 5;
    /// The count that means "banned until the moment". More refusals than this needn't be told apart.
    const BANNED: u64 = (1 << Self::COUNT_BITS) - 1;
    /// More bans than this needn't be told apart: doubling has met every cap by then.
    const MOST_TIMES: u64 = (1 << Self::TIMES_BITS) - 1;

    fn new(moment: Timestamp, times: u64, count: u64) -> Self {
        let millis = moment.as_nanos() / 1_000_000;
        Self((millis << Self::TIMES_BITS | times.min(Self::MOST_TIMES)) << Self::COUNT_BITS | count)
    }

    fn count(self) -> u64 {
        self.0 & Self::BANNED
    }

    fn times(self) -> u64 {
        self.0 >> Self::COUNT_BITS & Self::MOST_TIMES
    }

    fn moment(self) -> Timestamp {
        let millis = self.0 >> (Self::COUNT_BITS + Self::TIMES_BITS);
        Timestamp::from_nanos(millis.saturating_mul(1_000_000))
    }

    fn banned_until(self) -> Option<Timestamp> {
        (self.count() == Self::BANNED).then(|| self.moment())
    }

    /// How long after the moment this still says something.
    fn memory(self, ban: &Ban) -> std::time::Duration {
        match self.times() {
            0 => ban.window,
            _ if ban.up_to > ban.lasts => ban.up_to.max(ban.window),
            _ => ban.window,
        }
    }

    /// Counts one more refusal. The window begins with the first refusal after the one before has ended.
    fn another(self, ban: &Ban, now: Timestamp) -> Self {
        let since = now.since(self.moment());
        let goes_on = self.count() > 0 && self.banned_until().is_none() && since <= ban.window;
        let times = if self.count() > 0 && since <= self.memory(ban) { self.times() } else { 0 };
        let (began, count) = if goes_on { (self.moment(), self.count() + 1) } else { (now, 1) };
        if count >= u64::from(ban.after) || count >= Self::BANNED {
            let times = (times + 1).min(Self::MOST_TIMES);
            let lasts = ban.repeated(u32::try_from(times).unwrap_or(u32::MAX));
            // Rounded up, so that a ban is never shorter than it says.
            return Self::new(now + lasts + std::time::Duration::from_nanos(999_999), times, Self::BANNED);
        }
        Self::new(began, times, count)
    }
}

/// Bucket ids are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 is hashed");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const MILLI: u64 = 1_000_000;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(1_000 * MILLI + millis * MILLI)
    }

    fn ban(seconds: u64, after: u32, window_millis: u64) -> Ban {
        let lasts = Duration::from_secs(seconds);
        Ban { lasts, after, window: Duration::from_millis(window_millis), up_to: lasts }
    }

    fn state(interval: Duration, burst: u32, ban: Option<Ban>, max_keys: usize) -> LimitState {
        let limit = Limit {
            name: "per_ip".into(),
            keys: vec![Key::Path],
            interval,
            burst,
            window: Duration::from_secs(1),
            per_window: 50,
            over: 429,
            ban,
        };
        LimitState::new(&limit, max_keys)
    }

    fn passes(outcome: Outcome) -> bool {
        matches!(outcome, Outcome::Taken { .. })
    }

    #[test]
    fn a_full_bucket_gives_its_burst_then_one_token_each_interval() {
        let limit = state(Duration::from_millis(20), 3, None, 100);
        let id = BucketId(7);

        let burst: Vec<_> = (0..4).map(|_| limit.try_take(id, at(0))).collect();
        let early = limit.try_take(id, at(19));
        let later = limit.try_take(id, at(20));

        assert_eq!(burst[0], Outcome::Taken { remaining: 2, reset: 20 * MILLI });
        assert_eq!(burst[2], Outcome::Taken { remaining: 0, reset: 60 * MILLI });
        assert_eq!(burst[3], Outcome::Refused { retry_after: 20 * MILLI });
        assert_eq!(early, Outcome::Refused { retry_after: MILLI });
        assert_eq!(later, Outcome::Taken { remaining: 0, reset: 60 * MILLI });
    }

    #[test]
    fn peeking_takes_nothing_and_counts_nothing() {
        let ban = ban(60, 1, 1_000);
        let limit = state(Duration::from_secs(1), 1, Some(ban), 100);
        let id = BucketId(7);

        assert!(passes(limit.peek(id, at(0))) && passes(limit.peek(id, at(0))));
        assert!(passes(limit.try_take(id, at(0))));
        assert!(matches!(limit.peek(id, at(0)), Outcome::Refused { .. }));
        assert!(matches!(limit.peek(id, at(0)), Outcome::Refused { .. }));
    }

    #[test]
    fn a_key_is_banned_by_its_nth_refusal_within_the_window_and_free_again_afterwards() {
        let ban = ban(60, 3, 500);
        let limit = state(Duration::from_secs(1), 1, Some(ban), 100);
        let id = BucketId(7);
        limit.try_take(id, at(0));

        let slow: Vec<_> = [100, 400, 700].map(|ms| limit.try_take(id, at(ms))).to_vec();
        let third = [800, 900].map(|ms| limit.try_take(id, at(ms)))[1];
        let during = limit.try_take(id, at(60_000));
        let after = limit.try_take(id, at(61_000));

        assert!(slow.iter().all(|o| matches!(o, Outcome::Refused { .. })), "{slow:?}: the window had passed");
        assert!(matches!(third, Outcome::Banned { .. }), "{third:?}");
        assert!(matches!(during, Outcome::Banned { .. }), "a ban doesn't end early");
        assert!(passes(after));
    }

    #[test]
    fn a_ban_within_a_bucket_doubles_up_to_its_cap_and_is_forgotten_after_good_behaviour() {
        let grows = Ban { up_to: Duration::from_secs(200), ..ban(60, 1, 1_000) };
        let limit = state(Duration::from_secs(3_600), 1, Some(grows), 100);
        let lasts = |seconds: u64| match limit.try_take(BucketId(7), at(seconds * 1_000)) {
            Outcome::Banned { until } => until.since(at(seconds * 1_000)).as_secs(),
            other => panic!("{other:?}"),
        };
        limit.try_take(BucketId(7), at(0));

        assert_eq!([lasts(1), lasts(62), lasts(183), lasts(384)], [60, 120, 200, 200]);
        assert_eq!(lasts(384 + 200 + 201), 60);
    }

    #[test]
    fn a_limit_by_address_asks_for_a_ban_instead_of_keeping_one() {
        let mut limit = state(Duration::from_secs(1), 1, Some(ban(60, 2, 1_000)), 100);
        limit.by_source = true;
        limit.try_take(BucketId(7), at(0));

        let refused = [0, 1, 2].map(|ms| limit.try_take(BucketId(7), at(ms)));

        assert!(matches!(refused[0], Outcome::Refused { .. }));
        assert!(matches!(refused[1], Outcome::Punished { .. }));
        assert!(matches!(refused[2], Outcome::Refused { .. }), "the count begins again");
        assert!(passes(limit.try_take(BucketId(7), at(1_000))), "nothing but the table keeps it out");
    }

    #[test]
    fn other_keys_are_not_touched_by_a_ban() {
        let ban = ban(60, 1, 1_000);
        let limit = state(Duration::from_secs(1), 1, Some(ban), 100);
        limit.try_take(BucketId(1), at(0));
        limit.try_take(BucketId(1), at(0));

        assert!(!passes(limit.try_take(BucketId(1), at(1_000))));
        assert!(passes(limit.try_take(BucketId(2), at(0))));
    }

    #[test]
    fn threads_together_get_exactly_the_burst() {
        let limit = state(Duration::from_secs(3_600), 100, None, 100);

        let passed: usize = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..100).filter(|_| passes(limit.try_take(BucketId(7), at(0)))).count()))
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });

        assert_eq!(passed, 100);
    }

    #[test]
    fn memory_is_bounded_and_the_fullest_buckets_are_forgotten_first() {
        let limit = state(Duration::from_secs(1), 10, None, 100);
        let heavy = BucketId(1 << 40);
        for _ in 0..10 {
            limit.try_take(heavy, at(0));
        }

        // One token each, so each is full again long before it.
        for id in 0..10_000 {
            limit.try_take(BucketId(id), at(1));
        }

        assert!(limit.remembered() <= 100, "{}", limit.remembered());
        assert!(!passes(limit.peek(heavy, at(1))), "the empty bucket was remembered");
    }

    #[test]
    fn buckets_that_are_full_again_make_room_without_forgetting_the_others() {
        let limit = state(Duration::from_millis(10), 10, None, 100);
        for id in 0..99 {
            limit.try_take(BucketId(id), at(0));
        }
        limit.try_take(BucketId(99), at(15));

        limit.try_take(BucketId(100), at(15));

        assert_eq!(limit.remembered(), 2);
    }

    /// What a million keys cost: each shard's map holds at most 2^15 places of 24 bytes and one control byte.
    #[test]
    fn a_million_keys_fit_into_64_mib() {
        let shards = shards_for(1_000_000);
        let per_shard = (1_000_000 / shards * 8).div_ceil(7).next_power_of_two();
        let bytes = shards * per_shard * (size_of::<(BucketId, Bucket)>() + 1);

        assert!(bytes <= 64 << 20, "{bytes}");
    }

    #[test]
    fn values_of_several_keys_do_not_run_into_each_other() {
        use http::{HeaderMap, HeaderValue, Method};
        let key = |name: &str| Key::Header(name.into());
        let limit = Limit { keys: vec![key("a"), key("b")], ..state(Duration::from_secs(1), 1, None, 1).limit };
        let state = LimitState::new(&limit, 100);
        let bucket = |a: &'static str, b: &'static str| {
            let headers: HeaderMap = [("a", a), ("b", b)]
                .map(|(k, v)| (http::HeaderName::from_static(k), HeaderValue::from_static(v)))
                .into_iter()
                .collect();
            let head = Head {
                method: &Method::GET,
                host: "",
                path: "/",
                query: None,
                headers: &headers,
                content_length: None,
            };
            state.bucket(&head, Network::of([127, 0, 0, 1].into(), 64))
        };

        assert_ne!(bucket("xy", "z"), bucket("x", "yz"));
        assert_ne!(bucket("x", ""), bucket("", "x"));
        assert_eq!(bucket("x", "y"), bucket("x", "y"));
    }

    proptest! {
        #[test]
        fn no_window_passes_more_than_burst_and_its_rate(
            steps in prop::collection::vec(0u64..60, 1..300), burst in 1u32..20, interval in 1u64..50,
        ) {
            let limit = state(Duration::from_millis(interval), burst, None, 100);
            let mut now = 0;
            let mut passed = Vec::new();
            let mut refused_wrongly = None;
            for step in steps {
                now += step;
                let outcome = limit.try_take(BucketId(7), at(now));
                if passes(outcome) {
                    passed.push(now);
                } else if let Outcome::Refused { retry_after } = outcome {
                    // Sooner than it says there is none, and then there is one.
                    let then = Timestamp::from_nanos(at(now).as_nanos() + retry_after);
                    if !passes(limit.peek(BucketId(7), then)) || passes(limit.peek(BucketId(7), Timestamp::from_nanos(then.as_nanos() - 1))) {
                        refused_wrongly = Some(now);
                    }
                }
            }

            prop_assert_eq!(refused_wrongly, None);
            for (i, first) in passed.iter().enumerate() {
                for (j, last) in passed.iter().enumerate().skip(i) {
                    let allowed = u64::from(burst) + (last - first) / interval;
                    prop_assert!((j - i + 1) as u64 <= allowed, "{} passed from {first} to {last}", j - i + 1);
                }
            }
        }
    }
}
