//! How much a service can take, measured: the concurrency at which its queue begins.
//!
//! Two questions, each with an answer that has been tried elsewhere. *How many at once?* The throughput at the
//! bottleneck times the latency without a queue: the bandwidth-delay product (Little's law; BBR, Cardwell et al., ACM
//! Queue 2016). From there the limit follows latency, as in TCP Vegas and Netflix' concurrency-limits: up while the
//! latency stays at its baseline, down in proportion when it doesn't. *Who is over it?* Answered where the request
//! stands, at once, so that the queue never builds (Envoy's adaptive concurrency; Uber's QALM sheds by priority).
//!
//! Unlike those, nothing is shed in calm times only because latency has grown: a service that has become slow, a new
//! version, a load test by one client are none of our business. An attack begins when all of these come together
//! within [`SUSPICION`]: the concurrency is far above what is usual, much more arrives than is usual, it comes from
//! many sources, and the service answers late.
//!
//! # Invariants
//!
//! - The limit is at least [`FLOOR`], and known clients always have room for what was usual before.
//! - The baseline is learnt in calm times only; an attack can't make its own latency the normal one, except at the
//!   floor, where no queue can be the cause.
//! - Leaving needs [`REST`] of quiet, so that a state doesn't flap.
//!
//! # Not here
//!
//! Counting requests is `gate`'s, who is known `known`'s.

use std::time::Duration;

use tidegate_model::time::Timestamp;

/// How long requests are counted before the estimate is looked at again. Shorter than a person notices, long enough for
/// a few answers of a busy service.
pub const WINDOW: Duration = Duration::from_millis(50);

/// An attack is over when so long no more arrived than the service can take.
pub const REST: Duration = Duration::from_secs(15);

/// A service that has just appeared isn't judged for so long: after a restart all its clients come at once.
pub const LEARNING: Duration = Duration::from_secs(5);

/// Requests in flight that a service is always given, however slow it seems.
pub const FLOOR: u32 = 4;

/// In calm times so many may be in flight whatever was usual, before anybody is looked at twice.
const HEADROOM: u32 = 64;

/// In calm times concurrency may grow by this factor within a window before anybody is looked at twice.
const STEP: u32 = 4;

/// Time after which the usual rate has followed a change by two thirds.
const USUAL_OVER: Duration = Duration::from_secs(60);

/// Time in which the usual peak of concurrency falls to half, where it isn't reached again.
const PEAK_HALVES: Duration = Duration::from_secs(600);

/// Answers after which the baseline has followed a change by two thirds.
const BASELINE_OVER: f64 = 200.0;

/// A surge is remembered for so long: the queue that it makes is seen only when it is waited in, and whoever waits
/// sends nothing more.
const SUSPICION: Duration = Duration::from_secs(1);

/// How long latency must stay high at the floor before it is believed to be the service's own.
const CONVINCED: Duration = Duration::from_secs(1);

/// What was counted in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    /// Its length.
    pub took: Duration,
    /// Requests that wanted to come in.
    pub arrived: u32,
    /// Those that found no room, in calm times: they were over the limit in a surge from many sources.
    pub over: u32,
    /// Those among all that were kept out for want of room.
    pub crowded: u32,
    /// Answers that began.
    pub answered: u32,
    /// The sum of their times to the first byte, in nanoseconds.
    pub latency: u64,
    /// How long one that is still unanswered has waited. One is watched at a time.
    pub waiting: Duration,
    /// The most that were in flight at once.
    pub peak: u32,
}

impl Window {
    fn per_second(&self, count: u32) -> f64 {
        f64::from(count) / self.took.as_secs_f64().max(1e-3)
    }

