//! OCSP stapling: shows with a certificate the word of its authority that it isn't revoked (RFC 6960, RFC 6066 §8).
//!
//! The response comes from a file, or else from the responder that the certificate names. It is asked again at half of
//! a response's life; the last good one is kept on disk, so that a restart staples at once. What a reload leaves
//! as it was keeps its response, and the pause after a failure.
//!
//! # Invariants
//!
//! - Only a response that is verified, says "good" and is in date is stapled; at its end it is taken away.
//! - No handshake waits for a responder, and no certificate is missing for want of a response.
//!
//! # Not here
//!
//! Whether clients' certificates are revoked is told by lists, in `clients`.

mod care;
mod keeper;
mod response;

pub use keeper::OcspKeeper;
pub use response::{Staple, Unusable, request, responder, verify};

use std::sync::Arc;

use super::Slot;

/// A place for a certificate that may get a response.
#[derive(Clone, Debug)]
pub struct Stapled {
    /// The place. What stands in it may be renewed at any time, where it was ordered.
    pub slot: Arc<Slot>,
    /// Its file or its names, for the log.
    pub label: String,
    /// Where its responses come from.
    pub from: Origin,
}

/// Where responses come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A file that was read; `None` where its response can't be stapled. A reload reads the next one.
    File(Option<Staple>),
    /// The responder that the certificate names, if it names one.
    Responder,
}
