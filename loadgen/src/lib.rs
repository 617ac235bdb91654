//! Tidegate's load generator: schedule, engine, report.
//!
//! A [`Plan`](tidegate_model::scenario::Plan) goes in, an [`Outcome`] comes out. In between, one thread for each core
//! sends by an absolute schedule, shares nothing while it does, and gives what it measured once a second to the
//! collector, which merges and never averages.

pub mod capacity;
pub mod clock;
pub mod collect;
mod describe;
pub mod distributed;
pub mod engine;
pub mod estimate;
pub mod examine;
pub mod failure;
pub mod feeders;
pub mod fill;
pub mod import;
pub mod judge;
pub mod live;
pub mod mark;
pub mod outcome;
pub mod preview;
pub mod record;
pub mod report;
pub mod schedule;
pub mod total;

pub use collect::{Beat, Moment};
pub use engine::{Cause, Ender, Start, StartError, run};
pub use failure::Failure;
pub use outcome::Outcome;
