//! What live traffic was promised, and whether dyed traffic is shed for its sake.
//!
//! ```text
//! open ──a promise is broken──▶ shut ──none is, for as long as it rests──▶ opening (1/16, 1/8, … of it)
//!   ▲                            ▲                                           │        │
//!   │                            └──────── broken again: rests twice as long ┘        │
//!   └──────────────────────────────────────────────────────────────────── all of it ──┘
//! ```
//!
//! A percentile is over its bound exactly when more than the allowed share of requests took longer than the bound, so
//! counting those is enough, and exact. Requests belong to the slice of time in which they came; one that is still
//! unanswered when the bound has passed counts as too late, so that a service that has stopped answering is seen at once.
//!
//! # Invariants
//!
//! - Only live requests are counted. Dyed ones can't break what live ones were promised, except by making these slow.
//! - Hysteresis: shed at the bound, come back only below four fifths of it, and by and by.
//! - Fewer live requests than `least` prove nothing: dyed traffic isn't shed for them.
//! - The judge is looked after by one thread at a time, and nobody waits for it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use tidegate_model::desired::{Promise, Shed};
use tidegate_model::time::Timestamp;
use tracing::{info, warn};

use crate::record::ServiceMetrics;

/// Slices that the span is cut into.
const SLICES: u64 = 10;

/// Slices that are kept. More than are looked at, so that one being begun anew is in nobody's way.
const KEPT: usize = 16;

/// All of dyed traffic, in the parts that shares are counted in.
pub const WHOLE: u32 = 1_024;

/// The share that is let back in at first.
const FIRST: u32 = WHOLE / 16;

/// So many times the span is the longest rest.
const LONGEST_REST: u32 = 16;

/// What one service's live traffic was promised, and what came of it. Outlives snapshots while it means the same.
pub struct Slo {
    service: String,
    spec: Shed,
    /// Nanoseconds.
    slice: u64,
    slices: [Slice; KEPT],
    looked: AtomicU64,
    judge: Mutex<Judge>,
    /// What the judge said last.
    share: AtomicU32,
    /// When it may look different, in nanoseconds.
    until: AtomicU64,
    metrics: ServiceMetrics,
}

/// Live requests that came in one slice of time.
#[derive(Default)]
#[repr(align(128))]
struct Slice {
    /// Its number, plus one.
    number: AtomicU64,
    begun: AtomicU32,
    ended: AtomicU32,
    broken: [AtomicU32; Shed::MOST],
}

/// A live request that is listened to.
pub struct Begun {
    slo: Arc<Slo>,
    came: Timestamp,
    ended: bool,
}

impl Slo {
    /// Nothing is known of the service called `service` yet.
    pub fn new(service: &str, spec: &Shed, metrics: ServiceMetrics) -> Self {
        metrics.dyed_shedding(false);
        Self {
            service: service.into(),
            slice: (spec.over.as_nanos() as u64 / SLICES).max(1),
            slices: Default::default(),
            looked: AtomicU64::new(0),
            judge: Mutex::new(Judge::new(spec.over)),
            share: AtomicU32::new(WHOLE),
            until: AtomicU64::new(0),
            spec: spec.clone(),
            metrics,
        }
    }

    /// Whether it may be handed on to `spec`.
    pub fn means(&self, spec: &Shed) -> bool {
        self.spec == *spec
    }

    /// A live request has come.
    pub fn begin(self: &Arc<Self>, now: Timestamp) -> Begun {
        self.slice(now).begun.fetch_add(1, Relaxed);
        Begun { slo: Arc::clone(self), came: now, ended: false }
    }

    /// Which share of dyed traffic may come, in parts of [`WHOLE`].
    pub fn share(&self, now: Timestamp) -> u32 {
        self.look(now);
        self.share.load(Relaxed)
    }

    /// How long it is worth waiting before the next dyed request.
    pub fn wait(&self, now: Timestamp) -> Duration {
        Timestamp::from_nanos(self.until.load(Relaxed)).since(now)
    }

    /// The slice of `at`, begun anew where an old one is in its place.
    fn slice(&self, at: Timestamp) -> &Slice {
        let number = self.number(at) + 1;
        let slice = &self.slices[(number % KEPT as u64) as usize];
        let old = slice.number.load(Relaxed);
        if old < number && slice.number.compare_exchange(old, number, Relaxed, Relaxed).is_ok() {
            // What others count meanwhile is lost: some requests in the first nanoseconds of a slice.
            slice.begun.store(0, Relaxed);
            slice.ended.store(0, Relaxed);
            slice.broken.iter().for_each(|broken| broken.store(0, Relaxed));
        }
        slice
    }

