//! The gate before a service: counts who is in, lets in who has room, and keeps the rest out at once.
//!
//! | in an attack, of the limit | unknown | known |
//! |---|---|---|
//! | low priority | 50 % | 150 % |
//! | normal | 75 % | 200 % |
//! | high | 100 % | 250 % |
//!
//! The limit is the concurrency at which the queue begins ([`capacity`](super::capacity)), so unknown clients alone
//! never build one, and known ones find a free place. With a capacity that the operator gave, known clients of every
//! priority have the whole of it and nobody has more.
//!
//! # Invariants
//!
//! - A request waits for nothing here: it is let in or not.
//! - In calm times nobody is kept out, unless a surge from many sources has taken the headroom.
//! - A place is given back exactly once, when the answer begins or the exchange ends.
//! - The estimate is looked at by one thread at a time, and nobody waits for it.

mod dyed;
mod seat;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use tidegate_model::desired::{Capacity, Priority};
use tidegate_model::time::Timestamp;
use tracing::{info, warn};

use super::capacity::{Estimate, Turn, WINDOW, Window};
use super::known::{Known, SourceId};
use crate::record::{ServiceMetrics, ShedReason};
pub use seat::Seat;

/// Sources in a window that make a crowd: 16 of the 64 bits that they are hashed to. One source, or a few, are what
/// limits are for; a load test shall not be shed.
const CROWD: u32 = 16;

/// A surge brings more than so many times what is usual …
const SURGE: f64 = 2.0;

/// … and more than so many requests in a window besides, unless there has just been one: else each window would let in
/// as many anew.
const SURGE_LEAST: f64 = 20.0;

/// What is known about who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Known to be good.
    Known,
    /// Unknown, and would understand a challenge.
    Askable,
    /// Unknown.
    Unknown,
}

/// Why a request isn't let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barred {
    /// There is an attack, and this visitor can show that they are no part of it.
    Challenge,
    /// There is no room.
    Full,
}

/// The gate before one service. Outlives snapshots.
pub struct Gate {
    name: String,
    hot: Hot,
    told: Told,
    is_off: AtomicBool,
    estimate: Mutex<Estimate>,
    known: Arc<Known>,
    metrics: ServiceMetrics,
}

/// What every request writes, on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Hot {
    in_flight: AtomicU32,
    /// Dyed requests in flight, which are in no other number.
    dyed: AtomicU32,
    window_began: AtomicU64,
    arrived: AtomicU32,
    over: AtomicU32,
    crowded: AtomicU32,
    answered: AtomicU32,
    latency: AtomicU64,
    peak: AtomicU32,
    /// A bit for each source of the window, by its hash.
    sources: AtomicU64,
    /// When the one that is watched came; 0 where nobody is.
    watched: AtomicU64,
}

/// What every request reads, and windows write.
#[repr(align(128))]
struct Told {
    is_attack: AtomicBool,
    is_fixed: AtomicBool,
    /// A surge has found no room of late.
    is_suspicious: AtomicBool,
    limit: AtomicU32,
    limit_for_known: AtomicU32,
    /// Usual requests a second, in thousandths.
    usual: AtomicU64,
    /// Sources of the window before.
    sources: AtomicU64,
}

impl Gate {
    /// A gate that nothing is known about, for the service called `name`.
    pub fn new(name: &str, capacity: Capacity, known: Arc<Known>, metrics: ServiceMetrics) -> Self {
        let told = Told {
            is_attack: AtomicBool::new(false),
            is_fixed: AtomicBool::new(false),
            is_suspicious: AtomicBool::new(false),
            limit: AtomicU32::new(u32::MAX),
            limit_for_known: AtomicU32::new(u32::MAX),
            usual: AtomicU64::new(0),
            sources: AtomicU64::new(0),
        };
        let gate = Self {
            name: name.into(),
            hot: Hot::default(),
            told,
            is_off: AtomicBool::new(false),
            estimate: Mutex::new(Estimate::new(None)),
            known,
            metrics,
        };
        gate.set_capacity(capacity);
        gate
    }

