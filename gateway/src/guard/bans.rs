//! Who is banned: one table of sources and networks for the whole process.
//!
//! Limits ban a source that goes on after it was refused; people ban what they like (`tidegate bans`). The door
//! asks before it says a word to a connection, and `decide` asks for each request.
//!
//! # Invariants
//!
//! - At most `bounds.bans` entries. When there is no room, what ends soonest goes: the soonest of all while there are
//!   up to [`forget::EXAMINED`] entries, beyond that the soonest of at least so many.
//! - While nobody is banned, asking costs two loads of memory that nobody writes.
//! - A ban that repeats lasts twice as long as the one before, up to its cap, and never ends early.
//! - The address of a trusted proxy is never banned: others would suffer.
//!
//! # Why short mutexes
//!
//! A table that is full of attackers must stay bounded and forget in order, so it is a map in [`SHARDS`] parts. Who
//! isn't banned seldom meets a lock: a part is only locked while it has entries.
//!
//! # Not here
//!
//! Keeping the table over a restart is `journal`; keys other than addresses are banned within their bucket
//! (`decide::limit`).

mod changes;
mod forget;
pub mod journal;
mod metrics;
mod network;
mod reasons;

use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tidegate_model::desired;
use tidegate_model::time::Timestamp;

use crate::clock;
use crate::decide::nets::NetSet;
use changes::Changes;
pub use metrics::{BanMetrics, By};
use network::{Key, Lengths};
pub use reasons::REASON_LENGTH;
use reasons::Reasons;

/// The table is cut into this many parts, so that cores seldom wait for each other. A power of two.
const SHARDS: usize = 1_024;

/// Entries at most, whatever the configuration says; about 64 bytes each.
pub const MOST: usize = 10_000_000;

/// See the module.
#[derive(Debug)]
pub struct Bans {
    shards: Vec<Shard>,
    /// Which prefix lengths there are: others needn't be asked for.
    lengths: Lengths,
    entries: AtomicUsize,
    bound: AtomicUsize,
    spared: ArcSwap<NetSet>,
    reasons: Reasons,
    changes: Changes,
    /// Unix time in milliseconds at [`Timestamp::ZERO`]. Bans are kept in Unix time, because they outlive the
    /// process, and compared on the monotonic clock, so that setting the clock frees nobody.
    zero: u64,
    metrics: BanMetrics,
}

#[derive(Debug, Default)]
struct Shard {
    /// As many as the map has, to be read without its lock.
    entries: AtomicUsize,
    map: Mutex<BTreeMap<Key, Entry>>,
}

/// 24 bytes, beside a key of 17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Unix milliseconds.
    since: u64,
    /// Unix milliseconds.
    until: u64,
    /// Seconds after its end that it is remembered, so that the next one is longer.
    memory: u32,
    /// Which time it is.
    times: u16,
    /// Its number in `reasons`.
    reason: u16,
}

impl Entry {
    fn forgotten_at(&self) -> u64 {
        self.until.saturating_add(u64::from(self.memory) * 1_000)
    }
}

/// A ban, as it is shown and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Who.
    pub network: IpNet,
    /// When it began, in Unix milliseconds.
    pub since: u64,
    /// When it ends, in Unix milliseconds.
    pub until: u64,
    /// Which time it is.
    pub times: u16,
    /// Why: the name of a limit, or what a person wrote.
    pub reason: Arc<str>,
    /// Seconds after its end that it is remembered.
    pub memory: u32,
}

impl Default for Bans {
    fn default() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let zero = unix.saturating_sub(clock::now().since(Timestamp::ZERO));
        Self::new(u64::try_from(zero.as_millis()).unwrap_or(0))
    }
}