    /// The mean time to the first byte in nanoseconds, or at least what somebody has already waited.
    fn latency(&self) -> Option<f64> {
        let mean = (self.answered > 0).then(|| self.latency as f64 / f64::from(self.answered));
        let waiting = self.waiting.as_nanos() as f64;
        match mean {
            Some(mean) => Some(mean.max(waiting)),
            None => (waiting > 0.0).then_some(waiting),
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// An attack has begun.
    Began,
    /// It is over, after so long.
    Ended(Duration),
}

/// What is believed about a service.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// `Some`: this many, said by the operator.
    fixed: Option<u32>,
    began: Option<Timestamp>,
    /// Nanoseconds to the first byte without a queue; 0 while unknown.
    baseline: f64,
    /// Requests a second in calm times.
    usual: f64,
    /// The most in flight in calm times, slowly forgotten.
    peak: f64,
    /// When a surge from many sources last found no room.
    surged: Option<Timestamp>,
    attack: Option<Attack>,
}

#[derive(Clone, Debug)]
struct Attack {
    since: Timestamp,
    /// Since when no more arrives than can be taken.
    quiet_since: Option<Timestamp>,
    limit: f64,
    /// Requests in flight when it was seen, as far as they haven't been answered since. Known clients wait behind them.
    line: u32,
    /// The most answers a second that were seen.
    best: f64,
    /// The baseline that holds for this attack.
    baseline: f64,
    /// Since when latency is high though next to nothing is in flight.
    slow_since: Option<Timestamp>,
}

impl Estimate {
    /// Nothing is known yet. `fixed` is a capacity that the operator gave.
    pub fn new(fixed: Option<u32>) -> Self {
        Self { fixed, began: None, baseline: 0.0, usual: 0.0, peak: 0.0, surged: None, attack: None }
    }

    /// Takes over another capacity from the operator.
    pub fn set_fixed(&mut self, fixed: Option<u32>) {
        self.fixed = fixed;
    }

    /// Whether there is an attack.
    pub fn is_attack(&self) -> bool {
        self.attack.is_some()
    }

    /// How many requests may be in flight: in calm times before anybody is looked at twice, in an attack for all.
    pub fn limit(&self, now: Timestamp) -> u32 {
        match (self.fixed, &self.attack) {
            (Some(fixed), _) => fixed,
            (None, Some(attack)) => attack.limit as u32,
            (None, None) if self.is_learning(now) => u32::MAX,
            (None, None) => HEADROOM.max((self.peak as u32).saturating_mul(STEP)),
        }
    }

    /// How many may be in flight when known clients come on top.
    pub fn limit_for_known(&self, now: Timestamp) -> u32 {
        match self.fixed {
            Some(fixed) => fixed,
            // What came before the attack was seen still fills the line; known clients wait in it rather than be refused.
            None => {
                let line = self.attack.as_ref().map_or(0, |attack| attack.line);
                self.limit(now).max(self.peak as u32).max(HEADROOM).saturating_mul(2).saturating_add(line)
            }
        }
    }

    /// Whether a surge has found no room of late, so that the next one needs no more proof.
    pub fn is_suspicious(&self, now: Timestamp) -> bool {
        self.surged.is_some_and(|at| now.since(at) <= SUSPICION)
    }

    /// Requests a second in calm times.
    pub fn usual(&self) -> f64 {
        self.usual
    }

    /// Takes in what was counted. Pure but for itself: equal windows, equal beliefs.
    pub fn roll(&mut self, window: &Window, now: Timestamp) -> Option<Turn> {
        let began = *self.began.get_or_insert(now);
        match self.attack.take() {
            None => self.calm(window, now, now.since(began)),
            Some(attack) => self.under_attack(attack, window, now),
        }
    }

    fn is_learning(&self, now: Timestamp) -> bool {
        self.began.is_none_or(|began| now.since(began) < LEARNING)
    }

    fn calm(&mut self, window: &Window, now: Timestamp, known_for: Duration) -> Option<Turn> {
        let late = window.latency().is_some_and(|latency| is_late(latency, self.baseline));
        if window.over > 0 {
            self.surged = Some(now);
        }
        let surged = self.is_suspicious(now);
        let begins = match self.fixed {
            Some(_) => window.over > 0,
            None => surged && late && self.baseline > 0.0,
        };
        if begins {
            let rate = window.per_second(window.answered);
            let limit = (rate * self.baseline / 1e9).max(f64::from(FLOOR));
            self.surged = None;
            self.attack = Some(Attack {
                since: now,
                quiet_since: None,
                limit,
                line: window.peak,
                best: rate,
                baseline: self.baseline,
                slow_since: None,
            });
            return Some(Turn::Began);
        }
        let forget = 0.5_f64.powf(window.took.as_secs_f64() / PEAK_HALVES.as_secs_f64());
        // What only waits proves nothing: in a surge, what was answered in time does.
        let proven = if surged { window.per_second(window.answered) * self.baseline / 1e9 } else { f64::INFINITY };
        let proven = proven.min(f64::from(window.peak));
        self.peak = (self.peak * forget).max(proven);
        // Over the life so far at first, so that the first minute isn't taken for a surge.
        let over = USUAL_OVER.min(known_for.max(window.took)).as_secs_f64();
        let follow = (window.took.as_secs_f64() / over).min(1.0);
        self.usual += (window.per_second(window.arrived) - self.usual) * follow;
        self.learn_latency(window, late);
        None
    }

