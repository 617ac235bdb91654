//! The data plane: decides what happens to each request, and carries it there.
//!
//! Read `proxy` first (a request, top to bottom), then `decide`.
//!
//! ```text
//! accept → door → tls → head → decide: guard → route → split → balance = Plan
//!        → carry (retry, deadline, shadow copies) → record
//! ```

pub mod acme;
pub mod admin;
pub mod carry;
pub mod clock;
pub mod compile;
pub mod decide;
pub mod door;
pub mod endpoint;
pub mod exchange;
pub mod gateway;
pub mod guard;
pub mod health;
pub mod material;
pub mod proxy;
pub mod record;
pub mod recording;
pub mod resolve;
pub mod run;
pub mod shadow;
pub mod snapshot;
pub mod source;
pub mod tls;
pub mod upgrade;
