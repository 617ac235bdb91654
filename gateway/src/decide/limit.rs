//! Named rate limits: token buckets in bounded memory, with bans on repetition.
//!
//! A bucket is one number, the moment at which it will be full again (GCRA). A request may
//! pass if that moment is less than a whole bucket away.
//!
//! Two tiers: a [`sketch`] of fixed size gives out the first half of every bucket without remembering its key; who
//! asks for more gets an exact bucket, which starts where the sketch stood. So a million keys that ask little take no
//! memory, and the buckets are there for those who matter.
//!
//! # Invariants
//!
//! - In any span of time a key passes at most `burst + span / interval` times, over all routes
//!   that name the limit and over all cores, as long as its bucket is remembered. A bucket that was forgotten under
//!   pressure costs at most half a burst: the sketch remembers the rest.
//! - Nobody is refused because of what others ask: sharing cells of the sketch costs at most half the burst.
//! - At most `max_keys` exact buckets are remembered. What is forgotten first is what is full again
//!   soonest; a bucket that is full already says nothing and is forgotten without loss.
//! - A visitor can't aim at another's bucket: keys are hashed with SipHash under a random key.
//!
//! # Why short mutexes
//!
//! Taking an exact token reads and writes a map, which lock-free would need a fixed table that forgets
//! early when a row is full, and then isn't exact. A shard is held for some tens of nanoseconds
//! and there are up to 64 of them, so two cores seldom meet.

mod bucket;
mod shared;
mod sketch;

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderValue;
use tidegate_model::desired::{Key, Limit};
use tidegate_model::time::Timestamp;
use tokio::sync::Notify;

use super::Head;
use super::key::{NETWORK_V4, NETWORK_V6, Network, ReadyKey};
use crate::record::{LimitMetrics, LimitResult};
use bucket::{AsItIs, Bucket, Strikes};
pub use shared::Shared;
use sketch::Sketch;

/// Most shards of a limit's buckets. A power of two.
const MAX_SHARDS: usize = 64;

/// Keys that are worth a shard of their own. With few in each, chance would fill one long before the others.
const KEYS_PER_SHARD: usize = 1_024;

/// The buckets and bans of one named limit. Handed on by `compile` while its definition stays the same.
pub struct LimitState {
    limit: Limit,
    max_keys: usize,
    keys: Vec<ReadyKey>,
    /// By the client's address or network alone: bans are of sources.
    by_source: bool,
    interval: u64,
    /// A full bucket, in nanoseconds.
    depth: u64,
    hasher: RandomState,
    /// `None` where half a bucket is less than a token.
    sketch: Option<Sketch>,
    shards: Vec<Mutex<Shard>>,
    /// What the other gateways don't know yet, where there are any.
    shared: Option<Shared>,
    /// Told when they should know soon.
    soon: Arc<Notify>,
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
            by_source: matches!(limit.keys.as_slice(), [Key::ClientIp | Key::Network]),
            interval,
            depth: interval.saturating_mul(u64::from(limit.burst.max(1))),
            hasher: RandomState::new(),
            sketch: Sketch::new(interval, limit.burst),
            shards: (0..shards_for(max_keys)).map(|_| Mutex::default()).collect(),
            shared: limit.shared.then(|| Shared::new(&limit.name, limit.burst, &mut rand::rng())),
            soon: Arc::default(),
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

    /// Tells `soon` when other gateways should hear of a key.
    pub fn telling(self, soon: Arc<Notify>) -> Self {
        Self { soon, ..self }
    }

    /// What the other gateways don't know yet; `None` where it isn't shared.
    pub fn shared(&self) -> Option<&Shared> {
        self.shared.as_ref()
    }

    /// Time between two tokens, and a full bucket, in nanoseconds.
    pub fn interval_and_depth(&self) -> (u64, u64) {
        (self.interval, self.depth)
    }

    /// Whether buckets may be handed on to `limit`: everything that gives them meaning is the same.
    pub fn same_definition(&self, limit: &Limit, max_keys: usize) -> bool {
        self.limit == *limit && self.max_keys == max_keys
    }

    /// What the configuration says.
    pub fn spec(&self) -> &Limit {
        &self.limit
    }

    /// Leading bits of a source that its bans are for: of IPv4, and of IPv6 where sources are `v6_prefix` bits.
    pub fn banned_bits(&self, v6_prefix: u8) -> (u8, u8) {
        match self.limit.keys.as_slice() {
            [Key::Network] => (NETWORK_V4, NETWORK_V6),
            _ => (32, v6_prefix),
        }
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
        if let Some(shared) = &self.shared {
            return BucketId(shared.hash(self.keys.iter().map(|key| key.read(head, client))));
        }
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
        let light = self.sketch.as_ref().and_then(|sketch| sketch.peek(id.0, now.as_nanos()));
        if let Some(full_at) = light {
            return self.taken(full_at, now);
        }
        let bucket = self.shard(id).get(&id).copied().unwrap_or_default();
        let level = self.sketch.as_ref().map_or(0, |sketch| sketch.read(id.0));
        self.ask(&bucket, level, now).0
    }

