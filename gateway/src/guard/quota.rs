//! Quotas that several gateways share: reconciles their limits through Redis, beside the path of requests.
//!
//! Every gateway decides by itself, at once. Some ten times a second it tells Redis how many tokens of each key it has
//! given out, and learns how full the key's bucket is over all gateways; that becomes the level of its own bucket. Redis keeps
//! one number for each key, the moment at which the common bucket is full again (GCRA), for as long as it isn't.
//!
//! # How far off it may be
//!
//! - While Redis answers: a gateway may give out what it is asked for until it hears of the others: for one
//!   `redis.every` and a round trip, or until an eighth of a burst was taken, and never more than a burst. What was given out too
//!   much is owed: it is missing later, so that over time the rate is that of one gateway (up to [`DEBT`] bursts).
//! - While it doesn't: each gateway gives out the whole quota by itself. What it gave out is told afterwards, at most one burst
//!   for each key.
//!
//! # Invariants
//!
//! - No request waits for Redis.
//! - Keys that wait to be told are bounded (`limit::shared`), and so is every exchange with Redis in time and size.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _, RedisConnectionInfo};
use tidegate_model::desired::Redis;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use crate::clock;
use crate::decide::limit::LimitState;
use crate::snapshot::Snapshot;

/// Keys in one exchange. Redis does nothing else meanwhile, so it is short.
const KEYS: usize = 500;

/// Bursts that a key may owe. Beyond it what was given out too much is forgiven.
const DEBT: u64 = 8;

/// Time for an answer, or for a connection. Beyond it Redis counts as gone.
const PATIENCE: Duration = Duration::from_millis(1_000);

/// Between two attempts to connect: at first, and at most. Doubled each time.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often it is looked whether there is anything to share, while there is not.
const IDLE: Duration = Duration::from_millis(500);

/// Between two exchanges at least, however much is to be told.
const PAUSE: Duration = Duration::from_millis(5);

/// Adds tokens to buckets and returns how full they are, in microseconds until they are full again. By Redis' own clock, so
/// that the gateways' needn't agree.
const SCRIPT: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local levels = {}
for i, key in ipairs(KEYS) do
  local full_at = math.max(tonumber(redis.call('GET', key) or 0), now) + tonumber(ARGV[i + 2]) * interval
  full_at = math.min(full_at, now + most)
  local level = math.ceil(full_at - now)
  redis.call('SET', key, string.format('%.17g', full_at), 'PX', math.ceil(level / 1000) + 1)
  levels[i] = level
end
return levels
";

/// What is counted about sharing.
#[derive(Clone, Debug)]
pub struct QuotaMetrics {
    up: IntGauge,
    exchanges: IntCounterVec,
    untold: IntCounter,
}

impl QuotaMetrics {
    /// Families on `registry`.
    ///
    /// # Errors
    ///
    /// `registry` has one of the names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            up: IntGauge::new(
                "tidegate_quota_redis_up",
                "1 while shared limits are reconciled through Redis, else 0.",
            )?,
            exchanges: IntCounterVec::new(
                Opts::new("tidegate_quota_exchanges_total", "Exchanges with Redis about shared limits, by result."),
                &["result"],
            )?,
            untold: IntCounter::new(
                "tidegate_quota_untold_total",
                "Tokens of shared limits that other gateways never heard of because too many keys waited.",
            )?,
        };
        registry.register(Box::new(metrics.up.clone()))?;
        registry.register(Box::new(metrics.exchanges.clone()))?;
        registry.register(Box::new(metrics.untold.clone()))?;
        for result in ["ok", "failed"] {
            metrics.exchanges.with_label_values(&[result]);
        }
        Ok(metrics)
    }
}

/// Reconciles the shared limits of the snapshot in force, for ever. `soon` ends a pause early.
pub async fn run(slot: Arc<ArcSwap<Snapshot>>, metrics: QuotaMetrics, soon: Arc<Notify>) {
    let mut link: Option<Link> = None;
    loop {
        let snapshot = slot.load_full();
        let shared = snapshot.limits.iter().any(|limit| limit.shared().is_some());
        let Some(redis) = snapshot.desired.redis.as_ref().filter(|_| shared) else {
            link = None;
            metrics.up.set(0);
            sleep(IDLE).await;
            continue;
        };
        let began = Instant::now();
        let link = match &mut link {
            Some(link) if link.to == *redis => link,
            other => other.insert(Link::to(redis.clone(), metrics.clone())),
        };
        link.reconcile(&snapshot.limits).await;
        let every = redis.every;
        drop(snapshot);
        sleep(PAUSE).await;
        tokio::select! {
            () = soon.notified() => {}
            () = sleep_until(began + every) => {}
        }
    }
}

