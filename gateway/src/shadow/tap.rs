//! Listens in on one main request and its answer, on the main path.
//!
//! The carrier tells the tap what passes by; the tap never waits, and allocates only the copy's head and
//! lists of reference-counted chunks, all reserved in the byte budget first. A request without copies has no tap.
//!
//! ```text
//! open ─▶ request ─▶ chunk* ─▶ end ─▶ main_answer_head ─▶ main_answer_chunk* ─▶ main_answer_end
//!            ▲                                │
//!            └─────── restart_attempt ◀───────┘   (any number of times)
//! ```
//!
//! # Invariants
//!
//! - A byte of the body is captured once, however often retries pass it by.
//! - Copies leave at `end`, or never: a tap that is dropped before it sends nothing and counts that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, header, request};
use smallvec::SmallVec;
use tidegate_model::desired::OverCap;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shadows;
use super::answer::{Answer, Recorder};
use super::budget::Held;
use crate::decide::key::Network;
use crate::decide::{Head, Plan};
use crate::record::ShadowDrop;
use crate::snapshot::{ShadowEntry, Snapshot};

/// Listens in on one main request. See the module.
pub struct Tap {
    shadows: Arc<Shadows>,
    snapshot: Arc<Snapshot>,
    wanted: SmallVec<[Wanted; 2]>,
    capture: Capture,
    /// Bytes of the body that this attempt has passed by.
    offered: u64,
    /// Bytes of the body that any attempt has passed by.
    seen: u64,
    sent: bool,
    main: Option<Main>,
}

struct Wanted {
    entry: Arc<ShadowEntry>,
    count: u32,
    /// By the balance key of the shadow's own service.
    balance_hash: u64,
}

/// The main answer, for the copies that will be compared with it.
struct Main {
    answer: watch::Sender<Option<Arc<Answer>>>,
    recorder: Option<Recorder>,
    keep_json: bool,
}

/// What copies share: the request, as far as it was captured.
pub(super) struct Capture {
    pub head: Option<CopyHead>,
    pub chunks: Vec<Bytes>,
    /// Bytes in `chunks`.
    pub length: u64,
    held: Held,
}

/// The head of a copy, as the main endpoint gets it, without hop-by-hop headers.
pub(super) struct CopyHead {
    pub method: Method,
    pub uri: http::Uri,
    pub headers: HeaderMap,
    /// Whether the main request had a body, be it an empty one.
    pub has_body: bool,
}

/// One copy, ready to be sent.
pub(super) struct ShadowCopy {
    pub entry: Arc<ShadowEntry>,
    pub snapshot: Arc<Snapshot>,
    pub balance_hash: u64,
    pub capture: Arc<Capture>,
    /// Bytes of the captured body that are sent.
    pub length: u64,
    pub truncated: bool,
    /// When the copy is given up.
    pub deadline: Instant,
    pub main: Option<watch::Receiver<Option<Arc<Answer>>>>,
    pub slot: Slot,
}

/// A place among a shadow's `max_in_flight`; given back when dropped.
pub(super) struct Slot(Arc<AtomicUsize>);

impl Tap {
    /// Opens a tap for the copies that `plan` asks for; `None` if there are none to make.
    ///
    /// An upgrade is never copied: its bytes are a conversation, not a request.
    #[inline]
    pub fn open(shadows: &Arc<Shadows>, snapshot: &Arc<Snapshot>, plan: &Plan, head: &Head<'_>) -> Option<Box<Self>> {
        if plan.copies.is_empty() { None } else { Self::open_some(shadows, snapshot, plan, head) }
    }

