//! Certificates that the gateway orders by itself.

use std::path::PathBuf;
use std::time::Duration;

/// How certificates are ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// URL of the authority's directory.
    pub directory: String,
    /// `mailto:` URLs; may be empty.
    pub contact: Vec<String>,
    /// Folder of keys, certificates and pending challenges.
    pub store: PathBuf,
    /// PEM file of the authorities that the directory's own certificate is verified against; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// How names are shown to be ours, in order of preference; at least one, each once.
    pub challenges: Vec<AcmeChallengeKind>,
    /// How long before its end a certificate is renewed; `None`: when a third of its life is left.
    pub renew_before: Option<Duration>,
}

/// How an authority is shown that a name is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AcmeChallengeKind {
    /// A file under `/.well-known/acme-challenge/` on port 80 (RFC 8555 §8.3).
    Http01,
    /// A certificate shown to who asks for the protocol `acme-tls/1` on port 443 (RFC 8737).
    TlsAlpn01,
}

/// The names of one certificate that is ordered.
///
/// Invariant: at least one and at most 100, in lower case, each once, in the order they were written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AcmeNames(pub Vec<String>);