/// One Redis.
struct Link {
    to: Redis,
    connection: Option<MultiplexedConnection>,
    retry_at: Instant,
    back_off: Duration,
    /// What was said last, so that only a change is.
    up: Option<bool>,
    metrics: QuotaMetrics,
}

impl Link {
    fn to(to: Redis, metrics: QuotaMetrics) -> Self {
        Self { to, connection: None, retry_at: Instant::now(), back_off: BACK_OFF.0, up: None, metrics }
    }

    async fn reconcile(&mut self, limits: &[Arc<LimitState>]) {
        if self.connection.is_none() {
            if Instant::now() < self.retry_at {
                return;
            }
            match timeout(PATIENCE, connect(&self.to)).await {
                Ok(Ok(connection)) => self.connection = Some(connection),
                Ok(Err(err)) => return self.failed(&format!("{err:#}")),
                Err(_) => return self.failed("it took too long to connect"),
            }
        }
        for limit in limits {
            let Some(shared) = limit.shared() else { continue };
            self.metrics.untold.inc_by(shared.lost());
            let mut waiting = shared.take_all();
            while !waiting.is_empty() {
                let some = waiting.split_off(waiting.len().saturating_sub(KEYS));
                if let Err(err) = self.tell(limit, &some).await {
                    some.iter().chain(&waiting).for_each(|&(hash, tokens)| shared.put_back(hash, tokens));
                    return self.failed(&err);
                }
            }
        }
        if self.up.is_none() && self.ping().await.is_err() {
            return self.failed("it doesn't answer");
        }
        self.works();
    }

    /// Tells of some keys of a limit, and learns their levels.
    async fn tell(&mut self, limit: &LimitState, some: &[(u64, u32)]) -> Result<(), String> {
        let (Some(connection), Some(shared)) = (&mut self.connection, limit.shared()) else { return Ok(()) };
        let mut command = redis::cmd("EVAL");
        command.arg(SCRIPT).arg(some.len());
        for (hash, _) in some {
            command.arg(shared.name_of(*hash));
        }
        let (interval, depth) = limit.interval_and_depth();
        command.arg(interval as f64 / 1e3).arg(depth.saturating_mul(DEBT) / 1_000);
        for (_, tokens) in some {
            command.arg(*tokens);
        }
        let levels: Vec<u64> = match timeout(PATIENCE, command.query_async(connection)).await {
            Ok(answer) => answer.map_err(|err| err.to_string())?,
            Err(_) => return Err("it took too long to answer".into()),
        };
        if levels.len() != some.len() {
            return Err("it answered something else".into());
        }
        self.metrics.exchanges.with_label_values(&["ok"]).inc();
        let now = clock::now();
        for (&(hash, _), micros) in some.iter().zip(levels) {
            limit.learn(hash, micros.saturating_mul(1_000), now);
        }
        Ok(())
    }

    async fn ping(&mut self) -> Result<(), ()> {
        let Some(connection) = &mut self.connection else { return Err(()) };
        match timeout(PATIENCE, redis::cmd("PING").query_async::<()>(connection)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(()),
        }
    }

    fn works(&mut self) {
        self.back_off = BACK_OFF.0;
        self.metrics.up.set(1);
        if self.up.replace(true) != Some(true) {
            info!(redis = self.to.address(), "shared limits are counted together");
        }
    }

    fn failed(&mut self, err: &str) {
        self.connection = None;
        self.retry_at = Instant::now() + self.back_off;
        self.back_off = (self.back_off * 2).min(BACK_OFF.1);
        self.metrics.up.set(0);
        self.metrics.exchanges.with_label_values(&["failed"]).inc();
        if self.up.replace(false) != Some(false) {
            warn!(redis = self.to.address(), %err, "redis is gone: each gateway counts shared limits alone");
        }
    }
}

async fn connect(to: &Redis) -> anyhow::Result<MultiplexedConnection> {
    let mut settings = RedisConnectionInfo::default().set_db(i64::from(to.database));
    if let Some(file) = &to.password_file {
        // Read for each connection, so that a password can be changed without a reload.
        settings = settings.set_password(tokio::fs::read_to_string(file).await?.trim_end());
    }
    let info = (to.host.as_str(), to.port).into_connection_info()?.set_redis_settings(settings);
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
    Ok(Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?)
}
