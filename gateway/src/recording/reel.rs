//! Takes down one request while it is carried.
//!
//! # Invariants
//!
//! - A byte of the body is taken once, however often retries pass it by.
//! - A request whose body broke off isn't recorded: half of it is no request.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderMap, Method, header};
use rand::Rng;
use smallvec::SmallVec;
use tidegate_model::time::Timestamp;

use super::{Recorder, Session, WHOLE};
use crate::clock;
use crate::decide::Head;
use crate::shadow::budget::Held;

/// What a request is charged besides its texts.
const OVERHEAD: usize = 1 << 10;

/// A request on its way. Dropped, it goes to whoever records it.
pub struct Reel {
    sessions: SmallVec<[Arc<Session>; 2]>,
    taken: Option<Taken>,
    /// Bytes of the body that have passed by.
    seen: u64,
    /// Bytes that the client has announced.
    announced: Option<u64>,
    /// Bytes of the body that are kept at most.
    cap: u64,
}

/// A request that was taken down.
pub(super) struct Taken {
    pub at: Timestamp,
    pub took: std::time::Duration,
    pub status: u16,
    pub https: bool,
    pub authority: Box<str>,
    pub method: Method,
    pub target: Box<str>,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// Bytes of a body that was longer than the cap; 0: it is whole.
    pub cut: u64,
    held: Held,
}

impl Reel {
    /// Begins to take a request of `route` down that came at `now`, where somebody records it. `authority` is the host as
    /// the client wrote it.
    #[inline]
    pub fn open(
        recorder: &Recorder,
        route: &str,
        head: &Head<'_>,
        https: bool,
        now: Timestamp,
        dice: &mut impl Rng,
    ) -> Option<Box<Self>> {
        if recorder.is_on() { Self::open_some(recorder, route, head, https, now, dice) } else { None }
    }

    #[cold]
    fn open_some(
        recorder: &Recorder,
        route: &str,
        head: &Head<'_>,
        https: bool,
        now: Timestamp,
        dice: &mut impl Rng,
    ) -> Option<Box<Self>> {
        if head.dyed.is_some() || head.method == Method::CONNECT || head.headers.contains_key(header::UPGRADE) {
            return None; // A load test is no live traffic, and a conversation no request.
        }
        let all = recorder.sessions.load();
        let wants = |session: &&Arc<Session>| {
            session.wish.route.as_deref().is_none_or(|wanted| wanted == route)
                && (session.wish.sample >= WHOLE || dice.random_range(0..WHOLE) < session.wish.sample)
        };
        let sessions: SmallVec<[Arc<Session>; 2]> = all.iter().filter(wants).map(Arc::clone).collect();
        let cap = sessions.iter().map(|session| session.wish.body_cap).max()?;
        let lines: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let mut held = recorder.budget.open();
        if !held.grow((OVERHEAD + lines + head.path.len() + head.query.map_or(0, str::len)) as u64) {
            lose(&sessions);
            return None;
        }
        let target = match head.query {
            Some(query) => format!("{}?{query}", head.path),
            None => head.path.to_owned(),
        };
        let written = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let taken = Taken {
            at: now,
            took: std::time::Duration::ZERO,
            status: 0,
            https,
            authority: written.unwrap_or(head.host).into(),
            method: head.method.clone(),
            target: target.into(),
            headers: head.headers.clone(),
            body: Vec::new(),
            cut: 0,
            held,
        };
        Some(Box::new(Self { sessions, taken: Some(taken), seen: 0, announced: head.content_length, cap }))
    }

    /// A piece of the body passes by, the first byte of which is the `at`th of it. What has passed before is skipped.
    pub fn chunk(&mut self, at: u64, chunk: &[u8]) {
        let Some(taken) = &mut self.taken else { return };
        let Some(fresh) = usize::try_from(self.seen.saturating_sub(at)).ok().and_then(|known| chunk.get(known..))
        else {
            return;
        };
        self.seen += fresh.len() as u64;
        if self.seen > self.cap {
            taken.body = Vec::new();
            return;
        }
        if !taken.held.grow(fresh.len() as u64) {
            self.taken = None;
            return lose(&self.sessions);
        }
        taken.body.extend_from_slice(fresh);
    }

    /// The status that the client gets.
    pub fn answered(&mut self, status: u16) {
        if let Some(taken) = &mut self.taken {
            taken.status = status;
        }
    }
}

impl Drop for Reel {
    fn drop(&mut self) {
        let Some(mut taken) = self.taken.take() else { return };
        if self.announced.is_some_and(|announced| announced != self.seen) {
            return;
        }
        taken.took = clock::now().since(taken.at);
        taken.cut = if self.seen > self.cap { self.seen } else { 0 };
        let taken = Arc::new(taken);
        for session in &self.sessions {
            if session.queue.try_send(Arc::clone(&taken)).is_err() && !session.queue.is_closed() {
                session.lost.fetch_add(1, Relaxed);
            }
        }
    }
}

fn lose(sessions: &[Arc<Session>]) {
    for session in sessions {
        session.lost.fetch_add(1, Relaxed);
    }
}
