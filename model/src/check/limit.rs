//! Limits, and the Redis that gateways share them through.

use std::time::Duration;

use super::Checker;
use super::names::Names;
use crate::config::{At, Limit, Redis};
use crate::desired;
use crate::diagnostic::Diagnostic;
use crate::literal::{OverLimit, RedisUrl};

impl Checker<'_, '_> {
    /// A named limit; `None` where only its name could be read.
    pub(super) fn limit(&mut self, name: &At<crate::literal::Name>, limit: Option<&Limit>) -> desired::Limit {
        let mut ready = desired::Limit {
            name: name.value.0.clone(),
            keys: vec![desired::Key::ClientIp],
            interval: Duration::from_secs(1),
            burst: 1,
            window: Duration::from_secs(1),
            per_window: 1,
            over: 429,
            challenge: false,
            ban: None,
            shared: false,
        };
        let Some(limit) = limit else { return ready };
        if let Some(keys) = &limit.key {
            self.refuse_twins(keys.items.iter().map(|key| (&key.value.0, key.span)), "key");
            ready.keys = keys.items.iter().map(|key| key.value.0.clone()).collect();
        }
        let rate = limit.rate.value;
        ready.interval = rate.interval();
        ready.window = rate.window;
        ready.per_window = rate.count;
        ready.burst = limit.burst.as_ref().map_or(rate.count, |burst| burst.value.0 as u32);
        (ready.over, ready.challenge) = match limit.over.as_ref().map(|over| over.value) {
            None => (429, false),
            Some(OverLimit::Status(status)) => (status, false),
            Some(OverLimit::Challenge) => (429, true),
        };
        ready.shared = limit.shared.as_ref().is_some_and(|shared| shared.value.0);
        ready.ban = limit.then.as_ref().map(|then| then.value.0.clone());
        ready
    }

    /// Where limits are shared.
    pub(super) fn redis(&mut self, written: &Redis) -> desired::Redis {
        let RedisUrl { host, port, database } = written.url.value.clone();
        let every = written.every.as_ref().map_or(Duration::from_millis(100), |every| every.value.0);
        if let Some(at) = &written.every
            && !(Duration::from_millis(10)..=Duration::from_secs(10)).contains(&every)
        {
            let diagnostic =
                Diagnostic::error("out-of-range", "redis.every is too short or too long").help("write 10ms to 10s");
            self.problems.add(at.span, "this isn't from 10ms to 10s", diagnostic);
        }
        let password_file = written.password_file.as_ref().map(|file| self.resolve(&file.value.0, file.span));
        desired::Redis { host, port, database, password_file, every }
    }

    /// Refuses limits that are shared, where there is nothing to share them through.
    pub(super) fn shared_needs_redis(&mut self, limits: &Names<'_, Limit>, redis: bool) {
        for (name, limit) in limits.entries() {
            let Some(shared) = limit.and_then(|limit| limit.shared.as_ref()).filter(|shared| shared.value.0) else {
                continue;
            };
            if !redis {
                let message =
                    format!("limit \"{}\" is shared, but there is no redis to share it through", name.value.0);
                let diagnostic = Diagnostic::error("shared-without-redis", message)
                    .help("add redis: {url: \"redis://127.0.0.1:6379\"}");
                self.problems.add(shared.span, "shared through what?", diagnostic);
            }
        }
    }
}
