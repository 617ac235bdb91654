//! What the shop knows about itself: its counters, its mood, and whom it saw lately.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

/// The longest that `/_demo/slow` may ask for, in milliseconds. Longer wishes become this.
const LONGEST_SLOWNESS: u64 = 600_000;

/// One process of the shop.
pub struct Shop {
    /// The version it says it is.
    pub version: String,
    /// Its name among others of the same version.
    pub instance: String,
    /// Shop requests seen so far.
    pub hits: AtomicU64,
    failures: AtomicU64,
    slow_millis: AtomicU64,
    fail_percent: AtomicU32,
    unhealthy: AtomicBool,
    recent: Mutex<VecDeque<Seen>>,
    keep: usize,
}

/// A request, as the shop saw it.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// Header lines in order of arrival, names in lower case.
    pub headers: Vec<(String, String)>,
}

/// Counters and mood, for `/_demo/stats`.
#[derive(Debug, Serialize)]
pub struct Stats<'a> {
    version: &'a str,
    instance: &'a str,
    hits: u64,
    failures: u64,
    slow_ms: u64,
    fail_rate: u32,
    healthy: bool,
}

impl Shop {
    /// A shop in a good mood that keeps the last `keep` requests.
    pub fn new(version: String, instance: String, keep: usize) -> Self {
        Self {
            version,
            instance,
            hits: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            slow_millis: AtomicU64::new(0),
            fail_percent: AtomicU32::new(0),
            unhealthy: AtomicBool::new(false),
            recent: Mutex::new(VecDeque::new()),
            keep,
        }
    }

    /// Counts a request, and tells its number.
    pub fn hit(&self) -> u64 {
        self.hits.fetch_add(1, Relaxed) + 1
    }

    /// Whether hit number `hit` is one that fails: spread evenly, so that a rate of 50 fails every other one.
    pub fn fails(&self, hit: u64) -> bool {
        let percent = u64::from(self.fail_percent.load(Relaxed));
        let fails = (hit * percent) / 100 > ((hit - 1) * percent) / 100;
        self.failures.fetch_add(u64::from(fails), Relaxed);
        fails
    }

    /// How long to wait before an answer.
    pub fn slowness(&self) -> Duration {
        Duration::from_millis(self.slow_millis.load(Relaxed))
    }

    /// Whether `/healthz` is to say so.
    pub fn healthy(&self) -> bool {
        !self.unhealthy.load(Relaxed)
    }

    /// Waits `millis` before each answer from now on; `/healthz` stays quick.
    pub fn become_slow(&self, millis: u64) {
        self.slow_millis.store(millis.min(LONGEST_SLOWNESS), Relaxed);
    }

    /// Answers 500 to `percent` of requests from now on; `/healthz` stays good.
    pub fn become_failing(&self, percent: u32) {
        self.fail_percent.store(percent.min(100), Relaxed);
    }

    /// Tells probes that it is not well from now on; requests are still served.
    pub fn become_unhealthy(&self) {
        self.unhealthy.store(true, Relaxed);
    }

    /// Forgets every bad mood.
    pub fn become_ok(&self) {
        self.slow_millis.store(0, Relaxed);
        self.fail_percent.store(0, Relaxed);
        self.unhealthy.store(false, Relaxed);
    }

    /// Remembers a request, and forgets the oldest one beyond the bound.
    pub fn remember(&self, request: &http::request::Parts) {
        if self.keep == 0 {
            return;
        }
        let seen = Seen::new(request);
        let mut recent = self.recent.lock().expect("nobody panics while holding the list");
        if recent.len() == self.keep {
            recent.pop_front();
        }
        recent.push_back(seen);
    }

    /// What is remembered, oldest first.
    pub fn recent(&self) -> Vec<Seen> {
        self.recent.lock().expect("nobody panics while holding the list").iter().cloned().collect()
    }

    /// Counters and mood.
    pub fn stats(&self) -> Stats<'_> {
        Stats {
            version: &self.version,
            instance: &self.instance,
            hits: self.hits.load(Relaxed),
            failures: self.failures.load(Relaxed),
            slow_ms: self.slow_millis.load(Relaxed),
            fail_rate: self.fail_percent.load(Relaxed),
            healthy: self.healthy(),
        }
    }
}

impl Seen {
    fn new(request: &http::request::Parts) -> Self {
        Self {
            method: request.method.to_string(),
            path: request.uri.path_and_query().map_or_else(|| "/".into(), ToString::to_string),
            protocol: format!("{:?}", request.version),
            headers: request
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop(keep: usize) -> Shop {
        Shop::new("v1".into(), "one".into(), keep)
    }

    fn request(path: &str) -> http::request::Parts {
        http::Request::get(path).body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_failure_rate_of_25_fails_exactly_every_fourth_request() {
        let shop = shop(0);
        shop.become_failing(25);

        let failed: Vec<u64> = (1..=12).filter(|&hit| shop.fails(hit)).collect();

        assert_eq!(failed, [4, 8, 12]);
    }

    #[test]
    fn a_failure_rate_of_100_fails_every_request_until_the_shop_is_ok_again() {
        let shop = shop(0);
        shop.become_failing(100);

        let before = (1..=3).all(|hit| shop.fails(hit));
        shop.become_ok();
        let after = (4..=6).any(|hit| shop.fails(hit));

        assert!(before);
        assert!(!after);
    }

    #[test]
    fn only_the_newest_requests_are_remembered() {
        let shop = shop(2);

        for path in ["/a", "/b", "/c?x=1"] {
            shop.remember(&request(path));
        }

        let paths: Vec<String> = shop.recent().into_iter().map(|seen| seen.path).collect();
        assert_eq!(paths, ["/b", "/c?x=1"]);
    }
}