    /// Takes over what the operator says of the capacity.
    pub fn set_capacity(&self, capacity: Capacity) {
        let fixed = match capacity {
            Capacity::Fixed(fixed) => Some(fixed),
            Capacity::Auto | Capacity::Off => None,
        };
        self.is_off.store(capacity == Capacity::Off, Relaxed);
        self.told.is_fixed.store(fixed.is_some(), Relaxed);
        let mut estimate = self.estimate.lock().unwrap_or_else(PoisonError::into_inner);
        estimate.set_fixed(fixed);
        if capacity == Capacity::Off && estimate.is_attack() {
            *estimate = Estimate::new(None);
            self.metrics.under_attack(false);
        }
        self.tell(&estimate, Timestamp::from_nanos(self.hot.window_began.load(Relaxed)));
    }

    /// Whether this service is under attack.
    pub fn is_attack(&self) -> bool {
        self.told.is_attack.load(Relaxed)
    }

    /// How many may be in flight before anybody is kept out; `None` where that isn't known, or there is no bound.
    pub fn limit(&self) -> Option<u32> {
        Some(self.told.limit.load(Relaxed)).filter(|limit| *limit != u32::MAX && !self.is_off.load(Relaxed))
    }

    /// Asks for a place. `standing` is asked only where it matters.
    ///
    /// # Errors
    ///
    /// There is no room for this one.
    pub fn enter(
        self: &Arc<Self>,
        priority: Priority,
        source: SourceId,
        standing: impl FnOnce() -> Standing,
        now: Timestamp,
    ) -> Result<Seat, Barred> {
        if self.is_off.load(Relaxed) {
            return Ok(self.seat(source, false));
        }
        self.hot.arrived.fetch_add(1, Relaxed);
        let bit = 1 << (source.bits() & 63);
        if self.hot.sources.load(Relaxed) & bit == 0 {
            self.hot.sources.fetch_or(bit, Relaxed);
        }
        self.look(now);
        let in_flight = self.hot.in_flight.load(Relaxed);
        match self.room(priority, in_flight, standing, now) {
            Ok(()) => {}
            Err(Barred::Challenge) => return Err(Barred::Challenge),
            Err(Barred::Full) => {
                self.hot.crowded.fetch_add(1, Relaxed);
                return Err(Barred::Full);
            }
        }
        let in_flight = self.hot.in_flight.fetch_add(1, Relaxed) + 1;
        if in_flight > self.hot.peak.load(Relaxed) {
            self.hot.peak.fetch_max(in_flight, Relaxed);
        }
        let mut seat = self.seat(source, true);
        if self.hot.watched.load(Relaxed) == 0 {
            let free = self.hot.watched.compare_exchange(0, now.as_nanos().max(1), Relaxed, Relaxed);
            seat.is_watched = free.is_ok();
        }
        Ok(seat)
    }

    fn seat(self: &Arc<Self>, source: SourceId, counts: bool) -> Seat {
        Seat { gate: Arc::clone(self), source, counts, is_watched: false, learnt: false, dyed: false, begun: None }
    }

    fn room(
        &self,
        priority: Priority,
        in_flight: u32,
        standing: impl FnOnce() -> Standing,
        now: Timestamp,
    ) -> Result<(), Barred> {
        let limit = self.told.limit.load(Relaxed);
        let for_known = || self.told.limit_for_known.load(Relaxed);
        let is_fixed = self.told.is_fixed.load(Relaxed);
        if !self.is_attack() {
            if in_flight < limit || !(is_fixed || self.is_surge(now)) {
                return Ok(());
            }
            self.hot.over.fetch_add(1, Relaxed);
            let bound = if is_fixed { limit } else { for_known() };
            let admitted = standing() == Standing::Known && in_flight < bound;
            return if admitted { Ok(()) } else { Err(self.shed(ShedReason::Saturated)) };
        }
        let (for_unknown, for_known) = match (priority, is_fixed) {
            (_, true) => (share(limit, percent(priority)), limit),
            (_, false) => (share(limit, percent(priority)), share(for_known(), percent_known(priority))),
        };
        match standing() {
            Standing::Known if in_flight < for_known => Ok(()),
            Standing::Known => Err(self.shed(ShedReason::Full)),
            Standing::Askable => Err(Barred::Challenge),
            Standing::Unknown if in_flight < for_unknown => Ok(()),
            Standing::Unknown => Err(self.shed(ShedReason::Attack)),
        }
    }

    fn shed(&self, reason: ShedReason) -> Barred {
        self.metrics.shed(reason);
        Barred::Full
    }