impl Bans {
    /// An empty table in a process whose time began at `zero`, in Unix milliseconds.
    pub fn new(zero: u64) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            lengths: Lengths::default(),
            entries: AtomicUsize::new(0),
            bound: AtomicUsize::new(MOST),
            spared: ArcSwap::default(),
            reasons: Reasons::default(),
            changes: Changes::default(),
            zero,
            metrics: BanMetrics::new(),
        }
    }

    /// Until when `source` is banned; `None` where it isn't.
    pub fn until(&self, source: IpAddr, now: Timestamp) -> Option<Timestamp> {
        if self.lengths.is_empty() {
            return None;
        }
        let now = self.unix(now);
        let source = source.to_canonical();
        let until = self
            .lengths
            .of(source)
            .filter_map(|length| {
                let key = Key::of(source, length);
                let shard = self.shard(&key);
                if shard.entries.load(Relaxed) == 0 {
                    return None;
                }
                lock(&shard.map).get(&key).map(|entry| entry.until).filter(|&until| until > now)
            })
            .max()?;
        (!self.spared.load().contains(source)).then(|| self.timestamp(until))
    }

    /// Bans `source` as `rule` says, because of the limit `reason`: as many of its leading `bits` as are given for IPv4
    /// and for IPv6.
    ///
    /// Returns when the ban ends; `None` for a proxy, which isn't banned.
    pub fn punish(
        &self,
        source: IpAddr,
        bits: (u8, u8),
        rule: &desired::Ban,
        reason: &str,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let source = source.to_canonical();
        if self.spared.load().contains(source) {
            return None;
        }
        let key = Key::of(source, if source.is_ipv4() { bits.0 } else { bits.1 });
        let now = self.unix(now);
        let known = lock(&self.shard(&key).map).get(&key).copied();
        let times = match known {
            Some(entry) if entry.until > now => return Some(self.timestamp(entry.until)),
            Some(entry) if entry.forgotten_at() > now => entry.times.saturating_add(1),
            _ => 1,
        };
        let lasts = rule.repeated(u32::from(times));
        let until = now.saturating_add(1).saturating_add(millis(lasts)); // Rounded up: never shorter than it says.
        let memory = if rule.up_to > rule.lasts { seconds(rule.up_to) } else { 0 };
        self.insert(key, Entry { since: now, until, memory, times, reason: self.reasons.number(reason) }, now);
        self.metrics.began(By::Limit);
        Some(self.timestamp(until))
    }

    /// Bans `network` for `lasts` from now on, whatever was said of it before.
    ///
    /// # Errors
    ///
    /// It holds nothing but addresses of trusted proxies, for whom a ban says nothing.
    pub fn add(&self, network: IpNet, lasts: Duration, reason: &str, now: Timestamp) -> Result<Ban, SparedError> {
        let spared = self.spared.load();
        let key = Key::from(network);
        if spared.contains(key.net().network()) && spared.contains(key.net().broadcast()) {
            return Err(SparedError(key.net()));
        }
        let now = self.unix(now);
        let times = lock(&self.shard(&key).map).get(&key).map_or(1, |known| known.times.saturating_add(1));
        let until = now.saturating_add(millis(lasts));
        let entry = Entry { since: now, until, memory: 0, times, reason: self.reasons.number(reason) };
        self.insert(key, entry, now);
        self.metrics.began(By::Hand);
        Ok(self.show(&key, &entry))
    }

    /// Takes over a ban that was kept, unless it is over and may be forgotten.
    pub fn restore(&self, ban: &Ban, now: Timestamp) {
        let entry = Entry {
            since: ban.since,
            until: ban.until,
            memory: ban.memory,
            times: ban.times,
            reason: self.reasons.number(&ban.reason),
        };
        let now = self.unix(now);
        if entry.forgotten_at() > now {
            self.insert(Key::from(ban.network), entry, now);
        }
    }

    /// Frees `network`. Tells whether it was known. Bans of networks around or within it stay.
    pub fn remove(&self, network: IpNet) -> bool {
        let key = Key::from(network);
        let known = self.take_out(&key);
        if known {
            self.changes.note(key);
        }
        known
    }

    /// Bans in force at `now`, by address: at most `most` of those that come after `after` and, where it is given,
    /// that hold `covering`. Takes a walk through the whole table: not for the path of requests.
    pub fn page(&self, after: Option<IpNet>, covering: Option<IpAddr>, most: usize, now: Timestamp) -> Vec<Ban> {
        let now = self.unix(now);
        let after = after.map(Key::from);
        let mut first: BinaryHeap<Key> = BinaryHeap::with_capacity(most.min(SHARDS) + 1);
        for shard in self.shards.iter().filter(|shard| shard.entries.load(Relaxed) > 0) {
            for (key, entry) in lock(&shard.map).iter() {
                let wanted = entry.until > now
                    && after.is_none_or(|after| *key > after)
                    && covering.is_none_or(|ip| key.net().contains(&ip.to_canonical()));
                if wanted && (first.len() < most || first.peek().is_some_and(|last| key < last)) {
                    first.push(*key);
                    if first.len() > most {
                        first.pop();
                    }
                }
            }
        }
        let shown = |key: &Key| lock(&self.shard(key).map).get(key).map(|entry| self.show(key, entry));
        first.into_sorted_vec().iter().filter_map(shown).collect()
    }

    /// Entries: bans in force, and those that are over and remembered.
    pub fn len(&self) -> usize {
        self.entries.load(Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bans none of these from now on.
    pub fn spare(&self, proxies: NetSet) {
        self.spared.store(Arc::new(proxies));
    }

    /// What is counted.
    pub fn metrics(&self) -> &BanMetrics {
        &self.metrics
    }

    /// `now` in Unix milliseconds.
    pub fn unix(&self, now: Timestamp) -> u64 {
        self.zero.saturating_add(now.as_nanos() / 1_000_000)
    }

    fn timestamp(&self, unix: u64) -> Timestamp {
        Timestamp::from_nanos(unix.saturating_sub(self.zero).saturating_mul(1_000_000))
    }

    fn insert(&self, key: Key, entry: Entry, now: u64) {
        let shard = self.shard(&key);
        let is_new = lock(&shard.map).insert(key, entry).is_none();
        if is_new {
            shard.entries.fetch_add(1, Relaxed);
            self.lengths.one_more(&key);
            if self.entries.fetch_add(1, Relaxed) >= self.bound.load(Relaxed) {
                self.make_room(self.index(&key), now);
            }
            self.metrics.entries(self.len());
        }
        self.changes.note(key);
    }

    fn take_out(&self, key: &Key) -> bool {
        let shard = self.shard(key);
        let known = lock(&shard.map).remove(key).is_some();
        if known {
            self.gone(shard, key);
        }
        known
    }

    fn gone(&self, shard: &Shard, key: &Key) {
        shard.entries.fetch_sub(1, Relaxed);
        self.lengths.one_less(key);
        self.entries.fetch_sub(1, Relaxed);
        self.metrics.entries(self.len());
    }

    fn show(&self, key: &Key, entry: &Entry) -> Ban {
        Ban {
            network: key.net(),
            since: entry.since,
            until: entry.until,
            times: entry.times,
            reason: self.reasons.text(entry.reason),
            memory: entry.memory,
        }
    }

    fn index(&self, key: &Key) -> usize {
        key.spread() as usize % SHARDS
    }

    fn shard(&self, key: &Key) -> &Shard {
        &self.shards[self.index(key)]
    }
}

/// Nobody is banned who carries other people's requests.
#[derive(Debug, thiserror::Error)]
#[error("{0} is a trusted proxy's: a ban would hit everybody behind it")]
pub struct SparedError(IpNet);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic can't leave an entry half written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
