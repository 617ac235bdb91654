//! Session tickets: what a client brings back to go on with an earlier session, sealed by keys that rotate.
//!
//! The keys of a period are made from a seed, one for each kind of session. Without a secret file the seed is drawn by
//! chance and forgotten two periods later. With one it is made from the secret and the period's number, so that all
//! gateways with the same file make the same keys, and go on making them after a restart, without talking.
//!
//! # Invariants
//!
//! - A ticket is opened only by a key of its own kind: sessions of clients that showed a certificate and of
//!   those that didn't, or that other authorities vouched for, never mix.
//! - A ticket lives at least one period and at most two (with a secret file three, because clocks differ).
//!
//! # Not here
//!
//! What is in a ticket is rustls's: among others the server name, under which alone it is resumed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

use super::TlsProblem;
use super::load::{problem, read};

/// Seconds for which a key seals tickets; it opens them for one more period. A stolen key opens what was sent under
/// it (TLS 1.2 only: TLS 1.3 adds fresh keys), so it shouldn't live long.
const PERIOD: u64 = 6 * 3_600;

/// Bytes of a period's number in front of a ticket.
const PERIOD_LEN: usize = 4;

type Seed = [u8; 32];

/// What gateways share to open each other's tickets.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketSecret(Seed);

impl TicketSecret {
    /// Fewest bytes of a secret: more than anybody can guess.
    pub const MIN: usize = 32;

    /// Reads a secret from a file.
    ///
    /// # Errors
    ///
    /// It can't be read, or is too short.
    pub fn load(file: &Path) -> Result<Self, TlsProblem> {
        let bytes = read(file)?;
        Self::new(&bytes).ok_or_else(|| {
            let what = format!("it is {} bytes long, and so could be guessed", bytes.len());
            problem(file, what, "make one with `openssl rand -out FILE 48`")
        })
    }

    /// The secret that `bytes` are; `None` if they are too few.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= Self::MIN).then(|| Self(derive(b"tidegate ticket secret 1", bytes, &[])))
    }
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(…)")
    }
}

/// Where the keys of all kinds and periods come from.
#[derive(Default)]
pub struct TicketKeys {
    secret: Option<TicketSecret>,
    /// Seeds drawn by chance: the present period's and the one before.
    drawn: Mutex<BTreeMap<u32, Seed>>,
}

impl TicketKeys {
    /// Keys made from `secret`, or from nothing but chance.
    pub fn new(secret: Option<TicketSecret>) -> Self {
        Self { secret, drawn: Mutex::default() }
    }

    /// What they are made from.
    pub fn secret(&self) -> Option<&TicketSecret> {
        self.secret.as_ref()
    }

    /// The key for sessions of `kind` sealed in `period`, seen in period `now`; `None` if that is too long ago, or to
    /// come.
    fn key(&self, kind: &[u8; 32], period: u32, now: u32) -> Option<LessSafeKey> {
        let seed = match &self.secret {
            Some(secret) if period.abs_diff(now) <= 1 => derive(b"period", &secret.0, &period.to_be_bytes()),
            Some(_) => return None,
            None => self.draw(period, now)?,
        };
        UnboundKey::new(&AES_256_GCM_SIV, &derive(b"kind", &seed, kind)).ok().map(LessSafeKey::new)
    }

    fn draw(&self, period: u32, now: u32) -> Option<Seed> {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        drawn.retain(|period, _| now.saturating_sub(*period) <= 1);
        if let Some(seed) = drawn.get(&period) {
            return Some(*seed);
        }
        if period != now {
            return None;
        }
        let mut seed = Seed::default();
        rand::fill(&mut seed).ok()?;
        drawn.insert(period, seed);
        Some(seed)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys(…)")
    }
}

/// HKDF (RFC 5869) with SHA-256: a key for one purpose from another key.
fn derive(purpose: &[u8], from: &[u8], about: &[u8]) -> Seed {
    let mut key = Seed::default();
    Salt::new(HKDF_SHA256, purpose)
        .extract(from)
        .expand(&[about], HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key))
        .expect("invariant: 32 bytes are what SHA-256 gives");
    key
}

/// Seals and opens the tickets of one kind of session.
pub struct Ticketer {
    keys: Arc<TicketKeys>,
    kind: [u8; 32],
    /// Keys by period, as used lately, so that cores share a lock only where a period begins.
    known: ArcSwap<Vec<(u32, Arc<LessSafeKey>)>>,
    /// Seconds since 1970.
    clock: fn() -> u64,
}

