//! The gate for dyed traffic: the lowest priority of all, and invisible to what the gate learns of live traffic.
//!
//! # Invariants
//!
//! - Dyed traffic is kept out in every attack, while a surge finds no room, and from a quarter of a given capacity.
//! - It is in no number that live traffic is judged by: it can't begin an attack, nor make anybody's address known.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_model::time::Timestamp;

use super::{Gate, Seat, share};
use crate::guard::known::SourceId;
use crate::record::DyedShed;

/// What live and dyed requests may have together of a capacity that the operator gave, in percent, for another dyed one
/// to be let in. The rest is for live ones, which are let in past it.
const OF_CAPACITY: u32 = 75;

impl Gate {
    /// Asks for a place for a dyed request.
    ///
    /// # Errors
    ///
    /// Live traffic needs it.
    pub fn enter_dyed(self: &Arc<Self>, source: SourceId, now: Timestamp) -> Result<Seat, DyedShed> {
        if self.is_off.load(Relaxed) {
            return Ok(self.seat(source, false));
        }
        self.look(now); // There may be no live request any more that would.
        if self.is_attack() {
            return Err(DyedShed::Attack);
        }
        let told = &self.told;
        let in_flight = self.hot.in_flight.load(Relaxed).saturating_add(self.hot.dyed.load(Relaxed));
        let full = told.is_fixed.load(Relaxed) && in_flight >= share(told.limit.load(Relaxed), OF_CAPACITY).max(1);
        if full || told.is_suspicious.load(Relaxed) {
            return Err(DyedShed::Saturated);
        }
        self.hot.dyed.fetch_add(1, Relaxed);
        let mut seat = self.seat(source, true);
        seat.dyed = true;
        Ok(seat)
    }
}
