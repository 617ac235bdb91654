//! Regulars: sources that got good answers over some time before an attack.
//!
//! A table of fixed size in which each source has two places to be (a bucket of four entries each; "the power of two
//! choices", Azar et al. 1994; cuckoo filters use the same pair of buckets, Fan et al. 2014). An entry is 16 bytes: a
//! fingerprint, when the source came first and last, how often, and how much it asked for in its busiest second.
//!
//! # Invariants
//!
//! - Memory is fixed: 4 MiB of entries and 256 KiB of pace, however many sources there are.
//! - A regular is never forgotten for the sake of a stranger, only after a day.
//! - Nothing here takes a lock: entries are pairs of atomics, and a lost race costs one count.
//! - A stranger is taken for a regular with a probability of at most 8 in 2³².
//!
//! # Not here
//!
//! Whether it is calm: callers learn in calm times only, so that an attack can't earn its way in.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tidegate_model::time::Timestamp;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::decide::key::Network;

/// Buckets in the table. Beyond their entries, strangers replace strangers.
const BUCKETS: usize = 1 << 16;

/// Entries in a bucket: 64 bytes, one cache line.
const WAYS: usize = 4;

/// Counters of who asked how much in the second that runs. Two that share one share their allowance.
const PACES: usize = 1 << 16;

/// Good answers that make a regular …
const ANSWERS: u64 = 5;

/// … over at least so many seconds.
const SPREAD: u32 = 5;

/// Seconds after which a source that didn't come again is forgotten.
const MEMORY: u32 = 86_400;

/// Requests a second that a regular may always make in an attack, however few it made before.
const LEAST: u32 = 20;

/// What a file of regulars begins with.
const MAGIC: &[u8; 8] = b"tgknown1";

/// Who is known by what they did. See the module.
pub struct Known {
    seed: AtomicU64,
    /// Unix time of the process's clock at zero, in seconds.
    epoch: u64,
    /// Made when there is something to remember.
    tables: OnceLock<Tables>,
}

struct Tables {
    entries: Box<[Entry]>,
    paces: Box<[AtomicU32]>,
}

/// `who`: fingerprint above the second it was last seen in. `what`: the second it was first seen in, then good answers
/// (8 bits), good answers in the last second (12) and in the busiest (12).
#[derive(Default)]
struct Entry {
    who: AtomicU64,
    what: AtomicU64,
}

/// A source, hashed by this process's seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceId(u64);

impl SourceId {
    /// A source whose hash is known. For tests.
    #[cfg(test)]
    pub(super) fn from_hash(hash: u64) -> Self {
        Self(hash)
    }

    /// A few bits of it, for counting sources roughly.
    pub fn bits(self) -> u64 {
        self.0 >> 20
    }
}

#[derive(Clone, Copy)]
struct What {
    first: u32,
    answers: u64,
    second: u64,
    busiest: u64,
}

impl What {
    fn unpack(what: u64) -> Self {
        let first = (what >> 32) as u32;
        Self { first, answers: what >> 24 & 0xff, second: what >> 12 & 0xfff, busiest: what & 0xfff }
    }

    fn pack(self) -> u64 {
        u64::from(self.first) << 32
            | self.answers.min(0xff) << 24
            | self.second.min(0xfff) << 12
            | self.busiest.min(0xfff)
    }
}

impl Known {
    /// An empty table. `seed` keeps strangers from choosing their place; `epoch` is the Unix time, in seconds, of the
    /// clock's zero.
    pub fn new(seed: u64, epoch: u64) -> Self {
        Self { seed: AtomicU64::new(seed), epoch, tables: OnceLock::new() }
    }

    fn tables(&self) -> &Tables {
        self.tables.get_or_init(|| Tables {
            entries: (0..BUCKETS * WAYS).map(|_| Entry::default()).collect(),
            paces: (0..PACES).map(|_| AtomicU32::new(0)).collect(),
        })
    }

    /// Who `source` is to this table.
    pub fn id(&self, source: Network) -> SourceId {
        SourceId(xxh3_64_with_seed(source.as_bytes(), self.seed.load(Relaxed)))
    }

