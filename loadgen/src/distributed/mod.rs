//! One load from several machines: workers send, a coordinator tells them when and puts together what they find.
//!
//! # Invariants
//!
//! - Workers together send what one would: the schedule is dealt among them (`schedule::Deal`), and so are feeders' rows.
//! - Histograms are added bucket for bucket, second by second; a worker that is lost takes with it what it hadn't told yet,
//!   and the outcome says that it was lost.
//! - Who hasn't the key learns nothing and starts nothing.

mod channel;
pub mod coordinator;
mod key;
mod wire;
pub mod worker;

pub use key::Key;
