//! A new binary takes over from a running one, and no client notices.
//!
//! ```text
//! old                                            new
//!  │ starts it, with a channel as its standard input │
//!  │ ◀──────────────────────────────────────── hello │
//!  │ stops watching and keeping its configuration    │
//!  │ sockets ──────────────────────────────────────▶ │ reads the configuration, adopts the sockets,
//!  │ ◀───────────────────────────── accepted, ready  │ accepts
//!  │ stops accepting, drains, goes                   │ serves; its control socket replaces the old one's
//! ```
//!
//! # Invariants
//!
//! - The sockets that pass are the same open sockets, not others on the same port, so that no connection that
//!   waits to be accepted is lost, and at every moment somebody accepts.
//! - Until the new one has said *ready* the old one serves on as if nothing had been asked. Whatever
//!   the new one does instead (exits, hangs, refuses, is killed) changes nothing.
//! - If the old one is killed in the middle, the new one serves with what it has got.
//! - One of them writes to the state folder at a time: the lock passes with the sockets.
//!
//! # Not here
//!
//! How connections end is `door`'s. What a process that was replaced turns into is [`stand_in`]'s.

mod attempts;
pub mod channel;
pub mod control;
pub mod notify;
mod predecessor;
pub mod stand_in;
mod successor;

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use attempts::Upgrades;
pub use predecessor::{Predecessor, PredecessorError};
pub use successor::{Abort, Attempt, Program, Successor};

use crate::door::Passed;

/// What both sides must agree on. Raised when messages change so that older gateways can't read them.
const PROTOCOL: u32 = 1;

/// Gateways that drain at the same time, each replaced by the next. Beyond it an upgrade is refused: each takes as
/// much memory as a whole gateway.
pub const MAX_DRAINING: usize = 8;

/// How long the new one may take to become ready, unless it is said otherwise.
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of diagnostics that travel. The rest is only in the log.
const MAX_DIAGNOSTICS: usize = 32 << 10;

/// A socket that passes.
#[derive(Debug, Serialize, Deserialize)]
enum Label {
    /// A listener's, of which there are several.
    Listener {
        /// Its name.
        name: String,
        /// As configured; the port may be 0.
        bind: SocketAddr,
    },
    /// The admin pages'.
    Admin {
        /// As configured.
        bind: SocketAddr,
    },
}

/// What the new one says.
#[derive(Debug, Serialize, Deserialize)]
enum FromNew {
    /// It lives, and knows what this is about.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
        /// Of the binary.
        version: String,
    },
    /// The configuration is in order, and about to come into force.
    Accepted {
        /// Its number.
        generation: u64,
    },
    /// The configuration isn't in order. It exits next.
    Refused {
        /// Why, rendered.
        diagnostics: String,
    },
    /// It accepts connections.
    Ready {
        /// The generation in force.
        generation: u64,
    },
}

/// What the old one says.
#[derive(Debug, Serialize, Deserialize)]
enum FromOld {
    /// Some sockets; as many descriptors are beside it.
    Sockets(Vec<Label>),
    /// That was all. Beside it: the log (standard error), and a handle for each gateway that still drains.
    All,
}

/// The sockets of a gateway.
#[derive(Debug, Default)]
pub struct Sockets {
    /// The listeners'.
    pub listeners: Vec<Passed>,
    /// The admin pages': as configured, and the socket.
    pub admin: Option<(SocketAddr, std::net::TcpListener)>,
}

/// What came of one step of an upgrade: what `tidegate upgrade` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The new binary runs.
    Started {
        /// Its process.
        pid: u32,
    },
    /// It answered, so that it is a gateway.
    Answered {
        /// Of the binary.
        version: String,
    },
    /// It accepts the configuration, and has the sockets.
    Accepted {
        /// Its number.
        generation: u64,
    },
    /// It serves. From here on there is no way back.
    Ready {
        /// Its process.
        pid: u32,
        /// The generation in force.
        generation: u64,
    },
    /// The old one waits for its connections.
    Draining {
        /// Those that are left.
        connections: usize,
        /// Until they are cut off.
        seconds_left: u64,
    },
    /// The old one is done.
    Drained {
        /// Connections that were cut off at the deadline.
        cut: usize,
    },
    /// Nothing has changed, the old one serves on.
    Failed(Failed),
    /// This gateway takes no orders any more: it stops, or another has taken over.
    Leaving,
}

/// Why an upgrade came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// In a sentence.
    pub why: String,
    /// Whether it is the configuration that was refused.
    pub refused: bool,
    /// What the new one said, as far as it fits.
    pub said: String,
}

impl Failed {
    fn because(why: impl Into<String>) -> Self {
        Self { why: why.into(), refused: false, said: String::new() }
    }
}

/// Cuts `text` to at most `bytes`, between two characters.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}