    /// Takes note of a good answer to `id`. Only for calm times.
    pub fn learn(&self, id: SourceId, now: Timestamp) {
        let now = self.second(now);
        if let Some(entry) = self.find(id, now) {
            let mut what = What::unpack(entry.what.load(Relaxed));
            let last = entry.who.load(Relaxed) as u32;
            what.second = if last == now { what.second + 1 } else { 1 };
            what.busiest = what.busiest.max(what.second);
            what.answers += 1;
            entry.what.store(what.pack(), Relaxed);
            entry.who.store(who(id, now), Relaxed);
            return;
        }
        // The one that was last seen longest ago makes room; a regular only when it would be forgotten anyway.
        let free = self.places(id).filter(|entry| !is_regular(entry, now)).min_by_key(|e| e.who.load(Relaxed) as u32);
        if let Some(entry) = free {
            entry.what.store(What { first: now, answers: 1, second: 1, busiest: 1 }.pack(), Relaxed);
            entry.who.store(who(id, now), Relaxed);
        }
    }

    /// What `id` may ask for in a second, if it is a regular: twice what it did in its busiest one.
    pub fn allowance(&self, id: SourceId, now: Timestamp) -> Option<u32> {
        let now = self.second(now);
        let entry = self.find(id, now).filter(|entry| is_regular(entry, now))?;
        let busiest = What::unpack(entry.what.load(Relaxed)).busiest as u32;
        Some((busiest * 2).max(LEAST))
    }

    /// Counts a request of `id`, and tells whether it is within `allowance` requests for this second.
    pub fn within(&self, id: SourceId, allowance: u32, now: Timestamp) -> bool {
        let second = self.second(now) & 0xffff;
        let pace = &self.tables().paces[id.0 as usize >> 8 & (PACES - 1)];
        let next = |pace: u32| if pace >> 16 == second { pace.saturating_add(1).max(1) } else { second << 16 | 1 };
        let seen = pace.load(Relaxed);
        let count = next(seen) & 0xffff;
        if count >= 0xffff || count > allowance {
            return false;
        }
        pace.store(next(seen), Relaxed);
        true
    }

    /// All regulars, to be kept over a restart. At most 4 MiB.
    pub fn save(&self, now: Timestamp) -> Vec<u8> {
        let now = self.second(now);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.seed.load(Relaxed).to_le_bytes());
        for (at, entry) in self.tables().entries.iter().enumerate().filter(|(_, entry)| is_regular(entry, now)) {
            bytes.extend((at as u32).to_le_bytes());
            bytes.extend(entry.who.load(Relaxed).to_le_bytes());
            bytes.extend(entry.what.load(Relaxed).to_le_bytes());
        }
        bytes
    }

    /// Takes over what [`Known::save`] wrote, before the first request. Returns how many regulars there are; `None` when
    /// `bytes` aren't ours.
    pub fn restore(&self, bytes: &[u8]) -> Option<usize> {
        let (seed, rows) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
        if rows.len() % 20 != 0 || rows.len() / 20 > BUCKETS * WAYS {
            return None;
        }
        self.seed.store(u64::from_le_bytes(*seed), Relaxed);
        for row in rows.chunks_exact(20) {
            let at = u32::from_le_bytes(row[..4].try_into().ok()?);
            let entry = self.tables().entries.get(at as usize)?;
            entry.who.store(u64::from_le_bytes(row[4..12].try_into().ok()?), Relaxed);
            entry.what.store(u64::from_le_bytes(row[12..].try_into().ok()?), Relaxed);
        }
        Some(rows.len() / 20)
    }

    fn second(&self, now: Timestamp) -> u32 {
        (self.epoch + now.as_nanos() / 1_000_000_000) as u32
    }

    fn places(&self, id: SourceId) -> impl Iterator<Item = &Entry> {
        let first = id.0 as usize & (BUCKETS - 1);
        let second = id.0 as usize >> 16 & (BUCKETS - 1);
        [first, second].into_iter().flat_map(|bucket| &self.tables().entries[bucket * WAYS..(bucket + 1) * WAYS])
    }

    fn find(&self, id: SourceId, now: u32) -> Option<&Entry> {
        self.places(id).find(|entry| {
            let who = entry.who.load(Relaxed);
            who >> 32 == id.0 >> 32 && who != 0 && now.saturating_sub(who as u32) <= MEMORY
        })
    }
}

