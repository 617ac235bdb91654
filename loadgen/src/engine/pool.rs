//! The connections of one thread: kept ones, and how many more there may be.
//!
//! # Invariants
//!
//! - `open` counts every connection from before it is made until after it is closed, and never exceeds `most`.
//! - The last one that was put back is taken first, so that those which aren't needed grow old and are closed by the target.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, ReadBuf};

use super::io::Io;

/// The connections of one thread.
#[derive(Debug)]
pub struct Pool {
    /// By origin.
    kept: Vec<Vec<Io>>,
    open: u32,
    most: u32,
    /// Slots that wait for a connection, the longest first. As many as there are flows, at most.
    waiting: VecDeque<usize>,
}

/// What a flow that needs a connection gets.
#[derive(Debug)]
pub enum Got {
    /// A kept one.
    Kept(Io),
    /// Leave to make one.
    Leave,
    /// Nothing: all are in use.
    Nothing,
}

impl Pool {
    /// For so many origins, with so many connections at most.
    pub fn new(origins: usize, most: u32) -> Self {
        Self { kept: (0..origins).map(|_| Vec::new()).collect(), open: 0, most, waiting: VecDeque::new() }
    }

    /// A connection to an origin, or leave to make one. With leave, [`Pool::closed`] must be called once it is closed or
    /// could not be made.
    pub fn take(&mut self, origin: usize) -> Got {
        while let Some(io) = self.kept[origin].pop() {
            if let Some(io) = still_open(io) {
                return Got::Kept(io);
            }
            self.open -= 1;
        }
        self.leave()
    }

    /// Leave to make a new connection, whatever is kept.
    pub fn leave(&mut self) -> Got {
        if self.open >= self.most {
            // One that is kept for another origin makes room.
            if self.kept.iter_mut().find_map(Vec::pop).is_none() {
                return Got::Nothing;
            }
            self.open -= 1;
        }
        self.open += 1;
        Got::Leave
    }

    /// Keeps a connection. Returns who waits for one.
    pub fn put(&mut self, origin: usize, io: Io) -> Option<usize> {
        self.kept[origin].push(io);
        self.waiting.pop_front()
    }

    /// A connection is closed, or was not made. Returns who waits for room.
    pub fn closed(&mut self) -> Option<usize> {
        self.open -= 1;
        self.waiting.pop_front()
    }

    /// Lets a slot wait.
    pub fn wait(&mut self, slot: usize) {
        self.waiting.push_back(slot);
    }

    /// Waits no more.
    pub fn leave_line(&mut self, slot: usize) {
        self.waiting.retain(|&waiting| waiting != slot);
    }

    /// Connections that are open or being made.
    pub fn open(&self) -> u32 {
        self.open
    }
}

/// Gives back a kept connection unless the target has closed it, or said something that nobody asked for.
fn still_open(mut io: Io) -> Option<Io> {
    let mut byte = [0];
    let mut buf = ReadBuf::new(&mut byte);
    // What the runtime knows already costs no system call.
    let poll = Pin::new(&mut io).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf);
    matches!(poll, Poll::Pending).then_some(io)
}