    fn number(&self, at: Timestamp) -> u64 {
        at.as_nanos() / self.slice
    }

    /// Has the judge look, if it is time and nobody else does.
    pub fn look(&self, now: Timestamp) {
        let looked = self.looked.load(Relaxed);
        if now.as_nanos() < looked.saturating_add(self.slice / 4) {
            return;
        }
        let mut judge = match self.judge.try_lock() {
            Ok(judge) => judge,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.looked.store(now.as_nanos(), Relaxed);
        let turn = judge.look(self.verdict(now), now);
        self.share.store(judge.share(), Relaxed);
        self.until.store((now + judge.wait(now)).as_nanos(), Relaxed);
        drop(judge);
        match turn {
            Some(Turn::Shut) => {
                self.metrics.dyed_shedding(true);
                warn!(service = self.service, "dyed traffic is shed for the sake of live traffic");
            }
            Some(Turn::Opened) => {
                self.metrics.dyed_shedding(false);
                info!(service = self.service, "dyed traffic comes in again");
            }
            None => {}
        }
    }

    /// How live traffic of the span before `now` did.
    fn verdict(&self, now: Timestamp) -> Verdict {
        let newest = self.number(now);
        let mut all = [(0_u64, 0_u64); Shed::MOST];
        for slice in &self.slices {
            let number = slice.number.load(Relaxed);
            if number == 0 || number > newest + 1 || number + SLICES <= newest + 1 {
                continue;
            }
            let end = Timestamp::from_nanos(number * self.slice);
            let ended = u64::from(slice.ended.load(Relaxed));
            let open = u64::from(slice.begun.load(Relaxed)).saturating_sub(ended);
            for ((total, broken), (objective, counted)) in all.iter_mut().zip(self.spec.when.iter().zip(&slice.broken))
            {
                let late = match objective.promise {
                    Promise::Within(bound) if end + bound <= now => open,
                    Promise::Within(_) | Promise::NoError => 0,
                };
                *total += ended + late;
                *broken += u64::from(counted.load(Relaxed)) + late;
            }
        }
        let judged = self.spec.when.iter().zip(all).filter(|(_, (total, _))| *total >= u64::from(self.spec.least));
        judged
            .map(|(objective, (total, broken))| Verdict::of(broken, total, objective.allowed))
            .max()
            .unwrap_or_default()
    }
}

impl Begun {
    /// It was answered, well or not.
    pub fn ended(mut self, error: bool, now: Timestamp) {
        self.end(error, now);
    }

    /// Its client has left. One that had waited for too long by then is evidence; another one never came.
    pub fn left(mut self, now: Timestamp) {
        let took = now.since(self.came);
        let late = |promise| matches!(promise, Promise::Within(bound) if took > bound);
        if self.slo.spec.when.iter().any(|objective| late(objective.promise)) {
            self.end(false, now);
        }
    }

    fn end(&mut self, error: bool, now: Timestamp) {
        self.ended = true;
        let Some(slice) = self.slice() else { return };
        let took = now.since(self.came);
        for (objective, broken) in self.slo.spec.when.iter().zip(&slice.broken) {
            let is_broken = match objective.promise {
                Promise::NoError => error,
                Promise::Within(bound) => took > bound,
            };
            if is_broken {
                broken.fetch_add(1, Relaxed);
            }
        }
        slice.ended.fetch_add(1, Relaxed);
    }

    /// The slice in which it came; `None` when that is too long ago to matter.
    fn slice(&self) -> Option<&Slice> {
        let number = self.slo.number(self.came) + 1;
        let slice = &self.slo.slices[(number % KEPT as u64) as usize];
        (slice.number.load(Relaxed) == number).then_some(slice)
    }
}

impl Drop for Begun {
    /// Nothing is known of what became of it: it never came.
    fn drop(&mut self) {
        if !self.ended
            && let Some(slice) = self.slice()
        {
            slice.begun.fetch_sub(1, Relaxed);
        }
    }
}

impl std::fmt::Debug for Slo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slo({})", self.service)
    }
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Begun({})", self.slo.service)
    }
}

/// How live traffic does. The worst comes last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As promised, with room to spare; or nobody can say.
    #[default]
    Good,
    /// As promised, but barely.
    Close,
    /// A promise is broken.
    Broken,
}

impl Verdict {
    /// For `broken` of `total` requests, where `allowed` millionths may be.
    fn of(broken: u64, total: u64, allowed: u32) -> Self {
        let (share, allowed) = (u128::from(broken) * 1_000_000, u128::from(total) * u128::from(allowed));
        match () {
            () if share > allowed => Self::Broken,
            () if share * 5 > allowed * 4 => Self::Close,
            () => Self::Good,
        }
    }
}