    /// Follows the mean over many answers; down sooner than up, and up slower still when they are late.
    fn learn_latency(&mut self, window: &Window, late: bool) {
        if window.answered == 0 {
            return;
        }
        let mean = window.latency as f64 / f64::from(window.answered);
        if self.baseline == 0.0 {
            self.baseline = mean;
            return;
        }
        let pace = if mean < self.baseline { 4.0 } else { 1.0 };
        let pace = if late { 0.1 } else { pace };
        let follow = (f64::from(window.answered) / BASELINE_OVER * pace).min(0.3);
        self.baseline += (mean - self.baseline) * follow;
    }

    fn under_attack(&mut self, mut attack: Attack, window: &Window, now: Timestamp) -> Option<Turn> {
        let rate = window.per_second(window.answered);
        attack.best = (attack.best * 0.999).max(rate);
        attack.line = attack.line.min(window.peak);
        let offered = window.per_second(window.arrived);
        let bearable = (attack.best * 0.7).max(self.usual * 2.0).max(10.0);
        attack.quiet_since = match attack.quiet_since {
            _ if offered > bearable => None,
            Some(since) => Some(since),
            None => Some(now),
        };
        if attack.quiet_since.is_some_and(|since| now.since(since) >= REST) {
            return Some(Turn::Ended(now.since(attack.since)));
        }
        attack.follow(window, rate, now, self.peak);
        self.attack = Some(attack);
        None
    }
}

impl Attack {
    /// Moves the limit with the latency.
    fn follow(&mut self, window: &Window, rate: f64, now: Timestamp, usual_peak: f64) {
        let Some(latency) = window.latency() else { return };
        let draining = f64::from(window.peak) > 2.0 * self.limit.max(usual_peak) + 1.0;
        let floor = f64::from(FLOOR);
        if draining {
            // What came before the attack was seen still waits. Meanwhile answers come as fast as they can.
            self.limit = self.limit.max(rate * self.baseline / 1e9);
            return;
        }
        let high = self.baseline * 1.3 + 2e6;
        if latency > high {
            self.limit = (self.limit * (high / latency).clamp(0.5, 0.95)).max(floor);
            let at_floor = self.limit <= floor;
            self.slow_since = at_floor.then(|| self.slow_since.unwrap_or(now));
            if self.slow_since.is_some_and(|since| now.since(since) >= CONVINCED) {
                // Next to nothing is in flight, so there is no queue: what is asked for is slow by itself.
                self.baseline = latency;
                self.slow_since = None;
            }
            return;
        }
        self.slow_since = None;
        if latency < self.baseline * 1.15 + 1e6 && window.crowded > 0 {
            self.limit += (self.limit / 8.0).max(1.0);
        }
    }
}

/// Whether answers come late enough to speak of a queue.
fn is_late(latency: f64, baseline: f64) -> bool {
    latency > baseline * 1.5 + 3e6
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    /// A service with so many places, each of which takes 10 ms for a request.
    struct Upstream {
        places: f64,
        queue: f64,
    }

    impl Upstream {
        /// One window in which `offered` requests a second come, of which `admitted` are let in while fewer than `limit` are in flight.
        fn window(&mut self, offered: f64, limit: f64, over: bool) -> Window {
            let seconds = WINDOW.as_secs_f64();
            let arrived = offered * seconds;
            let able = self.places / 0.010 * seconds;
            let in_flight = |queue: f64, rate: f64| queue + (rate / seconds * 0.010).min(self.places);
            let room = (limit - self.places).max(0.0) + able - self.queue;
            let admitted =
                if limit < self.places { arrived.min(limit / 0.010 * seconds) } else { arrived.min(room.max(0.0)) };
            let answered = (self.queue + admitted).min(able);
            self.queue = self.queue + admitted - answered;
            let latency = 10e6 + self.queue / (self.places / 0.010) * 1e9;
            let refused = (arrived - admitted).max(0.0) as u32;
            Window {
                took: WINDOW,
                arrived: arrived as u32,
                over: if over { refused } else { 0 },
                crowded: refused,
                answered: answered as u32,
                latency: (latency * answered.floor()) as u64,
                waiting: Duration::ZERO,
                peak: in_flight(self.queue, answered) as u32,
            }
        }
    }

    /// Lets `offered` requests a second come for `windows`; returns the time afterwards and the turns.
    fn run(
        estimate: &mut Estimate,
        upstream: &mut Upstream,
        offered: f64,
        from: u64,
        windows: u64,
    ) -> (u64, Vec<Turn>) {
        let mut turns = Vec::new();
        for n in 0..windows {
            let now = at(from + n * 50);
            let limit = f64::from(estimate.limit(now));
            let share = if estimate.is_attack() { limit * 0.75 } else { limit };
            let window = upstream.window(offered, share, !estimate.is_attack());
            turns.extend(estimate.roll(&window, now));
        }
        (from + windows * 50, turns)
    }

    fn quiet() -> (Estimate, Upstream, u64) {
        let (mut estimate, mut upstream) = (Estimate::new(None), Upstream { places: 10.0, queue: 0.0 });
        let (now, turns) = run(&mut estimate, &mut upstream, 100.0, 0, 600);
        assert!(turns.is_empty());
        (estimate, upstream, now)
    }

    #[test]
    fn a_flood_is_seen_within_two_windows_and_the_limit_lands_at_what_the_service_can_take() {
        let (mut estimate, mut upstream, now) = quiet();

        let (now, turns) = run(&mut estimate, &mut upstream, 20_000.0, now, 2);
        assert_eq!(turns, [Turn::Began]);
        let (_, turns) = run(&mut estimate, &mut upstream, 20_000.0, now, 1_200);

        assert!(turns.is_empty(), "{turns:?}");
        assert!(upstream.queue < 10.0, "the queue stays short: {}", upstream.queue);
        let limit = estimate.attack.as_ref().unwrap().limit;
        assert!((8.0..30.0).contains(&limit), "{limit}");
    }

    #[test]
    fn a_flood_that_waits_for_its_answers_is_seen_though_it_asks_no_more() {
        let (mut estimate, _, now) = quiet();
        let answered = |many: u32, millis: u64| Window {
            took: WINDOW,
            answered: many,
            latency: u64::from(many) * millis * 1_000_000,
            peak: 400,
            ..Window::default()
        };

        let burst = estimate.roll(&Window { arrived: 400, over: 300, ..answered(5, 10) }, at(now + 50));
        let waiting = estimate.roll(&answered(10, 300), at(now + 300));

        assert_eq!((burst, waiting), (None, Some(Turn::Began)));
    }

    #[test]
    fn an_attack_ends_only_after_its_rest() {
        let (mut estimate, mut upstream, now) = quiet();
        let (now, _) = run(&mut estimate, &mut upstream, 20_000.0, now, 100);

        let (now, before) = run(&mut estimate, &mut upstream, 100.0, now, 290);
        let (_, after) = run(&mut estimate, &mut upstream, 100.0, now, 40);

        assert!(before.is_empty(), "{before:?}");
        assert!(matches!(after[..], [Turn::Ended(_)]), "{after:?}");
        assert!(!estimate.is_attack());
    }

    #[test]
    fn a_service_that_has_become_slow_under_the_same_load_is_left_alone() {
        let (mut estimate, _, now) = quiet();

        for n in 0..1_000 {
            let window = Window {
                took: WINDOW,
                arrived: 5,
                answered: 5,
                latency: 5 * 500_000_000,
                peak: 60,
                ..Window::default()
            };
            assert_eq!(estimate.roll(&window, at(now + n * 50)), None);
        }

        assert!(estimate.limit(at(now + 60_000)) >= 64);
    }

    #[test]
    fn a_surge_that_is_answered_in_time_raises_the_limit_instead_of_an_alarm() {
        let (mut estimate, _, now) = quiet();
        let window = |in_flight: u32| Window {
            took: WINDOW,
            arrived: in_flight * 5,
            over: 1,
            answered: in_flight * 5,
            latency: u64::from(in_flight) * 5 * 10_000_000,
            peak: in_flight,
            ..Window::default()
        };

        let turns: Vec<_> = [64, 200, 800].iter().map(|n| estimate.roll(&window(*n), at(now))).collect();

        assert_eq!(turns, [None, None, None]);
        assert_eq!(estimate.limit(at(now)), 3_200);
    }

    #[test]
    fn a_queue_that_nobody_has_answered_yet_does_not_raise_the_limit() {
        let (mut estimate, _, now) = quiet();
        let before = estimate.limit(at(now));

        let window = Window {
            took: WINDOW,
            arrived: 400,
            over: 300,
            answered: 40,
            latency: 40 * 10_000_000,
            peak: 100,
            ..Window::default()
        };
        let turn = estimate.roll(&window, at(now + 50));

        assert_eq!((turn, estimate.limit(at(now + 50))), (None, before));
    }

    #[test]
    fn known_clients_find_room_behind_all_that_came_before_the_attack_was_seen() {
        let (mut estimate, _, now) = quiet();
        let window = |millis: u64, peak: u32| Window {
            took: WINDOW,
            arrived: 1_000,
            over: 1,
            answered: 10,
            latency: 10 * millis * 1_000_000,
            peak,
            ..Window::default()
        };

        let turn = estimate.roll(&window(300, 500), at(now + 50));
        let room = estimate.limit_for_known(at(now + 50));
        estimate.roll(&window(300, 40), at(now + 100));

        assert_eq!(turn, Some(Turn::Began));
        assert!(room >= 500 + HEADROOM, "{room}");
        assert!(estimate.limit_for_known(at(now + 100)) <= 2 * HEADROOM + 40, "the line is shorter now");
    }

    #[test]
    fn what_is_asked_for_may_be_slow_by_itself() {
        let (mut estimate, mut upstream, now) = quiet();
        run(&mut estimate, &mut upstream, 20_000.0, now, 2);
        let slow = Window {
            took: WINDOW,
            arrived: 1_000,
            crowded: 990,
            answered: 10,
            latency: 10 * 100_000_000,
            peak: 4,
            ..Window::default()
        };

        for n in 0..100 {
            estimate.roll(&slow, at(now + 1_000 + n * 50));
        }

        assert!(estimate.limit(at(now + 6_000)) > 20, "{estimate:?}");
    }

    #[test]
    fn a_new_service_is_not_judged_while_everybody_comes_back_at_once() {
        let mut estimate = Estimate::new(None);

        estimate.roll(&Window { took: WINDOW, arrived: 500, peak: 400, ..Window::default() }, at(50));

        assert_eq!(estimate.limit(at(5_000)), u32::MAX);
        assert!(estimate.limit(at(11_000)) < u32::MAX);
    }

    #[test]
    fn a_capacity_given_by_the_operator_holds_for_everybody() {
        let mut estimate = Estimate::new(Some(10));

        let turn = estimate.roll(&Window { took: WINDOW, arrived: 50, over: 1, peak: 10, ..Window::default() }, at(50));

        assert_eq!(turn, Some(Turn::Began));
        assert_eq!((estimate.limit(at(50)), estimate.limit_for_known(at(50))), (10, 10));
    }

    proptest! {
        #[test]
        fn whatever_is_counted_the_limit_stays_a_number_of_at_least_its_floor(
            windows in prop::collection::vec((0u32..5_000, 0u32..5_000, 0u64..u64::MAX / 4, 0u32..9_000, 0u64..100_000), 1..200),
        ) {
            let mut estimate = Estimate::new(None);
            let mut now = 0;
            for (arrived, answered, latency, peak, gap) in windows {
                now += gap;
                let window = Window {
                    took: Duration::from_millis(gap),
                    arrived, over: arrived / 2, crowded: arrived / 3, answered, latency,
                    waiting: Duration::from_millis(gap / 2), peak,
                };
                estimate.roll(&window, at(now));

                prop_assert!(estimate.limit(at(now)) >= FLOOR);
                prop_assert!(estimate.limit_for_known(at(now)) >= estimate.limit(at(now)));
            }
        }
    }
}
