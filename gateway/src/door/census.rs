//! Who is here: counts connections, in all, by network and by source, and lets `drain` wait for the last.
//!
//! # Invariants
//!
//! - A [`Seat`] gives back what it took, whatever ends its connection.
//! - The tables hold one entry for each source and network that is connected, so they are bounded by
//!   `bounds.connections`.
//!
//! # Not here
//!
//! Handshakes in progress are counted in `lobby`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;
use tokio::sync::Notify;

use super::lobby::{Lobby, LobbyRoom, Ticket};
use super::metrics::Turned;
use super::source::{Source, shard};

/// A table is cut into this many parts, so that cores seldom wait for each other.
const SHARDS: usize = 16;

/// How many may come.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one source.
    pub per_source: usize,
    /// Connections from one network.
    pub per_network: usize,
    /// Handshakes in progress.
    pub lobby: LobbyRoom,
    /// IPv6 sources are told apart by this many leading bits.
    pub v6_prefix: u8,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Census {
    connections: AtomicUsize,
    /// Connections and accept loops.
    present: AtomicUsize,
    sources: Counts,
    networks: Counts,
    lobby: Arc<Lobby>,
    left: Notify,
    /// The drain is over: connections end because they are cut off.
    cut: AtomicBool,
}

impl Census {
    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections and accept loops that aren't over.
    #[cfg(test)]
    pub fn present(&self) -> usize {
        self.present.load(Ordering::Relaxed)
    }

    /// Seats a connection, unless the house is full.
    pub fn seat(self: &Arc<Self>, room: Room, gauge: &IntGauge) -> Result<Seat, Turned> {
        if self.connections.fetch_add(1, Ordering::Relaxed) >= room.connections {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(Turned::Full);
        }
        gauge.inc();
        Ok(Seat { presence: self.presence(), source: None, gauge: gauge.clone() })
    }

    /// From now on connections end because they are cut off.
    pub fn cut_off(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Keeps [`Census::wait_until_empty`] waiting as long as it lives.
    pub fn presence(self: &Arc<Self>) -> Presence {
        self.present.fetch_add(1, Ordering::Relaxed);
        Presence(Arc::clone(self))
    }

    /// Waits until every connection and accept loop has ended.
    pub async fn wait_until_empty(&self) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.present.load(Ordering::Acquire) == 0 {
                return;
            }
            left.await;
        }
    }
}

/// How many connections each key has.
#[derive(Debug, Default)]
struct Counts([Mutex<HashMap<u128, usize>>; SHARDS]);

impl Counts {
    /// Counts one more, unless there are `most`.
    fn enter(&self, key: u128, most: usize) -> bool {
        let mut counts = self.lock(key);
        let count = counts.entry(key).or_default();
        if *count >= most {
            if *count == 0 {
                counts.remove(&key);
            }
            return false;
        }
        *count += 1;
        true
    }

    fn leave(&self, key: u128) {
        let mut counts = self.lock(key);
        if let Some(count) = counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&key);
            }
        }
    }

    fn lock(&self, key: u128) -> MutexGuard<'_, HashMap<u128, usize>> {
        // A panic between two lines of counting can't leave a count half changed.
        self.0[shard(key)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that isn't over yet.
#[derive(Debug)]
pub struct Presence(Arc<Census>);

impl Drop for Presence {
    fn drop(&mut self) {
        if self.0.present.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.left.notify_waiters();
        }
    }
}

/// A connection's place.
#[derive(Debug)]
pub struct Seat {
    presence: Presence,
    source: Option<Source>,
    gauge: IntGauge,
}

impl Seat {
    /// Whether the connection, if it ends now, is cut off.
    pub fn is_cut_off(&self) -> bool {
        self.presence.0.cut.load(Ordering::Relaxed)
    }

