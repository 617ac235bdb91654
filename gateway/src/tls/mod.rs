//! Certificates by server name, swapped without a pause.
//!
//! A listener has one [`Front`]: it looks at the ClientHello and chooses the settings that the handshake goes on
//! with. It never changes; a reload makes another one. Only a certificate in its [`Slot`] may be exchanged.
//!
//! # Invariants
//!
//! - Every key in a table matches its certificate.
//! - A table is never empty: a client without a (known) name gets the first certificate.
//!
//! # Not here
//!
//! TLS towards endpoints is `carry`'s.

mod clients;
mod config;
mod front;
mod identity;
mod ja4;
mod load;
pub mod ocsp;
mod placeholder;
mod table;
mod tickets;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

pub use clients::{ClientPolicies, PolicyId};
pub(crate) use config::provider;
pub use config::{TlsShape, TlsShared};
pub use front::{Choice, Front};
pub use identity::ClientIdentity;
pub use ja4::Ja4;
pub(crate) use load::certify_pem;
pub use placeholder::{Slots, placeholder, self_signed};
pub use table::{CertTable, FileFacts, Slot};
pub use tickets::TicketSecret;

/// What the files of all listeners hold.
#[derive(Debug, Default)]
pub struct TlsFiles {
    /// Certificates by index of the listener; `Some` where it has TLS.
    pub certificates: Vec<Option<CertTable>>,
    /// Whom listeners ask for a certificate, by name of the listener; an entry for each that has TLS.
    pub clients: HashMap<String, Arc<ClientPolicies>>,
    /// What ticket keys are made from.
    pub ticket_secret: Option<TicketSecret>,
}

/// Something wrong with a certificate or key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsProblem {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it, in one lower-case sentence without a full stop.
    pub what: String,
    /// What to try.
    pub help: String,
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.file.display(), self.what, self.help)
    }
}

#[cfg(test)]
mod tests;