    /// Takes a token, or counts a refusal, which may begin a ban.
    pub fn try_take(&self, id: BucketId, now: Timestamp) -> Outcome {
        let outcome = self.take(id, now);
        if let (Outcome::Taken { .. }, Some(shared)) = (outcome, &self.shared)
            && shared.took(id.0)
        {
            self.soon.notify_one();
        }
        self.metrics.decided(match outcome {
            Outcome::Taken { .. } => LimitResult::Allowed,
            Outcome::Refused { .. } | Outcome::Punished { .. } => LimitResult::Refused,
            Outcome::Banned { .. } => LimitResult::Banned,
        });
        outcome
    }

    fn take(&self, id: BucketId, now: Timestamp) -> Outcome {
        match self.sketch.as_ref().and_then(|sketch| sketch.take(id.0, now.as_nanos())) {
            Some(full_at) => self.taken(full_at, now),
            None => self.take_exactly(id, now),
        }
    }

    fn take_exactly(&self, id: BucketId, now: Timestamp) -> Outcome {
        let mut shard = self.shard(id);
        let known = shard.get(&id).copied();
        let mut bucket = known.unwrap_or_default();
        let mut asked = (Outcome::Refused { retry_after: 0 }, 0);
        let mut ask = |level| {
            asked = self.ask(&bucket, level, now);
            matches!(asked.0, Outcome::Taken { .. }).then_some(asked.1)
        };
        match &self.sketch {
            Some(sketch) => drop(sketch.update(id.0, &mut ask)),
            None => drop(ask(0)),
        }
        let (mut outcome, full_at) = asked;
        match (outcome, &self.limit.ban) {
            (Outcome::Taken { .. }, _) => bucket.full_at = full_at,
            (Outcome::Refused { .. }, Some(ban)) => {
                bucket.strikes = bucket.strikes.another(ban, now);
                if let Some(until) = bucket.strikes.banned_until() {
                    self.metrics.banned();
                    outcome = self.ban(id, &mut bucket, outcome, until);
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

    /// Learns that, over all gateways and with all that was told, the bucket of this hash is full again `level`
    /// nanoseconds after `now`.
    pub fn learn(&self, hash: u64, level: u64, now: Timestamp) {
        let untold = self.shared.as_ref().map_or(0, |shared| u64::from(shared.untold_of(hash)));
        let level = level.saturating_add(untold.saturating_mul(self.interval));
        let full_at = now.as_nanos().saturating_add(level);
        let id = BucketId(hash);
        let mut shard = self.shard(id);
        let mut light = false;
        if let Some(sketch) = &self.sketch {
            sketch.update(hash, |known| Some(known.max(full_at)));
            light = sketch.at_most_half(full_at, now.as_nanos()) == full_at;
        }
        let known = shard.get(&id).copied();
        if known.is_none() && light {
            return; // The sketch knows it all.
        }
        if known.is_none() {
            self.make_room(&mut shard, now);
        }
        let mut bucket = known.unwrap_or_default();
        bucket.full_at = bucket.full_at.max(full_at);
        shard.insert(id, bucket);
    }

    /// What a refusal becomes that was one too many.
    fn ban(&self, id: BucketId, bucket: &mut Bucket, refusal: Outcome, until: Timestamp) -> Outcome {
        if let (Outcome::Refused { retry_after }, true) = (refusal, self.by_source) {
            bucket.strikes = Strikes::default(); // Whom the table frees is free.
            return Outcome::Punished { retry_after };
        }
        if let Some(sketch) = &self.sketch {
            sketch.hold(id.0, until.as_nanos());
        }
        Outcome::Banned { until }
    }

    /// Shows how many buckets are remembered right now.
    pub fn show(&self) {
        self.metrics.keys(self.remembered());
    }

    fn remembered(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// The outcome, and when the bucket would be full again if a token were taken. `level` is what the sketch holds
    /// the key's level to be; of that, no more than half a bucket is believed.
    fn ask(&self, bucket: &Bucket, level: u64, now: Timestamp) -> (Outcome, u64) {
        if let Some(until) = bucket.strikes.banned_until()
            && until > now
        {
            return (Outcome::Banned { until }, bucket.full_at);
        }
        let level = self.sketch.as_ref().map_or(0, |sketch| sketch.at_most_half(level, now.as_nanos()));
        let full_at = bucket.full_at.max(level).max(now.as_nanos()).saturating_add(self.interval);
        let reset = full_at - now.as_nanos();
        if reset > self.depth {
            return (Outcome::Refused { retry_after: reset - self.depth }, full_at);
        }
        (self.taken(full_at, now), full_at)
    }

    /// A token was taken from a bucket that is full again at `full_at`.
    fn taken(&self, full_at: u64, now: Timestamp) -> Outcome {
        let reset = full_at.saturating_sub(now.as_nanos());
        let remaining = u32::try_from(self.depth.saturating_sub(reset) / self.interval).unwrap_or(u32::MAX);
        Outcome::Taken { remaining, reset }
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

#[cfg(test)]
mod tests;
