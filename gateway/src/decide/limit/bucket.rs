//! A bucket: how full it is, and how often its key was refused.

use std::hash::Hasher;

use tidegate_model::desired::Ban;
use tidegate_model::time::Timestamp;

/// 16 bytes, so that a million keys with their map stay below 64 MiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// Nanoseconds; in the past for a full bucket.
    pub full_at: u64,
    /// Refusals.
    pub strikes: Strikes,
}

impl Bucket {
    /// Until when this bucket differs from a new one.
    pub fn matters_until(&self, ban: Option<&Ban>) -> u64 {
        let strikes = match ban {
            Some(ban) if self.strikes.count() > 0 => (self.strikes.moment() + self.strikes.memory(ban)).as_nanos(),
            _ => 0,
        };
        self.full_at.max(strikes)
    }
}

/// Refusals since the first of them, or a ban, in 8 bytes: a moment in milliseconds (39 bits, 17 years), how often
/// there was a ban (5 bits), and a count (20 bits).
#[derive(Clone, Copy, Debug, Default)]
pub struct Strikes(u64);

impl Strikes {
    const COUNT_BITS: u32 = 20;
    const TIMES_BITS: u32 = 5;
    /// The count that means "banned until the moment". More refusals than this needn't be told apart.
    const BANNED: u64 = (1 << Self::COUNT_BITS) - 1;
    /// More bans than this needn't be told apart: doubling has met every cap by then.
    const MOST_TIMES: u64 = (1 << Self::TIMES_BITS) - 1;

    fn new(moment: Timestamp, times: u64, count: u64) -> Self {
        let millis = moment.as_nanos() / 1_000_000;
        Self((millis << Self::TIMES_BITS | times.min(Self::MOST_TIMES)) << Self::COUNT_BITS | count)
    }

    fn count(self) -> u64 {
        self.0 & Self::BANNED
    }

    fn times(self) -> u64 {
        self.0 >> Self::COUNT_BITS & Self::MOST_TIMES
    }

    fn moment(self) -> Timestamp {
        let millis = self.0 >> (Self::COUNT_BITS + Self::TIMES_BITS);
        Timestamp::from_nanos(millis.saturating_mul(1_000_000))
    }

    /// The end of its ban, also when that is over.
    pub fn banned_until(self) -> Option<Timestamp> {
        (self.count() == Self::BANNED).then(|| self.moment())
    }

    /// How long after the moment this still says something.
    fn memory(self, ban: &Ban) -> std::time::Duration {
        match self.times() {
            0 => ban.window,
            _ if ban.up_to > ban.lasts => ban.up_to.max(ban.window),
            _ => ban.window,
        }
    }

    /// Counts one more refusal. The window begins with the first refusal after the one before has ended.
    pub fn another(self, ban: &Ban, now: Timestamp) -> Self {
        let since = now.since(self.moment());
        let goes_on = self.count() > 0 && self.banned_until().is_none() && since <= ban.window;
        let times = if self.count() > 0 && since <= self.memory(ban) { self.times() } else { 0 };
        let (began, count) = if goes_on { (self.moment(), self.count() + 1) } else { (now, 1) };
        if count >= u64::from(ban.after) || count >= Self::BANNED {
            let times = (times + 1).min(Self::MOST_TIMES);
            let lasts = ban.repeated(u32::try_from(times).unwrap_or(u32::MAX));
            // Rounded up, so that a ban is never shorter than it says.
            return Self::new(now + lasts + std::time::Duration::from_nanos(999_999), times, Self::BANNED);
        }
        Self::new(began, times, count)
    }
}

/// Bucket ids are hashes already.
#[derive(Default)]
pub struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 is hashed");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
