//! The flows that a thread has under way: each in a slot, with the request that is open, and with a deadline that costs
//! nothing to move.
//!
//! A deadline moves with each request and nearly never passes. So a slot keeps one entry in the heap, at or before its
//! deadline; when that comes up, it is put back at the deadline as it stands by then.
//!
//! # Invariants
//!
//! - A slot with a deadline has an entry in the heap at or before it; `armed` is the earliest, and the others mean nothing.
//! - Slots are taken last in, first out, and never more than there may be flows.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::task::Waker;

use crate::clock::NEVER;
use crate::schedule::Arrival;

/// The flows of one thread. Only ever borrowed for the length of a call.
#[derive(Debug)]
pub struct Slots(RefCell<Inner>);

#[derive(Debug, Default)]
struct Inner {
    slots: Vec<Slot>,
    free: Vec<usize>,
    heap: BinaryHeap<Reverse<(u64, usize)>>,
}

/// A flow.
#[derive(Debug)]
struct Slot {
    waker: Option<Waker>,
    arrival: Option<Arrival>,
    deadline: u64,
    armed: u64,
    expired: bool,
    open: Option<Open>,
    /// Whether it is told to look for a connection again.
    called: bool,
}

/// A request that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The step's index.
    pub step: u16,
    /// When it should have been sent; nanoseconds of the monotonic clock.
    pub intended: u64,
    /// When it was; or when its connection was begun.
    pub sent: u64,
}

impl Slots {
    /// None yet.
    pub fn new() -> Self {
        Self(RefCell::default())
    }

    /// Flows under way.
    pub fn busy(&self) -> usize {
        let inner = self.0.borrow();
        inner.slots.len() - inner.free.len()
    }

    /// A slot that waits, if there is one.
    pub fn free(&self) -> Option<usize> {
        self.0.borrow_mut().free.pop()
    }

    /// A new slot, busy.
    pub fn add(&self) -> usize {
        let mut inner = self.0.borrow_mut();
        inner.slots.push(Slot {
            waker: None,
            arrival: None,
            deadline: NEVER,
            armed: NEVER,
            expired: false,
            open: None,
            called: false,
        });
        inner.slots.len() - 1
    }

    /// Gives a slot something to do.
    pub fn begin(&self, slot: usize, arrival: Arrival) {
        let mut inner = self.0.borrow_mut();
        let slot = &mut inner.slots[slot];
        slot.arrival = Some(arrival);
        if let Some(waker) = &slot.waker {
            waker.wake_by_ref();
        }
    }

    /// What it was given to do.
    pub fn begun(&self, slot: usize) -> Option<Arrival> {
        self.0.borrow_mut().slots[slot].arrival.take()
    }

    /// It is done, and waits.
    pub fn release(&self, slot: usize) {
        self.0.borrow_mut().free.push(slot);
    }

    /// How its task is woken.
    pub fn wakes(&self, slot: usize, waker: &Waker) {
        self.0.borrow_mut().slots[slot].waker = Some(waker.clone());
    }

    /// Sets its deadline. Returns it where the alarm may have to ring earlier than it is set for.
    pub fn until(&self, slot: usize, deadline: u64) -> Option<u64> {
        let mut inner = self.0.borrow_mut();
        let it = &mut inner.slots[slot];
        it.deadline = deadline;
        it.expired = false;
        if deadline >= it.armed {
            return None;
        }
        it.armed = deadline;
        inner.heap.push(Reverse((deadline, slot)));
        Some(deadline)
    }

    /// Whether its deadline has passed.
    pub fn is_expired(&self, slot: usize) -> bool {
        self.0.borrow().slots[slot].expired
    }

    /// When the next entry comes up.
    pub fn next(&self) -> u64 {
        self.0.borrow().heap.peek().map_or(NEVER, |Reverse((at, _))| *at)
    }

    /// Wakes those whose deadline has passed.
    pub fn expire(&self, now: u64) {
        let mut inner = self.0.borrow_mut();
        while let Some(&Reverse((at, index))) = inner.heap.peek()
            && at <= now
        {
            inner.heap.pop();
            let slot = &mut inner.slots[index];
            if slot.armed != at {
                continue;
            }
            slot.armed = NEVER;
            if slot.deadline <= now {
                slot.deadline = NEVER;
                slot.expired = true;
                if let Some(waker) = &slot.waker {
                    waker.wake_by_ref();
                }
            } else if slot.deadline != NEVER {
                slot.armed = slot.deadline;
                let entry = Reverse((slot.deadline, index));
                inner.heap.push(entry);
            }
        }
    }

    /// Tells a slot that waits for a connection to look again.
    pub fn call(&self, slot: usize) {
        let mut inner = self.0.borrow_mut();
        let slot = &mut inner.slots[slot];
        slot.called = true;
        if let Some(waker) = &slot.waker {
            waker.wake_by_ref();
        }
    }

    /// Whether it was told to.
    pub fn called(&self, slot: usize) -> bool {
        std::mem::take(&mut self.0.borrow_mut().slots[slot].called)
    }

    /// Notes the request that it has open, or that there is none.
    pub fn opens(&self, slot: usize, open: Option<Open>) {
        self.0.borrow_mut().slots[slot].open = open;
    }

    /// All requests that are open.
    pub fn open(&self) -> Vec<Open> {
        self.0.borrow().slots.iter().filter_map(|slot| slot.open).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_was_moved_on_passes_once_and_at_its_last_place() {
        let slots = Slots::new();
        let slot = slots.add();
        assert_eq!(slots.until(slot, 100), Some(100));
        assert_eq!(slots.until(slot, 250), None);

        slots.expire(100);
        assert!(!slots.is_expired(slot));
        assert_eq!(slots.next(), 250);

        slots.expire(250);
        assert!(slots.is_expired(slot));
        assert_eq!(slots.next(), NEVER);
    }

    #[test]
    fn a_deadline_that_was_moved_up_passes_at_its_new_place() {
        let slots = Slots::new();
        let slot = slots.add();
        slots.until(slot, 1_000);

        assert_eq!(slots.until(slot, 10), Some(10));
        slots.expire(10);

        assert!(slots.is_expired(slot));
    }

    #[test]
    fn a_deadline_that_was_taken_back_never_passes() {
        let slots = Slots::new();
        let slot = slots.add();
        slots.until(slot, 10);
        slots.until(slot, NEVER);

        slots.expire(1_000);

        assert!(!slots.is_expired(slot));
        assert_eq!(slots.next(), NEVER);
    }
}
