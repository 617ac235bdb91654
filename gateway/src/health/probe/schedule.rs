//! When to probe whom. Pure: the time and the dice are arguments.
//!
//! # Invariants
//!
//! - An endpoint has at most one probe under way.
//! - A result that comes back for an endpoint that has left, or that left and
//!   came again, is told apart and dropped.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use rand::Rng;
use tidegate_model::desired::Probe;
use tidegate_model::time::Timestamp;

use crate::endpoint::EndpointId;

/// First probes are spread over this time (or over the probe's own interval, where that is shorter), so that
/// a start or a reload doesn't knock on a thousand doors in the same moment.
const SPREAD: Duration = Duration::from_millis(500);

/// One entry for each endpoint that has a probe. `T` is what the caller needs to make the probe.
pub(super) struct Schedule<T> {
    entries: HashMap<EndpointId, Entry<T>>,
    /// Entries that wait, by the time they are due.
    waiting: BTreeSet<(Timestamp, EndpointId)>,
    tickets: u64,
}

struct Entry<T> {
    probe: Probe,
    task: T,
    phase: Phase,
}

#[derive(Clone, Copy)]
enum Phase {
    Waiting { due: Timestamp },
    Probing { since: Timestamp, ticket: Ticket },
}

/// Tells one probe from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl<T: Clone> Schedule<T> {
    pub fn new() -> Self {
        Self { entries: HashMap::new(), waiting: BTreeSet::new(), tickets: 0 }
    }

    /// Makes the entries those of `wanted`. Returns what isn't probed any more.
    ///
    /// An endpoint that is new, or whose probe was changed, is due within a moment; the others keep their time.
    pub fn sync(
        &mut self,
        wanted: impl IntoIterator<Item = (EndpointId, Probe, T)>,
        now: Timestamp,
        rng: &mut impl Rng,
    ) -> Vec<T> {
        let mut before = std::mem::take(&mut self.entries);
        self.waiting.clear();
        for (id, probe, task) in wanted {
            if self.entries.contains_key(&id) {
                continue; // Two names led to the same address.
            }
            let phase = match before.remove(&id) {
                Some(old) if old.probe == probe || matches!(old.phase, Phase::Probing { .. }) => old.phase,
                _ => Phase::Waiting { due: now + SPREAD.min(probe.every).mul_f64(rng.random()) },
            };
            if let Phase::Waiting { due } = phase {
                self.waiting.insert((due, id.clone()));
            }
            self.entries.insert(id, Entry { probe, task, phase });
        }
        before.into_values().map(|gone| gone.task).collect()
    }

    /// Takes up to `free` of those whose time has come, the longest overdue first.
    pub fn due(&mut self, now: Timestamp, free: usize) -> Vec<(EndpointId, Ticket, T)> {
        let mut taken = Vec::new();
        while taken.len() < free && self.next_due().is_some_and(|due| due <= now) {
            let Some((_, id)) = self.waiting.pop_first() else { break };
            let entry = self.entries.get_mut(&id).expect("whatever waits has an entry");
            self.tickets += 1;
            let ticket = Ticket(self.tickets);
            entry.phase = Phase::Probing { since: now, ticket };
            taken.push((id, ticket, entry.task.clone()));
        }
        taken
    }

    /// Plans the next probe after the one with `ticket` is done: one interval (±10 %) after it began, or at
    /// once if it took longer. Returns the task as it is now; `None` if the result came too late to matter.
    pub fn finished(&mut self, id: &EndpointId, ticket: Ticket, now: Timestamp, rng: &mut impl Rng) -> Option<&T> {
        let entry = self.entries.get_mut(id)?;
        let Phase::Probing { since, ticket: current } = entry.phase else { return None };
        if current != ticket {
            return None;
        }

        let due = (since + entry.probe.every.mul_f64(rng.random_range(0.9..=1.1))).max(now);
        entry.phase = Phase::Waiting { due };
        self.waiting.insert((due, id.clone()));
        Some(&entry.task)
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.waiting.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tidegate_model::desired::ProbeKind;

    use super::*;
    use crate::health::{Fitness, Health, ProbeRules};

    fn id(i: usize) -> EndpointId {
        EndpointId::new("shop", "v1", &format!("127.0.0.1:{i}"))
    }

    fn every(seconds: u64) -> Probe {
        Probe {
            kind: ProbeKind::Tcp,
            every: Duration::from_secs(seconds),
            timeout: Duration::from_secs(1),
            up_after: 2,
            down_after: 3,
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    fn rng() -> StdRng {
        StdRng::seed_from_u64(7)
    }

    #[test]
    fn new_endpoints_are_all_probed_within_a_moment_but_not_at_the_same_instant() {
        let mut schedule = Schedule::new();
        schedule.sync((0..100).map(|i| (id(i), every(60), i)), at(1), &mut rng());

        let at_once = schedule.due(at(1), 1_000).len();
        let soon = schedule.due(at(1) + SPREAD, 1_000).len();

        assert!(at_once < 10, "{at_once} at once");
        assert_eq!(at_once + soon, 100);
    }

    #[test]
    fn no_more_are_taken_than_there_are_free_places_and_the_longest_overdue_go_first() {
        let mut schedule = Schedule::new();
        schedule.sync((0..100).map(|i| (id(i), every(60), i)), at(1), &mut rng());

        let first = schedule.due(at(2), 64);
        let oldest_left = schedule.next_due().unwrap();
        let rest = schedule.due(at(2), 64);

        assert_eq!((first.len(), rest.len()), (64, 36));
        assert!(oldest_left > at(1));
        assert!(schedule.due(at(2), 64).is_empty(), "an endpoint has one probe under way at most");
    }

    #[test]
    fn an_endpoint_that_is_named_twice_is_probed_once() {
        let mut schedule = Schedule::new();

        schedule.sync([(id(1), every(60), 1), (id(1), every(60), 1)], at(0), &mut rng());

        assert_eq!(schedule.due(at(1), 64).len(), 1);
    }

    #[test]
    fn a_reload_that_changes_nothing_keeps_everybodys_time() {
        let mut schedule = Schedule::new();
        schedule.sync((0..100).map(|i| (id(i), every(60), i)), at(1), &mut rng());
        let before = schedule.waiting.clone();

        let gone = schedule.sync((0..100).map(|i| (id(i), every(60), i)), at(9), &mut StdRng::seed_from_u64(8));

        assert!(gone.is_empty());
        assert_eq!(schedule.waiting, before);
    }

    #[test]
    fn a_changed_probe_is_made_soon_and_not_after_the_old_interval() {
        let mut schedule = Schedule::new();
        schedule.sync([(id(1), every(3_600), 1)], at(0), &mut rng());
        let (id_1, ticket, _) = schedule.due(at(1), 1).remove(0);
        schedule.finished(&id_1, ticket, at(1), &mut rng());

        schedule.sync([(id(1), every(3_000), 1)], at(5), &mut rng());

        assert!(schedule.next_due().unwrap() <= at(6));
    }

    #[test]
    fn a_result_for_an_endpoint_that_left_is_dropped_even_if_it_came_back() {
        let mut schedule = Schedule::new();
        schedule.sync([(id(1), every(60), 1)], at(0), &mut rng());
        let (id_1, ticket, _) = schedule.due(at(1), 1).remove(0);

        assert_eq!(schedule.sync([], at(2), &mut rng()), [1]);
        assert_eq!(schedule.finished(&id_1, ticket, at(2), &mut rng()), None);
        schedule.sync([(id(1), every(60), 1)], at(3), &mut rng());
        assert_eq!(schedule.finished(&id_1, ticket, at(3), &mut rng()), None);
        schedule.due(at(4), 1);
        assert_eq!(schedule.finished(&id_1, ticket, at(4), &mut rng()), None);
    }

    #[test]
    fn a_reload_during_a_probe_lets_its_result_count() {
        let mut schedule = Schedule::new();
        schedule.sync([(id(1), every(60), 1)], at(0), &mut rng());
        let (id_1, ticket, _) = schedule.due(at(1), 1).remove(0);

        schedule.sync([(id(1), every(60), 2)], at(2), &mut rng());

        assert_eq!(schedule.finished(&id_1, ticket, at(2), &mut rng()), Some(&2));
    }

    proptest! {
        /// An endpoint dies at any moment; every probe from then on takes the whole timeout and fails.
        #[test]
        fn a_death_is_noticed_within_the_bound_that_the_settings_imply(
            interval_millis in 100u64..10_000,
            timeout_millis in 50u64..10_000,
            down_after in 1u32..6,
            dies_at_millis in 0u64..60_000,
            seed in any::<u64>(),
        ) {
            let timeout = Duration::from_millis(timeout_millis);
            let probe = Probe { every: Duration::from_millis(interval_millis), timeout, down_after, ..every(0) };
            let rules = ProbeRules { up_after: 2, down_after, slow_start: Duration::ZERO };
            let bound = probe.every.mul_f64(1.1).max(timeout) * down_after + timeout;
            let dies_at = at(1) + Duration::from_millis(dies_at_millis);
            let health = Health::default();
            let mut rng = StdRng::seed_from_u64(seed);
            let mut schedule = Schedule::new();
            schedule.sync([(id(1), probe, ())], Timestamp::ZERO, &mut rng);

            let mut now = Timestamp::ZERO;
            while health.fitness(now) != Fitness::Down {
                now = now.max(schedule.next_due().unwrap());
                let (id, ticket, ()) = schedule.due(now, 1).remove(0);
                let dead = now >= dies_at;
                now = now + if dead { timeout } else { Duration::from_millis(1) };
                schedule.finished(&id, ticket, now, &mut rng).unwrap();
                health.probed(&rules, if dead { Err("late".into()) } else { Ok("200".into()) }, now);
            }

            prop_assert!(now >= dies_at);
            prop_assert!(now.since(dies_at) <= bound, "{:?} > {:?}", now.since(dies_at), bound);
        }
    }
}