    fn open_some(shadows: &Arc<Shadows>, snapshot: &Arc<Snapshot>, plan: &Plan, head: &Head<'_>) -> Option<Box<Self>> {
        if head.method == Method::CONNECT || head.headers.contains_key(header::UPGRADE) {
            return None;
        }
        let entries = &snapshot.routes[plan.route].shadows;
        let network = Network::of(plan.client, snapshot.desired.client_ip.v6_prefix);
        let mut wanted = SmallVec::new();
        for &(index, count) in plan.copies.iter().filter(|(_, count)| *count > 0) {
            let entry = &entries[index];
            let declared = head.content_length.unwrap_or(0);
            if declared > entry.spec.max_body && entry.spec.over == OverCap::Skip {
                drop_copies(entry, count, ShadowDrop::Body);
            } else if entry.in_flight.load(Relaxed) >= entry.spec.max_in_flight {
                // Asked again in `end`; asking now spares capturing a body for nothing.
                drop_copies(entry, count, ShadowDrop::InFlight);
            } else {
                let balancer = &snapshot.version(entry.spec.to).balance;
                let balance_hash = balancer.hash(head, network, &mut rand::rng());
                wanted.push(Wanted { entry: Arc::clone(entry), count, balance_hash });
            }
        }
        if wanted.is_empty() {
            return None;
        }
        let compares = || wanted.iter().filter_map(|wanted: &Wanted| wanted.entry.spec.compare.as_ref());
        let main = compares().next().is_some().then(|| Main {
            answer: watch::Sender::new(None),
            recorder: None,
            keep_json: compares().any(|rules| rules.body && !rules.ignore.is_empty()),
        });
        let capture = Capture { head: None, chunks: Vec::new(), length: 0, held: shadows.bytes.open() };
        Some(Box::new(Self {
            shadows: Arc::clone(shadows),
            snapshot: Arc::clone(snapshot),
            wanted,
            capture,
            offered: 0,
            seen: 0,
            sent: false,
            main,
        }))
    }

    /// Takes the head as the main endpoint gets it, after rewrites and header edits. Attempts after the first may
    /// call it again; only the first counts.
    pub fn request(&mut self, head: &request::Parts) {
        if self.capture.head.is_some() || self.wanted.is_empty() {
            return;
        }
        let has_body =
            head.headers.contains_key(header::CONTENT_LENGTH) || head.headers.contains_key(header::TRANSFER_ENCODING);
        let mut headers = head.headers.clone();
        strip_hop_by_hop(&mut headers);
        let lines: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if !self.capture.held.grow(lines as u64 + super::COPY_OVERHEAD) {
            return self.give_up(ShadowDrop::Memory);
        }
        self.capture.head = Some(CopyHead { method: head.method.clone(), uri: head.uri.clone(), headers, has_body });
    }

    /// Another attempt begins: the body, or its beginning, will pass by again, and another answer will come.
    pub fn restart_attempt(&mut self) {
        self.offered = 0;
        if let Some(main) = &mut self.main {
            main.recorder = None;
        }
    }

    /// A piece of the request body passes by.
    pub fn chunk(&mut self, chunk: &Bytes) {
        let start = self.offered;
        self.offered += chunk.len() as u64;
        if self.sent || self.offered <= self.seen || self.wanted.is_empty() {
            return;
        }
        // Below `seen` are bytes that an earlier attempt has shown already.
        let known = usize::try_from(self.seen - start).expect("less than a chunk, as `offered` is beyond `seen`");
        self.seen = self.offered;
        self.drop_too_long();
        let longest = self.wanted.iter().map(|wanted| wanted.entry.spec.max_body).max().unwrap_or(0);
        let room = usize::try_from(longest.saturating_sub(self.capture.length)).unwrap_or(usize::MAX);
        let fresh = chunk.slice(known..known + room.min(chunk.len() - known));
        if fresh.is_empty() {
            return;
        }
        if !self.capture.held.grow(fresh.len() as u64 + super::CHUNK_OVERHEAD) {
            return self.give_up(ShadowDrop::Memory);
        }
        self.capture.length += fresh.len() as u64;
        self.capture.chunks.push(fresh);
    }

