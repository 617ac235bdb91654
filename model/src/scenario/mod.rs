//! What a load test does: written by people (`written`), checked, and turned into a [`Plan`] that the engine runs.
//!
//! # Not here
//!
//! Sending anything, and time: `loadgen`. A [`Plan`] is plain data, and equal plans with equal seeds send equal requests.

pub mod check;
pub mod plan;
pub mod recording;
mod template;
pub mod word;
pub mod written;

pub use check::{BadFile, Checked, Table, check};
pub use plan::Plan;
