//! The vocabulary that every part of Tidegate shares.
//!
//! ```text
//! Config  ──check──▶  Desired  ──compile──▶  Snapshot  ──publish──▶  requests
//! as written          valid, numbered        immutable, indexed
//! ```
//!
//! This crate owns the first arrow. It does no I/O, reads no clock, and knows
//! neither Pingora nor Tokio, so whatever it decides can be tested as a value.

pub mod changes;
pub mod check;
pub mod config;
pub mod desired;
pub mod diagnostic;
pub mod literal;
pub mod mark;
pub mod problems;
pub mod reference;
pub mod scenario;
pub mod split;
pub mod target;
pub mod time;
pub mod yaml;