impl Ticketer {
    /// For sessions of `kind`.
    pub fn new(keys: Arc<TicketKeys>, kind: [u8; 32]) -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { keys, kind, known: ArcSwap::default(), clock }
    }

    /// The period that it is now.
    fn now(&self) -> u32 {
        u32::try_from((self.clock)() / PERIOD).unwrap_or(u32::MAX)
    }

    fn key(&self, period: u32, now: u32) -> Option<Arc<LessSafeKey>> {
        if period.abs_diff(now) > 1 {
            return None;
        }
        let lately = |known: u32| known.abs_diff(now) <= 1;
        let known = self.known.load();
        if known.iter().all(|(known, _)| lately(*known))
            && let Some((_, key)) = known.iter().find(|(known, _)| *known == period)
        {
            return Some(Arc::clone(key));
        }
        let key = Arc::new(self.keys.key(&self.kind, period, now)?);
        self.known.rcu(|known| {
            let others = known.iter().filter(|(known, _)| lately(*known) && *known != period).cloned();
            others.chain([(period, Arc::clone(&key))]).collect::<Vec<_>>()
        });
        Some(key)
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketer(…)")
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        PERIOD as u32
    }

    /// Period, nonce, sealed text and tag.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let now = self.now();
        let key = self.key(now, now)?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let (period, bound) = (now.to_be_bytes(), Aad::from(now.to_be_bytes()));
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound, &mut sealed).ok()?;
        Some([&period[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (period, rest) = ticket.split_first_chunk::<PERIOD_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = self.key(u32::from_be_bytes(*period), self.now())?;
        let mut plain = sealed.to_vec();
        let length =
            key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(*period), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    thread_local! {
        /// Seconds on each test's own clock.
        static NOW: AtomicU64 = const { AtomicU64::new(0) };
    }

    fn at_period(n: u64) {
        NOW.with(|now| now.store((n * 2 + 1_000_000) * PERIOD / 2, Relaxed));
    }

    fn ticketer(keys: &Arc<TicketKeys>, kind: u8) -> Ticketer {
        Ticketer { clock: || NOW.with(|now| now.load(Relaxed)), ..Ticketer::new(Arc::clone(keys), [kind; 32]) }
    }

    fn shared(secret: &[u8]) -> Arc<TicketKeys> {
        Arc::new(TicketKeys::new(Some(TicketSecret::new(secret).unwrap())))
    }

    #[test]
    fn a_ticket_is_opened_in_its_period_and_the_next_and_then_no_more() {
        let tickets = ticketer(&Arc::default(), 0);
        at_period(5);
        let ticket = tickets.encrypt(b"session").unwrap();

        let opened = [5, 6, 7].map(|period| {
            at_period(period);
            tickets.decrypt(&ticket).is_some()
        });

        assert_eq!(opened, [true, true, false]);
        assert!(!ticket.windows(7).any(|part| part == b"session"));
    }

    #[test]
    fn sessions_of_another_kind_are_not_opened() {
        at_period(5);
        let keys = Arc::default();
        let ticket = ticketer(&keys, 1).encrypt(b"session").unwrap();

        assert_eq!(ticketer(&keys, 2).decrypt(&ticket), None);
        assert_eq!(ticketer(&keys, 1).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
    }

    #[test]
    fn gateways_with_the_same_secret_open_each_others_tickets_also_with_clocks_that_differ() {
        let (one, two, other) = (shared(&[1; 32]), shared(&[1; 32]), shared(&[2; 32]));
        at_period(6);
        let ticket = ticketer(&one, 0).encrypt(b"session").unwrap();

        let opened = [4, 5, 6, 7, 8].map(|period| {
            at_period(period);
            ticketer(&two, 0).decrypt(&ticket).is_some()
        });
        at_period(6);

        assert_eq!(opened, [false, true, true, true, false]);
        assert_eq!(ticketer(&other, 0).decrypt(&ticket), None);
        assert_eq!(ticketer(&Arc::default(), 0).decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_that_was_touched_anywhere_is_not_opened() {
        at_period(5);
        let tickets = ticketer(&Arc::default(), 0);
        let ticket = tickets.encrypt(b"session").unwrap();

        for at in 0..ticket.len() {
            let mut touched = ticket.clone();
            touched[at] ^= 1;
            assert_eq!(tickets.decrypt(&touched), None, "byte {at}");
            assert_eq!(tickets.decrypt(&ticket[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn a_secret_that_could_be_guessed_is_refused() {
        assert_eq!(TicketSecret::new(&[7; TicketSecret::MIN - 1]), None);
    }
}
