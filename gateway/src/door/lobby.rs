//! The lobby: TLS handshakes in progress, bounded in all, by network and by source.
//!
//! An honest handshake is over in milliseconds, one of a flood never. So a newcomer is always let in, and where that is
//! one too many, the oldest gives way: first among those of the newcomer's source, then of its network, then of the
//! busiest part of the table. The more handshakes come in a second, the shorter is the patience with each, and honest
//! ones pass as long as they are quicker than the flood turns the lobby over.
//!
//! # Invariants
//!
//! - Never more guests than the bounds say, whatever clients do. So memory for handshakes is bounded too.
//! - A [`Ticket`] that goes takes its guest with it; one that was given up is not counted twice.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::source::{Source, shard};

/// The table is cut into this many parts, so that cores seldom wait for each other.
const SHARDS: usize = 16;

/// Handshakes that may be in progress at once.
#[derive(Clone, Copy, Debug)]
pub struct LobbyRoom {
    /// In all.
    pub total: usize,
    /// From one source.
    pub per_source: usize,
    /// From one network.
    pub per_network: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Lobby {
    /// By network, so that a source and its network are in one shard.
    shards: [Mutex<Shard>; SHARDS],
    /// Guests of each shard.
    guests: [AtomicUsize; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    next: u64,
    /// In the order of their coming.
    guests: BTreeMap<u64, Guest>,
    sources: HashMap<u128, usize>,
    networks: HashMap<u128, usize>,
}

#[derive(Debug)]
struct Guest {
    source: Source,
    give_up: Arc<Notify>,
}

impl Lobby {
    /// Lets a handshake in. Whom it is one too many for, is told by [`Ticket::given_up`].
    pub fn enter(self: &Arc<Self>, source: Source, room: LobbyRoom) -> Ticket {
        let at = shard(source.network);
        let give_up = Arc::new(Notify::new());
        let mut here = self.shard(at);
        if here.sources.get(&source.key).is_some_and(|count| *count >= room.per_source) {
            self.give_up_oldest(at, &mut here, |guest| guest.source.key == source.key);
        }
        if here.networks.get(&source.network).is_some_and(|count| *count >= room.per_network) {
            self.give_up_oldest(at, &mut here, |guest| guest.source.network == source.network);
        }
        let number = here.next;
        here.next += 1;
        *here.sources.entry(source.key).or_default() += 1;
        *here.networks.entry(source.network).or_default() += 1;
        here.guests.insert(number, Guest { source, give_up: Arc::clone(&give_up) });
        self.guests[at].fetch_add(1, Relaxed);
        drop(here);
        let ticket = Ticket { lobby: Arc::clone(self), shard: at, number, give_up };
        self.make_room(room.total);
        ticket
    }

    /// Handshakes in progress.
    pub fn guests(&self) -> usize {
        self.guests.iter().map(|guests| guests.load(Relaxed)).sum()
    }

    fn make_room(&self, total: usize) {
        // Others may make room at the same time, and then one of us finds enough of it.
        while self.guests() > total {
            let busiest = (0..SHARDS).max_by_key(|at| self.guests[*at].load(Relaxed)).unwrap_or(0);
            self.give_up_oldest(busiest, &mut self.shard(busiest), |_| true);
        }
    }

    fn give_up_oldest(&self, at: usize, shard: &mut Shard, which: impl Fn(&Guest) -> bool) {
        let oldest = shard.guests.iter().find(|(_, guest)| which(guest)).map(|(number, _)| *number);
        if let Some(guest) = oldest.and_then(|number| self.remove(at, shard, number)) {
            guest.give_up.notify_one();
        }
    }

    fn remove(&self, at: usize, shard: &mut Shard, number: u64) -> Option<Guest> {
        let guest = shard.guests.remove(&number)?;
        leave(&mut shard.sources, guest.source.key);
        leave(&mut shard.networks, guest.source.network);
        self.guests[at].fetch_sub(1, Relaxed);
        Some(guest)
    }

    fn shard(&self, at: usize) -> MutexGuard<'_, Shard> {
        // A panic between two lines of counting can't leave a count half changed.
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn leave(counts: &mut HashMap<u128, usize>, key: u128) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// A handshake's place in the lobby.
#[derive(Debug)]
pub struct Ticket {
    lobby: Arc<Lobby>,
    shard: usize,
    number: u64,
    give_up: Arc<Notify>,
}

impl Ticket {
    /// Returns when this handshake has to give way to another one.
    pub async fn given_up(&self) {
        self.give_up.notified().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.lobby.remove(self.shard, &mut self.lobby.shard(self.shard), self.number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: LobbyRoom = LobbyRoom { total: 6, per_source: 2, per_network: 4 };

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap(), 64)
    }

    async fn is_given_up(ticket: &Ticket) -> bool {
        tokio::select! {
            biased;
            () = ticket.given_up() => true,
            () = std::future::ready(()) => false,
        }
    }

    async fn given_up(tickets: &[Ticket]) -> Vec<usize> {
        let mut gone = Vec::new();
        for (n, ticket) in tickets.iter().enumerate() {
            if is_given_up(ticket).await {
                gone.push(n);
            }
        }
        gone
    }

    #[tokio::test]
    async fn the_newcomers_own_oldest_gives_way_and_nobody_elses() {
        let lobby = Arc::new(Lobby::default());
        let other = lobby.enter(source("192.0.2.1"), ROOM);

        let flood: Vec<_> = (0..4).map(|_| lobby.enter(source("192.0.2.2"), ROOM)).collect();

        assert!(!is_given_up(&other).await);
        assert_eq!(given_up(&flood).await, [0, 1]);
        assert_eq!(lobby.guests(), 3);
    }

    #[tokio::test]
    async fn a_network_of_many_sources_is_bounded_as_one() {
        let lobby = Arc::new(Lobby::default());
        let other = lobby.enter(source("198.51.100.1"), ROOM);

        let flood: Vec<_> = (0..6).map(|n| lobby.enter(source(&format!("2001:db8:0:{n}::1")), ROOM)).collect();

        assert!(!is_given_up(&other).await);
        assert_eq!(given_up(&flood).await, [0, 1]);
    }

    #[tokio::test]
    async fn a_lobby_that_is_full_lets_newcomers_in_and_everybody_leaves_without_a_trace() {
        let lobby = Arc::new(Lobby::default());

        let flood: Vec<_> = (0..40).map(|n| lobby.enter(source(&format!("10.{n}.0.1")), ROOM)).collect();
        let full = lobby.guests();
        let gone = given_up(&flood).await.len();
        drop(flood);

        assert_eq!((full, gone, lobby.guests()), (6, 34, 0));
        for shard in &lobby.shards {
            let shard = shard.lock().unwrap();
            assert!(shard.guests.is_empty() && shard.sources.is_empty() && shard.networks.is_empty());
        }
    }

    proptest! {
        #[test]
        fn the_bounds_hold_whoever_comes_and_goes(steps in prop::collection::vec((0_u8..3, 0_u8..3, any::<bool>()), 1..200)) {
            let lobby = Arc::new(Lobby::default());
            let mut inside = Vec::new();

            for (network, host, leaves) in steps {
                if leaves && !inside.is_empty() {
                    inside.remove(usize::from(host) % inside.len());
                } else {
                    inside.push(lobby.enter(source(&format!("10.0.{network}.{host}")), ROOM));
                }

                prop_assert!(lobby.guests() <= ROOM.total);
                for shard in &lobby.shards {
                    let shard = shard.lock().unwrap();
                    prop_assert!(shard.sources.values().all(|count| (1..=ROOM.per_source).contains(count)));
                    prop_assert!(shard.networks.values().all(|count| (1..=ROOM.per_network).contains(count)));
                }
            }
            drop(inside);
            prop_assert_eq!(lobby.guests(), 0);
        }
    }
}