    /// Whether much more comes than is usual, and from many sources.
    fn is_surge(&self, now: Timestamp) -> bool {
        let sources = self.hot.sources.load(Relaxed) | self.told.sources.load(Relaxed);
        let began = Timestamp::from_nanos(self.hot.window_began.load(Relaxed));
        let usual = self.told.usual.load(Relaxed) as f64 / 1e3 * now.since(began).max(WINDOW / 10).as_secs_f64();
        let arrived = f64::from(self.hot.arrived.load(Relaxed));
        let least = if self.told.is_suspicious.load(Relaxed) { 0.0 } else { SURGE_LEAST };
        sources.count_ones() >= CROWD && arrived > usual * SURGE + least
    }

    /// Closes the window, if it is time and nobody else does.
    fn look(&self, now: Timestamp) {
        let began = self.hot.window_began.load(Relaxed);
        if now.as_nanos() < began + WINDOW.as_nanos() as u64 {
            return;
        }
        let mut estimate = match self.estimate.try_lock() {
            Ok(estimate) => estimate,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if self.hot.window_began.compare_exchange(began, now.as_nanos(), Relaxed, Relaxed).is_err() {
            return; // Somebody has closed it since.
        }
        let window = self.take_window(Timestamp::from_nanos(began), now);
        if began == 0 {
            return; // The first one only begins.
        }
        let turn = estimate.roll(&window, now);
        self.tell(&estimate, now);
        drop(estimate);
        match turn {
            Some(Turn::Began) => {
                self.metrics.under_attack(true);
                let (in_flight, limit) = (window.peak, self.told.limit.load(Relaxed));
                warn!(service = self.name, in_flight, limit, "service under attack");
            }
            Some(Turn::Ended(lasted)) => {
                self.metrics.under_attack(false);
                info!(service = self.name, ?lasted, "attack over");
            }
            None => {}
        }
    }

    fn take_window(&self, began: Timestamp, now: Timestamp) -> Window {
        let hot = &self.hot;
        self.told.sources.store(hot.sources.swap(0, Relaxed), Relaxed);
        let watched = hot.watched.load(Relaxed);
        let waiting = if watched == 0 { Duration::ZERO } else { now.since(Timestamp::from_nanos(watched)) };
        Window {
            took: now.since(began),
            arrived: hot.arrived.swap(0, Relaxed),
            over: hot.over.swap(0, Relaxed),
            crowded: hot.crowded.swap(0, Relaxed),
            answered: hot.answered.swap(0, Relaxed),
            latency: hot.latency.swap(0, Relaxed),
            waiting,
            peak: hot.peak.swap(hot.in_flight.load(Relaxed), Relaxed),
        }
    }

    fn tell(&self, estimate: &Estimate, now: Timestamp) {
        let limit = estimate.limit(now);
        self.told.limit.store(limit, Relaxed);
        self.told.limit_for_known.store(estimate.limit_for_known(now), Relaxed);
        self.told.usual.store((estimate.usual() * 1e3) as u64, Relaxed);
        self.told.is_attack.store(estimate.is_attack(), Relaxed);
        self.told.is_suspicious.store(estimate.is_suspicious(now), Relaxed);
        self.metrics.capacity(if limit == u32::MAX { 0 } else { limit });
    }
}

/// What unknown clients of this priority may have of the limit, in percent.
fn percent(priority: Priority) -> u32 {
    match priority {
        Priority::Low => 50,
        Priority::Normal => 75,
        Priority::High => 100,
    }
}

/// What known clients of this priority may have of the limit for known clients, which is twice the other, in percent.
fn percent_known(priority: Priority) -> u32 {
    match priority {
        Priority::Low => 75,
        Priority::Normal => 100,
        Priority::High => 125,
    }
}

fn share(of: u32, percent: u32) -> u32 {
    (u64::from(of) * u64::from(percent)).div_ceil(100).min(u64::from(u32::MAX)) as u32
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::decide::key::Network;
    use crate::record::Metrics;

    fn gate(capacity: Capacity) -> Arc<Gate> {
        let known = Arc::new(Known::new(7, 1_000));
        Arc::new(Gate::new("shop", capacity, known, Metrics::new().service("shop")))
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    fn enter(gate: &Arc<Gate>, n: u32, standing: Standing, now: Timestamp) -> Result<Seat, Barred> {
        let source = gate.known.id(Network::of(IpAddr::V4(Ipv4Addr::from_bits(n)), 64));
        gate.enter(Priority::Normal, source, || standing, now)
    }

    /// A gate that has seen 30 s of one request every 10 ms, answered within 10 ms.
    fn usual() -> (Arc<Gate>, u64) {
        let gate = gate(Capacity::Auto);
        for n in 0..3_000 {
            let mut seat = enter(&gate, 1, Standing::Unknown, at(1_000 + n * 10)).unwrap();
            seat.answered(200, Duration::from_millis(10), at(1_010 + n * 10));
        }
        (gate, 31_010)
    }

    /// Twenty a millisecond, of which one is answered.
    fn flood(gate: &Arc<Gate>, from: u64, millis: u64, sources: u32) -> (Vec<Seat>, usize) {
        let (mut inside, mut barred) = (std::collections::VecDeque::new(), 0);
        for n in 0..millis {
            for k in 0..20 {
                match enter(gate, 100 + (n as u32 * 20 + k) % sources, Standing::Unknown, at(from + n)) {
                    Ok(seat) => inside.push_back((n, seat)),
                    Err(_) => barred += 1,
                }
            }
            if let Some((came, mut seat)) = inside.pop_front() {
                seat.answered(200, Duration::from_millis(n - came + 10), at(from + n));
            }
        }
        (inside.into_iter().map(|(_, seat)| seat).collect(), barred)
    }

    #[test]
    fn a_flood_from_many_sources_is_an_attack_and_the_queue_stays_short() {
        let (gate, now) = usual();

        let (inside, barred) = flood(&gate, now, 2_000, 100_000);

        assert!(gate.is_attack());
        assert!(inside.len() < 40, "{} in flight", inside.len());
        assert!(barred > 36_000, "{barred}");
    }

    #[test]
    fn the_same_load_from_one_source_is_left_to_limits() {
        let (gate, now) = usual();

        let (_, barred) = flood(&gate, now, 200, 1);

        assert_eq!((gate.is_attack(), barred), (false, 0));
    }

    #[test]
    fn in_an_attack_visitors_are_challenged_and_known_clients_pass() {
        let (gate, now) = usual();
        let (_inside, _) = flood(&gate, now, 2_000, 100_000);
        let now = at(now + 2_000);

        assert!(enter(&gate, 1, Standing::Known, now).is_ok());
        assert_eq!(enter(&gate, 2, Standing::Askable, now).unwrap_err(), Barred::Challenge);
    }

    #[test]
    fn a_place_comes_back_once_whether_the_answer_began_or_not() {
        let gate = gate(Capacity::Fixed(2));
        let now = at(1_000);
        let (mut first, second) =
            (enter(&gate, 1, Standing::Unknown, now).unwrap(), enter(&gate, 1, Standing::Unknown, now).unwrap());
        assert_eq!(enter(&gate, 1, Standing::Known, now).unwrap_err(), Barred::Full);

        first.answered(200, Duration::from_millis(1), now);
        drop(first);

        assert!(enter(&gate, 1, Standing::Known, now).is_ok());
        drop(second);
        assert_eq!(gate.hot.in_flight.load(Relaxed), 0);
    }

    #[test]
    fn a_service_without_a_bound_lets_everybody_in() {
        let gate = gate(Capacity::Off);

        let (inside, barred) = flood(&gate, 1_000, 200, 100_000);

        assert_eq!((barred, gate.limit()), (0, None));
        assert!(inside.len() > 3_000);
    }

    #[test]
    fn low_priorities_are_shed_first_and_known_clients_last() {
        let gate = gate(Capacity::Fixed(100));
        let hold = |count: u32| -> Vec<Seat> {
            (0..count)
                .map(|n| {
                    gate.enter(Priority::High, SourceId::from_hash(n.into()), || Standing::Known, at(1_001)).unwrap()
                })
                .collect()
        };
        let seats = hold(100);
        gate.enter(Priority::Low, SourceId::from_hash(0), || Standing::Unknown, at(1_010)).unwrap_err();
        gate.look(at(2_000));
        assert!(gate.is_attack());
        drop(seats);

        let admitted = |held: u32, priority, standing| {
            let _seats = hold(held);
            gate.enter(priority, SourceId::from_hash(1), || standing, at(2_001)).is_ok()
        };

        assert_eq!([49, 50].map(|n| admitted(n, Priority::Low, Standing::Unknown)), [true, false]);
        assert_eq!([74, 75].map(|n| admitted(n, Priority::Normal, Standing::Unknown)), [true, false]);
        assert_eq!([99, 100].map(|n| admitted(n, Priority::Low, Standing::Known)), [true, false]);
    }
}
