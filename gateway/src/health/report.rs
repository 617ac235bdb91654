//! An endpoint's health in words, for the admin page and `tidegate top`.

use serde::Serialize;
use tidegate_model::time::Timestamp;

use super::{Fitness, Health};

/// What an operator wants to know of an endpoint that isn't taking its share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HealthReport {
    /// In one word.
    pub state: HealthState,
    /// Why it isn't simply up.
    pub reason: Option<String>,
    /// How long it has been so, in seconds. `None`: since the gateway first saw it.
    pub for_seconds: Option<f64>,
    /// How long it will still rest, in seconds.
    pub resting_seconds: Option<f64>,
    /// Its share in thousandths of its full one; 0 while it is out.
    pub share: u32,
    /// What the last probe said: a status, or what went wrong.
    pub probe: Option<String>,
}

/// An endpoint's health in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// It takes its full share.
    Up,
    /// It is back, and its share is growing.
    Warming,
    /// Traffic ejected it.
    Resting,
    /// Its probe says it's down.
    Down,
}

impl HealthState {
    /// The word: `up`, `warming`, `resting`, `down`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Warming => "warming",
            Self::Resting => "resting",
            Self::Down => "down",
        }
    }
}

impl Health {
    /// Puts it into words. Takes the endpoint's lock: for people, not for requests.
    pub fn describe(&self, now: Timestamp) -> HealthReport {
        use std::sync::atomic::Ordering::Relaxed;

        let ledger = self.ledger();
        let fitness = self.fitness(now);
        let returned_at = Timestamp::from_nanos(self.returns_at.load(Relaxed));
        let settled_at = Timestamp::from_nanos(self.settled_at.load(Relaxed));
        let (state, since, reason) = match fitness {
            Fitness::Down => (HealthState::Down, ledger.down_since, ledger.probe_said.clone()),
            Fitness::Resting => (HealthState::Resting, ledger.ejected_at, ledger.eject_reason.clone()),
            Fitness::Fit(1_000) => (HealthState::Up, settled_at, None),
            Fitness::Fit(_) => (HealthState::Warming, returned_at, Some("slow start".to_owned())),
        };

        HealthReport {
            state,
            reason,
            for_seconds: (since != Timestamp::ZERO).then(|| now.since(since).as_secs_f64()),
            resting_seconds: (fitness == Fitness::Resting).then(|| ledger.rest_ends.since(now).as_secs_f64()),
            share: if let Fitness::Fit(share) = fitness { share } else { 0 },
            probe: ledger.probe_said.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::ProbeRules;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    fn told(health: &Health, seconds: u64) -> String {
        serde_json::to_string(&health.describe(at(seconds))).unwrap()
    }

    #[test]
    fn a_report_reads_the_same_in_every_state() {
        let health = Health::default();
        let rules = ProbeRules { up_after: 1, down_after: 1, slow_start: Duration::from_secs(10) };

        let fresh = told(&health, 5);
        health.rest(
            Duration::from_secs(30),
            Duration::from_secs(300),
            rules.slow_start,
            "5 failures in a row".into(),
            at(10),
        );
        let resting = told(&health, 15);
        let warming = told(&health, 45);
        health.probed(&rules, Err("connection refused".into()), at(60));
        let down = told(&health, 61);
        health.probed(&rules, Ok("200 OK".into()), at(62));
        let up = told(&health, 80);

        insta::assert_snapshot!([fresh, resting, warming, down, up].join("\n"), @r#"
        {"state":"up","reason":null,"for_seconds":null,"resting_seconds":null,"share":1000,"probe":null}
        {"state":"resting","reason":"5 failures in a row","for_seconds":5.0,"resting_seconds":25.0,"share":0,"probe":null}
        {"state":"warming","reason":"slow start","for_seconds":5.0,"resting_seconds":null,"share":550,"probe":null}
        {"state":"down","reason":"connection refused","for_seconds":1.0,"resting_seconds":null,"share":0,"probe":"connection refused"}
        {"state":"up","reason":null,"for_seconds":8.0,"resting_seconds":null,"share":1000,"probe":"200 OK"}
        "#);
    }
}
