//! Who goes when there is no room, or when nothing of a ban needs to be remembered.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use super::network::Key;
use super::{Bans, MOST, SHARDS, lock};

/// Entries that are looked at to find one that may go.
pub const EXAMINED: usize = 1_024;

impl Bans {
    /// At most so many entries from now on. What ends soonest goes.
    pub fn set_bound(&self, bound: usize) {
        let before = self.bound.swap(bound.clamp(1, MOST), Relaxed);
        if bound < before {
            while self.len() > bound && self.forget_one(0) {}
        }
    }

    /// Makes room for one that was added to the shard `own`.
    pub(super) fn make_room(&self, own: usize, now: u64) {
        self.sweep(own..own + 1, now);
        while self.len() > self.bound.load(Relaxed) && self.forget_one(own) {}
    }

    /// Forgets the entry that ends soonest among those from shard `start` on. False when there is none.
    fn forget_one(&self, start: usize) -> bool {
        let mut examined = 0;
        let mut soonest: Option<(u64, Key)> = None;
        for shard in (0..SHARDS).map(|at| &self.shards[(start + at) % SHARDS]) {
            if shard.entries.load(Relaxed) == 0 {
                continue;
            }
            let map = lock(&shard.map);
            examined += map.len();
            let first = map.iter().map(|(key, entry)| (entry.until, *key)).min();
            soonest = first.into_iter().chain(soonest).min();
            if examined >= EXAMINED {
                break;
            }
        }
        let Some((_, key)) = soonest else { return false };
        if self.take_out(&key) {
            self.metrics.forgot();
            self.changes.note(key);
        }
        true
    }

    /// Forgets what is over and needn't be remembered in these shards. It needn't be kept: it is over there too.
    pub(super) fn sweep(&self, shards: Range<usize>, now: u64) {
        for shard in self.shards[shards].iter().filter(|shard| shard.entries.load(Relaxed) > 0) {
            let mut over = Vec::new();
            lock(&shard.map).retain(|key, entry| {
                let stays = entry.forgotten_at() > now;
                if !stays {
                    over.push(*key);
                }
                stays
            });
            over.iter().for_each(|key| self.gone(shard, key));
        }
    }
}
