//! Shadow copies of live requests: bounded, discarded or compared, never waited for.

pub mod budget;
pub mod json;
