//! Shadow copies of live requests: bounded, discarded or compared, never waited for.
//!
//! ```text
//! main path:    Tap (captures, never waits) ──try_send──▶ queue
//! shadow thread:                                          queue ─▶ send ─▶ answer: discard, or compare and count
//! ```
//!
//! Copies have a thread, a runtime and connections of their own, at a low priority, so that any number
//! of them takes only what live traffic leaves over.
//!
//! # Invariants
//!
//! - The main request never waits for a copy: everything it does here is an atomic, a reference count
//!   or a `try_send`.
//! - Everything is bounded: copies in flight per shadow, bytes over all shadows, the queue, time per copy.
//!   What a bound refuses is dropped whole, and counted by reason.
//! - A copy is the request that the main endpoint got: same method, target, Host, headers and body bytes,
//!   plus its marks. It is sent at most once, however often the main request is retried.
//!
//! # Not here
//!
//! Which requests are copied, and how often, is decided in `decide`.

pub mod answer;
mod body;
pub mod budget;
mod connect;
pub mod json;
mod sampler;
mod send;
mod tap;

use std::io;
use std::sync::Arc;

use prometheus::{PullingGauge, Registry};
use tokio::sync::mpsc;

pub use tap::Tap;

use budget::ByteBudget;
use tap::ShadowCopy;

/// Copies waiting for the shadow thread. Beyond it a copy is dropped and counted.
const QUEUE: usize = 1_024;

/// What a copy is charged in the byte budget besides its headers and body: its own structures.
const COPY_OVERHEAD: u64 = 1 << 10;

/// What a chunk is charged besides its bytes: its handle and its allocation's bookkeeping.
const CHUNK_OVERHEAD: u64 = 64;

/// The gauge of held bytes: its name and help.
const HELD: (&str, &str) = ("tidegate_shadow_held_bytes", "Bytes that shadow copies hold right now.");

/// Added to the shadow thread's niceness: live traffic goes first when processors are short.
const NICENESS: i32 = 10;

/// The way to the shadow thread. It ends when this is dropped, and copies under way end with it.
pub struct Shadows {
    queue: mpsc::Sender<ShadowCopy>,
    bytes: Arc<ByteBudget>,
}

impl Shadows {
    /// Starts the shadow thread; copies may hold `bytes` bytes together, and `registry` tells how many they do.
    ///
    /// The thread inherits the processors of its caller: start it before pinning.
    ///
    /// # Errors
    ///
    /// The operating system gives no thread or no event queue, or `registry` has this gauge already.
    pub fn start(bytes: u64, registry: &Registry) -> io::Result<Arc<Self>> {
        let (shadows, queue) = Self::unstarted(bytes, QUEUE);
        let budget = Arc::clone(&shadows.bytes);
        let shown = Arc::clone(&budget);
        let gauge = PullingGauge::new(HELD.0, HELD.1, Box::new(move || shown.held() as f64));
        gauge.and_then(|gauge| registry.register(Box::new(gauge))).map_err(io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("shadow".into()).spawn(move || {
            // Without the permission it runs at the common priority, which is no worse than not asking.
            let _ = rustix::process::nice(NICENESS);
            runtime.block_on(send::run(queue, budget));
        })?;
        Ok(shadows)
    }

    /// Changes how many bytes copies may hold together.
    pub fn set_bytes(&self, bytes: u64) {
        self.bytes.set_limit(bytes);
    }

    /// Bytes that copies hold right now.
    pub fn bytes_held(&self) -> u64 {
        self.bytes.held()
    }

    fn unstarted(bytes: u64, queue: usize) -> (Arc<Self>, mpsc::Receiver<ShadowCopy>) {
        let (sender, receiver) = mpsc::channel(queue);
        (Arc::new(Self { queue: sender, bytes: ByteBudget::new(bytes) }), receiver)
    }
}

#[cfg(test)]
mod tests;