fn who(id: SourceId, second: u32) -> u64 {
    id.0 >> 32 << 32 | u64::from(second)
}

fn is_regular(entry: &Entry, now: u32) -> bool {
    let last = entry.who.load(Relaxed) as u32;
    let what = What::unpack(entry.what.load(Relaxed));
    what.answers >= ANSWERS && last.saturating_sub(what.first) >= SPREAD && now.saturating_sub(last) <= MEMORY
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Known")
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn id(known: &Known, n: u32) -> SourceId {
        known.id(Network::of(IpAddr::V4(Ipv4Addr::from_bits(n)), 64))
    }

    fn visits(known: &Known, n: u32, seconds: impl IntoIterator<Item = u64>) {
        seconds.into_iter().for_each(|second| known.learn(id(known, n), at(second)));
    }

    #[test]
    fn a_regular_has_come_often_enough_over_long_enough() {
        let known = Known::new(7, 1_000);
        visits(&known, 1, [0, 1, 2, 4, 5]);
        visits(&known, 2, [0, 1, 2, 3, 4]);
        visits(&known, 3, [0, 10, 20, 30]);

        let is_regular = |n| known.allowance(id(&known, n), at(60)).is_some();

        assert_eq!([1, 2, 3, 4].map(is_regular), [true, false, false, false]);
    }

    #[test]
    fn addresses_of_one_ipv6_prefix_are_one_regular() {
        let known = Known::new(7, 1_000);
        let of = |text: &str| known.id(Network::of(IpAddr::V6(text.parse::<Ipv6Addr>().unwrap()), 64));

        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }

    #[test]
    fn a_regular_is_forgotten_after_a_day_and_not_before() {
        let known = Known::new(7, 1_000);
        visits(&known, 1, 0..10);

        assert!(known.allowance(id(&known, 1), at(86_000)).is_some());
        assert!(known.allowance(id(&known, 1), at(87_000)).is_none());
    }

    #[test]
    fn a_million_strangers_do_not_push_out_a_regular() {
        let known = Known::new(7, 1_000);
        visits(&known, 1, 0..10);

        (1_000..1_001_000).for_each(|n| known.learn(id(&known, n), at(20)));

        assert!(known.allowance(id(&known, 1), at(21)).is_some());
    }

    #[test]
    fn an_allowance_follows_the_busiest_second_and_holds_for_one() {
        let known = Known::new(7, 1_000);
        visits(&known, 1, (0..6).flat_map(|second| [second; 30]));
        let who = id(&known, 1);

        let allowance = known.allowance(who, at(10)).unwrap();
        let passed = (0..100).filter(|_| known.within(who, allowance, at(10))).count();

        assert_eq!((allowance, passed), (60, 60));
        assert!(known.within(who, allowance, at(11)));
    }

    #[test]
    fn regulars_are_there_again_after_a_restart_and_strangers_are_not() {
        let known = Known::new(7, 1_000);
        visits(&known, 1, 0..10);
        visits(&known, 2, [0]);
        let bytes = known.save(at(10));

        let next = Known::new(8, 1_010);
        let kept = next.restore(&bytes);

        assert_eq!(kept, Some(1));
        assert!(next.allowance(id(&next, 1), at(5)).is_some());
        assert!(next.allowance(id(&next, 2), at(5)).is_none());
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused() {
        let known = Known::new(7, 1_000);
        let mut cut = known.save(at(0));
        cut.extend([1, 2, 3]);

        for bytes in [&b""[..], b"tgknown1", b"something else entirely", &cut] {
            assert_eq!(known.restore(bytes), None);
        }
    }
}