/// A change that is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Dyed traffic is shed from now on.
    Shut,
    /// All of it comes in again.
    Opened,
}

/// Says how much of dyed traffic comes in. Pure: it is given verdicts and the time.
#[derive(Clone, Debug)]
pub struct Judge {
    span: Duration,
    rest: Duration,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Live traffic has done well since then.
    Shut(Option<Timestamp>),
    /// This share comes in, and more from then on.
    Opening(u32, Timestamp),
}

impl Judge {
    /// Everything comes in. Live traffic is looked at over `span`.
    pub fn new(span: Duration) -> Self {
        Self { span, rest: span, phase: Phase::Open }
    }

    /// Takes in how live traffic does.
    pub fn look(&mut self, verdict: Verdict, now: Timestamp) -> Option<Turn> {
        let (phase, turn) = match (self.phase, verdict) {
            (Phase::Open, Verdict::Broken) => (Phase::Shut(None), Some(Turn::Shut)),
            (Phase::Open, _) => (Phase::Open, None),
            (Phase::Shut(_), Verdict::Broken | Verdict::Close) => (Phase::Shut(None), None),
            (Phase::Shut(since), Verdict::Good) => {
                let since = since.unwrap_or(now);
                let rested = now.since(since) >= self.rest;
                (if rested { Phase::Opening(FIRST, now + self.span / 2) } else { Phase::Shut(Some(since)) }, None)
            }
            (Phase::Opening(..), Verdict::Broken) => {
                self.rest = (self.rest * 2).min(self.span * LONGEST_REST);
                (Phase::Shut(None), None)
            }
            (Phase::Opening(share, _), Verdict::Close) => (Phase::Opening(share, now + self.span / 2), None),
            (Phase::Opening(share, at), Verdict::Good) if now < at => (Phase::Opening(share, at), None),
            (Phase::Opening(share, _), Verdict::Good) if share * 2 < WHOLE => {
                (Phase::Opening(share * 2, now + self.span / 2), None)
            }
            (Phase::Opening(..), Verdict::Good) => {
                self.rest = self.span;
                (Phase::Open, Some(Turn::Opened))
            }
        };
        self.phase = phase;
        turn
    }

    /// Which share of dyed traffic may come, in parts of [`WHOLE`].
    pub fn share(&self) -> u32 {
        match self.phase {
            Phase::Open => WHOLE,
            Phase::Shut(_) => 0,
            Phase::Opening(share, _) => share,
        }
    }