    /// The request body has ended: the copies leave. Later calls, by later attempts, do nothing.
    pub fn end(&mut self) {
        if self.sent || self.capture.head.is_none() {
            return;
        }
        self.sent = true;
        let empty = Capture { head: None, chunks: Vec::new(), length: 0, held: self.shadows.bytes.open() };
        let capture = Arc::new(std::mem::replace(&mut self.capture, empty));
        let now = Instant::now();
        for Wanted { entry, count, balance_hash } in self.wanted.drain(..) {
            let length = capture.length.min(entry.spec.max_body);
            for _ in 0..count {
                let Some(slot) = Slot::take(&entry) else {
                    entry.metrics.dropped(ShadowDrop::InFlight);
                    continue;
                };
                let copy = ShadowCopy {
                    entry: Arc::clone(&entry),
                    snapshot: Arc::clone(&self.snapshot),
                    balance_hash,
                    capture: Arc::clone(&capture),
                    length,
                    truncated: self.seen > entry.spec.max_body,
                    deadline: now + entry.spec.timeout,
                    main: entry.spec.compare.as_ref().and(self.main.as_ref()).map(|main| main.answer.subscribe()),
                    slot,
                };
                if self.shadows.queue.try_send(copy).is_err() {
                    entry.metrics.dropped(ShadowDrop::Queue);
                }
            }
        }
    }

    /// The head of the main answer, as the endpoint sent it, and the time since this attempt was sent.
    /// Informational heads (1xx) are passed over.
    pub fn main_answer_head(&mut self, status: u16, headers: &HeaderMap, first_byte: Duration) {
        let Some(main) = self.main.as_mut().filter(|_| status >= 200) else { return };
        main.recorder = Some(Recorder::new(status, headers, first_byte, main.keep_json, &self.shadows.bytes));
    }

    /// A piece of the main answer's body, as the endpoint sent it.
    pub fn main_answer_chunk(&mut self, chunk: &Bytes) {
        if let Some(recorder) = self.main.as_mut().and_then(|main| main.recorder.as_mut()) {
            recorder.chunk(chunk);
        }
    }

    /// The main answer is complete. If it never is, nothing is compared with it.
    pub fn main_answer_end(&mut self) {
        if let Some(main) = &mut self.main
            && let Some(recorder) = main.recorder.take()
        {
            main.answer.send_replace(Some(Arc::new(recorder.end())));
        }
    }

    /// Drops the copies whose cap the body has passed, where their policy is to skip them.
    fn drop_too_long(&mut self) {
        let seen = self.seen;
        self.wanted.retain(|wanted| {
            let skip = seen > wanted.entry.spec.max_body && wanted.entry.spec.over == OverCap::Skip;
            if skip {
                drop_copies(&wanted.entry, wanted.count, ShadowDrop::Body);
            }
            !skip
        });
        if self.wanted.is_empty() {
            self.forget();
        }
    }

    /// Drops all copies.
    fn give_up(&mut self, why: ShadowDrop) {
        for Wanted { entry, count, .. } in self.wanted.drain(..) {
            drop_copies(&entry, count, why);
        }
        self.forget();
    }

    /// Lets go of everything that is held, when no copy is left to be sent.
    fn forget(&mut self) {
        self.capture.chunks = Vec::new();
        self.capture.head = None;
        self.capture.held.clear();
        self.main = None;
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.give_up(ShadowDrop::Incomplete);
    }
}

impl Slot {
    fn take(entry: &ShadowEntry) -> Option<Self> {
        let slot = Self(Arc::clone(&entry.in_flight));
        // Dropping the slot takes back what was added.
        (slot.0.fetch_add(1, Relaxed) < entry.spec.max_in_flight).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn drop_copies(entry: &ShadowEntry, count: u32, why: ShadowDrop) {
    for _ in 0..count {
        entry.metrics.dropped(why);
    }
}

/// Removes what concerns one connection only (RFC 9110 §7.6.1), and `Expect`, because a copy's body is sent at once.
/// `TE: trailers` stays: gRPC needs it, and it is true of us.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: SmallVec<[String; 4]> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| name != "te")
        .collect();
    for name in named {
        headers.remove(name.as_str());
    }
    let keep_te =
        headers.get(header::TE).is_some_and(|te| te.as_bytes().trim_ascii().eq_ignore_ascii_case(b"trailers"));
    if !keep_te {
        headers.remove(header::TE);
    }
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "trailer", "upgrade"] {
        headers.remove(name);
    }
    headers.remove(header::EXPECT);
    headers.remove(header::CONTENT_LENGTH);
}
