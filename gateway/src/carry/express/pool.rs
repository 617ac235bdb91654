//! Idle connections to endpoints, and buffers: one pool for each core, so that nobody waits for another core.
//!
//! # Invariants
//!
//! - At most [`IDLE`] connections wait, none longer than [`POOL_IDLE`] and a sweep.
//! - A connection that the endpoint has closed, or has written to, isn't given out once the kernel has said so.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tidegate_model::time::Timestamp;
use tokio::io::ReadBuf;

use super::wire::{Conn, Wire};
use crate::carry::peer::POOL_IDLE;
use crate::endpoint::Endpoint;

/// Connections that one core keeps idle, over all endpoints. Beyond it a connection is closed after its exchange.
const IDLE: usize = 2_048;

/// How often connections that have waited too long are looked for.
pub const SWEEP: Duration = Duration::from_secs(5);

/// Bytes of a buffer. Only a long head makes one grow.
const BUFFER: usize = 32 << 10;

/// Bytes of an answer's head. A longer one is a 502.
const MAX_HEAD: usize = 1 << 20;

/// Buffers that one core keeps for the next exchange. Beyond it they are given back to the system.
const BUFFERS: usize = 64;

/// See the module.
#[derive(Default)]
pub struct Pool {
    /// By the endpoint's place in memory, which its shelf holds on to.
    shelves: HashMap<usize, Shelf>,
    idle: usize,
    buffers: Vec<Buffer>,
}

struct Shelf {
    _endpoint: Arc<Endpoint>,
    /// The one that has waited longest comes first.
    conns: Vec<(Timestamp, Conn)>,
}

impl Pool {
    /// A connection to `endpoint` that may be used again.
    pub fn take(&mut self, endpoint: &Arc<Endpoint>, now: Timestamp) -> Option<Conn> {
        let shelf = self.shelves.get_mut(&place(endpoint))?;
        while let Some((since, conn)) = shelf.conns.pop() {
            self.idle -= 1;
            if now.since(since) < POOL_IDLE && conn.is_fresh() {
                return Some(conn);
            }
        }
        None
    }

    /// Keeps a connection for later, unless there are too many.
    pub fn put(&mut self, endpoint: &Arc<Endpoint>, mut conn: Conn, now: Timestamp) {
        if self.idle >= IDLE {
            return;
        }
        conn.rest();
        self.idle += 1;
        let shelf = self.shelves.entry(place(endpoint));
        let shelf = shelf.or_insert_with(|| Shelf { _endpoint: Arc::clone(endpoint), conns: Vec::new() });
        shelf.conns.push((now, conn));
    }

    /// Closes what has waited too long, and what the endpoint has closed.
    pub fn sweep(&mut self, now: Timestamp) {
        self.shelves.retain(|_, shelf| {
            let before = shelf.conns.len();
            shelf.conns.retain(|(since, conn)| now.since(*since) < POOL_IDLE && conn.is_fresh());
            self.idle -= before - shelf.conns.len();
            !shelf.conns.is_empty()
        });
    }

    /// An empty buffer.
    pub fn buffer(&mut self) -> Buffer {
        self.buffers.pop().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub fn give_back(&mut self, mut buffer: Buffer) {
        if self.buffers.len() < BUFFERS && buffer.bytes.len() == BUFFER {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

fn place(endpoint: &Arc<Endpoint>) -> usize {
    Arc::as_ptr(endpoint).addr()
}

/// Bytes that were read from an endpoint and not yet dealt with.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: vec![0; BUFFER].into(), start: 0, end: 0 }
    }
}

impl Buffer {
    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Makes room for more of a head where there is none. False when it is too long.
    pub fn make_room(&mut self) -> bool {
        if self.bytes().len() < self.bytes.len() {
            return true;
        }
        if self.bytes.len() >= MAX_HEAD {
            return false;
        }
        let mut more = vec![0; self.bytes.len() * 2];
        more[..self.end].copy_from_slice(&self.bytes);
        self.bytes = more.into();
        true
    }

    /// Removes the first `n` bytes.
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end, "only what is in it can be taken out");
        if self.start == self.end {
            self.clear();
        }
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Reads as much as fits; 0 at the end of the stream.
    pub fn poll_fill(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut buf = ReadBuf::new(&mut self.bytes[self.end..]);
        ready!(wire.poll_read(cx, &mut buf))?;
        let n = buf.filled().len();
        self.end += n;
        Poll::Ready(Ok(n))
    }
}