    /// How long it takes at least before more of it may come.
    fn wait(&self, now: Timestamp) -> Duration {
        match self.phase {
            Phase::Open => Duration::ZERO,
            Phase::Shut(None) => self.rest,
            Phase::Shut(Some(since)) => self.rest.saturating_sub(now.since(since)),
            Phase::Opening(_, at) => at.since(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_model::desired::Objective;

    use super::*;
    use crate::record::Metrics;

    const SPAN: Duration = Duration::from_secs(10);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    fn slo() -> Arc<Slo> {
        let within = Promise::Within(Duration::from_millis(300));
        let when = vec![
            Objective { promise: Promise::NoError, allowed: 10_000 },
            Objective { promise: within, allowed: 100_000 },
        ];
        let spec = Shed { when, over: SPAN, least: 20, everywhere: false };
        Arc::new(Slo::new("shop", &spec, Metrics::new().service("shop")))
    }

    /// `many` requests from `from` on, one a millisecond, each answered after `took` milliseconds.
    fn answered(slo: &Arc<Slo>, from: u64, many: u64, took: u64, error: bool) {
        for n in from..from + many {
            slo.begin(at(n)).ended(error, at(n + took));
        }
    }

    #[test]
    fn nothing_is_shed_while_live_traffic_gets_what_it_was_promised() {
        let slo = slo();

        answered(&slo, 0, 1_000, 20, false);
        answered(&slo, 1_000, 9, 20, true);

        assert_eq!(slo.share(at(1_100)), WHOLE);
    }

    #[test]
    fn errors_and_slow_answers_shed_dyed_traffic() {
        let (failing, slow) = (slo(), slo());

        answered(&failing, 0, 980, 20, false);
        answered(&failing, 980, 20, 20, true);
        answered(&slow, 0, 880, 20, false);
        answered(&slow, 880, 120, 301, false);

        assert_eq!((failing.share(at(1_400)), slow.share(at(1_400))), (0, 0));
        assert_eq!(failing.wait(at(1_400)), SPAN);
    }

    #[test]
    fn a_service_that_answers_nobody_any_more_is_seen_before_it_does() {
        let slo = slo();
        let waiting: Vec<_> = (0..100).map(|n| slo.begin(at(n))).collect();

        let before = slo.share(at(1_200));
        let after = slo.share(at(1_800));

        assert_eq!((before, after), (WHOLE, 0));
        drop(waiting);
    }

    #[test]
    fn few_live_requests_prove_nothing_nor_do_clients_that_leave_soon() {
        let (few, left) = (slo(), slo());

        answered(&few, 0, 19, 20, true);
        (0..100).for_each(|n| left.begin(at(n)).left(at(n + 200)));
        let before = left.share(at(1_400));
        (0..100).for_each(|n| left.begin(at(1_000 + n)).left(at(1_000 + n + 301)));

        assert_eq!((few.share(at(1_000)), before), (WHOLE, WHOLE));
        assert_eq!(left.share(at(1_800)), 0, "they had waited long enough");
    }

    #[test]
    fn what_was_before_the_span_is_forgotten() {
        let slo = slo();

        answered(&slo, 0, 100, 20, true);
        answered(&slo, 11_000, 100, 20, false);

        assert_eq!(slo.share(at(11_500)), WHOLE);
    }

    #[test]
    fn dyed_traffic_comes_back_by_and_by_and_rests_longer_the_second_time() {
        let mut judge = Judge::new(SPAN);
        judge.look(Verdict::Broken, at(0));
        let mut shares = Vec::new();
        for second in 1..60 {
            judge.look(Verdict::Good, at(second * 1_000));
            shares.push(judge.share());
        }
        let opened_at = shares.iter().position(|share| *share == WHOLE).unwrap();

        assert!(shares[..10].iter().all(|share| *share == 0), "{shares:?}");
        assert!(shares.windows(2).all(|pair| pair[0] <= pair[1] && pair[1] <= (pair[0] * 2).max(FIRST)), "{shares:?}");
        assert!((20..45).contains(&opened_at), "{opened_at}");
        judge.look(Verdict::Broken, at(100_000));
        judge.look(Verdict::Good, at(101_000));
        judge.look(Verdict::Good, at(111_000));
        assert_eq!(judge.share(), FIRST);
        judge.look(Verdict::Broken, at(112_000));
        judge.look(Verdict::Good, at(113_000));
        judge.look(Verdict::Good, at(123_000));
        assert_eq!(judge.share(), 0, "it rests twice as long");
        judge.look(Verdict::Good, at(133_000));
        assert_eq!(judge.share(), FIRST);
    }

    /// A service that answers late once more than `able` requests a second come.
    fn simulate(able: f64, live: f64, dyed: f64, seconds: u64) -> (f64, u32) {
        let slo = slo();
        let (mut carried, mut turns, mut last) = (0.0, 0, WHOLE);
        for tick in 0..seconds * 10 {
            let now = at(tick * 100);
            let share = slo.share(now);
            turns += u32::from((share == 0) != (last == 0));
            last = share;
            let admitted = dyed * f64::from(share) / f64::from(WHOLE);
            carried += admitted / 10.0;
            let took = if live + admitted > able { 400 } else { 50 };
            for _ in 0..(live / 10.0) as u64 {
                slo.begin(now).ended(false, now + Duration::from_millis(took));
            }
        }
        (carried, turns)
    }

    #[test]
    fn in_a_simulation_dyed_traffic_that_fits_is_never_shed_and_too_much_of_it_mostly() {
        let (fits, calm) = simulate(1_000.0, 100.0, 500.0, 600);
        let (too_much, turns) = simulate(1_000.0, 100.0, 20_000.0, 600);

        assert_eq!((fits.round(), calm), (500.0 * 600.0, 0));
        assert!(too_much < 20_000.0 * 600.0 / 10.0, "{too_much}");
        assert!(turns < 40, "it doesn't flap: {turns}");
    }

    proptest! {
        #[test]
        fn whatever_happens_the_share_is_one_and_good_times_open_again(
            verdicts in prop::collection::vec((0_u8..3, 1_u64..20_000), 0..200),
        ) {
            let mut judge = Judge::new(SPAN);
            let mut now = 0;
            for (verdict, gap) in verdicts {
                now += gap;
                let verdict = [Verdict::Good, Verdict::Close, Verdict::Broken][usize::from(verdict)];
                judge.look(verdict, at(now));
                prop_assert!(judge.share() <= WHOLE);
                prop_assert!(verdict != Verdict::Broken || judge.share() == 0);
            }
            for _ in 0..400 {
                now += 1_000;
                judge.look(Verdict::Good, at(now));
            }
            prop_assert_eq!(judge.share(), WHOLE);
        }
    }
}