    /// Counts the connection for its source and network, unless one of them has too many.
    pub fn belongs_to(&mut self, address: IpAddr, room: Room) -> Result<(), Turned> {
        let source = Source::of(address, room.v6_prefix);
        let census = &self.presence.0;
        if !census.sources.enter(source.key, room.per_source) {
            return Err(Turned::SourceFull);
        }
        if !census.networks.enter(source.network, room.per_network) {
            census.sources.leave(source.key);
            return Err(Turned::NetworkFull);
        }
        self.source = Some(source);
        Ok(())
    }

    /// Counts a handshake for the connection's source. `None` before [`Seat::belongs_to`].
    pub fn shakes_hands(&self, room: Room) -> Option<Ticket> {
        self.source.map(|source| self.presence.0.lobby.enter(source, room.lobby))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let census = &self.presence.0;
        if let Some(source) = self.source {
            census.sources.leave(source.key);
            census.networks.leave(source.network);
        }
        census.connections.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        connections: 3,
        per_source: 2,
        per_network: 2,
        lobby: LobbyRoom { total: 1, per_source: 1, per_network: 1 },
        v6_prefix: 64,
    };

    fn census() -> (Arc<Census>, IntGauge) {
        (Arc::new(Census::default()), IntGauge::new("open", "open").unwrap())
    }

    #[test]
    fn a_full_house_turns_people_away_until_somebody_leaves() {
        let (census, gauge) = census();
        let seats: Vec<_> = (0..3).map(|_| census.seat(ROOM, &gauge).unwrap()).collect();

        let fourth = census.seat(ROOM, &gauge).map(drop);
        drop(seats);
        let after = census.seat(ROOM, &gauge);

        assert_eq!(fourth, Err(Turned::Full));
        assert!(after.is_ok());
        assert_eq!((census.connections(), gauge.get()), (1, 1));
    }

    #[test]
    fn an_ipv6_neighbourhood_counts_as_one_source_and_is_forgotten_when_it_leaves() {
        let (census, gauge) = census();
        let mut seats: Vec<_> = (0..3).map(|_| census.seat(ROOM, &gauge).unwrap()).collect();

        let first = seats[0].belongs_to("2001:db8::1".parse().unwrap(), ROOM);
        let second = seats[1].belongs_to("2001:db8::2:1".parse().unwrap(), ROOM);
        let third = seats[2].belongs_to("2001:db8::3".parse().unwrap(), ROOM);
        let other = seats[2].belongs_to("2001:db8:1:1::3".parse().unwrap(), ROOM);
        drop(seats);

        assert_eq!((first, second, third, other), (Ok(()), Ok(()), Err(Turned::SourceFull), Ok(())));
        for counts in [&census.sources, &census.networks] {
            assert!(counts.0.iter().all(|shard| shard.lock().unwrap().is_empty()));
        }
    }

    #[test]
    fn a_network_that_is_full_turns_its_sources_away_and_counts_them_nowhere() {
        let (census, gauge) = census();
        let mut seats: Vec<_> = (0..3).map(|_| census.seat(ROOM, &gauge).unwrap()).collect();

        let first = seats[0].belongs_to("192.0.2.1".parse().unwrap(), ROOM);
        let second = seats[1].belongs_to("192.0.2.2".parse().unwrap(), ROOM);
        let third = seats[2].belongs_to("192.0.2.3".parse().unwrap(), ROOM);
        let elsewhere = seats[2].belongs_to("192.0.3.3".parse().unwrap(), ROOM);
        drop(seats);

        assert_eq!((first, second, third, elsewhere), (Ok(()), Ok(()), Err(Turned::NetworkFull), Ok(())));
        for counts in [&census.sources, &census.networks] {
            assert!(counts.0.iter().all(|shard| shard.lock().unwrap().is_empty()));
        }
    }

    #[tokio::test]
    async fn waiting_for_the_last_one_ends_when_the_last_one_leaves() {
        let (census, gauge) = census();
        let seat = census.seat(ROOM, &gauge).unwrap();
        let waiting = tokio::spawn({
            let census = Arc::clone(&census);
            async move { census.wait_until_empty().await }
        });
        tokio::task::yield_now().await;

        let before = waiting.is_finished();
        drop(seat);

        waiting.await.unwrap();
        assert!(!before);
    }
}
